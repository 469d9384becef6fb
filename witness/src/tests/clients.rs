//! Askers that know the secret, and what can happen on their way to the witness.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;

use proptest::prelude::*;
use twinsan::arbiter::{Answer, Arbiter};

use super::*;

#[test]
fn each_partnership_has_a_register_that_survives_the_witness() {
    let place = Place::new();
    let at = place.serve();
    let (ours, theirs) = (at.ours(), at.asker(THEIRS, &secret_of(THEIRS)));
    assert_eq!(ours.ask(Ask::Read).unwrap(), Answer { swapped: false, register: None });
    let first = next(None, NodeName::A);
    assert_eq!(ours.ask(swap(None, NodeName::A)).unwrap(), Answer { swapped: true, register: Some(first) });
    assert_eq!(ours.ask(swap(None, NodeName::B)).unwrap(), Answer { swapped: false, register: Some(first) });
    assert_eq!(theirs.ask(Ask::Read).unwrap().register, None);
    assert_eq!(*at.told.lock(), [Notice::Swapped { partnership: OURS, register: first }]);
    at.server.stop();

    // A file of its own for each, in the form of any other register.
    let file = place.0.join("deep/registers").join(format!("{:032x}.register", OURS.0));
    assert_eq!(twinsan::backend::FileArbiter::new(file, OURS).ask(Ask::Read).unwrap().register, Some(first));
    let at = place.serve();
    assert_eq!(at.ours().ask(Ask::Read).unwrap().register, Some(first));
}

#[test]
fn a_connection_is_kept_and_replaced_when_the_witness_comes_back() {
    let place = Place::new();
    let at = place.serve();
    let address = at.server.address();
    let ours = at.ours();
    for _ in 0..3 {
        ours.ask(Ask::Read).unwrap();
    }
    assert!(format!("{ours:?}").contains("1 connections so far"), "{ours:?}");
    at.server.stop();
    let error = ours.ask(Ask::Read).unwrap_err().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
    let at = place.try_serve(address).unwrap();
    ours.ask(Ask::Read).unwrap();
    assert!(format!("{ours:?}").contains("2 connections so far"), "{ours:?}");
    assert!(at.told.lock().is_empty());
}

/// The end of a kept connection is noticed before it is used, so not even one question is lost.
#[test]
fn a_witness_that_was_restarted_answers_the_next_question() {
    let place = Place::new();
    let at = place.serve();
    let (address, ours) = (at.server.address(), at.ours());
    ours.ask(swap(None, NodeName::A)).unwrap();
    at.server.stop();
    let at = place.try_serve(address).unwrap();
    let first = next(None, NodeName::A);
    assert!(ours.ask(swap(Some(first), NodeName::B)).unwrap().swapped);
    drop(at);
}

#[test]
fn an_ask_ends_in_time_whatever_the_other_end_does() {
    let within = Duration::from_millis(300);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let (silent_at, slow_at) = (silent.local_addr().unwrap(), slow.local_addr().unwrap());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let drip: JoinHandle<()> = thread::spawn(move || {
        let (mut stream, _) = slow.accept().unwrap();
        // A byte every now and then, for as long as somebody listens.
        while stopped.recv_timeout(Duration::from_millis(50)).is_err() && stream.write_all(b"T").is_ok() {}
    });
    for address in [silent_at, slow_at] {
        let config = WitnessConfig {
            address: address.to_string(),
            partnership: OURS,
            secret: secret_of(OURS),
            within,
        };
        let begun = Instant::now();
        let error = Witness::new(config).unwrap().ask(Ask::Read).unwrap_err().to_string();
        assert!(error.contains("no answer in time"), "{error}");
        assert!(begun.elapsed() >= within && begun.elapsed() < within * 10, "{:?}", begun.elapsed());
    }
    drop(stop);
    drip.join().unwrap();
}

#[test]
fn a_witness_that_is_not_one_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answers = [
        (vec![0xff; 4096], "not of this protocol"),
        (b"220 mail.example ESMTP".to_vec(), "the connection ended"),
        (crate::message::of_version(3).to_vec(), "version 3"),
        (crate::message::refuse(crate::Refusal::Version(0)).unwrap().to_vec(), "is not taken there"),
        (Vec::new(), "the connection ended"),
    ];
    for (answer, expected) in answers {
        let (ours, listener) = (asker(&address, OURS, &secret_of(OURS)), listener.try_clone().unwrap());
        let answers = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            heard(&mut stream);
            stream.write_all(&answer).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            until_closed(&mut stream);
        });
        let error = ours.ask(Ask::Read).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        drop(ours);
        answers.join().unwrap();
    }
}

