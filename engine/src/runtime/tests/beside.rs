//! Volumes of one node that step beside each other, with a machine in the node's place that says which steps may.

#![expect(clippy::result_large_err, reason = "events are given back as the machine gives them back")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;

use crossbeam_channel::{Receiver, bounded, unbounded};
use parking_lot::{Condvar, Mutex};

use super::super::core::Core;
use super::super::machine::{Machine, QueueUp};
use super::super::*;
use super::scripted::{LONG, VOLUME, answers, config, never, write};
use crate::backend::MemoryBackend;
use crate::block::{Payload, zeros};
use crate::guest::{Command, GuestError, GuestResult, PathState, Sectors, Sink};
use crate::ids::{Epoch, RequestId, VolumeId};
use crate::mirror::message::{Body, Control, Message};
use crate::node::config::VolumeConfig;
use crate::node::event::{Action, Event, Notice};
use crate::node::view::View;
use crate::time::Instant;

const OTHER: VolumeId = VolumeId(2);
const THIRD: VolumeId = VolumeId(3);
const VOLUMES: [VolumeId; 3] = [VOLUME, OTHER, THIRD];

/// Opens at the first event, and does as it is told with the others.
struct Fake<B, A> {
    beside: B,
    alone: Mutex<A>,
    actions: VecDeque<Action>,
    open: bool,
    handled: bool,
}

