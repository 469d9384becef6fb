//! Receiving: one system call for many PDUs, and data to its place without a copy where its place can be known
//! or guessed.
//!
//! Three ways, by what the connection expects. In the middle of a long data segment: straight into the blocks
//! of its command. Before a long one: little more than the header, so that the data comes the first way. When
//! commands with whole blocks are forecast: headers into the staging buffer and data into fresh pages, which the
//! commands adopt if the guess was right; if not, the bytes are read from there as from any buffer.

use std::io::{IoSliceMut, Read};

use mio::net::TcpStream;
use twinsan::block::{BLOCK_BYTES, PageMut, PagePool};

use super::links::Link;
use crate::session::{Connection, Forecast, Slices};

/// The buffer that all connections of a reactor share, in bytes.
const STAGING_BYTES: usize = 128 << 10;
/// What is received behind data that goes to its place: the next header and a little.
const BEHIND_DATA_BYTES: usize = 128;
/// PDUs that one guess is for, at least and at most.
const GUESS_MIN: usize = 2;
const GUESS_MAX: usize = 32;

/// A reactor's receive buffers.
pub(super) struct Receiver {
    staging: Box<[u8]>,
    /// Pages for guesses, taken anew when they were adopted.
    pages: Vec<PageMut>,
    /// Empty; keeps its memory.
    unused: Vec<PageMut>,
    pool: PagePool,
}

impl Receiver {
    pub(super) fn new(pool: PagePool) -> Receiver {
        Receiver {
            staging: vec![0; STAGING_BYTES].into_boxed_slice(),
            pages: Vec::new(),
            unused: Vec::new(),
            pool,
        }
    }

    /// One receive.
    pub(super) fn receive(&mut self, link: &mut Link) {
        let Some(stream) = link.stream.as_mut() else {
            link.readable = false;
            return;
        };
        let outcome = match link.connection.forecast() {
            Some(forecast) => self.guess(stream, &mut link.connection, &forecast, &mut link.guess),
            None => self.place(stream, &mut link.connection),
        };
        match outcome {
            Ok(more) => link.readable = more || link.at_end,
            Err(error) => {
                link.readable = false;
                if error.kind() != std::io::ErrorKind::WouldBlock {
                    link.connection.hang_up();
                }
            }
        }
    }

    /// Receives what is left of a long data segment into its blocks, and what follows into the staging buffer.
    /// True if there may be more.
    fn place(&mut self, stream: &mut TcpStream, connection: &mut Connection) -> std::io::Result<bool> {
        let long = connection.expects_long_data();
        let mut slices = Slices::new();
        let direct = connection.direct(&mut slices);
        let behind = if direct > 0 || long { BEHIND_DATA_BYTES } else { self.staging.len() };
        slices.push(IoSliceMut::new(&mut self.staging[..behind]));
        let count = read(stream, &mut slices)?;
        drop(slices);
        let placed = count.min(direct);
        connection.direct_filled(placed);
        connection.receive(&self.staging[..count - placed]);
        Ok(count == direct + behind)
    }

    /// Receives as forecast.
    fn guess(
        &mut self,
        stream: &mut TcpStream,
        connection: &mut Connection,
        forecast: &Forecast,
        guess: &mut usize,
    ) -> std::io::Result<bool> {
        let Receiver { staging, pages, pool, .. } = self;
        let wanted = (*guess).clamp(GUESS_MIN, GUESS_MAX) * forecast.blocks;
        while pages.len() < wanted {
            pages.push(pool.take());
        }
        let mut slices = Slices::new();
        let mut rest = &mut staging[..];
        let mut gap = forecast.before;
        for group in pages[..wanted].chunks_exact_mut(forecast.blocks) {
            let (now, later) = rest.split_at_mut(gap);
            slices.push(IoSliceMut::new(now));
            slices.extend(group.iter_mut().map(|page| IoSliceMut::new(page.bytes_mut())));
            (rest, gap) = (later, forecast.between);
        }
        let room: usize = slices.iter().map(|slice| slice.len()).sum();
        let count = read(stream, &mut slices)?;
        drop(slices);
        self.hand_over(connection, forecast, count);
        // As many as came this time and a few more; twice as many if all were needed.
        let pdu = forecast.between + forecast.blocks * BLOCK_BYTES;
        *guess = if count == room { (*guess * 2).min(GUESS_MAX) } else { count / pdu + 2 };
        Ok(count == room)
    }

    /// Hands `count` bytes, which lie as forecast, to the connection in order.
    fn hand_over(&mut self, connection: &mut Connection, forecast: &Forecast, mut count: usize) {
        let mut at = 0;
        let mut gap = forecast.before;
        let Receiver { staging, pages, unused, .. } = self;
        let mut all = pages.drain(..);
        while count > 0 {
            let bytes = gap.min(count);
            connection.receive(&staging[at..at + bytes]);
            (at, gap, count) = (at + gap, forecast.between, count - bytes);
            for page in all.by_ref().take(forecast.blocks) {
                let bytes = BLOCK_BYTES.min(count);
                count -= bytes;
                unused.extend(hand_over_page(connection, page, bytes));
            }
        }
        unused.extend(all);
        std::mem::swap(pages, unused);
    }
}

/// Hands over the first `bytes` bytes of a page; gives it back if it was not adopted.
fn hand_over_page(connection: &mut Connection, page: PageMut, bytes: usize) -> Option<PageMut> {
    let page = if bytes == BLOCK_BYTES { connection.adopt(page)? } else { page };
    connection.receive(&page.bytes()[..bytes]);
    Some(page)
}

/// One system call. An end of the stream is an error like any other.
fn read(stream: &mut TcpStream, slices: &mut [IoSliceMut<'_>]) -> std::io::Result<usize> {
    loop {
        match stream.read_vectored(slices) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
