//! How many sessions one initiator may have: with each target, and for discovery.

use std::sync::Arc;

use parking_lot::Mutex;

use super::super::bench::{Answer, Bench, HOST, OTHER, Pdu, answers};
use crate::refusals::RefusalReason;

const OUT_OF_RESOURCES: [u8; 2] = [3, 2];

type Told = Arc<Mutex<Vec<RefusalReason>>>;

/// Two sessions are allowed; and what the operator is told.
fn narrow() -> (Bench, Told) {
    let told = Told::default();
    let tell = Arc::clone(&told);
    let bench = Bench::configured(|config| {
        config.initiator_sessions_max = 2;
        config.refused = Arc::new(move |login| tell.lock().push(login.reason));
    });
    (bench, told)
}

fn status(found: &[Answer]) -> &[u8] {
    &found[0].head[36..38]
}

fn discover(bench: &mut Bench) -> (usize, Vec<Answer>) {
    let link = bench.drive.connect();
    let text = format!("InitiatorName={HOST}\0SessionType=Discovery\0");
    let found = bench.ask(link, &Pdu::new(0x43, 0x87, 1).data(text.as_bytes()));
    (link, found)
}

#[test]
fn one_session_too_many_is_refused_and_the_others_go_on() {
    let (mut bench, told) = narrow();
    let first = bench.login(HOST, 1, "").0;
    let second = bench.login(HOST, 2, "").0;
    let (third, found) = bench.login(&HOST.to_uppercase(), 3, "");
    assert_eq!((found.len(), status(&found)), (1, &OUT_OF_RESOURCES[..]), "a name has no case");
    assert!(bench.drive.get(third).is_none());
    assert_eq!(*told.lock(), [RefusalReason::Crowded]);
    // The other host, and discovery, have their own.
    assert_eq!(status(&bench.login(OTHER, 1, "").1), [0, 0]);
    assert_eq!(status(&discover(&mut bench).1), [0, 0]);
    bench.cmd_sn = 1;
    assert_eq!(bench.read(first, 3, 0, 1)[0].data, [0; 512]);
    bench.cmd_sn = 1;
    // Who logs out makes room.
    assert_eq!(bench.ask(second, &Pdu::new(0x46, 0x80, 60).word(24, 1))[0].opcode(), 0x26);
    assert_eq!(status(&bench.login(HOST, 3, "").1), [0, 0]);
    assert_eq!(status(&bench.login(HOST, 4, "").1), OUT_OF_RESOURCES);
}

/// A host that lost its connections comes back with the same ISIDs while the target still takes them for open.
#[test]
fn a_session_that_begins_again_is_not_one_more() {
    let (mut bench, told) = narrow();
    let old = bench.session();
    bench.login(HOST, 2, "");
    {
        let mut hand = bench.volume.state.lock();
        (hand.hold, hand.hold_aborts) = (true, true);
    }
    assert!(bench.write(old, 21, 0, &[1; 512]).is_empty());
    bench.cmd_sn = 1;
    let (new, found) = bench.login(HOST, 1, "");
    assert!(found.is_empty(), "the old write may still act");
    assert_eq!(status(&bench.login(HOST, 3, "").1), OUT_OF_RESOURCES, "the one that waits counts");
    bench.volume.give_up();
    bench.drive.deliver();
    assert_eq!(status(&answers(&bench.drive.drain(new))), [0, 0]);
    assert_eq!(*told.lock(), [RefusalReason::Crowded]);
}

#[test]
fn discovery_has_an_end_too() {
    let (mut bench, _) = narrow();
    let first = discover(&mut bench).0;
    assert_eq!(status(&discover(&mut bench).1), [0, 0]);
    let (third, found) = discover(&mut bench);
    assert_eq!(status(&found), OUT_OF_RESOURCES);
    assert!(bench.drive.get(third).is_none());
    bench.drive.get(first).expect("open").hang_up();
    bench.drive.deliver();
    assert_eq!(status(&discover(&mut bench).1), [0, 0]);
}
