//! The mirror link: one ordered, two-way connection that delays, stalls, breaks and comes back.
//!
//! - In order within a connection; urgent messages have a lane of their own and may overtake.
//! - A cut, both ways or one way, stalls what travels that way. If it heals before anyone notices, the stalled
//!   messages arrive late, as TCP would have it. Otherwise each side notices for itself, by silence, after a
//!   time of its own; what was stalled is lost.
//! - A new connection has a new, higher number. Messages of an old one may still arrive after it began, tagged
//!   with the old number.
//!
//! The network keeps no queue: it says when each [`LinkStep`] is due, and whoever owns the clock hands it back.

use super::rng::Rng;
use crate::ids::NodeName;
use crate::mirror::message::Message;
use crate::time::{Duration, Instant};

/// Something the network wants to be reminded of.
#[derive(Debug)]
pub enum LinkStep {
    /// A message arrives at `to`.
    Arrive {
        /// The receiver.
        to: NodeName,
        /// Life of the receiver for which it was sent.
        life: u64,
        /// Number of its connection.
        link: u64,
        /// The message.
        message: Message,
        /// A straggler of an old connection, delivered on purpose.
        late: bool,
    },
    /// A healed direction delivers what was stalled.
    Drain {
        /// The sender.
        from: NodeName,
    },
    /// `node` notices that the connection is gone, if it still is.
    Notice {
        /// Who notices.
        node: NodeName,
        /// Number of the connection.
        link: u64,
        /// Only if the cut with this number still lasts.
        cut: Option<u64>,
    },
    /// Try to connect.
    Connect,
    /// The new connection is up at `node`.
    Up {
        /// Where.
        node: NodeName,
        /// Its number.
        link: u64,
    },
}

/// What a node gets to know.
#[derive(Debug)]
pub enum Delivery {
    /// [`Event::LinkUp`](crate::node::event::Event::LinkUp).
    Up(NodeName, u64),
    /// [`Event::LinkDown`](crate::node::event::Event::LinkDown).
    Down(NodeName, u64),
    /// A message on a connection.
    Message(NodeName, u64, Message),
}

/// A step and when it is due.
pub type Due = (Instant, LinkStep);

/// The link between the two nodes.
#[derive(Debug)]
pub struct Network {
    rng: Rng,
    /// Mean one-way delay in microseconds.
    delay_us: u64,
    cut: [bool; 2],
    cuts: u64,
    last_link: u64,
    session: Option<u64>,
    believes: [Option<u64>; 2],
    opening: [Option<u64>; 2],
    alive: [Option<u64>; 2],
    tail: [[Instant; 2]; 2],
    stalled: [Vec<LinkStep>; 2],
    connecting: bool,
    /// Share of the messages of a broken connection that arrive after all.
    late_share: f64,
    stragglers: u64,
}

impl Network {
    /// A link with this mean one-way delay; `late_share` of the messages of broken connections arrive late.
    pub fn new(rng: Rng, delay_us: u64, late_share: f64) -> Network {
        Network {
            rng,
            delay_us,
            cut: [false; 2],
            cuts: 0,
            last_link: 0,
            session: None,
            believes: [None; 2],
            opening: [None; 2],
            alive: [None; 2],
            tail: [[Instant::ZERO; 2]; 2],
            stalled: [Vec::new(), Vec::new()],
            connecting: false,
            late_share,
            stragglers: 0,
        }
    }

    /// Changes the mean one-way delay.
    pub fn set_delay(&mut self, delay_us: u64) {
        self.delay_us = delay_us;
    }

    /// The mean one-way delay in microseconds.
    pub fn delay_us(&self) -> u64 {
        self.delay_us
    }

    /// Is the connection up at both ends, and neither way cut?
    pub fn is_whole(&self) -> bool {
        self.session.is_some() && self.cut == [false; 2] && self.believes == [self.session; 2]
    }

    /// Messages of an old connection that arrived on a newer one.
    pub fn stragglers(&self) -> u64 {
        self.stragglers
    }

    /// Is either way cut?
    pub fn is_cut(&self) -> bool {
        self.cut != [false; 2]
    }

    /// A node's life began: it listens and connects.
    pub fn started(&mut self, now: Instant, node: NodeName, life: u64, due: &mut Vec<Due>) {
        self.alive[node.index()] = Some(life);
        self.connect_soon(now, due);
    }

