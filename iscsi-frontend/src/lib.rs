//! The iSCSI front end: serves Twinsan's virtual volumes to initiators (RFC 7143, SPC-4, SBC-3).
//!
//! Three layers are sans-IO, bytes in and bytes out: `pdu` (wire format), `session` (login, full-feature phase,
//! task management), `scsi` (the device server). `server` owns the sockets and threads, and nothing else does.
//! [`Access`] says which hosts there are, what they must show ([`chap`]), and what they see; it is replaced live.
//! What two nodes must agree on lives in the engine, behind [`twinsan::guest::VirtualVolume`].
//!
//! # What is negotiated
//!
//! | key (RFC 7143 13, 12.1) | comes to |
//! |---|---|
//! | AuthMethod | CHAP for a host that has it, None for others; nothing else is offered |
//! | CHAP_A | the strongest of 8 (SHA3-256), 7 (SHA-256), 5 (MD5) that is allowed and offered |
//! | HeaderDigest, DataDigest | the first of CRC32C and None that is offered; None if nothing is |
//! | MaxConnections, MaxOutstandingR2T | 1 |
//! | InitialR2T, ImmediateData | what the initiator wants; Yes if it says nothing |
//! | MaxRecvDataSegmentLength | each side's own: 256 KiB here, what the initiator declares there, 8 KiB until then |
//! | MaxBurstLength | the smaller of its offer and 1 MiB; 256 KiB if it says nothing |
//! | FirstBurstLength | the smaller of its offer and 256 KiB, never above MaxBurstLength; 64 KiB if it says nothing |
//! | DefaultTime2Wait | the larger of its offer and 2 s |
//! | DefaultTime2Retain, ErrorRecoveryLevel | 0 |
//! | DataPDUInOrder, DataSequenceInOrder | Yes |
//! | SessionType | Normal or Discovery; in discovery the keys of data phases are Irrelevant |
//! | SendTargets | All in discovery; in a session its own target alone |
//! | InitiatorName, TargetName, InitiatorAlias | declared by the initiator |
//! | TargetPortalGroupTag, TargetAddress | declared by the target |
//! | iSCSIProtocolLevel (RFC 7144) | the smaller of its offer and 1 |
//! | TaskReporting | RFC3720, if offered |
//! | IFMarker, OFMarker; IFMarkInt, OFMarkInt | No; Reject: they are obsolete |
//! | any other | NotUnderstood, 32 times in a login |
//!
//! Data in hand when a command fails is taken and dropped; data that breaks what was negotiated ends the connection.
//! Sessions have one connection. A login for a name, ISID and target that have a session ends that session first, and is
//! answered when its last task is dead. No session begins while the portals are closed, nor beyond the number that one
//! initiator may have with a target ([`TargetConfig::initiator_sessions_max`]): status 0302h, out of resources.
//!
//! # What is copied
//!
//! | EXTENDED COPY (SPC-4 6.5) | comes to |
//! |---|---|
//! | service action | LID1 alone, as VMware uses it; with a list identifier or without |
//! | CSCD descriptor | E4h with the NAA designator of a LUN that the session sees; at most 16; FFFFh is the LUN itself |
//! | segment descriptor | 02h, block device to block device; at most 32 of at most 16 MiB |
//! | at once | 8 copies of a session, each holding 1 MiB, or 2 where blocks do not line up; TASK SET FULL beyond |
//! | RECEIVE COPY RESULTS | status, operating parameters, failure details; no data is held |
//! | a volume that is not mapped to the host | 0A/0D/02, as one that does not exist |
//! | a volume that fails, or may only be read | 0A/0D/01, with the sense data of that volume in it |
//! | a reset, CLEAR TASK SET or ABORT TASK SET of the unit that it was sent to | the copy dies with the other commands there, before that is answered, and is not answered itself |
//! | a reset or CLEAR TASK SET of another unit that it copies from or to | the copy stops before that is answered: 0A/0D/01 |
//! | an unmapped or protected volume | the copy stops |
//!
//! # What is reserved
//!
//! PERSISTENT RESERVE IN and OUT: all service actions but REPLACE LOST RESERVATION, all types, APTPL, ALL_TG_PT, SPEC_I_PT.
//! RESERVE and RELEASE (6) and (10), not together with these. They are kept with the volume, so that they
//! hold on both nodes, before the command is answered. `docs/reservations.md` has the rest.
//!
//! # Example
//!
//! ```
//! use std::error::Error;
//! use std::sync::Arc;
//!
//! use twinsan::guest::VirtualVolume;
//! use twinsan_iscsi::{Access, Host, Mapping, Server, TargetConfig};
//!
//! /// Serves a volume of an engine to one host, until the server is dropped.
//! fn serve(volume: Arc<dyn VirtualVolume>) -> Result<Server, Box<dyn Error>> {
//!     let mut config = TargetConfig::new("iqn.2026-01.example:san");
//!     config.portals = vec!["127.0.0.1:3260".parse()?];
//!     config.refused = Arc::new(|login| eprintln!("{login}"));
//!     let access = Access {
//!         hosts: vec![Host::new("esx1", &["iqn.1998-01.com.vmware:esx1"])],
//!         mappings: vec![Mapping::new("esx1", 0, volume)],
//!     };
//!     Ok(Server::start(config, access)?)
//! }
//! ```

mod access;
mod budget;
pub mod chap;
pub mod fuzz;
mod pdu;
mod refusals;
mod scsi;
mod server;
mod session;
mod target;

pub use access::{ANY_INITIATOR, Access, AccessError, Host, Mapping};
pub use refusals::{RefusalReason, RefusedLogin};
pub use server::{Server, ServerError};
pub use target::TargetConfig;
