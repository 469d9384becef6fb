//! `twinsand run`: one node. Joins the engine, the mirror link and the iSCSI target, and ends them in order.
//!
//! The portals are opened when the node may serve for the first time, so that initiators find no node that is still
//! looking for its partner. From then on a node that may not serve answers NOT READY, and closes its portals if that
//! lasts, until it may again. When it stops it asks initiators to log out, and closes them for good.
//! SIGHUP has the node read its hosts and mappings again.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use twinsan::backend::random_boot_id;
use twinsan::block::PagePool;
use twinsan::ids::NodeName;
use twinsan::node::config::NodeConfig;
use twinsan::node::event::Notice;
use twinsan::planted::Planted;
use twinsan::runtime::Engine;
use twinsan_iscsi::{RefusedLogin, Server, TargetConfig};
use twinsan_mirror::{LinkConfig, TcpLink};

use crate::Failure;
use crate::arbiter::{self, Answers};
use crate::config::Config;
use crate::disks;
use crate::pool::{Control, Operator, Paths};
use crate::signals;
use crate::sizes::show;
use crate::status::{Status, StatusSocket, level_name};
use crate::volumes;

/// How long a clean stop may take before the node stops as it is.
const STOP_BOUND: Duration = Duration::from_secs(30);

/// How long initiators have to log out when the node stops.
const LOGOUT_GRACE: Duration = Duration::from_secs(2);
/// How long a node that may not serve says so before it closes its portals. A short loss shall not cost hosts their
/// sessions; a long one shall not keep them on a path that leads nowhere.
const LOST_BOUND: Duration = Duration::from_secs(10);

/// What the node's main loop waits for.
enum Event {
    Notice(Notice),
    /// The engine is gone.
    Ended,
    /// Someone asked for a clean stop.
    Stop,
    /// Someone has changed the configuration.
    Reload,
    /// An initiator was not let in.
    Refused(RefusedLogin),
    /// The iSCSI target serves no more.
    TargetFailed,
}

/// Runs the node of this configuration until it is stopped.
pub(crate) fn run(path: &Path) -> Result<(), Failure> {
    let mut config = Config::load(path)?;
    config.load_secrets(path)?;
    config.load_witness_secret(path)?;
    std::fs::create_dir_all(&config.node.directory)
        .map_err(|error| format!("{} cannot be made: {error}", config.node.directory.display()))?;
    check_portals(&config)?;
    allow_many_files(config.name());
    let (events, inbox) = channel();
    signals::watch(events.clone(), || Event::Stop)?;
    signals::watch_hangup(events.clone(), || Event::Reload)?;
    let pages = PagePool::new();
    let answers = Answers::of(&config);
    let (engine, paths) = start_engine(&config, &pages, &answers)?;
    let (asked, shown, known) = (engine.clone(), Arc::clone(&paths), Arc::clone(&paths));
    let status = move || Some(Status { arbiter: answers.status(), ..Status::of(&asked, &shown)? });
    let status = StatusSocket::serve(&config.socket(), status)
        .map_err(|error| format!("{} cannot be served: {error}", config.socket().display()))?;
    let operator =
        Operator { config: path.to_path_buf(), engine: engine.clone(), pages: pages.clone(), paths };
    let control = Control::serve(&config.control_socket(), operator)
        .map_err(|error| format!("{} cannot be served: {error}", config.control_socket().display()))?;
    forward_notices(&engine, events.clone())?;
    let portals = Portals::default();
    let mut node = Running { config, pages, engine, events, paths: known, server: None, portals };
    let outcome = node.until_ended(&inbox, path);
    drop((status, control));
    drop(node);
    outcome
}

struct Running {
    config: Config,
    pages: PagePool,
    engine: Engine,
    events: Sender<Event>,
    paths: Paths,
    server: Option<Server>,
    portals: Portals,
}

/// Whether the portals of a node that has served are open.
#[derive(Default)]
struct Portals {
    /// When they will be closed, if the node may not serve.
    close_at: Option<Instant>,
    closed: bool,
}

