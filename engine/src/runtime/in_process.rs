//! A link between two engines in one process: for tests, benches and demonstrations. Nothing is copied.
//!
//! Invariant: whatever goes to one end passes through one queue, filled under the wire's lock and emptied by one
//! thread at a time. So an end never sees a message of a link before that link is up or after it is down.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::gate::Gate;
use super::transport::{Inbox, Transport};
use crate::mirror::message::Message;

/// Makes the two ends of a wire. The link comes up when both are open.
pub fn in_process() -> (Arc<InProcess>, Arc<InProcess>) {
    let wire = Arc::new(Wire {
        state: Mutex::new(State { link: 0, up: false, cut: false, ends: [const { End::NEW }; 2] }),
        gates: [Gate::default(), Gate::default()],
    });
    let end = |side| Arc::new(InProcess { wire: Arc::clone(&wire), side });
    (end(0), end(1))
}

/// One end of a wire made by [`in_process`].
pub struct InProcess {
    wire: Arc<Wire>,
    side: usize,
}

struct Wire {
    state: Mutex<State>,
    gates: [Gate; 2],
}

struct State {
    /// Number of the current or last link.
    link: u64,
    up: bool,
    cut: bool,
    ends: [End; 2],
}

struct End {
    inbox: Option<Arc<dyn Inbox>>,
    queue: VecDeque<Report>,
}

enum Report {
    Up(u64),
    Down(u64),
    Message(u64, Message),
}

impl End {
    const NEW: End = End { inbox: None, queue: VecDeque::new() };
}

impl State {
    fn bring_up(&mut self) {
        if !self.up && !self.cut && self.ends.iter().all(|end| end.inbox.is_some()) {
            self.link += 1;
            self.up = true;
            self.tell(Report::Up);
        }
    }

    fn take_down(&mut self) {
        if std::mem::take(&mut self.up) {
            self.tell(Report::Down);
        }
    }

    fn tell(&mut self, report: impl Fn(u64) -> Report) {
        for end in &mut self.ends {
            end.queue.push_back(report(self.link));
        }
    }
}

impl Wire {
    /// Hands what waits for an end to its inbox.
    fn deliver(&self, side: usize) {
        self.gates[side].run(|| {
            while let Some((inbox, report)) = self.next(side) {
                match report {
                    Report::Up(link) => inbox.link_up(link),
                    Report::Down(link) => inbox.link_down(link),
                    Report::Message(link, message) => inbox.message(link, message),
                }
            }
        });
    }

    fn next(&self, side: usize) -> Option<(Arc<dyn Inbox>, Report)> {
        let mut state = self.state.lock();
        let end = &mut state.ends[side];
        let inbox = end.inbox.clone()?;
        Some((inbox, end.queue.pop_front()?))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state.lock());
        self.deliver(0);
        self.deliver(1);
        changed
    }
}

impl InProcess {
    /// Cuts the wire: the link goes down, what is on its way arrives before that, and none comes up.
    pub fn cut(&self) {
        self.wire.change(|state| {
            state.cut = true;
            state.take_down();
        });
    }

    /// Joins the wire again: a new link comes up if both ends are open.
    pub fn heal(&self) {
        self.wire.change(|state| {
            state.cut = false;
            state.bring_up();
        });
    }
}

impl Transport for InProcess {
    fn open(&self, inbox: Arc<dyn Inbox>) {
        self.wire.change(|state| {
            state.ends[self.side].inbox = Some(inbox);
            state.bring_up();
        });
    }

    fn send(&self, link: u64, message: Message) {
        let other = 1 - self.side;
        {
            let mut state = self.wire.state.lock();
            if !state.up || state.link != link {
                return;
            }
            state.ends[other].queue.push_back(Report::Message(link, message));
        }
        self.wire.deliver(other);
    }

    fn flush(&self) {}

    fn disconnect(&self, link: u64) {
        self.wire.change(|state| {
            if state.link == link {
                state.take_down();
                state.bring_up();
            }
        });
    }

    /// As for any transport; a closed end may be opened again, by another engine.
    fn close(&self) {
        // The inbox may be the last to hold its engine: it is dropped without the wire's lock.
        drop(self.wire.change(|state| {
            state.take_down();
            std::mem::replace(&mut state.ends[self.side], End::NEW)
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Payload;
    use crate::ids::Epoch;
    use crate::mirror::message::{Body, Control};

    /// Writes down what it hears.
    #[derive(Default)]
    struct Ear(Mutex<Vec<String>>);

    impl Ear {
        fn heard(&self) -> Vec<String> {
            std::mem::take(&mut *self.0.lock())
        }
    }

    impl Inbox for Ear {
        fn link_up(&self, link: u64) {
            self.0.lock().push(format!("up {link}"));
        }
        fn link_down(&self, link: u64) {
            self.0.lock().push(format!("down {link}"));
        }
        fn message(&self, link: u64, message: Message) {
            let Body::Control(Control::Go { epoch }) = message.body else { panic!("{message:?}") };
            self.0.lock().push(format!("{link}: {epoch}"));
        }
    }

    fn go(epoch: u64) -> Message {
        Message { body: Body::Control(Control::Go { epoch: Epoch(epoch) }), data: Payload::new() }
    }

    fn joined() -> (Arc<InProcess>, Arc<InProcess>, Arc<Ear>, Arc<Ear>) {
        let (a, b) = in_process();
        let (ear_a, ear_b) = (Arc::new(Ear::default()), Arc::new(Ear::default()));
        a.open(Arc::clone(&ear_a) as Arc<dyn Inbox>);
        assert!(ear_a.heard().is_empty());
        b.open(Arc::clone(&ear_b) as Arc<dyn Inbox>);
        (a, b, ear_a, ear_b)
    }

    #[test]
    fn messages_arrive_in_order_on_their_link() {
        let (a, b, ear_a, ear_b) = joined();
        a.send(1, go(10));
        a.send(1, go(11));
        b.send(1, go(20));
        a.send(2, go(12));
        assert_eq!(ear_a.heard(), ["up 1", "1: 20"]);
        assert_eq!(ear_b.heard(), ["up 1", "1: 10", "1: 11"]);
    }

    #[test]
    fn a_cut_wire_carries_nothing_until_healed() {
        let (a, b, ear_a, ear_b) = joined();
        a.cut();
        a.send(1, go(1));
        b.heal();
        a.send(1, go(2));
        a.send(2, go(3));
        assert_eq!(ear_a.heard(), ["up 1", "down 1", "up 2"]);
        assert_eq!(ear_b.heard(), ["up 1", "down 1", "up 2", "2: 3"]);
    }

    #[test]
    fn a_closed_end_can_be_opened_by_another() {
        let (a, _b, ear_a, ear_b) = joined();
        a.close();
        let again = Arc::new(Ear::default());
        a.open(Arc::clone(&again) as Arc<dyn Inbox>);
        a.disconnect(1);
        a.disconnect(2);
        assert_eq!(ear_a.heard(), ["up 1"]);
        assert_eq!(again.heard(), ["up 2", "down 2", "up 3"]);
        assert_eq!(ear_b.heard(), ["up 1", "down 1", "up 2", "down 2", "up 3"]);
    }
}
