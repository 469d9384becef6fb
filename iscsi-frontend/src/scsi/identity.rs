//! Who a logical unit and a target port say they are. The same on both nodes, apart from the port.

use twinsan::guest::VolumeInfo;

/// The target port (one a node) as SCSI sees it.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    /// The target's iSCSI name, the same on both nodes.
    pub(crate) target: String,
    /// This node's target port group, relative port identifier, and portal group tag.
    pub(crate) group: u16,
    /// The partner's.
    pub(crate) partner_group: u16,
    pub(crate) vendor: [u8; 8],
    pub(crate) product: [u8; 16],
    pub(crate) revision: [u8; 4],
}

impl Port {
    pub(crate) fn new(target: &str, groups: (u16, u16), vendor: &str, product: &str, revision: &str) -> Port {
        Port {
            target: target.to_owned(),
            group: groups.0,
            partner_group: groups.1,
            vendor: super::padded(vendor),
            product: super::padded(product),
            revision: super::padded(revision),
        }
    }
}

/// A logical unit's identity.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// NAA IEEE registered extended (SPC-4 7.8.6.6.5).
    pub(crate) naa: [u8; 16],
    /// The uuid in hexadecimal: unit serial number, and part of the T10 designator.
    pub(crate) serial: String,
}

/// A company id with the "locally administered" bit set, which IEEE assigns to nobody.
const COMPANY_ID: u128 = 0x02_5453;

impl Identity {
    /// From the volume's uuid: all of it in the serial number, its low 100 bits, with the rest folded in, in the NAA.
    pub(crate) fn of(info: &VolumeInfo) -> Identity {
        let uuid = info.uuid.0;
        let folded = (uuid ^ (uuid >> 100)) & ((1 << 100) - 1);
        let naa = 6 << 124 | COMPANY_ID << 100 | folded;
        Identity { naa: naa.to_be_bytes(), serial: format!("{uuid:032x}") }
    }
}
