//! Hosts, their mappings, and the targets they find: what must hold among them, and what they come to for the front end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use twinsan::guest::VirtualVolume;
use twinsan::ids::VolumeId;
use twinsan_iscsi::{ANY_INITIATOR, Access};

use super::check::{Problem, is_iscsi_name, problem};
use super::{Config, Mapping, Target};

/// LUNs that are taken, with the target and the host.
type Luns<'a> = BTreeSet<(&'a String, &'a String, u16)>;

/// A mapping that cannot be: its key, and why.
#[derive(Debug, thiserror::Error)]
#[error("`{key}` {problem}")]
pub(crate) struct ConfigProblem {
    key: String,
    problem: String,
}

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
            if mapping.lun.is_none() && self.configured(&mapping.volume).is_none() {
                // It may be in the pool, which is not open yet.
                continue;
            }
            self.check_lun(mapping, &mut luns)?;
        }
        Ok(())
    }

    fn check_lun<'a>(&'a self, mapping: &'a Mapping, luns: &mut Luns<'a>) -> Result<(), Problem> {
        let target = mapping.target.as_ref().unwrap_or(&self.target.iqn);
        let Some(lun) = self.lun(mapping) else {
            return problem(
                "mapping.lun",
                format!("of \"{}\" is too large or missing; LUNs are below 16384", mapping.volume),
            );
        };
        if !luns.insert((target, &mapping.host, lun)) {
            return problem("mapping.lun", format!("{lun} is taken twice for \"{}\"", mapping.host));
        }
        Ok(())
    }

    /// Looks for the volumes of the mappings: among those that the node has, by the names that they have there, then among
    /// the configuration's. Returns what is wrong with those that are to be left out.
    pub(crate) fn find_volumes(&mut self, known: &[(VolumeId, String)]) -> Vec<ConfigProblem> {
        let find = |mapping: &Mapping| {
            let known = known.iter().find(|(_, name)| *name == mapping.volume).map(|(id, _)| *id);
            known.or_else(|| self.configured(&mapping.volume))
        };
        let found: Vec<_> = self.mapping.iter().map(find).collect();
        self.mapping.iter_mut().zip(found).for_each(|(mapping, found)| mapping.found = found);
        let (mut luns, mut problems) = (BTreeSet::new(), Vec::new());
        let judge = |mapping| match self.check_found(mapping, &mut luns) {
            Ok(()) => true,
            Err((key, problem)) => {
                problems.push(ConfigProblem { key, problem });
                false
            }
        };
        let good: Vec<bool> = self.mapping.iter().map(judge).collect();
        for (mapping, good) in self.mapping.iter_mut().zip(good) {
            mapping.found = mapping.found.filter(|_| good);
        }
        problems
    }

    fn check_found<'a>(&'a self, mapping: &'a Mapping, luns: &mut Luns<'a>) -> Result<(), Problem> {
        if mapping.found.is_none() {
            return problem(
                "mapping.volume",
                format!(
                    "\"{}\" is no [[volume]], and the pool has none of that name; `twinsand status` lists the volumes",
                    mapping.volume
                ),
            );
        }
        self.check_lun(mapping, luns)
    }

    /// What the front end is to grant. A volume that was not found, or that the node does not have, is left out.
    pub(crate) fn access(&self, volume: impl Fn(VolumeId) -> Option<Arc<dyn VirtualVolume>>) -> Access {
        let host = |host: &super::Host| twinsan_iscsi::Host {
            name: host.name.clone(),
            initiators: host.iqns.clone(),
            chap: self.secrets.of(&host.name),
        };
        let mapping = |mapping: &Mapping| {
            Some(twinsan_iscsi::Mapping {
                host: mapping.host.clone(),
                target: mapping.target.clone(),
                lun: self.lun(mapping)?,
                volume: volume(mapping.found?)?,
                read_only: mapping.read_only,
            })
        };
        Access {
            hosts: self.host.iter().map(host).collect(),
            mappings: self.mapping.iter().filter_map(mapping).collect(),
        }
    }
}
