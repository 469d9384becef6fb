//! The runtime with a scripted machine in the node's place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use super::super::engine::Engine;
use super::super::machine::Machine;
use super::super::*;
use crate::arbiter::{Answer, Arbiter, ArbiterError, Arbitration, Ask, MemoryArbiter};
use crate::backend::{BackendRequest, BlockBackend, MemoryBackend};
use crate::block::zeros;
use crate::guest::{Command, GuestError, GuestResult, PathState, Sectors, Sink, VirtualVolume};
use crate::ids::{BootId, DiskId, NodeName, RequestId, Uuid, VolumeId};
use crate::io::{DiskOp, DiskRequest, Geometry, IoId};
use crate::node::config::{CacheConfig, MirrorConfig, NodeConfig, SpaceConfig, VolumeConfig};
use crate::node::event::{Action, Event, Notice};
use crate::node::view::View;
use crate::planted::Planted;
use crate::time::{Duration, Instant};

pub(super) const VOLUME: VolumeId = VolumeId(1);
pub(super) const LONG: Duration = Duration::from_secs(20);

/// What a test puts in the node's place.
type Script = Box<dyn FnMut(Instant, Event, &mut VecDeque<Action>) -> Option<Instant> + Send>;

struct Scripted {
    script: Mutex<Script>,
    actions: VecDeque<Action>,
    deadline: Option<Instant>,
}

impl Machine for Scripted {
    fn handle(&mut self, now: Instant, event: Event) {
        self.deadline = (self.script.get_mut())(now, event, &mut self.actions);
    }
    fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
    fn deadline(&mut self) -> Option<Instant> {
        self.deadline
    }
    fn view(&self, _now: Instant) -> View {
        panic!("not looked at")
    }
    fn path_states(&self, _now: Instant, _volume: VolumeId) -> [PathState; 2] {
        [PathState::Optimized, PathState::NonOptimized]
    }
    fn extent_sectors(&self) -> Option<u64> {
        None
    }
}

pub(super) fn config() -> NodeConfig {
    let volume = VolumeConfig {
        id: VOLUME,
        name: "V1".into(),
        uuid: Uuid(5),
        sectors: 1 << 20,
        mirrored: true,
        reserved_bytes: 0,
        detect_zeros: false,
    };
    NodeConfig {
        name: NodeName::A,
        partnership: Uuid(1),
        boot: BootId(0),
        arbitration: Arbitration::Preferred,
        preferred: NodeName::A,
        volumes: vec![volume],
        cache: CacheConfig::default(),
        mirror: MirrorConfig::default(),
        space: SpaceConfig::default(),
        experimental_snapshots: false,
        planted: Planted::NONE,
    }
}

fn builder() -> EngineBuilder {
    Engine::builder(config()).disk(Arc::new(MemoryBackend::new(1 << 20)))
}

/// A machine that opens at the first event and does as `script` says with the others.
fn opening(
    mut script: impl FnMut(Instant, Event, &mut VecDeque<Action>) -> Option<Instant> + Send + 'static,
) -> Box<dyn Machine> {
    let mut open = false;
    let script: Script = Box::new(move |now, event, actions| {
        if !std::mem::replace(&mut open, true) {
            actions.push_back(Action::Notice(Notice::Opened));
        }
        script(now, event, actions)
    });
    Box::new(Scripted { script: Mutex::new(script), actions: VecDeque::new(), deadline: None })
}

/// Reads and flushes go to the disk; writes are answered at once; zeroing never is.
fn plain() -> Box<dyn Machine> {
    let mut reading: Vec<RequestId> = Vec::new();
    opening(move |_, event, actions| {
        match event {
            Event::Guest { id, command: Command::Write { .. }, .. } => {
                actions.push_back(Action::Complete { id, result: Ok(zeros(0)) });
            }
            Event::Guest { id, command: Command::Read { at }, .. } => {
                let op = DiskOp::Read { offset: 0, blocks: at.count as u32 / 8 };
                let io = IoId(reading.len() as u64);
                reading.push(id);
                actions.push_back(Action::Disk(DiskRequest { id: io, disk: DiskId(0), op }));
            }
            Event::Disk { id, result } => {
                let result = result.map_err(|_| GuestError::Medium);
                actions.push_back(Action::Complete { id: reading[id.0 as usize], result });
            }
            Event::Abort { id } => {
                actions.push_back(Action::Complete { id, result: Err(GuestError::Aborted) });
                actions.push_back(Action::Aborted { id });
            }
            Event::Stop => actions.push_back(Action::Notice(Notice::Stopped)),
            _ => {}
        }
        None
    })
}

