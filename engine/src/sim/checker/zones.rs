//! Linearizability of a register with unique values, by zones (Gibbons and Korach, "Testing Shared Memories",
//! SIAM Journal on Computing 26(4), 1997).
//!
//! A write and the reads that returned its value form a cluster. Its zone lies between its first end and its
//! last beginning. If the first end comes first, the register held the value all through the zone (a forward
//! zone); else the cluster fits anywhere in its (backward) zone. The history is linearizable exactly if every
//! value that was read had been written, no two forward zones overlap, and no backward zone lies inside a
//! forward one.

use super::Entry;
use crate::sim::history::Moment;
use crate::sim::pattern::ZERO;

struct Zone {
    first_end: Moment,
    last_start: Moment,
    value: u64,
}

/// Checks one sector whose writes all have different values, none of them zero. Initially it reads zero.
pub fn check(entries: &[Entry]) -> Result<(), (String, Moment)> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by_key(|entry| (entry.value, !entry.write, entry.start));
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    for cluster in sorted.chunk_by(|a, b| a.value == b.value) {
        let zone = zone(cluster)?;
        if zone.first_end < zone.last_start { forward.push(zone) } else { backward.push(zone) }
    }
    forward.sort_by_key(|zone| zone.first_end);
    for pair in forward.windows(2) {
        if pair[1].first_end < pair[0].last_start {
            return Err(conflict(&pair[0], &pair[1]));
        }
    }
    for zone in &backward {
        let after = forward.partition_point(|other| other.first_end < zone.last_start);
        if let Some(around) = after.checked_sub(1).map(|index| &forward[index])
            && zone.first_end < around.last_start
        {
            return Err(conflict(around, zone));
        }
    }
    Ok(())
}

fn conflict(around: &Zone, zone: &Zone) -> (String, Moment) {
    let text = format!(
        "value {} was there from moment {} to {}, and value {} within that time",
        around.value, around.first_end, around.last_start, zone.value
    );
    (text, around.last_start)
}

fn zone(cluster: &[&Entry]) -> Result<Zone, (String, Moment)> {
    let value = cluster[0].value;
    let written = if value == ZERO {
        0
    } else if cluster[0].write {
        cluster[0].start
    } else {
        let text = format!("value {value} was read but never written, or its write was refused");
        return Err((text, cluster[0].end));
    };
    if let Some(read) = cluster.iter().find(|entry| !entry.write && entry.end < written) {
        let text = format!("value {value} was read by moment {}, before its write began", read.end);
        return Err((text, written));
    }
    let ends = cluster.iter().map(|entry| entry.end).min().unwrap_or(0);
    let last_start = cluster.iter().map(|entry| entry.start).max().unwrap_or(0);
    let first_end = if value == ZERO { 0 } else { ends };
    Ok(Zone { first_end, last_start, value })
}
