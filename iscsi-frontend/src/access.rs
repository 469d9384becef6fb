//! Who may log in and what each sees: hosts, and the mappings of volumes to their LUNs.
//!
//! Invariants: an initiator is of one host, the one that names it or else the one that takes any; what it sees is what
//! is mapped to that host, each LUN once; an initiator of no host sees nothing, not even that there is a target.

use std::collections::BTreeSet;
use std::sync::Arc;

use twinsan::guest::VirtualVolume;
use twinsan::ids::VolumeId;

use crate::chap::{Chap, Credentials};

/// In [`Host::initiators`]: any initiator that no other host names. For demonstrations; a SAN names its hosts.
pub const ANY_INITIATOR: &str = "*";

/// The longest iSCSI name, in bytes (RFC 7143 4.2.7.2).
pub(crate) const NAME_BYTES_MAX: usize = 223;
/// LUNs are below it: what flat space addressing can say (SAM-5 4.7.7).
const LUN_LIMIT: u16 = 1 << 14;

/// A host: one machine, or several that share everything.
#[derive(Clone)]
pub struct Host {
    /// What operators call it; unique.
    pub name: String,
    /// Its initiators' iSCSI names, or [`ANY_INITIATOR`]. No other host has them.
    pub initiators: Vec<String>,
    /// What it must show to log in, to discover too. `None` lets in whoever uses its initiators' names.
    pub chap: Option<Chap>,
}

impl Host {
    /// A host with these initiators, without CHAP.
    pub fn new(name: &str, initiators: &[&str]) -> Host {
        let initiators = initiators.iter().map(|name| (*name).to_owned()).collect();
        Host { name: name.to_owned(), initiators, chap: None }
    }

    fn has(&self, initiator: &str) -> bool {
        self.initiators.iter().any(|name| name.eq_ignore_ascii_case(initiator))
    }
}

/// A volume at a LUN of a host.
#[derive(Clone)]
pub struct Mapping {
    /// The [`Host::name`].
    pub host: String,
    /// At which of the server's targets; `None` is the first.
    pub target: Option<String>,
    /// The logical unit number, below 16,384.
    pub lun: u16,
    /// What is there.
    pub volume: Arc<dyn VirtualVolume>,
    /// May the host only read? Writes are then answered DATA PROTECT (07/27/00). A snapshot is only read in any case.
    pub read_only: bool,
}

impl Mapping {
    /// `volume` at `lun` of the first target, for reading and writing.
    pub fn new(host: &str, lun: u16, volume: Arc<dyn VirtualVolume>) -> Mapping {
        Mapping { host: host.to_owned(), target: None, lun, volume, read_only: false }
    }
}

/// All hosts and mappings.
#[derive(Clone, Default)]
pub struct Access {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// What they see.
    pub mappings: Vec<Mapping>,
}

/// Why an [`Access`] cannot be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// Two hosts have one name.
    #[error("host \"{0}\" is there twice; give each a name of its own")]
    HostTwice(String),
    /// An initiator is no iSCSI name.
    #[error("host \"{host}\" has an initiator name of {bytes} bytes; iSCSI names have 1 to 223 bytes")]
    InitiatorName {
        /// Whose it is.
        host: String,
        /// Its length.
        bytes: usize,
    },
    /// An initiator belongs to two hosts.
    #[error("initiator {initiator} is of host \"{first}\" and of \"{second}\"; leave it with one of them")]
    InitiatorTwice {
        /// The initiator's name.
        initiator: String,
        /// A host that has it.
        first: String,
        /// Another.
        second: String,
    },
    /// A CHAP name cannot be sent.
    #[error("host \"{host}\" has a CHAP name of {bytes} bytes; take 1 to 223")]
    ChapName {
        /// Whose it is.
        host: String,
        /// Its length.
        bytes: usize,
    },
    /// A secret serves in both directions, so that one side's answer is the other's.
    #[error(
        "the secret of host \"{host}\" is also the target's, shown to \"{other}\"; give the target another"
    )]
    SecretBothWays {
        /// Whose it is.
        host: String,
        /// To whom the target shows it.
        other: String,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes, so there can be no CHAP challenges")]
    NoRandom,
    /// A mapping names a host that is not there.
    #[error("a mapping names host \"{0}\", which is not there; add the host or remove the mapping")]
    NoHost(String),
    /// A mapping names a target that this server does not have.
    #[error("a mapping names target {0}, which this server does not have; name one of its targets")]
    NoTarget(String),
    /// A LUN is too large.
    #[error("LUN {0} is too large; LUNs are below 16384")]
    Lun(u16),
    /// Two mappings have one LUN.
    #[error("host \"{host}\" has two volumes at LUN {lun}; give one of them another LUN")]
    LunTwice {
        /// Whose LUN it is.
        host: String,
        /// The LUN.
        lun: u16,
    },
}