/// Passes the answers on.
struct Answers(Sender<(u64, Option<GuestResult>)>);

impl Sink for Answers {
    fn complete(&self, token: u64, result: GuestResult) {
        drop(self.0.send((token, Some(result))));
    }
    fn aborted(&self, token: u64) {
        drop(self.0.send((token, None)));
    }
}

pub(super) type Heard = Receiver<(u64, Option<GuestResult>)>;

pub(super) fn answers() -> (Arc<dyn Sink>, Heard) {
    let (sender, receiver) = unbounded();
    (Arc::new(Answers(sender)), receiver)
}

pub(super) fn read() -> Command {
    Command::Read { at: Sectors::new(0, 8) }
}

pub(super) fn write() -> Command {
    Command::Write { at: Sectors::new(0, 8), data: zeros(1), fua: false }
}

pub(super) fn never() -> Command {
    Command::Zero { at: Sectors::new(0, 8), fua: false }
}

#[test]
fn every_request_of_many_threads_is_answered() {
    let engine = builder().launch(plain()).unwrap();
    thread::scope(|scope| {
        for number in 0..4 {
            let engine = &engine;
            scope.spawn(move || {
                for round in 0..5_000 {
                    if (round + number) % 2 == 0 {
                        engine.write(VOLUME, Sectors::new(0, 8), zeros(1)).unwrap();
                    } else {
                        assert_eq!(engine.read(VOLUME, Sectors::new(0, 16)).unwrap().len(), 2);
                    }
                }
            });
        }
    });
}

/// A disk that answers from threads of its own, a little later.
struct Elsewhere(Sender<BackendRequest>);

impl Elsewhere {
    fn new(threads: usize) -> Elsewhere {
        let (sender, receiver) = unbounded::<BackendRequest>();
        for _ in 0..threads {
            let receiver = receiver.clone();
            thread::spawn(move || receiver.into_iter().for_each(|request| request.complete(Ok(zeros(1)))));
        }
        Elsewhere(sender)
    }
}

impl BlockBackend for Elsewhere {
    fn geometry(&self) -> Geometry {
        Geometry { bytes: 1 << 20, sector_bytes: 512 }
    }
    fn submit(&self, request: BackendRequest) {
        drop(self.0.send(request));
    }
}

#[test]
fn answers_of_disk_threads_wake_nobody_in_vain() {
    let engine = Engine::builder(config()).disk(Arc::new(Elsewhere::new(2))).launch(plain()).unwrap();
    let volume = engine.volume(VOLUME).unwrap();
    let (sink, heard) = answers();
    for round in 0..2_000 {
        for token in 0..8 {
            volume.submit(read(), &sink, round * 8 + token);
        }
        for _ in 0..8 {
            let (_, result) = heard.recv_timeout(LONG).unwrap();
            assert!(result.unwrap().is_ok());
        }
    }
}

#[test]
fn actions_keep_their_order() {
    let engine = builder().launch(plain()).unwrap();
    let volume = engine.volume(VOLUME).unwrap();
    let (sink, heard) = answers();
    for token in 0..1_000 {
        volume.submit(write(), &sink, token);
    }
    assert!(heard.try_iter().map(|(token, _)| token).eq(0..1_000));
}

/// A sink that asks again from within its answer.
struct Again {
    volume: Arc<dyn VirtualVolume>,
    me: Mutex<Option<Arc<dyn Sink>>>,
    depth: AtomicU64,
    deepest: AtomicU64,
    done: Sender<u64>,
}

