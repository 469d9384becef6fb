//! What a node that has just started, or has lost, may do: it reads the register and either goes on, takes
//! itself out, or waits to be brought up to date.
//!
//! Invariants: a restarted node never swaps {both} → {itself}, only itself out; unless its own durable record says "alone" in
//! a later epoch, of which the register has not heard. Except where that record says "alone" in the register's epoch, the
//! right to serve alone begins with a swap made in this life that raises the epoch. A node that is behind never serves.

use super::Node;
use super::event::Notice;
use super::phase::Phase;
use crate::arbiter::{Answer, Ask, Register};
use crate::ids::{Epoch, Generation, Members, NodeName};
use crate::mirror::message::{Control, Hello, PeerPhase};
use crate::planted::Bug;
use crate::pool::NodeRecord;
use crate::time::{Duration, Instant};

/// What to do about the register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Move {
    /// Nothing: the partner serves, or will.
    Wait,
    /// The record says that this node is alone in the register's epoch.
    GoOn,
    /// Swap the register so that this node alone may serve, then go on.
    Raise,
    /// Swap the register so that only the partner may serve.
    StepOut,
    /// Swap the register to what the record says: the partner had handed over.
    BringUp,
    /// The register is older than this node's own record: a person must look.
    Rollback,
}

/// What a node may do by the register alone. `unbroken`: its memory is the one that lost (not restarted).
/// `partner_new`: the partner is there and has never held data.
pub(super) fn consider(
    me: NodeName,
    record: NodeRecord,
    register: Option<Register>,
    unbroken: bool,
    partner_new: bool,
) -> Move {
    let fresh = record.epoch == Epoch(0);
    let Some(register) = register else { return if fresh { Move::Raise } else { Move::Rollback } };
    let (mine, partners) = (Members::only(me), Members::only(me.partner()));
    if register.epoch < record.epoch && record.members == partners {
        // Handed over, or outdated, in an epoch that the register does not know yet.
        return Move::Wait;
    }
    if register.members == partners {
        return Move::Wait;
    }
    if register.members == Members::BOTH {
        return match record.members {
            _ if unbroken => Move::Wait,
            _ if fresh => Move::StepOut,
            members if members == partners || !record.up_to_date => Move::Wait,
            members if members == mine && record.epoch > register.epoch => Move::BringUp,
            members if members == Members::BOTH => Move::StepOut,
            _ => Move::Wait,
        };
    }
    match record.members {
        // The partnership was being formed when this node died: nothing was served before epoch 1 was recorded.
        // In a later epoch an empty half means that its disks were replaced: the partner may have the data.
        _ if fresh && (partner_new || register.epoch == Epoch(1)) => Move::Raise,
        _ if fresh || !record.up_to_date => Move::Wait,
        members if members == mine && record.epoch == register.epoch => Move::GoOn,
        members if members == Members::BOTH && register.by == me && !unbroken => Move::StepOut,
        _ => Move::Raise,
    }
}

/// Without an arbiter, of two nodes that left the same epoch as equals: does this one follow the other?
/// `restarted`: its memory is not the one that was in the pair. `complete`: it stopped with everything.
fn yields(restarted: bool, complete: bool, preferred: bool, peer: PeerPhase, peer_complete: bool) -> bool {
    match peer {
        // The partner's memory is unbroken: it has everything that was acknowledged.
        PeerPhase::Lost if restarted => true,
        PeerPhase::Paired | PeerPhase::Deciding => restarted,
        // Both restarted: the one that stopped with everything goes on, else the preferred one.
        PeerPhase::Starting if peer_complete != complete => restarted && peer_complete,
        PeerPhase::Starting => restarted && !preferred,
        PeerPhase::Lost => !preferred,
        _ => false,
    }
}

impl Node {
    fn idle_register(&self) -> Option<Option<Register>> {
        match &self.phase {
            Phase::Starting(starting) => starting.register,
            Phase::Lost(lost) => lost.register,
            _ => None,
        }
    }

