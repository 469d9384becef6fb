//! A bound of the node, given out to its volumes in portions.
//!
//! A volume takes what it lacks, rounded up to a portion, so that it seldom has to ask, and what it does not need is taken
//! back when another lacks it. Invariants:
//!
//! - What is given never exceeds the bound, but for *debt*: what a volume had to [take](Allotter::take) all the same. As
//!   long as there is any, nothing more is given.
//! - Of what is free, up to `kept_max` is kept for volumes that hold less than a portion: a busy one takes most of the
//!   bound, and leaves the others something to begin with.

use std::collections::BTreeMap;

use crate::ids::VolumeId;

/// A bound is so many portions, if they are not larger than [`PORTION_MAX`].
const PORTIONS: usize = 64;
/// Most blocks of a portion: 1 MiB.
const PORTION_MAX: usize = 256;

/// Who has how much of a bound, in blocks.
#[derive(Debug)]
pub(super) struct Allotter {
    bound: usize,
    portion: usize,
    kept_max: usize,
    /// By volume, those that hold nothing too.
    held: BTreeMap<VolumeId, usize>,
    /// The sum of what is held.
    given: usize,
    /// What all volumes together lack to one portion each.
    lacking: usize,
}

impl Allotter {
    pub(super) fn new(bound: usize, kept_max: usize) -> Allotter {
        let portion = (bound / PORTIONS).clamp(1, PORTION_MAX);
        Allotter { bound, portion, kept_max, held: BTreeMap::new(), given: 0, lacking: 0 }
    }

    pub(super) fn bound(&self) -> usize {
        self.bound
    }

    pub(super) fn portion(&self) -> usize {
        self.portion
    }

    /// All that is given.
    pub(super) fn given(&self) -> usize {
        self.given
    }

    /// Is more given than there is?
    pub(super) fn is_in_debt(&self) -> bool {
        self.given > self.bound
    }

    /// A volume from now on has a right to a portion.
    pub(super) fn join(&mut self, volume: VolumeId) {
        if let std::collections::btree_map::Entry::Vacant(entry) = self.held.entry(volume) {
            entry.insert(0);
            self.lacking += self.portion;
        }
    }

    /// A volume is gone, and gives back all it had.
    pub(super) fn leave(&mut self, volume: VolumeId) {
        if let Some(held) = self.held.remove(&volume) {
            self.given -= held;
            self.lacking -= self.portion.saturating_sub(held);
        }
    }

    pub(super) fn held(&self, volume: VolumeId) -> usize {
        self.held.get(&volume).copied().unwrap_or(0)
    }

    /// The volume wants to hold this many. True if it does now, or did before; false in debt.
    pub(super) fn want(&mut self, volume: VolumeId, wanted: usize) -> bool {
        let held = self.held(volume);
        let lack = wanted.saturating_sub(held);
        if lack == 0 || self.is_in_debt() {
            return !self.is_in_debt();
        }
        let free = self.bound.saturating_sub(self.given);
        let (most, rounded) = if wanted <= self.portion {
            (free, self.portion - held)
        } else {
            let others = self.lacking - self.portion.saturating_sub(held);
            (free.saturating_sub(others.min(self.kept_max)), lack.next_multiple_of(self.portion))
        };
        if lack > most {
            return false;
        }
        let more = rounded.min(most);
        assert!(self.given + more <= self.bound, "a bound is never exceeded by what is given");
        self.set(volume, held + more);
        true
    }

    /// The volume has this many, whatever is free.
    pub(super) fn take(&mut self, volume: VolumeId, has: usize) {
        let held = self.held(volume);
        self.set(volume, held.max(has));
    }

    /// The volume needs no more than this.
    pub(super) fn give_back(&mut self, volume: VolumeId, needed: usize) {
        let held = self.held(volume);
        self.set(volume, held.min(needed));
    }

