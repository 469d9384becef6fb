//! EXTENDED COPY over real sockets: two hosts, of which each sees a volume that the other does not, and a third that both
//! see.

#[path = "common/initiator.rs"]
mod initiator;
#[path = "common/ram.rs"]
mod ram;
#[path = "common/random.rs"]
mod random;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use initiator::{Initiator, TARGET};
use ram::RamVolume;
use random::Random;
use twinsan::guest::{Command, PathState, Sink, VirtualVolume, VolumeInfo};
use twinsan::ids::RequestId;
use twinsan_iscsi::{Access, Host, Mapping, Server, TargetConfig};

const ONE: &str = "iqn.2026-01.example:one";
const TWO: &str = "iqn.2026-01.example:two";
const SECTORS: u64 = 1 << 17;

/// LUN 0 is the hosts' own, LUN 1 is for both, LUN 2 is host one's, for reading.
struct San {
    server: Server,
    portal: SocketAddr,
}

impl San {
    fn new() -> San {
        let mut config = TargetConfig::new(TARGET);
        config.portals = vec![([127, 0, 0, 1], 0).into()];
        config.reactors = 2;
        let volume = |id| Arc::new(RamVolume::new(id, SECTORS, config.pages.clone()));
        let map = |host: &str, lun, volume: &Arc<RamVolume>| Mapping::new(host, lun, Arc::clone(volume) as _);
        let (first, second, both, archive) = (volume(1), volume(2), volume(3), volume(4));
        let mut to_read = map("one", 2, &archive);
        to_read.read_only = true;
        let mappings = vec![
            map("one", 0, &first),
            map("two", 0, &second),
            map("one", 1, &both),
            map("two", 1, &both),
            to_read,
        ];
        let hosts = vec![Host::new("one", &[ONE]), Host::new("two", &[TWO])];
        let server = Server::start(config, Access { hosts, mappings }).expect("a free port");
        let portal = server.local_addrs()[0];
        San { server, portal }
    }
}

/// The NAA designator of a unit, as a host learns it.
fn naa(host: &mut Initiator, lun: u8) -> [u8; 16] {
    let (status, page, _) = host.command_at(lun, 0xc0, 255, &[0x12, 1, 0x83, 0, 255, 0], &[]);
    assert_eq!((status, page[4], page[5], page[7]), (0, 1, 3, 16));
    page[8..24].try_into().expect("16 bytes")
}

/// A list that copies from `from.1` of unit `from.0` on, `segments` times `blocks` blocks.
fn list(from: ([u8; 16], u64), to: ([u8; 16], u64), segments: u16, blocks: u16) -> Vec<u8> {
    let mut list = vec![0; 16];
    (list[0], list[3]) = (1, 64);
    list[8..12].copy_from_slice(&(u32::from(segments) * 28).to_be_bytes());
    for naa in [from.0, to.0] {
        let mut named = [0; 32];
        (named[0], named[4], named[5], named[7], named[30]) = (0xe4, 1, 3, 16, 2);
        named[8..24].copy_from_slice(&naa);
        list.extend_from_slice(&named);
    }
    for segment in 0..segments {
        let offset = u64::from(segment) * u64::from(blocks);
        list.extend_from_slice(&[2, 0, 0, 24, 0, 0, 0, 1, 0, 0]);
        list.extend_from_slice(&blocks.to_be_bytes());
        list.extend_from_slice(&(from.1 + offset).to_be_bytes());
        list.extend_from_slice(&(to.1 + offset).to_be_bytes());
    }
    list
}

fn order(list: &[u8]) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = 0x83;
    cdb[10..14].copy_from_slice(&(list.len() as u32).to_be_bytes());
    cdb
}

/// EXTENDED COPY at LUN 0; status and sense data.
fn copy(host: &mut Initiator, from: ([u8; 16], u64), to: ([u8; 16], u64), blocks: u16) -> (u8, Vec<u8>) {
    let list = list(from, to, 1, blocks);
    let (status, _, sense) = host.command_at(0, 0xa0, list.len(), &order(&list), &list);
    (status, sense)
}

fn write(host: &mut Initiator, lun: u8, lba: u32, data: &[u8]) {
    let mut cdb = [0x2a, 0, 0, 0, 0, 0, 0, 0, (data.len() / 512) as u8, 0];
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    assert_eq!(host.command_at(lun, 0xa0, data.len(), &cdb, data).0, 0);
}

