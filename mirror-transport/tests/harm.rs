//! What happens between the nodes, or is done to them, costs the link and never the data.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::*;
use twinsan::ids::{NodeName, Uuid};
use twinsan_mirror::{LinkConfig, Notice, Refusal};

/// Everything that arrives is whole and in order within its link.
fn assert_sound(ear: &Ear) {
    let mut last = None;
    for heard in ear.heard() {
        match heard {
            Heard::Up(_) | Heard::Down(_) => last = None,
            Heard::Write(order, intact) => {
                assert!(intact, "write {order} is damaged");
                assert!(last.is_none_or(|last| order == last + 1), "{last:?} then {order}");
                last = Some(order);
            }
            Heard::Probe(_) => {}
        }
    }
}

/// Streams writes over a proxy while `harm` is done to it `times` times.
fn under(times: usize, harm: impl Fn(&Proxy, usize), done: impl Fn(&Proxy) -> bool) {
    let a = End::new(config(NodeName::A, any_port()));
    let proxy = Proxy::new(a.link.address());
    let b = End::new(config(NodeName::B, proxy.address));
    let (mut order, mut link) = (0, a.ear.wait_up());
    for round in 0..times {
        let mine = b.ear.wait_up();
        let before = a.ear.writes().len();
        b.send(mine, (0..8).map(|n| b.write(order + n, 1)));
        order += 8;
        a.ear.wait_writes(before + 8);
        harm(&proxy, round);
        while !done(&proxy) {
            b.send(mine, (0..8).map(|n| b.write(order + n, 1 + round % 20)));
            order += 8;
        }
        b.send(mine, [b.write(order, 1)]);
        a.ear.wait_down(link);
        b.ear.wait_down(mine);
        link = a.ear.wait_up_after(link);
        b.ear.wait_up_after(mine);
        order += 100;
    }
    assert!(a.ear.writes().len() >= times * 8);
    assert_sound(&a.ear);
}

#[test]
fn a_flipped_bit_drops_the_link_and_nothing_else() {
    under(25, |proxy, round| proxy.flip_in(round * 997), Proxy::has_flipped);
}

#[test]
fn a_piece_sent_twice_drops_the_link_and_nothing_else() {
    under(5, |proxy, _| proxy.send_twice(), Proxy::has_left_out);
}

#[test]
fn a_piece_left_out_drops_the_link_and_nothing_else() {
    under(5, |proxy, _| proxy.leave_out(), Proxy::has_left_out);
}

#[test]
fn a_cut_connection_is_replaced() {
    under(5, |proxy, _| proxy.cut(), |_| true);
}

fn is_refused(refusal: Refusal) -> impl Fn(&Notice) -> bool {
    move |notice| matches!(notice, Notice::Refused { refusal: told, .. } if *told == refusal)
}

#[test]
fn a_foreign_partnership_is_refused_and_both_are_told() {
    let a = End::new(config(NodeName::A, any_port()));
    let foreign = LinkConfig { partnership: Uuid(0x666), ..config(NodeName::B, a.link.address()) };
    let b = End::new(foreign);
    for end in [&a, &b] {
        wait_until("the refusal is told", || end.was_told(is_refused(Refusal::Partnership)));
        assert!(end.ear.heard().is_empty());
    }
    let partner = End::new(config(NodeName::B, a.link.address()));
    partner.ear.wait_up();
}

#[test]
fn strangers_are_closed_and_the_partner_still_gets_through() {
    let a = End::new(config(NodeName::A, any_port()));
    let address = a.link.address();
    let mut http = TcpStream::connect(address).unwrap();
    http.write_all(b"GET / HTTP/1.1\r\nHost: me\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = http.read_to_end(&mut answer);
    assert!(answer.is_empty(), "a stranger is not answered");
    wait_until("the stranger is told", || a.was_told(is_refused(Refusal::NoGreeting)));
    let silent: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    let slow: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"TWINSANm").unwrap();
            stream
        })
        .collect();
    let begun = Instant::now();
    let b = End::new(config(NodeName::B, address));
    let link = b.ear.wait_up();
    a.ear.wait_up();
    assert!(begun.elapsed() < Duration::from_secs(1));
    // While the link is up, strangers do not disturb it.
    for _ in 0..50 {
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(&[0xff; 4096]);
    }
    b.send(link, (0..100).map(|order| b.write(order, 1)));
    a.ear.wait_writes(100);
    assert_eq!(a.ear.link(), Some(1));
    drop((silent, slow));
}

#[test]
fn a_stranger_who_says_nothing_is_closed_in_time() {
    let a = End::new(config(NodeName::A, any_port()));
    let mut silent = TcpStream::connect(a.link.address()).unwrap();
    silent.write_all(b"TWIN").unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let begun = Instant::now();
    assert!(matches!(silent.read(&mut [0; 64]), Ok(0) | Err(_)));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_partner_is_found_again_after_being_replaced_by_nobody() {
    let (a, b) = pair();
    let link = a.ear.wait_up();
    b.ear.wait_up();
    drop(b);
    a.ear.wait_down(link);
    let again =
        End::new(LinkConfig { boot: twinsan::ids::BootId(99), ..config(NodeName::B, a.link.address()) });
    again.ear.wait_up();
    assert_eq!(a.ear.wait_up_after(link), link + 1);
}