    fn idle_state(&mut self) -> Option<(&mut Option<Option<Register>>, &mut Instant)> {
        match &mut self.phase {
            Phase::Starting(starting) => Some((&mut starting.register, &mut starting.ask_at)),
            Phase::Lost(lost) => Some((&mut lost.register, &mut lost.ask_at)),
            _ => None,
        }
    }

    fn idle_move(&self, register: Option<Register>) -> Move {
        let partner_new = self.peer.as_ref().is_some_and(|peer| {
            peer.epoch == Epoch(0) && peer.halves.iter().all(|half| half.generation == Generation(0))
        });
        let lost = matches!(self.phase, Phase::Lost(_));
        let found = consider(self.me(), self.record(), register, lost, partner_new);
        if found == Move::StepOut
            && self.has(Bug::GrantUsedAfterRestart)
            && register.is_some_and(|register| register.members == Members::only(self.me()))
        {
            return Move::Raise;
        }
        let both = register.is_some_and(|register| register.members == Members::BOTH);
        if both && !lost && self.record().epoch > Epoch(0) && self.has(Bug::SwapsAfterRestart) {
            return Move::Raise;
        }
        if found == Move::Raise && self.has(Bug::RegisterReadIsGrant) && self.record().epoch > Epoch(0) {
            return Move::GoOn;
        }
        found
    }

    pub(super) fn idle_step(&mut self) {
        self.finish_yield();
        if !self.has_arbiter() {
            self.idle_unasked();
            return;
        }
        let now = self.now;
        let due = self.idle_state().is_some_and(|(_, ask_at)| now >= *ask_at);
        if due && self.question.is_none() {
            self.ask(Ask::Read);
        }
    }

    /// Without an arbiter, the node that was alone goes on by its own record.
    fn idle_unasked(&mut self) {
        let record = self.record();
        let alone = record.members == Members::only(self.me()) && record.epoch > Epoch(0);
        if alone && record.up_to_date && matches!(self.phase, Phase::Starting(_)) {
            self.wait_out(record.epoch, None);
        } else if self.has(Bug::PreferredGoesOnAfterRestart)
            && self.config.preferred == self.me()
            && record.members == Members::BOTH
            && record.epoch > Epoch(0)
            && matches!(self.phase, Phase::Starting(_))
        {
            self.wait_out(self.next_epoch(None), None);
        }
    }

    pub(super) fn idle_deadline(&self, ask_at: Instant) -> Option<Instant> {
        (self.has_arbiter() && self.question.is_none()).then_some(ask_at)
    }

    /// The arbiter answered a node that starts or has lost.
    pub(super) fn idle_verdict(&mut self, ask: Ask, answer: Answer) {
        let raised = matches!(ask, Ask::Swap { new, .. } if new.members == Members::only(self.me()));
        let (now, retry) = (self.now, self.config.mirror.arbiter_retry);
        let Some((register, ask_at)) = self.idle_state() else { return };
        *register = Some(answer.register);
        *ask_at = now + retry;
        if let Some(register) = answer.register.filter(|_| answer.swapped && raised) {
            self.wait_out(register.epoch, Some(register));
            return;
        }
        match self.idle_move(answer.register) {
            Move::Wait => self.consider_peer(),
            Move::GoOn => {
                if let Some(register) = answer.register {
                    self.wait_out(register.epoch, Some(register));
                }
            }
            Move::Raise if self.must_defer(answer.register) => {}
            Move::Raise => {
                let expect = answer.register;
                self.ask(Ask::Swap { expect, new: self.mine(expect) });
            }
            Move::StepOut => {
                let expect = answer.register;
                let members = Members::only(self.me().partner());
                let new = Register { epoch: self.next_epoch(expect), members, by: self.me() };
                self.ask(Ask::Swap { expect, new });
            }
            Move::BringUp => {
                let record = self.record();
                let new = Register { epoch: record.epoch, members: record.members, by: self.me() };
                self.ask(Ask::Swap { expect: answer.register, new });
            }
            Move::Rollback => self.notice(Notice::NeedsDecision(
                "the arbiter's register is empty although this node has served before; restore the register, or \
                 name the node that shall go on"
                    .into(),
            )),
        }
    }