impl Access {
    /// Everything at its LUN for any initiator: for demonstrations and tests.
    pub fn for_anyone(volumes: impl IntoIterator<Item = (u16, Arc<dyn VirtualVolume>)>) -> Access {
        let volumes = volumes.into_iter();
        let mappings = volumes.map(|(lun, volume)| Mapping::new("anyone", lun, volume)).collect();
        Access { hosts: vec![Host::new("anyone", &[ANY_INITIATOR])], mappings }
    }

    /// Can this be what a server with these targets grants? It is asked again by whoever takes it.
    pub fn check(&self, targets: &[String]) -> Result<(), AccessError> {
        self.check_hosts()?;
        self.check_chap()?;
        let mut taken = BTreeSet::new();
        for mapping in &self.mappings {
            if !self.hosts.iter().any(|host| host.name == mapping.host) {
                return Err(AccessError::NoHost(mapping.host.clone()));
            }
            if mapping.lun >= LUN_LIMIT {
                return Err(AccessError::Lun(mapping.lun));
            }
            let site = site_of(targets, mapping)
                .ok_or_else(|| AccessError::NoTarget(mapping.target.clone().unwrap_or_default()))?;
            if !taken.insert((site, &mapping.host, mapping.lun)) {
                return Err(AccessError::LunTwice { host: mapping.host.clone(), lun: mapping.lun });
            }
        }
        Ok(())
    }

