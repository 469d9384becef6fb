//! Snapshots and clones: an operator who takes them at either server while hosts write, and drops some again.
//!
//! What was acknowledged must be there on every node that serves, ever after. At rest each is read as a host would, on both
//! nodes: they must show the same, and all that were taken by one question must show one moment of the hosts' history,
//! between the question and the answer: no value that was written after it, none that was overwritten before.

mod writes;

use std::collections::{BTreeMap, BTreeSet};

use super::Cluster;
use super::invariants::REGION_BLOCKS;
use crate::block::SECTORS_PER_BLOCK;
use crate::guest::{Command, GuestError, GuestResult, Sectors};
use crate::ids::{NodeName, RequestId, Uuid, VolumeId};
use crate::mirror::message::{NewClone, VolumeChange, VolumeRefusal};
use crate::node::event::Event;
use crate::node::view::View;
use crate::sim::history::{Kind, Moment, Op, Outcome};
use crate::sim::hosts::{Pending, Request};
use crate::sim::pattern::{self, Value, ZERO};
use crate::time::Duration;

/// The first number of a volume that is made during a run.
const FIRST: u32 = 1000;
/// Hosts' attempts have smaller numbers.
const FIRST_READ: u64 = 1 << 40;
/// Blocks that are read at once.
const READ_BLOCKS: usize = 16;

/// What sectors show.
type Shown = Vec<(u64, Value)>;

/// What an operator has heard of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Heard {
    /// Nothing, or that nothing is known.
    Unsure,
    /// It was done, by this moment.
    Done(Moment),
    /// It was not.
    Refused,
}

/// A volume that was asked for.
#[derive(Clone, Debug)]
struct Made {
    /// The volume whose data it has, which hosts write.
    root: VolumeId,
    mirrored: bool,
    read_only: bool,
    /// The question that it was part of.
    question: usize,
    /// The question whose moment it shows: of a clone that of its snapshot.
    moment: usize,
    /// Somebody wants it gone.
    doomed: bool,
}

/// Volumes that begin as one was at one moment.
#[derive(Clone, Debug)]
struct Question {
    asked: Moment,
    heard: Heard,
}

/// All that is known of clones.
#[derive(Debug, Default)]
pub(super) struct Clones {
    made: BTreeMap<VolumeId, Made>,
    questions: Vec<Question>,
    /// Who waits for an answer: the node's question, and all of ours that it is.
    waiting: BTreeMap<(NodeName, u64), usize>,
    writes: writes::Writes,
    /// Regions that a source could not read.
    unreadable: BTreeSet<(NodeName, VolumeId, u64)>,
    last_read: u64,
    /// Reads under way, and what came of them.
    reads: BTreeMap<u64, Option<GuestResult>>,
}

/// Was this volume made during the run?
pub(super) fn is_clone(volume: VolumeId) -> bool {
    volume.0 >= FIRST
}

impl Clones {
    /// The node's memory is gone, and with it the answers.
    pub(super) fn life_ended(&mut self, node: NodeName) {
        self.waiting.retain(|(who, _), _| *who != node);
    }

    fn next_number(&self) -> u32 {
        FIRST + self.made.len() as u32
    }
}

impl Cluster {
    /// The operator at `who` takes snapshots of volumes, all at one moment.
    pub(super) fn take_snapshots(&mut self, who: NodeName, volumes: &[VolumeId]) {
        let moment = self.clones.questions.len();
        let of: Vec<_> = volumes.iter().map(|volume| (*volume, *volume)).collect();
        self.ask_for_clones(who, &of, moment, true);
    }

    /// The operator at `who` makes a clone that hosts may write of the snapshot that was acknowledged as this one, counted round.
    pub(super) fn make_clone(&mut self, who: NodeName, which: u32) {
        let there = self.acknowledged().filter(|(_, made)| made.read_only && !made.doomed);
        let there: Vec<_> = there.map(|(id, made)| (id, made.root, made.moment)).collect();
        if !there.is_empty() {
            let (id, root, moment) = there[which as usize % there.len()];
            self.ask_for_clones(who, &[(id, root)], moment, false);
        }
    }

    /// The operator at `who` drops the clone or snapshot that was acknowledged as this one, counted round.
    pub(super) fn drop_clone(&mut self, who: NodeName, which: u32) {
        let there: Vec<VolumeId> = self.acknowledged().map(|(id, _)| id).collect();
        if there.is_empty() {
            return;
        }
        let volume = there[which as usize % there.len()];
        let made = self.clones.made.get_mut(&volume).expect("just found");
        let who = if made.mirrored { who } else { NodeName::A };
        if self.slots[who.index()].opened {
            made.doomed = true;
            self.send_change(who, volume, VolumeChange::Delete);
        }
    }

