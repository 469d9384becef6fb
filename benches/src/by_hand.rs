//! One or two pure nodes, fed by hand.

use std::collections::VecDeque;

use twinsan::arbiter::{Answer, Arbitration, Ask, Register};
use twinsan::block::{BLOCK_BYTES, Block, PagePool, Payload, payload_from};
use twinsan::guest::{Command, GuestResult, Sectors};
use twinsan::ids::{BootId, NodeName, RequestId, Uuid, VolumeId};
use twinsan::io::{DiskOp, Geometry};
use twinsan::mirror::message::PeerPhase;
use twinsan::node::Node;
use twinsan::node::config::{CacheConfig, MirrorConfig, NodeConfig, SpaceConfig, VolumeConfig};
use twinsan::node::event::{Action, Event};
use twinsan::planted::Planted;
use twinsan::pool::{FormatIds, PoolOptions, format};
use twinsan::time::{Duration, Instant};

/// The one volume.
pub const VOLUME: VolumeId = VolumeId(1);
/// Its size in 512-byte sectors: 1 GiB.
pub const SECTORS: u64 = (1 << 30) / 512;
/// The disk of each pool.
pub const DISK: Geometry = Geometry { bytes: 4 << 30, sector_bytes: 512 };

/// A disk that keeps the pages it is given and answers at once.
struct Disk(Vec<Block>);

impl Disk {
    fn carry_out(&mut self, op: DiskOp) -> Payload {
        match op {
            DiskOp::Read { offset, blocks } => {
                let first = (offset / BLOCK_BYTES as u64) as usize;
                self.0[first..first + blocks as usize].iter().cloned().collect()
            }
            DiskOp::Write { offset, data } => {
                let first = (offset / BLOCK_BYTES as u64) as usize;
                for (place, block) in self.0[first..].iter_mut().zip(data) {
                    *place = block;
                }
                Payload::new()
            }
            DiskOp::Flush => Payload::new(),
        }
    }
}

/// What the node of these benches is configured with; `boot` of zero lets the engine choose.
pub fn config(n: usize, nodes: usize, boot: u64) -> NodeConfig {
    NodeConfig {
        name: NodeName::BOTH[n],
        partnership: Uuid(7),
        boot: BootId(boot),
        arbitration: if nodes == 1 { Arbitration::Preferred } else { Arbitration::Register },
        preferred: NodeName::A,
        volumes: vec![VolumeConfig {
            id: VOLUME,
            name: "bench".into(),
            uuid: Uuid(99),
            sectors: SECTORS,
            mirrored: nodes == 2,
            reserved_bytes: 0,
            detect_zeros: false,
        }],
        cache: CacheConfig { blocks_max: 192 * 1024, dirty_blocks_max: 128 * 1024, ..CacheConfig::default() },
        mirror: MirrorConfig::default(),
        space: SpaceConfig::default(),
        experimental_snapshots: false,
        planted: Planted::NONE,
    }
}

/// The writes that make the pool of node `n`, as (byte offset, data).
pub fn formatted(n: usize) -> Vec<(u64, Payload)> {
    let ids = FormatIds {
        pool: Uuid(10 + n as u128),
        disks: vec![Uuid(20 + n as u128)],
        node: NodeName::BOTH[n],
        partnership: Uuid(7),
    };
    let writes = format(&ids, &PoolOptions::default(), &[DISK]).expect("the disk is large enough");
    writes.into_iter().map(|write| (write.offset, write.data)).collect()
}

/// One node with a linear volume, or two with a mirrored one.
pub struct World {
    nodes: Vec<Node>,
    disks: Vec<Disk>,
    register: Option<Register>,
    now: Instant,
    events: VecDeque<(usize, Event)>,
    /// Answers since the last [`request`](Self::request).
    answers: Vec<(RequestId, GuestResult)>,
    requests: u64,
    /// Messages that went over the link.
    pub messages: u64,
    /// Where payloads come from.
    pub pages: PagePool,
}

