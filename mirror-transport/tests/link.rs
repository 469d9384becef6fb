//! Two links over real sockets: how they meet, exchange, part, and meet again.

mod common;

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use twinsan::ids::NodeName;
use twinsan::runtime::{Inbox, Transport};
use twinsan_mirror::{LinkConfig, LinkError, Notice, TcpLink};

#[test]
fn messages_arrive_in_order_and_whole() {
    let (a, b) = pair();
    let (link_a, link_b) = (a.ear.wait_up(), b.ear.wait_up());
    for round in 0..50 {
        let sizes = [1, 1, 3, 16, 17, 0, 64, 100];
        a.send(link_a, sizes.iter().enumerate().map(|(n, blocks)| a.write(round * 8 + n as u64, *blocks)));
        b.send(link_b, [b.write(round, 2)]);
    }
    b.ear.wait_writes(400);
    a.ear.wait_writes(50);
    assert_eq!(b.ear.writes(), (0..400).collect::<Vec<_>>());
    assert_eq!(a.ear.writes(), (0..50).collect::<Vec<_>>());
}

#[test]
fn it_does_not_matter_which_starts_first() {
    let address = TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
    let b = End::new(config(NodeName::B, address));
    wait_until("b has found nobody", || b.was_told(|notice| matches!(notice, Notice::Unreachable { .. })));
    let a = End::new(config(NodeName::A, address));
    let begun = Instant::now();
    a.ear.wait_up();
    b.ear.wait_up();
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_link_that_was_dropped_comes_again_with_a_higher_number() {
    let (a, b) = pair();
    let mut last = (a.ear.wait_up(), b.ear.wait_up());
    for round in 0..10 {
        let end = if round % 2 == 0 { &a } else { &b };
        let link = if round % 2 == 0 { last.0 } else { last.1 };
        end.link.disconnect(link);
        end.link.disconnect(link);
        last = (a.ear.wait_up_after(last.0), b.ear.wait_up_after(last.1));
        a.send(last.0 - 1, [a.write(99, 1)]);
        a.send(last.0, [a.write(round, 1)]);
        b.ear.wait_writes(round as usize + 1);
    }
    assert_eq!(b.ear.writes(), (0..10).collect::<Vec<_>>(), "what is sent on an old link goes nowhere");
}

#[test]
fn a_partner_that_stops_is_noticed_at_once() {
    let (a, b) = pair();
    let link = a.ear.wait_up();
    b.ear.wait_up();
    let begun = Instant::now();
    b.link.stop();
    a.ear.wait_down(link);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(a.was_told(|notice| matches!(notice, Notice::Down { .. })));
}

/// Not a test of its own: the process that [`a_partner_that_is_killed_is_noticed_at_once`] kills: node b, until it dies.
#[test]
fn partner_process() {
    let Ok(address) = std::env::var("TWINSAN_TEST_PARTNER") else { return };
    let b = End::new(config(NodeName::B, address.parse().unwrap()));
    let link = b.ear.wait_up();
    for order in 0.. {
        b.send(link, [b.write(order, 1)]);
        if order % 64 == 0 {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_partner_that_is_killed_is_noticed_at_once() {
    let a = End::new(config(NodeName::A, any_port()));
    let mut partner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "partner_process"])
        .env("TWINSAN_TEST_PARTNER", a.link.address().to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let link = a.ear.wait_up();
    a.ear.wait_writes(500);
    partner.kill().unwrap();
    let begun = Instant::now();
    a.ear.wait_down(link);
    let noticed = begun.elapsed();
    partner.wait().unwrap();
    println!("killed partner noticed after {noticed:?}");
    assert!(noticed < Duration::from_secs(1));
    let writes = a.ear.writes();
    assert!(writes.iter().enumerate().all(|(index, order)| index as u64 == *order), "a gap or damage");
}

#[test]
fn an_urgent_message_overtakes_a_long_queue() {
    const WRITES: u64 = 400;
    let (a, b) = pair();
    let link = a.ear.wait_up();
    b.ear.wait_up();
    b.ear.hold();
    a.send(link, (0..WRITES).map(|order| a.write(order, 64)));
    a.send(link, [probe(1)]);
    b.ear.release();
    b.ear.wait_writes(WRITES as usize);
    let heard = b.ear.heard();
    let place = heard.iter().position(|heard| *heard == Heard::Probe(1)).unwrap();
    println!("probe came after {place} of {WRITES} writes of 256 KiB");
    assert!(place < WRITES as usize / 2);
    assert_eq!(b.ear.writes(), (0..WRITES).collect::<Vec<_>>());
}

#[test]
fn a_partner_that_does_not_read_costs_the_link_not_the_memory() {
    let a = End::new(LinkConfig { queue_bytes_max: 8 << 20, ..config(NodeName::A, any_port()) });
    let b = End::new(config(NodeName::B, a.link.address()));
    let link = a.ear.wait_up();
    b.ear.wait_up();
    b.ear.hold();
    let page = a.write(0, 64);
    for _ in 0..400 {
        a.send(link, [page.clone()]);
    }
    a.ear.wait_down(link);
    let full =
        |notice: &Notice| matches!(notice, Notice::Down { reason, .. } if reason.contains("queue is full"));
    wait_until("the reason is told", || a.was_told(full));
    b.ear.release();
    a.ear.wait_up_after(link);
}

#[test]
fn many_senders_share_a_link() {
    const EACH: u64 = 2000;
    let (a, b) = pair();
    let link = a.ear.wait_up();
    b.ear.wait_up();
    std::thread::scope(|scope| {
        for sender in 0..4u64 {
            let a = &a;
            scope.spawn(move || {
                for n in 0..EACH {
                    a.send(link, [a.write(sender << 32 | n, (n % 3) as usize)]);
                }
            });
        }
    });
    b.ear.wait_writes(4 * EACH as usize);
    let writes = b.ear.writes();
    for sender in 0..4u64 {
        let of_it: Vec<u64> = writes.iter().filter(|order| *order >> 32 == sender).copied().collect();
        assert!(of_it.iter().copied().eq((0..EACH).map(|n| sender << 32 | n)));
    }
}

/// The ear panics when it hears a message of a link that is not up.
#[test]
fn nothing_comes_late() {
    let (a, b) = pair();
    std::thread::scope(|scope| {
        for end in [&a, &b] {
            scope.spawn(move || {
                let mut order = 0;
                for _ in 0..15 {
                    let link = end.ear.wait_up();
                    while end.ear.link() == Some(link) && order % 1000 != 999 {
                        end.send(link, (0..8).map(|n| end.write(order + n, 1)));
                        order += 8;
                        if order % 1000 == 0 {
                            order += 999;
                        }
                    }
                    order += 1;
                    end.link.disconnect(link);
                }
            });
        }
    });
    for end in [&a, &b] {
        end.link.stop();
        let heard = end.ear.heard();
        let ups = heard.iter().filter(|heard| matches!(heard, Heard::Up(_))).count();
        assert!(ups >= 5, "{ups}");
        assert!(!heard.iter().any(|heard| matches!(heard, Heard::Write(_, false))));
    }
}

#[test]
fn only_loopback_addresses_are_taken() {
    for address in ["0.0.0.0:3260", "192.0.2.1:3260", "[::]:3260", "[2001:db8::1]:3260"] {
        for node in NodeName::BOTH {
            let error = TcpLink::new(config(node, address.parse().unwrap())).err().unwrap();
            assert!(matches!(error, LinkError::NotLoopback(_)));
            assert!(error.to_string().contains("loopback"), "{error}");
        }
    }
    TcpLink::new(config(NodeName::B, "[::1]:3260".parse().unwrap())).unwrap();
}

#[test]
fn a_port_in_use_is_told() {
    let a = End::new(config(NodeName::A, any_port()));
    let error = TcpLink::new(config(NodeName::A, a.link.address())).err().unwrap();
    assert!(matches!(error, LinkError::Listen { .. }), "{error}");
}

/// Closes its link from inside.
struct Closer(parking_lot::Mutex<Option<Arc<TcpLink>>>);

impl Inbox for Closer {
    fn link_up(&self, _: u64) {
        if let Some(link) = self.0.lock().take() {
            link.close();
        }
    }
    fn link_down(&self, _: u64) {}
    fn message(&self, _: u64, _: twinsan::mirror::message::Message) {}
}

#[test]
fn a_link_may_be_closed_by_its_inbox_and_before_it_is_opened() {
    let a = End::new(config(NodeName::A, any_port()));
    TcpLink::new(config(NodeName::B, a.link.address())).unwrap().stop();
    let b = Arc::new(TcpLink::new(config(NodeName::B, a.link.address())).unwrap());
    let closer = Arc::new(Closer(parking_lot::Mutex::new(Some(Arc::clone(&b)))));
    b.open(Arc::clone(&closer) as Arc<dyn Inbox>);
    a.ear.wait_down(1);
    b.stop();
    drop(b);
    wait_until("the inbox is given up", || Arc::strong_count(&closer) == 1);
}

/// A node that fails.
struct Failing;

impl Inbox for Failing {
    fn link_up(&self, _: u64) {}
    fn link_down(&self, _: u64) {}
    fn message(&self, _: u64, _: twinsan::mirror::message::Message) {
        panic!("on purpose");
    }
}

#[test]
fn a_node_that_fails_takes_its_link_with_it() {
    let a = TcpLink::new(config(NodeName::A, any_port())).unwrap();
    a.open(Arc::new(Failing));
    let b = End::new(config(NodeName::B, a.address()));
    let link = b.ear.wait_up();
    b.send(link, [b.write(1, 1)]);
    b.ear.wait_down(link);
    wait_until("nobody answers", || b.was_told(|notice| matches!(notice, Notice::Unreachable { .. })));
    a.stop();
}
