//! A node against a hand-made other end that knows the greeting.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use twinsan::block::{BLOCK_BYTES, PagePool, Payload, payload_from};
use twinsan::ids::{BootId, Epoch, NodeName, Uuid, VolumeId};
use twinsan::mirror::message::{Body, Control, Message, PROTOCOL_VERSION};
use twinsan::mirror::wire::{Encoder, Salt};
use twinsan::runtime::{Inbox, Transport};
use twinsan::time::Instant;

use crate::connection::{Caps, Connection, When};
use crate::greeting::{self, GREETING_BYTES, GreetingBytes};
use crate::{LinkConfig, Notice, Refusal, TcpLink};

#[path = "../tests/common/wait.rs"]
mod wait;

use wait::wait_until;

#[derive(Default)]
struct Ear(Mutex<Vec<String>>);

impl Ear {
    fn wait_for(&self, count: usize) -> Vec<String> {
        wait_until("so much is heard", || self.0.lock().len() >= count);
        self.0.lock().clone()
    }
}

impl Inbox for Ear {
    fn link_up(&self, link: u64) {
        self.0.lock().push(format!("up {link}"));
    }
    fn link_down(&self, link: u64) {
        self.0.lock().push(format!("down {link}"));
    }
    fn message(&self, link: u64, message: Message) {
        self.0.lock().push(format!("{link} {:?}", message.body));
    }
}

