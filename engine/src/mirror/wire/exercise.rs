//! What a fuzzer runs.

use std::io::Read;

use super::layout::{Header, MAGIC};
use super::{Decoder, Encoder, Salt};
use crate::block::PagePool;
use crate::mirror::message::{Message, PROTOCOL_VERSION};

/// Decodes `input` in two ways: as it is, and as frames whose checksums are made right, so that what lies behind
/// them is reached too. Whatever is decoded is encoded and decoded again and must come out the same. The input
/// also says in what pieces it arrives.
///
/// # Panics
/// If the codec has a bug.
pub fn exercise(input: &[u8]) {
    let Some((&pace, bytes)) = input.split_first() else { return };
    let pool = PagePool::new();
    decode(&pool, bytes, pace);
    for message in decode(&pool, &sealed(bytes), pace) {
        let shown = format!("{message:?}");
        let again = round_trip(&pool, message, pace);
        assert_eq!(again.iter().map(|message| format!("{message:?}")).collect::<Vec<_>>(), [shown]);
    }
}

/// Messages up to the first error. `pace`: how many bytes arrive at a time.
fn decode(pool: &PagePool, mut bytes: &[u8], pace: u8) -> Vec<Message> {
    let mut decoder = Decoder::new(Salt(0), pool.clone());
    let step = 1 + usize::from(pace) * usize::from(pace);
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let (arriving, _) = bytes.split_at(step.min(bytes.len()));
        let taken = decoder.receive(|slices| { arriving }.read_vectored(slices)).expect("memory can be read");
        bytes = bytes.get(taken..).expect("no more is taken than arrives");
        loop {
            match decoder.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next().err(), Some(error), "an error must last");
                    return messages;
                }
            }
        }
    }
    messages
}

fn round_trip(pool: &PagePool, message: Message, pace: u8) -> Vec<Message> {
    let mut encoder = Encoder::new(Salt(0));
    encoder.push(message).expect("what was decoded can be encoded");
    let mut bytes = Vec::new();
    loop {
        bytes.extend(encoder.slices().iter().flat_map(|slice| slice.iter().copied()));
        let written = encoder.slices().iter().map(|slice| slice.len()).sum();
        encoder.advance(written);
        if written == 0 && !encoder.unfinished() {
            return decode(pool, &bytes, pace);
        }
        if written == 0 {
            encoder.go_on();
        }
    }
}

/// Reads `bytes` as a list of (kind, more, body length, blocks, tail bytes), and makes frames of them.
fn sealed(mut bytes: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    let mut sequence = 0u64;
    while let Some((&[kind, more, low, high, blocks], rest)) = bytes.split_first_chunk() {
        let body_bytes = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let table_bytes = (usize::from(blocks) * 8).min(rest.len() - body_bytes);
        let (tail, rest) = rest.split_at(body_bytes + table_bytes);
        let header = Header {
            magic: MAGIC.into(),
            version: PROTOCOL_VERSION.into(),
            kind,
            more,
            sequence: sequence.into(),
            body_bytes: (body_bytes as u32).into(),
            blocks: u32::from(blocks).into(),
            tail_crc: crc32c::crc32c(tail).into(),
            header_crc: 0.into(),
        };
        frames.extend_from_slice(bytemuck::bytes_of(&header.sealed(Salt(0))));
        frames.extend_from_slice(tail);
        sequence += 1;
        bytes = rest;
        // Pages: as they are in the input, as far as it goes.
        if more & 2 != 0 {
            let (pages, rest) = bytes.split_at((usize::from(blocks) * 4096).min(bytes.len()));
            frames.extend_from_slice(pages);
            bytes = rest;
        }
    }
    frames
}
