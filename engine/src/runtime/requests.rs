//! Guest requests in progress: whom to tell when one ends.
//!
//! Invariant: every request entered is taken out once, by its answer or by [`Requests::close`], and none is
//! entered afterwards. The id of a slot's next request differs from those before it, so that an abort which comes too late
//! hits nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::guest::Sink;
use crate::ids::RequestId;

/// Whom to tell, with the token that the caller chose.
pub(super) type Caller = (Arc<dyn Sink>, u64);

#[derive(Default)]
pub(super) struct Requests {
    slots: Vec<Slot>,
    free: Vec<u32>,
    aborts: BTreeMap<RequestId, Vec<Caller>>,
    closed: bool,
    aborts_closed: bool,
}

#[derive(Default)]
struct Slot {
    life: u32,
    caller: Option<Caller>,
}

impl Requests {
    /// Enters a request; gives the caller back if nothing is entered any more.
    pub(super) fn enter(&mut self, caller: Caller) -> Result<RequestId, Caller> {
        if self.closed {
            return Err(caller);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.life = slot.life.wrapping_add(1);
        slot.caller = Some(caller);
        Ok(RequestId(u64::from(slot.life) << 32 | u64::from(index)))
    }

    /// The request has its answer.
    pub(super) fn take(&mut self, id: RequestId) -> Option<Caller> {
        let slot = self.slots.get_mut(id.0 as u32 as usize)?;
        if u64::from(slot.life) != id.0 >> 32 {
            return None;
        }
        let caller = slot.caller.take()?;
        self.free.push(id.0 as u32);
        Some(caller)
    }

    /// Somebody wants to know when the request can no longer act.
    pub(super) fn enter_abort(&mut self, id: RequestId, caller: Caller) -> Result<(), Caller> {
        if self.aborts_closed {
            return Err(caller);
        }
        self.aborts.entry(id).or_default().push(caller);
        Ok(())
    }

    /// The request can no longer act.
    pub(super) fn take_aborts(&mut self, id: RequestId) -> Vec<Caller> {
        self.aborts.remove(&id).unwrap_or_default()
    }

    /// No request is entered any more. Returns those that wait for an answer; when they have theirs, call
    /// [`close_aborts`](Self::close_aborts).
    pub(super) fn close(&mut self) -> Vec<Caller> {
        self.closed = true;
        self.slots.iter_mut().filter_map(|slot| slot.caller.take()).collect()
    }

    /// No abort is entered any more, for nothing can act. Returns those to be told so.
    pub(super) fn close_aborts(&mut self) -> Vec<Caller> {
        self.aborts_closed = true;
        std::mem::take(&mut self.aborts).into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::GuestResult;

    struct Deaf;
    impl Sink for Deaf {
        fn complete(&self, _token: u64, _result: GuestResult) {}
    }

    fn caller(token: u64) -> Caller {
        (Arc::new(Deaf), token)
    }

    fn enter(requests: &mut Requests, token: u64) -> RequestId {
        requests.enter(caller(token)).ok().expect("open")
    }

    #[test]
    fn each_request_is_answered_once() {
        let mut requests = Requests::default();
        let ids = [enter(&mut requests, 7), enter(&mut requests, 8)];
        assert_eq!(requests.take(ids[1]).unwrap().1, 8);
        assert!(requests.take(ids[1]).is_none());
        let again = enter(&mut requests, 9);
        assert_ne!(again, ids[1]);
        assert!(requests.take(ids[1]).is_none());
        assert_eq!(requests.take(again).unwrap().1, 9);
        assert_eq!(requests.take(ids[0]).unwrap().1, 7);
        assert!(requests.take(RequestId(u64::MAX)).is_none());
    }

    #[test]
    fn all_who_abort_a_request_are_told() {
        let mut requests = Requests::default();
        let id = enter(&mut requests, 1);
        assert!(requests.enter_abort(id, caller(2)).is_ok());
        assert!(requests.enter_abort(id, caller(3)).is_ok());
        let tokens: Vec<u64> = requests.take_aborts(id).into_iter().map(|(_, token)| token).collect();
        assert_eq!(tokens, [2, 3]);
        assert!(requests.take_aborts(id).is_empty());
    }

    #[test]
    fn closing_returns_all_and_refuses_more() {
        let mut requests = Requests::default();
        let done = enter(&mut requests, 1);
        let open = enter(&mut requests, 2);
        assert!(requests.enter_abort(open, caller(3)).is_ok());
        requests.take(done);
        let waiting = requests.close();
        assert!(requests.enter_abort(open, caller(5)).is_ok());
        let aborting = requests.close_aborts();
        assert_eq!(waiting.iter().map(|(_, token)| *token).collect::<Vec<_>>(), [2]);
        assert_eq!(aborting.iter().map(|(_, token)| *token).collect::<Vec<_>>(), [3, 5]);
        assert!(requests.take(open).is_none());
        assert!(requests.enter(caller(4)).is_err());
        assert!(requests.enter_abort(open, caller(6)).is_err());
    }
}
