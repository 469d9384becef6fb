//! A reactor's connections, by index; an index is used again, a key never is.

use std::time::Instant;

use mio::net::TcpStream;

use crate::session::Connection;

/// Bits of a key below the index: a task's slot.
const SLOT_BITS: u32 = 16;
const INDEX_BITS: u32 = 20;

/// A connection and its socket.
pub(super) struct Link {
    /// `None` once closed; the connection may still wait for its tasks to die.
    pub(super) stream: Option<TcpStream>,
    pub(super) connection: Connection,
    pub(super) key: u64,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The initiator sends no more. It may have said so along with its last bytes, and does not say so again.
    pub(super) at_end: bool,
    /// PDUs that the next guess is for.
    pub(super) guess: usize,
    /// Until when it has to have logged in; `None`: it has, or is closed.
    pub(super) login: Option<Instant>,
    /// It is in the list of those to look at before sleeping.
    pub(super) touched: bool,
}

/// All of them.
#[derive(Default)]
pub(super) struct Links {
    links: Vec<Option<Link>>,
    free: Vec<usize>,
    serial: u64,
}

impl Links {
    /// The key of the connection to be put in with the next [`insert`](Self::insert).
    pub(super) fn next_key(&mut self) -> u64 {
        self.serial += 1;
        let index = self.free.last().copied().unwrap_or(self.links.len());
        (self.serial << INDEX_BITS | index as u64) << SLOT_BITS
    }

    /// How many connections a key can tell apart.
    pub(super) const MAX: usize = 1 << INDEX_BITS;

    pub(super) fn insert(&mut self, link: Link) -> usize {
        let index = self.free.pop().unwrap_or(self.links.len());
        if index == self.links.len() {
            self.links.push(None);
        }
        self.links[index] = Some(link);
        index
    }

    pub(super) fn remove(&mut self, index: usize) {
        if self.links.get_mut(index).and_then(Option::take).is_some() {
            self.free.push(index);
        }
    }

    pub(super) fn get(&mut self, index: usize) -> Option<&mut Link> {
        self.links.get_mut(index)?.as_mut()
    }

    /// The index and slot of a token, if its connection is still the same.
    pub(super) fn resolve(&mut self, token: u64) -> Option<(usize, u16)> {
        let slot = token as u16;
        let index = (token >> SLOT_BITS) as usize & (Self::MAX - 1);
        let key = token >> SLOT_BITS << SLOT_BITS;
        (self.get(index)?.key == key).then_some((index, slot))
    }

    pub(super) fn indexes(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.links.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.links.len() == self.free.len()
    }
}
