//! Where a witness is, by its name. The system's resolver knows no bounds, so it is asked on a thread of its own, one
//! question at a time; what it said last counts until a connection there has failed and it has said something else.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

type Found = Result<Vec<SocketAddr>, String>;

pub(crate) struct Addresses {
    /// `host:port`.
    name: String,
    known: Vec<SocketAddr>,
    /// Of the lookup that is under way.
    found: Option<Receiver<Found>>,
}

impl Addresses {
    pub(crate) fn of(name: &str) -> Addresses {
        let known = name.parse().into_iter().collect();
        Addresses { name: name.to_owned(), known, found: None }
    }

    /// The addresses, at least one. If none is known yet, waits for the resolver `until` then.
    pub(crate) fn get(&mut self, until: Instant) -> Found {
        if let Some(Ok(found)) = self.found.as_ref().map(Receiver::try_recv) {
            // What cannot be resolved now may still be where it was.
            let _ = self.take(found);
        }
        if self.known.is_empty() {
            self.look_up()?;
            self.wait(until)?;
        }
        Ok(self.known.clone())
    }

    /// None of them could be reached: perhaps the name means others now.
    pub(crate) fn doubt(&mut self) {
        if self.name.parse::<SocketAddr>().is_err() {
            // If there is no thread to be had, the old ones are tried on.
            let _ = self.look_up();
        }
    }

    fn look_up(&mut self) -> Result<(), String> {
        if self.found.is_some() {
            return Ok(());
        }
        let (tell, found) = channel();
        let name = self.name.clone();
        let look_up = move || {
            let addresses = name.to_socket_addrs().map(|all| all.take(ADDRESSES_MAX).collect());
            // Who asked may have gone.
            let _ = tell.send(addresses.map_err(|error| error.to_string()));
        };
        let thread = thread::Builder::new().name("witness-resolve".into()).spawn(look_up);
        thread.map_err(|error| error.to_string())?;
        self.found = Some(found);
        Ok(())
    }

    fn wait(&mut self, until: Instant) -> Result<(), String> {
        let Some(found) = &self.found else { return Ok(()) };
        match found.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(found) => self.take(found),
            Err(RecvTimeoutError::Timeout) => Err("its name is not resolved yet".into()),
            Err(RecvTimeoutError::Disconnected) => self.take(Err("the resolver failed".into())),
        }
    }

    fn take(&mut self, found: Found) -> Result<(), String> {
        self.found = None;
        match found? {
            addresses if addresses.is_empty() => Err("its name has no address".into()),
            addresses => {
                self.known = addresses;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn an_address_needs_no_resolver() {
        let mut addresses = Addresses::of("127.0.0.1:7");
        assert_eq!(addresses.get(Instant::now()), Ok(vec!["127.0.0.1:7".parse().unwrap()]));
        addresses.doubt();
        assert!(addresses.found.is_none());
    }

    #[test]
    fn a_name_is_resolved_once_and_again_when_it_is_in_doubt() {
        let mut addresses = Addresses::of("localhost:7");
        let first = addresses.get(soon()).unwrap();
        assert!(first.iter().all(|address| address.ip().is_loopback() && address.port() == 7));
        assert!(addresses.found.is_none());
        addresses.doubt();
        assert!(addresses.found.is_some());
        assert_eq!(addresses.get(Instant::now()), Ok(first), "the old ones count until there are new ones");
    }

    #[test]
    fn no_resolver_holds_up_the_asker() {
        let mut addresses = Addresses::of("witness.example:7");
        let (_tell, found) = channel();
        addresses.found = Some(found);
        assert!(addresses.get(Instant::now()).unwrap_err().contains("not resolved yet"));
        assert!(addresses.take(Ok(Vec::new())).unwrap_err().contains("no address"));
    }
}
