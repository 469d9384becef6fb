//! REPORT SUPPORTED OPERATION CODES (SPC-4 6.35) and TASK MANAGEMENT FUNCTIONS (6.36): what this device server
//! says it does. A test checks that the parser takes every command in the table and none beside it.

use super::{Plan, Sense, answer};

/// A command: opcode, service action if it has one, and which CDB bits mean something.
pub(super) struct Supported {
    pub(super) opcode: u8,
    pub(super) action: Option<u16>,
    pub(super) usage: &'static [u8],
}

const fn plain(opcode: u8, usage: &'static [u8]) -> Supported {
    Supported { opcode, action: None, usage }
}

const fn action(opcode: u8, action: u16, usage: &'static [u8]) -> Supported {
    Supported { opcode, action: Some(action), usage }
}

const F: u8 = 0xff;

/// All commands, in order.
pub(super) const COMMANDS: &[Supported] = &[
    plain(0x00, &[0x00, 0, 0, 0, 0, 0x07]),
    plain(0x03, &[0x03, 0x01, 0, 0, F, 0x07]),
    plain(0x08, &[0x08, 0x1f, F, F, F, 0x07]),
    plain(0x0a, &[0x0a, 0x1f, F, F, F, 0x07]),
    plain(0x12, &[0x12, 0x01, F, F, F, 0x07]),
    plain(0x15, &[0x15, 0x10, 0, 0, F, 0x07]),
    plain(0x16, &[0x16, 0, 0, 0, 0, 0x07]),
    plain(0x17, &[0x17, 0, 0, 0, 0, 0x07]),
    plain(0x1a, &[0x1a, 0x08, F, F, F, 0x07]),
    plain(0x1b, &[0x1b, 0x01, 0, 0, 0x05, 0x07]),
    plain(0x1e, &[0x1e, 0, 0, 0, 0x03, 0x07]),
    plain(0x25, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0x07]),
    plain(0x28, &[0x28, 0x18, F, F, F, F, 0x3f, F, F, 0x07]),
    plain(0x2a, &[0x2a, 0x18, F, F, F, F, 0x3f, F, F, 0x07]),
    plain(0x2e, &[0x2e, 0x12, F, F, F, F, 0x3f, F, F, 0x07]),
    plain(0x2f, &[0x2f, 0x12, F, F, F, F, 0x3f, F, F, 0x07]),
    plain(0x34, &[0x34, 0x02, F, F, F, F, 0x3f, F, F, 0x07]),
    plain(0x35, &[0x35, 0x02, F, F, F, F, 0x3f, F, F, 0x07]),
    plain(0x37, &[0x37, 0, 0x1f, 0, 0, 0, 0, F, F, 0x07]),
    plain(0x41, &[0x41, 0x08, F, F, F, F, 0x3f, F, F, 0x07]),
    plain(0x42, &[0x42, 0, 0, 0, 0, 0, 0x3f, F, F, 0x07]),
    plain(0x55, &[0x55, 0x10, 0, 0, 0, 0, 0, F, F, 0x07]),
    plain(0x56, &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0x07]),
    plain(0x57, &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0x07]),
    plain(0x5a, &[0x5a, 0x18, F, F, 0, 0, 0, F, F, 0x07]),
    action(0x5e, 0x00, &[0x5e, 0x00, 0, 0, 0, 0, 0, F, F, 0x07]),
    action(0x5e, 0x01, &[0x5e, 0x01, 0, 0, 0, 0, 0, F, F, 0x07]),
    action(0x5e, 0x02, &[0x5e, 0x02, 0, 0, 0, 0, 0, F, F, 0x07]),
    action(0x5e, 0x03, &[0x5e, 0x03, 0, 0, 0, 0, 0, F, F, 0x07]),
    action(0x5f, 0x00, &[0x5f, 0x00, 0, 0, 0, F, F, F, F, 0x07]),
    action(0x5f, 0x01, &[0x5f, 0x01, F, 0, 0, F, F, F, F, 0x07]),
    action(0x5f, 0x02, &[0x5f, 0x02, F, 0, 0, F, F, F, F, 0x07]),
    action(0x5f, 0x03, &[0x5f, 0x03, 0, 0, 0, F, F, F, F, 0x07]),
    action(0x5f, 0x04, &[0x5f, 0x04, F, 0, 0, F, F, F, F, 0x07]),
    action(0x5f, 0x05, &[0x5f, 0x05, F, 0, 0, F, F, F, F, 0x07]),
    action(0x5f, 0x06, &[0x5f, 0x06, 0, 0, 0, F, F, F, F, 0x07]),
    action(0x5f, 0x07, &[0x5f, 0x07, 0, 0, 0, F, F, F, F, 0x07]),
    action(0x83, 0x00, &[0x83, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0x07]),
    action(0x84, 0x00, &[0x84, 0x00, F, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0x07]),
    action(0x84, 0x03, &[0x84, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0x07]),
    action(0x84, 0x04, &[0x84, 0x04, F, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0x07]),
    plain(0x88, &[0x88, 0x18, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 0x07]),
    plain(0x89, &[0x89, 0x18, F, F, F, F, F, F, F, F, 0, 0, 0, F, 0x3f, 0x07]),
    plain(0x8a, &[0x8a, 0x18, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 0x07]),
    plain(0x8b, &[0x8b, 0x18, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 0x07]),
    plain(0x8e, &[0x8e, 0x12, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 0x07]),
    plain(0x8f, &[0x8f, 0x12, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 0x07]),
    plain(0x90, &[0x90, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 0x07]),
    plain(0x91, &[0x91, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 0x07]),
    plain(0x93, &[0x93, 0x09, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 0x07]),
    plain(0x9c, &[0x9c, 0x18, F, F, F, F, F, F, F, F, 0, 0, F, F, 0x3f, 0x07]),
    action(0x9e, 0x10, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0x07]),
    action(0x9e, 0x12, &[0x9e, 0x12, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0x07]),
    plain(0xa0, &[0xa0, 0, F, 0, 0, 0, F, F, F, F, 0, 0x07]),
    action(0xa3, 0x0a, &[0xa3, 0xea, 0, 0, 0, 0, F, F, F, F, 0, 0x07]),
    action(0xa3, 0x0c, &[0xa3, 0x0c, 0x87, F, F, F, F, F, F, F, 0, 0x07]),
    action(0xa3, 0x0d, &[0xa3, 0x0d, 0x80, 0, 0, 0, F, F, F, F, 0, 0x07]),
    plain(0xa8, &[0xa8, 0x18, F, F, F, F, F, F, F, F, 0x3f, 0x07]),
    plain(0xaa, &[0xaa, 0x18, F, F, F, F, F, F, F, F, 0x3f, 0x07]),
    plain(0xae, &[0xae, 0x12, F, F, F, F, F, F, F, F, 0x3f, 0x07]),
    plain(0xaf, &[0xaf, 0x12, F, F, F, F, F, F, F, F, 0x3f, 0x07]),
    plain(0xb7, &[0xb7, 0x1f, 0, 0, 0, 0, F, F, F, F, 0, 0x07]),
];

