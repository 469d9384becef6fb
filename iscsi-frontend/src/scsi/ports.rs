//! REPORT TARGET PORT GROUPS (SPC-4 6.37): one group a node, each with one port.

use super::{Plan, Port, answer};
use twinsan::guest::PathState;

/// States that a group may be in: transitioning, unavailable, non-optimized, optimized.
const SUPPORTED: u8 = 0x80 | 0x08 | 0x02 | 0x01;
/// How long a change of states may take, in seconds.
const TRANSITION_SECONDS: u8 = 25;

fn code(state: PathState) -> u8 {
    match state {
        PathState::Optimized => 0x0,
        PathState::NonOptimized => 0x1,
        PathState::Unavailable => 0x3,
        PathState::Transitioning => 0xf,
    }
}

/// `partner` is the partner's state, `None` for a volume with one path. Groups come in order of their number.
pub(super) fn report(
    port: &Port,
    own: PathState,
    partner: Option<PathState>,
    extended: bool,
    allocation: u32,
) -> Plan {
    let mut groups = vec![(port.group, own)];
    groups.extend(partner.map(|state| (port.partner_group, state)));
    groups.sort_by_key(|(group, _)| *group);

    let mut b = vec![0; 4];
    if extended {
        b.extend_from_slice(&[0x10, TRANSITION_SECONDS, 0, 0]);
    }
    for (group, state) in groups {
        let [high, low] = group.to_be_bytes();
        // Status code 02h: changed by implicit behaviour. The port's relative identifier is the group's number.
        b.extend_from_slice(&[code(state), SUPPORTED, high, low, 0, 0x02, 0, 1, 0, 0, high, low]);
    }
    let length = (b.len() - 4) as u32;
    b[..4].copy_from_slice(&length.to_be_bytes());
    answer(b, allocation)
}
