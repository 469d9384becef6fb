//! How the data of two halves are related, and how the history of one half grows.
//!
//! Invariants:
//! - [`lineage`] is pure and turns into its mirror image when the halves are swapped.
//! - The ancestors of a half are the generations that its change log reaches back to: they grow when it is
//!   served alone ([`alone`]) and end when the mirror is whole ([`whole`]). So a half whose generation is older
//!   than the log is *unrelated*, not *older*: an image that was put back is refused, never patched with a log
//!   that does not know what it lacks.
//! - Equal generations say that the halves have been one, not that they are equal now.

use crate::ids::Generation;
use crate::mirror::message::HalfSummary;
use crate::pool::ANCESTORS_MAX;

const NEVER: Generation = Generation(0);

/// How the data of my half and of the partner's are related.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lineage {
    /// Neither half has ever held data.
    BothNew,
    /// One generation on both.
    Equal,
    /// Theirs is among my ancestors.
    MineNewer,
    /// Mine is among their ancestors.
    TheirsNewer,
    /// Mine has never held data.
    MineNew,
    /// Theirs has never held data.
    TheirsNew,
    /// Both have grown from a common ancestor, each on its own.
    Diverged,
    /// Nothing in common.
    Unrelated,
}

impl Lineage {
    /// Every case.
    pub const ALL: [Lineage; 8] = [
        Lineage::BothNew,
        Lineage::Equal,
        Lineage::MineNewer,
        Lineage::TheirsNewer,
        Lineage::MineNew,
        Lineage::TheirsNew,
        Lineage::Diverged,
        Lineage::Unrelated,
    ];

    /// The same relation, seen by the partner.
    pub const fn swapped(self) -> Lineage {
        match self {
            Lineage::MineNewer => Lineage::TheirsNewer,
            Lineage::TheirsNewer => Lineage::MineNewer,
            Lineage::MineNew => Lineage::TheirsNew,
            Lineage::TheirsNew => Lineage::MineNew,
            same => same,
        }
    }
}

/// How two halves are related, each given as its generation and its ancestors.
pub fn lineage(mine: (Generation, &[Generation]), theirs: (Generation, &[Generation])) -> Lineage {
    let (my, my_past) = mine;
    let (their, their_past) = theirs;
    match (my == NEVER, their == NEVER) {
        (true, true) => return Lineage::BothNew,
        (true, false) => return Lineage::MineNew,
        (false, true) => return Lineage::TheirsNew,
        (false, false) => {}
    }
    if my == their {
        return Lineage::Equal;
    }
    match (my_past.contains(&their), their_past.contains(&my)) {
        (true, false) => Lineage::MineNewer,
        (false, true) => Lineage::TheirsNewer,
        // Each the other's past: no history makes that. Treated as the case that needs a person.
        (true, true) => Lineage::Diverged,
        (false, false) if my_past.iter().any(|past| *past != NEVER && their_past.contains(past)) => {
            Lineage::Diverged
        }
        (false, false) => Lineage::Unrelated,
    }
}

/// The half begins to be served alone: it gets the generation `new`, and what it was becomes an ancestor. To be
/// written in the batch that records that the node is alone, before the first completion.
///
/// No more ancestors are kept than a pool has room for. Only a half that is served alone again and again without ever
/// becoming whole gets there; what falls out is refused as unrelated, which is safe.
pub fn alone(half: &mut HalfSummary, new: Generation) {
    debug_assert!(new != NEVER, "a generation is made of random bits");
    if half.generation != NEVER {
        half.ancestors.insert(0, half.generation);
        if half.ancestors.len() > ANCESTORS_MAX {
            // The oldest stays: it is what a partner that was never reached again still has.
            half.ancestors.remove(ANCESTORS_MAX - 1);
        }
    }
    half.generation = new;
}

/// The mirror is whole: the log is empty and reaches back to nothing. For a target, `generation` is the source's,
/// and the batch is the one that records both members.
pub fn whole(half: &mut HalfSummary, generation: Generation) {
    half.generation = generation;
    half.ancestors.clear();
    half.log_intact = true;
}
