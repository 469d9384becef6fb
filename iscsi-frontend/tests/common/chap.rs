//! The initiator's side of CHAP, with SHA3-256, over a real socket.

#![allow(dead_code, reason = "each test file uses its part")]

use std::net::{SocketAddr, TcpStream};

use sha3::{Digest, Sha3_256};

use crate::initiator::Initiator;

/// A login, a request at a time.
pub(crate) struct Login {
    pub(crate) initiator: Initiator,
}

/// What the target answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    /// Class and detail.
    pub(crate) status: u16,
    pub(crate) flags: u8,
    pub(crate) pairs: Vec<(String, String)>,
}

impl Answer {
    pub(crate) fn value(&self, key: &str) -> &str {
        let found = self.pairs.iter().find(|(found, _)| found == key);
        &found.unwrap_or_else(|| panic!("{key} in {self:?}")).1
    }
}

impl Login {
    pub(crate) fn connect(portal: SocketAddr) -> Login {
        let stream = TcpStream::connect(portal).expect("the portal listens");
        Login { initiator: Initiator { stream, cmd_sn: 1 } }
    }

    /// Sends the text of a request in the security stage, its pairs ended by line feeds; flag bits 0x80 asks to go on, 3
    /// where to.
    pub(crate) fn ask(&mut self, flags: u8, text: &str) -> Answer {
        let mut head = [0; 48];
        head[..2].copy_from_slice(&[0x43, flags]);
        head[24..28].copy_from_slice(&1u32.to_be_bytes());
        self.initiator.send(head, text.replace('\n', "\0").as_bytes());
        let (head, data) = self.initiator.receive();
        assert_eq!(head[0], 0x23);
        let text = String::from_utf8(data).expect("text");
        let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Answer { status: u16::from_be_bytes([head[36], head[37]]), flags: head[1], pairs }
    }

    /// As far as the challenge.
    pub(crate) fn challenge(&mut self, name: &str, more: &str) -> Answer {
        let answer = self.ask(0x81, &format!("InitiatorName={name}\n{more}\nAuthMethod=CHAP\n"));
        assert_eq!((answer.status, answer.flags, answer.value("AuthMethod")), (0, 0, "CHAP"));
        self.ask(0, "CHAP_A=8\n")
    }

    /// All of it, in the name of a user.
    pub(crate) fn prove(&mut self, name: &str, more: &str, user: &str, secret: &str) -> Answer {
        let challenge = self.challenge(name, more);
        let response = response(&challenge, secret);
        self.ask(0x83, &format!("CHAP_N={user}\nCHAP_R={response}\n"))
    }
}

/// The right answer to a challenge, for who knows the secret.
pub(crate) fn response(challenge: &Answer, secret: &str) -> String {
    let bytes = unhex(challenge.value("CHAP_C"));
    let id: u8 = challenge.value("CHAP_I").parse().expect("a number");
    hex(&Sha3_256::new().chain_update([id]).chain_update(secret).chain_update(bytes).finalize())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits = text.strip_prefix("0x").expect("hexadecimal");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits"))
        .collect()
}