/// A command timeouts descriptor that recommends nothing.
const TIMEOUTS: [u8; 12] = [0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub(super) fn report(timeouts: bool, how: u8, opcode: u8, action: u16, allocation: u32) -> Plan {
    if how == 0 {
        return answer(all(timeouts), allocation);
    }
    let has_actions = COMMANDS.iter().any(|c| c.opcode == opcode && c.action.is_some());
    let found = match how {
        1 if has_actions => return Sense::cdb(2).into(),
        1 => COMMANDS.iter().find(|c| c.opcode == opcode),
        2 if !has_actions && COMMANDS.iter().any(|c| c.opcode == opcode) => return Sense::cdb(2).into(),
        2 => COMMANDS.iter().find(|c| c.opcode == opcode && c.action == Some(action)),
        3 => COMMANDS.iter().find(|c| c.opcode == opcode && c.action.unwrap_or(0) == action),
        _ => return Sense::cdb(2).into(),
    };
    answer(one(found, timeouts), allocation)
}

fn all(timeouts: bool) -> Vec<u8> {
    let mut b = vec![0; 4];
    for command in COMMANDS {
        let [high, low] = command.action.unwrap_or(0).to_be_bytes();
        let flags = u8::from(command.action.is_some()) | u8::from(timeouts) << 1;
        b.extend_from_slice(&[command.opcode, 0, high, low, 0, flags, 0, command.usage.len() as u8]);
        if timeouts {
            b.extend_from_slice(&TIMEOUTS);
        }
    }
    let length = (b.len() - 4) as u32;
    b[..4].copy_from_slice(&length.to_be_bytes());
    b
}

fn one(found: Option<&Supported>, timeouts: bool) -> Vec<u8> {
    let Some(command) = found else { return vec![0, 0x01, 0, 0] };
    let mut b = vec![0, 0x03 | u8::from(timeouts) << 7, 0, command.usage.len() as u8];
    b.extend_from_slice(command.usage);
    if timeouts {
        b.extend_from_slice(&TIMEOUTS);
    }
    b
}

/// ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET.
pub(super) fn task_management(extended: bool, allocation: u32) -> Plan {
    let mut b = vec![0xda, 0, 0, 0];
    if extended {
        b.resize(16, 0);
        b[3] = 12;
    }
    answer(b, allocation)
}
