//! The state as bytes, as it is kept with the volume on both nodes. The layout is in `iscsi-frontend/docs/reservations.md`.

use super::{Held, Initiator, Nexus, Registration, Reservations, Type};
use crate::access::NAME_BYTES_MAX;

const VERSION: u8 = 1;
const APTPL: u8 = 0x01;
const EXCLUSIVE: u8 = 0x02;
const ALL_PORTS: u8 = 0x01;
/// In place of a holder's place: nothing is reserved.
const NOBODY: u16 = u16::MAX;
/// The most that is kept, in bytes: of what an item may have, all.
const BYTES_MAX: usize = 32 << 10;

impl Reservations {
    /// `None` if there are too many registrations, or a name is longer than names are.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let holder = |held: &Held| self.registrations.iter().position(|known| known.nexus == held.by);
        let (kind, by) = match &self.held {
            Some(held) => (held.kind as u8, holder(held)? as u16),
            None => (0, NOBODY),
        };
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let flags = flag(self.aptpl, APTPL) | flag(self.exclusive.is_some(), EXCLUSIVE);
        let mut bytes = vec![VERSION, flags, kind, 0];
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        for count in [self.changes, self.cleared, self.released] {
            bytes.extend_from_slice(&count.to_be_bytes());
        }
        bytes.extend_from_slice(&by.to_be_bytes());
        bytes.extend_from_slice(&(self.registrations.len() as u16).to_be_bytes());
        for Registration { nexus, key, all_ports } in &self.registrations {
            bytes.extend_from_slice(&key.to_be_bytes());
            put(&mut bytes, nexus, flag(*all_ports, ALL_PORTS));
        }
        if let Some(nexus) = &self.exclusive {
            put(&mut bytes, nexus, 0);
        }
        let mut names = self.registrations.iter().map(|known| &known.nexus).chain(&self.exclusive);
        let all_fit = names.all(|nexus| (1..=NAME_BYTES_MAX).contains(&nexus.initiator.name.len()));
        (all_fit && bytes.len() <= BYTES_MAX && self.registrations.len() < usize::from(NOBODY))
            .then_some(bytes)
    }

    /// `None` if that was not written by this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Reservations> {
        let mut reader = Reader(bytes);
        let [VERSION, flags, kind, 0] = reader.take()? else { return None };
        let generation = u32::from_be_bytes(reader.take()?);
        let [changes, cleared, released] = [reader.long()?, reader.long()?, reader.long()?];
        let by = usize::from(u16::from_be_bytes(reader.take()?));
        let count = u16::from_be_bytes(reader.take()?);
        let mut registrations = Vec::new();
        for _ in 0..count {
            registrations.push(reader.registration()?);
        }
        let held = match kind {
            0 => None,
            kind => Some(Held { kind: Type::of(kind)?, by: registrations.get(by)?.nexus.clone() }),
        };
        let exclusive = if flags & EXCLUSIVE == 0 { None } else { Some(reader.nexus()?.0) };
        let aptpl = flags & APTPL != 0;
        let state =
            Reservations { generation, aptpl, changes, cleared, released, registrations, held, exclusive };
        (reader.0.is_empty() && state.is_sound()).then_some(state)
    }
}

fn put(bytes: &mut Vec<u8>, nexus: &Nexus, flags: u8) {
    let Nexus { initiator, port, site } = nexus;
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&site.to_be_bytes());
    bytes.extend_from_slice(&initiator.isid);
    bytes.extend_from_slice(&[flags, initiator.name.len() as u8]);
    bytes.extend_from_slice(initiator.name.as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn long(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn registration(&mut self) -> Option<Registration> {
        let key = self.long()?;
        let (nexus, flags) = self.nexus()?;
        Some(Registration { nexus, key, all_ports: flags & ALL_PORTS != 0 })
    }

    /// And its flags.
    fn nexus(&mut self) -> Option<(Nexus, u8)> {
        let port = u16::from_be_bytes(self.take()?);
        let site = u16::from_be_bytes(self.take()?);
        let isid = self.take()?;
        let [flags, length] = self.take()?;
        let length = usize::from(length);
        let (name, rest) = (self.0.get(..length)?, self.0.get(length..)?);
        self.0 = rest;
        let name = std::str::from_utf8(name).ok().filter(|_| (1..=NAME_BYTES_MAX).contains(&length))?;
        Some((Nexus { initiator: Initiator::new(name, isid), port, site }, flags))
    }
}
