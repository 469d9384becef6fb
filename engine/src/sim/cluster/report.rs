//! Whole runs: the plan, the healing, the checks, and what is said if something was wrong.

use core::fmt;

use super::{Cluster, Violation};
use crate::ids::NodeName;
use crate::planted::Planted;
use crate::sim::checker::Checked;
use crate::sim::generate::{self, Scale};
use crate::sim::plan::Plan;
use crate::sim::trace::Detail;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What happened in a run, in numbers.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
            /// What the checker looked at.
            pub checked: Checked,
        }

        impl Counters {
            /// Adds those of another run.
            pub fn add(&mut self, other: &Counters) {
                $(self.$name += other.$name;)*
                self.checked.by_zones += other.checked.by_zones;
                self.checked.by_configurations += other.checked.by_configurations;
                self.checked.undecided += other.checked.undecided;
                self.checked.operations += other.checked.operations;
            }

            /// All of them, with their names.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![
                    $((stringify!($name), self.$name),)*
                    ("checked_by_zones", self.checked.by_zones),
                    ("checked_by_configurations", self.checked.by_configurations),
                    ("undecided", self.checked.undecided),
                ]
            }
        }
    };
}

counters! {
    /// Guest requests made.
    ops,
    /// Attempts to have them done.
    attempts,
    /// Attempts that had to be repeated.
    retries,
    /// Attempts that took longer than the path's timeout.
    timeouts,
    /// Requests answered.
    answers,
    /// Writes and clears acknowledged.
    writes_acknowledged,
    /// Requests refused for lack of space.
    out_of_space,
    /// Answers that no good copy is left.
    medium_errors,
    /// Events given to nodes.
    events,
    /// Nodes killed.
    kills,
    /// Power cuts.
    power_cuts,
    /// Crashes while another failure was outstanding.
    losses,
    /// Clean stops.
    clean_stops,
    /// Pauses.
    pauses,
    /// Link cuts, both ways or one.
    cuts,
    /// Connections lost, as a node was told.
    links_lost,
    /// Times the arbiter was cut off.
    arbiter_losses,
    /// Disks slowed down.
    slow_disks,
    /// Blocks made unreadable.
    read_errors,
    /// Blocks in which a bit was flipped.
    blocks_rotted,
    /// Writes that were lost or went astray.
    writes_astray,
    /// Blocks put right from the partner.
    blocks_repaired,
    /// Answers that no good copy of a block is left.
    blocks_lost,
    /// Blocks that scrubs looked at.
    blocks_scrubbed,
    /// Damaged blocks that scrubs put right.
    scrub_repairs,
    /// Blocks in doubt after a crash, asked of the partner.
    blocks_asked,
    /// Blocks in doubt after a crash, whose checksum was made anew.
    sums_remade,
    /// Nodes whose disk failed for good.
    disks_failed,
    /// Nodes that got new disks.
    disks_replaced,
    /// Disks added to a pool in use.
    disks_joined,
    /// Removals of a disk begun.
    removals,
    /// Removals cancelled.
    removals_cancelled,
    /// Disks that were emptied and left.
    disks_left,
    /// Requests for a change of the disks that were refused.
    disk_refusals,
    /// Crashes while a disk was coming or going.
    deaths_in_disk_changes,
    /// Blocks that could not be read when their extent was to be moved.
    unmovable_blocks,
    /// Volumes that have grown, as was acknowledged.
    volumes_grown,
    /// Volumes that were deleted, as was acknowledged.
    volumes_deleted,
    /// Changes of volumes that were refused.
    volume_refusals,
    /// Changes of volumes of which the operator did not hear what came of them.
    volume_changes_lost,
    /// Seeds whose mirror could not become whole for lack of space.
    partners_full,
    /// Runs that ended with the only current half on failed disks.
    service_lost,
    /// Times a node went on alone.
    takeovers,
    /// Resyncs begun.
    resyncs,
    /// Resyncs broken off.
    resyncs_interrupted,
    /// Bytes of the regions that were marked when a resync began, or that guests wrote to during one.
    resync_bytes_changed,
    /// Bytes that resyncs copied, without guests' own new writes.
    resync_bytes_copied,
    /// Crashes during a resync.
    deaths_in_resync,
    /// Times a node dropped its partner because that had no space.
    partners_dropped,
    /// Times a pool's use rose to a threshold.
    thresholds_reached,
    /// Times it fell clear of one.
    thresholds_left,
    /// Blocks found, at rest, to read as zero inside a mapped extent.
    zero_blocks_seen,
    /// Runs in which space was kept for a volume and other writes found none.
    kept_while_full,
    /// Pairs of blocks compared.
    blocks_compared,
}

/// The end of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// What happened.
    pub counters: Counters,
    /// Hash of everything that happened.
    pub trace_hash: u64,
    /// The readable timeline, if one was kept.
    pub timeline: Vec<String>,
    /// What was wrong.
    pub failure: Option<Failure>,
}

/// What was wrong, and how to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The broken promise.
    pub violation: Violation,
    /// The plan.
    pub plan: Plan,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, violation) = (self.plan.setup.seed, &self.violation);
        let millis = violation.at.as_nanos() / 1_000_000;
        writeln!(
            f,
            "seed {seed} breaks invariant {} at {millis} ms: {}",
            violation.invariant, violation.text
        )?;
        write!(
            f,
            "replay: TWINSAN_SEED={seed} cargo test --release -p twinsan --test cluster replay -- --nocapture"
        )
    }
}

/// Runs a seed of the ordinary generator.
pub fn run(seed: u64, scale: Scale, planted: Planted, detail: Detail) -> Report {
    run_plan(generate::plan(seed, scale), planted, detail)
}

/// Runs a plan to its end, heals everything, and checks all that must hold.
pub fn run_plan(plan: Plan, planted: Planted, detail: Detail) -> Report {
    let mut cluster = Cluster::with(plan.clone(), planted, detail);
    let end = cluster.plan_end();
    cluster.run_until(end);
    if cluster.violation.is_none() {
        cluster.converge();
    }
    // What hosts saw counts first: it says more than any look inside.
    let inside = cluster.violation.take();
    cluster.check_history();
    if cluster.violation.is_none() {
        cluster.violation = inside;
    }
    let keeps = plan.setup.volumes.iter().any(|volume| volume.reserved_bytes > 0);
    cluster.counters.kept_while_full += u64::from(keeps && cluster.counters.out_of_space > 0);
    NodeName::BOTH.into_iter().for_each(|node| cluster.count_sums(node));
    let seed = plan.setup.seed;
    let failure = cluster.violation.take().map(|violation| Failure { violation, plan });
    let (counters, trace_hash, timeline) =
        (cluster.counters, cluster.trace.hash(), cluster.trace.into_lines());
    Report { seed, counters, trace_hash, timeline, failure }
}