/// Answers that were held, and where they belong.
type Held = Mutex<Vec<(Vec<u8>, TcpStream)>>;

/// Passes connections on to a witness. What comes back of one is kept until it is released.
struct Proxy {
    address: SocketAddr,
    hold: Arc<Mutex<bool>>,
    held: Arc<Held>,
}

impl Proxy {
    fn new(to: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy =
            Proxy { address: listener.local_addr().unwrap(), hold: Arc::default(), held: Arc::default() };
        let (hold, held) = (Arc::clone(&proxy.hold), Arc::clone(&proxy.held));
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let far = TcpStream::connect(to).unwrap();
                let (mut from, mut onto) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                thread::spawn(move || drop(std::io::copy(&mut from, &mut onto)));
                let (hold, held) = (Arc::clone(&hold), Arc::clone(&held));
                thread::spawn(move || pass_back(far, near, &hold, &held));
            }
        });
        proxy
    }
}

fn pass_back(mut from: TcpStream, mut onto: TcpStream, hold: &Mutex<bool>, held: &Held) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let come = &bytes[..count];
        if *hold.lock() {
            held.lock().push((come.to_vec(), onto.try_clone().unwrap()));
        } else if onto.write_all(come).is_err() {
            return;
        }
    }
    let _ = onto.shutdown(Shutdown::Both);
}

#[test]
fn a_lost_answer_is_an_error_and_is_not_taken_for_a_later_one() {
    let place = Place::new();
    let at = place.serve();
    let proxy = Proxy::new(at.server.address());
    let within = Duration::from_millis(500);
    let config = WitnessConfig {
        address: proxy.address.to_string(),
        partnership: OURS,
        secret: secret_of(OURS),
        within,
    };
    let ours = Witness::new(config).unwrap();
    assert_eq!(ours.ask(Ask::Read).unwrap().register, None);
    *proxy.hold.lock() = true;
    let error = ours.ask(swap(None, NodeName::A)).unwrap_err().to_string();
    assert!(error.contains("no answer in time"), "{error}");
    wait_until("the answer is held", || !proxy.held.lock().is_empty());
    *proxy.hold.lock() = false;
    for (bytes, mut onto) in proxy.held.lock().drain(..) {
        // Its end is closed: the answer finds nobody.
        let _ = onto.write_all(&bytes);
    }
    // The swap was done, as the next answer shows.
    let first = next(None, NodeName::A);
    assert_eq!(ours.ask(swap(None, NodeName::B)).unwrap(), Answer { swapped: false, register: Some(first) });
    assert_eq!(ours.ask(Ask::Read).unwrap(), Answer { swapped: false, register: Some(first) });
}

#[test]
fn a_register_that_cannot_be_kept_is_an_error_and_is_told() {
    let place = Place::new();
    let at = place.serve();
    let file = place.0.join("deep/registers").join(format!("{:032x}.register", OURS.0));
    std::fs::write(&file, [0; 64]).unwrap();
    let ours = at.ours();
    for _ in 0..2 {
        let error = ours.ask(Ask::Read).unwrap_err().to_string();
        assert!(error.contains("its log says why"), "{error}");
    }
    let told = at.told.lock().iter().map(Notice::to_string).collect::<String>();
    assert!(told.contains("damaged") && told.contains("stop both nodes"), "{told}");
    assert_eq!(std::fs::read(&file).unwrap(), [0; 64], "damage is left alone");
    // The other partnership does not suffer.
    assert!(at.asker(THEIRS, &secret_of(THEIRS)).ask(Ask::Read).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Anything, and anything that begins well.
    #[test]
    fn no_bytes_are_taken_for_a_question_or_an_answer(
        bytes in proptest::collection::vec(any::<u8>(), 0..4 * MESSAGE_BYTES),
        small in proptest::collection::vec(0u8..4, MESSAGE_BYTES),
        (at, bit) in (0..MESSAGE_BYTES, 0..8),
    ) {
        crate::exercise(&bytes);
        crate::exercise(&small);
        let hello = Hello { partnership: Uuid(7), nonce: [1; 16], asker: 1, attempt: 1 };
        let mut input = [hello.encode(), crate::message::challenge([2; 16])].concat();
        crate::exercise(&input);
        input.extend_from_slice(&bytes);
        input[at] ^= 1u8 << bit;
        crate::exercise(&input);
    }
}
