//! Connections driven by hand: no sockets, no threads, a volume in memory that answers when told to. For the
//! fuzzing entry points and for tests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};
use twinsan::block::{Block, SECTOR_BYTES, SECTORS_PER_BLOCK};
use twinsan::guest::{
    Command, GuestError, GuestResult, Item, Items, PathState, Sectors, Sink, VirtualVolume, VolumeInfo,
};
use twinsan::ids::{ItemName, RequestId, Uuid, VolumeId};
use twinsan::runtime::VolumeRefusal;

use super::landing::Slices;
use super::{Connection, Ends};
use crate::scsi::{Initiator, Nexus};
use crate::target::{Address, Mailbox, Notice, Target};

/// The nexus of an initiator that nobody else is.
pub(crate) fn nexus() -> Arc<Nexus> {
    let initiator = Initiator::new("iqn.2026-01.example:host", [0x40, 0, 0, 0, 0, 1]);
    Arc::new(Nexus { initiator, port: 1, site: 0 })
}

/// Sectors of a [`HandVolume`]: 64 MiB.
pub(crate) const SECTORS: u64 = 131_072;

enum Letter {
    Complete(u64, GuestResult),
    Aborted(u64),
    Notice(u64, Notice),
}

/// Takes what is meant for any connection of a [`Drive`].
#[derive(Default)]
pub(crate) struct PostOffice(Mutex<VecDeque<Letter>>);

impl Sink for PostOffice {
    fn complete(&self, token: u64, result: GuestResult) {
        self.0.lock().push_back(Letter::Complete(token, result));
    }

    fn aborted(&self, token: u64) {
        self.0.lock().push_back(Letter::Aborted(token));
    }
}

impl Mailbox for PostOffice {
    fn post(&self, key: u64, notice: Notice) {
        self.0.lock().push_back(Letter::Notice(key, notice));
    }
}

/// Keeps something, and tells.
type Keep = Box<dyn FnOnce(&HandVolume) + Send>;

struct Pending {
    id: u64,
    command: Command,
    sink: Arc<dyn Sink>,
    token: u64,
}

/// A volume whose requests wait in a list while `hold` is set.
pub(crate) struct HandVolume {
    id: u32,
    next: AtomicU64,
    pub(crate) state: Mutex<Hand>,
    pub(crate) asked_to_keep: Condvar,
}

/// What can be changed about a [`HandVolume`].
pub(crate) struct Hand {
    pub(crate) hold: bool,
    /// Requests that are to be given up act on until [`HandVolume::give_up`].
    pub(crate) hold_aborts: bool,
    pub(crate) path: PathState,
    pub(crate) partner: PathState,
    pub(crate) sectors: u64,
    pub(crate) gone: bool,
    /// It is a snapshot.
    pub(crate) read_only: bool,
    /// Answers the next requests.
    pub(crate) failure: Option<GuestError>,
    /// What is kept, and how often that has changed.
    pub(crate) items: Arc<Items>,
    version: u64,
    /// What is to be kept waits until [`HandVolume::keep_all`].
    pub(crate) hold_keeps: bool,
    /// As `hold_keeps`, but only for the answer: it is kept at once.
    pub(crate) hold_answers: bool,
    /// Nobody hears whether something was kept.
    pub(crate) interrupted: bool,
    /// Nothing is kept now.
    pub(crate) keeps_nothing: bool,
    /// Another change is on its way.
    pub(crate) is_busy: bool,
    /// How often one of these two was the answer.
    pub(crate) refused: u64,
    keeps: Vec<Keep>,
    blocks: BTreeMap<u64, Block>,
    pending: Vec<Pending>,
    aborts: Vec<(u64, Arc<dyn Sink>, u64)>,
}

