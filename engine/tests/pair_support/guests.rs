//! What guests do and see.

use twinsan::block::{BLOCK_BYTES, Block, payload_from};
use twinsan::guest::{Command, GuestError, GuestResult, Sectors};
use twinsan::ids::{NodeName, RequestId, VolumeId};
use twinsan::node::event::Event;
use twinsan::time::Duration;

use super::{LINEAR, Pair, VOLUME};

/// Of a long write, so many blocks are compared after every event.
const WATCHED_BLOCKS: usize = 16;

/// What a guest sees of a block at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Look {
    /// Every byte of the block is this.
    Shows(u8),
    /// The node holds the answer.
    Waits,
    /// The node does not serve.
    Refuses(GuestError),
}

impl Pair {
    pub(crate) fn ask(&mut self, node: NodeName, command: Command) -> u64 {
        if let (true, Some(at)) = (command.changes_data(), command.sectors()) {
            self.touched.extend(at.blocks().take(WATCHED_BLOCKS));
        }
        self.ask_of(node, VOLUME, command)
    }

    /// The same of a node's linear volume.
    pub(crate) fn ask_linear(&mut self, node: NodeName, command: Command) -> u64 {
        self.ask_of(node, LINEAR, command)
    }

    fn ask_of(&mut self, node: NodeName, volume: VolumeId, command: Command) -> u64 {
        self.requests += 1;
        let id = self.requests;
        self.happens(node, Event::Guest { id: RequestId(id), volume, command });
        self.settle();
        id
    }

    /// A guest gives a request up.
    pub(crate) fn give_up(&mut self, node: NodeName, request: u64) {
        self.happens(node, Event::Abort { id: RequestId(request) });
        self.settle();
    }

    /// Has the node promised that a request that was given up can no longer act?
    pub(crate) fn is_given_up(&self, request: u64) -> bool {
        self.aborted.contains(&request)
    }

    /// Is the guest still waiting?
    pub(crate) fn is_open(&self, request: u64) -> bool {
        !self.answers.contains_key(&request)
    }

    /// Has the guest been told that its request was done?
    pub(crate) fn is_acknowledged(&self, request: u64) -> bool {
        matches!(self.answers.get(&request), Some(Ok(_)))
    }

    /// What the guest was told instead.
    pub(crate) fn refusal(&self, request: u64) -> Option<GuestError> {
        self.answers.get(&request)?.as_ref().err().copied()
    }

    pub(crate) fn finish(&mut self, id: u64) -> GuestResult {
        for _ in 0..400 {
            if let Some(answer) = self.answers.remove(&id) {
                return answer;
            }
            self.pass(Duration::from_millis(50));
        }
        panic!("request {id} has no answer; phases {:?}", self.phases());
    }

    pub(crate) fn begin_write(&mut self, node: NodeName, block: u64, fill: u8) -> u64 {
        self.begin_long_write(node, block, 1, fill)
    }

    pub(crate) fn begin_long_write(&mut self, node: NodeName, first: u64, blocks: u64, fill: u8) -> u64 {
        let command = self.write_of(first, blocks, fill);
        self.ask(node, command)
    }

    pub(crate) fn begin_linear_write(&mut self, node: NodeName, block: u64, fill: u8) -> u64 {
        let command = self.write_of(block, 1, fill);
        self.ask_linear(node, command)
    }

    fn write_of(&self, first: u64, blocks: u64, fill: u8) -> Command {
        let data = payload_from(&self.pages, &vec![fill; blocks as usize * BLOCK_BYTES]);
        Command::Write { at: Sectors::new(first * 8, blocks * 8), data, fua: false }
    }

    /// A write of some sectors of a block: the owner must complete the block.
    pub(crate) fn begin_sector_write(&mut self, node: NodeName, at: Sectors, fill: u8) -> u64 {
        let data = payload_from(&self.pages, &[fill; BLOCK_BYTES]);
        self.ask(node, Command::Write { at, data, fua: false })
    }

    /// A write of some sectors if all of their bytes are `expected`. What lies outside them is junk.
    pub(crate) fn begin_compare(&mut self, node: NodeName, at: Sectors, expected: u8, fill: u8) -> u64 {
        let command = self.compare_of(at, expected, fill);
        self.ask(node, command)
    }

    pub(crate) fn compare_of(&self, at: Sectors, expected: u8, fill: u8) -> Command {
        let blocks = (at.blocks().end - at.blocks().start) as usize;
        let head = (at.start % 8) as usize * 512;
        let run = |byte: u8| {
            let mut bytes = vec![0xee; blocks * BLOCK_BYTES];
            bytes[head..head + at.count as usize * 512].fill(byte);
            payload_from(&self.pages, &bytes)
        };
        Command::CompareAndWrite { at, compare: run(expected), data: run(fill), fua: false }
    }

    pub(crate) fn write(&mut self, node: NodeName, block: u64, fill: u8) -> GuestResult {
        let id = self.begin_write(node, block, fill);
        self.finish(id)
    }

    pub(crate) fn begin_read(&mut self, node: NodeName, block: u64) -> u64 {
        self.ask(node, Command::Read { at: Sectors::new(block * 8, 8) })
    }

    pub(crate) fn read(&mut self, node: NodeName, block: u64) -> u8 {
        let id = self.begin_read(node, block);
        let data = self.finish(id).expect("reads");
        fill_of(&data[0])
    }

    pub(crate) fn read_linear(&mut self, node: NodeName, block: u64) -> u8 {
        let id = self.ask_linear(node, Command::Read { at: Sectors::new(block * 8, 8) });
        let data = self.finish(id).expect("reads");
        fill_of(&data[0])
    }

    /// What a guest that reads a block sees before any time passes.
    pub(crate) fn look(&mut self, node: NodeName, block: u64) -> Look {
        let id = self.begin_read(node, block);
        self.seen(id)
    }

    /// What a guest has seen so far of a read that it began.
    pub(crate) fn seen(&self, read: u64) -> Look {
        match self.answers.get(&read) {
            None => Look::Waits,
            Some(Ok(data)) => Look::Shows(fill_of(&data[0])),
            Some(Err(error)) => Look::Refuses(*error),
        }
    }

    pub(crate) fn flush(&mut self, node: NodeName) -> GuestResult {
        let id = self.ask(node, Command::Flush);
        self.finish(id)
    }
}

/// The byte that fills a block.
pub(crate) fn fill_of(block: &Block) -> u8 {
    let bytes = block.bytes();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a block of one byte");
    bytes[0]
}
