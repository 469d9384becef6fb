//! Two links over real loopback sockets, what they hear written down, and a proxy that harms what passes.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use parking_lot::{Condvar, Mutex};
use twinsan::block::{Block, PagePool, Payload};
use twinsan::ids::{BootId, Epoch, NodeName, Uuid, VolumeId};
use twinsan::mirror::message::{Body, Control, Message};
use twinsan::runtime::{Inbox, Transport};
use twinsan::time::Instant as CoreInstant;
use twinsan_mirror::{LinkConfig, Notice, TcpLink};

mod wait;

pub(crate) use wait::wait_until;

/// What an inbox heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    Up(u64),
    Down(u64),
    /// The order of a write, and whether its blocks were what [`write`] makes.
    Write(u64, bool),
    Probe(u64),
}

/// An inbox that writes down what it hears, and can be held.
#[derive(Default)]
pub(crate) struct Ear {
    heard: Mutex<Vec<Heard>>,
    up: Mutex<Option<u64>>,
    held: Mutex<bool>,
    released: Condvar,
}

impl Ear {
    /// Every message waits from now on.
    pub(crate) fn hold(&self) {
        *self.held.lock() = true;
    }

    pub(crate) fn release(&self) {
        *self.held.lock() = false;
        self.released.notify_all();
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().clone()
    }

    /// The link that is up.
    pub(crate) fn link(&self) -> Option<u64> {
        *self.up.lock()
    }

    pub(crate) fn wait_up(&self) -> u64 {
        wait_until("the link is up", || self.link().is_some());
        self.link().expect("just seen")
    }

    /// Waits until a link later than `link` is up.
    pub(crate) fn wait_up_after(&self, link: u64) -> u64 {
        wait_until("a new link is up", || self.link().is_some_and(|now| now > link));
        self.link().expect("just seen")
    }

    pub(crate) fn wait_down(&self, link: u64) {
        wait_until("the link is down", || self.heard.lock().contains(&Heard::Down(link)));
    }

    pub(crate) fn writes(&self) -> Vec<u64> {
        let order = |heard: &Heard| if let Heard::Write(order, true) = heard { Some(*order) } else { None };
        self.heard.lock().iter().filter_map(order).collect()
    }

    pub(crate) fn wait_writes(&self, count: usize) {
        wait_until("all writes are here", || {
            self.heard.lock().iter().filter(|heard| matches!(heard, Heard::Write(..))).count() >= count
        });
    }
}

impl Inbox for Ear {
    fn link_up(&self, link: u64) {
        let before = self.up.lock().replace(link);
        assert_eq!(before, None, "two links up");
        self.heard.lock().push(Heard::Up(link));
    }

    fn link_down(&self, link: u64) {
        let before = self.up.lock().take();
        assert_eq!(before, Some(link), "another link down than up");
        self.heard.lock().push(Heard::Down(link));
    }

    fn message(&self, link: u64, message: Message) {
        let mut held = self.held.lock();
        while *held {
            self.released.wait(&mut held);
        }
        drop(held);
        let heard = match &message.body {
            Body::Write { order, .. } => Heard::Write(*order, is_intact(*order, &message.data)),
            Body::Control(Control::Probe { epoch, .. }) => Heard::Probe(epoch.0),
            other => panic!("{other:?}"),
        };
        assert_eq!(*self.up.lock(), Some(link), "{heard:?} of a link that is not up");
        self.heard.lock().push(heard);
    }
}

/// A write whose blocks tell its order.
pub(crate) fn write(pool: &PagePool, order: u64, blocks: usize) -> Message {
    let data: Payload = (0..blocks)
        .map(|index| {
            let mut page = pool.take();
            page.bytes_mut().fill(mark(order, index));
            Block::Data(page.freeze())
        })
        .collect();
    let body = Body::Write {
        epoch: Epoch(1),
        volume: VolumeId(1),
        order,
        first: order,
        blocks: blocks as u32,
        zero: false,
        carried: true,
        origin: None,
    };
    Message { body, data }
}

fn mark(order: u64, index: usize) -> u8 {
    (order as u8).wrapping_mul(31).wrapping_add(index as u8)
}

fn is_intact(order: u64, data: &[Block]) -> bool {
    data.iter().enumerate().all(|(index, block)| block.bytes().iter().all(|byte| *byte == mark(order, index)))
}

pub(crate) fn probe(number: u64) -> Message {
    Message::control(Control::Probe { epoch: Epoch(number), sent: CoreInstant::ZERO })
}

