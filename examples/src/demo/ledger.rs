//! What hosts may read: of every block, the writes whose content may be there.
//!
//! Every write of a block has an id of its own, and the block is full of it. A write has *settled* when it was
//! acknowledged or its id was read; from then on no write may be seen that had settled before it began. Writes that
//! overlap in time may come in either order. What breaks this is a lost write, or a stale read.

use parking_lot::Mutex;

/// How many writes that may not be seen any more are remembered per block, for reads that began when they might.
const GONE_MAX: usize = 64;

/// A logical time: the number of things that have happened.
pub(crate) type Moment = u64;

#[derive(Clone, Copy)]
struct Entry {
    id: u64,
    began: Moment,
    settled: Option<Moment>,
}

#[derive(Clone, Default)]
struct Place {
    possible: Vec<Entry>,
    /// With the moment from which it may not be seen.
    gone: Vec<(u64, Moment)>,
}

impl Place {
    /// The write `id` has taken effect by now: what had done so before it began is gone.
    fn settle(&mut self, id: u64, now: Moment) {
        let Some(entry) = self.possible.iter_mut().find(|entry| entry.id == id) else { return };
        entry.settled = Some(entry.settled.map_or(now, |settled| settled.min(now)));
        let began = entry.began;
        let gone = &mut self.gone;
        self.possible.retain(|entry| {
            let keep = entry.id == id || entry.settled.is_none_or(|settled| settled > began);
            if !keep {
                gone.push((entry.id, now));
            }
            keep
        });
        let excess = gone.len().saturating_sub(GONE_MAX);
        gone.drain(..excess);
    }

    /// A read that began at `since` showed `id`: whatever else had taken effect before it began is overwritten.
    fn shown(&mut self, id: u64, since: Moment, now: Moment) {
        self.settle(id, now);
        let gone = &mut self.gone;
        self.possible.retain(|entry| {
            let keep = entry.id == id || entry.settled.is_none_or(|settled| settled >= since);
            if !keep {
                gone.push((entry.id, now));
            }
            keep
        });
    }

    fn may_show(&self, id: u64, since: Moment) -> bool {
        self.possible.iter().any(|entry| entry.id == id)
            || self.gone.iter().any(|(gone, moment)| *gone == id && *moment > since)
    }
}

struct Book {
    now: Moment,
    next_id: u64,
    places: Vec<Place>,
}

/// The ledger of one run of blocks. At first they are all zero, which is the content of write 0.
pub(crate) struct Ledger(Mutex<Book>);

impl Ledger {
    /// Of `blocks` blocks.
    pub(crate) fn new(blocks: usize) -> Ledger {
        let untouched =
            Place { possible: vec![Entry { id: 0, began: 0, settled: Some(0) }], gone: Vec::new() };
        Ledger(Mutex::new(Book { now: 1, next_id: 1, places: vec![untouched; blocks] }))
    }

    /// How many blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.0.lock().places.len()
    }

    /// A write of these blocks begins; its id.
    pub(crate) fn begin_write(&self, first: usize, count: usize) -> u64 {
        let mut book = self.0.lock();
        let (id, began) = (book.next_id, book.tick());
        book.next_id += 1;
        for place in &mut book.places[first..first + count] {
            place.possible.push(Entry { id, began, settled: None });
        }
        id
    }

    /// It was acknowledged.
    pub(crate) fn acknowledged(&self, id: u64, first: usize, count: usize) {
        let mut book = self.0.lock();
        let now = book.tick();
        for place in &mut book.places[first..first + count] {
            place.settle(id, now);
        }
    }

    /// A read begins.
    pub(crate) fn begin_read(&self) -> Moment {
        self.0.lock().tick()
    }

    /// A read that began at `since` returned these ids (`None`: what nobody wrote). The blocks that must not read so.
    pub(crate) fn read(&self, since: Moment, first: usize, ids: &[Option<u64>]) -> Vec<usize> {
        let mut book = self.0.lock();
        let now = book.tick();
        let mut wrong = Vec::new();
        for (place, (block, id)) in book.places[first..].iter_mut().zip((first..).zip(ids)) {
            match id {
                Some(id) if place.may_show(*id, since) => place.shown(*id, since, now),
                _ => wrong.push(block),
            }
        }
        wrong
    }
}