    /// A node cannot make the clones that its partner has: the operator drops one that was acknowledged, at the partner.
    pub(super) fn clones_in_the_way(&mut self, node: NodeName) {
        self.counters.clones_in_the_way += 1;
        let there = self.view(node.partner()).map_or_else(Vec::new, |view| view.volumes);
        let there = there.iter().map(|volume| volume.id).filter(|id| is_clone(*id));
        // First those that nobody wants gone as it is; an earlier question for another may have come at the wrong time.
        let mirrored =
            there.filter_map(|id| Some((id, self.clones.made.get(&id).filter(|made| made.mirrored)?)));
        let Some((volume, _)) = mirrored.min_by_key(|(id, made)| (made.doomed, *id)) else { return };
        if let Some(made) = self.clones.made.get_mut(&volume) {
            made.doomed = true;
        }
        self.send_change(node.partner(), volume, VolumeChange::Delete);
    }

    /// The source has a region that it cannot read, and so the mirror does not become whole. Of what was damaged when a shared
    /// extent was copied no disk has the good copy: a volume gets it back from elsewhere, a clone is dropped.
    pub(super) fn cannot_be_copied(&mut self, node: NodeName, volume: VolumeId, region: u64) {
        self.clones.unreadable.insert((node, volume, region));
        if self.healing {
            self.bring_back(node, volume, region);
        }
    }

    /// A block keeps a disk from leaving, for no disk has a good copy of it.
    pub(super) fn cannot_be_moved(&mut self, node: NodeName, volume: VolumeId, block: u64) {
        self.counters.unmovable_blocks += 1;
        if self.content(node.partner(), volume, block).is_none() {
            self.cannot_be_copied(node, volume, block / REGION_BLOCKS);
        }
    }

    /// All faults have ended: what no disk has any more is brought back.
    pub(super) fn bring_back_all(&mut self) {
        for (node, volume, region) in self.clones.unreadable.clone() {
            self.bring_back(node, volume, region);
        }
    }

    fn bring_back(&mut self, node: NodeName, volume: VolumeId, region: u64) {
        if !self.slots[node.index()].opened || self.is_deleted(volume) {
            return;
        }
        let blocks = region * REGION_BLOCKS..(region + 1) * REGION_BLOCKS;
        let lost: Vec<u64> = blocks.filter(|block| self.content(node, volume, *block).is_none()).collect();
        if lost.is_empty() {
            return;
        }
        self.counters.blocks_restored += lost.len() as u64;
        if let Some(made) = self.clones.made.get_mut(&volume) {
            // An earlier question may have come at the wrong time.
            made.doomed = true;
            return self.send_change(node, volume, VolumeChange::Delete);
        }
        for block in lost {
            let at = Sectors::new(block * SECTORS_PER_BLOCK, SECTORS_PER_BLOCK);
            let open = |pending: &Pending| pending.request.kind == Kind::Write && pending.request.at == at;
            if !self.hosts.pending.values().any(open) {
                self.request(
                    Request { kind: Kind::Write, volume, at, fua: false, expected: ZERO },
                    node,
                    None,
                );
            }
        }
    }