impl HandVolume {
    pub(crate) fn new(id: u32) -> Arc<HandVolume> {
        let state = Hand {
            hold: false,
            hold_aborts: false,
            path: PathState::Optimized,
            partner: PathState::NonOptimized,
            sectors: SECTORS,
            gone: false,
            read_only: false,
            failure: None,
            items: Arc::default(),
            version: 0,
            hold_keeps: false,
            hold_answers: false,
            interrupted: false,
            keeps_nothing: false,
            is_busy: false,
            refused: 0,
            keeps: Vec::new(),
            blocks: BTreeMap::new(),
            pending: Vec::new(),
            aborts: Vec::new(),
        };
        Arc::new(HandVolume {
            id,
            next: AtomicU64::new(1),
            state: Mutex::new(state),
            asked_to_keep: Condvar::new(),
        })
    }

    /// Requests that wait.
    pub(crate) fn held(&self) -> usize {
        self.state.lock().pending.len()
    }

    /// Gives up the requests that are to be given up.
    #[cfg(test)]
    pub(crate) fn give_up(&self) {
        let mut state = self.state.lock();
        state.hold_aborts = false;
        let aborts = core::mem::take(&mut state.aborts);
        drop(state);
        aborts.iter().for_each(|(request, sink, token)| self.abort(RequestId(*request), sink, *token));
    }

    /// Keeps what is to be kept.
    #[cfg(test)]
    pub(crate) fn keep_all(&self) {
        let keeps = core::mem::take(&mut self.state.lock().keeps);
        keeps.into_iter().for_each(|keep| keep(self));
    }

    /// Answers the request at `place` of those that wait.
    pub(crate) fn answer(&self, place: usize) {
        let mut state = self.state.lock();
        if place < state.pending.len() {
            let pending = state.pending.swap_remove(place);
            let result = state.run(pending.command);
            drop(state);
            pending.sink.complete(pending.token, result);
        }
    }
}

/// A sector of the blocks that `at` touches.
fn sector_of(blocks: &[Block], at: Sectors, number: u64) -> &[u8] {
    let from = (number % SECTORS_PER_BLOCK) as usize * SECTOR_BYTES;
    let block = number / SECTORS_PER_BLOCK - at.blocks().start;
    &blocks[block as usize].bytes()[from..from + SECTOR_BYTES]
}

impl Hand {
    /// As a volume does that somebody else may change too.
    pub(crate) fn keep(&mut self, name: ItemName, expect: u64, value: &[u8]) -> Result<(), VolumeRefusal> {
        let revision = self.items.get(&name).map_or(0, |item| item.revision);
        if revision != expect {
            return Err(VolumeRefusal::Changed { revision });
        }
        self.version += 1;
        let mut items = (*self.items).clone();
        items.insert(name, Item { revision: self.version, value: value.into() });
        self.items = Arc::new(items);
        Ok(())
    }

    fn run(&mut self, command: Command) -> GuestResult {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let (at, data) = match command {
            Command::Read { at } => {
                let blocks = at.blocks();
                return Ok(blocks.map(|n| self.blocks.get(&n).cloned().unwrap_or_default()).collect());
            }
            Command::Flush => return Ok(twinsan::block::Payload::new()),
            Command::Write { at, data, .. } => (at, data),
            Command::CompareAndWrite { at, compare, data, .. } => {
                let differs = |number: &u64| self.sector(*number) != sector_of(&compare, at, *number);
                if let Some(number) = (at.start..at.end()).find(differs) {
                    let offset = (number - at.start) as u32 * SECTOR_BYTES as u32;
                    return Err(GuestError::Miscompare { offset });
                }
                (at, data)
            }
            Command::OrWrite { at, mut data, .. } => {
                for (number, bits) in at.blocks().zip(&mut data) {
                    let pool = twinsan::block::PagePool::new();
                    let mut page = pool.take();
                    let old = self.blocks.get(&number).unwrap_or(&Block::Zero).bytes();
                    let both = old.iter().zip(bits.bytes()).map(|(old, new)| old | new);
                    page.bytes_mut().iter_mut().zip(both).for_each(|(to, byte)| *to = byte);
                    *bits = Block::Data(page.freeze());
                }
                (at, data)
            }
            Command::Zero { at, .. } => {
                (at, twinsan::block::zeros((at.blocks().end - at.blocks().start) as usize))
            }
        };
        for (number, block) in at.blocks().zip(data) {
            let merged = self.merge(number, at, &block);
            self.blocks.insert(number, merged);
        }
        Ok(twinsan::block::Payload::new())
    }

