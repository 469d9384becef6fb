//! `twinsand run`: one node. Joins the engine, the mirror link and the iSCSI target, and ends them in order.
//!
//! The portals are opened when the node may serve for the first time, so that initiators find no node that is still
//! looking for its partner; from then on a node that may not serve answers NOT READY. They close when it stops.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use twinsan::backend::{FileArbiter, random_boot_id};
use twinsan::block::PagePool;
use twinsan::ids::NodeName;
use twinsan::node::config::NodeConfig;
use twinsan::node::event::Notice;
use twinsan::planted::Planted;
use twinsan::runtime::Engine;
use twinsan_iscsi::{Mapping, Server, TargetConfig};
use twinsan_mirror::{LinkConfig, TcpLink};

use crate::Failure;
use crate::config::Config;
use crate::disks;
use crate::pool::{Control, Operator, Paths};
use crate::signals;
use crate::status::{Status, StatusSocket};

/// How long a clean stop may take before the node stops as it is.
const STOP_BOUND: Duration = Duration::from_secs(30);

/// What the node's main loop waits for.
enum Event {
    Notice(Notice),
    /// The engine is gone.
    Ended,
    /// Someone asked for a clean stop.
    Stop,
}

/// Runs the node of this configuration until it is stopped.
pub(crate) fn run(path: &Path) -> Result<(), Failure> {
    let config = Config::load(path)?;
    std::fs::create_dir_all(&config.node.directory)
        .map_err(|error| format!("{} cannot be made: {error}", config.node.directory.display()))?;
    check_portals(&config)?;
    let (events, inbox) = channel();
    signals::watch(events.clone(), || Event::Stop)?;
    let pages = PagePool::new();
    let (engine, paths) = start_engine(&config, &pages)?;
    let (asked, shown, known) = (engine.clone(), Arc::clone(&paths), Arc::clone(&paths));
    let status = StatusSocket::serve(&config.socket(), move || Status::of(&asked, &shown))
        .map_err(|error| format!("{} cannot be served: {error}", config.socket().display()))?;
    let operator =
        Operator { config: path.to_path_buf(), engine: engine.clone(), pages: pages.clone(), paths };
    let control = Control::serve(&config.control_socket(), operator)
        .map_err(|error| format!("{} cannot be served: {error}", config.control_socket().display()))?;
    forward_notices(&engine, events)?;
    let mut node = Running { config, pages, engine, paths: known, server: None };
    let mut outcome = Ok(());
    for event in inbox {
        match event {
            Event::Notice(notice) => {
                node.heard(&notice)?;
            }
            Event::Stop => {
                outcome = node.stop();
                break;
            }
            Event::Ended => {
                outcome =
                    Err(node.engine.failure().unwrap_or_else(|| "the node ended by itself".into()).into());
                break;
            }
        }
    }
    drop((status, control));
    drop(node);
    outcome
}

struct Running {
    config: Config,
    pages: PagePool,
    engine: Engine,
    paths: Paths,
    server: Option<Server>,
}

impl Running {
    fn heard(&mut self, notice: &Notice) -> Result<(), Failure> {
        match notice {
            Notice::DiskNotOurs(number) => {
                let path = self.paths.lock().remove(&number.0).unwrap_or_default();
                let what = "was removed from the pool, or never got in: add it with `twinsand pool add-disk`, or take \
                            it out of pool.disks";
                log(self.config.name(), &format!("{} {what}", path.display()));
            }
            notice => log(self.config.name(), &describe(notice)),
        }
        if matches!(notice, Notice::Paired(_) | Notice::Alone(_)) && self.server.is_none() {
            let server = serve(&self.config, &self.engine, &self.pages)?;
            for mapping in &self.config.mapping {
                for portal in server.local_addrs() {
                    let (iqn, lun) = (&self.config.target.iqn, mapping.lun);
                    log(
                        self.config.name(),
                        &format!("serves {}: iscsi://{portal}/{iqn}/{lun}", mapping.volume),
                    );
                }
            }
            self.server = Some(server);
        }
        Ok(())
    }

    /// Hands over first, then closes the portals: an initiator that is told NOT READY, or cut off, finds the partner
    /// ready.
    fn stop(&mut self) -> Result<(), Failure> {
        let name = self.config.name();
        log(name, "stops: hands over");
        let clean = self.engine.stop(STOP_BOUND);
        if let Some(server) = self.server.take() {
            server.stop();
        }
        log(name, if clean.is_ok() { "stopped cleanly" } else { "stopped without handing over" });
        Ok(clean?)
    }
}

