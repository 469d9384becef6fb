//! The status of a node: what it is and does, as one line of JSON on a unix socket and as a table for people.
//!
//! Whoever connects to the socket gets the line and the end of the stream; nothing is read.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use twinsan::mirror::message::PeerPhase;
use twinsan::node::config::SpaceLevel;
use twinsan::node::view::{DiskUse, DiskView, View, VolumeView};
use twinsan::runtime::Engine;

use crate::arbiter::ArbiterStatus;
use crate::pool::Paths;
use crate::sizes::show;

/// How long a node may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a node says of itself. Keys are only ever added.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Status {
    /// `a` or `b`.
    pub(crate) node: String,
    /// `starting`, `paired`, `deciding`, `alone`, `lost`, `target`, `joined` or `stopped`.
    pub(crate) state: String,
    /// Number of the membership.
    pub(crate) epoch: u64,
    /// May it answer hosts now?
    pub(crate) serving: bool,
    /// Does its half hold everything?
    pub(crate) up_to_date: bool,
    /// Dirty bytes in the cache.
    pub(crate) dirty_bytes: u64,
    /// All bytes in the cache.
    pub(crate) cached_bytes: u64,
    /// Size of the pool.
    pub(crate) pool_bytes: u64,
    /// Bytes of it that are allocated.
    pub(crate) pool_bytes_used: u64,
    /// Bytes kept for volumes that have not used them yet.
    #[serde(default)]
    pub(crate) pool_bytes_kept: u64,
    /// The threshold that its use has reached: `normal`, `info`, `warning` or `critical`.
    #[serde(default)]
    pub(crate) pool_level: String,
    /// The resync of which this node is the source.
    pub(crate) resync: Resync,
    /// Its block checksums.
    #[serde(default)]
    pub(crate) checksums: Checksums,
    /// Its volumes.
    pub(crate) volumes: Vec<VolumeStatus>,
    /// The disks of its pool.
    #[serde(default)]
    pub(crate) disks: Vec<DiskStatus>,
    /// Volumes that are deleted, and whose space is on its way back.
    #[serde(default)]
    pub(crate) deleting: Vec<Deleting>,
    /// Who decides when the nodes lose each other.
    #[serde(default)]
    pub(crate) arbiter: ArbiterStatus,
}

/// A volume that is deleted and not gone yet.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Deleting {
    /// Its id.
    pub(crate) id: u32,
    /// Bytes that are still allocated to it.
    pub(crate) bytes_left: u64,
}

/// A disk of the pool.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct DiskStatus {
    /// Its identity, 32 hexadecimal digits.
    pub(crate) uuid: String,
    /// Where it is.
    pub(crate) path: String,
    /// Its size in bytes.
    pub(crate) bytes: u64,
    /// The unit that it writes atomically.
    pub(crate) sector_bytes: u32,
    /// Bytes of it for volumes.
    pub(crate) data_bytes: u64,
    /// How many of those are not free.
    pub(crate) data_bytes_used: u64,
    /// Does it hold the metadata of the pool?
    pub(crate) home: bool,
    /// `joining`, `in use`, `leaving`, `paused` (leaving, and paused) or `departing` (empty, and still needed).
    pub(crate) state: String,
    /// While it is leaving: bytes that are still to be moved.
    pub(crate) bytes_left: u64,
    /// While it is leaving: blocks that cannot be read, and keep their extents on it.
    pub(crate) unmovable_blocks: u32,
}

/// What block checksums have shown in this life, and how far the scrub is.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub(crate) struct Checksums {
    /// Blocks that were read and matched.
    pub(crate) blocks_verified: u64,
    /// Blocks put right from the partner.
    pub(crate) blocks_repaired: u64,
    /// Answers that no good copy of a block is left.
    pub(crate) blocks_lost: u64,
    /// Bytes that a crash has put in doubt and that have not been looked at.
    pub(crate) bytes_in_doubt: u64,
    /// Is a scrub running?
    pub(crate) scrub_running: bool,
    /// Bytes that it has to look at.
    pub(crate) scrub_bytes_total: u64,
    /// Bytes that it has looked at.
    pub(crate) scrub_bytes_done: u64,
    /// Damaged blocks that it could not put right.
    pub(crate) scrub_blocks_unrepaired: u64,
}

