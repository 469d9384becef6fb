//! Bodies to bytes and back, and what every message must satisfy on either side of the wire.

use bytemuck::Pod;

use super::layout::{CopyBody, CopyStableBody, ForwardBody, WriteBody, WriteDoneBody, flag, kind};
use super::{CONTROL_BYTES_MAX, MESSAGE_BLOCKS_MAX, WireError};
use crate::guest::Sectors;
use crate::ids::{Epoch, VolumeId};
use crate::mirror::message::{Body, Control, Deadline, Manner};
use crate::time::Instant;

/// How many blocks go with a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expect {
    Exactly(usize),
    /// Control messages that may carry blocks say elsewhere how many.
    Any,
}

impl Expect {
    /// How many, as far as known.
    pub(super) fn blocks(self) -> usize {
        match self {
            Expect::Exactly(n) => n,
            Expect::Any => 0,
        }
    }

    /// Is a message of `blocks` blocks allowed, if more may follow (`more`) or not?
    pub(super) fn allows(self, blocks: usize, more: bool) -> bool {
        match self {
            Expect::Exactly(n) if more => blocks < n,
            Expect::Exactly(n) => blocks == n,
            Expect::Any => blocks + usize::from(more) <= MESSAGE_BLOCKS_MAX,
        }
    }
}

/// Checks what can be checked without knowing the node's state.
pub(super) fn check(body: &Body) -> Result<Expect, WireError> {
    match *body {
        Body::Write { first, blocks, zero, carried, .. } => {
            if zero && carried {
                return Err(WireError::Malformed("a write of zeros carries blocks"));
            }
            run(first, u64::from(blocks))?;
            exactly(if carried { u64::from(blocks) } else { 0 })
        }
        Body::Forward { at, manner, zero, .. } => {
            if zero && manner == Manner::Or {
                return Err(WireError::Malformed("bits of nothing are set"));
            }
            run(at.start, at.count)?;
            let blocks = at.blocks();
            let runs = u64::from(!zero) + u64::from(manner == Manner::IfEqual);
            exactly((blocks.end - blocks.start).checked_mul(runs).ok_or(WireError::Length)?)
        }
        Body::Copy { first, blocks, zero, .. } => {
            run(first, u64::from(blocks))?;
            exactly(if zero { 0 } else { u64::from(blocks) })
        }
        Body::WriteDone { .. } | Body::CopyStable { .. } => Ok(Expect::Exactly(0)),
        Body::Control(Control::ReadReply { .. }) => Ok(Expect::Any),
        Body::Control(_) => Ok(Expect::Exactly(0)),
    }
}

fn run(first: u64, count: u64) -> Result<(), WireError> {
    first.checked_add(count).map(|_| ()).ok_or(WireError::Malformed("a run goes beyond the last address"))
}

fn exactly(blocks: u64) -> Result<Expect, WireError> {
    if blocks > MESSAGE_BLOCKS_MAX as u64 {
        return Err(WireError::Length);
    }
    Ok(Expect::Exactly(blocks as usize))
}

/// Appends the body's bytes to `out`; returns the kind.
pub(super) fn encode(body: &Body, out: &mut Vec<u8>) -> Result<u8, WireError> {
    match *body {
        Body::Write { epoch, volume, order, first, blocks, zero, carried, origin } => {
            let flags = if zero { flag::ZERO } else { 0 }
                | if carried { flag::CARRIED } else { 0 }
                | if origin.is_some() { flag::ORIGIN } else { 0 };
            out.extend_from_slice(bytemuck::bytes_of(&WriteBody {
                epoch: epoch.0.into(),
                order: order.into(),
                first: first.into(),
                origin: origin.unwrap_or(0).into(),
                volume: volume.0.into(),
                blocks: blocks.into(),
                flags: flags.into(),
            }));
            Ok(kind::WRITE)
        }
        Body::WriteDone { epoch, volume, order, stored } => {
            out.extend_from_slice(bytemuck::bytes_of(&WriteDoneBody {
                epoch: epoch.0.into(),
                order: order.into(),
                volume: volume.0.into(),
                flags: if stored { flag::STORED } else { 0 }.into(),
            }));
            Ok(kind::WRITE_DONE)
        }
        Body::Forward { epoch, volume, id, at, manner, zero, deadline } => {
            let flags = if zero { flag::ZERO } else { 0 }
                | match manner {
                    Manner::Replace => 0,
                    Manner::IfEqual => flag::COMPARE,
                    Manner::Or => flag::OR,
                };
            out.extend_from_slice(bytemuck::bytes_of(&ForwardBody {
                epoch: epoch.0.into(),
                id: id.into(),
                start: at.start.into(),
                count: at.count.into(),
                owner_clock: deadline.owner_clock.as_nanos().into(),
                spent_nanos: deadline.spent_nanos.into(),
                left_nanos: deadline.left_nanos.into(),
                volume: volume.0.into(),
                flags: flags.into(),
            }));
            Ok(kind::FORWARD)
        }
        Body::Copy { epoch, volume, tag, first, blocks, zero, fresh } => {
            let flags = if zero { flag::ZERO } else { 0 } | if fresh { flag::FRESH } else { 0 };
            out.extend_from_slice(bytemuck::bytes_of(&CopyBody {
                epoch: epoch.0.into(),
                tag: tag.into(),
                first: first.into(),
                volume: volume.0.into(),
                blocks: blocks.into(),
                flags: flags.into(),
            }));
            Ok(kind::COPY)
        }
        Body::CopyStable { epoch, tag } => {
            let body = CopyStableBody { epoch: epoch.0.into(), tag: tag.into() };
            out.extend_from_slice(bytemuck::bytes_of(&body));
            Ok(kind::COPY_STABLE)
        }
        Body::Control(ref control) => encode_control(control, out),
    }
}

