//! The asker: the engine's arbiter, on another machine.
//!
//! Invariants: an ask ends within its bound, whatever the witness, the network or the resolver do; whatever goes wrong is
//! an error, after which a swap may or may not have been done, and ends the connection, so that a late answer finds
//! nobody; the next ask makes a new one, which the witness prefers to all that this asker had before.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use twinsan::arbiter::{Answer, Arbiter, ArbiterError, Ask};
use twinsan::ids::Uuid;

use crate::addresses::Addresses;
use crate::body::Failed;
use crate::message::{Bytes, Hello, MESSAGE_BYTES};
use crate::notice::Refusal;
use crate::secret::Secret;
use crate::session::{Asker, Greeting};

/// Where the witness is, and as whom to ask it.
#[derive(Clone, Debug)]
pub struct WitnessConfig {
    /// `host:port`. A name is resolved when it is needed.
    pub address: String,
    /// Whose register it is.
    pub partnership: Uuid,
    /// The partnership's secret.
    pub secret: Secret,
    /// Within this an ask ends: resolving, connecting, proving and the answer. Shorter than four times the node's
    /// `arbiter_retry`, after which the node asks again.
    pub within: Duration,
}

/// A register that a witness keeps. Keeps one connection, with keepalive, from one ask to the next.
#[derive(Debug)]
pub struct Witness {
    config: WitnessConfig,
    /// This life, random.
    asker: u64,
    state: Mutex<State>,
}

struct State {
    addresses: Addresses,
    /// Connections made so far.
    attempts: u32,
    kept: Option<Connection>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} connections so far, now {}", self.attempts, u8::from(self.kept.is_some()))
    }
}

/// Why an ask failed.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("its name cannot be resolved: {0}")]
    Name(String),
    #[error("no connection to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    #[error("no answer in time")]
    Silent,
    #[error("the connection ended: {0}")]
    Ended(io::Error),
    #[error("{0}")]
    Refused(Refusal),
    #[error("it cannot read or write the register; its log says why")]
    Failed,
    #[error("the system has no random numbers: {0}")]
    Random(getrandom::Error),
}

impl Witness {
    /// A witness that is asked from now on. Nothing is done yet: a node must be able to start while it is away.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(config: WitnessConfig) -> io::Result<Witness> {
        let asker = getrandom::u64()?;
        let addresses = Addresses::of(&config.address);
        Ok(Witness { config, asker, state: Mutex::new(State { addresses, attempts: 0, kept: None }) })
    }

    fn try_ask(&self, state: &mut State, ask: Ask) -> Result<Answer, AskError> {
        let until = Instant::now() + self.config.within;
        let kept = state.kept.take().filter(Connection::is_alive);
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect(state, until)?,
        };
        let answer = connection.ask(ask, until)?;
        state.kept = Some(connection);
        answer.map_err(|Failed| AskError::Failed)
    }

    fn connect(&self, state: &mut State, until: Instant) -> Result<Connection, AskError> {
        let addresses = state.addresses.get(until).map_err(AskError::Name)?;
        let mut outcome = Err(AskError::Silent);
        for (at, address) in addresses.iter().enumerate() {
            // Each of those that are left may take its share of the time that is left.
            let share = left(until)? / (addresses.len() - at) as u32;
            outcome = TcpStream::connect_timeout(address, share)
                .map_err(|error| AskError::Connect(*address, error));
            if outcome.is_ok() {
                break;
            }
        }
        let stream = outcome.inspect_err(|_| state.addresses.doubt())?;
        state.attempts += 1;
        self.log_in(stream, state.attempts, until)
    }

    fn log_in(&self, mut stream: TcpStream, attempt: u32, until: Instant) -> Result<Connection, AskError> {
        tune(&stream).map_err(AskError::Ended)?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(AskError::Random)?;
        let partnership = self.config.partnership;
        let greeting = Greeting::new(&Hello { partnership, nonce, asker: self.asker, attempt });
        let challenge = exchange(&mut stream, &greeting.hello, until)?;
        let asker = greeting.challenged(&self.config.secret, &challenge).map_err(AskError::Refused)?;
        Ok(Connection { stream, asker })
    }
}

impl Arbiter for Witness {
    fn ask(&self, ask: Ask) -> Result<Answer, ArbiterError> {
        let outcome = self.try_ask(&mut self.state.lock(), ask);
        outcome.map_err(|error| ArbiterError { reason: format!("witness {}: {error}", self.config.address) })
    }
}

struct Connection {
    stream: TcpStream,
    asker: Asker,
}

impl Connection {
    /// Neither closed nor spoken on since the last answer, as far as this machine has heard.
    fn is_alive(&self) -> bool {
        let peek = || {
            self.stream.set_nonblocking(true)?;
            let heard = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false)?;
            heard
        };
        peek().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn ask(&mut self, ask: Ask, until: Instant) -> Result<Result<Answer, Failed>, AskError> {
        let frame = exchange(&mut self.stream, &self.asker.ask(ask), until)?;
        self.asker.answered(&frame).map_err(AskError::Refused)
    }
}

/// A machine that is gone is noticed before it is asked: after half a minute of silence.
fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let (idle, again) = (Duration::from_secs(15), Duration::from_secs(5));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(again).with_retries(3))
}

fn left(until: Instant) -> Result<Duration, AskError> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(AskError::Silent) } else { Ok(left) }
}

/// Sends a message and waits for the one that answers it.
fn exchange(stream: &mut TcpStream, message: &Bytes, until: Instant) -> Result<Bytes, AskError> {
    stream.set_write_timeout(Some(left(until)?)).map_err(AskError::Ended)?;
    stream.write_all(message).map_err(ended)?;
    let mut answer = [0; MESSAGE_BYTES];
    let mut missing = answer.as_mut_slice();
    while !missing.is_empty() {
        stream.set_read_timeout(Some(left(until)?)).map_err(AskError::Ended)?;
        match stream.read(missing) {
            Ok(0) => return Err(AskError::Ended(io::ErrorKind::UnexpectedEof.into())),
            Ok(bytes) => missing = &mut missing[bytes..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ended(error)),
        }
    }
    Ok(answer)
}

fn ended(error: io::Error) -> AskError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::Silent,
        _ => AskError::Ended(error),
    }
}
