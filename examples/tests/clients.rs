//! Clients no one here wrote, against real node processes: `qemu-img` and `qemu-io` on both paths, and libiscsi with two
//! paths while nodes are killed, and while the link between them is broken in every way.
//!
//! A machine without these tools skips, and says so loudly; with `CI=true` that is a failure. Debian has them as
//! qemu-utils, qemu-block-extra and libiscsi7; `.ci/run` installs them.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::wait_until;

const DAEMON: &str = env!("CARGO_BIN_EXE_twinsand");

/// Are the tools there? Says loudly what is not tested without them.
fn have(tool: &str, probe: &[&str]) -> bool {
    let there = Command::new(tool).args(probe).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if there.is_ok_and(|status| status.success()) {
        return true;
    }
    let what = format!("{tool} {} does not work here: REAL CLIENTS ARE NOT TESTED", probe.join(" "));
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{what}");
    // Past the capture of the test harness: nobody shall think that this ran.
    drop(writeln!(
        std::io::stderr(),
        "\n*** SKIPPED: {what}; install qemu-utils, qemu-block-extra, libiscsi-bin ***\n"
    ));
    false
}

fn have_qemu() -> bool {
    // An image of which qemu-img understands the protocol gives another error than one it has no driver for.
    have("qemu-img", &["--version"])
        && have(
            "sh",
            &["-c", "! qemu-img info iscsi://127.0.0.1:1/iqn.none/0 2>&1 | grep -qi 'unknown protocol'"],
        )
}

/// A pair of nodes under `twinsand demo`, in a directory of its own.
struct Demo {
    child: Child,
    directory: PathBuf,
    /// By LUN, then by node.
    urls: Vec<String>,
}