impl World {
    /// `nodes` is one or two; they serve when this returns.
    ///
    /// # Panics
    /// If they do not within a minute of their time.
    pub fn new(nodes: usize) -> World {
        let mut world = World {
            nodes: Vec::new(),
            disks: Vec::new(),
            register: None,
            now: Instant::from_nanos(1),
            events: VecDeque::new(),
            answers: Vec::new(),
            requests: 0,
            messages: 0,
            pages: PagePool::new(),
        };
        for n in 0..nodes {
            let mut disk = Disk(vec![Block::Zero; (DISK.bytes / BLOCK_BYTES as u64) as usize]);
            for (offset, data) in formatted(n) {
                disk.carry_out(DiskOp::Write { offset, data });
            }
            world.disks.push(disk);
            world.nodes.push(Node::new(config(n, nodes, 1 + n as u64), &[DISK]));
            world.events.push_back((n, Event::Tick));
        }
        if nodes == 2 {
            world.events.extend([(0, Event::LinkUp { link: 1 }), (1, Event::LinkUp { link: 1 })]);
        }
        world.settle();
        for _ in 0..1200 {
            if world.serves() {
                return world;
            }
            world.pass(Duration::from_millis(50));
        }
        panic!("the nodes do not serve");
    }

    fn serves(&self) -> bool {
        self.nodes.len() == 1 || self.nodes.iter().all(|node| node.view(self.now).phase == PeerPhase::Paired)
    }

    /// Lets time pass, with all that is due in it.
    pub fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            let next = self.nodes.iter().filter_map(Node::deadline).min().unwrap_or(end);
            self.now = next.clamp(self.now + Duration::from_micros(1), end);
            for n in 0..self.nodes.len() {
                self.events.push_back((n, Event::Tick));
            }
            self.settle();
        }
    }

    /// Moves the clock alone.
    pub fn tick(&mut self, span: Duration) {
        self.now += span;
    }

    fn settle(&mut self) {
        let mut actions = Vec::new();
        while let Some((n, event)) = self.events.pop_front() {
            // As the runtime does: beside other volumes if the node takes it so.
            match self.nodes[n].handle_beside(self.now, event, &mut actions, &mut |_| ()) {
                Ok(false) => {}
                Ok(true) => self.nodes[n].handle(self.now, Event::Tick),
                Err(event) => self.nodes[n].handle(self.now, event),
            }
            for action in actions.drain(..) {
                self.act(n, action);
            }
            while let Some(action) = self.nodes[n].poll() {
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
                self.messages += 1;
                self.events.push_back((1 - n, Event::Message { link, message }));
            }
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
            Action::Complete { id, result } => self.answers.push((id, result)),
            _ => {}
        }
    }

    /// A guest of node `n` asks; all that follows from it is done when this returns.
    pub fn request(&mut self, n: usize, command: Command) {
        self.requests += 1;
        self.answers.clear();
        let id = RequestId(self.requests);
        self.events.push_back((n, Event::Guest { id, volume: VOLUME, command }));
        self.settle();
    }

    /// The answer to the last request.
    ///
    /// # Panics
    /// If there is none.
    pub fn answer(&mut self) -> GuestResult {
        self.answers.pop().expect("the last request is answered").1
    }

    /// Writes one block.
    ///
    /// # Panics
    /// If the write fails.
    pub fn write(&mut self, n: usize, block: u64, data: Payload) {
        self.request(n, Command::Write { at: Sectors::new(block * 8, 8), data, fua: false });
        self.answer().expect("a healthy node writes");
    }

    /// Reads one block.
    ///
    /// # Panics
    /// If the read fails.
    pub fn read(&mut self, n: usize, block: u64) -> Payload {
        self.request(n, Command::Read { at: Sectors::new(block * 8, 8) });
        self.answer().expect("a healthy node reads")
    }

    /// Puts `blocks` blocks into the cache, far enough that areas are hot and extents have their space.
    pub fn warm(&mut self, blocks: u64) {
        let data = payload_from(&self.pages, &[0x5a; BLOCK_BYTES]);
        for block in 0..blocks {
            self.request(
                0,
                Command::Write { at: Sectors::new(block * 8, 8), data: data.clone(), fua: false },
            );
        }
    }
}

/// Numbers that look random: a full period over the powers of two.
pub struct Scatter(u64);

impl Scatter {
    /// Always the same sequence.
    pub fn new() -> Scatter {
        Scatter(1)
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

impl Default for Scatter {
    fn default() -> Scatter {
        Scatter::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_write_and_read() {
        for nodes in [1, 2] {
            let mut world = World::new(nodes);
            world.warm(100);
            for n in 0..nodes {
                let data = payload_from(&world.pages, &[n as u8; BLOCK_BYTES]);
                world.write(n, 3, data);
                assert_eq!(world.read(nodes - 1 - n, 3)[0].bytes()[0], n as u8);
            }
        }
    }
}
