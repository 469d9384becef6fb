//! Plans: what happens in a run, as JSON lines that people can read, edit and keep.
//!
//! The first line is the [`Setup`]; each further line is a [`Step`]: a time in microseconds of virtual time,
//! a verb and its arguments. Verbs ask for a state, not for a change of it: starting a running node or healing
//! a whole link does nothing, so any line can be taken out.

use serde::{Deserialize, Serialize};

use crate::arbiter::Arbitration;
use crate::guest::Sectors;
use crate::ids::{ItemName, NodeName, VolumeId};
use crate::node::config::WhenFull;

/// One virtual volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeSetup {
    /// Size in 512-byte sectors.
    pub sectors: u64,
    /// Two halves, or one on node a.
    pub mirrored: bool,
    /// Bytes of each pool that are kept for it.
    #[serde(default)]
    pub reserved_bytes: u64,
}

/// Everything that stays the same during a run. A missing field has its default.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Setup {
    /// Seed of all that the plan leaves open: delays, contents, which unflushed sectors survive.
    pub seed: u64,
    /// Who decides when the nodes lose each other.
    pub arbitration: Arbitration,
    /// The node that goes on under `preferred`.
    pub preferred: NodeName,
    /// The volumes.
    pub volumes: Vec<VolumeSetup>,
    /// Extent size of both pools, in bytes.
    pub extent_bytes: u64,
    /// Disks in each pool.
    pub disks: u16,
    /// Size of each disk, in bytes.
    pub disk_bytes: u64,
    /// A node whose disks are smaller.
    pub small_node: Option<NodeName>,
    /// Size of each of its disks, in bytes.
    pub small_disk_bytes: u64,
    /// What a disk writes atomically: 512 or 4096 bytes.
    pub sector_bytes: u32,
    /// Cache size of each node in 4 KiB blocks.
    pub cache_blocks: usize,
    /// Most of them dirty.
    pub dirty_blocks: usize,
    /// Age at which a dirty block is destaged.
    pub destage_age_ms: u64,
    /// Destage writes in flight.
    pub destage_depth: usize,
    /// Pages of block checksums in memory.
    pub sum_pages: usize,
    /// Idle time after which checksums are written back.
    pub sum_idle_ms: u64,
    /// How fast a scrub reads.
    pub scrub_bytes_per_second: u64,
    /// The lease; the other times of the mirror follow from it as in the defaults of a product.
    pub lease_ms: u64,
    /// Areas in the hot set of a volume.
    pub hot_areas: usize,
    /// 4 KiB blocks in an area, a power of two.
    pub area_blocks: u64,
    /// Idle time after which an area cools.
    pub hot_idle_ms: u64,
    /// Resync blocks in flight.
    pub resync_blocks: u64,
    /// Blocks of writes in flight to the partner.
    pub write_blocks: u64,
    /// What is done when the partner's pool is full.
    pub when_partner_full: WhenFull,
    /// Mean one-way delay of the mirror link.
    pub link_delay_us: u64,
    /// Share of the messages of a broken connection that arrive late.
    pub late_share: f64,
    /// Mean one-way delay to the arbiter.
    pub arbiter_delay_us: u64,
    /// Share of the arbiter's answers that are lost.
    pub arbiter_loss: f64,
    /// Mean time of a disk read or write.
    pub transfer_us: u64,
    /// Mean time of a flush.
    pub flush_us: u64,
    /// How many hosts.
    pub hosts: u32,
    /// Most requests of one host in flight.
    pub outstanding: u32,
    /// Mean pause of a host between two requests of one stream.
    pub think_us: u64,
    /// 4 KiB blocks that most requests go to.
    pub hot_blocks: u64,
    /// Percent of requests that are reads.
    pub read_percent: u32,
    /// Percent of requests that clear a range.
    pub zero_percent: u32,
    /// Percent of the requests that clear a range which come as writes of zeros.
    pub zero_write_percent: u32,
    /// Blocks of zeros in writes are found and not stored.
    pub detect_zeros: bool,
    /// Percent of requests that flush.
    pub flush_percent: u32,
    /// Percent of writes that must be stable.
    pub fua_percent: u32,
    /// Percent of requests not aligned to 4 KiB.
    pub odd_percent: u32,
    /// Percent of writes that compare first, with what the host has last seen.
    pub compare_percent: u32,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            seed: 1,
            arbitration: Arbitration::Register,
            preferred: NodeName::A,
            volumes: vec![VolumeSetup { sectors: 16 << 11, mirrored: true, reserved_bytes: 0 }],
            extent_bytes: 64 << 10,
            disks: 1,
            disk_bytes: 64 << 20,
            small_node: None,
            small_disk_bytes: 8 << 20,
            sector_bytes: 512,
            cache_blocks: 1024,
            dirty_blocks: 512,
            destage_age_ms: 50,
            destage_depth: 8,
            sum_pages: 64,
            sum_idle_ms: 200,
            scrub_bytes_per_second: 64 << 20,
            lease_ms: 500,
            hot_areas: 64,
            area_blocks: 16,
            hot_idle_ms: 300,
            resync_blocks: 64,
            write_blocks: 256,
            when_partner_full: WhenFull::Refuse,
            link_delay_us: 100,
            late_share: 0.1,
            arbiter_delay_us: 500,
            arbiter_loss: 0.0,
            transfer_us: 80,
            flush_us: 300,
            hosts: 2,
            outstanding: 4,
            think_us: 2_000,
            hot_blocks: 48,
            read_percent: 45,
            zero_percent: 3,
            zero_write_percent: 0,
            detect_zeros: false,
            flush_percent: 2,
            fua_percent: 10,
            odd_percent: 20,
            compare_percent: 0,
        }
    }
}

