//! A register in memory: it outlives the nodes only as far as this process does.

use parking_lot::Mutex;

use super::{Answer, Arbiter, ArbiterError, Ask, Register};

/// For two engines in one process, and for tests.
#[derive(Debug, Default)]
pub struct MemoryArbiter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    register: Option<Register>,
    unreachable: bool,
}

impl MemoryArbiter {
    /// An empty register.
    pub fn new() -> MemoryArbiter {
        MemoryArbiter::default()
    }

    /// From now on, can it be asked?
    pub fn set_reachable(&self, reachable: bool) {
        self.0.lock().unreachable = !reachable;
    }
}

impl Arbiter for MemoryArbiter {
    fn ask(&self, ask: Ask) -> Result<Answer, ArbiterError> {
        let mut state = self.0.lock();
        if state.unreachable {
            return Err(ArbiterError { reason: "switched off".into() });
        }
        let answer = ask.decide(state.register);
        state.register = answer.register;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Members, NodeName};

    fn register(epoch: u64, by: NodeName) -> Register {
        Register { epoch: Epoch(epoch), members: Members::only(by), by }
    }

    #[test]
    fn only_what_is_expected_is_replaced() {
        let arbiter = MemoryArbiter::new();
        let (a, b) = (register(1, NodeName::A), register(2, NodeName::B));
        let swap = |expect, new| arbiter.ask(Ask::Swap { expect, new }).unwrap();
        assert_eq!(arbiter.ask(Ask::Read).unwrap(), Answer { swapped: false, register: None });
        assert_eq!(swap(Some(b), a), Answer { swapped: false, register: None });
        assert_eq!(swap(None, a), Answer { swapped: true, register: Some(a) });
        assert_eq!(swap(None, b), Answer { swapped: false, register: Some(a) });
        assert_eq!(swap(Some(a), b), Answer { swapped: true, register: Some(b) });
        assert_eq!(arbiter.ask(Ask::Read).unwrap().register, Some(b));
    }

    #[test]
    fn the_epoch_only_rises() {
        let arbiter = MemoryArbiter::new();
        let (a, b) = (register(5, NodeName::A), register(5, NodeName::B));
        assert!(arbiter.ask(Ask::Swap { expect: None, new: a }).unwrap().swapped);
        assert!(!arbiter.ask(Ask::Swap { expect: Some(a), new: b }).unwrap().swapped);
    }

    #[test]
    fn unreachable_is_an_error_and_changes_nothing() {
        let arbiter = MemoryArbiter::new();
        arbiter.set_reachable(false);
        assert!(arbiter.ask(Ask::Swap { expect: None, new: register(1, NodeName::A) }).is_err());
        arbiter.set_reachable(true);
        assert_eq!(arbiter.ask(Ask::Read).unwrap().register, None);
    }
}