/// A resync, running or the last.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub(crate) struct Resync {
    /// Is one running?
    pub(crate) running: bool,
    /// Regions of 64 KiB to look at.
    pub(crate) regions_total: u64,
    /// How many are left.
    pub(crate) regions_left: u64,
    /// Bytes copied so far, new writes of hosts not counted.
    pub(crate) bytes_copied: u64,
}

/// A volume on this node.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct VolumeStatus {
    /// Its id.
    pub(crate) id: u32,
    /// Its name.
    pub(crate) name: String,
    /// Its size in bytes.
    pub(crate) bytes: u64,
    /// Has it two halves?
    pub(crate) mirrored: bool,
    /// Who orders its writes, if known.
    pub(crate) owner: Option<String>,
    /// Bytes allocated to it here.
    pub(crate) bytes_used: u64,
    /// Regions of 64 KiB that the partner lacks.
    pub(crate) regions_logged: u64,
    /// Areas of 4 MiB in which the halves may differ.
    pub(crate) areas_hot: u64,
    /// Extents of the pool that are mapped here, those included that it shares with what it was made of.
    #[serde(default)]
    pub(crate) extents: u64,
    /// The id of the volume that it began as: it is a snapshot of that, or a clone.
    #[serde(default)]
    pub(crate) of: Option<u32>,
    /// Is it a snapshot, which is only read?
    #[serde(default)]
    pub(crate) read_only: bool,
}

impl VolumeStatus {
    /// What it was made of; nothing, if it was made as it is.
    fn origin(&self, all: &[VolumeStatus]) -> String {
        let Some(of) = self.of else { return String::new() };
        let model = all.iter().find(|volume| volume.id == of);
        let model = model.map_or_else(|| format!("{of}, which is deleted"), |volume| volume.name.clone());
        let extents = self.extents;
        if self.read_only {
            format!("snapshot of {model}, read-only, {extents} extents")
        } else {
            format!("clone of {model}, {extents} extents")
        }
    }
}

impl Status {
    /// What a node's view says; `None` when the engine has ended.
    pub(crate) fn of(engine: &Engine, paths: &Paths) -> Option<Status> {
        let view = engine.view()?;
        let extent_bytes = engine.extent_bytes();
        let mut status = Status {
            node: view.name.to_string(),
            state: state(view.phase).into(),
            epoch: view.epoch.0,
            serving: view.serving,
            up_to_date: view.up_to_date,
            dirty_bytes: view.dirty_blocks * 4096,
            cached_bytes: view.cached_blocks * 4096,
            pool_bytes: view.pool_bytes,
            pool_bytes_used: view.pool_bytes_used,
            pool_bytes_kept: view.pool_bytes_kept,
            pool_level: level_name(view.space_level).into(),
            resync: resync(&view),
            checksums: checksums(&view),
            volumes: Vec::new(),
            disks: view.disks.iter().map(|disk| disk_status(disk, paths, extent_bytes)).collect(),
            deleting: view
                .deleting
                .iter()
                .map(|(id, extents)| Deleting { id: id.0, bytes_left: extents * extent_bytes })
                .collect(),
            arbiter: ArbiterStatus::default(),
        };
        status.volumes = view.volumes.iter().map(|half| volume_status(engine, half)).collect();
        Some(status)
    }

    /// Asks the node behind a socket.
    pub(crate) fn ask(socket: &Path) -> io::Result<Status> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        stream.read_to_string(&mut line)?;
        serde_json::from_str(&line).map_err(io::Error::other)
    }
}

