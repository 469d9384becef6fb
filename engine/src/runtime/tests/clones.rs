//! Snapshots, clones and names through two engines, under writes from several threads on both.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;

use super::super::machine::Machine;
use super::super::*;
use super::scripted;
use super::story::{LINEAR, MIRRORED, OTHER, Pair, on_either_path, same, sectors, wait_until};
use crate::backend::MemoryBackend;
use crate::bits::BitSet;
use crate::block::{BLOCK_BYTES, Payload, payload_from, zeros};
use crate::guest::{GuestError, PathState, VirtualVolume, VolumeInfo};
use crate::ids::{NodeName, VolumeId};
use crate::mirror::message::{NewClone, PeerPhase};
use crate::node::Node;
use crate::node::event::{Action, Event, Notice};
use crate::node::view::{View, VolumeView};
use crate::pool::CloneRefusal;
use crate::time::Instant;

const WRITERS: u64 = 4;

/// The number that fills a block.
fn number(engine: &Engine, volume: VolumeId, block: u64) -> u64 {
    let found = engine.read(volume, sectors(block, 1)).unwrap();
    let bytes = found[0].bytes();
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

fn filled(pair: &Pair, number: u64) -> Payload {
    payload_from(&pair.pages, &number.to_le_bytes().repeat(BLOCK_BYTES / 8))
}

fn put(pair: &Pair, at: NodeName, volume: VolumeId, block: u64, number: u64) {
    pair.engine(at).write(volume, sectors(block, 1), filled(pair, number)).unwrap();
}

/// A volume, when the node shows it: the partner of the owner hears of it a little later.
fn shown(pair: &Pair, at: NodeName, volume: VolumeId) -> Arc<dyn VirtualVolume> {
    wait_until("the volume is shown", || pair.engine(at).volume(volume).is_some());
    pair.engine(at).volume(volume).unwrap()
}

fn info(pair: &Pair, at: NodeName, volume: VolumeId) -> VolumeInfo {
    shown(pair, at, volume).info()
}

fn names(pair: &Pair, at: NodeName) -> Vec<(u32, String)> {
    let infos = pair.engine(at).volumes().into_iter().map(|volume| volume.info());
    infos.map(|info| (info.id.0, info.name)).collect()
}

/// Each writer fills its block of one volume with the next number, on either node, and when that is acknowledged its block of
/// the other: at each moment the first has what the other has, or one more.
struct Writers {
    over: AtomicBool,
    /// By writer: what has been begun, and what is acknowledged for both volumes.
    begun: [AtomicU64; WRITERS as usize],
    done: [AtomicU64; WRITERS as usize],
}

impl Writers {
    fn new() -> Writers {
        let none = || std::array::from_fn(|_| AtomicU64::new(0));
        Writers { over: AtomicBool::new(false), begun: none(), done: none() }
    }

    fn write(&self, pair: &Pair, writer: u64) {
        for number in (1..).take_while(|_| !self.over.load(Ordering::SeqCst)) {
            self.begun[writer as usize].store(number, Ordering::SeqCst);
            for (path, volume) in (number + writer..).zip([MIRRORED, OTHER]) {
                on_either_path(pair, path, |engine| {
                    let written = engine.write(volume, sectors(writer, 1), filled(pair, number));
                    written.map(|()| Payload::new())
                });
            }
            self.done[writer as usize].store(number, Ordering::SeqCst);
        }
    }

    fn done(&self) -> Vec<u64> {
        self.done.iter().map(|done| done.load(Ordering::SeqCst)).collect()
    }

    fn begun(&self) -> Vec<u64> {
        self.begun.iter().map(|begun| begun.load(Ordering::SeqCst)).collect()
    }
}

/// Ends the writers also when a test fails.
struct End<'a>(&'a Writers);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_group_is_one_moment_on_both_nodes_under_writes() {
    let pair = Pair::new();
    let writers = Writers::new();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (pair, writers) = (&pair, &writers);
            scope.spawn(move || writers.write(pair, writer));
        }
        let _end = End(&writers);
        let mut taken: Vec<(Vec<VolumeId>, Vec<u64>)> = Vec::new();
        for round in 0..6 {
            let asked = NodeName::BOTH[round % 2];
            let before = writers.done();
            wait_until("everybody goes on", || {
                writers.done().iter().zip(&before).all(|(now, before)| now > before)
            });
            let (least, names) = (writers.done(), [format!("first-{round}"), format!("other-{round}")]);
            let group = [(MIRRORED, names[0].as_str()), (OTHER, names[1].as_str())];
            let made = pair.engine(asked).snapshot(&group).unwrap();
            let most = writers.begun();
            let contents = one_moment(&pair, &made, &least, &most);
            taken.push((made, contents));
        }
        // They stay what they are while the volumes go on.
        for (made, contents) in &taken {
            for at in NodeName::BOTH {
                assert_eq!(&group_contents(&pair, at, made), contents);
            }
        }
    });
}