impl Sink for Again {
    fn complete(&self, token: u64, result: GuestResult) {
        result.unwrap();
        let depth = self.depth.fetch_add(1, Ordering::Relaxed) + 1;
        self.deepest.fetch_max(depth, Ordering::Relaxed);
        let me = self.me.lock().clone();
        match me {
            Some(me) if token > 0 => drop(self.volume.submit(write(), &me, token - 1)),
            _ => self.done.send(self.deepest.load(Ordering::Relaxed)).unwrap(),
        }
        self.depth.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn a_sink_that_asks_again_does_not_recurse() {
    let engine = builder().launch(plain()).unwrap();
    let (done, heard) = unbounded();
    let again = Arc::new(Again {
        volume: engine.volume(VOLUME).unwrap(),
        me: Mutex::new(None),
        depth: AtomicU64::new(0),
        deepest: AtomicU64::new(0),
        done,
    });
    let sink = Arc::clone(&again) as Arc<dyn Sink>;
    *again.me.lock() = Some(Arc::clone(&sink));
    again.volume.submit(write(), &sink, 100_000);
    assert_eq!(heard.recv_timeout(LONG), Ok(1));
    *again.me.lock() = None;
}

#[test]
fn an_abort_is_told_after_the_answer() {
    let engine = builder().launch(plain()).unwrap();
    let volume = engine.volume(VOLUME).unwrap();
    let (sink, heard) = answers();
    let request = volume.submit(never(), &sink, 1);
    volume.abort(request, &sink, 2);
    volume.abort(request, &sink, 3);
    let told: Vec<_> = heard.try_iter().map(|(token, result)| (token, result.map(|r| r.map(drop)))).collect();
    assert_eq!(told, [(1, Some(Err(GuestError::Aborted))), (2, None), (3, None)]);
}

#[test]
fn the_time_is_read_after_the_event_was_taken() {
    struct Counter(AtomicU64);
    impl Clock for Counter {
        fn now(&self) -> Instant {
            Instant::from_nanos(self.0.fetch_add(1, Ordering::SeqCst))
        }
    }
    let clock = Arc::new(Counter(AtomicU64::new(0)));
    let (sender, late) = unbounded();
    let machine = opening(move |now, event, _| {
        if let Event::LinkUp { link } = event {
            sender.send(now.as_nanos() >= link).unwrap();
        }
        None
    });
    let engine = builder().clock(Arc::clone(&clock) as Arc<dyn Clock>).launch(machine).unwrap();
    let inbox = Arc::clone(&engine.handle.core) as Arc<dyn Inbox>;
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..2_000).for_each(|_| inbox.link_up(clock.now().as_nanos())));
        }
    });
    assert_eq!(late.try_iter().filter(|in_order| *in_order).count(), 6_000);
}

#[test]
fn the_deadline_brings_a_tick() {
    let (sender, ticks) = unbounded();
    let mut left = 20;
    let machine = opening(move |now, event, _| {
        if matches!(event, Event::Tick) {
            sender.send(now).unwrap();
            left -= 1;
        }
        (left > 0).then(|| now + Duration::from_millis(if left % 2 == 0 { 1 } else { 3 }))
    });
    let engine = builder().launch(machine).unwrap();
    let times: Vec<Instant> = (0..20).map(|_| ticks.recv_timeout(LONG).unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(1)));
    drop(engine);
    assert!(ticks.recv_timeout(LONG).is_err(), "the timer outlives its engine");
}

#[test]
fn a_deadline_that_comes_nearer_is_kept() {
    let (sender, ticks) = unbounded();
    let machine = opening(move |now, event, _| match event {
        Event::LinkUp { .. } => Some(now + Duration::from_millis(2)),
        Event::Tick => {
            sender.send(now).unwrap();
            Some(now + LONG)
        }
        _ => None,
    });
    let engine = builder().launch(machine).unwrap();
    ticks.recv_timeout(LONG).unwrap();
    for link in 0..50 {
        engine.handle.core.link_up(link);
        ticks.recv_timeout(LONG).unwrap();
    }
}

