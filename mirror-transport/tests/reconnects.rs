//! What many connections leave behind. Alone in its process, because it counts.

mod common;

use std::net::TcpStream;

use common::{Heard, pair, wait_until};
use twinsan::runtime::Transport;

/// Descriptors and threads of this process.
fn held() -> (usize, usize) {
    let count = |path: &str| std::fs::read_dir(path).expect("the system tells").count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

#[test]
fn reconnects_leave_no_descriptor_and_no_thread_behind() {
    let (a, b) = pair();
    let ups =
        |end: &common::End| end.ear.heard().iter().filter(|heard| matches!(heard, Heard::Up(_))).count();
    wait_until("the link is up", || a.ear.link().is_some() && b.ear.link().is_some());
    let before = held();
    for round in 1..=20 {
        let link = b.ear.wait_up();
        b.link.disconnect(link);
        wait_until("there is another link", || ups(&a) > round && ups(&b) > round);
        for _ in 0..20 {
            drop(TcpStream::connect(a.link.address()).expect("it listens"));
        }
    }
    wait_until("nothing is left of them", || held() == before);
}