fn config(node: NodeName, boot: u64, address: SocketAddr) -> LinkConfig {
    LinkConfig::new(node, Uuid(5), BootId(boot), address, PagePool::new())
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

type Told = Arc<Mutex<Vec<Notice>>>;

fn node(config: LinkConfig) -> (TcpLink, Arc<Ear>, Told) {
    let told = Told::default();
    let tell = Arc::clone(&told);
    let link =
        TcpLink::new(LinkConfig { notices: Arc::new(move |notice| tell.lock().push(notice)), ..config })
            .unwrap();
    let ear = Arc::new(Ear::default());
    link.open(Arc::clone(&ear) as Arc<dyn Inbox>);
    (link, ear, told)
}

/// Greets node `a` as `b`; the stream, its greeting and the answer.
fn greet_a(a: &TcpLink, boot: u64, number: u64) -> (TcpStream, GreetingBytes, GreetingBytes) {
    let mut stream = TcpStream::connect(a.address()).unwrap();
    let mine = greeting::greet(&config(NodeName::B, boot, a.address()), number);
    stream.write_all(&mine).unwrap();
    let mut theirs = [0; GREETING_BYTES];
    stream.read_exact(&mut theirs).unwrap();
    (stream, mine, theirs)
}

fn frame(salt: Salt) -> Vec<u8> {
    let mut encoder = Encoder::new(salt);
    encoder.push(Message::control(Control::Go { epoch: Epoch(4) })).unwrap();
    encoder.slices().iter().flat_map(|slice| slice.to_vec()).collect()
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_newer_attempt_replaces_the_link_and_an_older_one_is_refused() {
    let (a, ear, _) = node(config(NodeName::A, 1, any_port()));
    let (mut first, ..) = greet_a(&a, 7, 5);
    ear.wait_for(1);
    let (mut late, _, theirs) = greet_a(&a, 7, 4);
    let b = config(NodeName::B, 7, a.address());
    assert_eq!(greeting::read(&b, &theirs), Err(Refusal::Stale));
    assert!(is_closed(&mut late));
    let (newer, ..) = greet_a(&a, 7, 6);
    assert!(is_closed(&mut first));
    assert_eq!(ear.wait_for(3), ["up 1", "down 1", "up 2"]);
    // Another life of the partner begins to count anew.
    let (_again, ..) = greet_a(&a, 8, 1);
    assert_eq!(ear.wait_for(5)[3..], ["down 2", "up 3"]);
    drop(newer);
    a.stop();
}

#[test]
fn a_frame_is_taken_only_with_the_salt_of_its_connection_and_direction() {
    let (a, ear, _) = node(config(NodeName::A, 1, any_port()));
    let (mut good, mine, theirs) = greet_a(&a, 7, 1);
    let send = greeting::salts(&mine, &theirs).0;
    good.write_all(&frame(send)).unwrap();
    assert_eq!(ear.wait_for(2)[1], "1 Control(Go { epoch: Epoch(4) })");
    // One recorded on the first connection; then one of the other direction, as if reflected.
    let (mut replayed, ..) = greet_a(&a, 7, 2);
    replayed.write_all(&frame(send)).unwrap();
    assert!(is_closed(&mut replayed));
    let (mut reflected, mine, theirs) = greet_a(&a, 7, 3);
    reflected.write_all(&frame(greeting::salts(&mine, &theirs).1)).unwrap();
    assert!(is_closed(&mut reflected));
    let heard = ear.wait_for(7);
    assert_eq!(heard.iter().filter(|line| line.contains("Go")).count(), 1);
    a.stop();
}

#[test]
fn another_version_is_refused_in_words_that_both_understand() {
    let (a, ear, told) = node(config(NodeName::A, 1, any_port()));
    let b = config(NodeName::B, 7, a.address());
    let mut stream = TcpStream::connect(a.address()).unwrap();
    stream.write_all(&greeting::of_version(&b, 9)).unwrap();
    let mut answer = [0; GREETING_BYTES];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(greeting::read(&b, &answer), Err(Refusal::Version(0)));
    wait_until("something is told", || !told.lock().is_empty());
    let text = told.lock()[0].to_string();
    assert!(text.contains("version 9") && text.contains("install"), "{text}");
    assert!(ear.0.lock().is_empty());
    a.stop();
}

/// Node `b` calls somebody who answers with `answer` and keeps the line open.
fn called(answer: Vec<u8>) -> (Vec<String>, Vec<Notice>) {
    let listener = TcpListener::bind(any_port()).unwrap();
    let (b, ear, told) = node(config(NodeName::B, 7, listener.local_addr().unwrap()));
    let (mut stream, _) = listener.accept().unwrap();
    // The other end may hang up in mid-answer.
    let _ = stream.write_all(&answer);
    wait_until("it is refused, or dropped", || {
        let told = told.lock();
        told.iter().any(|notice| !matches!(notice, Notice::Up { .. }))
    });
    b.stop();
    let told = told.lock().clone();
    (ear.0.lock().clone(), told)
}

/// A version that there is not.
const LATER: u16 = PROTOCOL_VERSION + 1;

#[test]
fn a_foreign_listener_gets_nothing() {
    let a = |boot| config(NodeName::A, boot, any_port());
    let foreign = LinkConfig { partnership: Uuid(6), ..a(1) };
    let cases = [
        (vec![0xff; 64 * 1024], Refusal::NoGreeting),
        (b"220 mail.example ESMTP\r\n".to_vec(), Refusal::NoGreeting),
        (b"TWINSANm".to_vec(), Refusal::NoGreeting),
        (greeting::greet(&foreign, 1).to_vec(), Refusal::Partnership),
        (greeting::greet(&config(NodeName::B, 1, any_port()), 1).to_vec(), Refusal::SameNode(NodeName::B)),
        (greeting::of_version(&a(1), LATER).to_vec(), Refusal::Version(LATER)),
    ];
    for (answer, expected) in cases {
        let (heard, told) = called(answer);
        assert!(heard.is_empty(), "{heard:?}");
        assert!(matches!(told[0], Notice::Refused { refusal, .. } if refusal == expected), "{told:?}");
    }
}

#[test]
fn a_partner_that_sends_rubbish_after_a_good_greeting_is_dropped() {
    let good = greeting::greet(&config(NodeName::A, 1, any_port()), 1).to_vec();
    let (heard, told) = called([good, vec![0x55; 100_000]].concat());
    assert_eq!(heard, ["up 1", "down 1"]);
    assert!(matches!(&told[1], Notice::Down { reason, .. } if reason.contains("damaged")), "{told:?}");
}

#[test]
fn only_what_is_due_leaves_before_the_end_of_a_burst() {
    let listener = TcpListener::bind(any_port()).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (partner, _) = listener.accept().unwrap();
    partner.set_nonblocking(true).unwrap();
    let arrived = || {
        let mut buffer = vec![0; 1 << 20];
        (&partner).read(&mut buffer).unwrap_or(0)
    };
    let caps = Caps { bytes: 1 << 20, messages: 1_000 };
    let connection = Connection::new(1, stream, Salt(0), caps);
    let pool = PagePool::new();
    let done = |order| {
        let body = Body::WriteDone { epoch: Epoch(1), volume: VolumeId(1), order, stored: true };
        Message { body, data: Payload::new() }
    };

    connection.send(done(1));
    connection.flush(When::Due);
    assert_eq!(arrived(), 0, "more is to come");
    connection.flush(When::Now);
    wait_until("the end of a burst sends it", || arrived() > 0);

    connection.send(done(2));
    connection.send(Message::control(Control::Probe { epoch: Epoch(1), sent: Instant::ZERO }));
    connection.flush(When::Due);
    wait_until("an urgent message takes the others with it", || arrived() > 0);

    let body = Body::Write {
        epoch: Epoch(1),
        volume: VolumeId(1),
        order: 3,
        first: 0,
        blocks: 16,
        zero: false,
        carried: true,
        origin: None,
    };
    connection.send(Message { body, data: payload_from(&pool, &[7; 16 * BLOCK_BYTES]) });
    connection.flush(When::Due);
    wait_until("the partner had better begin", || arrived() >= BLOCK_BYTES);
}
