//! Two nodes driven by hand: disks answer at once, messages arrive at once, time moves when told. The shortest
//! stories of the mirror, before the simulator makes them hard.

use std::collections::{BTreeMap, VecDeque};

use twinsan::arbiter::{Answer, Arbitration, Ask, Register};
use twinsan::block::{BLOCK_BYTES, Block, PagePool, Payload, payload_from, zeros};
use twinsan::guest::{Command, GuestResult, Sectors};
use twinsan::ids::{BootId, NodeName, RequestId, Uuid, VolumeId};
use twinsan::io::{DiskOp, Geometry};
use twinsan::mirror::message::PeerPhase;
use twinsan::node::Node;
use twinsan::node::config::{CacheConfig, MirrorConfig, NodeConfig, VolumeConfig};
use twinsan::node::event::{Action, Event};
use twinsan::planted::Planted;
use twinsan::pool::{FormatIds, PoolOptions, format};
use twinsan::time::{Duration, Instant};

const VOLUME: VolumeId = VolumeId(1);
const DISK: Geometry = Geometry { bytes: 64 << 20, sector_bytes: 512 };

#[derive(Default)]
struct Disk {
    blocks: BTreeMap<u64, Block>,
}

impl Disk {
    fn carry_out(&mut self, op: DiskOp) -> Payload {
        match op {
            DiskOp::Read { offset, blocks } => (0..u64::from(blocks))
                .map(|n| self.blocks.get(&(offset / 4096 + n)).cloned().unwrap_or_default())
                .collect(),
            DiskOp::Write { offset, data } => {
                for (n, block) in data.into_iter().enumerate() {
                    self.blocks.insert(offset / 4096 + n as u64, block);
                }
                Payload::new()
            }
            DiskOp::Flush => Payload::new(),
        }
    }
}

struct Pair {
    nodes: [Option<Node>; 2],
    disks: [Disk; 2],
    register: Option<Register>,
    now: Instant,
    link: u64,
    linked: bool,
    boots: u64,
    requests: u64,
    events: VecDeque<(usize, Event)>,
    answers: BTreeMap<u64, GuestResult>,
    pages: PagePool,
    arbitration: Arbitration,
}

impl Pair {
    fn new(arbitration: Arbitration) -> Pair {
        let mut disks = [Disk::default(), Disk::default()];
        for (n, disk) in disks.iter_mut().enumerate() {
            let ids = FormatIds {
                pool: Uuid(10 + n as u128),
                disks: vec![Uuid(20 + n as u128)],
                node: NodeName::BOTH[n],
                partnership: Uuid(7),
            };
            for write in format(&ids, &PoolOptions::default(), &[DISK]).expect("formats") {
                disk.carry_out(DiskOp::Write { offset: write.offset, data: write.data });
            }
        }
        let mut pair = Pair {
            nodes: [None, None],
            disks,
            register: None,
            now: Instant::from_nanos(1),
            link: 0,
            linked: false,
            boots: 0,
            requests: 0,
            events: VecDeque::new(),
            answers: BTreeMap::new(),
            pages: PagePool::new(),
            arbitration,
        };
        pair.start(0);
        pair.start(1);
        pair.heal();
        pair
    }

    fn start(&mut self, n: usize) {
        self.boots += 1;
        let config = NodeConfig {
            name: NodeName::BOTH[n],
            partnership: Uuid(7),
            boot: BootId(self.boots),
            arbitration: self.arbitration,
            preferred: NodeName::A,
            volumes: vec![VolumeConfig {
                id: VOLUME,
                name: "v".into(),
                uuid: Uuid(99),
                sectors: 200_000,
                mirrored: true,
            }],
            cache: CacheConfig::default(),
            mirror: MirrorConfig::default(),
            planted: Planted::NONE,
        };
        self.nodes[n] = Some(Node::new(config, &[DISK]));
        self.events.push_back((n, Event::Tick));
        self.settle();
    }

    fn kill(&mut self, n: usize) {
        self.cut();
        self.nodes[n] = None;
        self.settle();
    }

    fn cut(&mut self) {
        if self.linked {
            self.linked = false;
            let link = self.link;
            self.events.retain(|(_, event)| !matches!(event, Event::Message { .. }));
            self.events.extend([(0, Event::LinkDown { link }), (1, Event::LinkDown { link })]);
            self.settle();
        }
    }

    fn heal(&mut self) {
        self.linked = true;
        self.link += 1;
        let link = self.link;
        self.events.extend([(0, Event::LinkUp { link }), (1, Event::LinkUp { link })]);
        self.settle();
    }

