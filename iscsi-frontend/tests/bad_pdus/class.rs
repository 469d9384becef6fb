//! A class of bad PDUs, and what RFC 7143 wants a target to do about it.

use std::net::SocketAddr;

use crate::random::Random;
use crate::wire::{Answer, Peer};

/// Where a bad PDU is sent.
#[derive(Clone, Copy)]
pub(crate) enum Start {
    /// On a new connection.
    Connection,
    /// In a session with these keys.
    Session(&'static str),
}

/// Keys of most sessions: bursts are short, so that they can be exceeded cheaply.
pub(crate) const SHORT: Start =
    Start::Session("InitialR2T=No\0ImmediateData=Yes\0FirstBurstLength=8192\0MaxBurstLength=16384\0");
pub(crate) const DIGESTS: Start = Start::Session("HeaderDigest=CRC32C\0DataDigest=CRC32C\0");
pub(crate) const CAREFUL: Start = Start::Session("InitialR2T=Yes\0ImmediateData=No\0");
pub(crate) const DISCOVERY: Start = Start::Session("SessionType=Discovery\0");

/// An answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// A login response with this class and detail (11.13.5).
    Login(u16),
    /// A Reject for this reason (11.17.1).
    Reject(u8),
    /// A SCSI response with CHECK CONDITION: key, code, qualifier.
    Sense(u8, u8, u8),
    /// A response with this opcode and response code.
    Response(u8, u8),
    Other(u8),
}

/// What becomes of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum After {
    /// The target closes it.
    Ends,
    /// It goes on as if nothing had been.
    GoesOn,
    /// It goes on; what was begun there is left behind.
    IsLeft,
    /// Any answer and either end: the PDU is noise.
    IsAnything,
}

pub(crate) struct Class {
    pub(crate) name: &'static str,
    /// The section that says so: of RFC 7143, or as it is named.
    pub(crate) rule: &'static str,
    pub(crate) start: Start,
    /// Sends it, and reads what comes before it.
    pub(crate) attack: fn(&mut Peer, &mut Random),
    pub(crate) told: &'static [Told],
    pub(crate) after: After,
}

impl Class {
    pub(crate) const fn new(
        name: &'static str,
        rule: &'static str,
        start: Start,
        attack: fn(&mut Peer, &mut Random),
        told: &'static [Told],
        after: After,
    ) -> Class {
        Class { name, rule, start, attack, told, after }
    }

    /// What comes before the full-feature phase ends the connection.
    pub(crate) const fn before_login(
        name: &'static str,
        rule: &'static str,
        told: &'static [Told],
        attack: fn(&mut Peer, &mut Random),
    ) -> Class {
        Class::new(name, rule, Start::Connection, attack, told, After::Ends)
    }

    /// Sends one and looks at the answer; gives back the session if it can be used again.
    pub(crate) fn run(
        &self,
        portal: SocketAddr,
        name: &str,
        kept: Option<Peer>,
        random: &mut Random,
    ) -> Option<Peer> {
        let mut peer = kept.unwrap_or_else(|| match self.start {
            Start::Connection => Peer::connect(portal),
            Start::Session(keys) => Peer::login(portal, name, keys),
        });
        (self.attack)(&mut peer, random);
        if self.after == After::IsAnything {
            peer.say_no_more();
            while peer.receive().is_some() {}
            return None;
        }
        for expected in self.told {
            let answer = peer.receive();
            let found = answer.as_ref().map(told);
            assert_eq!(found, Some(*expected), "{} ({}): {answer:x?}", self.name, self.rule);
        }
        match self.after {
            After::Ends => {
                let more = peer.receive();
                assert!(more.is_none(), "{} ({}): {more:x?}", self.name, self.rule);
                None
            }
            _ => {
                assert!(peer.is_alive(), "{} ({}): the session goes on", self.name, self.rule);
                (self.after == After::GoesOn).then_some(peer)
            }
        }
    }
}

fn told(answer: &Answer) -> Told {
    let head = &answer.head;
    match head[0] {
        0x23 => Told::Login(u16::from_be_bytes([head[36], head[37]])),
        0x3f => Told::Reject(head[2]),
        0x21 if head[3] == 2 && answer.data.len() >= 20 => {
            let sense = &answer.data[2..];
            Told::Sense(sense[2] & 15, sense[12], sense[13])
        }
        0x22 | 0x26 => Told::Response(head[0], head[2]),
        opcode => Told::Other(opcode),
    }
}