#[test]
fn a_panic_of_the_node_answers_everyone() {
    let machine = opening(|_, event, actions| match event {
        Event::Guest { id, command: Command::Write { .. }, .. } => {
            actions.push_back(Action::Complete { id, result: Ok(zeros(0)) });
            panic!("planted")
        }
        _ => None,
    });
    let (end, other) = in_process();
    let partner = builder().transport(other).launch(plain()).unwrap();
    let engine = builder().transport(end).launch(machine).unwrap();
    let notices = engine.notices();
    let volume = engine.volume(VOLUME).unwrap();
    let (sink, heard) = answers();
    let request = volume.submit(never(), &sink, 1);
    volume.abort(request, &sink, 2);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| engine.call(VOLUME, read()).map(drop));
        assert!(heard.is_empty());
        assert_eq!(engine.call(VOLUME, write()).map(drop), Err(GuestError::Unavailable));
        assert_eq!(waiting.join().unwrap(), Err(GuestError::Unavailable));
    });
    let told: Vec<_> = heard.try_iter().map(|(token, result)| (token, result.map(|r| r.map(drop)))).collect();
    assert_eq!(told, [(1, Some(Err(GuestError::Unavailable))), (2, None)]);
    assert!(engine.failure().unwrap().contains("planted"));
    assert!(engine.view().is_none());
    assert_eq!(volume.path_state(), PathState::Unavailable);
    volume.abort(request, &sink, 3);
    assert!(matches!(heard.recv_timeout(LONG), Ok((3, None))));
    assert_eq!(notices.iter().collect::<Vec<_>>(), [Notice::Opened]);
    partner.kill();
}

#[test]
fn a_sink_that_panics_hurts_nobody_else() {
    struct Bad;
    impl Sink for Bad {
        fn complete(&self, _token: u64, _result: GuestResult) {
            panic!("a fault of the sink's author")
        }
    }
    let engine = builder().launch(plain()).unwrap();
    let volume = engine.volume(VOLUME).unwrap();
    volume.submit(write(), &(Arc::new(Bad) as Arc<dyn Sink>), 0);
    engine.write(VOLUME, Sectors::new(0, 8), zeros(1)).unwrap();
}

#[test]
fn a_clean_stop_waits_for_the_node() {
    let engine = builder().launch(plain()).unwrap();
    assert_eq!(engine.stop(LONG), Ok(()));
    assert_eq!(engine.call(VOLUME, read()).map(drop), Err(GuestError::Unavailable));

    let engine = builder().launch(opening(|_, _, _| None)).unwrap();
    assert_eq!(engine.stop(Duration::from_millis(10)), Err(NotClean));
    assert_eq!(engine.flush(VOLUME), Err(GuestError::Unavailable));
}

#[test]
fn what_was_killed_lets_go_of_its_disks() {
    let disk = Arc::new(MemoryBackend::new(1 << 20));
    let engine =
        Engine::builder(config()).disk(Arc::clone(&disk) as Arc<dyn BlockBackend>).launch(plain()).unwrap();
    let volume = engine.volume(VOLUME).unwrap();
    let (sink, heard) = answers();
    volume.submit(never(), &sink, 1);
    engine.kill();
    assert_eq!(Arc::strong_count(&disk), 1);
    assert!(matches!(heard.try_recv(), Ok((1, Some(Err(GuestError::Unavailable))))));
    volume.submit(read(), &sink, 2);
    assert!(matches!(heard.try_recv(), Ok((2, Some(Err(GuestError::Unavailable))))));

    let engine =
        Engine::builder(config()).disk(Arc::clone(&disk) as Arc<dyn BlockBackend>).launch(plain()).unwrap();
    let volume = engine.volume(VOLUME).unwrap();
    drop(engine);
    assert_eq!(volume.path_state(), PathState::Optimized);
    drop(volume);
    assert_eq!(Arc::strong_count(&disk), 1);
}

