//! The configuration of a node: what `node.toml` says, strictly.
//!
//! A key that is not known is refused, by name. What cannot work is refused before anything is touched, with the key
//! and what to write instead. `examples/node.toml` shows every key.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use twinsan::arbiter::Arbitration;
use twinsan::block::SECTOR_BYTES;
use twinsan::ids::{NodeName, Uuid, VolumeId};
use twinsan::node::config::{CacheConfig, MirrorConfig, SpaceConfig, VolumeConfig, WhenFull};
use twinsan::pool::{EXTENT_BYTES_MAX, EXTENT_BYTES_MIN};

use crate::sizes;

mod check;
mod hosts;
mod secrets;
pub(crate) mod witness;

pub(crate) use secrets::Secrets;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{path} cannot be read: {error}; name an existing file with --config")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path} is not understood:\n{error}see examples/node.toml for every key")]
    Parse { path: PathBuf, error: Box<toml::de::Error> },
    #[error("{path}: `{key}` {problem}")]
    Value { path: PathBuf, key: String, problem: String },
}

/// `node.toml`.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) node: Node,
    pub(crate) partnership: Partnership,
    /// One, for now.
    #[serde(default)]
    pub(crate) pool: Vec<Pool>,
    #[serde(default)]
    pub(crate) volume: Vec<Volume>,
    #[serde(default)]
    pub(crate) host: Vec<Host>,
    #[serde(default)]
    pub(crate) mapping: Vec<Mapping>,
    pub(crate) target: Target,
    #[serde(default)]
    pub(crate) partner: Option<Partner>,
    pub(crate) arbiter: Arbiter,
    #[serde(default)]
    pub(crate) cache: Cache,
    #[serde(default)]
    pub(crate) mirror: Mirror,
    /// Read from a file of their own.
    #[serde(skip)]
    pub(crate) secrets: Secrets,
    /// Read from a file of its own.
    #[serde(skip)]
    pub(crate) witness_secret: Option<twinsan_witness::Secret>,
}

/// Who this node is.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    pub(crate) name: Name,
    /// For the status socket; relative paths of disks begin here.
    pub(crate) directory: PathBuf,
    /// Snapshots and clones may be made, though not all of them is proven yet.
    #[serde(default)]
    pub(crate) experimental_snapshots: bool,
}

/// `a` or `b`.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Name {
    A,
    B,
}

impl From<Name> for NodeName {
    fn from(name: Name) -> NodeName {
        match name {
            Name::A => NodeName::A,
            Name::B => NodeName::B,
        }
    }
}

/// The pair; the same on both nodes.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Partnership {
    pub(crate) name: String,
    /// 32 hexadecimal digits, hyphens allowed. Without it, it is made from the name.
    pub(crate) uuid: Option<String>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pool {
    pub(crate) name: String,
    #[serde(default = "one_mebibyte")]
    pub(crate) extent: String,
    /// Size of the metadata log of a pool that is made.
    pub(crate) log: Option<String>,
    pub(crate) disks: Vec<Disk>,
    #[serde(default)]
    pub(crate) thresholds: Thresholds,
}

/// Use of the pool, in percent, that is worth a word.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Thresholds {
    pub(crate) info: Option<u8>,
    pub(crate) warning: Option<u8>,
    pub(crate) critical: Option<u8>,
    pub(crate) hysteresis: Option<u8>,
}

fn one_mebibyte() -> String {
    "1MiB".into()
}

/// A file or a block device.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    /// A file that is not there is made this large, sparse.
    pub(crate) size: Option<String>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Volume {
    /// Unique in the partnership, and for ever: a mirrored volume has the same on both nodes.
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) size: String,
    #[serde(default)]
    pub(crate) mirrored: bool,
    /// The node that orders its writes.
    #[serde(default = "node_a")]
    pub(crate) preferred: Name,
    /// Space of the pool that is kept for it.
    pub(crate) reserved: Option<String>,
    /// Blocks of zeros in writes are not stored.
    #[serde(default)]
    pub(crate) detect_zeros: bool,
}

fn node_a() -> Name {
    Name::A
}

/// A machine, or several that share everything.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// Its initiators. `*` is any that no other host has.
    pub(crate) iqns: Vec<String>,
    /// With a file of secrets: must it prove who it is?
    #[serde(default = "yes")]
    pub(crate) chap: bool,
}

fn yes() -> bool {
    true
}

