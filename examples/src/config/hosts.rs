//! Hosts, their mappings, and the targets they find: what must hold among them, and what they come to for the front end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use twinsan::guest::VirtualVolume;
use twinsan::ids::VolumeId;
use twinsan_iscsi::{ANY_INITIATOR, Access};

use super::check::{Problem, is_iscsi_name, problem};
use super::{Config, Target};

impl Target {
    /// All targets, the main one first.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.iqn).chain(&self.more_iqns)
    }
}

impl Config {
    pub(super) fn check_hosts(&self) -> Result<(), Problem> {
        let mut names = BTreeSet::new();
        let mut owners = BTreeMap::new();
        for host in &self.host {
            if !names.insert(&host.name) {
                return problem("host.name", format!("\"{}\" is given twice", host.name));
            }
            if host.iqns.is_empty() {
                return problem(
                    "host.iqns",
                    format!("of \"{}\" is empty; name its initiators, or \"*\" for any", host.name),
                );
            }
            for iqn in &host.iqns {
                if iqn != ANY_INITIATOR && !is_iscsi_name(iqn) {
                    return problem(
                        "host.iqns",
                        format!(
                            "\"{iqn}\" is no iSCSI name; initiators have one, such as \"iqn.1998-01.com.vmware:esx1\""
                        ),
                    );
                }
                if let Some(other) = owners.insert(iqn, &host.name) {
                    return problem(
                        "host.iqns",
                        format!(
                            "{iqn} is of \"{other}\" and of \"{}\"; leave it with one of them",
                            host.name
                        ),
                    );
                }
            }
        }
        self.check_mappings(&names)
    }

    fn check_mappings(&self, hosts: &BTreeSet<&String>) -> Result<(), Problem> {
        let mut luns = BTreeSet::new();
        for mapping in &self.mapping {
            if !self.volume.iter().any(|volume| volume.name == mapping.volume) {
                return problem("mapping.volume", format!("\"{}\" is no [[volume]]", mapping.volume));
            }
            if !hosts.contains(&mapping.host) {
                return problem("mapping.host", format!("\"{}\" is no [[host]]", mapping.host));
            }
            let target = mapping.target.as_ref().unwrap_or(&self.target.iqn);
            if !self.target.names().any(|name| name == target) {
                return problem(
                    "mapping.target",
                    format!("{target} is not there; write it in `target.more_iqns` too, or leave it out"),
                );
            }
            let Some(lun) = self.lun(mapping) else {
                return problem(
                    "mapping.lun",
                    format!("of \"{}\" is too large or missing; LUNs are below 16384", mapping.volume),
                );
            };
            if !luns.insert((target, &mapping.host, lun)) {
                return problem("mapping.lun", format!("{lun} is taken twice for \"{}\"", mapping.host));
            }
        }
        Ok(())
    }

    /// What the front end is to grant. A volume that the node does not have is left out.
    pub(crate) fn access(&self, volume: impl Fn(VolumeId) -> Option<Arc<dyn VirtualVolume>>) -> Access {
        let host = |host: &super::Host| twinsan_iscsi::Host {
            name: host.name.clone(),
            initiators: host.iqns.clone(),
            chap: self.secrets.of(&host.name),
        };
        let mapping = |mapping: &super::Mapping| {
            let named = self.volume.iter().find(|volume| volume.name == mapping.volume)?;
            Some(twinsan_iscsi::Mapping {
                host: mapping.host.clone(),
                target: mapping.target.clone(),
                lun: self.lun(mapping)?,
                volume: volume(VolumeId(named.id))?,
                read_only: mapping.read_only,
            })
        };
        Access {
            hosts: self.host.iter().map(host).collect(),
            mappings: self.mapping.iter().filter_map(mapping).collect(),
        }
    }
}
