//! What a mirrored 4 KiB write costs on the link: out, in, acknowledged. Prints figures; asserts only that it works.
//! For figures that mean something: `cargo test --release -p twinsan-mirror --test speed -- --nocapture`.

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use common::*;
use parking_lot::{Condvar, Mutex};
use twinsan::block::Payload;
use twinsan::ids::{Epoch, NodeName, VolumeId};
use twinsan::mirror::message::{Body, Message};
use twinsan::runtime::{Inbox, Transport};
use twinsan_mirror::TcpLink;

/// Acknowledges every write, as a partner does.
struct Partner(Mutex<Option<Arc<TcpLink>>>);

impl Inbox for Partner {
    fn link_up(&self, _: u64) {}
    fn link_down(&self, _: u64) {}
    fn message(&self, link: u64, message: Message) {
        let Body::Write { order, .. } = message.body else { panic!("{message:?}") };
        let body = Body::WriteDone { epoch: Epoch(1), volume: VolumeId(1), order, stored: true };
        let transport = self.0.lock().clone().expect("set before the link is opened");
        transport.send(link, Message { body, data: Payload::new() });
        transport.flush();
    }
}

/// Keeps so many writes in flight; the acknowledgement of one sends the next, on the link's thread.
struct Owner {
    link: AtomicU64,
    transport: Arc<TcpLink>,
    page: Message,
    left: Mutex<(u64, u64)>,
    done: Condvar,
}

impl Owner {
    fn run(&self, writes: u64, depth: u64) {
        *self.left.lock() = (writes - depth.min(writes), writes);
        let link = self.link.load(Ordering::SeqCst);
        for _ in 0..depth.min(writes) {
            self.transport.send(link, self.page.clone());
        }
        self.transport.flush();
        let mut left = self.left.lock();
        while left.1 > 0 {
            self.done.wait(&mut left);
        }
    }
}

impl Inbox for Owner {
    fn link_up(&self, link: u64) {
        self.link.store(link, Ordering::SeqCst);
    }
    fn link_down(&self, _: u64) {}
    fn message(&self, link: u64, _: Message) {
        let mut left = self.left.lock();
        left.1 -= 1;
        if left.0 > 0 {
            left.0 -= 1;
            self.transport.send(link, self.page.clone());
            self.transport.flush();
        } else if left.1 == 0 {
            self.done.notify_all();
        }
    }
}

/// Nanoseconds on a processor, of all threads of this process.
fn cpu_nanos() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux");
    let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
    let nanos = |text: String| text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok());
    tasks.flatten().filter_map(|task| nanos(of(task))).sum()
}

#[test]
fn a_mirrored_write_costs() {
    let writes = if cfg!(debug_assertions) { 2_000 } else { 100_000 };
    let a_config = config(NodeName::A, any_port());
    let pool = a_config.pool.clone();
    let a = Arc::new(TcpLink::new(a_config).unwrap());
    let b = Arc::new(TcpLink::new(config(NodeName::B, a.address())).unwrap());
    let owner = Arc::new(Owner {
        link: AtomicU64::new(0),
        transport: Arc::clone(&a),
        page: write(&pool, 1, 1),
        left: Mutex::new((0, 0)),
        done: Condvar::new(),
    });
    let partner = Arc::new(Partner(Mutex::new(Some(Arc::clone(&b)))));
    b.open(Arc::clone(&partner) as Arc<dyn Inbox>);
    a.open(Arc::clone(&owner) as Arc<dyn Inbox>);
    wait_until("the link is up", || owner.link.load(Ordering::SeqCst) > 0);
    for depth in [1, 4, 16, 64] {
        let (cpu, begun) = (cpu_nanos(), Instant::now());
        owner.run(writes, depth);
        let (spent, took) = (cpu_nanos() - cpu, begun.elapsed());
        println!(
            "{writes} mirrored writes of 4 KiB, {depth} in flight: {:.2} µs each ({:.2} µs of CPU, both nodes)",
            took.as_secs_f64() * 1e6 / writes as f64,
            spent as f64 / 1e3 / writes as f64,
        );
    }
    a.stop();
    b.stop();
    *partner.0.lock() = None;
}
