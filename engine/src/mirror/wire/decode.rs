//! Bytes to messages, a receive at a time.

use core::fmt;
use std::io::{self, IoSliceMut};

use smallvec::SmallVec;

use super::body::{self, Expect};
use super::inflow::{Inflow, Plan, Slot};
use super::layout::{ENTRY_BYTES, Entry, HEADER_BYTES, Header, MAGIC, MORE, kind};
use super::{FRAME_BLOCKS_MAX, Salt, WireError};
use crate::block::{Block, PagePool, Payload};
use crate::mirror::message::{Message, PROTOCOL_VERSION};

/// Room for heads when no pages are expected.
const FLAT_BYTES: usize = 16 * 1024;
/// Most pages laid out for one receive.
const PAGES_MAX: usize = 32;
/// Most frames laid out for one receive.
const FRAMES_MAX: usize = 16;

/// Turns the bytes of one direction of one connection into messages.
///
/// Call [`receive`](Self::receive), then [`next`](Self::next) until it has no more.
pub struct Decoder {
    inflow: Inflow,
    salt: Salt,
    sequence: u64,
    stage: Stage,
    /// The message whose blocks go on in later frames, and how many blocks it must have.
    begun: Option<(Message, Expect)>,
    last: Shape,
    /// Frames since the last receive.
    frames: usize,
    failed: Option<WireError>,
}

/// What is expected next.
enum Stage {
    Header,
    Tail(Header),
    Pages(Frame),
}

/// A frame whose head is verified.
struct Frame {
    /// None: it goes on with the message begun before.
    message: Option<(Message, Expect)>,
    more: bool,
    table: SmallVec<[Entry; FRAME_BLOCKS_MAX]>,
    data: Payload,
}

/// What the next message is expected to look like: as the last one.
#[derive(Clone, Copy)]
struct Shape {
    /// Bytes before the pages of its first frame.
    head: usize,
    /// Pages in its first frame.
    pages: usize,
    /// Blocks in all its frames.
    blocks: usize,
}

impl Decoder {
    /// For a new connection; blocks are received into pages of `pool`.
    pub fn new(salt: Salt, pool: PagePool) -> Decoder {
        Decoder {
            inflow: Inflow::new(pool),
            salt,
            sequence: 0,
            stage: Stage::Header,
            begun: None,
            last: Shape { head: FLAT_BYTES, pages: 0, blocks: 0 },
            frames: 0,
            failed: None,
        }
    }