/// A link, its inbox and its notices.
pub(crate) struct End {
    pub(crate) link: TcpLink,
    pub(crate) ear: Arc<Ear>,
    pub(crate) notices: Arc<Mutex<Vec<Notice>>>,
    pub(crate) pool: PagePool,
}

impl End {
    pub(crate) fn new(config: LinkConfig) -> End {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let pool = config.pool.clone();
        let told = Arc::clone(&notices);
        let config = LinkConfig { notices: Arc::new(move |notice| told.lock().push(notice)), ..config };
        let link = TcpLink::new(config).expect("a loopback link can be made");
        let ear = Arc::new(Ear::default());
        link.open(Arc::clone(&ear) as Arc<dyn Inbox>);
        End { link, ear, notices, pool }
    }

    pub(crate) fn send(&self, link: u64, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            self.link.send(link, message);
        }
        self.link.flush();
    }

    pub(crate) fn write(&self, order: u64, blocks: usize) -> Message {
        write(&self.pool, order, blocks)
    }

    pub(crate) fn was_told(&self, what: impl Fn(&Notice) -> bool) -> bool {
        self.notices.lock().iter().any(what)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{:?}: {:?}", self.link.address(), self.notices.lock());
        }
        self.ear.release();
        self.link.stop();
    }
}

pub(crate) const PARTNERSHIP: Uuid = Uuid(0x1234_5678);

pub(crate) fn config(node: NodeName, address: SocketAddr) -> LinkConfig {
    LinkConfig::new(node, PARTNERSHIP, BootId(7 + node.index() as u64), address, PagePool::new())
}

pub(crate) fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

pub(crate) fn pair() -> (End, End) {
    let a = End::new(config(NodeName::A, any_port()));
    let b = End::new(config(NodeName::B, a.link.address()));
    (a, b)
}

/// Forwards every connection to a node, in both directions.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    harm: Arc<Harm>,
}

#[derive(Default)]
struct Harm {
    /// Flip a bit in what comes next from the connector, this many bytes from now; `usize::MAX`: do not.
    flip_in: AtomicUsize,
    /// Send the next piece twice.
    twice: AtomicBool,
    /// Leave the next piece out.
    leave_out: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub(crate) fn new(to: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(any_port()).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let harm = Arc::new(Harm { flip_in: AtomicUsize::new(usize::MAX), ..Harm::default() });
        let shared = Arc::clone(&harm);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(to) else { continue };
                let both = |stream: &TcpStream| stream.try_clone().expect("a descriptor is free");
                shared.streams.lock().extend([both(&near), both(&far)]);
                let (harm, from, onto) = (Arc::clone(&shared), both(&near), both(&far));
                thread::spawn(move || forward(from, onto, Some(&harm)));
                thread::spawn(move || forward(far, near, None));
            }
        });
        Proxy { address, harm }
    }

    pub(crate) fn flip_in(&self, bytes: usize) {
        self.harm.flip_in.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn has_flipped(&self) -> bool {
        self.harm.flip_in.load(Ordering::SeqCst) == usize::MAX
    }

    pub(crate) fn send_twice(&self) {
        self.harm.twice.store(true, Ordering::SeqCst);
    }

    pub(crate) fn leave_out(&self) {
        self.harm.leave_out.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_left_out(&self) -> bool {
        !self.harm.leave_out.load(Ordering::SeqCst) && !self.harm.twice.load(Ordering::SeqCst)
    }

    /// Ends all connections that pass.
    pub(crate) fn cut(&self) {
        for stream in self.harm.streams.lock().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn forward(mut from: TcpStream, mut onto: TcpStream, harm: Option<&Harm>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let mut copies = 1;
        if let Some(harm) = harm {
            let flip_in = harm.flip_in.load(Ordering::SeqCst);
            if flip_in < count {
                bytes[flip_in] ^= 0x10;
                harm.flip_in.store(usize::MAX, Ordering::SeqCst);
            } else if flip_in != usize::MAX {
                harm.flip_in.store(flip_in - count, Ordering::SeqCst);
            }
            copies += usize::from(harm.twice.swap(false, Ordering::SeqCst));
            copies -= usize::from(harm.leave_out.swap(false, Ordering::SeqCst));
        }
        if (0..copies).any(|_| onto.write_all(&bytes[..count]).is_err()) {
            break;
        }
    }
    let _ = onto.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