fn group_contents(pair: &Pair, at: NodeName, made: &[VolumeId]) -> Vec<u64> {
    let engine = pair.engine(at);
    let blocks = made.iter().flat_map(|volume| (0..WRITERS).map(move |block| (*volume, block)));
    blocks.map(|(volume, block)| number(&engine, volume, block)).collect()
}

/// The contents of a group of snapshots, which are equal on both nodes, and of one moment between the two.
fn one_moment(pair: &Pair, made: &[VolumeId], least: &[u64], most: &[u64]) -> Vec<u64> {
    let [a, b] = NodeName::BOTH.map(|at| {
        made.iter().for_each(|volume| assert!(info(pair, at, *volume).read_only));
        group_contents(pair, at, made)
    });
    assert_eq!(a, b, "the nodes differ");
    let (first, other) = a.split_at(WRITERS as usize);
    for (writer, (first, other)) in first.iter().zip(other).enumerate() {
        assert!(first - other <= 1, "writer {writer}: {first} and {other} were never there at once");
        assert!(*other >= least[writer], "writer {writer}: {} was acknowledged before", least[writer]);
        assert!(*first <= most[writer], "writer {writer}: {first} was not written yet");
    }
    a
}

/// Groups that were acknowledged, with what had been acknowledged before and what had been begun after.
type Acknowledged = Mutex<Vec<(Vec<VolumeId>, Vec<u64>, Vec<u64>)>>;

/// Asks for groups, at either node, whatever comes of it.
fn ask_for_groups(pair: &Pair, writers: &Writers, round: usize, made: &Acknowledged) {
    for number in 0..8 {
        let least = writers.done();
        let names = ["first", "other"].map(|name| format!("{name} {round} {number}"));
        let group = [(MIRRORED, names[0].as_str()), (OTHER, names[1].as_str())];
        let Some(engine) = pair.engine_if_up(NodeName::BOTH[number % 2]) else { continue };
        match engine.snapshot(&group) {
            Ok(volumes) => made.lock().push((volumes, least, writers.begun())),
            Err(CloneError::Refused(
                VolumeRefusal::NotNow
                | VolumeRefusal::Busy
                | VolumeRefusal::NotAtRest
                | VolumeRefusal::Interrupted,
            )) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn groups_are_whole_and_kept_whatever_befalls_the_pair() {
    let pair = Pair::new();
    let (writers, made) = (Writers::new(), Acknowledged::default());
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (pair, writers) = (&pair, &writers);
            scope.spawn(move || writers.write(pair, writer));
        }
        let _end = End(&writers);
        for round in 0..4 {
            thread::scope(|scope| {
                scope.spawn(|| ask_for_groups(&pair, &writers, round, &made));
                let victim = NodeName::BOTH[round / 2];
                if round % 2 == 0 {
                    pair.cut();
                    let alone = |name: &NodeName| pair.site(*name).is_in(PeerPhase::Alone);
                    wait_until("one alone", || NodeName::BOTH.iter().any(alone));
                    pair.heal();
                } else {
                    pair.kill(victim);
                    pair.wait_phase(victim.partner(), PeerPhase::Alone);
                    pair.start(victim);
                }
            });
            pair.wait_whole();
        }
    });
    wait_until("one view", || names(&pair, NodeName::A) == names(&pair, NodeName::B));
    let made = made.into_inner();
    assert!(!made.is_empty(), "none at all");
    for (volumes, least, most) in &made {
        one_moment(&pair, volumes, least, most);
    }
    // Those of which nobody knew what had become are on both nodes or on neither, and all or none.
    let names: Vec<String> = names(&pair, NodeName::A).into_iter().map(|(_, name)| name).collect();
    let of = |kind: &str| -> Vec<&str> { names.iter().filter_map(|name| name.strip_prefix(kind)).collect() };
    assert_eq!(of("first "), of("other "));
}

