//! What a configuration must fulfil beyond its grammar.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use twinsan::pool::{EXTENT_BYTES_MAX, EXTENT_BYTES_MIN, LOG_BYTES_MIN, SECTORS_MAX};

use super::{Config, Disk, extent_sizes};
use crate::sizes;

/// Largest metadata log: beyond it, reading it after a crash takes too long.
const LOG_BYTES_MAX: u64 = 1 << 30;

/// The key, and what is wrong with its value.
pub(super) type Problem = (String, String);

pub(super) fn problem<T>(key: impl Into<String>, problem: impl Into<String>) -> Result<T, Problem> {
    Err((key.into(), problem.into()))
}

fn size(key: &str, text: &str) -> Result<u64, Problem> {
    match sizes::parse(text) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => problem(
            key,
            format!("is \"{text}\"; write a whole number with a unit, such as \"64GiB\" or \"500GB\""),
        ),
    }
}

/// 32 hexadecimal digits, with or without hyphens; not zero.
pub(super) fn uuid(text: &str) -> Option<u128> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().filter(|uuid| *uuid != 0)
}

impl Config {
    pub(super) fn check(&self) -> Result<(), Problem> {
        self.check_pair()?;
        self.check_pool()?;
        self.check_volumes()?;
        self.check_hosts()?;
        self.check_chap()?;
        self.check_target()?;
        self.check_cache_and_mirror()
    }

    fn check_pair(&self) -> Result<(), Problem> {
        if self.partnership.name.is_empty() {
            return problem("partnership.name", "is empty; give the pair a name, the same on both nodes");
        }
        if self.partnership.uuid.as_deref().is_some_and(|text| uuid(text).is_none()) {
            return problem("partnership.uuid", "is no UUID; write 32 hexadecimal digits, or leave it out");
        }
        self.check_arbiter()?;
        match &self.partner {
            Some(partner) if !is_loopback(partner.link) => problem(
                "partner.link",
                format!(
                    "is {}; the mirror link has no keys yet, so it takes only loopback addresses such as 127.0.0.1",
                    partner.link
                ),
            ),
            None if self.volume.iter().any(|volume| volume.mirrored) => problem(
                "partner",
                "is missing, and there are mirrored volumes; name its `link`, the same on both nodes",
            ),
            _ => Ok(()),
        }
    }

    fn check_pool(&self) -> Result<(), Problem> {
        let [pool] = self.pool.as_slice() else {
            return match self.pool.len() {
                0 => problem("pool", "is missing; a node needs one [[pool]] with at least one disk"),
                count => problem(
                    "pool",
                    format!(
                        "is there {count} times; a node has one pool for now: put all its disks into one"
                    ),
                ),
            };
        };
        if pool.disks.is_empty() {
            return problem("pool.disks", "is empty; name at least one file or block device");
        }
        let extent = size("pool.extent", &pool.extent)?;
        if !extent.is_power_of_two() || !(EXTENT_BYTES_MIN..=EXTENT_BYTES_MAX).contains(&extent) {
            return problem("pool.extent", format!("must be a power of two, {}", extent_sizes()));
        }
        if let Some(log) = &pool.log {
            let bytes = size("pool.log", log)?;
            if !(LOG_BYTES_MIN..=LOG_BYTES_MAX).contains(&bytes) || !bytes.is_multiple_of(4096) {
                return problem("pool.log", "must be a multiple of 4 KiB, from 32 KiB to 1 GiB");
            }
        }
        if let Some(what) = self.space().problem() {
            return problem("pool.thresholds", format!("do not fit: {what}"));
        }
        let mut paths = BTreeSet::new();
        for Disk { path, size: bytes } in &pool.disks {
            if !paths.insert(path) {
                return problem("pool.disks", format!("names {} twice", path.display()));
            }
            if let Some(bytes) = bytes {
                size("pool.disks.size", bytes)?;
            }
        }
        Ok(())
    }

    fn check_volumes(&self) -> Result<(), Problem> {
        let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
        for volume in &self.volume {
            if !ids.insert(volume.id) {
                return problem(
                    "volume.id",
                    format!("{} is given twice; it must be unique in the pair", volume.id),
                );
            }
            if volume.name.is_empty() || !names.insert(&volume.name) {
                return problem("volume.name", format!("\"{}\" is empty or given twice", volume.name));
            }
            let bytes = size("volume.size", &volume.size)?;
            if bytes % 512 != 0 || bytes / 512 > SECTORS_MAX {
                return problem("volume.size", "must be a multiple of 512 bytes, at most 64TiB");
            }
            if let Some(reserved) = &volume.reserved
                && size("volume.reserved", reserved)? > bytes
            {
                return problem(
                    "volume.reserved",
                    "is more than `volume.size`; a volume cannot use more than its size",
                );
            }
            if volume.preferred != self.volume[0].preferred {
                return problem("volume.preferred", "must be the same for all volumes for now");
            }
        }
        Ok(())
    }

    fn check_target(&self) -> Result<(), Problem> {
        let mut names = BTreeSet::new();
        for name in self.target.names() {
            if !is_iscsi_name(name) {
                return problem(
                    "target.iqn",
                    format!("\"{name}\" is no iSCSI name, such as \"iqn.2026-01.example:san\""),
                );
            }
            if !names.insert(name) {
                return problem("target.more_iqns", format!("names {name} twice"));
            }
        }
        if self.target.initiator_sessions_max == Some(0) {
            return problem("target.initiator_sessions_max", "is 0; an initiator needs at least one session");
        }
        if self.target.portals.is_empty() {
            return problem(
                "target.portals",
                "is empty; name at least one address, such as \"127.0.0.1:3260\"",
            );
        }
        Ok(())
    }

    fn check_cache_and_mirror(&self) -> Result<(), Problem> {
        for (key, text) in [("cache.size", &self.cache.size), ("cache.dirty", &self.cache.dirty)] {
            if let Some(text) = text {
                size(key, text)?;
            }
        }
        let cache = self.cache();
        if cache.blocks_max < 4096 {
            return problem("cache.size", "is too small; 16MiB is the least");
        }
        if cache.dirty_blocks_max == 0 || cache.dirty_blocks_max > cache.blocks_max / 3 * 2 {
            return problem("cache.dirty", "must be at most two thirds of `cache.size`");
        }
        let mirror = self.mirror();
        if mirror.heartbeat.is_zero() || mirror.heartbeat * 3 > mirror.lease {
            return problem("mirror.heartbeat_ms", "must be at most a third of `mirror.lease_ms`");
        }
        Ok(())
    }
}

/// RFC 7143 4.2.7, in the form that needs no normalising.
pub(super) fn is_iscsi_name(name: &str) -> bool {
    let known = ["iqn.", "eui.", "naa."].iter().any(|kind| name.starts_with(kind));
    known && name.len() <= 223 && !name.contains(|c: char| c.is_whitespace() || c.is_uppercase())
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