    /// A node died. The partner notices at once if the process was killed, later if the power failed.
    pub fn died(&mut self, now: Instant, node: NodeName, silently: bool, due: &mut Vec<Due>) {
        self.alive[node.index()] = None;
        self.believes[node.index()] = None;
        self.opening[node.index()] = None;
        self.end_session();
        if let Some(link) = self.link_of(node.partner()) {
            let after = if silently { self.silence() } else { self.transit() };
            due.push((now + after, LinkStep::Notice { node: node.partner(), link, cut: None }));
        }
    }

    fn link_of(&self, node: NodeName) -> Option<u64> {
        self.believes[node.index()].or(self.opening[node.index()])
    }

    fn transit(&mut self) -> Duration {
        self.rng.micros_around(self.delay_us)
    }

    /// How long a transport takes to notice silence.
    fn silence(&mut self) -> Duration {
        if self.rng.chance(0.3) { self.rng.micros(100, 50_000) } else { self.rng.micros(300_000, 3_000_000) }
    }

    fn end_session(&mut self) {
        self.session = None;
        self.stalled = [Vec::new(), Vec::new()];
    }

    fn connect_soon(&mut self, now: Instant, due: &mut Vec<Due>) {
        if !self.connecting {
            self.connecting = true;
            due.push((now + self.rng.micros(1_000, 200_000), LinkStep::Connect));
        }
    }

    /// Sends a message on connection `link`; dropped if that is no longer the sender's.
    pub fn send(&mut self, now: Instant, from: NodeName, link: u64, message: Message, due: &mut Vec<Due>) {
        let to = from.partner();
        if self.believes[from.index()] != Some(link) || self.session != Some(link) {
            return;
        }
        let Some(life) = self.alive[to.index()] else { return };
        let arrival = now + self.transit();
        let lane = usize::from(message.is_urgent());
        let tail = &mut self.tail[from.index()][lane];
        *tail = arrival.max(*tail + Duration::from_nanos(1));
        due.push((*tail, LinkStep::Arrive { to, life, link, message, late: false }));
    }

    /// Cuts what travels from these nodes.
    pub fn cut(&mut self, now: Instant, from: &[NodeName], due: &mut Vec<Due>) {
        for node in from {
            self.cut[node.index()] = true;
        }
        self.cuts += 1;
        for node in NodeName::BOTH {
            if let Some(link) = self.link_of(node) {
                let after = self.silence();
                due.push((now + after, LinkStep::Notice { node, link, cut: Some(self.cuts) }));
            }
        }
    }

    /// Heals both ways.
    pub fn heal(&mut self, now: Instant, due: &mut Vec<Due>) {
        self.cut = [false; 2];
        for node in NodeName::BOTH {
            if !self.stalled[node.index()].is_empty() {
                let after = self.rng.micros(1_000, 400_000);
                due.push((now + after, LinkStep::Drain { from: node }));
            }
        }
        self.connect_soon(now, due);
    }

    /// A node closes a connection.
    pub fn disconnect(&mut self, now: Instant, node: NodeName, link: u64, due: &mut Vec<Due>) {
        if self.link_of(node) == Some(link) {
            due.push((now, LinkStep::Notice { node, link, cut: None }));
        }
    }

    /// A step is due: what the nodes get to know of it.
    pub fn step(&mut self, now: Instant, step: LinkStep, due: &mut Vec<Due>) -> Vec<Delivery> {
        match step {
            LinkStep::Arrive { .. } => self.arrive(now, step, due).into_iter().collect(),
            LinkStep::Drain { from } if !self.cut[from.index()] => {
                let steps = core::mem::take(&mut self.stalled[from.index()]);
                steps.into_iter().filter_map(|step| self.arrive(now, step, due)).collect()
            }
            LinkStep::Drain { .. } => Vec::new(),
            LinkStep::Notice { node, link, cut } => self.notice(now, node, link, cut, due),
            LinkStep::Connect => self.connect(now, due),
            LinkStep::Up { node, link } => {
                if self.opening[node.index()] != Some(link) {
                    return Vec::new();
                }
                self.opening[node.index()] = None;
                self.believes[node.index()] = Some(link);
                vec![Delivery::Up(node, link)]
            }
        }
    }

