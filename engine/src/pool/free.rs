//! The free slots of one disk: a bitmap with summaries, so that finding one takes as many steps as the bitmap
//! has levels, however full the disk is. The lowest free slot is given out first, which keeps a pool file
//! compact.

/// A set of slot numbers below a fixed limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FreeSlots {
    /// `levels[0]` has a bit per slot; a bit of `levels[n + 1]` tells whether a word of `levels[n]` is not zero.
    levels: Vec<Vec<u64>>,
    slots: u32,
    count: u32,
}

impl FreeSlots {
    /// All of `slots` slots are free.
    pub(super) fn all(slots: u32) -> FreeSlots {
        let (mut levels, mut bits) = (Vec::new(), slots as usize);
        loop {
            let mut words = vec![u64::MAX; bits.div_ceil(64).max(1)];
            if bits < words.len() * 64 {
                let last = words.len() - 1;
                words[last] = (1 << (bits - last * 64)) - 1;
            }
            bits = words.len();
            levels.push(words);
            if bits == 1 {
                return FreeSlots { levels, slots, count: slots };
            }
        }
    }

    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    pub(super) fn len(&self) -> u32 {
        self.count
    }

    pub(super) fn contains(&self, slot: u32) -> bool {
        slot < self.slots && self.levels[0][slot as usize / 64] >> (slot % 64) & 1 == 1
    }

    /// The lowest free slot.
    pub(super) fn first(&self) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        let start = 0usize;
        Some(
            self.levels
                .iter()
                .rev()
                .fold(start, |word, level| word * 64 + level[word].trailing_zeros() as usize)
                as u32,
        )
    }

    /// Takes a slot out; false if it was not free.
    pub(super) fn take(&mut self, slot: u32) -> bool {
        if !self.contains(slot) {
            return false;
        }
        self.count -= 1;
        let mut at = slot as usize;
        for level in &mut self.levels {
            level[at / 64] &= !(1 << (at % 64));
            if level[at / 64] != 0 {
                break;
            }
            at /= 64;
        }
        true
    }

    /// Puts a slot back; false if it was free already or there is none such.
    pub(super) fn give(&mut self, slot: u32) -> bool {
        if slot >= self.slots || self.contains(slot) {
            return false;
        }
        self.count += 1;
        let mut at = slot as usize;
        for level in &mut self.levels {
            let was_empty = level[at / 64] == 0;
            level[at / 64] |= 1 << (at % 64);
            if !was_empty {
                break;
            }
            at /= 64;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn behaves_like_a_set_at_every_size() {
        for slots in [0, 1, 63, 64, 65, 4096, 4097, 70_000] {
            let (mut free, mut model, mut x) =
                (FreeSlots::all(slots), (0..slots).collect::<BTreeSet<_>>(), 3u64);
            assert_eq!(free.len(), slots);
            for _ in 0..3000 {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                assert_eq!(free.first(), model.first().copied());
                let slot = match x >> 62 {
                    0 | 1 => free.first().unwrap_or(0),
                    _ => (x >> 30) as u32 % (slots + 2),
                };
                if x >> 60 & 3 == 0 {
                    assert_eq!(free.give(slot), slot < slots && model.insert(slot));
                } else {
                    assert_eq!(free.take(slot), model.remove(&slot));
                }
                assert_eq!(free.len() as usize, model.len());
                assert_eq!(free.contains(slot), model.contains(&slot));
            }
        }
    }
}