/// What happens.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Verb {
    /// Hosts run until this many requests have been made in all.
    Load {
        /// Requests.
        ops: u64,
    },
    /// A host writes.
    Write {
        /// The path to try first.
        via: NodeName,
        /// Where.
        volume: VolumeId,
        /// Sectors.
        at: Sectors,
        /// Only stable.
        #[serde(default)]
        fua: bool,
    },
    /// A host reads.
    Read {
        /// The path to try first.
        via: NodeName,
        /// Where.
        volume: VolumeId,
        /// Sectors.
        at: Sectors,
    },
    /// A host clears.
    Zero {
        /// The path to try first.
        via: NodeName,
        /// Where.
        volume: VolumeId,
        /// Sectors.
        at: Sectors,
    },
    /// A host flushes.
    Flush {
        /// The path to try first.
        via: NodeName,
        /// The volume.
        volume: VolumeId,
    },
    /// The node's process is killed.
    Kill {
        /// Which node.
        who: NodeName,
    },
    /// The node loses its power.
    PowerCut {
        /// Which node.
        who: NodeName,
    },
    /// The node starts.
    Start {
        /// Which node.
        who: NodeName,
    },
    /// The node is stopped cleanly, and ends when it says so.
    Stop {
        /// Which node.
        who: NodeName,
    },
    /// The node's process is suspended.
    Pause {
        /// Which node.
        who: NodeName,
    },
    /// It goes on.
    Resume {
        /// Which node.
        who: NodeName,
    },
    /// The mirror link is cut both ways.
    Cut,
    /// What this node sends on the mirror link does not arrive.
    CutOneWay {
        /// The node that is not heard.
        who: NodeName,
    },
    /// The mirror link is healed.
    Heal,
    /// The mean one-way delay of the mirror link.
    Delay {
        /// Microseconds.
        us: u64,
    },
    /// The node's disks take this many times as long.
    SlowDisk {
        /// Which node.
        who: NodeName,
        /// How many times; 1 is normal.
        factor: u64,
    },
    /// Blocks that guests have written become unreadable on this node.
    ReadErrors {
        /// Which node.
        who: NodeName,
        /// How many blocks.
        count: u32,
        /// Each fails one read only; else until it is rewritten.
        once: bool,
    },
    /// Bits flip in blocks that guests have written, on this node's disks.
    Rot {
        /// Which node.
        who: NodeName,
        /// How many blocks.
        count: u32,
    },
    /// The next write of a guest's block on this node is lost, though it is answered.
    LoseWrite {
        /// Which node.
        who: NodeName,
    },
    /// The next write of a guest's block on this node lands on another one.
    Misdirect {
        /// Which node.
        who: NodeName,
    },
    /// The node reads all of its extents and compares them with their checksums.
    Scrub {
        /// Which node.
        who: NodeName,
    },
    /// The node's disks fail all writes, as soon as the pair can spare them.
    FailWrites {
        /// Which node.
        who: NodeName,
    },
    /// The node's disks fail all flushes, as soon as the pair can spare them.
    FailFlushes {
        /// Which node.
        who: NodeName,
    },
    /// The node's clock runs fast or slow.
    Drift {
        /// Which node.
        who: NodeName,
        /// Parts per million, positive is fast.
        ppm: i64,
    },
    /// The node cannot reach the arbiter.
    ArbiterDown {
        /// Which node.
        who: NodeName,
    },
    /// It can.
    ArbiterUp {
        /// Which node.
        who: NodeName,
    },
    /// The mean one-way delay to the arbiter.
    ArbiterDelay {
        /// Microseconds.
        us: u64,
    },
    /// A blank disk is added to the node's pool, if the node is open.
    AddDisk {
        /// Which node.
        who: NodeName,
        /// Its size in bytes.
        bytes: u64,
        /// What it writes atomically: 512 or 4096 bytes.
        sector_bytes: u32,
    },
    /// A disk is removed from the node's pool, if the node is open and has one in use.
    RemoveDisk {
        /// Which node.
        who: NodeName,
        /// Which of the disks in use, counted round; the home disk, which stays, is the last.
        which: u32,
    },
    /// A disk that is being removed is kept.
    KeepDisk {
        /// Which node.
        who: NodeName,
        /// Which of the leaving disks, counted round.
        which: u32,
    },
    /// An operator at the node grows a volume, if the node is open; of a linear one, at node a.
    Grow {
        /// Which node is asked.
        who: NodeName,
        /// The volume.
        volume: VolumeId,
        /// The new size in 512-byte sectors.
        sectors: u64,
    },
    /// Somebody at the node keeps something with a volume, in place of what is in force there; of a linear one, at node a.
    Keep {
        /// Which node is asked.
        who: NodeName,
        /// The volume.
        volume: VolumeId,
        /// Under which name.
        name: ItemName,
        /// On the ground of what is in force; else of something older.
        seen: bool,
        /// How much; none: nothing any more.
        bytes: u32,
    },
    /// An operator at the node deletes a volume, if the node is open and it is not the last.
    Delete {
        /// Which node is asked.
        who: NodeName,
        /// The volume.
        volume: VolumeId,
    },
    /// An operator at the node takes snapshots of volumes at one moment, if the node is open; of linear ones, at node a.
    Snapshot {
        /// Which node is asked.
        who: NodeName,
        /// The volumes.
        volumes: Vec<VolumeId>,
    },
    /// An operator at the node makes a clone of a snapshot.
    Clone {
        /// Which node is asked.
        who: NodeName,
        /// Which of the snapshots that were acknowledged, counted round.
        which: u32,
    },
    /// A host writes to a clone by the node.
    WriteClone {
        /// Which node is asked.
        who: NodeName,
        /// Which of the clones that were acknowledged, counted round.
        which: u32,
        /// Decides where.
        place: u32,
    },
    /// An operator at the node deletes a snapshot or a clone.
    DropClone {
        /// Which node is asked.
        who: NodeName,
        /// Which of those that were acknowledged, counted round.
        which: u32,
    },
    /// Check the history and all invariants now.
    Check,
    /// All faults end, dead nodes start, failed disks are replaced; everything must converge.
    HealAll,
    /// If the node's disks have failed it gets new ones, as soon as its partner serves alone.
    NewDisks {
        /// Which node.
        who: NodeName,
    },
}

