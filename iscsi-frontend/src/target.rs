//! What all connections of a server share: its configuration, who may see what, and the registry through which
//! sessions reach each other.
//!
//! Invariant: of two sessions with the same initiator name, ISID and target, the later one has its first command
//! only after the last task of the earlier one is dead (RFC 7143 6.3.5). An initiator has at most
//! `initiator_sessions_max` sessions with a target, and as many for discovery.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use twinsan::block::PagePool;
use twinsan::guest::{Sink, VirtualVolume};
use twinsan::ids::VolumeId;
use twinsan::runtime::VolumeRefusal;

use crate::access::{Access, AccessError};
use crate::budget::Budget;
use crate::chap::{Algorithm, Challenges, Secret, Throttle};
use crate::refusals::{RefusalReason, Refusals, RefusedLogin};
use crate::scsi::{self, Attention, Port, Unit};

/// How this node's targets present themselves.
#[derive(Clone)]
pub struct TargetConfig {
    /// The targets' iSCSI names (RFC 7143 4.2.7), the same on both nodes; at least one. All are reached at all portals.
    pub names: Vec<String>,
    /// Addresses to listen on. Port 0 takes any free port.
    pub portals: Vec<SocketAddr>,
    /// This node's target portal group tag, target port group and relative target port identifier: 1 for node
    /// `a`, 2 for node `b`.
    pub portal_group: u16,
    /// The partner's portals, shown by discovery.
    pub partner_portals: Vec<SocketAddr>,
    /// The partner's number, as `portal_group`.
    pub partner_portal_group: u16,
    /// INQUIRY's vendor, at most 8 ASCII characters.
    pub vendor: String,
    /// INQUIRY's product, at most 16 ASCII characters.
    pub product: String,
    /// INQUIRY's revision, at most 4 ASCII characters.
    pub revision: String,
    /// The hash functions for CHAP that are allowed; the strongest that the initiator knows too is taken.
    pub chap_algorithms: Vec<Algorithm>,
    /// Where the data of writes is received. Give the engine's pool, so that pages circulate.
    pub pages: PagePool,
    /// Threads that serve connections, at least 1.
    pub reactors: usize,
    /// How long a login may take before its connection is closed.
    pub login_time: Duration,
    /// How long an initiator may be silent before it is pinged; after twice that again without a sign of life it is
    /// dropped.
    pub keep_alive_time: Duration,
    /// Connections open at once, those that are still logging in included.
    pub connections_max: usize,
    /// Sessions of one initiator name with one target, and likewise for discovery, at least 1; one more is refused as out
    /// of resources (RFC 7143 11.13.5, 0302h). One of the same ISID takes the place of the earlier and is no more. So an
    /// initiator that forgets its sessions does not use up the connections of all.
    pub initiator_sessions_max: usize,
    /// Connections that are still logging in; for one more the oldest is closed.
    pub logins_max: usize,
    /// About how much all connections together may hold for initiators, in bytes. Beyond it commands with data are
    /// answered TASK SET FULL, but for those of connections that hold less than 1 MiB.
    pub memory_bytes_max: usize,
    /// Is told of logins that were refused, though not of each of very many. Called from the threads that serve
    /// connections; must not block.
    pub refused: Arc<dyn Fn(RefusedLogin) + Send + Sync>,
    /// Is told when a thread of the server has panicked. All connections are dropped then, and the portals closed for good.
    /// Requests that were under way have been given up as far as that could still be done, and nobody waited for it: some
    /// may act yet, and after what a host writes on the other path. So the process must stop, or hand its volumes over,
    /// at once.
    ///
    /// Called from the thread that dies: the `Server` must be neither stopped nor dropped here, because that waits for
    /// this thread.
    pub failed: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for TargetConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TargetConfig { names, portals, portal_group, .. } = self;
        let mut debug = f.debug_struct("TargetConfig");
        debug.field("names", names).field("portals", portals).field("portal_group", portal_group);
        debug.finish_non_exhaustive()
    }
}

