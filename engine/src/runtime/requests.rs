//! Guest requests of a lane in progress: whom to tell when one ends.
//!
//! An id is the number of the lane (16 bits), the life of the slot (24) and its index (24).
//!
//! Invariant: every request entered is taken out once, by its answer or by [`Requests::close`], and none is
//! entered afterwards. The id of a slot's next request differs from those before it, so that an abort which comes too late
//! hits nobody: a slot that is free waits behind [`FREE_MIN`] others, so an id comes again after 2³² requests, not earlier.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::guest::{GuestError, Sink};
use crate::ids::RequestId;

/// Whom to tell, with the token that the caller chose.
pub(super) type Caller = (Arc<dyn Sink>, u64);

const PART_BITS: u32 = 24;
/// The highest life, and the highest index. Life 0 is that of no request: id 0 is nobody's.
const PART_MAX: u32 = (1 << PART_BITS) - 1;
/// Slots that stay free as long as another can be made.
const FREE_MIN: usize = 256;

/// The lane of a request.
pub(super) fn lane_of(id: RequestId) -> u16 {
    (id.0 >> (2 * PART_BITS)) as u16
}

pub(super) struct Requests {
    lane: u16,
    slots: Vec<Slot>,
    free: VecDeque<u32>,
    aborts: BTreeMap<RequestId, Vec<Caller>>,
    closed: bool,
    aborts_closed: bool,
}

#[derive(Default)]
struct Slot {
    life: u32,
    /// Whom to tell, and what if nothing comes any more.
    caller: Option<(Caller, GuestError)>,
}

impl Requests {
    pub(super) fn new(lane: u16) -> Requests {
        Requests {
            lane,
            slots: Vec::new(),
            free: VecDeque::new(),
            aborts: BTreeMap::new(),
            closed: false,
            aborts_closed: false,
        }
    }

    /// Enters a request, to be answered with `at_end` if no answer comes any more; gives the caller back if nothing is
    /// entered any more, or there are 16 million.
    pub(super) fn enter(&mut self, caller: Caller, at_end: GuestError) -> Result<RequestId, Caller> {
        if self.closed {
            return Err(caller);
        }
        let Some(index) = self.vacancy() else { return Err(caller) };
        let slot = &mut self.slots[index as usize];
        slot.life = slot.life % PART_MAX + 1;
        slot.caller = Some((caller, at_end));
        let (lane, life) = (u64::from(self.lane), u64::from(slot.life));
        Ok(RequestId((lane << PART_BITS | life) << PART_BITS | u64::from(index)))
    }

    fn vacancy(&mut self) -> Option<u32> {
        if self.free.len() < FREE_MIN && self.slots.len() <= PART_MAX as usize {
            self.slots.push(Slot::default());
            return Some(self.slots.len() as u32 - 1);
        }
        self.free.pop_front()
    }

    /// The request has its answer.
    pub(super) fn take(&mut self, id: RequestId) -> Option<Caller> {
        if lane_of(id) != self.lane {
            return None;
        }
        let index = id.0 as u32 & PART_MAX;
        let slot = self.slots.get_mut(index as usize)?;
        if slot.life != (id.0 >> PART_BITS) as u32 & PART_MAX {
            return None;
        }
        let (caller, _) = slot.caller.take()?;
        self.free.push_back(index);
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

    /// No request is entered any more. Returns those that wait for an answer, with it; when they have theirs, call
    /// [`close_aborts`](Self::close_aborts).
    pub(super) fn close(&mut self) -> Vec<(Caller, GuestError)> {
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
        requests.enter(caller(token), GuestError::Unavailable).ok().expect("open")
    }

    #[test]
    fn each_request_is_answered_once() {
        let mut requests = Requests::new(3);
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
    fn an_id_names_its_lane_and_does_not_come_again_soon() {
        let mut requests = Requests::new(3);
        let kept = enter(&mut requests, 0);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..10 * FREE_MIN {
            let id = enter(&mut requests, 1);
            assert_eq!(lane_of(id), 3);
            assert!(seen.insert(id));
            requests.take(id).unwrap();
        }
        assert_eq!(requests.slots.len(), FREE_MIN + 1);
        // Each of the slots is at the end of its last life.
        requests.slots.iter_mut().for_each(|slot| slot.life = PART_MAX);
        for _ in 0..FREE_MIN {
            let id = enter(&mut requests, 2);
            assert_eq!(
                id.0 >> PART_BITS,
                3 << PART_BITS | 1,
                "life 0 is skipped, and the lane is left alone"
            );
            requests.take(id).unwrap();
        }
        assert!(requests.take(kept).is_none(), "of an earlier life");
        let foreign = RequestId(u64::from(lane_of(kept) + 1) << (2 * PART_BITS) | 1 << PART_BITS);
        assert!(requests.take(foreign).is_none());
    }

    #[test]
    fn all_who_abort_a_request_are_told() {
        let mut requests = Requests::new(3);
        let id = enter(&mut requests, 1);
        assert!(requests.enter_abort(id, caller(2)).is_ok());
        assert!(requests.enter_abort(id, caller(3)).is_ok());
        let tokens: Vec<u64> = requests.take_aborts(id).into_iter().map(|(_, token)| token).collect();
        assert_eq!(tokens, [2, 3]);
        assert!(requests.take_aborts(id).is_empty());
    }

    #[test]
    fn closing_returns_all_and_refuses_more() {
        let mut requests = Requests::new(3);
        let done = enter(&mut requests, 1);
        let open = enter(&mut requests, 2);
        assert!(requests.enter(caller(6), GuestError::Uncertain).is_ok());
        assert!(requests.enter_abort(open, caller(3)).is_ok());
        requests.take(done);
        let waiting = requests.close();
        assert!(requests.enter_abort(open, caller(5)).is_ok());
        let aborting = requests.close_aborts();
        let waiting: Vec<_> = waiting.iter().map(|((_, token), answer)| (*token, *answer)).collect();
        assert_eq!(waiting, [(2, GuestError::Unavailable), (6, GuestError::Uncertain)]);
        assert_eq!(aborting.iter().map(|(_, token)| *token).collect::<Vec<_>>(), [3, 5]);
        assert!(requests.take(open).is_none());
        assert!(requests.enter(caller(4), GuestError::Unavailable).is_err());
        assert!(requests.enter_abort(open, caller(6)).is_err());
    }
}
