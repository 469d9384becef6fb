//! Shared by the tests of the wire.

use std::io::Read;

use proptest::prelude::*;

use super::{Decoder, Encoder, Salt, WireError};
use crate::block::{BLOCK_BYTES, Block, PagePool, Payload};
use crate::guest::Sectors;
use crate::ids::{Epoch, VolumeId};
use crate::mirror::message::{Body, Deadline, Manner, Message};
use crate::time::Instant;

mod damage;
mod golden;
mod roundtrip;

const SALT: Salt = Salt(0x5a17_5a17);

/// A block whose bytes depend on `n`; zero for 0.
fn block(pool: &PagePool, n: u32) -> Block {
    if n == 0 {
        return Block::Zero;
    }
    let mut page = pool.take();
    for (index, word) in page.bytes_mut().as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *word = (n.wrapping_mul(0x9e37_79b9) ^ index as u32).to_le_bytes();
    }
    Block::Data(page.freeze())
}

fn blocks(pool: &PagePool, marks: impl IntoIterator<Item = u32>) -> Payload {
    marks.into_iter().map(|mark| block(pool, mark)).collect()
}

fn write(order: u64, data: Payload) -> Message {
    let body = Body::Write {
        epoch: Epoch(7),
        volume: VolumeId(3),
        order,
        first: 1000,
        blocks: data.len() as u32,
        zero: false,
        carried: true,
        origin: None,
    };
    Message { body, data }
}

fn forward(at: Sectors, data: Payload) -> Message {
    let deadline =
        Deadline { owner_clock: Instant::from_nanos(0x0102), spent_nanos: 0x0304, left_nanos: 0x0506 };
    let zero = data.is_empty();
    let manner = Manner::Replace;
    let body = Body::Forward { epoch: Epoch(7), volume: VolumeId(3), id: 9, at, manner, zero, deadline };
    Message { body, data }
}

fn in_manner(mut message: Message, its: Manner, is_zero: bool) -> Message {
    if let Body::Forward { manner, zero, .. } = &mut message.body {
        (*manner, *zero) = (its, is_zero);
    }
    message
}

/// All bytes of the messages, over one connection.
fn encode(messages: impl IntoIterator<Item = Message>) -> Vec<u8> {
    let mut encoder = Encoder::new(SALT);
    let mut bytes = Vec::new();
    for message in messages {
        encoder.push(message).unwrap();
        while encoder.unfinished() {
            encoder.go_on();
        }
        drain(&mut encoder, &mut bytes, usize::MAX);
    }
    bytes
}

/// Writes what is encoded, `step` bytes at a time.
fn drain(encoder: &mut Encoder, bytes: &mut Vec<u8>, step: usize) {
    while encoder.bytes() > 0 {
        let mut budget = step;
        for slice in encoder.slices().iter() {
            let here = slice.len().min(budget);
            bytes.extend_from_slice(&slice[..here]);
            budget -= here;
        }
        let offered: usize = encoder.slices().iter().map(|slice| slice.len()).sum();
        encoder.advance(offered.min(step));
    }
}

/// Feeds `bytes` in pieces as long as `steps` says, over and over; the messages before the first error, and it.
fn decode(pool: &PagePool, bytes: &[u8], steps: &[usize]) -> (Vec<Message>, Option<WireError>) {
    let mut decoder = Decoder::new(SALT, pool.clone());
    let mut messages = Vec::new();
    let (mut rest, mut steps) = (bytes, steps.iter().cycle());
    while !rest.is_empty() {
        let here = rest.len().min(*steps.next().unwrap());
        let arriving = &rest[..here];
        let taken = decoder.receive(|slices| { arriving }.read_vectored(slices)).unwrap();
        assert!(taken > 0, "a receive must have room");
        rest = &rest[taken..];
        loop {
            match decoder.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

/// Bodies derive no equality, because nothing else compares them.
fn shown(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| format!("{message:?}")).collect()
}

/// Equal bodies, and equal bytes of all blocks.
fn assert_same(sent: &[Message], received: &[Message]) {
    assert_eq!(shown(sent), shown(received));
    for (sent, received) in sent.iter().zip(received) {
        for (sent, received) in sent.data.iter().zip(&received.data) {
            assert!(sent.bytes() == received.bytes());
            assert_eq!(received.bytes().len(), BLOCK_BYTES);
        }
    }
}

prop_compose! {
    fn marks(max: usize)(marks in prop::collection::vec(0u32..4, 0..max)) -> Vec<u32> { marks }
}
