//! A model of histories: what can have happened to two nodes, their disks and their register. It is written from the
//! protocol's description and shares no code with the product.
//!
//! The content of a block on a replica is the set of writes that it contains (a write that was overwritten there
//! counts as contained). [`BASE`] stands for everything that was there before. What the world was promised (an
//! acknowledged write, a value that was read) is kept apart: *hard* if no two failures may lose it, soft if a second
//! failure may.
//!
//! One step of a history is one function of `step.rs`. [`World::canonical`] renames epochs, generations and writes, so
//! that histories which differ in names only are one.

/// Most blocks.
pub(crate) const BLOCKS: usize = 2;
/// Everything written before the history began.
pub(crate) const BASE: u8 = 0x80;

/// Who decides when the nodes lose each other. Node 0 is the preferred one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Register,
    Preferred,
    StopBoth,
}

/// What a node is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Doing {
    Down,
    Starting,
    Paired,
    Asking,
    Won,
    Alone,
    Lost,
    Target,
    Joined,
}

/// How far the source is on the way to becoming whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Joining {
    No,
    /// The target was asked to write; the source has not written.
    TargetWrites,
    /// The source has written; the target (without an arbiter) perhaps not yet.
    SourceWrote,
    /// The swap is under way.
    Swapping,
}

/// One node and its disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Replica {
    // Durable.
    pub(crate) epoch: u8,
    pub(crate) members: u8,
    pub(crate) good: bool,
    pub(crate) generation: u8,
    /// Ancestors, a bit for each generation.
    pub(crate) past: u16,
    pub(crate) disk: [u8; BLOCKS],
    pub(crate) hot: u8,
    pub(crate) log: u8,
    pub(crate) log_lost: bool,
    pub(crate) foreign: bool,
    // Gone with a crash.
    pub(crate) doing: Doing,
    pub(crate) cache: [u8; BLOCKS],
    /// Ordered here, not yet acknowledged by the partner.
    pub(crate) kept: [u8; BLOCKS],
    /// Epoch of the pair that this memory is from.
    pub(crate) pair: u8,
    pub(crate) lease: bool,
    pub(crate) joining: Joining,
    pub(crate) proposed: u8,
    /// Epoch in which it went alone, while it proposes another.
    pub(crate) alone_since: u8,
}

/// The register: epoch, members, who wrote it.
pub(crate) type Register = (u8, u8, u8);

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct World {
    pub(crate) node: [Replica; 2],
    pub(crate) register: Option<Register>,
    /// What the register held before its last change.
    pub(crate) register_before: Option<Register>,
    pub(crate) link: bool,
    pub(crate) owner: u8,
    /// A swap to {both} under way: who sent it, the epoch it expects, the epoch it proposes.
    pub(crate) swap: Option<(u8, u8, u8)>,
    pub(crate) promised: [u8; BLOCKS],
    pub(crate) hard: [u8; BLOCKS],
    /// Has served alone since the mirror was last whole, and nobody was told to give that up.
    pub(crate) served_alone: [bool; 2],
    /// A person forced this node to serve, and so gave up what it lacks; unless the other has served alone.
    pub(crate) forced: Option<u8>,
    /// A hard promise is gone with a disk: nobody may go on without a person.
    pub(crate) lost: bool,
    pub(crate) left: Budget,
}

/// How much may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Budget {
    pub(crate) writes: u8,
    pub(crate) kills: u8,
    pub(crate) cuts: u8,
    pub(crate) stops: u8,
    pub(crate) forces: u8,
    /// Disks replaced by empty or foreign ones, logs lost.
    pub(crate) losses: u8,
}

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) mode: Mode,
    pub(crate) blocks: usize,
    /// Begin with two nodes that have never been a mirror.
    pub(crate) fresh: bool,
    pub(crate) budget: Budget,
}

pub(crate) const NOBODY: u8 = 0;
pub(crate) const BOTH: u8 = 3;

pub(crate) fn only(i: usize) -> u8 {
    1 << i
}