    fn sector(&self, number: u64) -> &[u8] {
        let from = (number % SECTORS_PER_BLOCK) as usize * SECTOR_BYTES;
        let block = self.blocks.get(&(number / SECTORS_PER_BLOCK)).unwrap_or(&Block::Zero);
        &block.bytes()[from..from + SECTOR_BYTES]
    }

    fn merge(&self, number: u64, at: Sectors, new: &Block) -> Block {
        let base = number * SECTORS_PER_BLOCK;
        let from = at.start.saturating_sub(base) as usize * SECTOR_BYTES;
        let to = ((at.end() - base).min(SECTORS_PER_BLOCK)) as usize * SECTOR_BYTES;
        let mut bytes = *self.blocks.get(&number).unwrap_or(&Block::Zero).bytes();
        bytes[from..to].copy_from_slice(&new.bytes()[from..to]);
        let pool = twinsan::block::PagePool::new();
        let mut page = pool.take();
        *page.bytes_mut() = bytes;
        Block::Data(page.freeze())
    }
}

impl VirtualVolume for HandVolume {
    fn info(&self) -> VolumeInfo {
        let state = self.state.lock();
        VolumeInfo {
            id: VolumeId(self.id),
            name: format!("hand{}", self.id),
            uuid: Uuid(u128::from(self.id) << 64 | 7),
            sectors: state.sectors,
            extent_sectors: 2048,
            mirrored: true,
            read_only: state.read_only,
        }
    }

    fn is_gone(&self) -> bool {
        self.state.lock().gone
    }

    fn path_state(&self) -> PathState {
        self.state.lock().path
    }

    fn partner_path_state(&self) -> PathState {
        self.state.lock().partner
    }

    fn items_version(&self) -> u64 {
        self.state.lock().version
    }

    fn items(&self) -> Arc<Items> {
        Arc::clone(&self.state.lock().items)
    }

    fn keep(
        &self,
        name: ItemName,
        expect: u64,
        value: &[u8],
        done: Box<dyn FnOnce(Result<(), VolumeRefusal>) + Send>,
    ) {
        let mut state = self.state.lock();
        self.asked_to_keep.notify_all();
        if state.hold_keeps {
            let value = value.to_vec();
            return state.keeps.push(Box::new(move |volume| {
                let kept = volume.state.lock().keep(name, expect, &value);
                done(kept);
            }));
        }
        if state.keeps_nothing || state.is_busy {
            state.refused += 1;
            let refusal = if state.is_busy { VolumeRefusal::Busy } else { VolumeRefusal::NotNow };
            drop(state);
            return done(Err(refusal));
        }
        let kept = state.keep(name, expect, value);
        if state.hold_answers {
            return state.keeps.push(Box::new(move |_| done(kept)));
        }
        let lost = state.interrupted;
        drop(state);
        done(if lost { Err(VolumeRefusal::Interrupted) } else { kept });
    }

    fn submit(&self, command: Command, sink: &Arc<dyn Sink>, token: u64) -> RequestId {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        if state.hold {
            state.pending.push(Pending { id, command, sink: Arc::clone(sink), token });
        } else {
            let result = state.run(command);
            drop(state);
            sink.complete(token, result);
        }
        RequestId(id)
    }

    fn abort(&self, request: RequestId, sink: &Arc<dyn Sink>, token: u64) {
        let mut state = self.state.lock();
        if state.hold_aborts {
            return state.aborts.push((request.0, Arc::clone(sink), token));
        }
        let found = state.pending.iter().position(|pending| pending.id == request.0);
        let given_up = found.map(|place| state.pending.swap_remove(place));
        drop(state);
        if let Some(pending) = given_up {
            pending.sink.complete(pending.token, Err(GuestError::Aborted));
        }
        sink.aborted(token);
    }
}