/// `beside` may queue its actions itself.
pub(super) fn fake<B, A>(beside: B, alone: A) -> Box<dyn Machine>
where
    B: Fn(Event, &mut Vec<Action>, QueueUp<'_>) -> Result<bool, Event> + Send + Sync + 'static,
    A: FnMut(Event, &mut VecDeque<Action>) + Send + 'static,
{
    Box::new(Fake { beside, alone: Mutex::new(alone), actions: VecDeque::new(), open: false, handled: false })
}

impl<B, A> Machine for Fake<B, A>
where
    B: Fn(Event, &mut Vec<Action>, QueueUp<'_>) -> Result<bool, Event> + Send + Sync,
    A: FnMut(Event, &mut VecDeque<Action>) + Send,
{
    fn handle(&mut self, _now: Instant, event: Event) {
        if !std::mem::replace(&mut self.open, true) {
            self.actions.push_back(Action::Notice(Notice::Opened));
        }
        (self.alone.get_mut())(event, &mut self.actions);
        self.handled = true;
    }
    fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
    fn handle_beside(
        &self,
        _now: Instant,
        event: Event,
        actions: &mut Vec<Action>,
        queue_up: QueueUp<'_>,
    ) -> Result<bool, Event> {
        let tick = (self.beside)(event, actions, queue_up)?;
        queue_up(actions);
        Ok(tick)
    }
    fn deadline(&mut self) -> Option<Instant> {
        assert!(std::mem::take(&mut self.handled), "of steps beside it knows with the next event only");
        None
    }
    fn view(&self, _now: Instant) -> View {
        panic!("not looked at")
    }
    fn path_states(&self, _now: Instant, _volume: VolumeId) -> [PathState; 2] {
        [PathState::Optimized; 2]
    }
    fn extent_sectors(&self) -> Option<u64> {
        None
    }
}

pub(super) fn builder() -> EngineBuilder {
    let mut config = config();
    let first = config.volumes[0].clone();
    config.volumes = VOLUMES.map(|id| VolumeConfig { id, ..first.clone() }).to_vec();
    Engine::builder(config).disk(Arc::new(MemoryBackend::new(1 << 20)))
}

fn done(id: RequestId) -> Action {
    Action::Complete { id, result: Ok(zeros(0)) }
}

pub(super) fn go(number: u64) -> Message {
    Message { body: Body::Control(Control::Go { epoch: Epoch(number) }), data: Payload::new() }
}

fn number(message: &Message) -> u64 {
    let Body::Control(Control::Go { epoch }) = message.body else { panic!("{message:?}") };
    epoch.0
}

fn is_write(event: &Event) -> bool {
    matches!(event, Event::Guest { command: Command::Write { .. }, .. })
}

/// Answers guests at once, wherever it is asked.
fn answer_at_once(event: &Event) -> Option<Action> {
    if let Event::Guest { id, .. } = event { Some(done(*id)) } else { None }
}

/// As a step beside: writes are taken, all else is given back.
pub(super) fn take_writes(event: Event, actions: &mut Vec<Action>) -> Result<bool, Event> {
    if !is_write(&event) {
        return Err(event);
    }
    actions.extend(answer_at_once(&event));
    Ok(false)
}

/// Where threads wait for each other, not for ever.
#[derive(Default)]
struct Meeting {
    here: Mutex<usize>,
    changed: Condvar,
}

impl Meeting {
    fn meet(&self, count: usize) {
        let mut here = self.here.lock();
        *here += 1;
        self.changed.notify_all();
        let late = self.changed.wait_while_for(&mut here, |here| *here < count, LONG).timed_out();
        assert!(!late, "nobody came");
    }
}

#[test]
fn volumes_step_beside_each_other() {
    let meeting = Meeting::default();
    let machine = fake(
        move |event, actions, _| {
            if is_write(&event) {
                meeting.meet(VOLUMES.len());
            }
            take_writes(event, actions)
        },
        |_, _| (),
    );
    let engine = builder().launch(machine).unwrap();
    thread::scope(|scope| {
        for volume in VOLUMES {
            let engine = &engine;
            scope.spawn(move || engine.write(volume, Sectors::new(0, 8), zeros(1)).unwrap());
        }
    });
}

/// Guests of all volumes, the partner and the timer, until all are answered.
fn crowd(engine: &Engine) {
    thread::scope(|scope| {
        for volume in VOLUMES.into_iter().chain([VOLUME]) {
            scope.spawn(move || {
                for round in 0..1_500 {
                    let command = if round % 5 == 0 { never() } else { write() };
                    engine.call(volume, command).unwrap();
                }
            });
        }
        scope.spawn(|| (1..=1_500).for_each(|number| engine.handle.core.message(1, go(number))));
        scope.spawn(|| (0..500).for_each(|_| engine.handle.core.tick()));
    });
}

#[test]
fn a_step_of_the_whole_node_has_it_for_itself() {
    // Negative while a step has the node for itself.
    let inside = Arc::new(AtomicI64::new(0));
    let same = Arc::clone(&inside);
    let machine = fake(
        move |event, actions, _| {
            assert!(inside.fetch_add(1, Ordering::SeqCst) >= 0, "beside one that has the node for itself");
            let taken = match event {
                Event::Message { ref message, .. } if !number(message).is_multiple_of(3) => {
                    Ok(number(message).is_multiple_of(7))
                }
                event => take_writes(event, actions),
            };
            assert!(inside.fetch_sub(1, Ordering::SeqCst) > 0);
            taken
        },
        move |event, actions| {
            assert_eq!(same.swap(-1_000, Ordering::SeqCst), 0, "not alone");
            actions.extend(answer_at_once(&event));
            assert_eq!(same.swap(0, Ordering::SeqCst), -1_000, "not alone");
        },
    );
    let engine = builder().launch(machine).unwrap();
    crowd(&engine);
    assert_eq!(engine.failure(), None);
}

#[test]
fn lanes_keep_their_order() {
    let messages = Arc::new(Mutex::new(Vec::new()));
    let (first, second) = (Arc::clone(&messages), Arc::clone(&messages));
    let machine = fake(
        move |event, actions, _| match event {
            Event::Message { ref message, .. } if !number(message).is_multiple_of(3) => {
                first.lock().push(number(message));
                Ok(number(message).is_multiple_of(7))
            }
            event => take_writes(event, actions),
        },
        move |event, actions| {
            if let Event::Message { message, .. } = &event {
                second.lock().push(number(message));
            }
            actions.extend(answer_at_once(&event));
        },
    );
    let engine = builder().launch(machine).unwrap();
    let heard = VOLUMES.map(|id| {
        let (sink, heard) = answers();
        (engine.volume(id).unwrap(), sink, heard)
    });
    thread::scope(|scope| {
        scope.spawn(|| crowd(&engine));
        for (volume, sink, _) in &heard {
            scope.spawn(move || {
                for token in 0..1_000 {
                    volume.submit(if token % 4 == 0 { never() } else { write() }, sink, token);
                }
            });
        }
    });
    for (_, _, heard) in heard {
        for token in 0..1_000 {
            let (told, result) = heard.recv_timeout(LONG).unwrap();
            assert_eq!(told, token);
            assert!(result.unwrap().is_ok());
        }
    }
    engine.kill();
    assert!(messages.lock().iter().copied().eq(1..=1_500));
}

/// Writes down what is sent.
#[derive(Default)]
struct Wire(Mutex<Vec<u64>>);

impl Transport for Wire {
    fn open(&self, _inbox: Arc<dyn Inbox>) {}
    fn send(&self, _link: u64, message: Message) {
        self.0.lock().push(number(&message));
    }
    fn flush(&self) {}
    fn disconnect(&self, _link: u64) {}
    fn close(&self) {}
}

#[test]
fn messages_leave_in_the_order_of_steps() {
    // What the volumes have in common.
    let common = Arc::new(Mutex::new(0));
    let same = Arc::clone(&common);
    let send = |sent: &mut u64| {
        *sent += 1;
        Action::Send { link: 1, message: go(*sent) }
    };
    let machine = fake(
        move |event, actions, queue_up| {
            let mut sent = common.lock();
            let tick = take_writes(event, actions)?;
            actions.push(send(&mut sent));
            queue_up(actions);
            Ok(tick)
        },
        move |event, actions| {
            actions.push_back(send(&mut same.lock()));
            actions.extend(answer_at_once(&event));
        },
    );
    let wire = Arc::new(Wire::default());
    let engine = builder().transport(Arc::clone(&wire) as Arc<dyn Transport>).launch(machine).unwrap();
    crowd(&engine);
    engine.kill();
    let sent = wire.0.lock();
    assert!(sent.len() > 6_000, "{}", sent.len());
    assert!(sent.iter().copied().eq(1..=sent.len() as u64));
}

/// Sees to it that each request is answered once, and told to be given up after that.
#[derive(Default)]
struct Judge {
    told: Mutex<BTreeMap<u64, &'static str>>,
    changed: Condvar,
}

impl Sink for Judge {
    fn complete(&self, token: u64, _result: GuestResult) {
        assert_eq!(self.told.lock().insert(token, "answered"), None);
    }
    fn aborted(&self, token: u64) {
        assert_eq!(self.told.lock().insert(token, "given up"), Some("answered"));
        self.changed.notify_all();
    }
}

#[test]
fn no_answer_comes_after_its_abort_was_told() {
    const REQUESTS: u64 = 2_000;
    let waiting = Arc::new(Mutex::new(BTreeSet::new()));
    let same = Arc::clone(&waiting);
    let machine = fake(
        move |event, actions, queue_up| {
            let mut waiting = waiting.lock();
            match event {
                Event::Guest { id, .. } => drop(waiting.insert(id)),
                Event::Message { .. } => actions.extend(waiting.pop_first().map(done)),
                event => return Err(event),
            }
            queue_up(actions);
            Ok(false)
        },
        move |event, actions| {
            if let Event::Abort { id } = event {
                if same.lock().remove(&id) {
                    actions.push_back(Action::Complete { id, result: Err(GuestError::Aborted) });
                }
                actions.push_back(Action::Aborted { id });
            }
        },
    );
    let engine = builder().launch(machine).unwrap();
    let judges = VOLUMES.map(|_| Arc::new(Judge::default()));
    thread::scope(|scope| {
        for (id, judge) in VOLUMES.into_iter().zip(&judges) {
            let volume = engine.volume(id).unwrap();
            let sink = Arc::clone(judge) as Arc<dyn Sink>;
            scope.spawn(move || {
                for token in 0..REQUESTS {
                    let request = volume.submit(write(), &sink, token);
                    volume.abort(request, &sink, token);
                }
            });
        }
        scope.spawn(|| (0..2 * REQUESTS).for_each(|number| engine.handle.core.message(1, go(number))));
    });
    for judge in judges {
        let over =
            |told: &mut BTreeMap<u64, &str>| told.values().filter(|told| **told == "given up").count() as u64;
        let mut told = judge.told.lock();
        let late = judge.changed.wait_while_for(&mut told, |told| over(told) < REQUESTS, LONG).timed_out();
        assert!(!late, "{} of {REQUESTS}", over(&mut told));
    }
    assert_eq!(engine.failure(), None);
}

/// Each asks until it is refused; no answer is missing, and none comes twice.
fn answered_until_the_end(engine: &Engine, end: impl FnOnce()) {
    let heard = VOLUMES.map(|id| {
        let (sink, heard) = answers();
        (engine.volume(id).unwrap(), sink, heard)
    });
    let asked = thread::scope(|scope| {
        let asking = heard.each_ref().map(|(volume, sink, _)| {
            scope.spawn(move || {
                let mut asked = 0;
                while volume.path_state() != PathState::Unavailable {
                    volume.submit(if asked % 5 == 4 { never() } else { write() }, sink, asked);
                    asked += 1;
                }
                asked
            })
        });
        end();
        asking.map(|asking| asking.join().unwrap())
    });
    for ((_, sink, heard), asked) in heard.into_iter().zip(asked) {
        let mut tokens: Vec<u64> =
            (0..asked).map(|_| heard.recv_timeout(LONG).expect("an answer is missing").0).collect();
        tokens.sort_unstable();
        assert!(tokens.into_iter().eq(0..asked));
        drop(sink);
        assert!(heard.try_recv().is_err());
    }
}

#[test]
fn closing_amid_steps_answers_everyone_once() {
    for _ in 0..40 {
        let (enter, entered) = bounded(1);
        let machine = fake(
            move |event, actions, _| {
                // Somebody is inside now.
                let _ = enter.try_send(());
                take_writes(event, actions)
            },
            |_, _| (),
        );
        let engine = builder().launch(machine).unwrap();
        answered_until_the_end(&engine, || {
            entered.recv_timeout(LONG).unwrap();
            engine.kill();
        });
        assert_eq!(engine.failure(), None);
    }
}

#[test]
fn a_step_waits_in_vain_for_nobody_who_closes() {
    // One is inside when the core closes, and comes out afterwards.
    let (enter, entered) = bounded(0);
    let (leave, left): (_, Receiver<()>) = bounded(0);
    let machine = fake(
        move |event, actions, _| {
            if is_write(&event) {
                enter.send(()).unwrap();
                left.recv_timeout(LONG).unwrap();
            }
            take_writes(event, actions)
        },
        |_, _| (),
    );
    let engine = builder().launch(machine).unwrap();
    let other = engine.volume(OTHER).unwrap();
    let (sink, heard) = answers();
    other.submit(never(), &sink, 1);
    thread::scope(|scope| {
        let inside = scope.spawn(|| engine.call(VOLUME, write()).map(drop));
        entered.recv_timeout(LONG).unwrap();
        let closing = scope.spawn(|| engine.kill());
        leave.send(()).unwrap();
        closing.join().unwrap();
        let answer = inside.join().unwrap();
        assert!(matches!(answer, Ok(()) | Err(GuestError::Unavailable)), "{answer:?}");
    });
    assert_eq!(heard.try_iter().count(), 1);
    assert_eq!(other.path_state(), PathState::Unavailable);
}

#[test]
fn a_panic_beside_others_closes() {
    for victim in 0..40 {
        let left = AtomicI64::new(victim * 20);
        let machine = fake(
            move |event, actions, _| {
                assert!(left.fetch_sub(1, Ordering::Relaxed) != 0, "planted");
                take_writes(event, actions)
            },
            |_, _| (),
        );
        let engine = builder().launch(machine).unwrap();
        answered_until_the_end(&engine, || ());
        engine.kill();
        assert!(engine.failure().unwrap().contains("planted"));
    }
}

/// Each step leaves the next event of its lane while it runs, so that there is always one more round.
#[test]
fn what_a_thread_was_relieved_of_is_done_by_the_timer() {
    const EVENTS: u64 = 3_000;
    let core: Arc<Mutex<Weak<Core>>> = Arc::default();
    let later = Arc::clone(&core);
    let ((sink, heard), (links, linked)) = (answers(), unbounded());
    let asked = AtomicU64::new(0);
    let machine = fake(
        move |event, actions, _| {
            let core = later.lock().upgrade().expect("it runs");
            match event {
                Event::Guest { id, volume, command } => {
                    if asked.fetch_add(1, Ordering::Relaxed) < EVENTS {
                        let token = asked.load(Ordering::Relaxed);
                        core.submit(&core.lane(volume), volume, command, (Arc::clone(&sink), token));
                    }
                    actions.push(done(id));
                    Ok(false)
                }
                Event::LinkUp { link } => {
                    if link < EVENTS {
                        core.link_up(link + 1);
                    }
                    links.send(link).unwrap();
                    Ok(false)
                }
                event => Err(event),
            }
        },
        |_, _| (),
    );
    let engine = builder().launch(machine).unwrap();
    *core.lock() = Arc::downgrade(&engine.handle.core);
    thread::scope(|scope| {
        scope.spawn(|| engine.handle.core.link_up(0));
        scope.spawn(|| engine.write(VOLUME, Sectors::new(0, 8), zeros(1)).unwrap());
    });
    for event in 0..=EVENTS {
        assert_eq!(linked.recv_timeout(LONG), Ok(event));
        assert!(event == 0 || matches!(heard.recv_timeout(LONG), Ok((token, Some(Ok(_)))) if token == event));
    }
    assert_eq!(engine.failure(), None);
}

/// One thread may have taken what another left, who then finds nothing. The node knows of steps beside it only with the
/// next event: [`Fake::deadline`] sees to it that it is not asked before.
#[test]
fn a_round_in_vain_asks_nothing_of_the_node() {
    let engine = builder().launch(fake(|event, actions, _| take_writes(event, actions), |_, _| ())).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5_000).for_each(|_| engine.handle.core.happened(Event::Tick)));
        }
    });
    assert_eq!(engine.failure(), None);
}

