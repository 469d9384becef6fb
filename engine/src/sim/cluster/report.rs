//! Whole runs: the plan, the healing, the checks, and what is said if something was wrong.

use core::fmt;

use super::{Cluster, Origin, Violation};
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
    /// Comparisons that were done.
    compared,
    /// Comparisons that found something else.
    mismatches,
    /// Comparisons of which no host knows whether they were done.
    compared_uncertainly,
    /// Answers that no good copy is left.
    medium_errors,
    /// Events given to nodes.
    events,
    /// Those that one volume took beside others.
    steps_beside,
    /// After which the whole node was to look, and did later.
    steps_owed,
    /// Nodes killed.
    kills,
    /// Power cuts.
    power_cuts,
    /// Those that kept a part of what was not flushed, and took another.
    power_cuts_in_part,
    /// Blocks that a power cut left put together from several writes.
    blocks_torn,
    /// Times that no node was up.
    both_down,
    /// Times after which the node that had died first came back first.
    first_dead_first_back,
    /// Times after which the node that had died last did.
    last_dead_first_back,
    /// Crashes while another failure was outstanding.
    losses,
    /// Clean stops.
    clean_stops,
    /// Pauses.
    pauses,
    /// Pauses that were as long as the lease.
    pauses_past_lease,
    /// Link cuts, both ways or one.
    cuts,
    /// Of them, those one way.
    cuts_one_way,
    /// Times the link was made slow.
    delays,
    /// Messages of an old connection that came when a newer one was up.
    stragglers,
    /// Changes of a clock's speed.
    drifts,
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
    /// Blocks of which no good copy was left when a shared extent was copied.
    blocks_lost_in_copies,
    /// Blocks of which the source had no good copy, that were written anew or dropped with their clone.
    blocks_restored,
    /// Blocks that scrubs looked at.
    blocks_scrubbed,
    /// Damaged blocks that scrubs put right.
    scrub_repairs,
    /// Blocks in doubt after a crash, asked of the partner.
    blocks_asked,
    /// Blocks in doubt after a crash, whose checksum was made anew.
    sums_remade,
    /// Times all disks of a node were to fail.
    disk_failures_asked,
    /// Of them, those that waited until the pair could spare the disks.
    disk_failures_put_off,
    /// Those that did nothing: the pair could not spare the disks up to the end, or ever.
    disk_failures_void,
    /// Times all of a node's disks began to fail writes.
    write_failures,
    /// Times they began to fail flushes.
    flush_failures,
    /// Nodes whose disks failed, and that noticed.
    disks_failed,
    /// Failures that no node had noticed at the end of a run, for nothing was asked of the disks.
    disk_failures_unnoticed,
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
    /// Changes of what is kept with volumes, as was acknowledged.
    items_kept,
    /// Those that were refused because something later was kept.
    items_refused,
    /// Questions for snapshots or clones that were acknowledged.
    clones_made,
    /// Those that were refused.
    clones_refused,
    /// Writes of hosts to clones that were acknowledged.
    clone_writes,
    /// Writes to snapshots that were refused as such.
    snapshot_writes_refused,
    /// Those of which the operator did not hear what came of them.
    clones_interrupted,
    /// Times a node could not make the clones that its partner had.
    clones_in_the_way,
    /// Snapshots and clones that were read at the end.
    clones_verified,
    /// Questions whose volumes were held against the history.
    clone_moments_checked,
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
    /// Blocks of which, at rest, both nodes told whether they are data.
    states_compared,
    /// Of them, those that one node calls zero, the other unmapped.
    zeros_mapped_on_one,
    /// Runs in which space was kept for a volume and other writes found none.
    kept_while_full,
    /// Pairs of blocks compared.
    blocks_compared,
    /// Pools checked offline, when a node opened one and at rest.
    pools_checked,
    /// Blocks that matched their checksums in these checks.
    data_checked,
    /// Blocks that were in doubt after a crash in these checks.
    data_in_doubt,
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
    /// Where the plan comes from.
    pub origin: Origin,
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
        write!(f, "replay: {}", self.origin)
    }
}

/// Runs a seed of the ordinary generator.
pub fn run(seed: u64, scale: Scale, planted: Planted, detail: Detail) -> Report {
    run_plan(generate::plan(seed, scale), Origin::Seed(seed, scale), planted, detail)
}

/// Runs a plan to its end, heals everything, and checks all that must hold.
pub fn run_plan(plan: Plan, origin: Origin, planted: Planted, detail: Detail) -> Report {
    let mut cluster = Cluster::with(plan.clone(), planted, detail);
    let seed = plan.setup.seed;
    let failure = cluster.run_to_the_end().map(|violation| Failure { violation, plan, origin });
    let (counters, trace_hash, timeline) =
        (cluster.counters, cluster.trace.hash(), cluster.trace.into_lines());
    Report { seed, counters, trace_hash, timeline, failure }
}

impl Cluster {
    /// Runs the plan to its end, heals everything, and checks all that must hold: the broken promise, if any. If the
    /// node panics, what it did until then can still be seen here.
    pub fn run_to_the_end(&mut self) -> Option<Violation> {
        self.run_until(self.plan_end());
        if self.violation.is_none() {
            self.converge();
        }
        // What hosts saw counts first: it says more than any look inside.
        let inside = self.violation.take();
        self.check_history();
        self.violation = self.violation.take().or(inside);
        let keeps = self.setup.volumes.iter().any(|volume| volume.reserved_bytes > 0);
        self.counters.kept_while_full += u64::from(keeps && self.counters.out_of_space > 0);
        self.counters.stragglers = self.network.stragglers();
        NodeName::BOTH.into_iter().for_each(|node| self.count_sums(node));
        self.count_unnoticed_failures();
        self.violation.clone()
    }
}