fn read(host: &mut Initiator, lun: u8, lba: u32, blocks: u8) -> Vec<u8> {
    let mut cdb = [0x28, 0, 0, 0, 0, 0, 0, 0, blocks, 0];
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    let (status, data, _) = host.command_at(lun, 0xc0, usize::from(blocks) * 512, &cdb, &[]);
    assert_eq!(status, 0);
    data
}

/// LIO, CVE-2020-28374: EXTENDED COPY found its units among all of the target's, not among those of the host.
#[test]
fn a_copy_never_crosses_the_masking() {
    let san = San::new();
    let (mut one, mut two) = (Initiator::login(san.portal, ONE), Initiator::login(san.portal, TWO));
    write(&mut two, 0, 0, &[2; 4096]);
    write(&mut one, 0, 0, &[1; 4096]);
    let (own, hidden, nobody) = (naa(&mut one, 0), naa(&mut two, 0), [0x6f; 16]);
    for blocks in [0, 8, 0xffff] {
        for address in [0, 1 << 40] {
            let read_by = |host: &mut Initiator, of| copy(host, (of, address), (own, 0), blocks);
            let written_by = |host: &mut Initiator, to| copy(host, (own, 0), (to, address), blocks);
            let refused = read_by(&mut one, nobody);
            assert_eq!((refused.0, refused.1[2], refused.1[12], refused.1[13]), (2, 0x0a, 0x0d, 2));
            assert_eq!(read_by(&mut one, hidden), refused, "as if it were not there");
            let refused = written_by(&mut one, nobody);
            assert_eq!((refused.0, refused.1[2], refused.1[12], refused.1[13]), (2, 0x0a, 0x0d, 2));
            assert_eq!(written_by(&mut one, hidden), refused, "as if it were not there");
        }
    }
    assert_eq!((read(&mut one, 0, 0, 8), read(&mut two, 0, 0, 8)), (vec![1; 4096], vec![2; 4096]));
    san.server.stop();
}

#[test]
fn what_is_copied_is_what_was_there_at_every_size_and_alignment() {
    let san = San::new();
    let mut host = Initiator::login(san.portal, ONE);
    let (own, both) = (naa(&mut host, 0), naa(&mut host, 1));
    let mut random = Random(0x5eed);
    // Data with holes, and what is expected of both volumes.
    let length = 6144;
    let mut model = [vec![0u8; length * 512], vec![0u8; length * 512]];
    for (lun, model) in [0u8, 1].into_iter().zip(&mut model) {
        for _ in 0..40 {
            let (at, blocks) = (random.index(length - 128), random.between(1, 128));
            let data = random.bytes(blocks * 512);
            write(&mut host, lun, at as u32, &data);
            model[at * 512..at * 512 + data.len()].copy_from_slice(&data);
        }
    }
    for round in 0..60 {
        let most = if round % 3 == 0 { 3000 } else { 40 };
        let blocks = random.index(most) + 1;
        let (from, to) = (random.index(length - blocks), random.index(length - blocks));
        let [source, destination] = [random.index(2), random.index(2)];
        let name = |unit: usize| if unit == 0 { own } else { both };
        let ends = ((name(source), from as u64), (name(destination), to as u64));
        assert_eq!(copy(&mut host, ends.0, ends.1, blocks as u16), (0, Vec::new()), "round {round}");
        let data = model[source][from * 512..(from + blocks) * 512].to_vec();
        model[destination][to * 512..(to + blocks) * 512].copy_from_slice(&data);
    }
    for (lun, model) in [0u8, 1].into_iter().zip(&model) {
        for at in (0..length).step_by(128) {
            let found = read(&mut host, lun, at as u32, 128);
            assert!(found == model[at * 512..(at + 128) * 512], "LUN {lun} from block {at}");
        }
    }
    san.server.stop();
}

#[test]
fn hosts_that_copy_at_the_same_time_do_not_mix() {
    let san = San::new();
    std::thread::scope(|scope| {
        for (host, name, base) in [(1u8, ONE, 0u32), (2, TWO, 65_536)] {
            let portal = san.portal;
            scope.spawn(move || {
                let mut initiator = Initiator::login(portal, name);
                let (own, both) = (naa(&mut initiator, 0), naa(&mut initiator, 1));
                for round in 0..20 {
                    let content = host * 100 + round;
                    (0..16).for_each(|part| write(&mut initiator, 0, part * 128, &vec![content; 128 * 512]));
                    let copied = copy(&mut initiator, (own, 0), (both, u64::from(base) + 8), 2048);
                    assert_eq!(copied, (0, Vec::new()));
                    assert_eq!(read(&mut initiator, 1, base + 8 + 1920, 128), vec![content; 128 * 512]);
                    assert_eq!(read(&mut initiator, 1, base + 8 + 2048, 1), [0; 512]);
                }
            });
        }
    });
    san.server.stop();
}