impl TargetConfig {
    /// Node `a`'s target `name` without portals: add them, and the partner's.
    pub fn new(name: &str) -> TargetConfig {
        TargetConfig {
            names: vec![name.to_owned()],
            portals: Vec::new(),
            portal_group: 1,
            partner_portals: Vec::new(),
            partner_portal_group: 2,
            vendor: "TWINSAN".to_owned(),
            product: "VIRTUAL VOLUME".to_owned(),
            revision: "0001".to_owned(),
            chap_algorithms: Algorithm::ALL.to_vec(),
            pages: PagePool::new(),
            reactors: 1,
            login_time: Duration::from_secs(15),
            keep_alive_time: Duration::from_secs(10),
            connections_max: 16_384,
            // Hosts open one for each path, QEMU one for each disk as well.
            initiator_sessions_max: 128,
            logins_max: 10_240,
            memory_bytes_max: 1 << 30,
            refused: Arc::new(|_| {}),
            failed: Arc::new(|| {}),
        }
    }
}

/// When what could not be given up is tried again.
const ORPHANS_EVERY_MS: u64 = 500;
/// How much of that there is at most: no more than volumes of a pool.
const ORPHANS_MAX: usize = 4096;

/// A unit that somebody has for himself, and is to have no longer.
pub(crate) struct Orphan {
    pub(crate) volume: Arc<dyn VirtualVolume>,
    pub(crate) by: Arc<scsi::Nexus>,
    /// Which of his reservations: the number of changes that there were with it. Of a later one nothing is wanted.
    pub(crate) taken: u64,
    /// Dropped when he has it no longer.
    pub(crate) tickets: Vec<Arc<Ticket>>,
    /// Through whom the reactors are woken when it is time to try again.
    pub(crate) address: Address,
}

/// Everything that all connections of a server share.
pub(crate) struct Target {
    pub(crate) config: TargetConfig,
    /// One for each of the names.
    ports: Vec<Port>,
    /// The portals as bound, once they are.
    pub(crate) bound: Mutex<Vec<SocketAddr>>,
    /// May new sessions begin?
    pub(crate) open: AtomicBool,
    pub(crate) challenges: Challenges,
    pub(crate) throttle: Throttle,
    pub(crate) budget: Budget,
    refusals: Refusals,
    /// What unknown initiators would have to know.
    pub(crate) nobodys_secret: Secret,
    /// What the owner of the clock has last said, in milliseconds.
    now_ms: AtomicU64,
    orphans: Mutex<Vec<Orphan>>,
    orphans_at: AtomicU64,
    access: Mutex<Arc<Access>>,
    registry: Mutex<Registry>,
}