/// Connections of one target, and the letters between them.
pub(crate) struct Drive {
    target: Arc<Target>,
    office: Arc<PostOffice>,
    links: Vec<Option<Connection>>,
}

impl Drive {
    pub(crate) fn new(target: Target) -> Drive {
        Drive { target: Arc::new(target), office: Arc::new(PostOffice::default()), links: Vec::new() }
    }

    #[cfg(test)]
    pub(crate) fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// A new connection; its number is its place.
    pub(crate) fn connect(&mut self) -> usize {
        let key = (self.links.len() as u64 + 1) << 16;
        let mailbox = Arc::clone(&self.office) as Arc<dyn Mailbox>;
        let sink = Arc::clone(&self.office) as Arc<dyn Sink>;
        let ends = Ends { local: ([127, 0, 0, 1], 3260).into(), peer: ([127, 0, 0, 1], 4000).into() };
        let address = Address { mailbox, key };
        self.links.push(Some(Connection::new(Arc::clone(&self.target), address, sink, ends)));
        self.links.len() - 1
    }

    pub(crate) fn get(&mut self, link: usize) -> Option<&mut Connection> {
        self.links.get_mut(link)?.as_mut()
    }

    /// Hands bytes to a connection as a socket would: straight to their place where it offers one.
    pub(crate) fn feed(&mut self, link: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(connection) = self.get(link) else { return };
            let mut slices = Slices::new();
            connection.direct(&mut slices);
            let mut direct = 0;
            for slice in &mut slices {
                let count = slice.len().min(bytes.len() - direct);
                slice[..count].copy_from_slice(&bytes[direct..direct + count]);
                direct += count;
            }
            drop(slices);
            connection.direct_filled(direct);
            bytes = &bytes[direct..];
            let staged = if connection.expects_long_data() { bytes.len().min(64) } else { bytes.len() };
            connection.receive(&bytes[..staged]);
            bytes = &bytes[staged..];
        }
        self.deliver();
    }

    /// Delivers letters until there are none, and ends connections that are over.
    pub(crate) fn deliver(&mut self) {
        loop {
            let letter = self.office.0.lock().pop_front();
            match letter {
                Some(Letter::Complete(token, result)) => {
                    self.with(token, |connection, slot| connection.completed(slot, result));
                }
                Some(Letter::Aborted(token)) => {
                    self.with(token, |connection, slot| connection.aborted(slot));
                }
                Some(Letter::Notice(key, notice)) => {
                    self.with(key, |connection, _| connection.notice(notice));
                }
                None if self.bury() => {}
                None => return,
            }
        }
    }

    fn with(&mut self, token: u64, act: impl FnOnce(&mut Connection, u16)) {
        let link = (token >> 16) as usize - 1;
        if let Some(connection) = self.get(link) {
            act(connection, token as u16);
        }
    }

    /// Ends connections that are over and forgets dead ones; true if any letter may have come of it.
    fn bury(&mut self) -> bool {
        let mut any = false;
        for link in &mut self.links {
            let Some(connection) = link else { continue };
            connection.account();
            if !connection.is_over() {
                continue;
            }
            if !connection.has_ended() {
                connection.end();
                any = true;
            }
            if connection.is_dead() {
                *link = None;
                any = true;
            }
        }
        any
    }

    /// Takes everything that a connection has to send.
    pub(crate) fn drain(&mut self, link: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(connection) = self.get(link) {
            if connection.output().is_empty() {
                break;
            }
            let mut slices = [std::io::IoSlice::new(&[]); 16];
            let count = connection.output().gather(&mut slices);
            let before = all.len();
            slices[..count].iter().for_each(|slice| all.extend_from_slice(slice));
            let sent = all.len() - before;
            connection.sent(sent);
        }
        self.deliver();
        all
    }
}