    fn check_hosts(&self) -> Result<(), AccessError> {
        for (index, host) in self.hosts.iter().enumerate() {
            let earlier = &self.hosts[..index];
            if earlier.iter().any(|other| other.name == host.name) {
                return Err(AccessError::HostTwice(host.name.clone()));
            }
            for initiator in &host.initiators {
                let bytes = initiator.len();
                if !(1..=NAME_BYTES_MAX).contains(&bytes) {
                    return Err(AccessError::InitiatorName { host: host.name.clone(), bytes });
                }
                if let Some(other) = earlier.iter().find(|other| other.has(initiator)) {
                    return Err(AccessError::InitiatorTwice {
                        initiator: initiator.clone(),
                        first: other.name.clone(),
                        second: host.name.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    fn check_chap(&self) -> Result<(), AccessError> {
        for (host, chap) in self.chaps() {
            for credentials in std::iter::once(&chap.host).chain(&chap.target) {
                let Credentials { name, .. } = credentials;
                if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
                    return Err(AccessError::ChapName { host: host.name.clone(), bytes: name.len() });
                }
            }
            let shown = |(_, other): &(&Host, &Chap)| {
                other.target.as_ref().is_some_and(|target| target.secret.same(&chap.host.secret))
            };
            if let Some((other, _)) = self.chaps().find(shown) {
                let (host, other) = (host.name.clone(), other.name.clone());
                return Err(AccessError::SecretBothWays { host, other });
            }
        }
        Ok(())
    }

    fn chaps(&self) -> impl Iterator<Item = (&Host, &Chap)> {
        self.hosts.iter().filter_map(|host| Some((host, host.chap.as_ref()?)))
    }

    /// Does any host have to prove who it is?
    pub(crate) fn asks_for_proof(&self) -> bool {
        self.chaps().next().is_some()
    }

    /// The host that an initiator is of.
    pub(crate) fn host_of(&self, initiator: &str) -> Option<&Host> {
        let named = self.hosts.iter().find(|host| host.has(initiator));
        named.or_else(|| self.hosts.iter().find(|host| host.has(ANY_INITIATOR)))
    }

    /// Is this volume mapped to the initiator, anywhere?
    pub(crate) fn maps(&self, initiator: &str, volume: VolumeId) -> bool {
        let Some(host) = self.host_of(initiator) else { return false };
        let mut its = self.mappings.iter().filter(|mapping| mapping.host == host.name);
        its.any(|mapping| mapping.volume.info().id == volume)
    }

    /// What an initiator sees at the target `targets[site]`, by LUN.
    pub(crate) fn mappings_of(&self, initiator: &str, targets: &[String], site: usize) -> Vec<&Mapping> {
        let Some(host) = self.host_of(initiator) else { return Vec::new() };
        let its = |mapping: &&Mapping| mapping.host == host.name && site_of(targets, mapping) == Some(site);
        let mut seen: Vec<&Mapping> = self.mappings.iter().filter(its).collect();
        seen.sort_by_key(|mapping| mapping.lun);
        seen
    }
}

/// The place of the mapping's target.
fn site_of(targets: &[String], mapping: &Mapping) -> Option<usize> {
    match &mapping.target {
        None => Some(0),
        Some(name) => targets.iter().position(|target| target.eq_ignore_ascii_case(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::drive::HandVolume;

    const A: &str = "iqn.2026-01.example:a";
    const B: &str = "iqn.2026-01.example:b";

    fn targets() -> Vec<String> {
        vec!["iqn.2026-01.example:one".into(), "iqn.2026-01.example:two".into()]
    }

    fn mapping(host: &str, lun: u16) -> Mapping {
        Mapping::new(host, lun, HandVolume::new(1))
    }

    fn luns(access: &Access, initiator: &str, site: usize) -> Vec<u16> {
        access.mappings_of(initiator, &targets(), site).iter().map(|mapping| mapping.lun).collect()
    }

    #[test]
    fn an_initiator_is_of_the_host_that_names_it_or_else_of_any() {
        let mut other = mapping("a", 3);
        other.target = Some("IQN.2026-01.example:TWO".into());
        let access = Access {
            hosts: vec![Host::new("any", &[ANY_INITIATOR]), Host::new("a", &[A])],
            mappings: vec![mapping("any", 0), mapping("a", 7), mapping("a", 1), other],
        };
        assert_eq!(access.check(&targets()), Ok(()));
        assert_eq!(luns(&access, A, 0), [1, 7]);
        assert_eq!(luns(&access, &A.to_uppercase(), 1), [3]);
        assert_eq!(luns(&access, B, 0), [0]);
        assert_eq!(luns(&Access::default(), B, 0), [] as [u16; 0]);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let hosts = vec![Host::new("a", &[A]), Host::new("b", &[B])];
        let check = |hosts: &[Host], mappings: Vec<Mapping>| {
            Access { hosts: hosts.to_vec(), mappings }.check(&targets()).map_err(|error| error.to_string())
        };
        let mut lost = mapping("a", 0);
        lost.target = Some("iqn.2026-01.example:three".into());
        for (mappings, expected) in [
            (vec![mapping("c", 0)], "host \"c\""),
            (vec![mapping("a", 16384)], "below 16384"),
            (vec![mapping("a", 2), mapping("a", 2)], "two volumes at LUN 2"),
            (vec![lost], "example:three"),
        ] {
            let error = check(&hosts, mappings).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
        assert!(check(&hosts, vec![mapping("a", 2), mapping("b", 2)]).is_ok());
        let twice = [hosts[0].clone(), Host::new("b", &[&A.to_uppercase()])];
        assert!(check(&twice, Vec::new()).expect_err("taken").contains("leave it with one of them"));
        let same = [hosts[0].clone(), Host::new("a", &[B])];
        assert!(check(&same, Vec::new()).expect_err("taken").contains("there twice"));
        assert!(check(&[Host::new("a", &[""])], Vec::new()).expect_err("empty").contains("1 to 223"));
    }
}
