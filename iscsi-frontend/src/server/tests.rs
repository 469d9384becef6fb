//! What needs real reactors, and a volume that can be told what to do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use super::Server;
use crate::access::Access;
use crate::scsi::reservations::{ITEM, Reservations};
use crate::session::drive::HandVolume;
use crate::target::TargetConfig;

const TARGET: &str = "iqn.2026-01.example:san";

/// Sends a PDU, and takes the header of what comes back.
fn ask(stream: &mut TcpStream, mut head: [u8; 48], data: &[u8]) -> [u8; 48] {
    head[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
    let mut all = [&head, data].concat();
    all.resize(all.len().next_multiple_of(4), 0);
    stream.write_all(&all).expect("sent");
    let mut answer = [0; 48];
    stream.read_exact(&mut answer).expect("an answer");
    let length = u32::from_be_bytes([0, answer[5], answer[6], answer[7]]) as usize;
    stream.read_exact(&mut vec![0; length.next_multiple_of(4)]).expect("its data");
    answer
}

#[test]
fn a_reactor_with_nothing_else_to_do_gives_up_what_could_not_be_given_up() {
    let volume = HandVolume::new(1);
    let mut config = TargetConfig::new(TARGET);
    config.portals = vec![([127, 0, 0, 1], 0).into()];
    let access = Access::for_anyone([(0, Arc::clone(&volume) as _)]);
    let server = Server::start(config, access).expect("a free port");
    let mut stream = TcpStream::connect(server.local_addrs()[0]).expect("accepted");

    let mut login = [0; 48];
    (login[0], login[1], login[13], login[27]) = (0x43, 0x87, 1, 1);
    let text = format!("InitiatorName=iqn.2026-01.example:host\0TargetName={TARGET}\0");
    assert_eq!(ask(&mut stream, login, text.as_bytes())[36], 0);
    let mut reserve = [0; 48];
    (reserve[0], reserve[1], reserve[19], reserve[27], reserve[32]) = (0x01, 0x80, 7, 1, 0x16);
    assert_eq!(ask(&mut stream, reserve, &[])[3], 0);

    let is_taken = |items: &twinsan::guest::Items| {
        Reservations::decode(&items[&ITEM].value).is_some_and(|state| state.exclusive().is_some())
    };
    assert!(is_taken(&volume.state.lock().items));
    volume.state.lock().keeps_nothing = true;
    drop(stream);
    volume.wait(|hand| hand.refused > 0);
    volume.state.lock().keeps_nothing = false;
    volume.wait(|hand| !is_taken(&hand.items));
    server.stop();
}

impl HandVolume {
    /// Until the volume was asked to keep something and then is so.
    fn wait(&self, mut so: impl FnMut(&crate::session::drive::Hand) -> bool) {
        let mut hand = self.state.lock();
        let late = self.asked_to_keep.wait_while_for(&mut hand, |hand| !so(hand), Duration::from_secs(8));
        assert!(!late.timed_out(), "less than the time between two keep-alives");
    }
}