fn encode_control(control: &Control, out: &mut Vec<u8>) -> Result<u8, WireError> {
    let before = out.len();
    postcard::to_extend(control, Append(out))
        .map_err(|_| WireError::Malformed("a control message cannot be serialized"))?;
    if out.len() - before > CONTROL_BYTES_MAX { Err(WireError::Length) } else { Ok(kind::CONTROL) }
}

struct Append<'a>(&'a mut Vec<u8>);

impl Extend<u8> for Append<'_> {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        self.0.extend(bytes);
    }
}

/// Is `bytes` a possible body length of this kind? Asked before the body is received.
pub(super) fn length_fits(kind: u8, bytes: usize) -> Result<bool, WireError> {
    Ok(match kind {
        kind::WRITE => bytes == size_of::<WriteBody>(),
        kind::WRITE_DONE => bytes == size_of::<WriteDoneBody>(),
        kind::FORWARD => bytes == size_of::<ForwardBody>(),
        kind::COPY => bytes == size_of::<CopyBody>(),
        kind::COPY_STABLE => bytes == size_of::<CopyStableBody>(),
        kind::CONTROL => bytes <= CONTROL_BYTES_MAX,
        kind::REST => bytes == 0,
        other => return Err(WireError::Kind(other)),
    })
}

/// The body of a verified frame that is not [`kind::REST`].
pub(super) fn decode(kind: u8, bytes: &[u8]) -> Result<Body, WireError> {
    match kind {
        kind::WRITE => write(pod(bytes)?),
        kind::WRITE_DONE => write_done(pod(bytes)?),
        kind::FORWARD => forward(pod(bytes)?),
        kind::COPY => copy(pod(bytes)?),
        kind::COPY_STABLE => {
            let body: CopyStableBody = pod(bytes)?;
            Ok(Body::CopyStable { epoch: Epoch(body.epoch.get()), tag: body.tag.get() })
        }
        kind::CONTROL => match postcard::take_from_bytes(bytes) {
            Ok((control, [])) => Ok(Body::Control(control)),
            Ok(_) => Err(WireError::Malformed("bytes follow a control message")),
            Err(_) => Err(WireError::Malformed("not a control message of this version")),
        },
        other => Err(WireError::Kind(other)),
    }
}

fn pod<T: Pod>(bytes: &[u8]) -> Result<T, WireError> {
    bytemuck::try_pod_read_unaligned(bytes).map_err(|_| WireError::Length)
}

fn known(flags: u32, allowed: u32) -> Result<u32, WireError> {
    if flags & !allowed == 0 {
        Ok(flags)
    } else {
        Err(WireError::Malformed("a flag that its kind does not have"))
    }
}

fn write(body: WriteBody) -> Result<Body, WireError> {
    let flags = known(body.flags.get(), flag::ZERO | flag::CARRIED | flag::ORIGIN)?;
    let (origin, counts) = (body.origin.get(), flags & flag::ORIGIN != 0);
    if !counts && origin != 0 {
        return Err(WireError::Malformed("an origin without its flag"));
    }
    Ok(Body::Write {
        epoch: Epoch(body.epoch.get()),
        volume: VolumeId(body.volume.get()),
        order: body.order.get(),
        first: body.first.get(),
        blocks: body.blocks.get(),
        zero: flags & flag::ZERO != 0,
        carried: flags & flag::CARRIED != 0,
        origin: counts.then_some(origin),
    })
}

fn write_done(body: WriteDoneBody) -> Result<Body, WireError> {
    let flags = known(body.flags.get(), flag::STORED)?;
    Ok(Body::WriteDone {
        epoch: Epoch(body.epoch.get()),
        volume: VolumeId(body.volume.get()),
        order: body.order.get(),
        stored: flags & flag::STORED != 0,
    })
}

fn forward(body: ForwardBody) -> Result<Body, WireError> {
    let flags = known(body.flags.get(), flag::ZERO | flag::COMPARE | flag::OR)?;
    let manner = match (flags & flag::COMPARE != 0, flags & flag::OR != 0) {
        (false, false) => Manner::Replace,
        (true, false) => Manner::IfEqual,
        (false, true) => Manner::Or,
        (true, true) => return Err(WireError::Malformed("a write in two manners")),
    };
    Ok(Body::Forward {
        epoch: Epoch(body.epoch.get()),
        volume: VolumeId(body.volume.get()),
        id: body.id.get(),
        at: Sectors::new(body.start.get(), body.count.get()),
        manner,
        zero: flags & flag::ZERO != 0,
        deadline: Deadline {
            owner_clock: Instant::from_nanos(body.owner_clock.get()),
            spent_nanos: body.spent_nanos.get(),
            left_nanos: body.left_nanos.get(),
        },
    })
}

fn copy(body: CopyBody) -> Result<Body, WireError> {
    let flags = known(body.flags.get(), flag::ZERO | flag::FRESH)?;
    Ok(Body::Copy {
        epoch: Epoch(body.epoch.get()),
        volume: VolumeId(body.volume.get()),
        tag: body.tag.get(),
        first: body.first.get(),
        blocks: body.blocks.get(),
        zero: flags & flag::ZERO != 0,
        fresh: flags & flag::FRESH != 0,
    })
}
