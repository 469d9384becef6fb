//! How many volumes have a slot beside the first: 2 bytes for each slot of a page of 512 in which any is shared, nothing
//! for the others.

use std::collections::BTreeMap;

use super::record::Slot;
use crate::ids::DiskId;

const PAGE_SLOTS: u32 = 512;
type Page = Box<[u16; PAGE_SLOTS as usize]>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// By disk and page; pages without any are not kept.
    pages: BTreeMap<(DiskId, u32), (Page, u32)>,
    slots: u64,
}

impl Owners {
    /// Is no slot shared?
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.slots == 0
    }

    /// Slots that are shared.
    pub(super) fn slots(&self) -> u64 {
        self.slots
    }

    /// How many volumes have it beside the first.
    #[inline]
    pub(super) fn more(&self, slot: Slot) -> u16 {
        let page = self.pages.get(&(slot.disk, slot.index / PAGE_SLOTS));
        page.map_or(0, |(page, _)| page[(slot.index % PAGE_SLOTS) as usize])
    }

    /// So many more have it.
    pub(super) fn add(&mut self, slot: Slot, count: u16) {
        if count == 0 {
            return;
        }
        let page = self.pages.entry((slot.disk, slot.index / PAGE_SLOTS));
        let (page, used) = page.or_insert_with(|| (Box::new([0; PAGE_SLOTS as usize]), 0));
        let more = &mut page[(slot.index % PAGE_SLOTS) as usize];
        if *more == 0 {
            *used += 1;
            self.slots += 1;
        }
        *more += count;
    }

    /// One less has it. False if there was but one.
    pub(super) fn drop_one(&mut self, slot: Slot) -> bool {
        let key = (slot.disk, slot.index / PAGE_SLOTS);
        let Some((page, used)) = self.pages.get_mut(&key) else { return false };
        let more = &mut page[(slot.index % PAGE_SLOTS) as usize];
        if *more == 0 {
            return false;
        }
        *more -= 1;
        if *more == 0 {
            self.slots -= 1;
            *used -= 1;
            if *used == 0 {
                self.pages.remove(&key);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_those_beside_the_first() {
        let mut owners = Owners::default();
        let [a, b] = [7, 70_000].map(|index| Slot { disk: DiskId(3), index });
        assert!(!owners.drop_one(a));
        owners.add(a, 1);
        owners.add(a, 2);
        owners.add(b, 1);
        owners.add(b, 0);
        assert_eq!((owners.more(a), owners.more(b), owners.slots()), (3, 1, 2));
        assert_eq!(owners.more(Slot { disk: DiskId(2), ..a }), 0);
        assert!(owners.drop_one(b) && !owners.drop_one(b));
        assert!((0..3).all(|_| owners.drop_one(a)));
        assert!(!owners.drop_one(a) && owners.is_empty() && owners.pages.is_empty());
    }
}
