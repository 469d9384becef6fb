//! A witness and whoever comes to it: askers that know the secret, and strangers that speak the protocol by hand.

mod clients;
mod hostile;
#[path = "../../tests/common/wait.rs"]
mod wait;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use twinsan::arbiter::{Ask, Register};
use twinsan::ids::{Epoch, Members, NodeName, Uuid};

use crate::message::{Bytes, Hello, MESSAGE_BYTES};
use crate::session::{Asker, Greeting};
use crate::{Notice, Secret, Server, ServerConfig, Witness, WitnessConfig, WitnessError};
use wait::wait_until;

/// Bytes as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const OURS: Uuid = Uuid(0xabcd);
const THEIRS: Uuid = Uuid(0xdcba);

fn secret_of(partnership: Uuid) -> Secret {
    Secret::new(&format!("{:032x}", partnership.0)).unwrap()
}

/// A directory that goes with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("twinsan-witness-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Place(path)
    }

    fn try_serve(&self, listen: SocketAddr) -> Result<At, WitnessError> {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let server = Server::start(ServerConfig {
            listen,
            directory: self.0.join("deep/registers"),
            secrets: [OURS, THEIRS]
                .map(|uuid| (uuid, secret_of(uuid)))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
            notices: Arc::new(move |notice| tell.lock().push(notice)),
        })?;
        Ok(At { server, told })
    }

    fn serve(&self) -> At {
        self.try_serve("127.0.0.1:0".parse().unwrap()).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A witness at work.
struct At {
    server: Server,
    told: Arc<Mutex<Vec<Notice>>>,
}

impl At {
    fn asker(&self, partnership: Uuid, secret: &Secret) -> Witness {
        asker(&self.server.address().to_string(), partnership, secret)
    }

    fn ours(&self) -> Witness {
        self.asker(OURS, &secret_of(OURS))
    }

    /// A connection by hand, as far as the challenge.
    fn greet(&self, asker: u64, attempt: u32) -> (TcpStream, Asker) {
        let mut stream = TcpStream::connect(self.server.address()).unwrap();
        let greeting = Greeting::new(&Hello { partnership: OURS, nonce: [9; 16], asker, attempt });
        stream.write_all(&greeting.hello).unwrap();
        let asker = greeting.challenged(&secret_of(OURS), &heard(&mut stream)).unwrap();
        (stream, asker)
    }
}

fn asker(address: &str, partnership: Uuid, secret: &Secret) -> Witness {
    let within = Duration::from_secs(10);
    let config = WitnessConfig { address: address.to_owned(), partnership, secret: secret.clone(), within };
    Witness::new(config).unwrap()
}

fn heard(stream: &mut TcpStream) -> Bytes {
    let mut bytes = [0; MESSAGE_BYTES];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Has the other end closed it? Waits for that, and gives what came before.
fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it is still open");
    }
    rest
}

/// The register after `now` in which `by` is alone.
fn next(now: Option<Register>, by: NodeName) -> Register {
    Register { epoch: Epoch(now.map_or(0, |now| now.epoch.0) + 1), members: Members::only(by), by }
}

fn swap(expect: Option<Register>, by: NodeName) -> Ask {
    Ask::Swap { expect, new: next(expect, by) }
}