/// A volume at a LUN for a host.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mapping {
    /// One of the configuration, or one that is only in the pool, such as a snapshot.
    pub(crate) volume: String,
    pub(crate) host: String,
    /// Without it, the volume's id: one number for all hosts.
    pub(crate) lun: Option<u16>,
    /// Writes are refused.
    #[serde(default)]
    pub(crate) read_only: bool,
    /// At which target; without it, at `target.iqn`.
    pub(crate) target: Option<String>,
    /// The volume, when it was looked for: it stays the same one, whatever is renamed.
    #[serde(skip)]
    pub(crate) found: Option<VolumeId>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    /// The same on both nodes.
    pub(crate) iqn: String,
    /// Further targets, reached at the same portals.
    #[serde(default)]
    pub(crate) more_iqns: Vec<String>,
    /// The secrets of hosts, in a file that only its owner can read.
    pub(crate) chap_file: Option<PathBuf>,
    /// Allowed hash functions; all, if nothing is said.
    #[serde(default)]
    pub(crate) chap_algorithms: Vec<String>,
    /// Sessions of one initiator with one target.
    pub(crate) initiator_sessions_max: Option<usize>,
    /// Where this node listens for initiators.
    pub(crate) portals: Vec<SocketAddr>,
}

/// The other node.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Partner {
    /// The mirror link: where node `a` listens and node `b` connects to. The same on both nodes.
    pub(crate) link: SocketAddr,
    /// The partner's portals, shown to initiators by discovery.
    #[serde(default)]
    pub(crate) portals: Vec<SocketAddr>,
}

/// Who decides when the nodes lose each other.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arbiter {
    /// The register: a file in a directory that both nodes see.
    pub(crate) file: Option<PathBuf>,
    /// The register: kept by a witness on a third machine, `host:port`.
    pub(crate) witness: Option<String>,
    /// The pair's secret, for the witness.
    pub(crate) secret_file: Option<PathBuf>,
    /// Without a register.
    pub(crate) policy: Option<Policy>,
}