/// A verb and its time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Microseconds since the start of the run.
    pub at_us: u64,
    /// What happens.
    #[serde(flatten)]
    pub verb: Verb,
}

/// A whole run. Steps are in order of time.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// What stays the same.
    pub setup: Setup,
    /// What happens.
    pub steps: Vec<Step>,
}

/// A plan that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the plan: {source}")]
pub struct PlanError {
    line: usize,
    source: serde_json::Error,
}

impl Plan {
    /// Reads JSON lines. Empty lines and lines that begin with `#` are skipped.
    pub fn parse(text: &str) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        for (index, (line, json)) in
            lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).enumerate()
        {
            let failed = |source| PlanError { line, source };
            match index {
                0 => plan.setup = serde_json::from_str(json).map_err(failed)?,
                _ => plan.steps.push(serde_json::from_str(json).map_err(failed)?),
            }
        }
        plan.steps.sort_by_key(|step| step.at_us);
        Ok(plan)
    }

    /// As JSON lines.
    pub fn print(&self) -> String {
        let mut text = serde_json::to_string(&self.setup).expect("a setup has only plain values");
        text.push('\n');
        for step in &self.steps {
            text.push_str(&serde_json::to_string(step).expect("a step has only plain values"));
            text.push('\n');
        }
        text
    }

    /// Adds a step.
    pub fn at(&mut self, at_us: u64, verb: Verb) {
        self.steps.push(Step { at_us, verb });
    }

    /// Puts the steps in order of time.
    pub fn sort(&mut self) {
        self.steps.sort_by_key(|step| step.at_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_read_as_they_were_printed() {
        let mut plan = Plan::default();
        plan.at(0, Verb::Load { ops: 100 });
        plan.at(1_000, Verb::Kill { who: NodeName::A });
        let at = Sectors::new(8, 8);
        plan.at(2_000, Verb::Write { via: NodeName::B, volume: VolumeId(1), at, fua: true });
        plan.at(3_000, Verb::HealAll);
        assert_eq!(Plan::parse(&plan.print()).unwrap(), plan);
    }

    #[test]
    fn hand_written_plans_say_only_what_matters() {
        let text = "# a short one\n{\"seed\": 7, \"lease_ms\": 200}\n\n\
                    {\"at_us\": 10, \"verb\": \"power-cut\", \"who\": \"B\"}\n";
        let plan = Plan::parse(text).unwrap();
        assert_eq!((plan.setup.seed, plan.setup.lease_ms, plan.setup.disks), (7, 200, 1));
        assert_eq!(plan.steps[0].verb, Verb::PowerCut { who: NodeName::B });
        let error = Plan::parse("{}\n{\"at_us\": 1, \"verb\": \"dance\"}").unwrap_err();
        assert!(error.to_string().starts_with("line 2"), "{error}");
    }
}