fn start_engine(config: &Config, pages: &PagePool) -> Result<(Engine, Paths), Failure> {
    let name = config.name();
    let disks::Prepared { disks, paths, blank, fresh } = disks::prepare(config, pages)?;
    if fresh {
        log(name, &format!("made pool {}", config.pool().name));
    }
    for path in blank {
        let what =
            "is not part of the pool: add it with `twinsand pool add-disk`, or take it out of pool.disks";
        log(name, &format!("{} {what}", path.display()));
    }
    let boot = random_boot_id()?;
    let node = NodeConfig {
        name,
        partnership: config.partnership(),
        boot,
        arbitration: config.arbitration(),
        preferred: config.preferred(),
        volumes: config.volumes(),
        cache: config.cache(),
        mirror: config.mirror(),
        planted: Planted::NONE,
    };
    let mut builder = Engine::builder(node).disks(disks);
    if let Some(file) = &config.arbiter.file {
        builder = builder.arbiter(Arc::new(FileArbiter::new(file, config.partnership())));
    }
    if let Some(partner) = &config.partner {
        let mut link = LinkConfig::new(name, config.partnership(), boot, partner.link, pages.clone());
        link.notices = Arc::new(move |notice| log(name, &notice.to_string()));
        builder = builder.transport(Arc::new(TcpLink::new(link)?));
    }
    let paths = (0..).zip(paths).collect();
    Ok((builder.start()?, Arc::new(parking_lot::Mutex::new(paths))))
}

fn serve(config: &Config, engine: &Engine, pages: &PagePool) -> Result<Server, Failure> {
    let mut target = TargetConfig::new(&config.target.iqn);
    target.portals = config.target.portals.clone();
    target.partner_portals = config.partner.iter().flat_map(|partner| partner.portals.clone()).collect();
    (target.portal_group, target.partner_portal_group) = match config.name() {
        NodeName::A => (1, 2),
        NodeName::B => (2, 1),
    };
    target.pages = pages.clone();
    let mut mappings = Vec::new();
    for mapping in &config.mapping {
        let host = config.host.iter().find(|host| host.name == mapping.host);
        let volume = config.volume.iter().find(|volume| volume.name == mapping.volume);
        let (Some(host), Some(volume)) = (host, volume) else { continue };
        let Some(volume) = engine.volume(twinsan::ids::VolumeId(volume.id)) else { continue };
        mappings.push(Mapping { initiators: host.iqns.clone(), lun: mapping.lun, volume });
    }
    Ok(Server::start(target, mappings)?)
}

/// A portal that cannot be had is told at once, not when the node is about to serve.
fn check_portals(config: &Config) -> Result<(), Failure> {
    for portal in &config.target.portals {
        TcpListener::bind(portal).map_err(|error| {
            format!("target.portals: cannot listen on {portal}: {error}; free it or name another")
        })?;
    }
    Ok(())
}

fn forward_notices(engine: &Engine, to: Sender<Event>) -> Result<(), Failure> {
    let notices = engine.notices();
    std::thread::Builder::new().name("notices".into()).spawn(move || {
        for notice in notices {
            if to.send(Event::Notice(notice)).is_err() {
                return;
            }
        }
        drop(to.send(Event::Ended));
    })?;
    Ok(())
}

fn describe(notice: &Notice) -> String {
    match notice {
        Notice::Opened => "pool is open".into(),
        Notice::OpenFailed(reason) => format!("pool cannot be opened: {reason}"),
        Notice::Paired(epoch) => format!("serves in a pair, epoch {epoch}"),
        Notice::Alone(epoch) => format!("serves alone, epoch {epoch}"),
        Notice::Lost => "may not serve: the partner goes on, or nobody may".into(),
        Notice::ResyncBegan { source, regions } => {
            format!("resync from {source} began: {regions} regions of 64 KiB")
        }
        Notice::DiskFailed => "a disk of the pool failed for good: replace it".into(),
        Notice::NeedsDecision(what) => format!("needs your decision: {what}"),
        Notice::Stopped => "stopped".into(),
        Notice::DiskJoined(disk) => format!("disk {:032x} is in use", disk.0),
        Notice::DiskLeft { disk, erased: true } => {
            format!("disk {:032x} is empty and no longer part of the pool", disk.0)
        }
        Notice::DiskLeft { disk, erased: false } => {
            format!("disk {:032x} is no longer part of the pool, and failed when it was to be erased", disk.0)
        }
        Notice::Unmovable { disk, offset, volume, block } => format!(
            "disk {:032x} cannot be read at byte {offset}: block {block} of volume {volume} stays there",
            disk.0
        ),
        other => format!("{other:?}"),
    }
}

/// One line to the log.
fn log(name: NodeName, what: &str) {
    eprintln!("twinsand {name}: {what}");
}