#[test]
fn a_tick_follows_where_a_step_wants_one() {
    let (sender, told) = unbounded();
    let ticks = sender.clone();
    let machine = fake(
        move |event, actions, _| {
            let taken = take_writes(event, actions)?;
            sender.send("beside").unwrap();
            Ok(!taken)
        },
        move |event, _| {
            if matches!(event, Event::Tick) {
                ticks.send("tick").unwrap();
            }
        },
    );
    let engine = builder().launch(machine).unwrap();
    told.try_iter().for_each(drop);
    engine.write(VOLUME, Sectors::new(0, 8), zeros(1)).unwrap();
    assert_eq!(told.try_iter().collect::<Vec<_>>(), ["beside", "tick"]);
}

#[test]
fn a_volume_that_comes_later_has_a_lane_too() {
    let late = VolumeId(9);
    let machine = fake(
        |event, actions, _| take_writes(event, actions),
        move |event, actions| {
            actions.extend(answer_at_once(&event));
            if let Event::LinkUp { .. } = event {
                actions.push_back(Action::VolumeSize { volume: late, sectors: Some(8) });
            }
        },
    );
    let engine = builder().launch(machine).unwrap();
    let core = &engine.handle.core;
    let shared = core.lane(late).number;
    assert!(VOLUMES.iter().all(|volume| core.lane(*volume).number != shared));
    engine.call(late, write()).unwrap();
    core.link_up(1);
    let own = core.lane(late).number;
    assert!(own != shared && VOLUMES.iter().all(|volume| core.lane(*volume).number != own));
    engine.call(late, write()).unwrap();
}
