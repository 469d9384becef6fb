//! Histories for the checker.

use twinsan::guest::Sectors;
use twinsan::ids::VolumeId;
use twinsan::sim::history::{History, Kind};

use crate::by_hand::Scatter;

/// A history that a disk could have had: `ops` requests of 4 KiB to 64 blocks, half of them reads, eight in flight.
pub fn linearizable(ops: u64) -> History {
    let mut history = History::default();
    let mut scatter = Scatter::new();
    let mut now = [0u64; 64];
    let mut open: Vec<(usize, Kind, u64)> = Vec::new();
    for value in 1..=ops {
        let block = scatter.below(64);
        let kind = if scatter.below(2) == 0 { Kind::Read } else { Kind::Write };
        let op = history.begin(0, kind, VolumeId(1), Sectors::new(block * 8, 8), value);
        open.push((op, kind, block));
        if open.len() == 8 {
            let (op, kind, block) = open.swap_remove(scatter.below(8) as usize);
            finish(&mut history, &mut now, op, kind, block);
        }
    }
    for (op, kind, block) in open {
        finish(&mut history, &mut now, op, kind, block);
    }
    history
}

/// A request takes effect when it ends.
fn finish(history: &mut History, now: &mut [u64; 64], op: usize, kind: Kind, block: u64) {
    let current = &mut now[block as usize];
    match kind {
        Kind::Read => history.done(op, false, vec![*current; 8]),
        _ => {
            *current = history.ops[op].value;
            history.done(op, false, Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinsan::sim::checker::check;

    #[test]
    fn the_history_passes() {
        let checked = check(&linearizable(5_000)).expect("it is linearizable");
        assert!(checked.operations > 4_000);
    }
}
