//! Strangers: none is served, and none keeps the others from being served.

use std::io::Write;
use std::net::TcpStream;

use twinsan::arbiter::Arbiter;

use super::*;
use crate::connections::{CONNECTIONS_MAX, LOGIN_WITHIN, STRANGERS_MAX};
use crate::message::{self, of_version};
use crate::{PARTNERSHIPS_MAX, Refusal};

fn was_told(at: &At, refusal: Refusal) {
    let told = |notice: &Notice| matches!(notice, Notice::Refused { refusal: told, .. } if *told == refusal);
    wait_until("a refusal is told", || at.told.lock().iter().any(told));
}

#[test]
fn a_wrong_secret_and_an_unknown_partnership_get_the_same_answer_and_nothing_else() {
    for (partnership, secret) in [(OURS, secret_of(THEIRS)), (Uuid(5), secret_of(Uuid(5)))] {
        let place = Place::new();
        let at = place.serve();
        let error = at.asker(partnership, &secret).ask(swap(None, NodeName::A)).unwrap_err().to_string();
        assert!(error.contains("no such partnership, or another secret"), "{error}");
        was_told(&at, Refusal::Unproved);
        assert_eq!(at.ours().ask(Ask::Read).unwrap().register, None, "nothing was changed");
        let files = std::fs::read_dir(place.0.join("deep/registers")).unwrap().flatten();
        let names: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
        assert!(names.iter().all(|name| name.starts_with("witness") || name.contains("abcd")), "{names:?}");
    }
}

#[test]
fn another_version_is_refused_in_words_that_both_understand() {
    let place = Place::new();
    let at = place.serve();
    let mut stream = TcpStream::connect(at.server.address()).unwrap();
    stream.write_all(&of_version(9)).unwrap();
    assert_eq!(message::read_challenge(&heard(&mut stream)), Err(Refusal::Version(0)));
    assert!(until_closed(&mut stream).is_empty());
    was_told(&at, Refusal::Version(9));
}

#[test]
fn garbage_is_not_answered() {
    let place = Place::new();
    let at = place.serve();
    let good = Hello { partnership: OURS, nonce: [1; 16], asker: 1, attempt: 1 }.encode();
    let mut damaged = good;
    damaged[20] ^= 1;
    let inputs =
        [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 100_000], b"TWINSANm".to_vec(), damaged.to_vec()];
    for input in inputs {
        let mut stream = TcpStream::connect(at.server.address()).unwrap();
        // It may be closed in the middle.
        let _ = stream.write_all(&input);
        assert!(until_closed(&mut stream).is_empty());
    }
    was_told(&at, Refusal::Garbage);
}

#[test]
fn a_recorded_login_is_of_no_use() {
    let place = Place::new();
    let at = place.serve();
    let (mut stream, asker) = at.greet(1, 1);
    let question = asker.ask(swap(None, NodeName::A));
    stream.write_all(&question).unwrap();
    heard(&mut stream);
    // The same messages again, and the question once more where it was good.
    let mut replayed = TcpStream::connect(at.server.address()).unwrap();
    replayed.write_all(&Hello { partnership: OURS, nonce: [9; 16], asker: 1, attempt: 1 }.encode()).unwrap();
    heard(&mut replayed);
    replayed.write_all(&question).unwrap();
    stream.write_all(&question).unwrap();
    for stream in [&mut replayed, &mut stream] {
        let answer: Bytes = until_closed(stream).try_into().unwrap();
        assert_eq!(message::read_refusal(&answer), Some(Refusal::Unproved));
    }
    assert_eq!(at.told.lock().iter().filter(|notice| matches!(notice, Notice::Swapped { .. })).count(), 1);
}