impl Replica {
    fn new(fresh: bool) -> Replica {
        let content = if fresh { [0; BLOCKS] } else { [BASE; BLOCKS] };
        Replica {
            epoch: u8::from(!fresh),
            members: BOTH,
            good: true,
            generation: u8::from(!fresh),
            past: 0,
            disk: content,
            hot: 0,
            log: 0,
            log_lost: false,
            foreign: false,
            doing: if fresh { Doing::Starting } else { Doing::Paired },
            cache: content,
            kept: [0; BLOCKS],
            pair: u8::from(!fresh),
            lease: !fresh,
            joining: Joining::No,
            proposed: NOBODY,
            alone_since: NOBODY,
        }
    }

    pub(crate) fn up(&self) -> bool {
        self.doing != Doing::Down
    }

    /// Everything that this replica would contribute if its data stood.
    pub(crate) fn holds(&self, block: usize) -> u8 {
        if self.up() { self.cache[block] | self.kept[block] } else { self.disk[block] }
    }

    pub(crate) fn stable(&self, block: usize) -> bool {
        self.disk[block] == self.cache[block]
    }

    /// Waits for nothing that may change what it is.
    pub(crate) fn settled(&self) -> bool {
        !matches!(self.doing, Doing::Asking | Doing::Won | Doing::Down)
            && !matches!(self.joining, Joining::Swapping | Joining::SourceWrote)
    }
}

impl World {
    pub(crate) fn first(setting: &Setting) -> World {
        let base = if setting.fresh { 0 } else { BASE };
        World {
            node: [Replica::new(setting.fresh), Replica::new(setting.fresh)],
            register: (setting.mode == Mode::Register && !setting.fresh).then_some((1, BOTH, 0)),
            register_before: None,
            link: true,
            owner: 0,
            swap: None,
            promised: [base; BLOCKS],
            hard: [base; BLOCKS],
            served_alone: [false; 2],
            forced: None,
            lost: false,
            left: setting.budget,
        }
    }

    /// Both in one pair, and nothing stands between them.
    pub(crate) fn healthy(&self) -> bool {
        let [a, b] = &self.node;
        self.link && a.doing == Doing::Paired && b.doing == Doing::Paired && a.pair == b.pair
    }

    /// An epoch that nobody has ever heard of.
    pub(crate) fn next_epoch(&self) -> u8 {
        let known = self.epochs().into_iter().max().unwrap_or(0);
        known + 1
    }

    fn epochs(&self) -> Vec<u8> {
        let mut all: Vec<u8> =
            self.node.iter().flat_map(|n| [n.epoch, n.pair, n.proposed, n.alone_since]).collect();
        all.extend(self.register.iter().chain(&self.register_before).map(|register| register.0));
        all.extend(self.swap.iter().flat_map(|swap| [swap.1, swap.2]));
        all
    }

    /// A generation that nobody has.
    pub(crate) fn next_generation(&self) -> u8 {
        let [a, b] = &self.node;
        let used = a.past | b.past | 1 << a.generation | 1 << b.generation | 1;
        used.trailing_ones() as u8
    }

    /// A name for a new write of a block.
    pub(crate) fn next_write(&self, block: usize) -> Option<u8> {
        let used = self.writes(block) | BASE;
        (used.trailing_ones() < 7).then(|| 1 << used.trailing_ones())
    }

    fn writes(&self, block: usize) -> u8 {
        self.node.iter().fold(0, |all, n| all | n.disk[block] | n.cache[block] | n.kept[block])
    }

    /// Blocks in which the replicas differ, anywhere that a crash or a failure could show.
    pub(crate) fn differing(&self) -> u8 {
        let views = |n: &Replica, b: usize| {
            if n.up() { vec![n.disk[b], n.cache[b], n.cache[b] | n.kept[b]] } else { vec![n.disk[b]] }
        };
        let [x, y] = &self.node;
        (0..BLOCKS).fold(0, |bits, b| {
            let differ = views(x, b).iter().any(|p| views(y, b).iter().any(|q| p != q));
            bits | u8::from(differ) << b
        })
    }

    /// Blocks that some hot set or log names.
    pub(crate) fn marked(&self) -> u8 {
        self.node.iter().fold(0, |bits, n| bits | n.hot | n.log)
    }

