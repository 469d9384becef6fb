//! The witness at work: one thread that waits for sockets, and carries out one question after the other.
//!
//! Invariants: a register is durable before its question is answered; nothing here waits for a socket, so nobody holds up
//! the others but the disk, which all need; one turn of one connection takes one message, and one turn of the listener a
//! bounded number of newcomers, each with the message that it has brought. A thread that panics lets go of everything
//! and tells its owner.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{SockRef, TcpKeepalive};
use twinsan::arbiter::Ask;
use twinsan::ids::Uuid;

use crate::body::Failed;
use crate::connections::{Connection, Connections, End};
use crate::message;
use crate::notice::{Notice, Refusal, WitnessError};
use crate::registers::Registers;
use crate::secret::Secret;
use crate::session::{Heard, Secrets};

/// Partnerships that one witness keeps.
pub const PARTNERSHIPS_MAX: usize = 256;
/// Newcomers before others have their turn.
const NEWCOMERS_MAX: usize = 64;
const EVENTS_MAX: usize = 256;
/// After a failure to accept (no descriptors left) it is tried again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Refusals are told at most this often.
const REFUSED_EVERY: Duration = Duration::from_secs(1);
const LISTENER: Token = Token(usize::MAX - 1);
const WAKER: Token = Token(usize::MAX - 2);

/// What a witness needs to know.
#[derive(Clone)]
pub struct ServerConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the registers are; made if it is not there. Of this witness alone.
    pub directory: PathBuf,
    /// The partnerships that are kept, and their secrets: at most [`PARTNERSHIPS_MAX`].
    pub secrets: BTreeMap<Uuid, Secret>,
    /// Is told what an operator wants to know. Called from the witness's thread; must not block.
    pub notices: Arc<dyn Fn(Notice) + Send + Sync>,
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerConfig({}, {} partnerships)", self.listen, self.secrets.len())
    }
}

/// A witness. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Takes the directory, listens, and begins to answer.
    ///
    /// # Errors
    /// The directory cannot be used or another witness has it, the address cannot be listened on, there are too many
    /// partnerships, or the system has no threads or random numbers to spare.
    pub fn start(config: ServerConfig) -> Result<Server, WitnessError> {
        if config.secrets.len() > PARTNERSHIPS_MAX {
            return Err(WitnessError::TooMany(config.secrets.len()));
        }
        let secrets = Secrets::new(config.secrets).map_err(io::Error::from)?;
        let registers = Registers::open(&config.directory)?;
        let address = config.listen;
        let listen = |source| WitnessError::Listen { address, source };
        let mut listener = TcpListener::bind(address).map_err(listen)?;
        let address = listener.local_addr()?;
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&config.notices);
        let reactor = Reactor {
            poll,
            listener,
            accept_again: None,
            connections: Connections::default(),
            registers,
            secrets,
            notices: config.notices,
            told_at: None,
            stopped: Arc::clone(&stopped),
        };
        let thread = thread::Builder::new().name("witness".into()).spawn(move || live(reactor, &*tell))?;
        Ok(Server { address, stopped, waker, thread: Some(thread) })
    }

    /// Where it listens; the port is the one chosen by the system if 0 was configured.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it; the directory is free afterwards.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        if self.waker.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic has been printed by its thread.
            let _ = thread.join();
        }
    }
}

/// The thread. What it held is free when its owner is told that it has ended by itself.
fn live(reactor: Reactor, tell: &(dyn Fn(Notice) + Send + Sync)) {
    let outcome = catch_unwind(AssertUnwindSafe(|| reactor.run()));
    let panicked = |_| Err("its thread has panicked, see above".to_owned());
    if let Err(reason) = outcome.unwrap_or_else(panicked) {
        tell(Notice::Ended { reason });
    }
}

struct Reactor {
    poll: Poll,
    listener: TcpListener,
    accept_again: Option<Instant>,
    connections: Connections,
    registers: Registers,
    secrets: Secrets,
    notices: Arc<dyn Fn(Notice) + Send + Sync>,
    /// When a refusal was told last.
    told_at: Option<Instant>,
    stopped: Arc<AtomicBool>,
}