    fn settle(&mut self) {
        let mut steps = 0;
        while let Some((n, event)) = self.events.pop_front() {
            steps += 1;
            assert!(steps < 1_000_000, "livelock");
            let Some(node) = &mut self.nodes[n] else { continue };
            node.handle(self.now, event);
            while let Some(action) = self.nodes[n].as_mut().and_then(Node::poll) {
                self.act(n, action);
            }
        }
    }

    fn act(&mut self, n: usize, action: Action) {
        match action {
            Action::Disk(request) => {
                let result = Ok(self.disks[n].carry_out(request.op));
                self.events.push_back((n, Event::Disk { id: request.id, result }));
            }
            Action::Send { link, message } => {
                if self.linked && link == self.link {
                    self.events.push_back((1 - n, Event::Message { link, message }));
                }
            }
            Action::Disconnect { .. } => {}
            Action::Arbiter { id, ask } => {
                let mut swapped = false;
                if let Ask::Swap { expect, new } = ask
                    && expect == self.register
                {
                    (self.register, swapped) = (Some(new), true);
                }
                let result = Ok(Answer { swapped, register: self.register });
                self.events.push_back((n, Event::Arbiter { id, result }));
            }
            Action::Complete { id, result } => {
                assert!(self.answers.insert(id.0, result).is_none(), "answered once");
            }
            Action::Aborted { .. } | Action::Notice(_) => {}
            Action::PoolAnswer { .. } | Action::Release { .. } => unreachable!("no disk comes or goes here"),
        }
    }

    /// Lets time pass, in steps no longer than the nodes allow.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            let next = self.nodes.iter().flatten().filter_map(|node| node.deadline()).min().unwrap_or(end);
            self.now = next.clamp(self.now + Duration::from_micros(1), end);
            self.events.extend([(0, Event::Tick), (1, Event::Tick)]);
            self.settle();
        }
    }

    fn ask(&mut self, n: usize, command: Command) -> u64 {
        self.requests += 1;
        let id = self.requests;
        self.events.push_back((n, Event::Guest { id: RequestId(id), volume: VOLUME, command }));
        self.settle();
        id
    }

    fn finish(&mut self, id: u64) -> GuestResult {
        for _ in 0..400 {
            if let Some(answer) = self.answers.remove(&id) {
                return answer;
            }
            self.pass(Duration::from_millis(50));
        }
        panic!("request {id} has no answer; phases {:?}", self.phases());
    }

    fn write(&mut self, n: usize, block: u64, fill: u8) -> GuestResult {
        let data = payload_from(&self.pages, &[fill; BLOCK_BYTES]);
        let id = self.ask(n, Command::Write { at: Sectors::new(block * 8, 8), data, fua: false });
        self.finish(id)
    }

    fn read(&mut self, n: usize, block: u64) -> u8 {
        let id = self.ask(n, Command::Read { at: Sectors::new(block * 8, 8) });
        let data = self.finish(id).expect("reads");
        assert!(data[0].bytes().iter().all(|byte| *byte == data[0].bytes()[0]));
        data[0].bytes()[0]
    }

    fn phases(&self) -> [Option<PeerPhase>; 2] {
        [0, 1].map(|n| self.nodes[n].as_ref().map(|node| node.view(self.now).phase))
    }

    fn until_paired(&mut self) {
        for _ in 0..400 {
            if self.phases() == [Some(PeerPhase::Paired); 2] {
                self.pass(Duration::from_millis(10));
                return;
            }
            self.pass(Duration::from_millis(50));
        }
        panic!("never a pair: {:?}, register {:?}", self.phases(), self.register);
    }
}

#[test]
fn two_new_nodes_become_a_pair_and_serve_on_both_paths() {
    let mut pair = Pair::new(Arbitration::Register);
    pair.until_paired();
    pair.write(0, 5, 0x11).expect("written at a");
    assert_eq!(pair.read(1, 5), 0x11);
    pair.write(1, 6, 0x22).expect("written at b");
    assert_eq!((pair.read(0, 6), pair.read(1, 6)), (0x22, 0x22));
    let id = pair.ask(1, Command::Flush);
    pair.finish(id).expect("flushed");
}

