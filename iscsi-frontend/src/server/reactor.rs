//! One reactor thread: waits for sockets, letters and timers, and moves bytes.
//!
//! Invariants: sockets are edge-triggered, so `readable` and `writable` are kept until the kernel has said "no
//! more" (a short count says so too, but not that the stream ends: `at_end` is kept for that); a connection is served at most [`RECEIVES_MAX`] receives a turn; nothing
//! here blocks.

use std::collections::BTreeSet;
use std::io::{IoSlice, Write};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use twinsan::guest::Sink;
use twinsan::runtime::burst;

use super::Shared;
use super::inbox::{Inbox, Letter};
use super::links::{Link, Links};
use super::receive::Receiver;
use crate::session::exclusive::give_up_orphan;
use crate::session::{Connection, Ends};
use crate::target::{Address, Mailbox};

pub(super) const WAKER: Token = Token(usize::MAX);
const LISTENERS: usize = usize::MAX / 2;
/// Receives of one connection before others have their turn.
const RECEIVES_MAX: usize = 16;
/// Answers to itself that a reactor follows before it looks at sockets again: volumes may answer within the call, and a
/// copy of many pieces is then one long chain, which somebody may want to abort.
const SETTLES_MAX: usize = 8;
const EVENTS_MAX: usize = 256;
const SEND_SLICES_MAX: usize = 256;
/// When the system has no file descriptors left, accepting is tried again after this time.
const ACCEPT_RETRY_TIME: Duration = Duration::from_millis(100);

/// The state of a reactor thread.
pub(super) struct Reactor {
    poll: Poll,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    sink: Arc<dyn Sink>,
    mailbox: Arc<dyn Mailbox>,
    connections_max: usize,
    /// This reactor's share.
    logins_max: usize,
    listeners: Vec<TcpListener>,
    accept_again: Option<Instant>,
    next_reactor: usize,
    links: Links,
    receiver: Receiver,
    letters: Vec<Letter>,
    touched: Vec<usize>,
    /// Connections with more to receive than one turn allows.
    busy: Vec<usize>,
    /// Empty; keeps its memory for the next list of connections.
    spare: Vec<usize>,
    /// Those that are logging in, and until when they may: each link with [`Link::login`], and no other.
    logins: BTreeSet<(Instant, u64)>,
    keep_alive: Instant,
    keep_alive_time: Duration,
    login_time: Duration,
    /// When initiators that were asked to log out are dropped, and whom to tell that none is left.
    draining: Option<(Instant, Sender<()>)>,
    stopping: bool,
}

impl Reactor {
    pub(super) fn new(number: usize, poll: Poll, shared: Arc<Shared>) -> Reactor {
        let config = shared.target.config.clone();
        let inbox = Arc::clone(&shared.inboxes[number]);
        Reactor {
            poll,
            sink: Arc::clone(&inbox) as Arc<dyn Sink>,
            mailbox: Arc::clone(&inbox) as Arc<dyn Mailbox>,
            inbox,
            receiver: Receiver::new(shared.target.config.pages.clone()),
            shared,
            connections_max: config.connections_max.min(Links::MAX),
            logins_max: config.logins_max.div_ceil(config.reactors).max(1),
            listeners: Vec::new(),
            accept_again: None,
            next_reactor: 0,
            links: Links::default(),
            letters: Vec::new(),
            touched: Vec::new(),
            busy: Vec::new(),
            spare: Vec::new(),
            logins: BTreeSet::new(),
            keep_alive: Instant::now() + config.keep_alive_time,
            keep_alive_time: config.keep_alive_time,
            login_time: config.login_time,
            draining: None,
            stopping: false,
        }
    }

    /// Serves until told to stop.
    pub(super) fn run(&mut self) {
        self.inbox.own();
        let mut events = Events::with_capacity(EVENTS_MAX);
        while !self.stopping {
            self.sleep(&mut events);
            self.sort(&events);
            self.read_letters();
            self.receive_all();
            self.settle();
            self.timers();
        }
        for index in self.links.indexes() {
            self.close(index);
        }
        self.read_own_letters();
    }