impl Demo {
    fn start(name: &str) -> Demo {
        let directory = std::env::temp_dir().join(format!("twinsan-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let out = std::fs::File::create(directory.join("demo.out")).expect("a file");
        let child = Command::new(DAEMON)
            .args(["demo", "--dir"])
            .arg(&directory)
            .stdout(out)
            .spawn()
            .expect("the daemon runs");
        let mut demo = Demo { child, directory, urls: Vec::new() };
        demo.urls = wait_until("the addresses of the volumes", || {
            let told = std::fs::read_to_string(demo.directory.join("demo.out")).expect("text");
            let urls: Vec<String> = told
                .lines()
                .filter(|line| line.contains("iscsi://"))
                .map(|line| line.trim().to_owned())
                .collect();
            (urls.len() == 4).then_some(urls)
        });
        demo
    }

    fn url(&self, lun: usize, node: usize) -> &str {
        &self.urls[lun * 2 + node]
    }

    /// Ctrl-C; then both halves must be the same.
    fn stop_and_compare(mut self) {
        let asked =
            Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().expect("kill runs");
        assert!(asked.success());
        let status = wait_until("the end of the demo", || self.child.try_wait().expect("a child"));
        assert!(status.success(), "both stop cleanly: {status}");
        let (a, b) = (self.directory.join("a.toml"), self.directory.join("b.toml"));
        let compare = Command::new(DAEMON)
            .arg("check")
            .arg("--config")
            .arg(a)
            .arg("--compare")
            .arg(b)
            .output()
            .expect("the daemon runs");
        let told = String::from_utf8_lossy(&compare.stdout).into_owned();
        assert!(compare.status.success(), "{told}");
        assert!(told.contains("both halves are the same"), "{told}");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Its nodes end with it.
        drop(self.child.kill());
        drop(self.child.wait());
        if !std::thread::panicking() {
            drop(std::fs::remove_dir_all(&self.directory));
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the tool runs");
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{told}");
    told
}

/// Runs qemu-io commands on a URL; each must succeed, patterns included.
fn qemu_io(url: &str, flags: &[&str], commands: &[String]) {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw"]).args(flags);
    for each in commands {
        command.args(["-c", each]);
    }
    let told = run(command.arg(url));
    // It says so and goes on.
    for bad in ["Pattern verification failed", "failed:", "error"] {
        assert!(!told.contains(bad), "{url}: {told}");
    }
}

/// An image with data that no block shares with another, holes in it, and an odd end.
fn image(path: &Path) {
    let mut bytes = vec![0u8; 24 << 20];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for (number, chunk) in bytes.chunks_mut(64 << 10).enumerate() {
        if number % 5 == 3 {
            continue;
        }
        for word in chunk.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
    }
    bytes.truncate((24 << 20) - 512 * 3);
    std::fs::write(path, bytes).expect("the image is written");
}

#[test]
fn qemu_moves_an_image_in_and_out_through_either_node() {
    if !have_qemu() {
        return;
    }
    let demo = Demo::start("image");
    let (source, sector_count) = (demo.directory.join("source.raw"), ((24 << 20) - 512 * 3) / 512);
    image(&source);
    for (into, from) in [(0, 1), (1, 0)] {
        let back = demo.directory.join(format!("back{into}.raw"));
        run(Command::new("qemu-img")
            .args(["convert", "-n", "-f", "raw", "-O", "raw"])
            .arg(&source)
            .arg(demo.url(into, into)));
        // Only as much of the 64 GiB as was written.
        let (url, size) = (demo.url(into, from), sector_count * 512);
        let window = format!("driver=raw,size={size},file.driver=iscsi,{}", iscsi_options(url));
        run(Command::new("qemu-img").args(["convert", "-O", "raw", "--image-opts", &window]).arg(&back));
        assert!(
            std::fs::read(&source).unwrap() == std::fs::read(&back).unwrap(),
            "in by {into}, out by {from}"
        );
    }
    demo.stop_and_compare();
}

/// `iscsi://portal/target/lun` as qemu's options.
fn iscsi_options(url: &str) -> String {
    let parts: Vec<&str> = url.trim_start_matches("iscsi://").split('/').collect();
    format!("file.transport=tcp,file.portal={},file.target={},file.lun={}", parts[0], parts[1], parts[2])
}

#[test]
fn qemu_writes_patterns_flushes_discards_and_clears_on_both_paths() {
    if !have_qemu() {
        return;
    }
    let demo = Demo::start("patterns");
    for lun in [0, 1] {
        for (path, other) in [(0, 1), (1, 0)] {
            let base = (path as u64) << 30;
            let (writer, reader) = (demo.url(lun, path), demo.url(lun, other));
            let at = |offset: u64| base + offset;
            qemu_io(
                writer,
                &["-d", "unmap"],
                &[
                    format!("write -P 0x11 {} 4M", at(0)),
                    format!("write -P 0x22 {} 512", at(4096 + 512)),
                    format!("write -f -P 0x33 {} 64k", at(1 << 20)),
                    format!("aio_write -P 0x44 {} 1M", at(2 << 20)),
                    "aio_flush".into(),
                    "flush".into(),
                    format!("read -P 0x22 {} 512", at(4096 + 512)),
                ],
            );
            qemu_io(
                reader,
                &["-d", "unmap"],
                &[
                    format!("read -P 0x11 {} 4608", at(0)),
                    format!("read -P 0x22 {} 512", at(4096 + 512)),
                    format!("read -P 0x33 {} 64k", at(1 << 20)),
                    format!("read -P 0x44 {} 1M", at(2 << 20)),
                    format!("read -P 0x11 {} 1M", at(3 << 20)),
                    format!("discard {} 1M", at(2 << 20)),
                    format!("write -z {} 64k", at(1 << 20)),
                    format!("write -z -u {} 512", at(4096 + 512)),
                    "flush".into(),
                ],
            );
            qemu_io(
                writer,
                &[],
                &[
                    format!("read -P 0 {} 1M", at(2 << 20)),
                    format!("read -P 0 {} 64k", at(1 << 20)),
                    format!("read -P 0 {} 512", at(4096 + 512)),
                    format!("read -P 0x11 {} 1M", at(3 << 20)),
                ],
            );
        }
    }
    demo.stop_and_compare();
}

/// Blocks, a hole and blocks, from one mirrored volume to the other, through either node.
#[test]
fn qemu_finds_on_both_nodes_what_libiscsi_had_copied() {
    if !have_qemu() {
        return;
    }
    let Some(python) = have_client() else { return };
    let demo = Demo::start("copy");
    let write = |pattern: u8, mib: u32| format!("write -P {pattern:#x} {mib}M 10M");
    let blocks = [write(0x11, 0), write(0x22, 10), write(0x33, 30), format!("write -P 0x44 {} 512", 7 << 20)];
    qemu_io(demo.url(0, 0), &[], &blocks);
    for node in [0, 1] {
        let to_mib = 100 * (node as u64 + 1);
        let mut copy = script(&python, "copy.py");
        copy.args([demo.url(0, node), demo.url(1, node), "0"]);
        run(copy.args([&to_mib.to_string(), "40"]));
        let read =
            |pattern: u8, mib: u64, mibs: u64| format!("read -P {pattern:#x} {}M {mibs}M", to_mib + mib);
        let found = [
            read(0x11, 0, 7),
            format!("read -P 0x44 {} 512", (to_mib + 7) << 20),
            read(0x11, 8, 2),
            read(0x22, 10, 10),
            read(0, 20, 10),
            read(0x33, 30, 10),
            read(0, 40, 10),
        ];
        for reader in [0, 1] {
            qemu_io(demo.url(1, reader), &[], &found);
        }
    }
    demo.stop_and_compare();
}

/// As a cluster uses them, on both nodes, through the death of one and of both.
#[test]
fn hosts_reserve_on_both_nodes() {
    let Some(python) = have_client() else { return };
    let told = run(script(&python, "reserve.py").args(["--binary", DAEMON]));
    assert!(told.contains("reservations held throughout"), "{told}");
}

/// The Python that plays the host with two paths, if it can.
fn have_client() -> Option<String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    have(&python, &["-c", "import ctypes; ctypes.CDLL('libiscsi.so.7')"]).then_some(python)
}

/// A script of the folder with the clients, in Python.
fn script(python: &str, name: &str) -> Command {
    let mut command = Command::new(python);
    command.arg("-B").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name));
    command
}

/// Gives a script the value of an environment variable as an option, if it is set.
fn hand_on(command: &mut Command, option: &str, variable: &str) {
    if let Some(value) = std::env::var_os(variable) {
        command.arg(option).arg(value);
    }
}

/// `TWINSAN_KILL_CYCLES` sets how many, `TWINSAN_KILL_SEED` the random choices; `.ci/run` asks for more.
#[test]
fn nodes_are_killed_under_a_client_with_two_paths() {
    let Some(python) = have_client() else { return };
    run(&mut script(&python, "ledger.py"));
    let cycles = std::env::var("TWINSAN_KILL_CYCLES").unwrap_or_else(|_| "3".into());
    let mut command = script(&python, "kill_loop.py");
    command.args(["--binary", DAEMON, "--cycles", &cycles]);
    hand_on(&mut command, "--seed", "TWINSAN_KILL_SEED");
    let told = run(&mut command);
    println!("{told}");
    assert!(told.contains(", 0 lost"), "{told}");
}

/// `TWINSAN_FAULT_ROUNDS` sets how many, `TWINSAN_FAULT_SEED` the random choices, and `TWINSAN_FAULT_PLAN` names a file with
/// rounds that a run has printed; `.ci/run` asks for more.
#[test]
fn faults_of_the_link_under_a_client_with_two_paths() {
    let Some(python) = have_client() else { return };
    for examined in ["ledger.py", "plan.py", "split.py"] {
        run(&mut script(&python, examined));
    }
    let mut command = script(&python, "faults.py");
    command.args(["--binary", DAEMON]);
    hand_on(&mut command, "--rounds", "TWINSAN_FAULT_ROUNDS");
    hand_on(&mut command, "--seed", "TWINSAN_FAULT_SEED");
    hand_on(&mut command, "--plan", "TWINSAN_FAULT_PLAN");
    let told = run(&mut command);
    println!("{told}");
    assert!(told.contains(" 0 lost, 0 split-brain acks"), "{told}");
}