    fn acknowledged(&self) -> impl Iterator<Item = (VolumeId, &Made)> + '_ {
        let done = |made: &Made| matches!(self.clones.questions[made.question].heard, Heard::Done(_));
        self.clones.made.iter().filter(move |(_, made)| done(made)).map(|(id, made)| (*id, made))
    }

    /// Each of what, and of which volume's data, as it was at the moment of which question.
    fn ask_for_clones(&mut self, who: NodeName, of: &[(VolumeId, VolumeId)], moment: usize, read_only: bool) {
        let mirrored = of.iter().all(|(_, root)| self.hosts.is_mirrored(*root));
        let who = if mirrored { who } else { NodeName::A };
        let slot = &mut self.slots[who.index()];
        if !slot.opened {
            return;
        }
        slot.questions += 1;
        let id = slot.questions;
        let question = self.clones.questions.len();
        let mut clones = Vec::new();
        for &(of, root) in of {
            let number = self.clones.next_number();
            let (volume, uuid) = (VolumeId(number), Uuid(u128::from(number) << 64 | question as u128));
            clones.push(NewClone { volume, of, uuid, name: format!("v{of} at {question}"), read_only });
            self.clones
                .made
                .insert(volume, Made { root, mirrored, read_only, question, moment, doomed: false });
        }
        let asked = self.history.tick();
        self.clones.questions.push(Question { asked, heard: Heard::Unsure });
        self.clones.waiting.insert((who, id), question);
        self.deliver(who, Event::Clones { id, clones });
    }

    /// Is this the answer to a question for clones?
    pub(super) fn clones_answered(
        &mut self,
        who: NodeName,
        id: u64,
        result: Result<(), VolumeRefusal>,
    ) -> bool {
        let Some(question) = self.clones.waiting.remove(&(who, id)) else { return false };
        self.story(&who.to_string(), || format!("clones of question {question}: {result:?}"));
        let now = self.history.tick();
        let heard = &mut self.clones.questions[question].heard;
        match result {
            Ok(()) => {
                *heard = Heard::Done(now);
                self.counters.clones_made += 1;
            }
            Err(VolumeRefusal::Interrupted) => self.counters.clones_interrupted += 1,
            Err(_) => {
                *heard = Heard::Refused;
                self.counters.clones_refused += 1;
            }
        }
        self.watch.look_soon();
        true
    }

    /// A node that serves has all that was acknowledged, and none that nobody asked for.
    pub(super) fn inspect_clones(&mut self, view: &View) {
        let node = view.name;
        let here = |made: &Made| made.mirrored || node == NodeName::A;
        let has = |id: VolumeId| view.volumes.iter().any(|volume| volume.id == id);
        let lost = self.acknowledged().find(|(id, made)| here(made) && !made.doomed && !has(*id));
        let lost = lost.map(|(id, _)| id);
        if let Some(id) = lost {
            return self
                .fail(27, format!("node {node} serves, and has no volume {id}, which was acknowledged"));
        }
        let odd = view
            .volumes
            .iter()
            .find(|volume| is_clone(volume.id) && !self.clones.made.contains_key(&volume.id));
        if let Some(volume) = odd {
            self.fail(27, format!("node {node} has volume {}, for which nobody asked", volume.id));
        }
    }

    /// At rest: what was refused is not there, and what is there shows one moment on both nodes.
    pub(super) fn verify_clones(&mut self, patience: Duration) {
        let Some(view) = self.view(NodeName::A) else { return };
        let mut shown: BTreeMap<usize, Vec<(VolumeId, Shown)>> = BTreeMap::new();
        let there = view.volumes.iter().map(|volume| volume.id).filter(|id| is_clone(*id));
        for volume in there.collect::<Vec<_>>() {
            let Some(made) = self.clones.made.get(&volume).cloned() else { continue };
            if self.clones.questions[made.question].heard == Heard::Refused {
                return self.fail(27, format!("volume {volume} is there, and was refused"));
            }
            let nodes = if made.mirrored { &NodeName::BOTH[..] } else { &NodeName::BOTH[..1] };
            let mut first: Option<Shown> = None;
            for node in nodes {
                let Some(found) = self.read_clone(*node, volume, made.root, patience) else { return };
                match &first {
                    None => first = Some(found),
                    Some(other) => {
                        if let Some((sector, what)) = differs(other, &found) {
                            let text = format!("volume {volume} sector {sector} is {what} on a and b");
                            return self.fail(27, text);
                        }
                    }
                }
            }
            self.counters.clones_verified += 1;
            let mut first = first.unwrap_or_default();
            if let Some(wrong) = self.clones.writes.check(volume, &mut first) {
                return self.fail(27, wrong);
            }
            shown.entry(made.moment).or_default().push((made.root, first));
        }
        for (question, volumes) in shown {
            self.check_moment(question, &volumes);
        }
    }

    /// The values of all sectors of a clone to which hosts ever wrote in what it was made of; without those that cannot be
    /// read for damage. `None`: a promise is broken.
    fn read_clone(
        &mut self,
        node: NodeName,
        volume: VolumeId,
        root: VolumeId,
        patience: Duration,
    ) -> Option<Shown> {
        let size = self.view(node)?.volumes.iter().find(|each| each.id == volume)?.sectors_shown;
        let blocks: BTreeSet<u64> =
            self.watch.blocks(root).chain(self.clones.writes.blocks(volume)).collect();
        let blocks: Vec<u64> = blocks.into_iter().filter(|block| (block + 1) * 8 <= size).collect();
        let mut found = Vec::new();
        let runs = blocks.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(READ_BLOCKS));
        for run in runs.collect::<Vec<_>>() {
            let at = Sectors::new(run[0] * SECTORS_PER_BLOCK, run.len() as u64 * SECTORS_PER_BLOCK);
            self.clones.last_read += 1;
            let id = FIRST_READ + self.clones.last_read;
            self.clones.reads.insert(id, None);
            let command = Command::Read { at };
            self.deliver(node, Event::Guest { id: RequestId(id), volume, command });
            let open = |cluster: &mut Cluster| cluster.clones.reads.get(&id).is_some_and(Option::is_none);
            if !self.run_while(patience, open) {
                self.fail(15, format!("node {node} does not answer a read of volume {volume}"));
                return None;
            }
            match self.clones.reads.remove(&id).flatten() {
                Some(Ok(data)) => match pattern::values(root, at, &data) {
                    Ok(values) => found.extend((at.start..).zip(values)),
                    Err(foreign) => {
                        self.fail(27, format!("volume {volume} on {node}: {foreign}"));
                        return None;
                    }
                },
                Some(Err(GuestError::Medium)) => {}
                other => {
                    self.fail(27, format!("node {node} answers a read of volume {volume} with {other:?}"));
                    return None;
                }
            }
        }
        Some(found)
    }

    /// The answer to a request for a clone.
    pub(super) fn clone_answered(&mut self, id: RequestId, result: GuestResult) {
        if self.clone_was_written(id, &result) {
            return;
        }
        if let Some(answer) = self.clones.reads.get_mut(&id.0) {
            *answer = Some(result);
        }
    }

    /// Is there one moment at which all of these showed what they show?
    fn check_moment(&mut self, question: usize, volumes: &[(VolumeId, Shown)]) {
        let Question { asked, heard } = self.clones.questions[question];
        let answered = if let Heard::Done(at) = heard { at } else { Moment::MAX };
        let roots: Vec<VolumeId> = volumes.iter().map(|(root, _)| *root).collect();
        let lossy = |loss: &crate::sim::history::Loss| loss.volumes.iter().any(|id| roots.contains(id));
        // What was done before a loss may be gone.
        let sure = !self.history.losses.iter().any(|loss| lossy(loss) && loss.at < answered);
        let mut window = Window { from: (asked, None), to: (answered, None) };
        for (root, sectors) in volumes {
            let ops = ops_by_sector(&self.history.ops, *root, sectors);
            for (sector, value) in sectors {
                let ops = ops.get(sector).map_or(&[][..], Vec::as_slice);
                window.narrow(&self.history.ops, ops, (*root, *sector, *value), sure);
            }
        }
        self.counters.clone_moments_checked += 1;
        if window.from.0 > window.to.0 {
            let text = format!(
                "question {question} took no one moment: not before {:?}, not after {:?} (volume, sector, value)",
                window.from, window.to
            );
            self.fail(27, text);
        }
    }
}

