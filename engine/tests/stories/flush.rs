//! Flushes: what one covers, wherever the writes came from and whatever becomes of the pair meanwhile.

use crate::pair_support::{A, B, DiskHold, Pair, said};
use crate::{NEW, OLD};
use twinsan::guest::Command;
use twinsan::mirror::message::PeerPhase;
use twinsan::planted::Bug;

/// Node b has acknowledged a write, and its word that it has it is on its way to the owner, when a guest flushes there.
/// The owner's disk takes no data.
fn a_flush_behind_an_acknowledged_write(bugs: &[Bug]) -> (Pair, u64) {
    let mut pair = Pair::with(bugs);
    pair.hold(A, said::write_done);
    let write = pair.begin_write(B, 0, NEW);
    assert!(pair.is_acknowledged(write), "at b");
    assert!(pair.under_way(A) > 0, "a has not heard");
    pair.hold_disk(A, DiskHold::Data);
    let flush = pair.ask(A, Command::Flush);
    assert!(pair.is_open(flush));
    (pair, flush)
}

/// Was the flush over before the owner's disk had the write? It is over after this.
fn was_early(pair: &mut Pair, flush: u64) -> bool {
    pair.pass_millis(1000);
    assert!(!pair.is_on_disk(A, NEW));
    let early = pair.is_acknowledged(flush);
    if !early {
        pair.release_disk(A);
        pair.finish(flush).expect("flushed");
    }
    early
}

/// The confirmation comes, the flush ends, and both nodes crash. Node b is back first: it takes itself out, and a's
/// disk counts. Was the flush early, and what does the pair show?
fn flush_in_a_pair(bugs: &[Bug]) -> (bool, u8) {
    let (mut pair, flush) = a_flush_behind_an_acknowledged_write(bugs);
    pair.release(A);
    let early = was_early(&mut pair, flush);
    pair.crash(A);
    pair.crash(B);
    pair.start(B);
    pair.pass_millis(5000);
    pair.start(A);
    pair.until_phase(A, PeerPhase::Alone);
    pair.heal();
    pair.until_whole();
    (early, pair.read(B, 0))
}

/// Were a flush at the owner to cover only what is in its cache, it would leave out a write that a guest has had
/// acknowledged at the partner before it: one half would have it, and that half is not the one that must count after
/// both have crashed.
#[test]
fn a_flush_at_the_owner_covers_what_the_partner_acknowledged() {
    assert_eq!(flush_in_a_pair(&[]), (false, NEW));
    assert_eq!(flush_in_a_pair(&[Bug::FlushMissesUnconfirmed]), (true, OLD), "flushed, and gone");
}

/// The partner crashes instead, with the confirmation on its way; the owner goes on alone, the flush ends, and it
/// crashes and restarts, too.
fn flush_over_a_takeover(bugs: &[Bug]) -> (bool, u8) {
    let (mut pair, flush) = a_flush_behind_an_acknowledged_write(bugs);
    pair.crash(B);
    pair.until_phase(A, PeerPhase::Alone);
    let early = was_early(&mut pair, flush);
    pair.crash(A);
    pair.start(A);
    pair.until_phase(A, PeerPhase::Alone);
    (early, pair.read(A, 0))
}

/// The same when the flush begins in the pair and ends without it: what was sent to the partner comes into the cache
/// with the takeover, later than the flush was asked for, and the flush covers it.
#[test]
fn a_flush_that_ends_after_a_takeover_covers_what_the_partner_acknowledged() {
    assert_eq!(flush_over_a_takeover(&[]), (false, NEW));
    assert_eq!(flush_over_a_takeover(&[Bug::FlushMissesUnconfirmed]), (true, OLD), "flushed, and gone");
}

/// A flush waits for the confirmations of two writes. When the last has come the owner's disk gets them at once, though
/// the partner's word on the flush is on its way, and nothing else happens here.
#[test]
fn a_flush_goes_on_with_the_last_confirmation() {
    let mut pair = Pair::with(&[]);
    for block in 0..2 {
        pair.write(A, block, OLD).expect("written");
    }
    pair.flush(A).expect("flushed");
    pair.hold(A, |body| said::write_done(body) || said::flush_done(body));
    let writes = [0, 1].map(|block| pair.begin_write(A, block, NEW));
    let flush = pair.ask(A, Command::Flush);
    pair.deliver(A);
    assert!(pair.is_acknowledged(writes[0]) && pair.is_open(writes[1]));
    pair.deliver(A);
    assert!(pair.is_acknowledged(writes[1]) && pair.is_open(flush));
    assert!(pair.is_on_disk(A, NEW));
    pair.release(A);
    pair.finish(flush).expect("flushed");
}
