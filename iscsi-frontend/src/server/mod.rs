//! Sockets and threads: the only module that has any.
//!
//! A fixed number of reactor threads run each request to completion: many PDUs a receive, requests handed to
//! the volume on the spot, and all answers of one wake-up gathered into one send. A reactor with nothing to do
//! sleeps in the kernel.
//!
//! A reactor that panics takes the whole server with it: all connections are dropped and the portals closed for good, so
//! that hosts use the other path at once. A target of which a part is silent would be worse.

mod inbox;
mod links;
mod portal;
mod reactor;
mod receive;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::access::{Access, AccessError, NAME_BYTES_MAX};
use crate::target::{Target, TargetConfig};
use inbox::{Inbox, Letter};
use reactor::Reactor;

/// Why the server cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// A portal cannot be bound: the address is in use or not this machine's.
    #[error("cannot listen on portal {portal}: {source}; free the address or configure another")]
    Portal {
        /// The address asked for.
        portal: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The system gave no thread or event queue.
    #[error("cannot start a reactor thread: {0}; raise the limit on threads and open files")]
    Reactor(#[from] std::io::Error),
    /// The configuration cannot work.
    #[error("{0}")]
    Config(&'static str),
    /// The hosts and mappings cannot be.
    #[error("{0}")]
    Access(#[from] AccessError),
    /// A thread of the server has panicked.
    #[error("a thread of the iSCSI target has panicked, and the target serves no more; start it anew")]
    Failed,
}

/// What all reactors share.
struct Shared {
    target: Arc<Target>,
    inboxes: Vec<Arc<Inbox>>,
    /// Connections open, over all reactors.
    connections: AtomicUsize,
    begun: Instant,
    /// A reactor has panicked. Changes under the lock of `target.bound`, so that no portal opens afterwards.
    failed: AtomicBool,
}

impl Shared {
    /// Reactor `number` has panicked: nothing is served any more.
    fn fail(&self, number: usize, mut reactor: Reactor) {
        let bound = self.target.bound.lock();
        self.failed.store(true, Ordering::SeqCst);
        self.target.open.store(false, Ordering::Release);
        // Portals that were opened just before are in letters, which the withdrawal follows.
        drop(bound);
        self.inboxes[number].deafen();
        let (done, _nobody_waits) = mpsc::channel();
        for inbox in &self.inboxes {
            inbox.send(Letter::Withdraw(done.clone()));
        }
        // What it had in hand may be broken, and panic again: that it failed is told all the same.
        reactor.give_up();
        drop(catch_unwind(AssertUnwindSafe(|| drop(reactor))));
        (self.target.config.failed)();
    }
}

/// A target that is being served. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Binds the portals and serves.
    pub fn start(config: TargetConfig, access: Access) -> Result<Server, ServerError> {
        check(&config)?;
        let reactors = config.reactors;
        let target = Arc::new(Target::new(config, access)?);
        let polls: Vec<mio::Poll> = (0..reactors).map(|_| mio::Poll::new()).collect::<Result<_, _>>()?;
        let inboxes = polls
            .iter()
            .map(|poll| mio::Waker::new(poll.registry(), reactor::WAKER).map(|w| Arc::new(Inbox::new(w))))
            .collect::<Result<_, _>>()?;
        let (connections, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { target, inboxes, connections, begun: Instant::now(), failed });
        let mut server = Server { shared, threads: Vec::new() };
        for (number, poll) in polls.into_iter().enumerate() {
            match spawn(number, poll, &server.shared) {
                Ok(thread) => server.threads.push(thread),
                Err(error) => {
                    // Those that never were are not to be waited for.
                    server.shared.inboxes[number..].iter().for_each(|inbox| inbox.deafen());
                    return Err(error.into());
                }
            }
        }
        server.open_portals()?;
        Ok(server)
    }

    /// Listens again after [`close_portals`](Self::close_portals), on the same addresses.
    pub fn open_portals(&self) -> Result<(), ServerError> {
        let target = &self.shared.target;
        let mut bound = target.bound.lock();
        if self.shared.failed.load(Ordering::SeqCst) {
            return Err(ServerError::Failed);
        }
        let wanted = if bound.is_empty() { target.config.portals.clone() } else { bound.clone() };
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for portal in wanted {
            let listener = portal::listen(portal).map_err(|source| ServerError::Portal { portal, source })?;
            addresses.push(listener.local_addr()?);
            listeners.push(listener);
        }
        *bound = addresses;
        target.open.store(true, Ordering::Release);
        self.shared.inboxes[0].send(Letter::Listen(listeners));
        Ok(())
    }

    /// Stops listening and drops every connection, so that initiators use the other path. Returns when it is
    /// done; requests still with a volume are given up in the background.
    pub fn close_portals(&self) {
        self.tell_all(Letter::Withdraw);
    }

    /// As [`close_portals`](Self::close_portals), for a planned stop: asks every initiator to log out first, and drops
    /// after `grace` those that have not. Commands are served until then.
    pub fn drain(&self, grace: Duration) {
        let until = Instant::now() + grace;
        self.tell_all(|done| Letter::Drain(until, done));
    }

    /// Lets no new session begin, gives every reactor a letter, and waits until each has done what it says.
    fn tell_all(&self, letter: impl Fn(mpsc::Sender<()>) -> Letter) {
        self.shared.target.open.store(false, Ordering::Release);
        let (done, wait) = mpsc::channel();
        for inbox in &self.shared.inboxes {
            inbox.send(letter(done.clone()));
        }
        drop(done);
        while wait.recv().is_ok() {}
    }

    /// Replaces the hosts and mappings, live: initiators are told that their LUNs have changed, requests to volumes that
    /// they no longer see are given up, and an initiator that sees nothing any more, or now has to prove who it is, is
    /// logged out. A command that is under way when its unit becomes read-only is carried out; a session whose host gets
    /// another secret goes on.
    pub fn set_access(&self, access: Access) -> Result<(), AccessError> {
        self.shared.target.set_access(access)
    }

    /// The portals as bound.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.shared.target.bound.lock().clone()
    }

    /// Bytes that all connections hold for initiators: data of commands and answers that were not taken yet.
    pub fn memory_bytes(&self) -> usize {
        self.shared.target.budget.used()
    }

    /// Closes the portals and ends the threads.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        self.close_portals();
        for inbox in &self.shared.inboxes {
            inbox.send(Letter::Stop);
        }
        for thread in self.threads.drain(..) {
            // If it panicked, that was told when it did.
            drop(thread.join());
        }
    }
}