#[test]
fn of_one_asker_only_the_newest_connection_is_heard() {
    let place = Place::new();
    let at = place.serve();
    let (mut first, mut of_first) = at.greet(1, 1);
    let (mut late, of_late) = at.greet(1, 1);
    let mut ask = |stream: &mut TcpStream| {
        stream.write_all(&of_first.ask(Ask::Read)).unwrap();
        of_first.answered(&heard(stream)).unwrap().unwrap()
    };
    ask(&mut first);
    let (mut newer, of_newer) = at.greet(1, 2);
    ask(&mut first);
    newer.write_all(&of_newer.ask(Ask::Read)).unwrap();
    heard(&mut newer);
    assert!(until_closed(&mut first).is_empty(), "ended by the newer");
    let (mut later, of_later) = at.greet(1, 1);
    later.write_all(&of_later.ask(swap(None, NodeName::A))).unwrap();
    let answer: Bytes = until_closed(&mut later).try_into().unwrap();
    assert_eq!(message::read_refusal(&answer), Some(Refusal::Stale));
    // A question that was on its way when the asker had given up finds nobody, even when the newer connection is closed.
    drop(newer);
    let _ = late.write_all(&of_late.ask(swap(None, NodeName::A)));
    assert!(until_closed(&mut late).is_empty(), "ended by the newer, before it asked");
    assert_eq!(at.ours().ask(Ask::Read).unwrap().register, None, "it was not carried out");
}

#[test]
fn a_flood_of_strangers_costs_a_bounded_number_of_places_and_nobody_else_waits() {
    let place = Place::new();
    let at = place.serve();
    let ours = at.ours();
    ours.ask(Ask::Read).unwrap();
    let connect = || TcpStream::connect(at.server.address()).unwrap();
    let mut silent: Vec<TcpStream> = (0..300).map(|_| connect()).collect();
    let mut slow: Vec<TcpStream> = (0..100).map(|_| connect()).collect();
    for stream in &mut slow {
        let _ = stream.write_all(b"TWINSANw");
    }
    let begun = Instant::now();
    ours.ask(Ask::Read).unwrap();
    at.ours().ask(Ask::Read).unwrap();
    assert!(begun.elapsed() < LOGIN_WITHIN, "{:?}", begun.elapsed());
    // All but the newest are closed for newer ones; those when their time is over.
    let crowd = silent.len() + slow.len();
    for stream in silent.iter_mut().take(crowd - STRANGERS_MAX - 100) {
        assert!(until_closed(stream).is_empty());
    }
    for stream in silent.iter_mut().chain(&mut slow) {
        assert!(until_closed(stream).is_empty());
    }
    was_told(&at, Refusal::Silent);
    ours.ask(Ask::Read).unwrap();
}

#[test]
fn strangers_do_not_push_out_whoever_has_named_a_partnership() {
    let place = Place::new();
    let at = place.serve();
    let (mut stream, mut asker) = at.greet(1, 1);
    let strangers: Vec<_> =
        (0..STRANGERS_MAX * 3).map(|_| TcpStream::connect(at.server.address()).unwrap()).collect();
    // The last is in when one that came after it has been answered.
    drop(at.greet(2, 1));
    stream.write_all(&asker.ask(Ask::Read)).unwrap();
    assert!(asker.answered(&heard(&mut stream)).unwrap().is_ok());
    drop(strangers);
}

#[test]
fn a_partnership_has_a_bounded_number_of_connections_and_the_idlest_goes() {
    let place = Place::new();
    let at = place.serve();
    let mut open = Vec::new();
    for number in 0..CONNECTIONS_MAX as u64 + 1 {
        let (mut stream, mut asker) = at.greet(number, 1);
        stream.write_all(&asker.ask(Ask::Read)).unwrap();
        asker.answered(&heard(&mut stream)).unwrap().unwrap();
        open.push((stream, asker));
        let (first, of_first) = &mut open[0];
        first.write_all(&of_first.ask(Ask::Read)).unwrap();
        of_first.answered(&heard(first)).unwrap().unwrap();
    }
    assert!(until_closed(&mut open[1].0).is_empty(), "the second was idle longest");
    for (at, (stream, asker)) in open.iter_mut().enumerate().filter(|(at, _)| *at != 1) {
        stream.write_all(&asker.ask(Ask::Read)).unwrap();
        assert!(asker.answered(&heard(stream)).is_ok(), "connection {at}");
    }
}

