//! Who is at the other end of a session, as reservations know him, and how he is named in parameter lists (TransportID,
//! SPC-4 7.6.4.6).

use crate::access::NAME_BYTES_MAX;

/// An initiator port: iSCSI name and ISID.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Initiator {
    /// In lower case.
    pub(crate) name: String,
    pub(crate) isid: [u8; 6],
}

/// An initiator port and a target port of the pair.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Nexus {
    pub(crate) initiator: Initiator,
    /// Relative identifier of the target port: that of the node.
    pub(crate) port: u16,
    /// Which of the targets.
    pub(crate) site: u16,
}

/// Format 01b, protocol iSCSI.
const NAME_AND_ISID: u8 = 0x45;
const HEAD_BYTES: usize = 4;
const BEFORE_ISID: &str = ",i,0x";
/// Of the part behind the head.
const TAIL_BYTES_MIN: usize = 20;

impl Initiator {
    pub(crate) fn new(name: &str, isid: [u8; 6]) -> Initiator {
        Initiator { name: name.to_ascii_lowercase(), isid }
    }

    /// The TransportID that names it.
    pub(super) fn transport_id(&self) -> Vec<u8> {
        let mut text = format!("{}{BEFORE_ISID}", self.name);
        self.isid.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
        let length = (text.len() + 1).next_multiple_of(4).max(TAIL_BYTES_MIN);
        let mut id = vec![NAME_AND_ISID, 0];
        id.extend_from_slice(&(length as u16).to_be_bytes());
        id.extend_from_slice(text.as_bytes());
        id.resize(HEAD_BYTES + length, 0);
        id
    }

    /// The initiator that the TransportID at the beginning of `bytes` names, and the length of that. Only the form with an
    /// ISID names one.
    pub(super) fn read(bytes: &[u8]) -> Option<(Initiator, usize)> {
        let &[NAME_AND_ISID, _, high, low] = bytes.get(..HEAD_BYTES)? else { return None };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let tail = bytes.get(HEAD_BYTES..HEAD_BYTES + length)?;
        let end = tail.iter().position(|byte| *byte == 0)?;
        let (name, isid) = std::str::from_utf8(&tail[..end]).ok()?.split_once(BEFORE_ISID)?;
        let is_name = (1..=NAME_BYTES_MAX).contains(&name.len());
        if !is_name || isid.len() != 12 || !isid.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let isid = u64::from_str_radix(isid, 16).ok()?.to_be_bytes();
        let isid = [isid[2], isid[3], isid[4], isid[5], isid[6], isid[7]];
        let is_padded = length >= TAIL_BYTES_MIN && length.is_multiple_of(4);
        is_padded.then(|| (Initiator::new(name, isid), HEAD_BYTES + length))
    }
}
