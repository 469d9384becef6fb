//! Named scenarios: the shortest ways in which a mirror that is a little too trusting loses data, step by step, and
//! what comes of them here. Each is told twice: by sound nodes, and by nodes with the weakness that it is about, which
//! must be seen to fail. Where no single weakness suffices, because a second rule catches it, two are planted; where it
//! cannot be planted, the story says which rule it looks at.
//!
//! The protocol was explored as an explicit-state model first. In it each weakness has a name, and the shortest way in
//! which it loses data, if there is one, is its *trace*. A story that tells one names it; `+` joins weaknesses that are
//! looked at together.
//!
//! Node `a` owns the volume at first. Block 0 reads [`OLD`] until it is written. "Alone" is the phase in which a node
//! serves without its partner.

#[path = "../pair_support/mod.rs"]
mod pair_support;

mod clone_numbers;
mod clones;
mod clones_review;
mod compare;
mod copies;
mod flush;
mod lease;
mod marks;
mod preferred;
mod rejoin;
mod restart;
mod resync;
mod room;
mod space;
mod stop;
mod volumes;
mod writes;

use pair_support::Pair;
use twinsan::ids::NodeName;
use twinsan::mirror::message::PeerPhase;

/// What block 0 holds before the story.
const OLD: u8 = 0;
/// What the story's write makes of it.
const NEW: u8 = 1;

/// Block 0 differs where no mark says so: a later resync would not mend it.
const UNMARKED: &str = "block 0 differs and is not marked";
/// Two nodes serve, and are no pair.
const BOTH_SERVE: &str = "both serve";

/// The node that serves alone, when there is one.
fn who_goes_on(pair: &mut Pair) -> NodeName {
    let alone =
        |pair: &Pair| NodeName::BOTH.into_iter().find(|&node| pair.phase(node) == Some(PeerPhase::Alone));
    pair.until("one node serves alone", |pair| alone(pair).is_some());
    alone(pair).expect("just seen")
}