#[test]
fn a_clone_is_written_and_its_snapshot_is_not() {
    let pair = Pair::new();
    for (asked, other) in [(NodeName::A, NodeName::B), (NodeName::B, NodeName::A)] {
        put(&pair, asked, MIRRORED, 7, 1);
        let name = format!("of {asked}");
        let snapshot = pair.engine(asked).snapshot(&[(MIRRORED, &name)]).unwrap()[0];
        put(&pair, other, MIRRORED, 7, 2);
        let clone = pair.engine(asked).clone_volume(snapshot, &format!("clone {name}")).unwrap();
        for at in NodeName::BOTH {
            let (snapshot, clone) = (info(&pair, at, snapshot), info(&pair, at, clone));
            assert_eq!((snapshot.read_only, clone.read_only), (true, false));
            assert!(snapshot.mirrored && clone.mirrored && snapshot.uuid != clone.uuid);
            assert_eq!(snapshot.sectors, info(&pair, at, MIRRORED).sectors);
            assert_eq!((snapshot.name, clone.name), (name.clone(), format!("clone {name}")));
        }
        assert_eq!(info(&pair, asked, clone).uuid, info(&pair, other, clone).uuid);
        put(&pair, other, clone, 7, 3);
        put(&pair, asked, clone, 8, 4);
        let refused = pair.engine(asked).write(snapshot, sectors(7, 1), filled(&pair, 5));
        assert_eq!(refused, Err(GuestError::ReadOnly));
        for at in NodeName::BOTH {
            let engine = pair.engine(at);
            let found = [snapshot, MIRRORED, clone].map(|volume| number(&engine, volume, 7));
            assert_eq!(found, [1, 2, 3], "block 7 at {at}");
            assert_eq!(number(&engine, clone, 8), 4);
            assert!(same(&engine.read(snapshot, sectors(8, 1)).unwrap(), &zeros(1)));
        }
        let refused = pair.engine(asked).clone_volume(MIRRORED, "no snapshot");
        let reason = VolumeRefusal::Clone(CloneRefusal::NotSnapshot(MIRRORED));
        assert!(matches!(refused, Err(CloneError::Refused(why)) if why == reason));
    }
}

#[test]
fn each_node_tells_of_what_was_made() {
    let pair = Pair::new();
    let made = pair.engine(NodeName::A).snapshot(&[(OTHER, "nightly")]).unwrap()[0];
    let told = Notice::VolumeCloned { volume: made, of: OTHER, read_only: true };
    for at in NodeName::BOTH {
        shown(&pair, at, made);
        let notices = pair.engine(at).notices();
        wait_until("the notice", || notices.try_iter().any(|notice| notice == told));
    }
}

