//! The iSCSI front end: serves Twinsan's virtual volumes to initiators (RFC 7143, SPC-4, SBC-3).
//!
//! Three layers are sans-IO, bytes in and bytes out: `pdu` (wire format), `session` (login, full-feature phase,
//! task management), `scsi` (the device server). `server` owns the sockets and threads, and nothing else does.
//! What two nodes must agree on lives in the engine, behind [`twinsan::guest::VirtualVolume`].
//!
//! ```no_run
//! # fn volume() -> std::sync::Arc<dyn twinsan::guest::VirtualVolume> { unimplemented!() }
//! use twinsan_iscsi::{Access, Host, Mapping, Server, TargetConfig};
//!
//! let mut config = TargetConfig::new("iqn.2026-01.example:san");
//! config.portals = vec!["127.0.0.1:3260".parse().expect("an address")];
//! let access = Access {
//!     hosts: vec![Host::new("esx1", &["iqn.1998-01.com.vmware:esx1"])],
//!     mappings: vec![Mapping::new("esx1", 0, volume())],
//! };
//! let server = Server::start(config, access).expect("the portal is free");
//! println!("serving at {:?}", server.local_addrs());
//! ```

mod access;
pub mod chap;
pub mod fuzz;
mod pdu;
mod scsi;
mod server;
mod session;
mod target;

pub use access::{ANY_INITIATOR, Access, AccessError, Host, Mapping};
pub use server::{Server, ServerError};
pub use target::TargetConfig;