/// Starts a reactor.
fn spawn(number: usize, poll: mio::Poll, shared: &Arc<Shared>) -> std::io::Result<JoinHandle<()>> {
    let mut reactor = Reactor::new(number, poll, Arc::clone(shared));
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name(format!("iscsi-{number}"));
    thread.spawn(move || {
        if catch_unwind(AssertUnwindSafe(|| reactor.run())).is_err() {
            shared.fail(number, reactor);
        }
    })
}

fn check(config: &TargetConfig) -> Result<(), ServerError> {
    if config.reactors == 0 {
        return Err(ServerError::Config("at least one reactor thread is needed"));
    }
    if config.initiator_sessions_max == 0 {
        return Err(ServerError::Config("an initiator must be allowed at least one session"));
    }
    if config.names.is_empty() {
        return Err(ServerError::Config("at least one target is needed"));
    }
    if !config.names.iter().all(|name| (1..=NAME_BYTES_MAX).contains(&name.len())) {
        return Err(ServerError::Config("a target name has 1 to 223 bytes (RFC 7143 4.2.7.2)"));
    }
    let twice = |(index, name): (usize, &String)| {
        config.names[..index].iter().any(|other| other.eq_ignore_ascii_case(name))
    };
    if config.names.iter().enumerate().any(twice) {
        return Err(ServerError::Config("a target name is there twice"));
    }
    Ok(())
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
