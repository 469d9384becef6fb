//! What one life of a node has seen of the register, so that a register that goes back is not believed.
//!
//! Epochs only rise, so an answer that is older than one before comes from a register that was restored from a backup, or
//! lost. Nothing in it shows that; what was seen does. It cannot be told what else the register has forgotten, so such an
//! answer is none at all: neither a grant nor a refusal.

use super::{Answer, Ask, Register};

/// What was seen last. Questions are asked one after the other; an answer is judged before the next is asked.
#[derive(Debug, Default)]
pub struct Past {
    seen: Option<Register>,
}

/// The register holds less than it held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the register has gone back: epoch {0} was seen in it, and now it holds another {1}, as one does that was restored or \
     lost; stop both nodes, then start first the one that served last"
)]
pub struct WentBack(u64, u64);

impl Past {
    /// May this answer be believed?
    ///
    /// # Errors
    /// It is older than what was seen, or another of the same epoch, or none; or it lets the asker serve in an older epoch
    /// than the one it expected, which the partner has told it of. (An older one that names only the partner may be
    /// right: what was expected may not have come about.)
    pub fn judge(&mut self, ask: Ask, answer: Answer) -> Result<Answer, WentBack> {
        let epoch = |register: Option<Register>| register.map_or(0, |register| register.epoch.0);
        let now = answer.register;
        let back = WentBack(epoch(self.seen), epoch(now));
        if epoch(now) < epoch(self.seen) || (epoch(now) == epoch(self.seen) && now != self.seen) {
            return Err(back);
        }
        if let Ask::Swap { expect: Some(expected), new } = ask
            && now.is_none_or(|now| now.epoch < expected.epoch && now.members.has(new.by))
        {
            return Err(WentBack(expected.epoch.0, epoch(now)));
        }
        self.seen = now;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Members, NodeName};

    const A: NodeName = NodeName::A;
    const B: NodeName = NodeName::B;

    fn register(epoch: u64, members: Members, by: NodeName) -> Option<Register> {
        Some(Register { epoch: Epoch(epoch), members, by })
    }

    fn holds(register: Option<Register>) -> Answer {
        Answer { swapped: false, register }
    }

    /// Node a, in epoch `epoch` with b, asks to go on alone.
    fn goes_on(epoch: u64, by: NodeName) -> Ask {
        let new = register(epoch + 1, Members::only(A), A).expect("one");
        Ask::Swap { expect: register(epoch, Members::BOTH, by), new }
    }

    #[test]
    fn what_only_rises_is_believed() {
        let mut past = Past::default();
        let story = [
            None,
            register(1, Members::only(A), A),
            register(2, Members::BOTH, A),
            register(5, Members::only(B), B),
        ];
        for now in story.into_iter().flat_map(|now| [now, now]) {
            assert_eq!(past.judge(Ask::Read, holds(now)), Ok(holds(now)));
        }
    }

    #[test]
    fn what_is_older_or_another_of_the_same_epoch_is_not() {
        let seen = register(5, Members::only(B), B);
        for now in [
            None,
            register(4, Members::only(B), B),
            register(5, Members::only(A), B),
            register(5, Members::only(B), A),
        ] {
            let mut past = Past::default();
            past.judge(Ask::Read, holds(seen)).unwrap();
            for _ in 0..2 {
                let text = past.judge(Ask::Read, holds(now)).unwrap_err().to_string();
                assert!(text.contains("epoch 5 was seen") && text.contains("start first"), "{text}");
            }
            assert!(past.judge(Ask::Read, holds(seen)).is_ok(), "what was seen is remembered");
        }
    }

    /// The register that node a has never read itself, but knows of from its partner.
    #[test]
    fn an_older_epoch_is_no_grant() {
        for now in [None, register(3, Members::only(A), A), register(3, Members::BOTH, B)] {
            assert!(Past::default().judge(goes_on(5, B), holds(now)).is_err(), "{now:?}");
        }
        // The partner has won; or it never made epoch 5 out of its own epoch 4.
        for now in [register(6, Members::only(B), B), register(4, Members::only(B), B)] {
            assert!(Past::default().judge(goes_on(5, B), holds(now)).is_ok(), "{now:?}");
        }
    }
}