/// The first sector that two know and that differs.
fn differs(a: &[(u64, Value)], b: &[(u64, Value)]) -> Option<(u64, String)> {
    let other: BTreeMap<u64, Value> = b.iter().copied().collect();
    a.iter().find_map(|(sector, value)| {
        let found = other.get(sector).filter(|found| *found != value)?;
        Some((*sector, format!("{value} and {found}")))
    })
}

/// Writes and zeros by the sectors that they touch.
fn ops_by_sector(ops: &[Op], volume: VolumeId, sectors: &[(u64, Value)]) -> BTreeMap<u64, Vec<usize>> {
    let mut found: BTreeMap<u64, Vec<usize>> = sectors.iter().map(|(sector, _)| (*sector, vec![])).collect();
    let changes = ops
        .iter()
        .enumerate()
        .filter(|(_, op)| op.volume == volume && op.writes() && op.outcome != Outcome::Refused);
    for (index, op) in changes {
        for (_, ops) in found.range_mut(op.at.start..op.at.end()) {
            ops.push(index);
        }
    }
    found
}

type Bound = (Moment, Option<(VolumeId, u64, Value)>);

/// When it can have been.
struct Window {
    from: Bound,
    to: Bound,
}

impl Window {
    /// A sector shows this value: that was not before the write of it began, nor after a change had ended that came after it.
    fn narrow(&mut self, all: &[Op], ops: &[usize], what: (VolumeId, u64, Value), sure: bool) {
        let shown = what.2;
        let ops = || ops.iter().map(|index| &all[*index]);
        let wrote = ops().find(|op| op.writes() && op.value == shown && shown != ZERO);
        if let Some(wrote) = wrote
            && wrote.start > self.from.0
        {
            self.from = (wrote.start, Some(what));
        }
        // What shows zeros may never have been written, or have been cleared by whatever cleared it.
        let since = match wrote {
            Some(op) if op.outcome == Outcome::Done => op.end,
            None if shown == ZERO && ops().all(|op| op.value != ZERO) => Some(0),
            _ => None,
        };
        let Some(since) = since.filter(|_| sure) else { return };
        let later = ops().filter(|op| op.outcome == Outcome::Done && op.start > since);
        if let Some(end) = later.filter_map(|op| op.end).min()
            && end < self.to.0
        {
            self.to = (end, Some(what));
        }
    }
}