impl Reactor {
    /// Until it is stopped, or cannot go on, for this reason.
    fn run(mut self) -> Result<(), String> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        while !self.stopped.load(Ordering::Acquire) {
            if let Err(error) = self.poll.poll(&mut events, self.patience())
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error.to_string());
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    WAKER => {}
                    Token(place) => self.turn(place),
                }
            }
            self.lose_patience();
        }
        Ok(())
    }

    fn patience(&self) -> Option<Duration> {
        let next = self.connections.deadline().into_iter().chain(self.accept_again).min();
        next.map(|until| until.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    fn lose_patience(&mut self) {
        let now = Instant::now();
        for place in self.connections.overdue(now) {
            self.end(place, Refusal::Silent.into());
        }
        if self.accept_again.take_if(|again| *again <= now).is_some() {
            self.accept();
        }
    }

    fn accept(&mut self) {
        for _ in 0..NEWCOMERS_MAX {
            match self.listener.accept() {
                Ok((stream, peer)) => self.admit(Connection::new(stream, peer)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    (self.notices)(Notice::Busy { reason: error.to_string() });
                    self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
        // Asked anew, the poll tells again that there is more.
        if self.poll.registry().reregister(&mut self.listener, LISTENER, Interest::READABLE).is_err() {
            self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
        }
    }

    fn admit(&mut self, connection: Connection) {
        let place = self.connections.admit(connection);
        let Some(Connection { stream, .. }) = self.connections.get(place) else { return };
        if self.poll.registry().register(stream, Token(place), Interest::READABLE).is_err() {
            self.connections.remove(place);
            return;
        }
        // Its hello may be here already. Unread, it would be a stranger without a name, and among many others the first
        // to go for the next newcomer.
        self.turn(place);
    }

    /// A connection has something to say, or has ended.
    fn turn(&mut self, place: usize) {
        if let Err(end) = self.hear(place) {
            self.end(place, end);
        }
    }

    fn hear(&mut self, place: usize) -> Result<(), End> {
        let Some(connection) = self.connections.get(place) else { return Ok(()) };
        let Some(bytes) = connection.receive()? else { return Ok(()) };
        let mut fresh = [0; 16];
        getrandom::fill(&mut fresh).map_err(io::Error::from)?;
        match connection.host.hear(&bytes, &self.secrets, fresh)? {
            Heard::Send(challenge) => connection.send(&challenge)?,
            Heard::Question(ask) => self.question(place, ask)?,
        }
        let Some(Connection { stream, .. }) = self.connections.get(place) else { return Ok(()) };
        // Asked anew, the poll tells again if there is more.
        Ok(self.poll.registry().reregister(stream, Token(place), Interest::READABLE)?)
    }

    fn question(&mut self, place: usize, ask: Ask) -> Result<(), End> {
        self.connections.proved(place)?;
        let Some(connection) = self.connections.get(place) else { return Ok(()) };
        let Some(guest) = connection.host.proved() else { return Ok(()) };
        let partnership = guest.hello.partnership;
        tune(&connection.stream)?;
        let told = self.registers.ask(partnership, ask);
        match &told {
            Ok(answer) if answer.swapped => {
                if let Some(register) = answer.register {
                    (self.notices)(Notice::Swapped { partnership, register });
                }
            }
            Ok(_) => {}
            Err(error) => (self.notices)(Notice::Failed { partnership, reason: error.reason.clone() }),
        }
        match connection.host.answer(told.map_err(|_| Failed)) {
            Some(answer) => connection.send(&answer),
            None => Ok(()),
        }
    }

    fn end(&mut self, place: usize, end: End) {
        let Some(mut connection) = self.connections.remove(place) else { return };
        let End::Refused(refusal) = end else { return };
        if let Some(word) = message::refuse(refusal) {
            // A courtesy: if it does not fit, the other end is told nothing.
            let _ = connection.send(&word);
        }
        let now = Instant::now();
        if self.told_at.is_none_or(|before| now - before >= REFUSED_EVERY) {
            self.told_at = Some(now);
            (self.notices)(Notice::Refused { peer: connection.peer, refusal });
        }
    }
}

/// An asker whose machine is gone shall not keep its place.
fn tune(stream: &mio::net::TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let (idle, again) = (Duration::from_secs(30), Duration::from_secs(10));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(again).with_retries(3))
}
