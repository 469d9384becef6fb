//! Node `a`'s side of making connections: listens, hears greetings, and hands over who may link.
//!
//! Strangers cost at most [`STRANGERS_MAX`] descriptors and 64 bytes each, for at most two seconds; a flood of them
//! does not delay the partner by more than its place in the queue, since the oldest is dropped for the newest.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::config::is_loopback;
use crate::greeting::{self, GREETING_BYTES, Greeting, GreetingBytes};
use crate::link::{Established, Shared};
use crate::notice::{LinkError, Notice, Refusal};

const STRANGERS_MAX: usize = 16;
/// Within this a greeting must have come.
pub(crate) const GREETING_WITHIN: Duration = Duration::from_secs(2);
/// After a failure to accept (no descriptors left) it is tried again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const LISTENER: Token = Token(STRANGERS_MAX);
const WAKER: Token = Token(STRANGERS_MAX + 1);

/// Somebody who has connected and not yet greeted.
struct Stranger {
    stream: mio::net::TcpStream,
    peer: SocketAddr,
    greeting: GreetingBytes,
    filled: usize,
    until: Instant,
}

pub(crate) struct Acceptor {
    poll: Poll,
    listener: TcpListener,
    strangers: [Option<Stranger>; STRANGERS_MAX],
    accept_again: Option<Instant>,
    /// Boot id and number of the newest attempt that was accepted.
    newest: Option<Greeting>,
    shared: Arc<Shared>,
}

/// Opens the listening socket; connections wait there until [`Acceptor::run`].
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, LinkError> {
    TcpListener::bind(address).map_err(|source| LinkError::Listen { address, source })
}

impl Acceptor {
    pub(crate) fn new(mut listener: TcpListener, shared: Arc<Shared>) -> io::Result<(Acceptor, Waker)> {
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let strangers = [const { None }; STRANGERS_MAX];
        let acceptor = Acceptor { poll, listener, strangers, accept_again: None, newest: None, shared };
        Ok((acceptor, waker))
    }

    /// Until the link is closed.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(STRANGERS_MAX + 2);
        while !self.shared.is_closed() {
            if let Err(error) = self.poll.poll(&mut events, self.patience())
                && error.kind() != io::ErrorKind::Interrupted
            {
                self.shared.notify(Notice::Busy { reason: error.to_string() });
                return;
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    WAKER => {}
                    Token(index) => self.hear(index),
                }
            }
            self.lose_patience();
        }
    }

    fn patience(&self) -> Option<Duration> {
        let next =
            self.strangers.iter().flatten().map(|stranger| stranger.until).chain(self.accept_again).min();
        next.map(|until| until.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    fn lose_patience(&mut self) {
        let now = Instant::now();
        for index in 0..STRANGERS_MAX {
            if self.strangers[index].as_ref().is_some_and(|stranger| stranger.until <= now) {
                self.refuse(index, Refusal::NoGreeting);
            }
        }
        if self.accept_again.is_some_and(|again| again <= now) {
            self.accept();
        }
    }

    fn accept(&mut self) {
        self.accept_again = None;
        loop {
            match self.listener.accept() {
                Ok((stream, peer)) if is_loopback(peer.ip()) => self.admit(stream, peer),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_transient(&error) => {}
                Err(error) => {
                    self.shared.notify(Notice::Busy { reason: error.to_string() });
                    self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, mut stream: mio::net::TcpStream, peer: SocketAddr) {
        let index = self.place();
        if self.poll.registry().register(&mut stream, Token(index), Interest::READABLE).is_err() {
            return;
        }
        let until = Instant::now() + GREETING_WITHIN;
        self.strangers[index] =
            Some(Stranger { stream, peer, greeting: [0; GREETING_BYTES], filled: 0, until });
        self.hear(index);
    }

    /// A free place, made by dropping the oldest stranger if need be.
    fn place(&mut self) -> usize {
        let age = |stranger: &Option<Stranger>| stranger.as_ref().map(|stranger| stranger.until);
        let index = (0..STRANGERS_MAX).min_by_key(|index| age(&self.strangers[*index])).unwrap_or(0);
        self.strangers[index] = None;
        index
    }

    fn hear(&mut self, index: usize) {
        let Some(stranger) = &mut self.strangers[index] else { return };
        while stranger.filled < GREETING_BYTES {
            match stranger.stream.read(&mut stranger.greeting[stranger.filled..]) {
                Ok(0) => {
                    self.strangers[index] = None;
                    return;
                }
                Ok(bytes) => stranger.filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.strangers[index] = None;
                    return;
                }
            }
        }
        if !greeting::may_begin(&stranger.greeting[..stranger.filled]) {
            self.refuse(index, Refusal::NoGreeting);
        } else if stranger.filled == GREETING_BYTES {
            self.judge(index);
        }
    }

    fn judge(&mut self, index: usize) {
        let Some(stranger) = &self.strangers[index] else { return };
        let theirs = stranger.greeting;
        let verdict = greeting::read(&self.shared.config, &theirs).and_then(|greeting| {
            let stale =
                |newest: Greeting| newest.boot == greeting.boot && newest.connection >= greeting.connection;
            if self.newest.is_some_and(stale) { Err(Refusal::Stale) } else { Ok(greeting) }
        });
        match verdict {
            Ok(greeting) => {
                let Some(stranger) = self.strangers[index].take() else { return };
                if self.welcome(stranger).is_ok() {
                    self.newest = Some(greeting);
                }
            }
            Err(refusal) => self.refuse(index, refusal),
        }
    }

    fn refuse(&mut self, index: usize, refusal: Refusal) {
        let Some(mut stranger) = self.strangers[index].take() else { return };
        if let Some(answer) = greeting::refuse(&self.shared.config, refusal) {
            // A courtesy: if 64 bytes do not fit an unused socket, the other end is told nothing.
            let _ = stranger.stream.write(&answer);
        }
        self.shared.notify(Notice::Refused { peer: stranger.peer, refusal });
    }

    fn welcome(&mut self, mut stranger: Stranger) -> io::Result<()> {
        self.poll.registry().deregister(&mut stranger.stream)?;
        let mine = greeting::greet(&self.shared.config, self.shared.next_attempt());
        // The socket's buffer is empty, so the answer is taken whole or the connection is of no use.
        if stranger.stream.write(&mine)? != GREETING_BYTES {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let stream = TcpStream::from(stranger.stream);
        stream.set_nonblocking(false)?;
        self.shared.establish(Established::new(stream, &mine, &stranger.greeting)?);
        Ok(())
    }
}

/// Errors of one connection, not of listening (accept(2)).
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
        || matches!(
            error.raw_os_error(),
            Some(libc::EPROTO | libc::ENETDOWN | libc::EHOSTDOWN | libc::EHOSTUNREACH)
        )
}
