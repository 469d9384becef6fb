//! The link: one connection after another, and the threads that serve them.
//!
//! The link thread takes connections, receives from them and runs the inbox. The writer thread goes on where a
//! sender found the socket full. Node `a` has an accepting thread too. Locks are held for moments only, never
//! across a call of the inbox or one of the system that may wait.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use mio::Waker;
use parking_lot::{Condvar, Mutex};
use twinsan::ids::NodeName;
use twinsan::mirror::message::Message;
use twinsan::mirror::wire::{Decoder, Salt};
use twinsan::runtime::{Inbox, Transport};

use crate::accept::{self, Acceptor};
use crate::config::LinkConfig;
use crate::connection::{Caps, Connection, Flushed, When, tune};
use crate::dial::Dialer;
use crate::greeting::{self, GreetingBytes};
use crate::notice::{LinkError, Notice, Said};

/// A connection on which both have greeted.
pub(crate) struct Established {
    stream: TcpStream,
    send: Salt,
    receive: Salt,
}

impl Established {
    pub(crate) fn new(
        stream: TcpStream,
        mine: &GreetingBytes,
        theirs: &GreetingBytes,
    ) -> io::Result<Established> {
        tune(&stream)?;
        let (send, receive) = greeting::salts(mine, theirs);
        Ok(Established { stream, send, receive })
    }
}

/// What the threads of a link share.
pub(crate) struct Shared {
    pub(crate) config: LinkConfig,
    closed: AtomicBool,
    /// Attempts to connect, made or accepted.
    attempts: AtomicU64,
    inbox: Mutex<Option<Arc<dyn Inbox>>>,
    /// The connection that is up.
    current: Mutex<Option<Arc<Connection>>>,
    /// Node `a`: accepted and not yet served.
    waiting: Mutex<Option<Established>>,
    /// With `waiting`: something waits there, the inbox has come, or the link is closed.
    changed: Condvar,
    /// Node `b`: the attempt being made, so that a close can cut it short.
    attempt: Mutex<Option<TcpStream>>,
    /// Connections whose sender found the socket full.
    blocked: Mutex<VecDeque<Arc<Connection>>>,
    unblock: Condvar,
    /// Wakes the accepting thread.
    waker: OnceLock<Waker>,
    link_thread: OnceLock<ThreadId>,
    /// The link thread need not make its next flush: another message follows, and it flushes after the last.
    corked: AtomicBool,
    said: Mutex<Said>,
}

/// A mirror link over TCP.
///
/// Dropping it closes it, as [`close`](Transport::close) does; its threads end soon after.
pub struct TcpLink {
    shared: Arc<Shared>,
    address: SocketAddr,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl TcpLink {
    /// Prepares a link; node `a` begins to listen. [`open`](Transport::open) begins the work.
    ///
    /// # Errors
    /// The address is not a loopback address or cannot be listened on, or the system has no threads to spare.
    pub fn new(config: LinkConfig) -> Result<TcpLink, LinkError> {
        config.check()?;
        let mut address = config.address;
        let listener = match config.node {
            NodeName::A => Some(accept::listen(address)?),
            NodeName::B => None,
        };
        let shared = Arc::new(Shared::new(config));
        let mut acceptor = None;
        if let Some(listener) = listener {
            address = listener.local_addr()?;
            let (made, waker) = Acceptor::new(listener, Arc::clone(&shared))?;
            shared.waker.get_or_init(|| waker);
            acceptor = Some(made);
        }
        // From here on a failure closes what has been started.
        let link = TcpLink { shared, address, threads: Mutex::default() };
        link.spawn("mirror-write", Shared::write_blocked)?;
        if let Some(acceptor) = acceptor {
            link.spawn("mirror-accept", move |shared| {
                if shared.wait_for_inbox() {
                    acceptor.run();
                }
            })?;
        }
        link.spawn("mirror-link", Shared::serve)?;
        Ok(link)
    }

    /// The address of node `a`; its port is the one chosen by the system if 0 was configured there.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the link and waits until its threads have ended; nothing reaches the inbox afterwards. Not to be called
    /// from the inbox, nor with a lock held that the inbox takes.
    pub fn stop(&self) {
        self.close();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A panic of the inbox has been printed by its thread.
            let _ = thread.join();
        }
    }

