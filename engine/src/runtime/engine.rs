//! The engine as an embedder sees it: built, used from any thread, stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;

use super::asker;
use super::clock::{BootClock, Clock};
use super::core::{Core, Outside};
use super::machine::Machine;
use super::transport::{Inbox, Transport};
use super::volume::Volume;
use crate::arbiter::{Answer, Arbiter, ArbiterError, Arbitration};
use crate::backend::{self, BlockBackend, DiskSink};
use crate::block::Payload;
use crate::guest::{Command, GuestError, GuestResult, Sectors, StatusRun, VirtualVolume};
use crate::ids::{BootId, VolumeId};
use crate::mirror::message::{VolumeChange, VolumeRefusal};
use crate::node::Node;
use crate::node::config::{NodeConfig, VolumeConfig};
use crate::node::event::{Event, Notice};
use crate::node::view::View;
use crate::time::Duration;

/// How long [`Engine::kill`] waits for requests that the disks have begun.
const LET_GO_BOUND: Duration = Duration::from_secs(30);

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no disk.
    #[error("a node needs at least one pool disk; name one")]
    NoDisk,
    /// Only an arbiter can decide, and there is none.
    #[error("arbitration `register` needs an arbiter; name one, or choose `preferred` or `stop-both`")]
    NoArbiter,
    /// The pool cannot be opened.
    #[error("the pool cannot be opened: {0}")]
    Pool(String),
    /// The disks took too long.
    #[error("the pool was not open after {0:?}; see whether its disks answer")]
    TimedOut(Duration),
    /// The system refused a thread or random numbers.
    #[error("the system refused: {0}")]
    System(#[from] std::io::Error),
}

/// The clean stop did not come about in time; the engine was stopped without it. Nothing acknowledged is lost, but the
/// partner has to decide whether it may go on, and this node will resynchronise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the node could not hand over in time and was stopped as it was; its partner decides whether to go on"
)]
pub struct NotClean;

/// Collects what an engine needs; see [`Engine::builder`].
pub struct EngineBuilder {
    config: NodeConfig,
    disks: Vec<Arc<dyn BlockBackend>>,
    transport: Option<Arc<dyn Transport>>,
    arbiter: Option<Arc<dyn Arbiter>>,
    told: Option<asker::Told>,
    clock: Arc<dyn Clock>,
    open_bound: Duration,
}

impl EngineBuilder {
    /// Adds a disk of the pool. Disks are recognised by their identity; the order does not matter.
    pub fn disk(mut self, disk: Arc<dyn BlockBackend>) -> EngineBuilder {
        self.disks.push(disk);
        self
    }

    /// Adds disks of the pool, in any order.
    pub fn disks(mut self, disks: impl IntoIterator<Item = Arc<dyn BlockBackend>>) -> EngineBuilder {
        self.disks.extend(disks);
        self
    }

    /// The way to the partner. Without one the partner is never reached.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> EngineBuilder {
        self.transport = Some(transport);
        self
    }

    /// The register that decides who serves when the nodes lose each other.
    pub fn arbiter(mut self, arbiter: Arc<dyn Arbiter>) -> EngineBuilder {
        self.arbiter = Some(arbiter);
        self
    }

    /// Who is told what has come of each question to the arbiter: from the thread that asks, before the node is. An answer
    /// that an earlier one contradicts is an error, as [`Past`](crate::arbiter::Past) says.
    pub fn arbiter_told(
        mut self,
        told: impl Fn(&Result<Answer, ArbiterError>) + Send + Sync + 'static,
    ) -> EngineBuilder {
        self.told = Some(Arc::new(told));
        self
    }

    /// Another clock than [`BootClock`].
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> EngineBuilder {
        self.clock = clock;
        self
    }

    /// How long opening the pool may take; one minute by default.
    pub fn open_bound(mut self, bound: Duration) -> EngineBuilder {
        self.open_bound = bound;
        self
    }

    /// Opens the pool, then the link to the partner. The volumes of a mirror answer requests when the nodes have found
    /// each other, or one may serve alone: see [`Engine::notices`].
    pub fn start(mut self) -> Result<Engine, StartError> {
        self.check()?;
        if self.config.boot == BootId(0) {
            self.config.boot = backend::random_boot_id()?;
        }
        let geometries: Vec<_> = self.disks.iter().map(|disk| disk.geometry()).collect();
        let node = Node::new(self.config.clone(), &geometries);
        self.launch(Box::new(node))
    }

    fn check(&self) -> Result<(), StartError> {
        if self.disks.is_empty() {
            return Err(StartError::NoDisk);
        }
        if self.config.arbitration == Arbitration::Register && self.arbiter.is_none() {
            return Err(StartError::NoArbiter);
        }
        Ok(())
    }

    pub(super) fn launch(self, machine: Box<dyn Machine>) -> Result<Engine, StartError> {
        let volumes = self.config.volumes;
        let core = Core::new(machine, self.clock, volumes.iter().map(|volume| volume.id));
        // From here on dropping the handle ends everything.
        let engine = Engine {
            handle: Arc::new(Handle { core: Arc::clone(&core), volumes, extent_sectors: AtomicU64::new(0) }),
        };
        start_timer(&core)?;
        let questions = self.arbiter.map(|arbiter| asker::start(&core, arbiter, self.told)).transpose()?;
        let sink = Arc::clone(&core) as Arc<dyn DiskSink>;
        let disks = self.disks.into_iter().map(Some).collect();
        core.begin(Outside { disks, transport: self.transport.clone(), questions, sink });
        engine.wait_open(self.open_bound)?;
        engine.handle.extent_sectors.store(core.extent_sectors().unwrap_or(0), Ordering::Relaxed);
        if let Some(transport) = self.transport {
            transport.open(Arc::clone(&core) as Arc<dyn Inbox>);
            if core.lifecycle.stage().over {
                // The node failed before there was an inbox to give up.
                transport.close();
            }
        }
        Ok(engine)
    }
}

