//! Node `b`'s side of making connections: calls node `a` until it answers as the partner.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::accept::GREETING_WITHIN;
use crate::greeting::{self, GREETING_BYTES};
use crate::link::{Established, Shared};
use crate::notice::{Notice, Refusal};

/// Pause after the first failure; it doubles with each.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest pause while the partner is only unreachable.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Pause after a refusal, which only a person can end.
const PAUSE_REFUSED: Duration = Duration::from_secs(1);
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// A link that lived so long was no failure.
const GOOD_AFTER: Duration = Duration::from_secs(1);

pub(crate) struct Dialer {
    pause: Duration,
    connected: Option<Instant>,
}

enum Failed {
    Io(io::Error),
    Refused(Refusal),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Io(error)
    }
}

impl Dialer {
    pub(crate) fn new() -> Dialer {
        Dialer { pause: Duration::ZERO, connected: None }
    }

    /// The next connection; `None` when the link is closed.
    pub(crate) fn next(&mut self, shared: &Shared) -> Option<Established> {
        if self.connected.take().is_some_and(|since| since.elapsed() >= GOOD_AFTER) {
            self.pause = PAUSE_FIRST;
        }
        loop {
            if shared.pause(self.pause) {
                return None;
            }
            self.pause = (self.pause * 2).clamp(PAUSE_FIRST, PAUSE_MAX);
            let dialed = dial(shared);
            shared.end_attempt();
            match dialed {
                Ok(established) => {
                    self.connected = Some(Instant::now());
                    return Some(established);
                }
                Err(Failed::Io(error)) => shared.notify(Notice::Unreachable { reason: error.to_string() }),
                Err(Failed::Refused(refusal)) => {
                    shared.notify(Notice::Refused { peer: shared.config.address, refusal });
                    self.pause = PAUSE_REFUSED;
                }
            }
        }
    }
}

fn dial(shared: &Shared) -> Result<Established, Failed> {
    let mut stream = TcpStream::connect_timeout(&shared.config.address, CONNECT_WITHIN)?;
    shared.watch_attempt(&stream)?;
    let mine = greeting::greet(&shared.config, shared.next_attempt());
    stream.write_all(&mine)?;
    let theirs = hear(&mut stream)?;
    stream.set_read_timeout(None)?;
    greeting::read(&shared.config, &theirs).map_err(Failed::Refused)?;
    Ok(Established::new(stream, &mine, &theirs)?)
}

fn hear(stream: &mut TcpStream) -> Result<greeting::GreetingBytes, Failed> {
    let until = Instant::now() + GREETING_WITHIN;
    let mut bytes = [0; GREETING_BYTES];
    let mut filled = 0;
    while filled < GREETING_BYTES {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failed::Refused(Refusal::NoGreeting));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(Failed::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => filled += count,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(Failed::Io(error)),
        }
        if !greeting::may_begin(&bytes[..filled]) {
            return Err(Failed::Refused(Refusal::NoGreeting));
        }
    }
    Ok(bytes)
}