    /// A new partnership is formed by the preferred node if it is there.
    fn must_defer(&self, register: Option<Register>) -> bool {
        let patience: Duration = self.config.mirror.lease * 2;
        register.is_none() && self.config.preferred != self.me() && self.now < self.opened_at + patience
    }

    /// May the partner bring this node up to date now?
    pub(super) fn ready_to_rejoin(&self) -> bool {
        let partners = Members::only(self.me().partner());
        let settled = match self.idle_register() {
            _ if !self.has_arbiter() => true,
            Some(Some(register)) => {
                register.members == partners
                    || (register.members == Members::BOTH && self.record().members == partners)
                    || !self.record().up_to_date
            }
            _ => false,
        };
        !self.is_swapping()
            && match &self.phase {
                Phase::Starting(starting) => settled && starting.yielding.is_none(),
                Phase::Lost(lost) => settled && lost.yielding.is_none(),
                Phase::Target(target) => self.is_durable(target.lsn) && target.joining.is_none(),
                Phase::Joined(_) | Phase::Paired(_) | Phase::Alone(_) => true,
                _ => false,
            }
    }

    /// Without an arbiter: two nodes with equal rights meet, or one that may go on meets one that may not.
    pub(super) fn consider_yield(&mut self, peer: &Hello) {
        if self.has_arbiter() || self.idle_yielding() {
            return;
        }
        let record = self.record();
        if record.members != Members::BOTH || !record.up_to_date {
            return;
        }
        let partner_follows = peer.members == Members::only(self.me())
            && matches!(peer.phase, PeerPhase::Starting | PeerPhase::Lost | PeerPhase::Target);
        if partner_follows {
            let epoch = Epoch(self.next_epoch(None).0.max(peer.epoch.0 + 1));
            self.take_over_now(epoch, None, false);
            return;
        }
        if peer.epoch == Epoch(0) && record.epoch != Epoch(0) {
            // It may have served alone before it lost its disks: nobody but a person knows.
            self.notice(Notice::NeedsDecision(
                "the partner holds no data and may have had newer data than this node; say which node goes on".into(),
            ));
            return;
        }
        if peer.members != Members::BOTH || !peer.up_to_date || peer.epoch != record.epoch {
            return;
        }
        let preferred = self.config.preferred == self.me();
        let restarted = matches!(self.phase, Phase::Starting(_));
        if yields(restarted, record.complete, preferred, peer.phase, peer.complete) {
            let members = Members::only(self.me().partner());
            let lsn =
                self.append(&[crate::pool::Record::Node(NodeRecord { members, complete: false, ..record })]);
            match &mut self.phase {
                Phase::Starting(starting) => starting.yielding = Some(lsn),
                Phase::Lost(lost) => lost.yielding = Some(lsn),
                _ => {}
            }
            self.hello_due = true;
        }
    }

    fn idle_yielding(&self) -> bool {
        match &self.phase {
            Phase::Starting(starting) => starting.yielding.is_some(),
            Phase::Lost(lost) => lost.yielding.is_some(),
            _ => false,
        }
    }

    fn finish_yield(&mut self) {
        let yielding = match &self.phase {
            Phase::Starting(starting) => starting.yielding,
            Phase::Lost(lost) => lost.yielding,
            _ => None,
        };
        if !yielding.is_some_and(|lsn| self.is_durable(lsn)) {
            return;
        }
        match &mut self.phase {
            Phase::Starting(starting) => starting.yielding = None,
            Phase::Lost(lost) => lost.yielding = None,
            _ => {}
        }
        self.hello_due = true;
        let epoch = self.record().epoch;
        self.say(Control::Yield { epoch });
    }