    fn set(&mut self, volume: VolumeId, now: usize) {
        let held = self.held.get_mut(&volume).expect("a volume joins before it holds anything");
        let before = core::mem::replace(held, now);
        self.given = self.given - before + now;
        self.lacking -= self.portion.saturating_sub(before);
        self.lacking += self.portion.saturating_sub(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUSY: VolumeId = VolumeId(1);

    fn allotter(bound: usize, kept_max: usize, volumes: u32) -> Allotter {
        let mut all = Allotter::new(bound, kept_max);
        (1..=volumes).for_each(|volume| all.join(VolumeId(volume)));
        all
    }

    #[test]
    fn a_busy_volume_takes_most_and_leaves_each_other_a_portion() {
        let mut all = allotter(640, 80, 4);
        assert!(all.want(BUSY, 1));
        assert_eq!(all.held(BUSY), 10, "a portion");
        assert!(all.want(BUSY, 610) && !all.want(BUSY, 611));
        for volume in 2..=4 {
            assert!(all.want(VolumeId(volume), 1), "volume {volume}");
            assert!(!all.want(VolumeId(volume), 11));
        }
        assert_eq!(all.given(), 640);
        all.give_back(BUSY, 500);
        assert!(all.want(VolumeId(2), 11), "what one does not need another gets");
    }

    #[test]
    fn of_the_smallest_bound_many_volumes_still_get_something_each_in_turn() {
        let mut all = allotter(16, 2, 100);
        assert!(all.want(BUSY, 14) && !all.want(BUSY, 15));
        assert!(all.want(VolumeId(2), 1) && all.want(VolumeId(3), 1));
        assert!(!all.want(VolumeId(4), 1));
        all.give_back(VolumeId(2), 0);
        assert!(!all.want(BUSY, 15), "kept for those that have none");
        assert!(all.want(VolumeId(4), 1));
    }

    #[test]
    fn nothing_is_given_until_a_debt_is_paid_back() {
        let mut all = allotter(64, 0, 2);
        all.take(BUSY, 100);
        assert!(all.is_in_debt() && !all.want(VolumeId(2), 1));
        all.give_back(BUSY, 64);
        assert!(!all.is_in_debt() && !all.want(VolumeId(2), 1));
        all.give_back(BUSY, 63);
        assert!(all.want(VolumeId(2), 1));
    }

    #[derive(Clone, Debug)]
    enum Ask {
        Want(u32, usize),
        Take(u32, usize),
        GiveBack(u32, usize),
        Leave(u32),
    }

    fn ask() -> impl Strategy<Value = Ask> {
        let (volume, blocks) = (1u32..9, 0usize..200);
        prop_oneof![
            8 => (volume.clone(), blocks.clone()).prop_map(|(v, n)| Ask::Want(v, n)),
            1 => (volume.clone(), blocks.clone()).prop_map(|(v, n)| Ask::Take(v, n)),
            6 => (volume.clone(), blocks).prop_map(|(v, n)| Ask::GiveBack(v, n)),
            1 => volume.prop_map(Ask::Leave),
        ]
    }

    proptest! {
        /// The sums are those of what is held; what is wanted never makes a debt; and a volume that has less than its
        /// portion gets it whenever there is anything free.
        #[test]
        fn the_sum_never_exceeds_the_bound(
            bound in 16usize..300,
            kept in 0usize..40,
            asks in proptest::collection::vec(ask(), 0..200),
        ) {
            let mut all = allotter(bound, kept, 8);
            for ask in asks {
                let (before, debt) = (all.given(), all.is_in_debt());
                match ask {
                    Ask::Want(volume, wanted) => {
                        let volume = VolumeId(volume);
                        let held = all.held(volume);
                        let got = all.want(volume, wanted);
                        prop_assert!(all.given() == before || all.given() <= bound);
                        prop_assert_eq!(got, !debt && all.held(volume) >= wanted);
                        prop_assert!(got || all.held(volume) == held);
                        prop_assert!(!debt || all.given() == before);
                        let first = wanted <= all.portion() && before + all.portion() <= bound;
                        prop_assert!(got || !first, "everyone has a right to a portion of what is free");
                    }
                    Ask::Take(volume, has) => {
                        all.take(VolumeId(volume), has);
                        prop_assert!(all.held(VolumeId(volume)) >= has);
                    }
                    Ask::GiveBack(volume, needed) => {
                        all.give_back(VolumeId(volume), needed);
                        prop_assert!(all.held(VolumeId(volume)) <= needed && all.given() <= before);
                    }
                    Ask::Leave(volume) => {
                        all.leave(VolumeId(volume));
                        all.join(VolumeId(volume));
                    }
                }
                prop_assert_eq!(all.given(), all.held.values().sum::<usize>());
                let lacking = all.held.values().map(|held| all.portion().saturating_sub(*held)).sum::<usize>();
                prop_assert_eq!(all.lacking, lacking);
            }
        }
    }
}
