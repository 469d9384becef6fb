//! How a reactor is reached: from its own thread without a lock, from others through a queue and a waker.
//!
//! Invariant: a letter posted before the reactor sleeps, or while it sleeps, is seen; nobody wakes a reactor that
//! is awake; after the reactor's death letters go nowhere, and nobody waits for it.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Instant;

use mio::net::{TcpListener, TcpStream};
use parking_lot::Mutex;
use twinsan::guest::{GuestResult, Sink};

use crate::session::Ends;
use crate::target::{Mailbox, Notice};

/// What reaches a reactor.
pub(super) enum Letter {
    /// A volume's answer; the token is a connection's key and a slot.
    Complete(u64, GuestResult),
    /// A volume's word that an aborted request is over.
    Aborted(u64),
    /// From one connection to another.
    Notice(u64, Notice),
    /// A new connection between these addresses.
    Adopt(TcpStream, Ends),
    /// Listen here.
    Listen(Vec<TcpListener>),
    /// Stop listening, drop all connections, and say so.
    Withdraw(Sender<()>),
    /// Stop listening, ask all initiators to log out, drop at this time those that are left, and say so.
    Drain(Instant, Sender<()>),
    /// End the thread.
    Stop,
}

thread_local! {
    /// The inbox of the reactor that this thread is, if it is one. Only compared.
    static OWN: Cell<*const Inbox> = const { Cell::new(std::ptr::null()) };
    /// Its letters from itself.
    static LETTERS: RefCell<Vec<Letter>> = const { RefCell::new(Vec::new()) };
}

/// A reactor's inbox.
pub(super) struct Inbox {
    waker: mio::Waker,
    queue: Mutex<Queue>,
    asleep: AtomicBool,
}

#[derive(Default)]
struct Queue {
    letters: Vec<Letter>,
    /// The reactor is dead.
    deaf: bool,
}

impl Inbox {
    pub(super) fn new(waker: mio::Waker) -> Inbox {
        Inbox { waker, queue: Mutex::new(Queue::default()), asleep: AtomicBool::new(false) }
    }

    /// From now on this thread is the reactor of this inbox.
    pub(super) fn own(&self) {
        OWN.set(self);
    }

    pub(super) fn send(&self, letter: Letter) {
        if std::ptr::eq(OWN.get(), self) {
            return LETTERS.with_borrow_mut(|letters| letters.push(letter));
        }
        let mut queue = self.queue.lock();
        if queue.deaf {
            // Dropped without the lock: what is in it may write letters in its turn.
            drop(queue);
            return drop(letter);
        }
        queue.letters.push(letter);
        drop(queue);
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            // An eventfd fails only if its counter overflows, and then the reactor is awake.
            debug_assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        }
    }

    /// Announces sleep. False if there are letters to read first.
    pub(super) fn may_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        self.queue.lock().letters.is_empty()
    }

    pub(super) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Swaps the letters from other threads for the empty `letters`.
    pub(super) fn collect(&self, letters: &mut Vec<Letter>) {
        debug_assert!(letters.is_empty());
        std::mem::swap(&mut self.queue.lock().letters, letters);
    }

    /// Drops all letters, those to come as well. On the reactor's own thread, which reads none any more.
    pub(super) fn deafen(&self) {
        OWN.set(std::ptr::null());
        let mut queue = self.queue.lock();
        queue.deaf = true;
        let letters = std::mem::take(&mut queue.letters);
        drop(queue);
        drop((letters, LETTERS.take()));
    }

    /// Has this thread letters from itself?
    pub(super) fn has_own() -> bool {
        LETTERS.with_borrow(|own| !own.is_empty())
    }

    /// Swaps this thread's letters to itself for the empty `letters`.
    pub(super) fn collect_own(letters: &mut Vec<Letter>) {
        debug_assert!(letters.is_empty());
        LETTERS.with_borrow_mut(|own| std::mem::swap(own, letters));
    }
}

impl Sink for Inbox {
    fn complete(&self, token: u64, result: GuestResult) {
        self.send(Letter::Complete(token, result));
    }

    fn aborted(&self, token: u64) {
        self.send(Letter::Aborted(token));
    }
}

impl Mailbox for Inbox {
    fn post(&self, key: u64, notice: Notice) {
        self.send(Letter::Notice(key, notice));
    }
}