#[test]
fn a_killed_node_is_taken_over_and_resynchronised() {
    for arbitration in [Arbitration::Register, Arbitration::Preferred] {
        for victim in [0, 1] {
            if arbitration == Arbitration::Preferred && victim == 0 {
                continue; // the other one stops, as configured
            }
            let survivor = 1 - victim;
            let mut pair = Pair::new(arbitration);
            pair.until_paired();
            for block in 0..50 {
                pair.write(block as usize % 2, block * 7, block as u8 + 1).expect("written");
            }
            pair.kill(victim);
            for block in 0..50 {
                assert_eq!(pair.read(survivor, block * 7), block as u8 + 1);
            }
            for block in 0..10 {
                pair.write(survivor, block * 21, 0x99).expect("written alone");
            }
            pair.start(victim);
            pair.heal();
            pair.until_paired();
            for block in 0..10 {
                assert_eq!(pair.read(victim, block * 21), 0x99);
            }
            assert_eq!(pair.read(victim, 7), 2);
        }
    }
}

#[test]
fn a_cut_link_leaves_one_and_heals_to_two() {
    for arbitration in [Arbitration::Register, Arbitration::Preferred, Arbitration::StopBoth] {
        let mut pair = Pair::new(arbitration);
        pair.until_paired();
        pair.write(1, 3, 3).expect("written");
        pair.cut();
        pair.pass(Duration::from_secs(6));
        let alone = pair.phases().iter().filter(|phase| **phase == Some(PeerPhase::Alone)).count();
        assert_eq!(alone, usize::from(arbitration != Arbitration::StopBoth));
        pair.heal();
        pair.until_paired();
        assert_eq!((pair.read(0, 3), pair.read(1, 3)), (3, 3));
    }
}

#[test]
fn a_short_cut_changes_nothing() {
    let mut pair = Pair::new(Arbitration::Register);
    pair.until_paired();
    let epoch = pair.register.map(|register| register.epoch);
    pair.cut();
    pair.pass(Duration::from_millis(100));
    pair.heal();
    pair.write(1, 3, 3).expect("written");
    assert_eq!(pair.register.map(|register| register.epoch), epoch);
}

#[test]
fn a_clean_stop_hands_over_without_the_arbiter() {
    let mut pair = Pair::new(Arbitration::Register);
    pair.until_paired();
    pair.write(0, 1, 1).expect("written");
    pair.events.push_back((0, Event::Stop));
    pair.settle();
    pair.pass(Duration::from_millis(500));
    assert_eq!(pair.phases(), [Some(PeerPhase::Stopped), Some(PeerPhase::Alone)]);
    assert_eq!(pair.read(1, 1), 1);
    pair.write(1, 1, 2).expect("written alone");
    pair.kill(0);
    pair.start(0);
    pair.heal();
    pair.until_paired();
    assert_eq!(pair.read(0, 1), 2);
}

#[test]
fn an_unaligned_write_keeps_its_neighbours_and_a_cleared_range_reads_zero() {
    let mut pair = Pair::new(Arbitration::Register);
    pair.until_paired();
    for n in [0, 1] {
        pair.write(n, 8, 0x55).expect("written");
        let data = payload_from(&pair.pages, &[0xaa; BLOCK_BYTES]);
        let id = pair.ask(n, Command::Write { at: Sectors::new(8 * 8 + 2, 3), data, fua: true });
        pair.finish(id).expect("written");
        for path in [0, 1] {
            let id = pair.ask(path, Command::Read { at: Sectors::new(64, 8) });
            let data = pair.finish(id).expect("reads");
            let bytes = data[0].bytes();
            assert_eq!(
                (bytes[0], bytes[1023], bytes[1024], bytes[2559], bytes[2560]),
                (0x55, 0x55, 0xaa, 0xaa, 0x55)
            );
        }
        let id = pair.ask(1 - n, Command::Zero { at: Sectors::new(0, 4096), fua: true });
        pair.finish(id).expect("cleared");
        assert_eq!((pair.read(0, 8), pair.read(1, 8)), (0, 0));
    }
    assert_eq!(zeros(1).len(), 1);
}

#[test]
fn both_down_and_back_in_either_order() {
    for order in [[0, 1], [1, 0]] {
        let mut pair = Pair::new(Arbitration::Register);
        pair.until_paired();
        pair.write(0, 2, 2).expect("written");
        let id = pair.ask(0, Command::Flush);
        pair.finish(id).expect("flushed");
        pair.kill(0);
        pair.kill(1);
        pair.start(order[0]);
        pair.pass(Duration::from_secs(5));
        pair.start(order[1]);
        pair.heal();
        pair.until_paired();
        assert_eq!((pair.read(0, 2), pair.read(1, 2)), (2, 2));
    }
}
