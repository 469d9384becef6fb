//! What an operator is told.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use twinsan::arbiter::Register;
use twinsan::ids::{Members, NodeName, Uuid};

use crate::message::VERSION;
use crate::server::PARTNERSHIPS_MAX;

/// A witness that cannot begin its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; free it or name another")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The directory cannot be made or used.
    #[error("{path} cannot be used: {source}; name a directory that this user can write to")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another witness has the directory.
    #[error("{0} is in use by another witness; give each a directory of its own")]
    InUse(PathBuf),
    /// More partnerships than a witness keeps.
    #[error("{0} partnerships are more than one witness keeps ({PARTNERSHIPS_MAX}); run a second one")]
    TooMany(usize),
    /// The system has no threads, descriptors or random numbers to spare.
    #[error("the system refused: {0}")]
    System(#[from] io::Error),
}

/// Why one end of a connection does not go on with the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The other speaks this version of the protocol; 0 if it has only said that it does not take this one.
    Version(u16),
    /// The asker does not know the secret, or the witness does not know the partnership. It is not said which.
    Unproved,
    /// The connection was overtaken by a newer one of the same asker.
    Stale,
    /// What came is not of this protocol.
    Garbage,
    /// Nothing came in time.
    Silent,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Version(0) => write!(f, "version {VERSION} of the protocol is not taken there"),
            Refusal::Version(other) => write!(
                f,
                "the other end speaks version {other} of the protocol, this one {VERSION}; install the same version on both"
            ),
            Refusal::Unproved => f.write_str(
                "the witness has no such partnership, or another secret for it; compare both secret files",
            ),
            Refusal::Stale => f.write_str("the connection was overtaken by a newer one"),
            Refusal::Garbage => f.write_str("what came is not of this protocol, or was changed on its way"),
            Refusal::Silent => f.write_str("nothing came in time"),
        }
    }
}

/// Something an operator wants to know of a witness.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// A register was changed. It is durable, and the asker has not been answered yet.
    Swapped {
        /// Whose.
        partnership: Uuid,
        /// What it holds now.
        register: Register,
    },
    /// A register cannot be read or written; the asker is told that it failed.
    Failed {
        /// Whose.
        partnership: Uuid,
        /// Why.
        reason: String,
    },
    /// Somebody was refused. Told at most once a second.
    Refused {
        /// Who.
        peer: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// Connections cannot be accepted for the moment.
    Busy {
        /// Why.
        reason: String,
    },
    /// The witness has ended by itself: it answers nobody any more, and its directory and address are free.
    Ended {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Swapped { partnership, register: Register { epoch, members, by } } => {
                let who = match *members {
                    Members::BOTH => "both nodes",
                    one if one == Members::only(NodeName::A) => "a alone",
                    _ => "b alone",
                };
                write!(f, "{:032x}: epoch {epoch}, {who} may serve, written by {by}", partnership.0)
            }
            Notice::Failed { partnership, reason } => write!(f, "{:032x}: {reason}", partnership.0),
            Notice::Refused { peer, refusal } => write!(f, "refused {peer}: {refusal}"),
            Notice::Busy { reason } => write!(f, "no connection can be accepted now: {reason}; trying on"),
            Notice::Ended { reason } => write!(f, "ended: {reason}"),
        }
    }
}
