//! Names of things, as types, so that one cannot be taken for another.

use core::fmt;
use serde::{Deserialize, Serialize};

/// One of the two nodes of a partnership.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
pub enum NodeName {
    /// The first node.
    A = 0,
    /// The second node.
    B = 1,
}

impl NodeName {
    /// Both nodes, in order.
    pub const BOTH: [NodeName; 2] = [NodeName::A, NodeName::B];

    /// The other node of the pair.
    pub const fn partner(self) -> NodeName {
        match self {
            NodeName::A => NodeName::B,
            NodeName::B => NodeName::A,
        }
    }

    /// 0 for `a`, 1 for `b`.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NodeName::A => "a",
            NodeName::B => "b",
        })
    }
}

/// Kinds of volumes that are made while a node runs, told apart by what their numbers leave when they are divided by this:
/// mirrored ones, and linear ones of each node. So the nodes never give the same number to two that are not one.
pub const NUMBER_KINDS: u32 = 3;

/// A set of nodes: who may serve.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Members(u8);

impl Members {
    /// Both nodes.
    pub const BOTH: Members = Members(3);

    /// Just this node.
    pub const fn only(node: NodeName) -> Members {
        Members(1 << node as u8)
    }

    /// Is `node` in the set?
    pub const fn has(self, node: NodeName) -> bool {
        self.0 >> (node as u8) & 1 == 1
    }

    /// The byte stored on disk and wire: bit 0 is `a`, bit 1 is `b`.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From the stored byte; `None` unless it names one node or both.
    pub const fn from_bits(bits: u8) -> Option<Members> {
        if bits >= 1 && bits <= 3 { Some(Members(bits)) } else { None }
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            1 => "{a}",
            2 => "{b}",
            _ => "{a,b}",
        })
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(/// A volume, unique in a partnership. A mirrored virtual volume has the same id on both nodes.
    VolumeId(u32));
number!(/// A disk of a pool, by its place in the pool.
    DiskId(u16));
number!(/// A 128-bit identity (pool, disk, partnership), random at creation.
    Uuid(u128));
number!(/// Number of the partnership's membership; rises with every change of who may serve.
    Epoch(u64));
number!(/// Identity of one life of a node's memory.
    BootId(u64));
number!(/// A name under which something is kept with a volume. Names below 256 are the front end's, those from 2^31 on the engine's.
    ItemName(u32));

impl ItemName {
    /// The volume's name for people, in UTF-8: before the one in the configuration, if there is one.
    pub const NAME: ItemName = ItemName(1 << 31);
}

number!(/// Identity of the data of one half; zero means that the half has never held data.
    Generation(u128));
number!(/// A guest request in progress, chosen by the caller, unique while the request lives.
    RequestId(u64));