    fn spawn(&self, name: &str, run: impl FnOnce(&Arc<Shared>) + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || run(&shared))?;
        self.threads.lock().push(thread);
        Ok(())
    }
}

impl Transport for TcpLink {
    fn open(&self, inbox: Arc<dyn Inbox>) {
        *self.shared.inbox.lock() = Some(inbox);
        self.shared.wake();
    }

    fn send(&self, link: u64, message: Message) {
        let current = self.shared.current.lock();
        if let Some(connection) = current.as_ref().filter(|connection| connection.link == link) {
            connection.send(message);
        }
    }

    fn flush(&self) {
        self.shared.flush(When::Now);
    }

    fn flush_if_due(&self) {
        self.shared.flush(When::Due);
    }

    fn disconnect(&self, link: u64) {
        let current = self.shared.current.lock();
        if let Some(connection) = current.as_ref().filter(|connection| connection.link == link) {
            connection.drop_for(|| "the node asked for it".to_owned());
        }
    }

    fn close(&self) {
        self.shared.close();
    }
}

impl Drop for TcpLink {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn new(config: LinkConfig) -> Shared {
        Shared {
            config,
            closed: AtomicBool::new(false),
            attempts: AtomicU64::new(0),
            inbox: Mutex::new(None),
            current: Mutex::new(None),
            waiting: Mutex::new(None),
            changed: Condvar::new(),
            attempt: Mutex::new(None),
            blocked: Mutex::default(),
            unblock: Condvar::new(),
            waker: OnceLock::new(),
            link_thread: OnceLock::new(),
            corked: AtomicBool::new(false),
            said: Mutex::default(),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// A number for the next greeting.
    pub(crate) fn next_attempt(&self) -> u64 {
        self.attempts.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn notify(&self, notice: Notice) {
        if self.said.lock().is_news(&notice) {
            (self.config.notices)(notice);
        }
    }

    /// Makes a close able to cut this attempt short.
    pub(crate) fn watch_attempt(&self, stream: &TcpStream) -> io::Result<()> {
        *self.attempt.lock() = Some(stream.try_clone()?);
        if self.is_closed() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }

    /// The attempt has succeeded or failed.
    pub(crate) fn end_attempt(&self) {
        *self.attempt.lock() = None;
    }

    /// Waits; true if the link is closed.
    pub(crate) fn pause(&self, span: Duration) -> bool {
        let until = Instant::now() + span;
        let mut waiting = self.waiting.lock();
        while !self.is_closed() && !self.changed.wait_until(&mut waiting, until).timed_out() {}
        self.is_closed()
    }

    /// Hands an accepted connection to the link thread. It replaces the one that is up: the partner has given that up.
    pub(crate) fn establish(&self, established: Established) {
        let mut waiting = self.waiting.lock();
        *waiting = Some(established);
        // While it is still waiting: once taken, it would be the current one itself.
        if let Some(connection) = self.current.lock().as_ref() {
            connection.drop_for(|| "the partner made a new connection".to_owned());
        }
        drop(waiting);
        self.changed.notify_all();
    }

    fn wake(&self) {
        // With the lock, so that nobody is between looking and waiting.
        drop(self.waiting.lock());
        self.changed.notify_all();
    }

    /// False if the link was closed before it was opened.
    fn wait_for_inbox(&self) -> bool {
        let mut waiting = self.waiting.lock();
        while self.inbox.lock().is_none() && !self.is_closed() {
            self.changed.wait(&mut waiting);
        }
        !self.is_closed()
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        *self.inbox.lock() = None;
        self.wake();
        drop(self.blocked.lock());
        self.unblock.notify_all();
        if let Some(stream) = self.attempt.lock().take() {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(connection) = self.current.lock().as_ref() {
            connection.drop_for(|| "this node closed the link".to_owned());
        }
        if let Some(waker) = self.waker.get() {
            // Fails only without memory in the kernel; then the thread ends with its next event.
            let _ = waker.wake();
        }
    }

    /// The link thread.
    fn serve(self: &Arc<Shared>) {
        self.link_thread.get_or_init(|| thread::current().id());
        if !self.wait_for_inbox() {
            return;
        }
        let mut dialer = Dialer::new();
        let mut link = 0;
        loop {
            let next = match self.config.node {
                NodeName::A => self.next_accepted(),
                NodeName::B => dialer.next(self),
            };
            let Some(established) = next else { return };
            let Some(inbox) = self.inbox.lock().clone() else { return };
            link += 1;
            self.serve_one(link, established, &*inbox);
        }
    }

    fn next_accepted(&self) -> Option<Established> {
        let mut waiting = self.waiting.lock();
        while waiting.is_none() && !self.is_closed() {
            self.changed.wait(&mut waiting);
        }
        waiting.take().filter(|_| !self.is_closed())
    }

    fn serve_one(&self, link: u64, established: Established, inbox: &dyn Inbox) {
        let Established { stream, send, receive } = established;
        let caps = Caps { bytes: self.config.queue_bytes_max, messages: self.config.queue_messages_max };
        let connection = Arc::new(Connection::new(link, stream, send, caps));
        let up = Up::new(self, Arc::clone(&connection));
        self.notify(Notice::Up { link });
        inbox.link_up(link);
        let end = self.receive_all(&connection, receive, inbox);
        self.corked.store(false, Ordering::Relaxed);
        connection.drop_for(|| end);
        drop(up);
        inbox.link_down(link);
        let reason = connection.reason().unwrap_or_default();
        self.notify(Notice::Down { link, reason });
    }

    /// Receives and delivers until the connection ends; why it did.
    fn receive_all(&self, connection: &Connection, salt: Salt, inbox: &dyn Inbox) -> String {
        let mut decoder = Decoder::new(salt, self.config.pool.clone());
        loop {
            self.corked.store(false, Ordering::Relaxed);
            self.flush(When::Now);
            match decoder.receive(|slices| connection.stream().read_vectored(slices)) {
                Ok(0) => return "the partner closed the connection".to_owned(),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return error.to_string(),
            }
            let mut next = decoder.next();
            while let Ok(Some(message)) = next {
                next = decoder.next();
                if connection.is_dropped() {
                    return String::new();
                }
                self.corked.store(matches!(next, Ok(Some(_))), Ordering::Relaxed);
                inbox.message(connection.link, message);
            }
            if let Err(error) = next {
                return format!("what came from the partner cannot be used: {error}");
            }
        }
    }

    fn flush(&self, when: When) {
        if self.corked.load(Ordering::Relaxed)
            && self.link_thread.get() == Some(&thread::current().id())
            && self.corked.swap(false, Ordering::Relaxed)
        {
            return;
        }
        let Some(connection) = self.current.lock().clone() else { return };
        if connection.flush(when) == Flushed::Blocked {
            self.blocked.lock().push_back(connection);
            self.unblock.notify_one();
        }
    }

    /// The writer thread.
    fn write_blocked(self: &Arc<Shared>) {
        let mut blocked = self.blocked.lock();
        while !self.is_closed() {
            if let Some(connection) = blocked.pop_front() {
                drop(blocked);
                connection.write_on();
                drop(connection);
                blocked = self.blocked.lock();
            } else {
                self.unblock.wait(&mut blocked);
            }
        }
    }
}

/// A connection while it is up. If the inbox panics, the partner notices, and no other connection is made.
struct Up<'a> {
    shared: &'a Shared,
    connection: Arc<Connection>,
}

impl Up<'_> {
    fn new(shared: &Shared, connection: Arc<Connection>) -> Up<'_> {
        *shared.current.lock() = Some(Arc::clone(&connection));
        if shared.waiting.lock().is_some() || shared.is_closed() {
            connection.drop_for(|| "it was overtaken".to_owned());
        }
        Up { shared, connection }
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.connection.drop_for(|| "the node failed".to_owned());
        *self.shared.current.lock() = None;
        if thread::panicking() {
            self.shared.close();
        }
    }
}
