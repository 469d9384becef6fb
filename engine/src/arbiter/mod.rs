//! The arbiter: a register that remembers who was last allowed to serve.
//!
//! Not a ping. A node that loses its partner must win a compare-and-swap here before it serves alone; a node
//! that comes back learns here whether it is current. The core sends [`Ask`]s as actions and gets
//! [`Answer`]s as events; the runtime carries them to an [`Arbiter`].

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Members, NodeName};

pub mod image;
mod memory;
mod past;

pub use memory::MemoryArbiter;
pub use past::{Past, WentBack};

/// What the register of one partnership holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Register {
    /// Number of the membership; only rises.
    pub epoch: Epoch,
    /// Who may serve.
    pub members: Members,
    /// Who wrote it.
    pub by: NodeName,
}

/// A request to the arbiter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// What does the register hold?
    Read,
    /// Replace `expect` by `new`; refused if the register holds anything else. `None`: nothing written yet.
    Swap {
        /// What it must hold now.
        expect: Option<Register>,
        /// What it shall hold.
        new: Register,
    },
}

impl Ask {
    /// What is to be answered when the register holds `now`. The answer's register is what it must hold
    /// afterwards: whoever keeps the register writes it, if it was swapped, before answering.
    ///
    /// A swap that would let the epoch stand still or fall is refused, whatever it expects.
    pub fn decide(self, now: Option<Register>) -> Answer {
        match self {
            Ask::Swap { expect, new } if expect == now && now.is_none_or(|now| now.epoch < new.epoch) => {
                Answer { swapped: true, register: Some(new) }
            }
            Ask::Read | Ask::Swap { .. } => Answer { swapped: false, register: now },
        }
    }
}

/// The arbiter's answer: always what the register holds after the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// For a swap: was it done?
    pub swapped: bool,
    /// What the register holds now.
    pub register: Option<Register>,
}

/// The arbiter could not be asked, or its answer was lost: a swap may or may not have been done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the arbiter cannot be asked: {reason}")]
pub struct ArbiterError {
    /// What went wrong.
    pub reason: String,
}

/// A register that outlives both nodes. Calls may block; the runtime makes them on a thread of their own.
pub trait Arbiter: Send + Sync {
    /// Carries out one request. A swap is atomic and durable before it is answered.
    fn ask(&self, ask: Ask) -> Result<Answer, ArbiterError>;
}

/// How it is decided who serves when the nodes lose each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arbitration {
    /// An [`Arbiter`] decides.
    Register,
    /// No arbiter: the preferred node goes on, the other stops. If the preferred node dies, the service stops.
    #[default]
    Preferred,
    /// No arbiter: both stop.
    StopBoth,
}