    /// After a panic: closes all sockets, and asks the volumes to give up what is under way, as far as that can still be
    /// done. Nobody hears whether they have.
    pub(super) fn give_up(&mut self) {
        self.listeners.clear();
        for index in self.links.indexes() {
            drop(self.links.get(index).and_then(|link| link.stream.take()));
        }
        for index in self.links.indexes() {
            let Some(link) = self.links.get(index) else { continue };
            drop(catch_unwind(AssertUnwindSafe(|| link.connection.end())));
        }
    }

    fn sleep(&mut self, events: &mut Events) {
        let is_done = self.busy.is_empty() && self.touched.is_empty() && !Inbox::has_own();
        let may_sleep = is_done && self.inbox.may_sleep();
        let timeout = if may_sleep { self.next_timer() } else { Some(Duration::ZERO) };
        if let Err(error) = self.poll.poll(events, timeout) {
            assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "the event queue itself fails");
            events.clear();
        }
        self.inbox.awake();
        self.shared.target.tick(self.shared.begun.elapsed());
        for orphan in self.shared.target.take_orphans() {
            give_up_orphan(&self.shared.target, orphan, 0);
        }
    }

    fn next_timer(&self) -> Option<Duration> {
        let keep_alive = (!self.links.is_empty()).then_some(self.keep_alive);
        let login = self.logins.first().map(|(when, _)| *when);
        let drained = self.draining.as_ref().map(|(when, _)| *when);
        let begun = self.shared.begun;
        let orphans = self.shared.target.orphans_at().map(|at| begun + Duration::from_millis(at));
        let first = [keep_alive, login, self.accept_again, drained, orphans].into_iter().flatten().min()?;
        // The kernel counts in milliseconds: round up, or the last one is spun away.
        Some(first.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    /// Notes what the sockets are ready for.
    fn sort(&mut self, events: &Events) {
        for event in events {
            let Token(token) = event.token();
            if event.token() == WAKER {
                continue;
            }
            if token >= LISTENERS {
                self.accept(token - LISTENERS);
                continue;
            }
            let Some(link) = self.links.get(token) else { continue };
            link.writable |= event.is_writable();
            link.at_end |= event.is_read_closed();
            if event.is_readable() && !link.readable {
                link.readable = true;
                self.busy.push(token);
            }
            self.touch(token);
        }
    }

    fn touch(&mut self, index: usize) {
        if let Some(link) = self.links.get(index)
            && !link.touched
        {
            link.touched = true;
            self.touched.push(index);
        }
    }

    fn accept(&mut self, listener: usize) {
        loop {
            let Some(listener) = self.listeners.get(listener) else { return };
            match listener.accept() {
                Ok((stream, peer)) => self.assign(stream, peer),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                // No file descriptors are left, most likely.
                Err(_) if self.cut_off_a_login() => {}
                Err(_) => {
                    self.accept_again = Some(Instant::now() + ACCEPT_RETRY_TIME);
                    return;
                }
            }
        }
    }

    /// Gives a new connection to a reactor, if there may be one more.
    fn assign(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Ok(local) = stream.local_addr() else { return };
        if self.shared.connections.fetch_add(1, Ordering::Relaxed) >= self.connections_max {
            self.shared.connections.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.next_reactor = (self.next_reactor + 1) % self.shared.inboxes.len();
        self.shared.inboxes[self.next_reactor].send(Letter::Adopt(stream, Ends { local, peer }));
    }

    fn adopt(&mut self, mut stream: TcpStream, ends: Ends) {
        let key = self.links.next_key();
        let address = Address { mailbox: Arc::clone(&self.mailbox), key };
        let target = Arc::clone(&self.shared.target);
        let connection = Connection::new(target, address, Arc::clone(&self.sink), ends);
        let link = Link {
            stream: None,
            connection,
            key,
            readable: false,
            writable: false,
            at_end: false,
            guess: 0,
            touched: false,
            login: None,
        };
        let index = self.links.insert(link);
        let interest = Interest::READABLE | Interest::WRITABLE;
        // Without TCP_NODELAY a small answer waits for the acknowledgement of the one before.
        let ready = stream
            .set_nodelay(true)
            .and_then(|()| self.poll.registry().register(&mut stream, Token(index), interest));
        let until = Instant::now() + self.login_time;
        match self.links.get(index) {
            Some(link) if ready.is_ok() && self.shared.target.is_open() => {
                (link.stream, link.login) = (Some(stream), Some(until));
            }
            _ => {
                self.shared.connections.fetch_sub(1, Ordering::Relaxed);
                return self.links.remove(index);
            }
        }
        while self.logins.len() >= self.logins_max && self.cut_off_a_login() {}
        self.logins.insert((until, key));
    }

    /// Closes the connection that has been logging in for longest. False if none is.
    fn cut_off_a_login(&mut self) -> bool {
        while let Some((_, key)) = self.logins.pop_first() {
            if self.close_login(key) {
                return true;
            }
        }
        false
    }

    /// Closes a connection whose login is taken off the list, unless that is over and has not been noticed yet.
    fn close_login(&mut self, key: u64) -> bool {
        let Some((index, _)) = self.links.resolve(key) else { return false };
        let Some(link) = self.links.get(index) else { return false };
        link.login = None;
        let logging_in = link.connection.is_logging_in();
        if logging_in {
            self.close(index);
        }
        logging_in
    }

    /// Its login is over, well or not.
    fn login_over(&mut self, index: usize) {
        let Some(link) = self.links.get(index) else { return };
        if let Some(until) = link.login.take() {
            let key = link.key;
            self.logins.remove(&(until, key));
        }
    }

    fn read_letters(&mut self) {
        let mut letters = std::mem::take(&mut self.letters);
        self.inbox.collect(&mut letters);
        self.read(&mut letters);
        self.letters = letters;
    }

    /// True if there were any.
    fn read_own_letters(&mut self) -> bool {
        let mut letters = std::mem::take(&mut self.letters);
        Inbox::collect_own(&mut letters);
        let any = !letters.is_empty();
        self.read(&mut letters);
        self.letters = letters;
        any
    }

    fn read(&mut self, letters: &mut Vec<Letter>) {
        for letter in letters.drain(..) {
            match letter {
                Letter::Complete(token, result) => {
                    self.with(token, |connection, slot| connection.completed(slot, result));
                }
                Letter::Aborted(token) => self.with(token, |connection, slot| connection.aborted(slot)),
                Letter::Notice(key, notice) => self.with(key, |connection, _| connection.notice(notice)),
                Letter::Adopt(stream, ends) => self.adopt(stream, ends),
                Letter::Listen(listeners) => self.listen(listeners),
                Letter::Withdraw(done) => {
                    self.withdraw();
                    drop(done);
                }
                Letter::Drain(until, done) => self.drain(until, done),
                Letter::Stop => self.stopping = true,
            }
        }
    }

    fn with(&mut self, token: u64, act: impl FnOnce(&mut Connection, u16)) {
        let Some((index, slot)) = self.links.resolve(token) else { return };
        if let Some(link) = self.links.get(index) {
            act(&mut link.connection, slot);
        }
        self.touch(index);
    }

    fn listen(&mut self, listeners: Vec<TcpListener>) {
        for mut listener in listeners {
            let token = Token(LISTENERS + self.listeners.len());
            if self.poll.registry().register(&mut listener, token, Interest::READABLE).is_ok() {
                self.listeners.push(listener);
            }
        }
        self.accept_again = Some(Instant::now());
    }

    fn drain(&mut self, until: Instant, done: Sender<()>) {
        self.listeners.clear();
        self.accept_again = None;
        // Rounded down: nobody is dropped before the time it was told.
        let seconds = until.saturating_duration_since(Instant::now()).as_secs();
        for index in self.links.indexes() {
            if let Some(link) = self.links.get(index) {
                link.connection.ask_to_log_out(u16::try_from(seconds).unwrap_or(u16::MAX));
            }
            self.touch(index);
        }
        self.draining = Some((until, done));
    }

    /// Have all initiators gone that were asked to, or is their time up?
    fn end_draining(&mut self, now: Instant) {
        let Some((until, _)) = &self.draining else { return };
        let until = *until;
        let connected = |links: &mut Links, index| links.get(index).is_some_and(|link| link.stream.is_some());
        let all_gone = !self.links.indexes().any(|index| connected(&mut self.links, index));
        if all_gone || until <= now {
            self.withdraw();
            self.draining = None;
        }
    }

    fn withdraw(&mut self) {
        self.listeners.clear();
        self.accept_again = None;
        for index in self.links.indexes() {
            if let Some(link) = self.links.get(index) {
                link.connection.drop_politely();
                send(link);
            }
            self.close(index);
        }
    }

    /// Gives every connection with something to receive its turn.
    fn receive_all(&mut self) {
        let mut busy = std::mem::take(&mut self.spare);
        std::mem::swap(&mut busy, &mut self.busy);
        for index in busy.drain(..) {
            self.receive(index);
        }
        self.spare = busy;
    }

    /// Receives what is there, up to a turn's worth.
    fn receive(&mut self, index: usize) {
        self.touch(index);
        for _ in 0..RECEIVES_MAX {
            let Some(link) = self.links.get(index) else { return };
            if !link.readable || !link.connection.may_receive() {
                return;
            }
            burst(|| self.receiver.receive(link));
        }
        self.busy.push(index);
    }

    /// Delivers what this thread told itself and sends what there is to send, until both are done or others have waited
    /// for long.
    fn settle(&mut self) {
        for _ in 0..SETTLES_MAX {
            if !self.read_own_letters() && self.touched.is_empty() {
                return;
            }
            let mut touched = std::mem::take(&mut self.spare);
            std::mem::swap(&mut touched, &mut self.touched);
            for index in touched.drain(..) {
                self.finish_turn(index);
            }
            self.spare = touched;
        }
    }

    fn finish_turn(&mut self, index: usize) {
        let Some(link) = self.links.get(index) else { return };
        link.touched = false;
        if !link.connection.is_logging_in() {
            self.login_over(index);
        }
        let Some(link) = self.links.get(index) else { return };
        let blocked = !link.connection.may_receive();
        send(link);
        link.connection.account();
        if link.connection.is_over() {
            return self.close(index);
        }
        if blocked && link.readable && link.connection.may_receive() {
            self.busy.push(index);
        }
    }

    /// Closes the socket, and forgets the connection when its last task is dead.
    fn close(&mut self, index: usize) {
        self.login_over(index);
        let Some(link) = self.links.get(index) else { return };
        if let Some(mut stream) = link.stream.take() {
            // Closing the descriptor deregisters it as well; this merely cannot fail in a way that matters.
            let _gone = self.poll.registry().deregister(&mut stream);
            self.shared.connections.fetch_sub(1, Ordering::Relaxed);
            link.connection.end();
        }
        if link.connection.is_dead() {
            self.links.remove(index);
        }
    }

    fn timers(&mut self) {
        let now = Instant::now();
        while let Some(&(until, key)) = self.logins.first().filter(|(until, _)| *until <= now) {
            self.logins.remove(&(until, key));
            self.close_login(key);
        }
        if self.accept_again.is_some_and(|when| when <= now) {
            self.accept_again = None;
            for listener in 0..self.listeners.len() {
                self.accept(listener);
            }
        }
        if self.keep_alive <= now {
            self.keep_alive = now + self.keep_alive_time;
            for index in self.links.indexes() {
                if let Some(link) = self.links.get(index) {
                    link.connection.keep_alive();
                }
                self.touch(index);
            }
        }
        self.settle();
        self.end_draining(now);
    }
}

/// Sends what is queued, as far as the socket takes it.
fn send(link: &mut Link) {
    let Some(stream) = link.stream.as_mut() else { return };
    while link.writable && !link.connection.output().is_empty() {
        let mut slices = [IoSlice::new(&[]); SEND_SLICES_MAX];
        let count = link.connection.output().gather(&mut slices);
        let length: usize = slices[..count].iter().map(|slice| slice.len()).sum();
        match stream.write_vectored(&slices[..count]) {
            Ok(sent) => {
                link.connection.sent(sent);
                link.writable = sent == length;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => link.writable = false,
            Err(_) => {
                link.connection.hang_up();
                return;
            }
        }
    }
}