/// A threshold's name.
pub(crate) fn level_name(level: SpaceLevel) -> &'static str {
    match level {
        SpaceLevel::Normal => "normal",
        SpaceLevel::Info => "info",
        SpaceLevel::Warning => "warning",
        SpaceLevel::Critical => "critical",
    }
}

fn volume_status(engine: &Engine, half: &VolumeView) -> VolumeStatus {
    // One that only the pool knows has a name when the node has served.
    let info = engine.volume(half.id).map(|volume| volume.info());
    let (sectors, name) = match info {
        Some(info) => (info.sectors, info.name),
        None => (half.sectors, format!("volume {}", half.id)),
    };
    VolumeStatus {
        id: half.id.0,
        name,
        bytes: sectors * 512,
        mirrored: half.mirrored,
        owner: half.owner.map(|owner| owner.to_string()),
        bytes_used: half.extents * engine.extent_bytes(),
        regions_logged: half.log.len(),
        areas_hot: half.hot.len() as u64,
        extents: half.extents,
        of: half.of.map(|of| of.0),
        read_only: half.read_only,
    }
}

fn disk_status(disk: &DiskView, paths: &Paths, extent_bytes: u64) -> DiskStatus {
    let (state, left, unmovable_blocks) = match disk.state {
        DiskUse::Joining => ("joining", 0, 0),
        DiskUse::InUse => ("in use", 0, 0),
        DiskUse::Departing => ("departing", 0, 0),
        DiskUse::Leaving { extents_left, paused, unmovable } => {
            (if paused { "paused" } else { "leaving" }, extents_left, unmovable)
        }
    };
    DiskStatus {
        uuid: format!("{:032x}", disk.uuid.0),
        path: paths.lock().get(&disk.device.0).map(|path| path.display().to_string()).unwrap_or_default(),
        bytes: disk.bytes,
        sector_bytes: disk.sector_bytes,
        data_bytes: u64::from(disk.extents) * extent_bytes,
        data_bytes_used: u64::from(disk.extents_used) * extent_bytes,
        home: disk.home,
        state: state.into(),
        bytes_left: u64::from(left) * extent_bytes,
        unmovable_blocks,
    }
}

fn state(phase: PeerPhase) -> &'static str {
    match phase {
        PeerPhase::Starting => "starting",
        PeerPhase::Paired => "paired",
        PeerPhase::Deciding => "deciding",
        PeerPhase::Alone => "alone",
        PeerPhase::Lost => "lost",
        PeerPhase::Target => "target",
        PeerPhase::Joined => "joined",
        PeerPhase::Stopped => "stopped",
    }
}

fn resync(view: &View) -> Resync {
    Resync {
        running: view.resync_regions_left > 0,
        regions_total: view.resync_regions_total,
        regions_left: view.resync_regions_left,
        bytes_copied: view.resync_bytes_copied,
    }
}

fn checksums(view: &View) -> Checksums {
    Checksums {
        blocks_verified: view.sums.verified,
        blocks_repaired: view.mends.repaired,
        blocks_lost: view.mends.lost,
        bytes_in_doubt: view.sum_lines_in_doubt * 65536,
        scrub_running: view.scrub.running,
        scrub_bytes_total: view.scrub.bytes_total,
        scrub_bytes_done: view.scrub.bytes_done,
        scrub_blocks_unrepaired: view.scrub.unrepaired,
    }
}

/// A status socket that is being served. It is removed with it.
pub(crate) struct StatusSocket {
    path: PathBuf,
}

