//! PERSISTENT RESERVE IN (SPC-4 6.15).

use super::{Reservations, Type};
use crate::scsi::{Plan, Sense, answer};

/// Service actions.
mod action {
    pub(super) const READ_KEYS: u8 = 0;
    pub(super) const READ_RESERVATION: u8 = 1;
    pub(super) const REPORT_CAPABILITIES: u8 = 2;
    pub(super) const READ_FULL_STATUS: u8 = 3;
}

impl Reservations {
    /// Does the device server know the action (byte 1 of the CDB)?
    pub(crate) fn reports(action: u8) -> bool {
        action <= action::READ_FULL_STATUS
    }

    pub(crate) fn report(&self, action: u8, allocation: u32) -> Plan {
        let reply = match action {
            action::READ_KEYS => self.listed(self.keys()),
            action::READ_RESERVATION => self.listed(self.reservation()),
            action::REPORT_CAPABILITIES => self.capabilities(),
            action::READ_FULL_STATUS => self.listed(self.full_status()),
            _ => return Sense::cdb(1).into(),
        };
        answer(reply, allocation)
    }

    /// Behind the generation and the length of the list.
    fn listed(&self, list: Vec<u8>) -> Vec<u8> {
        let mut reply = self.generation.to_be_bytes().to_vec();
        reply.extend_from_slice(&(list.len() as u32).to_be_bytes());
        reply.extend_from_slice(&list);
        reply
    }

    fn keys(&self) -> Vec<u8> {
        self.registrations.iter().flat_map(|registration| registration.key.to_be_bytes()).collect()
    }

    fn reservation(&self) -> Vec<u8> {
        let Some(held) = &self.held else { return Vec::new() };
        let holder = self.registration(&held.by).filter(|_| !held.kind.is_held_by_all());
        let mut descriptor = holder.map_or(0, |holder| holder.key).to_be_bytes().to_vec();
        descriptor.extend_from_slice(&[0, 0, 0, 0, 0, held.kind as u8, 0, 0]);
        descriptor
    }

    /// SIP_C, ATP_C and PTPL_C; all types. RESERVE (6) and (10) are not compatible with these (CRH is clear).
    fn capabilities(&self) -> Vec<u8> {
        const TYPE_MASK_VALID: u8 = 0x80;
        let mask = Type::ALL.iter().fold(0u16, |mask, kind| mask | 1 << (*kind as u8));
        // Byte 4 has the types 0 to 7, byte 5 type 8.
        let [eighth, others] = mask.to_be_bytes();
        vec![0, 8, 0x08 | 0x04 | 0x01, TYPE_MASK_VALID | u8::from(self.aptpl), others, eighth, 0, 0]
    }

    fn full_status(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for registration in &self.registrations {
            let holds = self.is_held_by(&registration.nexus);
            let kind = self.held.as_ref().filter(|_| holds).map_or(0, |held| held.kind as u8);
            list.extend_from_slice(&registration.key.to_be_bytes());
            list.extend_from_slice(&[0; 4]);
            list.extend_from_slice(&[u8::from(registration.all_ports) << 1 | u8::from(holds), kind]);
            list.extend_from_slice(&[0; 4]);
            list.extend_from_slice(&registration.nexus.port.to_be_bytes());
            let id = registration.nexus.initiator.transport_id();
            list.extend_from_slice(&(id.len() as u32).to_be_bytes());
            list.extend_from_slice(&id);
        }
        list
    }
}
