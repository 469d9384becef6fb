//! Who is connected to a witness, within bounds.
//!
//! Invariants:
//! - At most [`STRANGERS_MAX`] have not proved who they are, for at most [`LOGIN_WITHIN`] each. A newcomer takes the place
//!   of the oldest; of those that have named a partnership that is kept, only if there are no others.
//! - A partnership has at most [`CONNECTIONS_MAX`]: both nodes, and what is left of earlier lives of them. A newcomer
//!   takes the place of the one that has been silent longest.
//! - An asker has one that is heard. The first question of a newer attempt ends the older ones, those that have not asked
//!   yet too: a question may be on its way on them, and would come after the later one when the newer is closed. An older
//!   attempt that comes later is refused while the newer is there.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use crate::message::{self, Bytes, Hello, MESSAGE_BYTES};
use crate::notice::Refusal;
use crate::session::{Guest, Host};

/// Connections that have not proved anything yet.
pub(crate) const STRANGERS_MAX: usize = 64;
/// Connections of one partnership.
pub(crate) const CONNECTIONS_MAX: usize = 4;
/// Within this the first question must have come.
pub(crate) const LOGIN_WITHIN: Duration = Duration::from_secs(2);

/// One connection.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) host: Host,
    message: Bytes,
    filled: usize,
    /// When it is closed unless it has proved who it is.
    login_until: Option<Instant>,
    /// Number of the last message, of all that have come to the witness.
    heard: u64,
}

/// Why a connection is ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It is closed or broken.
    Gone,
    /// Whoever is there is told why.
    Refused(Refusal),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Gone
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> End {
        End::Refused(refusal)
    }
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, peer: SocketAddr) -> Connection {
        Connection {
            stream,
            peer,
            host: Host::Silent,
            message: [0; MESSAGE_BYTES],
            filled: 0,
            login_until: Some(Instant::now() + LOGIN_WITHIN),
            heard: 0,
        }
    }

    /// The next message, if it is there as a whole. Reads no further than its end.
    pub(crate) fn receive(&mut self) -> Result<Option<Bytes>, End> {
        while let Some(missing) = self.message.get_mut(self.filled..).filter(|missing| !missing.is_empty()) {
            match self.stream.read(missing) {
                Ok(0) => return Err(End::Gone),
                Ok(bytes) => self.filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let (come, _) = self.message.split_at(self.filled);
        if matches!(self.host, Host::Silent) && !message::may_begin(come) {
            return Err(Refusal::Garbage.into());
        }
        if self.filled < MESSAGE_BYTES {
            return Ok(None);
        }
        self.filled = 0;
        Ok(Some(self.message))
    }

    /// Whoever reads their answers has room for one; nobody else is waited for.
    pub(crate) fn send(&mut self, bytes: &Bytes) -> Result<(), End> {
        if self.stream.write(bytes)? == MESSAGE_BYTES { Ok(()) } else { Err(End::Gone) }
    }

    /// Strangers that have named a partnership that is kept go last; of others the oldest goes first.
    fn claim(&self) -> Option<(bool, Instant)> {
        let named = matches!(&self.host, Host::Challenged(guest) if guest.known);
        self.login_until.map(|until| (named, until))
    }
}

/// All connections, by their place.
#[derive(Default)]
pub(crate) struct Connections {
    places: Vec<Option<Connection>>,
    heard: u64,
}

impl Connections {
    pub(crate) fn get(&mut self, place: usize) -> Option<&mut Connection> {
        self.places.get_mut(place)?.as_mut()
    }

    pub(crate) fn remove(&mut self, place: usize) -> Option<Connection> {
        self.places.get_mut(place)?.take()
    }

    fn all(&self) -> impl Iterator<Item = (usize, &Connection)> {
        let places = self.places.iter().enumerate();
        places.filter_map(|(place, connection)| Some(place).zip(connection.as_ref()))
    }

    /// Takes in a stranger; its place.
    pub(crate) fn admit(&mut self, connection: Connection) -> usize {
        let claims: Vec<_> = self.all().filter_map(|(place, other)| Some((other.claim()?, place))).collect();
        if claims.len() >= STRANGERS_MAX
            && let Some((_, weakest)) = claims.into_iter().min()
        {
            self.remove(weakest);
        }
        let free = self.places.iter().position(Option::is_none);
        let place = free.unwrap_or(self.places.len());
        if free.is_none() {
            self.places.push(None);
        }
        self.places[place] = Some(connection);
        place
    }

    /// A question has come from someone who has proved to be who they are.
    pub(crate) fn proved(&mut self, place: usize) -> Result<(), Refusal> {
        self.heard += 1;
        let Some(connection) = self.places.get_mut(place).and_then(Option::as_mut) else { return Ok(()) };
        connection.heard = self.heard;
        if connection.login_until.take().is_some() { self.log_in(place) } else { Ok(()) }
    }

    fn log_in(&mut self, place: usize) -> Result<(), Refusal> {
        let who = |connection: &Connection| connection.host.proved().map(|guest| guest.hello);
        let Some(new) = self.places[place].as_ref().and_then(who) else { return Ok(()) };
        self.end_unproved(new);
        let others = self.all().filter(|(other, connection)| {
            *other != place && who(connection).is_some_and(|hello| hello.partnership == new.partnership)
        });
        let mut others: Vec<(u64, usize)> =
            others.map(|(other, connection)| (connection.heard, other)).collect();
        others.sort_unstable();
        for (_, other) in &others {
            let Some(hello) = self.places[*other].as_ref().and_then(who) else { continue };
            match hello.asker == new.asker {
                true if hello.attempt >= new.attempt => return Err(Refusal::Stale),
                true => drop(self.remove(*other)),
                false => {}
            }
        }
        others.retain(|(_, other)| self.places[*other].is_some());
        for (_, oldest) in others.iter().rev().skip(CONNECTIONS_MAX - 1) {
            self.remove(*oldest);
        }
        Ok(())
    }

    /// Ends what says that it is an older attempt of the asker that has proved `new`, and has not asked anything yet.
    fn end_unproved(&mut self, new: Hello) {
        for place in &mut self.places {
            let host = place.as_ref().map(|connection| &connection.host);
            if let Some(Host::Challenged(Guest { hello, .. })) = host
                && (hello.partnership, hello.asker) == (new.partnership, new.asker)
                && hello.attempt < new.attempt
            {
                *place = None;
            }
        }
    }

    /// When the next stranger has had its time.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.all().filter_map(|(_, connection)| connection.login_until).min()
    }

    /// Strangers that have had theirs.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<usize> {
        let late = |connection: &Connection| connection.login_until.is_some_and(|until| until <= now);
        self.all().filter(|(_, connection)| late(connection)).map(|(place, _)| place).collect()
    }
}