fn start_timer(core: &Arc<Core>) -> std::io::Result<()> {
    let core = Arc::clone(core);
    let work = move || core.timer.run(&*core.clock, || core.tick());
    thread::Builder::new().name("twinsan-timer".into()).spawn(work)?;
    Ok(())
}

/// One node of a pair, at work. Clones are the same engine; it ends with [`stop`](Self::stop), or without a word when
/// the last clone and the last of its volumes are dropped.
///
/// Calls come from any thread. The calling thread does the work of its request as far as it can be done without
/// waiting.
#[derive(Clone)]
pub struct Engine {
    pub(super) handle: Arc<Handle>,
}

/// What all clones and volumes share; its end is the engine's.
pub(super) struct Handle {
    pub(super) core: Arc<Core>,
    pub(super) volumes: Vec<VolumeConfig>,
    /// Size of the pool's extents in sectors.
    pub(super) extent_sectors: AtomicU64,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl Engine {
    /// Begins to build an engine. A `config.boot` of zero is replaced by a random one.
    pub fn builder(config: NodeConfig) -> EngineBuilder {
        EngineBuilder {
            config,
            disks: Vec::new(),
            transport: None,
            arbiter: None,
            told: None,
            clock: Arc::new(BootClock),
            open_bound: Duration::from_secs(60),
        }
    }

    fn wait_open(&self, bound: Duration) -> Result<(), StartError> {
        let stage = self.handle.core.lifecycle.wait(bound, |stage| stage.opened || stage.failed.is_some());
        match stage.failed {
            Some(reason) => Err(StartError::Pool(reason)),
            None if stage.opened => Ok(()),
            None => Err(StartError::TimedOut(bound)),
        }
    }

    /// A volume that is not deleted. One that the configuration does not name is there when hosts may see it: a linear one as
    /// soon as the pool is open, a mirrored one when the node has served, for until then its partner may know better.
    pub fn volume(&self, id: VolumeId) -> Option<Arc<dyn VirtualVolume>> {
        let size = self.handle.core.sizes.of(id);
        let config = self.handle.volumes.iter().find(|volume| volume.id == id);
        if size.is_deleted() || (config.is_none() && size.sectors().is_none()) {
            return None;
        }
        Some(Arc::new(Volume::new(Arc::clone(&self.handle), id, config.cloned())))
    }

    /// All of these volumes: first those that the configuration names, in its order, then the others by number.
    pub fn volumes(&self) -> Vec<Arc<dyn VirtualVolume>> {
        let named: Vec<VolumeId> = self.handle.volumes.iter().map(|volume| volume.id).collect();
        let others = self.handle.core.sizes.shown().into_iter().filter(|id| !named.contains(id));
        named.iter().copied().chain(others).filter_map(|id| self.volume(id)).collect()
    }

    /// Carries out a command on a volume and waits for the answer. Not to be called by a [`Sink`](crate::guest::Sink).
    pub fn call(&self, volume: VolumeId, command: Command) -> GuestResult {
        super::volume::call(&self.handle.core, volume, command)
    }

    /// Reads; returns the 4 KiB blocks that the sectors touch.
    pub fn read(&self, volume: VolumeId, at: Sectors) -> GuestResult {
        self.call(volume, Command::Read { at })
    }

    /// Writes the 4 KiB blocks that the sectors touch; of the first and the last only the sectors count. Returns when
    /// two nodes have it, or one has it on stable media.
    pub fn write(&self, volume: VolumeId, at: Sectors, data: Payload) -> Result<(), GuestError> {
        self.call(volume, Command::Write { at, data, fua: false }).map(drop)
    }

    /// Makes the sectors zero; whole extents go back to the pool. At most
    /// [`ZERO_SECTORS_MAX`](crate::guest::ZERO_SECTORS_MAX).
    pub fn zero(&self, volume: VolumeId, at: Sectors) -> Result<(), GuestError> {
        self.call(volume, Command::Zero { at, fua: false }).map(drop)
    }

    /// What the blocks that `at` touches are, from its beginning on: runs of data, zeros that have a place, and unmapped
    /// blocks. The answer may end before `at` does; ask on from there.
    pub fn block_status(&self, volume: VolumeId, at: Sectors) -> Result<Vec<StatusRun>, GuestError> {
        self.handle.core.block_status(volume, at)
    }

    /// Returns when all that was written before is on stable media.
    pub fn flush(&self, volume: VolumeId) -> Result<(), GuestError> {
        self.call(volume, Command::Flush).map(drop)
    }

    /// A look inside; `None` when the engine has ended.
    pub fn view(&self) -> Option<View> {
        self.handle.core.view()
    }

    /// Begins to read everything on the disks in the background, not faster than
    /// [`CacheConfig::scrub_bytes_per_second`](crate::node::config::CacheConfig::scrub_bytes_per_second), and to compare it
    /// with its checksums. What a pair finds damaged it puts right. Progress and findings are in [`View::scrub`]; a scrub
    /// that runs already begins anew.
    pub fn scrub(&self) {
        self.handle.core.happened(Event::Scrub { start: true });
    }

    /// Ends the scrub that runs, if one does.
    pub fn stop_scrub(&self) {
        self.handle.core.happened(Event::Scrub { start: false });
    }

    /// Makes a volume larger, to a size in 512-byte sectors of at most 64 TiB, while it is in use; what it has more reads
    /// as zero. Returns when both halves of a mirrored volume have it in writing, or the one that serves alone has: its
    /// partner takes it over when it comes back. Hosts are told with their next command (CAPACITY DATA HAS CHANGED). A
    /// volume that has this size already is left as it is. Not to be called by a [`Sink`](crate::guest::Sink).
    ///
    /// # Errors
    /// [`VolumeRefusal::Interrupted`] if it is not known whether it was done; the others say why it was not.
    pub fn grow_volume(&self, id: VolumeId, sectors: u64) -> Result<(), VolumeRefusal> {
        self.handle.core.change_volume(id, VolumeChange::Grow { sectors })
    }

    /// Deletes a volume: hosts are refused from now on, with [`GuestError::Gone`]. Returns when both nodes have it in
    /// writing, or the one that serves alone has. Its space goes back in the background ([`View::deleting`]), also after a
    /// restart. Its id is not used again; the configuration may go on naming it. Not to be called by a
    /// [`Sink`](crate::guest::Sink).
    ///
    /// # Errors
    /// As [`grow_volume`](Self::grow_volume).
    pub fn delete_volume(&self, id: VolumeId) -> Result<(), VolumeRefusal> {
        self.handle.core.change_volume(id, VolumeChange::Delete)
    }

    /// What an operator wants to know: the notices so far (the last 256) and those to come. The receiver ends with the
    /// engine. Read it: what is not read is kept.
    pub fn notices(&self) -> Receiver<Notice> {
        self.handle.core.lifecycle.listen()
    }

    /// What the node died of, if it did. It answers [`GuestError::Unavailable`] ever after.
    pub fn failure(&self) -> Option<String> {
        self.handle.core.lifecycle.stage().failed
    }

    /// Hands over to the partner, if there is a whole one, and makes everything stable; then ends. Waits for at most
    /// `bound`.
    pub fn stop(&self, bound: Duration) -> Result<(), NotClean> {
        self.handle.core.happened(Event::Stop);
        let stage = self.handle.core.lifecycle.wait(bound, |stage| stage.stopped || stage.over);
        self.kill();
        if stage.stopped { Ok(()) } else { Err(NotClean) }
    }

    /// Ends without a word to anyone, as if the power had failed, except that the disks finish the requests they have
    /// begun. Afterwards they can be opened again. Not to be called by a [`Sink`](crate::guest::Sink).
    pub fn kill(&self) {
        self.handle.core.close();
        self.handle.core.lifecycle.wait(LET_GO_BOUND, |stage| stage.over);
    }
}