#[test]
fn a_pool_that_does_not_open_is_an_error() {
    let machine = |notice: Option<Notice>| {
        let script: Script = Box::new(move |_, _, actions| {
            actions.extend(notice.clone().map(Action::Notice));
            None
        });
        Box::new(Scripted { script: Mutex::new(script), actions: VecDeque::new(), deadline: None })
    };
    let refused = machine(Some(Notice::OpenFailed("disk 1 is missing".into())));
    let error = builder().launch(refused).err().unwrap();
    assert_eq!(error.to_string(), "the pool cannot be opened: disk 1 is missing");
    let silent = builder().open_bound(Duration::from_millis(5)).launch(machine(None)).err().unwrap();
    assert!(matches!(silent, StartError::TimedOut(_)));
    assert!(matches!(Engine::builder(config()).start().err().unwrap(), StartError::NoDisk));
    let wants = NodeConfig { arbitration: Arbitration::Register, ..config() };
    let disk = Arc::new(MemoryBackend::new(1 << 20));
    assert!(matches!(Engine::builder(wants).disk(disk).start().err().unwrap(), StartError::NoArbiter));
}

/// Asks once when the link comes up, and passes on what it hears.
fn asking() -> (Box<dyn Machine>, Receiver<Result<Answer, ArbiterError>>) {
    let (sender, heard) = unbounded();
    let machine = opening(move |_, event, actions| {
        match event {
            Event::LinkUp { link } => actions.push_back(Action::Arbiter { id: link, ask: Ask::Read }),
            Event::Arbiter { id: 7, result } => sender.send(result).unwrap(),
            _ => {}
        }
        None
    });
    (machine, heard)
}

#[test]
fn the_arbiter_is_asked_elsewhere() {
    struct Odd(thread::ThreadId);
    impl Arbiter for Odd {
        fn ask(&self, _ask: Ask) -> Result<Answer, ArbiterError> {
            assert_ne!(thread::current().id(), self.0);
            panic!("a fault of the arbiter's author")
        }
    }
    let ask = |arbiter: Option<Arc<dyn Arbiter>>| {
        let (machine, heard) = asking();
        let mut builder = builder();
        if let Some(arbiter) = arbiter {
            builder = builder.arbiter(arbiter);
        }
        let engine = builder.launch(machine).unwrap();
        engine.handle.core.link_up(7);
        heard.recv_timeout(LONG).unwrap()
    };
    assert_eq!(ask(Some(Arc::new(MemoryArbiter::new()))), Ok(Answer { swapped: false, register: None }));
    assert!(ask(None).unwrap_err().to_string().contains("there is none"));
    let odd = Odd(thread::current().id());
    assert!(ask(Some(Arc::new(odd))).unwrap_err().to_string().contains("it failed"));
}

/// A register that was restored from a backup between two questions.
#[test]
fn an_arbiter_that_goes_back_is_not_believed() {
    use crate::arbiter::Register;
    use crate::ids::{Epoch, Members, NodeName};
    let register = |epoch| Register { epoch: Epoch(epoch), members: Members::BOTH, by: NodeName::A };
    struct Restored(Mutex<Vec<Register>>);
    impl Arbiter for Restored {
        fn ask(&self, _ask: Ask) -> Result<Answer, ArbiterError> {
            Ok(Answer { swapped: false, register: self.0.lock().pop() })
        }
    }
    let (machine, heard) = asking();
    let (tell, told) = unbounded();
    let arbiter = Restored(Mutex::new([5, 4, 5].map(register).to_vec()));
    let builder =
        builder().arbiter(Arc::new(arbiter)).arbiter_told(move |result| tell.send(result.clone()).unwrap());
    let engine = builder.launch(machine).unwrap();
    let answers = [(); 3].map(|()| {
        engine.handle.core.link_up(7);
        heard.recv_timeout(LONG).unwrap()
    });
    let good = Ok(Answer { swapped: false, register: Some(register(5)) });
    assert_eq!((&answers[0], &answers[2]), (&good, &good));
    let text = answers[1].as_ref().unwrap_err().to_string();
    assert!(text.contains("epoch 5 was seen in it, and now it holds another 4"), "{text}");
    assert_eq!(told.try_iter().collect::<Vec<_>>(), answers);
}

#[test]
fn notices_are_kept_for_those_who_come_late() {
    let engine = builder().launch(plain()).unwrap();
    let notices = engine.notices();
    assert_eq!(notices.try_recv(), Ok(Notice::Opened));
    engine.stop(LONG).unwrap();
    assert_eq!(notices.iter().collect::<Vec<_>>(), [Notice::Stopped]);
    assert_eq!(engine.notices().iter().count(), 2);
}