    /// Calls `read` once with places for what is expected next; it returns how many bytes it put there, in order.
    /// Call [`next`](Self::next) until it has no more before receiving again.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn receive(
        &mut self,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let plan = self.plan();
        self.frames = 0;
        self.inflow.receive(&plan, read)
    }

    /// The next message, if all of it is here.
    ///
    /// # Errors
    /// What came is damaged or makes no sense. Every later call fails in the same way.
    #[expect(clippy::should_implement_trait, reason = "more may come after None")]
    pub fn next(&mut self) -> Result<Option<Message>, WireError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.advance();
        if let Err(error) = result {
            self.failed = Some(error);
        }
        result
    }

    /// How many pages had to be copied, because their bytes came where no page was expected.
    pub fn pages_copied(&self) -> u64 {
        self.inflow.copied
    }

    fn advance(&mut self) -> Result<Option<Message>, WireError> {
        loop {
            match core::mem::replace(&mut self.stage, Stage::Header) {
                Stage::Header => {
                    let Some(bytes) = self.inflow.peek(HEADER_BYTES) else { return Ok(None) };
                    let header: Header = bytemuck::pod_read_unaligned(bytes);
                    self.inflow.consume(HEADER_BYTES);
                    self.check_header(&header)?;
                    self.stage = Stage::Tail(header);
                }
                Stage::Tail(header) => {
                    let Some(tail) = self.inflow.peek(tail_bytes(&header)) else {
                        self.stage = Stage::Tail(header);
                        return Ok(None);
                    };
                    let frame = read_tail(&header, tail)?;
                    self.inflow.consume(tail_bytes(&header));
                    self.check_place(&frame)?;
                    if let Some((message, expect)) = &frame.message
                        && !message.is_urgent()
                    {
                        let head = HEADER_BYTES + tail_bytes(&header);
                        let blocks = expect.blocks().max(frame.table.len());
                        self.last = Shape { head, pages: frame.pages_left(), blocks };
                    }
                    self.stage = Stage::Pages(frame);
                }
                Stage::Pages(mut frame) => {
                    if !frame.fill(&mut self.inflow)? {
                        self.stage = Stage::Pages(frame);
                        return Ok(None);
                    }
                    self.frames += 1;
                    if let Some(message) = self.finish(frame) {
                        return Ok(Some(message));
                    }
                }
            }
        }
    }

    /// All that is known before the body has come; its lengths can be trusted afterwards.
    fn check_header(&mut self, header: &Header) -> Result<(), WireError> {
        if header.magic.get() != MAGIC || header.crc(self.salt) != header.header_crc.get() {
            return Err(WireError::Header);
        }
        if header.version.get() != PROTOCOL_VERSION {
            return Err(WireError::Version(header.version.get()));
        }
        if header.sequence.get() != self.sequence {
            return Err(WireError::Sequence { expected: self.sequence, found: header.sequence.get() });
        }
        self.sequence += 1;
        let blocks = header.blocks.get() as usize;
        let full = header.more == 0 || blocks == FRAME_BLOCKS_MAX;
        if header.more > MORE
            || blocks > FRAME_BLOCKS_MAX
            || !full
            || !body::length_fits(header.kind, header.body_bytes.get() as usize)?
        {
            return Err(WireError::Length);
        }
        Ok(())
    }

    /// May this frame come here, with so many blocks?
    fn check_place(&self, frame: &Frame) -> Result<(), WireError> {
        let (before, expect) = match (&frame.message, &self.begun) {
            (None, Some((message, expect))) => (message.data.len(), *expect),
            (None, None) => return Err(WireError::Kind(kind::REST)),
            (Some((_, expect)), None) => (0, *expect),
            (Some((message, expect)), Some(_)) if message.is_urgent() => (0, *expect),
            (Some(_), Some(_)) => return Err(WireError::Malformed("a message begins inside another")),
        };
        if expect.allows(before + frame.table.len(), frame.more) {
            Ok(())
        } else {
            Err(WireError::Malformed("the blocks are not as many as the message says"))
        }
    }

    /// A frame is complete; is a message?
    fn finish(&mut self, frame: Frame) -> Option<Message> {
        let (message, expect) = match frame.message {
            Some((message, expect)) => (Message { data: frame.data, ..message }, expect),
            None => {
                let (mut message, expect) = self.begun.take().expect("checked with the table");
                message.data.extend(frame.data);
                (message, expect)
            }
        };
        if !frame.more {
            return Some(message);
        }
        self.begun = Some((message, expect));
        None
    }

    /// What is expected to come, beginning with what is incomplete now.
    fn plan(&self) -> Plan {
        let mut plan = Plan::new();
        let mut pages = 0;
        match &self.stage {
            Stage::Header => {}
            Stage::Tail(header) => {
                pages = header.blocks.get() as usize;
                plan.extend([Slot::Flat(tail_bytes(header)), Slot::Pages(pages)]);
            }
            Stage::Pages(frame) => {
                pages = frame.pages_left();
                plan.push(Slot::Pages(pages));
            }
        }
        let mut left = self.blocks_left();
        let frames = (2 * self.frames).clamp(1, FRAMES_MAX);
        for _ in usize::from(!plan.is_empty())..frames {
            let (head, next) = if left > 0 {
                let count = left.min(FRAME_BLOCKS_MAX);
                left -= count;
                (HEADER_BYTES + count * ENTRY_BYTES, count)
            } else {
                left = self.last.blocks.saturating_sub(FRAME_BLOCKS_MAX);
                (self.last.head, self.last.pages)
            };
            if next == 0 || pages + next > PAGES_MAX {
                break;
            }
            pages += next;
            plan.extend([Slot::Flat(head), Slot::Pages(next)]);
        }
        if pages == 0 {
            plan.push(Slot::Flat(FLAT_BYTES));
        }
        plan
    }

    /// Blocks of the message under way that are not in the frames begun so far, as far as known.
    fn blocks_left(&self) -> usize {
        let (whole, here) = match (&self.stage, &self.begun) {
            (Stage::Header, Some((message, expect))) => (expect.blocks(), message.data.len()),
            (Stage::Header, None) => (0, 0),
            (Stage::Tail(header), None) if header.more == 0 => (0, 0),
            (Stage::Tail(header), None) => (self.last.blocks, header.blocks.get() as usize),
            (Stage::Tail(header), Some((message, expect))) => {
                (expect.blocks(), message.data.len() + header.blocks.get() as usize)
            }
            (Stage::Pages(Frame { message: Some((_, expect)), table, .. }), _) => {
                (expect.blocks(), table.len())
            }
            (Stage::Pages(frame), Some((message, expect))) => {
                (expect.blocks(), message.data.len() + frame.table.len())
            }
            (Stage::Pages(_), None) => (0, 0),
        };
        whole.saturating_sub(here)
    }
}

fn tail_bytes(header: &Header) -> usize {
    header.body_bytes.get() as usize + header.blocks.get() as usize * ENTRY_BYTES
}

fn read_tail(header: &Header, tail: &[u8]) -> Result<Frame, WireError> {
    if crc32c::crc32c(tail) != header.tail_crc.get() {
        return Err(WireError::Body);
    }
    let (body, table) = tail.split_at_checked(header.body_bytes.get() as usize).ok_or(WireError::Length)?;
    let table: SmallVec<[Entry; FRAME_BLOCKS_MAX]> =
        table.chunks_exact(ENTRY_BYTES).map(bytemuck::pod_read_unaligned::<Entry>).collect();
    let known = |entry: &Entry| entry.state.get() == 1 || (entry.state.get() == 0 && entry.crc.get() == 0);
    if !table.iter().all(known) {
        return Err(WireError::Malformed("an entry of the block table"));
    }
    let message = match header.kind {
        kind::REST => None,
        kind => {
            let body = body::decode(kind, body)?;
            let expect = body::check(&body)?;
            Some((Message { body, data: Payload::new() }, expect))
        }
    };
    Ok(Frame { message, more: header.more == MORE, table, data: Payload::new() })
}

impl Frame {
    /// Pages still to come.
    fn pages_left(&self) -> usize {
        self.table.iter().skip(self.data.len()).filter(|entry| entry.state.get() == 1).count()
    }

    /// Takes the blocks that are here; true when it has all.
    fn fill(&mut self, inflow: &mut Inflow) -> Result<bool, WireError> {
        while let Some(entry) = self.table.get(self.data.len()) {
            if entry.state.get() == 0 {
                self.data.push(Block::Zero);
                continue;
            }
            let Some(page) = inflow.take_page() else { return Ok(false) };
            let page = page.verify(entry.crc.get()).ok_or(WireError::Block)?;
            self.data.push(Block::Data(page));
        }
        Ok(true)
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decoder(frame {}, {:?})", self.sequence, self.failed)
    }
}