impl Portals {
    /// The next event, or a timeout when the portals are to be closed.
    fn next(&self, inbox: &Receiver<Event>) -> Result<Event, RecvTimeoutError> {
        match self.close_at {
            Some(when) => inbox.recv_timeout(when.saturating_duration_since(Instant::now())),
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }
}

impl Running {
    /// The main loop.
    fn until_ended(&mut self, inbox: &Receiver<Event>, path: &Path) -> Result<(), Failure> {
        loop {
            match self.portals.next(inbox) {
                Ok(Event::Notice(notice)) => self.heard(&notice)?,
                Ok(Event::Reload) => self.reload(path),
                Ok(Event::Refused(login)) => log(self.config.name(), &login.to_string()),
                Ok(Event::Stop) => return self.stop(),
                Ok(Event::TargetFailed) => {
                    // Hosts use the partner already; a node that keeps nobody's path is better started anew.
                    drop(self.stop());
                    return Err("a thread of the iSCSI target has panicked, see above: the node stops".into());
                }
                Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => {
                    let failure = self.engine.failure();
                    return Err(failure.unwrap_or_else(|| "the node ended by itself".into()).into());
                }
                Err(RecvTimeoutError::Timeout) => self.close_portals(),
            }
        }
    }

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
        match notice {
            Notice::VolumeDeleted(_) => self.grant_again(),
            Notice::Paired(_) | Notice::Alone(_) => self.open_portals(),
            Notice::Lost if self.server.is_some() && !self.portals.closed => {
                self.portals.close_at = Some(Instant::now() + LOST_BOUND);
            }
            _ => {}
        }
        if matches!(notice, Notice::Paired(_) | Notice::Alone(_)) && self.server.is_none() {
            for problem in self.config.find_volumes(&volumes::names(&self.engine)) {
                log(
                    self.config.name(),
                    &format!("a mapping is left out: {problem}; SIGHUP has it looked at again"),
                );
            }
            let server = serve(&self.config, &self.engine, &self.pages, self.events.clone())?;
            self.tell_urls(&server);
            self.server = Some(server);
        }
        Ok(())
    }

    /// Hosts are told that a volume is no longer there.
    fn grant_again(&self) {
        let Some(server) = &self.server else { return };
        if let Err(error) = server.set_access(self.config.access(|id| self.engine.volume(id))) {
            log(self.config.name(), &format!("mappings stay as they were: {error}"));
        }
    }

    /// The node has not been allowed to serve for a while.
    fn close_portals(&mut self) {
        self.portals = Portals { close_at: None, closed: true };
        if let Some(server) = &self.server {
            server.close_portals();
            log(self.config.name(), "closed its portals until it may serve again");
        }
    }

    fn open_portals(&mut self) {
        let Portals { closed, .. } = std::mem::take(&mut self.portals);
        let Some(server) = self.server.as_ref().filter(|_| closed) else { return };
        match server.open_portals() {
            Ok(()) => log(self.config.name(), "opened its portals again"),
            Err(error) => {
                // Hosts have the other path; the next change of state tries again.
                self.portals.closed = true;
                log(self.config.name(), &format!("could not open its portals: {error}"));
            }
        }
    }

    fn tell_urls(&self, server: &Server) {
        for mapping in &self.config.mapping {
            for portal in server.local_addrs() {
                let iqn = mapping.target.as_ref().unwrap_or(&self.config.target.iqn);
                let lun = self.config.lun(mapping).unwrap_or_default();
                let url = format!("serves {}: iscsi://{portal}/{iqn}/{lun}", mapping.volume);
                log(self.config.name(), &url);
            }
        }
    }

    /// Reads the configuration again and takes over its hosts, their secrets, and mappings; everything else waits for a restart.
    fn reload(&mut self, path: &Path) {
        let name = self.config.name();
        let outcome = self.take_over(path);
        match outcome {
            Ok(()) => log(name, "hosts and mappings were read again"),
            Err(error) => log(name, &format!("hosts and mappings stay as they were: {error}")),
        }
    }

    fn take_over(&mut self, path: &Path) -> Result<(), Failure> {
        let mut fresh = Config::load(path)?;
        fresh.load_secrets(path)?;
        let Config { host, mapping, secrets, .. } = fresh;
        let before = (
            std::mem::replace(&mut self.config.host, host),
            std::mem::replace(&mut self.config.mapping, mapping),
            std::mem::replace(&mut self.config.secrets, secrets),
        );
        // Judged again beside what stays: the volumes and the targets that this node began with.
        let mut outcome = self.config.check_again(path).map_err(Failure::from);
        // Before it has served, the node does not know what there is: then it looks.
        if let (Ok(()), Some(server)) = (&outcome, &self.server) {
            outcome = match self.config.find_volumes(&volumes::names(&self.engine)).into_iter().next() {
                Some(problem) => Err(problem.into()),
                None => {
                    let access = self.config.access(|id| self.engine.volume(id));
                    server.set_access(access).map_err(Failure::from)
                }
            };
        }
        if outcome.is_err() {
            (self.config.host, self.config.mapping, self.config.secrets) = before;
        }
        outcome
    }

