//! What an operator is told.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use twinsan::ids::NodeName;
use twinsan::mirror::message::PROTOCOL_VERSION;

/// A link that cannot begin its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The address is not of this machine alone.
    #[error(
        "the mirror link takes only loopback addresses, such as 127.0.0.1 or ::1, because it has no keys yet; \
         {0} could be reached by strangers"
    )]
    NotLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("the mirror link cannot listen on {address}: {source}; is another node running there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system has no threads or descriptors to spare.
    #[error("the mirror link cannot start: {0}")]
    Start(#[from] io::Error),
}

/// Why two nodes do not link up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The other speaks this version of the protocol.
    Version(u16),
    /// The other belongs to another partnership.
    Partnership,
    /// The other has the same name.
    SameNode(NodeName),
    /// The attempt is older than one that was accepted.
    Stale,
    /// What came is no greeting, or none came in time.
    NoGreeting,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Version(0) => write!(f, "it does not take protocol version {PROTOCOL_VERSION}"),
            Refusal::Version(other) => write!(
                f,
                "it speaks protocol version {other}, this node {PROTOCOL_VERSION}; install the same version on both"
            ),
            Refusal::Partnership => {
                f.write_str("it belongs to another partnership; check the address and the partnership's UUID")
            }
            Refusal::SameNode(node) => {
                write!(f, "it calls itself {node}, as this node does; one must be a and the other b")
            }
            Refusal::Stale => f.write_str("its attempt was overtaken by a newer one"),
            Refusal::NoGreeting => f.write_str("it does not greet as a node does"),
        }
    }
}

/// Something an operator wants to know of the link.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The nodes are linked.
    Up {
        /// Number of the link.
        link: u64,
    },
    /// They are no more.
    Down {
        /// Number of the link.
        link: u64,
        /// Why.
        reason: String,
    },
    /// The partner cannot be reached. Told once until something else happens.
    Unreachable {
        /// Why.
        reason: String,
    },
    /// Whoever is at the other end is not the partner, or not now. Told once until something else happens.
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
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Up { link } => write!(f, "mirror link {link} is up"),
            Notice::Down { link, reason } => write!(f, "mirror link {link} is down: {reason}"),
            Notice::Unreachable { reason } => write!(f, "the partner cannot be reached: {reason}; trying on"),
            Notice::Refused { peer, refusal } => write!(f, "no mirror link with {peer}: {refusal}"),
            Notice::Busy { reason } => write!(f, "no connection can be accepted now: {reason}; trying on"),
        }
    }
}

/// What was said last, so that a failure repeated at every attempt is told once, and strangers cannot fill a log.
#[derive(Debug, Default)]
pub(crate) struct Said {
    last: Option<Notice>,
    refused: Option<Instant>,
}

/// Refusals are told at most this often.
const REFUSED_EVERY: Duration = Duration::from_secs(1);

impl Said {
    pub(crate) fn is_news(&mut self, notice: &Notice) -> bool {
        let repeated = match (notice, &self.last) {
            (Notice::Refused { peer, refusal }, Some(Notice::Refused { peer: before, refusal: same })) => {
                peer.ip() == before.ip() && refusal == same
            }
            (notice, Some(last)) => notice == last,
            (_, None) => false,
        };
        if repeated {
            return false;
        }
        if matches!(notice, Notice::Refused { .. }) {
            let now = Instant::now();
            if self.refused.is_some_and(|before| now - before < REFUSED_EVERY) {
                return false;
            }
            self.refused = Some(now);
        }
        self.last = Some(notice.clone());
        true
    }
}