    /// What a person's word gave up is no longer promised.
    pub(crate) fn give_up(&mut self) {
        let Some(i) = self.forced.map(usize::from).filter(|i| !self.served_alone[1 - i]) else { return };
        for b in 0..BLOCKS {
            self.promised[b] &= self.node[i].holds(b);
            self.hard[b] &= self.node[i].disk[b];
        }
    }

    /// The model itself must keep its promises: what is promised is somewhere.
    pub(crate) fn keeps_promises(&self) -> bool {
        (0..BLOCKS).all(|b| self.promised[b] & !(self.node[0].holds(b) | self.node[1].holds(b)) == 0)
    }

    /// What differs is marked, unless a disk or a log was lost.
    pub(crate) fn marks_hold(&self) -> bool {
        let damaged = |n: &Replica| n.log_lost || n.foreign || n.generation == 0;
        self.node.iter().any(damaged) || self.differing() & !self.marked() == 0
    }

    /// The same world under the smallest names.
    pub(crate) fn canonical(mut self) -> World {
        self.rename_epochs();
        self.rename_generations();
        for block in 0..BLOCKS {
            self.rename_writes(block);
        }
        self
    }

    fn rename_epochs(&mut self) {
        let mut known = self.epochs();
        known.push(0);
        known.sort_unstable();
        known.dedup();
        let rank = |epoch: &mut u8| *epoch = known.iter().position(|k| k == epoch).unwrap_or(0) as u8;
        for n in &mut self.node {
            rank(&mut n.epoch);
            rank(&mut n.pair);
            rank(&mut n.proposed);
            rank(&mut n.alone_since);
        }
        for register in self.register.iter_mut().chain(&mut self.register_before) {
            rank(&mut register.0);
        }
        if let Some(swap) = &mut self.swap {
            rank(&mut swap.1);
            rank(&mut swap.2);
        }
    }

    /// Keeps what [`crate::truth`] can see: the two generations, which is in whose past, and whether there is a
    /// common ancestor.
    fn rename_generations(&mut self) {
        let [a, b] = &self.node;
        let (ga, gb) = (a.generation, b.generation);
        let names = |g: u8| match g {
            0 => 0,
            g if g == ga => 1,
            g if g == gb => 2,
            _ => 3,
        };
        let common = a.past & b.past;
        let rename = |past: u16, other: u8| {
            let theirs =
                (1u16..16).filter(|g| past >> g & 1 == 1 && (*g == u16::from(other) || common >> g & 1 == 1));
            theirs.fold(0, |bits, g| bits | 1 << names(g as u8))
        };
        let pasts = [rename(a.past, gb), rename(b.past, ga)];
        for (n, past) in self.node.iter_mut().zip(pasts) {
            n.generation = names(n.generation);
            n.past = past;
        }
    }

    /// Drops what is everywhere or nowhere, and makes one of two writes that share every fate.
    fn rename_writes(&mut self, block: usize) {
        let everywhere = self
            .node
            .iter()
            .fold(!BASE, |all, n| all & n.disk[block] & if n.up() { n.cache[block] } else { !0 });
        let living = self.writes(block) & !everywhere & !BASE;
        let living = (0..7).map(|bit| 1 << bit).filter(|write| living & write != 0);
        let mut fates: Vec<Fate> = living.map(|write| self.fate(block, write)).collect();
        fates.sort_unstable();
        fates.dedup();
        for slot in 0..8 {
            let rest = *self.slot(block, slot) & BASE;
            let renamed =
                fates.iter().enumerate().fold(rest, |set, (bit, fate)| set | (fate >> slot & 1) << bit);
            *self.slot(block, slot) = renamed;
        }
    }

    fn fate(&mut self, block: usize, write: u8) -> Fate {
        (0..8).fold(0, |fate, slot| fate | u8::from(*self.slot(block, slot) & write != 0) << slot)
    }

    fn slot(&mut self, block: usize, slot: usize) -> &mut u8 {
        let [a, b] = &mut self.node;
        match slot {
            0 => &mut a.disk[block],
            1 => &mut a.cache[block],
            2 => &mut a.kept[block],
            3 => &mut b.disk[block],
            4 => &mut b.cache[block],
            5 => &mut b.kept[block],
            6 => &mut self.promised[block],
            _ => &mut self.hard[block],
        }
    }
}

/// One bit for each place in which a write can be.
type Fate = u8;
