//! The portals of two real nodes: open while a node may serve, closed while it may not for long.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use common::pair::pair;

const STRANGER: &str = "iqn.2026-01.example:stranger\n";
/// In the log, on one line.
const STRANGER_REFUSED: &str =
    "twinsand a: refused the login of iqn.2026-01.example:stranger\\n from 127.0.0.1:";

/// A login to a target that is not there, with a name that would begin a new line in the log.
fn log_in_as_a_stranger(portal: SocketAddr) {
    let mut stream = TcpStream::connect(portal).expect("the portal is open");
    let text = format!("InitiatorName={STRANGER}\0SessionType=Normal\0TargetName=iqn.2026-01.example:none\0");
    let mut pdu = [0; 48].to_vec();
    (pdu[0], pdu[1], pdu[7]) = (0x43, 0x87, text.len() as u8);
    pdu.extend_from_slice(text.as_bytes());
    pdu.resize((pdu.len() + 3) & !3, 0);
    stream.write_all(&pdu).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer, and the end");
    assert_eq!((answer[0], answer[36]), (0x23, 2), "refused");
}

/// `a` sleeps past its lease, `b` goes on and dies: `a` may not serve, and hosts shall not wait for it.
#[test]
fn portals_close_while_a_node_may_not_serve_and_open_when_it_may() {
    let directory = std::env::temp_dir().join(format!("twinsan-portals-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let [mut a, mut b] = pair(&directory, |text| text);
    a.start();
    b.start();
    for node in [&a, &b] {
        node.told("serves vmfs-v1: iscsi://", 1);
        assert!(node.is_open());
    }
    log_in_as_a_stranger(a.portal);
    a.told(STRANGER_REFUSED, 1);
    a.signal("-STOP");
    b.told("serves alone", 1);
    b.kill();
    a.signal("-CONT");
    a.told("may not serve", 1);
    assert!(a.is_open(), "it says NOT READY first");
    a.told("closed its portals until it may serve again", 1);
    assert!(!a.is_open());
    b.start();
    a.told("opened its portals again", 1);
    assert!(a.is_open());
    b.told("serves in a pair", 2);
    assert!(b.is_open());
    drop((a, b));
    std::fs::remove_dir_all(directory).unwrap();
}