impl Target {
    pub(crate) fn new(config: TargetConfig, access: Access) -> Result<Target, AccessError> {
        access.check(&config.names)?;
        let groups = (config.portal_group, config.partner_portal_group);
        let port = |name: &String| Port::new(name, groups, &config.vendor, &config.product, &config.revision);
        let memory_bytes_max = config.memory_bytes_max;
        Ok(Target {
            ports: config.names.iter().map(port).collect(),
            config,
            bound: Mutex::new(Vec::new()),
            open: AtomicBool::new(true),
            challenges: Challenges::new().map_err(|_| AccessError::NoRandom)?,
            throttle: Throttle::default(),
            budget: Budget::new(memory_bytes_max),
            refusals: Refusals::default(),
            nobodys_secret: Secret::random().map_err(|_| AccessError::NoRandom)?,
            now_ms: AtomicU64::new(0),
            orphans: Mutex::default(),
            orphans_at: AtomicU64::new(0),
            access: Mutex::new(Arc::new(access)),
            registry: Mutex::new(Registry::default()),
        })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// So much time has passed since the server began. Sessions have no other clock.
    pub(crate) fn tick(&self, now: Duration) {
        self.now_ms.fetch_max(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What cannot be given up now is tried again later.
    pub(crate) fn adopt_orphan(&self, orphan: Orphan) {
        let address = orphan.address.clone();
        let mut orphans = self.orphans.lock();
        if orphans.len() < ORPHANS_MAX {
            orphans.push(orphan);
        }
        drop(orphans);
        self.orphans_at.store(self.now_ms() + ORPHANS_EVERY_MS, Ordering::Relaxed);
        // A reactor that sleeps has not reckoned with that.
        drop(Ticket::of_nobody(&address));
    }

    /// When orphans are to be taken, in milliseconds of [`now_ms`](Self::now_ms).
    pub(crate) fn orphans_at(&self) -> Option<u64> {
        Some(self.orphans_at.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    /// Those whose time has come.
    pub(crate) fn take_orphans(&self) -> Vec<Orphan> {
        if self.orphans_at().is_none_or(|at| at > self.now_ms()) {
            return Vec::new();
        }
        self.orphans_at.store(0, Ordering::Relaxed);
        std::mem::take(&mut *self.orphans.lock())
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    /// The place of a target's name.
    pub(crate) fn site(&self, name: &str) -> Option<usize> {
        self.config.names.iter().position(|own| own.eq_ignore_ascii_case(name))
    }

    /// This node's port of the target at `site`.
    pub(crate) fn port(&self, site: usize) -> &Port {
        &self.ports[site]
    }

    /// Who may see what, now.
    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.lock())
    }

    /// Replaces the hosts and mappings and tells every session.
    pub(crate) fn set_access(&self, access: Access) -> Result<(), AccessError> {
        access.check(&self.config.names)?;
        *self.access.lock() = Arc::new(access);
        self.registry.lock().sessions.iter().for_each(|entry| entry.address.post(Notice::Remap));
        Ok(())
    }

    /// Is anything at this target mapped to this initiator? If not, there is no target for it.
    pub(crate) fn admits(&self, initiator: &str, site: usize) -> bool {
        !self.access().mappings_of(initiator, &self.config.names, site).is_empty()
    }

    /// Who a session with the target at `site` is to reservations.
    pub(crate) fn nexus(&self, initiator: &str, isid: [u8; 6], site: usize) -> Arc<scsi::Nexus> {
        let initiator = scsi::Initiator::new(initiator, isid);
        Arc::new(scsi::Nexus { initiator, port: self.config.portal_group, site: site as u16 })
    }

    /// The relative identifiers of all target ports: this node's and the partner's.
    pub(crate) fn port_numbers(&self) -> [u16; 2] {
        [self.config.portal_group, self.config.partner_portal_group]
    }

    /// The units that an initiator sees at a target, by LUN.
    pub(crate) fn units(&self, nexus: &Arc<scsi::Nexus>) -> Vec<Unit> {
        let access = self.access();
        let seen = access.mappings_of(&nexus.initiator.name, &self.config.names, usize::from(nexus.site));
        seen.iter()
            .map(|mapping| Unit::new(mapping.lun, Arc::clone(&mapping.volume), mapping.read_only, nexus))
            .collect()
    }

    /// Tells the operator that a login was refused, unless that was told lately.
    pub(crate) fn tell_refusal(
        &self,
        names: (Option<&str>, Option<&str>),
        peer: SocketAddr,
        reason: RefusalReason,
    ) {
        if let Some(login) = self.refusals.note(names, peer, reason, self.now_ms()) {
            (self.config.refused)(login);
        }
    }

    /// A TSIH that is not zero and not taken. There may be none: sessions that wait for the last of their tasks have no
    /// connection that counts.
    pub(crate) fn reserve_tsih(&self) -> Option<u16> {
        self.registry.lock().free_tsih()
    }

    /// Registers a session. An earlier one with the same name and ISID is told to end; `ticket` is gone when
    /// it has.
    ///
    /// # Errors
    /// The initiator has as many as it may: nothing has happened.
    pub(crate) fn enter(&self, nexus: Nexus, address: Address, ticket: &Arc<Ticket>) -> Result<(), Crowded> {
        let mut registry = self.registry.lock();
        let same = |entry: &Entry| entry.nexus.is(&nexus.initiator, nexus.isid, nexus.site);
        if let Some(place) = registry.sessions.iter().position(same) {
            let old = registry.sessions.swap_remove(place);
            old.address.post(Notice::Terminate(Arc::clone(ticket)));
        } else {
            let beside = |entry: &&Entry| entry.nexus.is_beside(&nexus.initiator, nexus.site);
            self.check_crowd(registry.sessions.iter().filter(beside).count())?;
        }
        registry.sessions.push(Entry { nexus, address });
        Ok(())
    }

    /// Registers a session for discovery.
    ///
    /// # Errors
    /// The initiator has as many as it may.
    pub(crate) fn enter_discovery(&self, initiator: &str, address: Address) -> Result<(), Crowded> {
        let mut registry = self.registry.lock();
        let others = registry.discoveries.iter().filter(|(name, _)| name.eq_ignore_ascii_case(initiator));
        self.check_crowd(others.count())?;
        registry.discoveries.push((initiator.to_owned(), address));
        Ok(())
    }

    fn check_crowd(&self, others: usize) -> Result<(), Crowded> {
        if others < self.config.initiator_sessions_max { Ok(()) } else { Err(Crowded) }
    }

    /// The connection id of the session with this TSIH, name and ISID.
    pub(crate) fn session_cid(&self, initiator: &str, isid: [u8; 6], site: usize, tsih: u16) -> Option<u16> {
        let registry = self.registry.lock();
        let found = |entry: &&Entry| entry.nexus.tsih == tsih && entry.nexus.is(initiator, isid, site);
        registry.sessions.iter().find(found).map(|entry| entry.nexus.cid)
    }

    /// Forgets the session of connection `key`.
    pub(crate) fn leave(&self, address: &Address) {
        let mut registry = self.registry.lock();
        registry.sessions.retain(|entry| !entry.address.is(address));
        registry.discoveries.retain(|(_, other)| !other.is(address));
    }

    /// Tells every session but `from` that tasks of `volumes` are to end.
    pub(crate) fn clear(&self, from: &Address, clear: &Clear, ticket: &Arc<Ticket>) {
        for entry in self.registry.lock().sessions.iter().filter(|entry| !entry.address.is(from)) {
            entry.address.post(Notice::Clear(clear.clone(), Arc::clone(ticket)));
        }
    }

    /// Is there a session of this nexus with this node?
    pub(crate) fn has_session(&self, nexus: &scsi::Nexus) -> bool {
        self.registry.lock().sessions.iter().any(|entry| self.is_of(entry, nexus))
    }

    /// Tells the sessions of these nexuses, if they are with this node, that tasks of `volume` are to end.
    pub(crate) fn cut_off(&self, nexuses: &[scsi::Nexus], volume: VolumeId, ticket: &Arc<Ticket>) {
        let concerned = |entry: &&Entry| nexuses.iter().any(|nexus| self.is_of(entry, nexus));
        for entry in self.registry.lock().sessions.iter().filter(concerned) {
            entry.address.post(Notice::CutOff(volume, Arc::clone(ticket)));
        }
    }

    fn is_of(&self, entry: &Entry, nexus: &scsi::Nexus) -> bool {
        let scsi::Nexus { initiator, port, site } = nexus;
        *port == self.config.portal_group
            && entry.nexus.is(&initiator.name, initiator.isid, usize::from(*site))
    }
}

/// An initiator has as many sessions as it may.
#[derive(Debug)]
pub(crate) struct Crowded;

/// The sessions there are.
#[derive(Default)]
struct Registry {
    sessions: Vec<Entry>,
    /// Those for discovery: initiator names, and their connections.
    discoveries: Vec<(String, Address)>,
    tsih_last: u16,
}

impl Registry {
    fn free_tsih(&mut self) -> Option<u16> {
        if self.sessions.len() >= usize::from(u16::MAX) {
            return None;
        }
        loop {
            self.tsih_last = self.tsih_last.wrapping_add(1);
            let tsih = self.tsih_last;
            if tsih != 0 && self.sessions.iter().all(|entry| entry.nexus.tsih != tsih) {
                return Some(tsih);
            }
        }
    }
}

struct Entry {
    nexus: Nexus,
    address: Address,
}

/// Who is at the other end of a session.
pub(crate) struct Nexus {
    pub(crate) initiator: String,
    pub(crate) isid: [u8; 6],
    /// The target's place.
    pub(crate) site: usize,
    pub(crate) tsih: u16,
    /// Of its one connection.
    pub(crate) cid: u16,
}

impl Nexus {
    fn is(&self, initiator: &str, isid: [u8; 6], site: usize) -> bool {
        self.isid == isid && self.is_beside(initiator, site)
    }

    /// Is it of this initiator and target, whatever its ISID?
    fn is_beside(&self, initiator: &str, site: usize) -> bool {
        self.site == site && self.initiator.eq_ignore_ascii_case(initiator)
    }
}

/// Takes what is meant for a connection, from any thread, without blocking.
pub(crate) trait Mailbox: Sink {
    fn post(&self, key: u64, notice: Notice);
}

/// Where a connection can be reached.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) mailbox: Arc<dyn Mailbox>,
    /// Names the connection in its mailbox; never used again. The low 16 bits are zero.
    pub(crate) key: u64,
}

impl Address {
    pub(crate) fn post(&self, notice: Notice) {
        self.mailbox.post(self.key, notice);
    }

    fn is(&self, other: &Address) -> bool {
        self.key == other.key && Arc::ptr_eq(&self.mailbox, &other.mailbox)
    }
}

/// What one connection tells another, or itself later.
pub(crate) enum Notice {
    /// The session is replaced: end it, and drop the ticket when its last task is dead.
    Terminate(Arc<Ticket>),
    /// Abort tasks, and drop the ticket when they are dead.
    Clear(Clear, Arc<Ticket>),
    /// Abort tasks of a volume from which the initiator was preempted, and drop the ticket when they are dead.
    CutOff(VolumeId, Arc<Ticket>),
    /// The mappings have changed.
    Remap,
    /// What the task in this slot had to keep is kept, or was refused.
    Kept(u16, Result<(), VolumeRefusal>),
    /// The last copy of the ticket with this number is gone.
    TicketGone(u32),
}

/// Which tasks to abort, and what to tell their initiator.
#[derive(Clone)]
pub(crate) struct Clear {
    pub(crate) volumes: Vec<VolumeId>,
    pub(crate) attention: Attention,
    /// Is their session to end too?
    pub(crate) drop: bool,
}

/// No connection waits for a ticket of this number.
const NOBODYS: u32 = 0;

/// Held by everyone whom a connection waits for. Tells it when the last one lets go.
pub(crate) struct Ticket {
    address: Address,
    number: u32,
}

impl Ticket {
    /// One whose end is no news.
    pub(crate) fn of_nobody(address: &Address) -> Arc<Ticket> {
        Ticket::new(address, NOBODYS)
    }

    pub(crate) fn new(address: &Address, number: u32) -> Arc<Ticket> {
        Arc::new(Ticket { address: address.clone(), number })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.address.post(Notice::TicketGone(self.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::drive::PostOffice;

    #[test]
    fn without_a_free_session_number_there_is_no_session_and_no_end_of_looking() {
        let mailbox = Arc::new(PostOffice::default()) as Arc<dyn Mailbox>;
        let mut registry = Registry::default();
        for number in 1..=u16::MAX {
            // The last one given is in use, so that each is found at once.
            assert_eq!(registry.free_tsih(), Some(number));
            if number > 3 && number < u16::MAX - 1 {
                continue;
            }
            let nexus = Nexus { initiator: String::new(), isid: [0; 6], site: 0, tsih: number, cid: 0 };
            registry
                .sessions
                .push(Entry { nexus, address: Address { mailbox: Arc::clone(&mailbox), key: 0 } });
        }
        assert_eq!(registry.free_tsih(), Some(4), "those in use are passed over, and zero");
        let taken = |tsih| Nexus { initiator: String::new(), isid: [0; 6], site: 0, tsih, cid: 0 };
        let entry =
            |tsih| Entry { nexus: taken(tsih), address: Address { mailbox: Arc::clone(&mailbox), key: 0 } };
        registry.sessions.extend((4..u16::MAX - 1).map(entry));
        assert_eq!(registry.free_tsih(), None);
    }
}