    fn arrive(&mut self, now: Instant, step: LinkStep, due: &mut Vec<Due>) -> Option<Delivery> {
        let LinkStep::Arrive { to, life, link, message, late } = step else { return None };
        if self.alive[to.index()] != Some(life) {
            return None;
        }
        if late {
            self.stragglers += u64::from(self.believes[to.index()].is_some_and(|newer| newer != link));
            return Some(Delivery::Message(to, link, message));
        }
        let from = to.partner();
        if self.session == Some(link) && self.believes[to.index()] == Some(link) {
            if self.cut[from.index()] || !self.stalled[from.index()].is_empty() {
                let step = LinkStep::Arrive { to, life, link, message, late };
                self.stalled[from.index()].push(step);
                return None;
            }
            return Some(Delivery::Message(to, link, message));
        }
        if self.rng.chance(self.late_share) {
            let at = now + self.rng.micros(0, 2_000_000);
            due.push((at, LinkStep::Arrive { to, life, link, message, late: true }));
        }
        None
    }

    fn notice(
        &mut self,
        now: Instant,
        node: NodeName,
        link: u64,
        cut: Option<u64>,
        due: &mut Vec<Due>,
    ) -> Vec<Delivery> {
        let moot = cut.is_some_and(|cut| cut != self.cuts || !self.is_cut());
        if moot || self.link_of(node) != Some(link) {
            return Vec::new();
        }
        let told = self.forget(node, link);
        let partner = node.partner();
        if self.link_of(partner) == Some(link) && !self.cut[node.index()] {
            let after = self.transit();
            due.push((now + after, LinkStep::Notice { node: partner, link, cut: None }));
        }
        self.connect_soon(now, due);
        told.into_iter().collect()
    }

    /// The connection is over for `node`; true news only if it was told of it.
    fn forget(&mut self, node: NodeName, link: u64) -> Option<Delivery> {
        if self.session == Some(link) {
            self.end_session();
        }
        self.opening[node.index()] = None;
        let was_up = self.believes[node.index()].take() == Some(link);
        was_up.then_some(Delivery::Down(node, link))
    }

    fn connect(&mut self, now: Instant, due: &mut Vec<Due>) -> Vec<Delivery> {
        self.connecting = false;
        if self.session.is_some() || self.alive.contains(&None) {
            return Vec::new();
        }
        if self.is_cut() {
            self.connect_soon(now, due);
            return Vec::new();
        }
        let mut told = Vec::new();
        self.last_link += 1;
        let link = self.last_link;
        for node in NodeName::BOTH {
            if let Some(old) = self.believes[node.index()] {
                told.extend(self.forget(node, old));
            }
            self.opening[node.index()] = Some(link);
            let at = now + self.transit();
            let tails = &mut self.tail[node.partner().index()];
            *tails = [at, at];
            due.push((at, LinkStep::Up { node, link }));
        }
        self.session = Some(link);
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;
    use crate::mirror::message::{Body, Control};
    use std::collections::BTreeMap;

    struct Bench {
        net: Network,
        queue: BTreeMap<(Instant, u64), LinkStep>,
        now: Instant,
        seen: Vec<(NodeName, u64, String)>,
    }

    impl Bench {
        fn new(seed: u64, late: f64) -> Bench {
            let net = Network::new(Rng::new(seed), 500, late);
            let mut bench = Bench { net, queue: BTreeMap::new(), now: Instant::ZERO, seen: Vec::new() };
            bench.act(|net, now, due| {
                net.started(now, NodeName::A, 1, due);
                net.started(now, NodeName::B, 2, due);
            });
            bench.run(1_000);
            bench
        }

        fn act(&mut self, act: impl FnOnce(&mut Network, Instant, &mut Vec<Due>)) {
            let mut due = Vec::new();
            act(&mut self.net, self.now, &mut due);
            self.enqueue(due);
        }

        fn enqueue(&mut self, due: Vec<Due>) {
            for (at, step) in due {
                let number = self.queue.len() as u64 + self.seen.len() as u64 * 1000;
                let mut key = (at, number);
                while self.queue.contains_key(&key) {
                    key.1 += 1;
                }
                self.queue.insert(key, step);
            }
        }

        fn run(&mut self, millis: u64) {
            let end = self.now + Duration::from_millis(millis);
            while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
                let ((at, _), step) = entry.remove_entry();
                self.now = at;
                let mut due = Vec::new();
                for told in self.net.step(at, step, &mut due) {
                    self.seen.push(match told {
                        Delivery::Up(node, link) => (node, link, "up".into()),
                        Delivery::Down(node, link) => (node, link, "down".into()),
                        Delivery::Message(node, link, message) => (node, link, number(&message)),
                    });
                }
                self.enqueue(due);
            }
            self.now = end;
        }

        fn send(&mut self, from: NodeName, epoch: u64) {
            let link = self.net.believes[from.index()].unwrap_or(0);
            let message = Message::control(Control::Go { epoch: Epoch(epoch) });
            self.act(|net, now, due| net.send(now, from, link, message, due));
        }

        fn got(&self, node: NodeName) -> Vec<String> {
            self.seen.iter().filter(|seen| seen.0 == node).map(|seen| seen.2.clone()).collect()
        }
    }