    /// The partner follows, and has written so down.
    pub(super) fn yielded(&mut self, epoch: Epoch) {
        let record = self.record();
        if self.has_arbiter() || record.members != Members::BOTH || !record.up_to_date {
            return;
        }
        let next = Epoch(self.next_epoch(None).0.max(epoch.0 + 1));
        match &self.phase {
            Phase::Paired(_) => {
                self.drop_partners_business();
                self.take_over_now(next, None, false);
            }
            Phase::Deciding(_) | Phase::Starting(_) | Phase::Lost(_) => self.take_over_now(next, None, false),
            Phase::Waiting(waiting) => {
                let epoch = waiting.epoch.max(next);
                self.take_over_now(epoch, None, false);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeName = NodeName::A;

    fn record(epoch: u64, members: Members) -> NodeRecord {
        NodeRecord { epoch: Epoch(epoch), members, proposed: Epoch(epoch), up_to_date: true, complete: false }
    }

    fn register(epoch: u64, members: Members, by: NodeName) -> Option<Register> {
        Some(Register { epoch: Epoch(epoch), members, by })
    }

    #[test]
    fn a_node_that_was_last_goes_on() {
        let (mine, both) = (Members::only(A), Members::BOTH);
        assert_eq!(consider(A, record(5, mine), register(5, mine, A), false, false), Move::GoOn);
        assert_eq!(consider(A, record(4, both), register(5, mine, NodeName::B), false, false), Move::Raise);
    }

    #[test]
    fn a_restarted_node_takes_itself_out_and_gives_an_unused_grant_back() {
        let (mine, both) = (Members::only(A), Members::BOTH);
        assert_eq!(consider(A, record(5, both), register(5, both, A), false, false), Move::StepOut);
        assert_eq!(consider(A, record(5, both), register(6, mine, A), false, false), Move::StepOut);
    }

    /// Who follows of a and b, by whether each restarted and stopped with everything; `preferred`: that one is.
    fn followers(restarted: [bool; 2], complete: [bool; 2], preferred: usize) -> [bool; 2] {
        let phase = |n: usize| if restarted[n] { PeerPhase::Starting } else { PeerPhase::Lost };
        [0, 1].map(|n| yields(restarted[n], complete[n], n == preferred, phase(1 - n), complete[1 - n]))
    }

    #[test]
    fn of_two_that_restarted_the_complete_one_goes_on_else_the_preferred() {
        let (a_follows, b_follows) = ([true, false], [false, true]);
        let table = [
            // complete: a, b; who follows when a, and when b, is preferred
            ([false, false], [b_follows, a_follows]),
            ([false, true], [a_follows, a_follows]),
            ([true, false], [b_follows, b_follows]),
            ([true, true], [b_follows, a_follows]),
        ];
        for (complete, expected) in table {
            let found = [0, 1].map(|preferred| followers([true; 2], complete, preferred));
            assert_eq!(found, expected, "complete: {complete:?}");
        }
    }

    #[test]
    fn a_restarted_node_follows_one_whose_memory_is_unbroken() {
        for complete in [[false; 2], [false, true], [true, false], [true; 2]] {
            for preferred in [0, 1] {
                assert_eq!(followers([true, false], complete, preferred), [true, false]);
                assert_eq!(followers([false; 2], complete, preferred), [preferred != 0, preferred != 1]);
            }
        }
    }

    #[test]
    fn a_node_that_is_behind_or_new_waits() {
        let (mine, partners) = (Members::only(A), Members::only(NodeName::B));
        let behind = NodeRecord { up_to_date: false, ..record(5, partners) };
        assert_eq!(consider(A, behind, register(7, mine, NodeName::B), false, false), Move::Wait);
        assert_eq!(consider(A, record(5, partners), register(5, Members::BOTH, A), false, false), Move::Wait);
        assert_eq!(consider(A, record(0, Members::BOTH), register(7, mine, A), false, false), Move::Wait);
        assert_eq!(consider(A, record(0, Members::BOTH), register(7, mine, A), false, true), Move::Raise);
        assert_eq!(consider(A, record(0, Members::BOTH), None, false, false), Move::Raise);
        assert_eq!(consider(A, record(3, Members::BOTH), None, false, false), Move::Rollback);
    }
}
