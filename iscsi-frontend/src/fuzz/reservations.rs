//! Entry point for reservations: what is kept with a volume, and orders of hosts.

use crate::scsi::reservations::{Order, Reservations};
use crate::scsi::{Initiator, Nexus, Plan};

const PORTS: [u16; 2] = [1, 2];

/// The first byte chooses. If it is odd, the rest is taken for what is kept with a volume. If it is even, the rest are orders,
/// one after the other: who gives it (bits 0 and 1 the host, bit 2 the port), bytes 1 and 2 of the CDB, the length of the
/// parameter list (two bytes), and the list. Returns how many of them changed something, or registrations.
///
/// # Panics
/// If what is kept reads otherwise when it is written again, if a holder is not registered or a nexus is registered twice, or
/// by the bug that is being looked for.
pub fn reservations(input: &[u8]) -> usize {
    match input.split_first() {
        Some((how, kept)) if how & 1 != 0 => Reservations::decode(kept).map_or(0, |state| judge(&state)),
        Some((_, orders)) => carry_out(orders),
        None => 0,
    }
}

fn carry_out(mut orders: &[u8]) -> usize {
    let (mut state, mut changes) = (Reservations::default(), 0);
    while let [who, action, what, high, low, rest @ ..] = orders {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (list, rest) = rest.split_at(rest.len().min(length));
        orders = rest;
        let initiator = Initiator::new(&format!("iqn.2026-01.example:host{}", who & 3), [0; 6]);
        let from = Nexus { initiator, port: PORTS[usize::from(who >> 2 & 1)], site: 0 };
        let Ok(order) = Order::parse(action & 0x1f, *what, list) else { continue };
        let Ok((next, _)) = state.apply(&order, &from, &PORTS) else { continue };
        changes += usize::from(next != state);
        state = next;
        judge(&state);
    }
    changes
}

/// How many have registered.
fn judge(state: &Reservations) -> usize {
    assert!(state.is_sound(), "{state:?}");
    if let Some(bytes) = state.encode() {
        assert_eq!(Reservations::decode(&bytes).as_ref(), Some(state), "what is kept can be read");
    }
    for action in 0..=3 {
        assert!(matches!(state.report(action, u32::MAX), Plan::Answer(_)));
    }
    state.count()
}