#[derive(Deserialize, Clone, Copy, Debug)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Policy {
    Preferred,
    StopBoth,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cache {
    pub(crate) size: Option<String>,
    pub(crate) dirty: Option<String>,
    pub(crate) destage_age_ms: Option<u64>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mirror {
    pub(crate) lease_ms: Option<u64>,
    pub(crate) heartbeat_ms: Option<u64>,
    pub(crate) link_grace_ms: Option<u64>,
    pub(crate) verdict_bound_ms: Option<u64>,
    #[serde(default)]
    pub(crate) when_partner_full: WhenFull,
}

impl Config {
    /// Reads and checks a configuration; relative paths in it begin at the file's own directory.
    pub(crate) fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.to_path_buf(), error })?;
        let mut config: Config = toml::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.to_path_buf(), error: Box::new(error) })?;
        let problem = |(key, problem)| ConfigError::Value { path: path.to_path_buf(), key, problem };
        config.check().map_err(problem)?;
        let here = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        config.settle_paths(here.parent().unwrap_or(Path::new("/")));
        Ok(config)
    }

    /// Checks a configuration of which a part was replaced.
    pub(crate) fn check_again(&self, path: &Path) -> Result<(), ConfigError> {
        self.check().map_err(|(key, problem)| ConfigError::Value { path: path.to_path_buf(), key, problem })
    }

    fn settle_paths(&mut self, here: &Path) {
        self.node.directory = here.join(&self.node.directory);
        for disk in self.pool.iter_mut().flat_map(|pool| &mut pool.disks) {
            disk.path = self.node.directory.join(&disk.path);
        }
        self.settle_chap_file(here);
        for file in [&mut self.arbiter.file, &mut self.arbiter.secret_file].into_iter().flatten() {
            *file = here.join(&*file);
        }
    }

    /// The LUN of a mapping: its own, or the volume's id, if that is known.
    pub(crate) fn lun(&self, mapping: &Mapping) -> Option<u16> {
        let id = || Some(mapping.found.or_else(|| self.configured(&mapping.volume))?.0);
        let lun = mapping.lun.or_else(|| u16::try_from(id()?).ok());
        lun.filter(|lun| *lun < 1 << 14)
    }

    /// The volume that the configuration gives this name.
    fn configured(&self, name: &str) -> Option<VolumeId> {
        self.volume.iter().find(|volume| volume.name == name).map(|volume| VolumeId(volume.id))
    }

    /// The one pool.
    pub(crate) fn pool(&self) -> &Pool {
        self.pool.first().expect("checked when the configuration was read")
    }

    /// Which node this is.
    pub(crate) fn name(&self) -> NodeName {
        self.node.name.into()
    }

    /// The node that orders the writes, and goes on under [`Policy::Preferred`].
    pub(crate) fn preferred(&self) -> NodeName {
        self.volume.first().map_or(NodeName::A, |volume| volume.preferred.into())
    }

    /// The identity of the pair.
    pub(crate) fn partnership(&self) -> Uuid {
        let Partnership { name, uuid } = &self.partnership;
        identity(name, uuid.as_deref()).expect("checked when the configuration was read")
    }

    /// The volumes as the engine wants them.
    pub(crate) fn volumes(&self) -> Vec<VolumeConfig> {
        let pair = self.partnership().0.to_le_bytes();
        self.volume
            .iter()
            .map(|volume| VolumeConfig {
                id: VolumeId(volume.id),
                name: volume.name.clone(),
                // The two halves of a mirrored volume are one to hosts; linear volumes are each node's own.
                uuid: Uuid(fingerprint(&[
                    &pair,
                    &volume.id.to_le_bytes(),
                    if volume.mirrored {
                        b"*"
                    } else if self.node.name == Name::A {
                        b"a"
                    } else {
                        b"b"
                    },
                ])),
                sectors: sizes::parse(&volume.size).unwrap_or_default() / SECTOR_BYTES as u64,
                mirrored: volume.mirrored,
                reserved_bytes: volume.reserved.as_deref().and_then(sizes::parse).unwrap_or_default(),
                detect_zeros: volume.detect_zeros,
            })
            .collect()
    }

    /// How the engine decides.
    pub(crate) fn arbitration(&self) -> Arbitration {
        match (&self.arbiter.file, &self.arbiter.witness, self.arbiter.policy) {
            (None, None, Some(Policy::StopBoth)) => Arbitration::StopBoth,
            (None, None, _) => Arbitration::Preferred,
            _ => Arbitration::Register,
        }
    }

    /// Extent size in bytes.
    pub(crate) fn extent_bytes(&self) -> u64 {
        sizes::parse(&self.pool().extent).unwrap_or_default()
    }

    /// Size of the metadata log in bytes; 0: by the size of the disks.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.pool().log.as_deref().and_then(sizes::parse).unwrap_or_default()
    }

    /// Bounds of the cache.
    pub(crate) fn cache(&self) -> CacheConfig {
        let mut cache = CacheConfig::default();
        let blocks = |text: &Option<String>| {
            text.as_deref().and_then(sizes::parse).map(|bytes| (bytes / 4096) as usize)
        };
        if let Some(size) = blocks(&self.cache.size) {
            cache.blocks_max = size;
            cache.dirty_blocks_max = size / 2;
        }
        cache.dirty_blocks_max = blocks(&self.cache.dirty).unwrap_or(cache.dirty_blocks_max);
        cache.destage_age = milliseconds(self.cache.destage_age_ms, cache.destage_age);
        cache
    }

    /// Times of the mirror.
    pub(crate) fn mirror(&self) -> MirrorConfig {
        let standard = MirrorConfig::default();
        MirrorConfig {
            lease: milliseconds(self.mirror.lease_ms, standard.lease),
            heartbeat: milliseconds(self.mirror.heartbeat_ms, standard.heartbeat),
            link_grace: milliseconds(self.mirror.link_grace_ms, standard.link_grace),
            verdict_bound: milliseconds(self.mirror.verdict_bound_ms, standard.verdict_bound),
            when_partner_full: self.mirror.when_partner_full,
            ..standard
        }
    }

    /// Thresholds of the pool's use.
    pub(crate) fn space(&self) -> SpaceConfig {
        let (standard, given) = (SpaceConfig::default(), &self.pool().thresholds);
        SpaceConfig {
            info_percent: given.info.unwrap_or(standard.info_percent),
            warning_percent: given.warning.unwrap_or(standard.warning_percent),
            critical_percent: given.critical.unwrap_or(standard.critical_percent),
            hysteresis_percent: given.hysteresis.unwrap_or(standard.hysteresis_percent),
        }
    }

    /// Where the node is asked to change its pool.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.node.directory.join("control.sock")
    }

    /// The status socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.node.directory.join("status.sock")
    }
}

fn milliseconds(value: Option<u64>, standard: Duration) -> Duration {
    value.map_or(standard, Duration::from_millis)
}

/// The identity of the pair with this name; `None` if the UUID that it is given is none.
fn identity(name: &str, uuid: Option<&str>) -> Option<Uuid> {
    match uuid {
        Some(text) => check::uuid(text).map(Uuid),
        None => Some(Uuid(fingerprint(&[name.as_bytes()]))),
    }
}

/// An identity made from names: FNV-1a with 128 bits, never zero.
fn fingerprint(parts: &[&[u8]]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let bytes = parts.iter().flat_map(|part| part.iter().copied().chain([0xff]));
    bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME)).max(1)
}

/// The extent sizes a pool can have, for texts.
fn extent_sizes() -> String {
    format!("{} to {}", sizes::show(EXTENT_BYTES_MIN), sizes::show(EXTENT_BYTES_MAX))
}

#[cfg(test)]
mod tests;