/// 63 connections hold their places by a kept partnership's name. A node and a stranger come so close together that both
/// are there when the witness looks.
#[test]
fn a_hello_that_has_come_is_read_before_the_next_newcomer_takes_a_place() {
    let place = Place::new();
    let at = place.serve();
    let named: Vec<_> = (1..STRANGERS_MAX as u64).map(|asker| at.greet(asker, 1)).collect();
    let (mut busy, asker) = at.greet(1000, 1);
    // The witness waits here until it may tell what it did.
    let held = at.told.lock();
    busy.write_all(&asker.ask(swap(None, NodeName::A))).unwrap();
    let file = place.0.join("deep/registers").join(format!("{:032x}.register", OURS.0));
    wait_until("the register is written", || file.exists());
    let mut node = TcpStream::connect(at.server.address()).unwrap();
    node.write_all(&Hello { partnership: OURS, nonce: [1; 16], asker: 2000, attempt: 1 }.encode()).unwrap();
    let stranger = TcpStream::connect(at.server.address()).unwrap();
    drop(held);
    assert!(message::read_challenge(&heard(&mut node)).is_ok());
    drop((named, stranger));
}

/// Its owner's own code panics, for want of anything else that does.
#[test]
fn a_witness_that_panics_tells_its_owner_and_lets_go_of_everything() {
    let place = Place::new();
    let (tell, told) = std::sync::mpsc::channel();
    let server = Server::start(ServerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        directory: place.0.join("deep/registers"),
        secrets: BTreeMap::from([(OURS, secret_of(OURS))]),
        notices: Arc::new(move |notice| match notice {
            Notice::Ended { reason } => tell.send(reason).unwrap(),
            notice => panic!("{notice}"),
        }),
    })
    .unwrap();
    let ours = asker(&server.address().to_string(), OURS, &secret_of(OURS));
    assert!(ours.ask(swap(None, NodeName::A)).is_err());
    let reason = told.recv_timeout(Duration::from_secs(15)).unwrap();
    assert!(reason.contains("has panicked"), "{reason}");
    // What was to be told is durable.
    let at = place.try_serve(server.address()).unwrap();
    assert_eq!(at.ours().ask(Ask::Read).unwrap().register, Some(next(None, NodeName::A)));
    server.stop();
}

#[test]
fn two_witnesses_do_not_share_a_directory() {
    let place = Place::new();
    let first = place.serve();
    let error = place.try_serve("127.0.0.1:0".parse().unwrap()).err().unwrap().to_string();
    assert!(error.contains("in use by another witness"), "{error}");
    first.server.stop();
    drop(place.serve());
}

#[test]
fn what_cannot_begin_says_why() {
    let place = Place::new();
    let at = place.serve();
    let other = Place::new();
    let error = other.try_serve(at.server.address()).err().unwrap().to_string();
    assert!(error.contains("cannot listen on 127.0.0.1"), "{error}");
    let secrets = (0..=PARTNERSHIPS_MAX as u128).map(|uuid| (Uuid(uuid), secret_of(OURS))).collect();
    let config = ServerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        directory: other.0.clone(),
        secrets,
        notices: Arc::new(|_| {}),
    };
    assert!(matches!(Server::start(config), Err(WitnessError::TooMany(257))));
    std::fs::write(other.0.join("file"), b"").unwrap();
    let config = ServerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        directory: other.0.join("file"),
        secrets: BTreeMap::new(),
        notices: Arc::new(|_| {}),
    };
    let error = Server::start(config).err().unwrap().to_string();
    assert!(error.contains("name a directory"), "{error}");
}