    /// Hands over first, then asks initiators to log out and closes the portals: an initiator that is told NOT READY, or cut off, finds the partner
    /// ready.
    fn stop(&mut self) -> Result<(), Failure> {
        let name = self.config.name();
        log(name, "stops: hands over");
        let clean = self.engine.stop(STOP_BOUND);
        if let Some(server) = self.server.take() {
            server.drain(LOGOUT_GRACE);
            server.stop();
        }
        log(name, if clean.is_ok() { "stopped cleanly" } else { "stopped without handing over" });
        Ok(clean?)
    }
}

fn start_engine(config: &Config, pages: &PagePool, answers: &Answers) -> Result<(Engine, Paths), Failure> {
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
        space: config.space(),
        experimental_snapshots: config.node.experimental_snapshots,
        planted: Planted::NONE,
    };
    let mut builder = Engine::builder(node).disks(disks);
    if let Some(arbiter) = arbiter::build(config)? {
        let answers = answers.clone();
        builder = builder.arbiter(arbiter).arbiter_told(move |outcome| answers.note(name, outcome));
    }
    if let Some(partner) = &config.partner {
        let mut link = LinkConfig::new(name, config.partnership(), boot, partner.link, pages.clone());
        link.notices = Arc::new(move |notice| log(name, &notice.to_string()));
        builder = builder.transport(Arc::new(TcpLink::new(link)?));
    }
    let paths = (0..).zip(paths).collect();
    Ok((builder.start()?, Arc::new(parking_lot::Mutex::new(paths))))
}

fn serve(
    config: &Config,
    engine: &Engine,
    pages: &PagePool,
    events: Sender<Event>,
) -> Result<Server, Failure> {
    let mut target = TargetConfig::new(&config.target.iqn);
    target.names = config.target.names().cloned().collect();
    target.chap_algorithms = config.chap_algorithms();
    if let Some(most) = config.target.initiator_sessions_max {
        target.initiator_sessions_max = most;
    }
    target.portals = config.target.portals.clone();
    target.partner_portals = config.partner.iter().flat_map(|partner| partner.portals.clone()).collect();
    (target.portal_group, target.partner_portal_group) = match config.name() {
        NodeName::A => (1, 2),
        NodeName::B => (2, 1),
    };
    target.pages = pages.clone();
    // A log that is slow to take its lines shall not slow down hosts: the main loop writes them.
    let failures = events.clone();
    target.refused = Arc::new(move |login| drop(events.send(Event::Refused(login))));
    target.failed = Arc::new(move || drop(failures.send(Event::TargetFailed)));
    Ok(Server::start(target, config.access(|id| engine.volume(id)))?)
}

/// As many open files as the system lets this process have: each connection is one.
pub(crate) fn allow_many_files(name: impl std::fmt::Display) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        log(name, &format!("serves fewer connections than it could: no more open files: {error}"));
    }
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
        Notice::OpenDiskFailed { disk, error } => format!("disk {} of the pool fails: {error}", disk.0),
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
        Notice::SpaceReached { level, bytes_used, bytes } => {
            let (used, all) = (show(*bytes_used), show(*bytes));
            format!(
                "pool use has reached {}: {used} of {all}; add a disk or unmap something",
                level_name(*level)
            )
        }
        Notice::SpaceRegained { level, bytes_used, bytes } => {
            let (used, all) = (show(*bytes_used), show(*bytes));
            format!("pool use is below {} again: {used} of {all}", level_name(*level))
        }
        Notice::PartnerDropped => {
            "the partner's pool is full: goes on without it, as configured; add a disk there".into()
        }
        Notice::ReservationShort { bytes } => {
            let missing = show(*bytes);
            format!(
                "the pool lacks {missing} of what it keeps for volumes: others use it; add a disk or unmap something"
            )
        }
        Notice::Damaged { volume, block, repaired: true } => {
            format!("block {block} of volume {volume} was damaged, and was put right from the partner")
        }
        Notice::Damaged { volume, block, repaired: false } => {
            format!(
                "block {block} of volume {volume} is damaged and no good copy is left: overwrite it from a backup"
            )
        }
        Notice::VolumeGrown { volume, sectors } => format!("volume {volume} has {} now", show(sectors * 512)),
        Notice::VolumeDeleted(volume) => {
            format!("volume {volume} is deleted; take it out of the configuration of both nodes")
        }
        Notice::VolumeCloned { volume, of, read_only: true } => {
            format!("volume {volume} is a snapshot of volume {of}")
        }
        Notice::VolumeCloned { volume, of, read_only: false } => {
            format!("volume {volume} is a clone of snapshot {of}")
        }
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
pub(crate) fn log(name: impl std::fmt::Display, what: &str) {
    // Nobody is there to tell that the log is gone, and a node does not end for it.
    drop(writeln!(std::io::stderr(), "twinsand {name}: {what}"));
}