impl Book {
    fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }
}

/// Fills a block with the id of its write and its own number.
pub(crate) fn fill(bytes: &mut [u8], id: u64, block: u64) {
    for place in bytes.chunks_exact_mut(16) {
        let (a, b) = place.split_at_mut(8);
        a.copy_from_slice(&id.to_le_bytes());
        b.copy_from_slice(&block.to_le_bytes());
    }
}

/// The id of the write that filled a block; 0 if it is zero, `None` if it is neither.
pub(crate) fn id_of(bytes: &[u8], block: u64) -> Option<u64> {
    let id = u64::from_le_bytes(bytes.first_chunk::<8>().copied()?);
    let expected = if id == 0 { 0 } else { block };
    let whole = bytes
        .chunks_exact(16)
        .all(|place| place[..8] == id.to_le_bytes() && place[8..] == expected.to_le_bytes());
    whole.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_write_is_found() {
        let ledger = Ledger::new(4);
        let first = ledger.begin_write(1, 2);
        ledger.acknowledged(first, 1, 2);
        let second = ledger.begin_write(2, 1);
        ledger.acknowledged(second, 2, 1);
        let since = ledger.begin_read();
        assert!(ledger.read(since, 0, &[Some(0), Some(first), Some(second), Some(0)]).is_empty());
        let since = ledger.begin_read();
        assert_eq!(ledger.read(since, 0, &[Some(0), Some(0), Some(first), None]), [1, 2, 3]);
    }

    #[test]
    fn overlapping_writes_come_in_either_order_but_only_one() {
        for seen in [0, 1] {
            let ledger = Ledger::new(1);
            let ids = [ledger.begin_write(0, 1), ledger.begin_write(0, 1)];
            ledger.acknowledged(ids[0], 0, 1);
            ledger.acknowledged(ids[1], 0, 1);
            let since = ledger.begin_read();
            assert!(ledger.read(since, 0, &[Some(ids[seen])]).is_empty());
            let since = ledger.begin_read();
            assert_eq!(ledger.read(since, 0, &[Some(ids[1 - seen])]), [0], "the order is known by now");
            let third = ledger.begin_write(0, 1);
            ledger.acknowledged(third, 0, 1);
            let since = ledger.begin_read();
            assert_eq!(ledger.read(since, 0, &[Some(ids[seen])]), [0]);
        }
    }

    #[test]
    fn a_read_that_began_earlier_may_see_what_was_there_then() {
        let ledger = Ledger::new(1);
        let since = ledger.begin_read();
        let id = ledger.begin_write(0, 1);
        ledger.acknowledged(id, 0, 1);
        assert!(ledger.read(since, 0, &[Some(0)]).is_empty());
    }

    #[test]
    fn what_was_read_stays() {
        let ledger = Ledger::new(1);
        let id = ledger.begin_write(0, 1);
        let since = ledger.begin_read();
        assert!(ledger.read(since, 0, &[Some(id)]).is_empty(), "it may have taken effect");
        let since = ledger.begin_read();
        assert_eq!(ledger.read(since, 0, &[Some(0)]), [0], "then it has");
    }

    #[test]
    fn blocks_say_who_wrote_them() {
        let mut block = [0; 4096];
        assert_eq!(id_of(&block, 7), Some(0));
        fill(&mut block, 9, 7);
        assert_eq!(id_of(&block, 7), Some(9));
        assert_eq!(id_of(&block, 8), None);
        block[4095] ^= 1;
        assert_eq!(id_of(&block, 7), None);
    }
}