impl StatusSocket {
    /// Serves what `status` says.
    pub(crate) fn serve(
        path: &Path,
        status: impl Fn() -> Option<Status> + Send + 'static,
    ) -> io::Result<StatusSocket> {
        // One that a killed node left behind answers nobody.
        if path.exists() && UnixStream::connect(path).is_err() {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::thread::Builder::new().name("status".into()).spawn(move || {
            for stream in listener.incoming() {
                let Some(status) = status() else { return };
                if let Ok(mut stream) = stream {
                    // Whoever asks and does not listen harms nobody.
                    drop(tell(&mut stream, &status));
                }
            }
        })?;
        Ok(StatusSocket { path: path.to_path_buf() })
    }
}

fn tell(stream: &mut UnixStream, status: &Status) -> io::Result<()> {
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    let mut line = serde_json::to_vec(status)?;
    line.push(b'\n');
    stream.write_all(&line)
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

/// The status for people.
pub(crate) fn table(status: &Status) -> String {
    let mut text = format!(
        "node {}: {}, epoch {}, {}; cache {} dirty of {}; pool {} of {} used\n",
        status.node,
        status.state,
        status.epoch,
        if status.serving { "serving" } else { "not serving" },
        show(status.dirty_bytes),
        show(status.cached_bytes),
        show(status.pool_bytes_used),
        show(status.pool_bytes),
    );
    text += &status.arbiter.line();
    if status.pool_bytes_kept > 0 {
        text += &format!("kept for volumes: {}\n", show(status.pool_bytes_kept));
    }
    if !matches!(status.pool_level.as_str(), "" | "normal") {
        text += &format!("pool use is {}: add a disk or unmap something\n", status.pool_level);
    }
    if status.resync.running {
        let Resync { regions_total, regions_left, bytes_copied, .. } = status.resync;
        let done = regions_total.saturating_sub(regions_left);
        text += &format!("resync: {done} of {regions_total} regions, {} copied\n", show(bytes_copied));
    }
    let sums = &status.checksums;
    if sums.scrub_running {
        let (done, total) = (show(sums.scrub_bytes_done), show(sums.scrub_bytes_total));
        text +=
            &format!("scrub: {done} of {total}, {} bad blocks not put right\n", sums.scrub_blocks_unrepaired);
    }
    if sums.blocks_repaired + sums.blocks_lost > 0 {
        text += &format!(
            "bad blocks: {} put right, {} without a good copy\n",
            sums.blocks_repaired, sums.blocks_lost
        );
    }
    text += &format!(
        "{:<4} {:<16} {:>10} {:>10}  {:<6} {:<13} {}\n",
        "id", "volume", "size", "used", "owner", "partner lacks", "made of"
    );
    for volume in &status.volumes {
        let owner = if volume.mirrored { volume.owner.as_deref().unwrap_or("?") } else { "linear" };
        let line = format!(
            "{:<4} {:<16} {:>10} {:>10}  {:<6} {:<13} {}",
            volume.id,
            volume.name,
            show(volume.bytes),
            show(volume.bytes_used),
            owner,
            show(volume.regions_logged * 65536),
            volume.origin(&status.volumes),
        );
        text += line.trim_end();
        text.push('\n');
    }
    for Deleting { id, bytes_left } in &status.deleting {
        text += &format!("volume {id} is deleted: {} still to be freed\n", show(*bytes_left));
    }
    text
}

/// The disks of the pool for people.
pub(crate) fn disk_table(status: &Status) -> String {
    let mut text = format!("{:<32}  {:>10} {:>10}  {:<9} path\n", "disk", "size", "used", "state");
    for disk in &status.disks {
        text += &format!(
            "{}  {:>10} {:>10}  {:<9} {}{}\n",
            disk.uuid,
            show(disk.bytes),
            show(disk.data_bytes_used),
            disk.state,
            disk.path,
            if disk.home { " (holds the metadata)" } else { "" },
        );
        if disk.state == "leaving" || disk.state == "paused" {
            text += &format!("  {} still to be moved", show(disk.bytes_left));
            if disk.unmovable_blocks > 0 {
                text += &format!(", {} blocks cannot be read", disk.unmovable_blocks);
            }
            text.push('\n');
        }
    }
    text
}
