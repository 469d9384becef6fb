//! Space in the pools: what was acknowledged has its place, and a place that is used again shows nothing of before.

use crate::NEW;
use crate::pair_support::{A, B, Pair};
use twinsan::guest::{Command, GuestError, Sectors};
use twinsan::mirror::message::PeerPhase;
use twinsan::planted::Bug;

/// Blocks of an extent.
const EXTENT: u64 = 256;

/// What was flushed is all that node a knows from here on, and it serves alone.
fn only_what_is_on_disk(pair: &mut Pair) {
    pair.flush(A).expect("flushed");
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    pair.crash(A);
    pair.start(A);
    pair.until_phase(A, PeerPhase::Alone);
}

/// A guest writes to more extents than the pools have, and flushes. How many writes were refused, and how many of the
/// others are gone.
fn a_pool_runs_full(bugs: &[Bug]) -> (usize, usize) {
    const WRITES: u8 = 90;
    let mut pair = Pair::with(bugs);
    pair.stop_comparing();
    let mut acknowledged = Vec::new();
    for n in 1..=WRITES {
        match pair.write(A, u64::from(n) * EXTENT, n) {
            Ok(_) => acknowledged.push(n),
            Err(error) => assert_eq!(error, GuestError::OutOfSpace),
        }
    }
    only_what_is_on_disk(&mut pair);
    let lost = acknowledged.iter().filter(|&&n| pair.read(A, u64::from(n) * EXTENT) != n).count();
    (usize::from(WRITES) - acknowledged.len(), lost)
}

/// Were a write acknowledged without a place for it, a full pool would lose it when it leaves the cache.
#[test]
fn a_write_that_is_acknowledged_has_its_place() {
    let (refused, lost) = a_pool_runs_full(&[]);
    assert!(refused > 10 && lost == 0, "{refused} refused, {lost} lost");
    let (refused, lost) = a_pool_runs_full(&[Bug::WriteWithoutSpace]);
    assert!(refused == 0 && lost > 10, "{refused} refused, {lost} lost");
}

/// An extent full of data is cleared, and its place given to another one, of which one block is written. What the block
/// beside it reads as.
fn beside_the_first_write_to_a_used_place(bugs: &[Bug]) -> Result<u8, GuestError> {
    let mut pair = Pair::with(bugs);
    let fill = pair.begin_long_write(A, 0, EXTENT, 7);
    pair.finish(fill).expect("written");
    pair.flush(A).expect("flushed");
    let clear = pair.ask(A, Command::Zero { at: Sectors::new(0, EXTENT * 8), fua: true });
    pair.finish(clear).expect("cleared");
    pair.pass_millis(2000);
    pair.write(A, 5 * EXTENT, NEW).expect("written");
    only_what_is_on_disk(&mut pair);
    assert_eq!(pair.read(A, 5 * EXTENT), NEW);
    let beside = pair.begin_read(A, 5 * EXTENT + 1);
    pair.finish(beside).map(|data| data[0].bytes()[0])
}

/// Were nothing said of the blocks of a new extent that nobody wrote, a guest would read what another extent left there;
/// only the checksum, which has the address in it, keeps it from that, and says that the data are bad.
#[test]
fn what_was_not_written_of_an_extent_reads_as_zero() {
    assert_eq!(beside_the_first_write_to_a_used_place(&[]), Ok(0));
    let forgotten = beside_the_first_write_to_a_used_place(&[Bug::UnwrittenBlocksForgotten]);
    assert_eq!(forgotten, Err(GuestError::Medium));
}