#[test]
fn names_are_the_same_on_both_nodes_and_after_they_are_opened_again() {
    let pair = Pair::new();
    let (a, b) = (pair.engine(NodeName::A), pair.engine(NodeName::B));
    let snapshot = a.snapshot(&[(MIRRORED, "monday")]).unwrap()[0];
    shown(&pair, NodeName::B, snapshot);
    b.rename_volume(MIRRORED, "mail").unwrap();
    b.rename_volume(snapshot, "tuesday").unwrap();
    a.rename_volume(snapshot, "mittwoch, übrigens").unwrap();
    let own = a.snapshot(&[(LINEAR, "linear")]).unwrap()[0];

    let taken = |name: &str| match a.rename_volume(OTHER, name) {
        Err(CloneError::NameTaken { id, .. }) => id,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!((taken("mail"), taken("linear"), taken("V2")), (MIRRORED, own, LINEAR));
    assert_eq!(taken("V1"), MIRRORED, "the configuration says so, and mappings may");
    assert!(matches!(a.snapshot(&[(OTHER, "mail")]), Err(CloneError::NameTaken { id: MIRRORED, .. })));
    for name in ["", &"n".repeat(256)] {
        let refused = a.rename_volume(OTHER, name);
        assert!(matches!(refused, Err(CloneError::Refused(VolumeRefusal::Name))), "{refused:?}");
        let refused = a.snapshot(&[(OTHER, name)]);
        assert!(matches!(refused, Err(CloneError::Refused(VolumeRefusal::Name))), "{refused:?}");
    }
    a.rename_volume(OTHER, &"n".repeat(255)).unwrap();
    a.rename_volume(OTHER, "V3").unwrap();

    let on_both = [(1, "mail"), (2, "V2"), (3, "V3"), (snapshot.0, "mittwoch, übrigens")];
    let on_both: Vec<_> = on_both.map(|(id, name)| (id, name.to_owned())).into();
    let (mut on_a, on_b) = (on_both.clone(), on_both);
    on_a.insert(3, (own.0, "linear".into()));
    let same = || names(&pair, NodeName::A) == on_a && names(&pair, NodeName::B) == on_b;
    wait_until("the names on both", same);
    drop((a, b));
    NodeName::BOTH.iter().for_each(|name| pair.stop(*name));
    NodeName::BOTH.iter().for_each(|name| pair.start(*name));
    pair.wait_whole();
    wait_until("the names on both, opened again", || {
        names(&pair, NodeName::A) == on_a && names(&pair, NodeName::B) == on_b
    });
    for at in NodeName::BOTH {
        assert!(info(&pair, at, snapshot).read_only && info(&pair, at, snapshot).mirrored);
    }
}

#[test]
fn numbers_go_by_class_also_while_the_partner_is_away() {
    let pair = Pair::new();
    let snapshot = |at, of, name: &str| pair.engine(at).snapshot(&[(of, name)]).unwrap()[0].0;
    assert_eq!(snapshot(NodeName::A, MIRRORED, "one"), 1002);
    shown(&pair, NodeName::B, VolumeId(1002));
    assert_eq!(snapshot(NodeName::B, OTHER, "two"), 1005);
    assert_eq!(snapshot(NodeName::A, LINEAR, "own"), 1000);
    assert_eq!(snapshot(NodeName::B, LINEAR, "own"), 1001);
    let mixed = pair.engine(NodeName::A).snapshot(&[(MIRRORED, "x"), (LINEAR, "y")]);
    assert!(matches!(mixed, Err(CloneError::Refused(VolumeRefusal::Mixed))), "{mixed:?}");
    let unknown = pair.engine(NodeName::A).snapshot(&[(VolumeId(99), "x")]);
    assert!(matches!(unknown, Err(CloneError::Refused(VolumeRefusal::Unknown(VolumeId(99))))));
    assert!(matches!(pair.engine(NodeName::A).snapshot(&[]), Err(CloneError::Refused(VolumeRefusal::Many))));

    put(&pair, NodeName::A, MIRRORED, 3, 1);
    pair.kill(NodeName::B);
    pair.wait_phase(NodeName::A, PeerPhase::Alone);
    let alone = VolumeId(snapshot(NodeName::A, MIRRORED, "alone"));
    let clone = pair.engine(NodeName::A).clone_volume(alone, "written alone").unwrap();
    assert_eq!((alone.0, clone.0), (1008, 1011));
    put(&pair, NodeName::A, clone, 3, 2);
    put(&pair, NodeName::A, MIRRORED, 3, 3);
    // One that is deleted keeps its number.
    let gone = pair.engine(NodeName::A).clone_volume(alone, "gone").unwrap();
    pair.engine(NodeName::A).delete_volume(gone).unwrap();
    assert!(pair.engine(NodeName::A).volume(gone).is_none());
    pair.start(NodeName::B);
    pair.wait_whole();
    for at in NodeName::BOTH {
        assert_eq!(info(&pair, at, clone).name, "written alone");
        let engine = pair.engine(at);
        let found = [alone, clone, MIRRORED].map(|volume| number(&engine, volume, 3));
        assert_eq!(found, [1, 2, 3], "at {at}");
        assert!(engine.volume(gone).is_none() && names(&pair, at).iter().all(|(id, _)| *id != gone.0));
    }
    assert_eq!(info(&pair, NodeName::A, clone).uuid, info(&pair, NodeName::B, clone).uuid);
    assert_eq!(snapshot(NodeName::B, MIRRORED, "together"), gone.0 + 3);
    assert_eq!(snapshot(NodeName::B, LINEAR, "again"), 1004);
}

/// A node that finds the first number of so many questions taken, though it does not show it.
struct Taken {
    left: u32,
    asked: Arc<Mutex<Vec<Vec<NewClone>>>>,
    actions: VecDeque<Action>,
}

impl Machine for Taken {
    fn handle(&mut self, _now: Instant, event: Event) {
        match event {
            Event::Clones { id, clones } => {
                let refusal = VolumeRefusal::Clone(CloneRefusal::Taken(clones[0].volume));
                let result = if self.left > 0 { Err(refusal) } else { Ok(()) };
                self.left = self.left.saturating_sub(1);
                self.asked.lock().push(clones);
                self.actions.push_back(Action::VolumeAnswer { id, result });
            }
            _ => self.actions.push_back(Action::Notice(Notice::Opened)),
        }
    }

    fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn deadline(&mut self) -> Option<Instant> {
        None
    }

    fn view(&self, now: Instant) -> View {
        let volume = |id| VolumeView {
            id,
            mirrored: true,
            owner: None,
            hot: Vec::new(),
            log: BitSet::new(),
            extents: 0,
            sectors: 8,
            sectors_shown: 8,
            change: 0,
            of: None,
            read_only: false,
        };
        let view = Node::new(scripted::config(), &[]).view(now);
        View { volumes: vec![volume(MIRRORED), volume(OTHER)], deleted: vec![VolumeId(1002)], ..view }
    }

    fn path_states(&self, _now: Instant, _volume: VolumeId) -> [PathState; 2] {
        [PathState::Optimized, PathState::NonOptimized]
    }

    fn extent_sectors(&self) -> Option<u64> {
        None
    }
}

#[test]
fn a_number_that_is_taken_after_all_is_chosen_again_but_not_for_ever() {
    for refusals in [0, 1, 2, 64, 65] {
        let tries = (refusals + 1).min(65);
        let numbers: Vec<[u32; 2]> = (0..tries).map(|n| [1005 + 3 * n, 1008 + 3 * n]).collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let machine = Taken { left: refusals, asked: Arc::clone(&asked), actions: VecDeque::new() };
        let builder = Engine::builder(scripted::config()).disk(Arc::new(MemoryBackend::new(1 << 20)));
        let engine = builder.launch(Box::new(machine)).unwrap();
        let made = engine.snapshot(&[(MIRRORED, "one"), (OTHER, "other")]);
        match made {
            Ok(made) => {
                assert!(refusals < 65 && made.iter().map(|id| id.0).eq(*numbers.last().unwrap()));
            }
            Err(CloneError::Refused(VolumeRefusal::Clone(CloneRefusal::Taken(_)))) => {
                assert_eq!(refusals, 65);
            }
            Err(other) => panic!("{other}"),
        }
        let asked = asked.lock();
        let chosen: Vec<[u32; 2]> =
            asked.iter().map(|clones| [clones[0].volume.0, clones[1].volume.0]).collect();
        assert_eq!(chosen, numbers);
        assert!(asked.iter().flatten().all(|clone| clone.read_only && clone.uuid.0 != 0));
        assert_ne!(asked[0][0].uuid, asked[0][1].uuid);
    }
}