#[test]
fn an_archive_may_be_copied_from_and_not_to() {
    let san = San::new();
    let mut host = Initiator::login(san.portal, ONE);
    let (own, archive) = (naa(&mut host, 0), naa(&mut host, 2));
    write(&mut host, 0, 0, &[1; 4096]);
    let (status, sense) = copy(&mut host, (own, 0), (archive, 0), 8);
    assert_eq!((status, sense[2], sense[12], sense[13]), (2, 0x0a, 0x0d, 1));
    assert_eq!((sense[9], sense[18], sense[21], sense[31]), (18, 2, 7, 0x27), "WRITE PROTECTED");
    assert_eq!(read(&mut host, 2, 0, 8), [0; 4096]);
    assert_eq!(copy(&mut host, (archive, 0), (own, 0), 8), (0, Vec::new()));
    assert_eq!(read(&mut host, 0, 0, 8), [0; 4096], "nothing but holes");
    san.server.stop();
}

/// A volume whose third write waits until the test lets it go, within the call.
struct Gate {
    inner: RamVolume,
    writes: AtomicUsize,
    came: mpsc::Sender<()>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl VirtualVolume for Gate {
    fn info(&self) -> VolumeInfo {
        self.inner.info()
    }

    fn path_state(&self) -> PathState {
        self.inner.path_state()
    }

    fn partner_path_state(&self) -> PathState {
        self.inner.partner_path_state()
    }

    fn submit(&self, command: Command, sink: &Arc<dyn Sink>, token: u64) -> RequestId {
        if !matches!(command, Command::Read { .. }) && self.writes.fetch_add(1, Ordering::SeqCst) == 2 {
            self.came.send(()).expect("awaited");
            self.go.lock().expect("sound").recv().expect("let go");
        }
        self.inner.submit(command, sink, token)
    }

    fn abort(&self, request: RequestId, sink: &Arc<dyn Sink>, token: u64) {
        self.inner.abort(request, sink, token);
    }
}

/// Its volume answers within the call, so that the reactor need not wait for anything; it listens all the same.
#[test]
fn a_long_copy_can_be_aborted_while_it_goes_on() {
    const SEGMENTS: u16 = 16;
    let mut config = TargetConfig::new(TARGET);
    config.portals = vec![([127, 0, 0, 1], 0).into()];
    let inner = RamVolume::new(1, SECTORS, config.pages.clone());
    let ((came, arrivals), (release, go)) = (mpsc::channel(), mpsc::channel());
    let gate = Gate { inner, writes: AtomicUsize::new(0), came, go: Mutex::new(go) };
    let gate = Arc::new(gate);
    let server =
        Server::start(config, Access::for_anyone([(0, Arc::clone(&gate) as _)])).expect("a free port");
    let mut host = Initiator::login(server.local_addrs()[0], ONE);
    host.stream.set_nodelay(true).expect("a socket");
    let own = naa(&mut host, 0);
    // 16 segments of 2 MiB: 32 pieces, each of them cleared.
    let list = list((own, 0), (own, SECTORS / 2), SEGMENTS, 4096);
    let mut head = [0; 48];
    (head[0], head[1], head[19]) = (0x01, 0xa0, 0x77);
    head[20..24].copy_from_slice(&(list.len() as u32).to_be_bytes());
    head[24..28].copy_from_slice(&host.cmd_sn.to_be_bytes());
    head[32..48].copy_from_slice(&order(&list));
    host.send(head, &list);
    arrivals.recv_timeout(Duration::from_secs(60)).expect("the third write");
    let mut abort = [0; 48];
    (abort[0], abort[1], abort[19], abort[23]) = (0x42, 0x81, 0x78, 0x77);
    host.send(abort, &[]);
    release.send(()).expect("waited for");
    let (head, _) = host.receive();
    assert_eq!((head[0], head[2], head[19]), (0x22, 0, 0x78), "given up, and never answered");
    let writes = gate.writes.load(Ordering::SeqCst);
    assert!(writes < 2 * usize::from(SEGMENTS), "{writes}");
    host.cmd_sn += 1;
    read(&mut host, 0, 0, 1);
    assert_eq!(gate.writes.load(Ordering::SeqCst), writes, "nothing acts any more");
    server.stop();
}