    fn number(message: &Message) -> String {
        match &message.body {
            Body::Control(Control::Go { epoch }) => epoch.to_string(),
            _ => "?".into(),
        }
    }

    #[test]
    fn messages_arrive_in_order_after_both_are_up() {
        let mut bench = Bench::new(1, 0.0);
        assert!(bench.net.is_whole());
        for epoch in 0..100 {
            bench.send(NodeName::A, epoch);
        }
        bench.run(100);
        let expected: Vec<String> =
            ["up".into()].into_iter().chain((0..100).map(|n| n.to_string())).collect();
        assert_eq!(bench.got(NodeName::B), expected);
    }

    #[test]
    fn a_short_cut_stalls_and_a_long_one_loses() {
        let (mut stalled, mut lost) = (0, 0);
        for seed in 0..200 {
            let mut bench = Bench::new(seed, 0.0);
            bench.act(|net, now, due| net.cut(now, &[NodeName::A], due));
            bench.send(NodeName::A, 7);
            bench.send(NodeName::B, 8);
            bench.run(seed % 2 * 4_000 + 2);
            bench.act(|net, now, due| net.heal(now, due));
            bench.send(NodeName::A, 9);
            bench.run(5_000);
            let got = bench.got(NodeName::B);
            assert!(bench.net.is_whole(), "{:?}", bench.net);
            match got.iter().position(|what| what == "7") {
                Some(first) => {
                    stalled += 1;
                    assert_eq!(got[first + 1], "9", "order kept");
                }
                None => {
                    lost += 1;
                    assert!(got.iter().filter(|what| *what == "up").count() == 2, "{got:?}");
                }
            }
            if seed % 2 == 1 {
                let last = bench.seen.iter().rfind(|seen| seen.2 == "up").expect("up");
                assert!(last.1 > 1, "a new number");
            }
        }
        assert!(stalled > 30 && lost > 100, "{stalled} {lost}");
    }

    #[test]
    fn stragglers_carry_their_old_number() {
        let mut late = 0;
        for seed in 0..50 {
            let mut bench = Bench::new(seed, 1.0);
            bench.act(|net, _, _| net.set_delay(1_000_000));
            bench.send(NodeName::A, 7);
            bench.act(|net, now, due| net.disconnect(now, NodeName::B, 1, due));
            bench.run(10_000);
            let up =
                bench.seen.iter().position(|seen| *seen == (NodeName::B, 2, "up".into())).expect("again");
            let stale =
                bench.seen.iter().position(|seen| *seen == (NodeName::B, 1, "7".into())).expect("late");
            late += u32::from(stale > up);
        }
        assert!(late > 10, "{late}");
    }

    #[test]
    fn a_dead_node_is_noticed_and_its_next_life_connects() {
        let mut bench = Bench::new(3, 0.0);
        bench.act(|net, now, due| net.died(now, NodeName::A, false, due));
        bench.run(100);
        assert_eq!(bench.got(NodeName::B), ["up", "down"]);
        bench.act(|net, now, due| net.started(now, NodeName::A, 3, due));
        bench.run(1_000);
        assert!(bench.net.is_whole());
    }
}
