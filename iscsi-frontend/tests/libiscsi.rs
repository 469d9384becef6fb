//! libiscsi's tools against the server: discovery, and CHAP one way and both ways. Debian has them as libiscsi-bin.

#[path = "common/ram.rs"]
mod ram;
#[path = "common/tools.rs"]
mod tools;

use std::net::SocketAddr;
use std::sync::Arc;

use tools::{have, run};
use twinsan_iscsi::chap::{Chap, Credentials, Secret};
use twinsan_iscsi::{Access, Host, Mapping, Server, TargetConfig};

const TARGET: &str = "iqn.2026-01.example:san";
const HOST: &str = "iqn.2026-01.example:host";
const SECRET: &str = "correct-horse";
const OWN_SECRET: &str = "battery-staple";

fn credentials(name: &str, secret: &str) -> Credentials {
    Credentials { name: name.to_owned(), secret: Secret::new(secret).expect("long enough") }
}

/// A server for a host with mutual CHAP and one without, on IPv4 and IPv6.
fn serve() -> Server {
    let mut config = TargetConfig::new(TARGET);
    config.portals = vec![([127, 0, 0, 1], 0).into(), "[::1]:0".parse().expect("an address")];
    let volume = Arc::new(ram::RamVolume::new(1, 1 << 17, config.pages.clone()));
    let chap = Chap { host: credentials("esx1", SECRET), target: Some(credentials("san", OWN_SECRET)) };
    let hosts = vec![
        Host { chap: Some(chap), ..Host::new("one", &[HOST]) },
        Host::new("open", &["iqn.2026-01.example:open"]),
    ];
    let mut read_only = Mapping::new("open", 7, Arc::clone(&volume) as _);
    read_only.read_only = true;
    let mappings = vec![Mapping::new("one", 3, volume), read_only];
    Server::start(config, Access { hosts, mappings }).expect("free ports")
}

fn url(portal: SocketAddr, who: &str, rest: &str) -> String {
    format!("iscsi://{who}{portal}{rest}")
}

#[test]
fn discovery_and_login_by_chap() {
    if !have("iscsi-ls") || !have("iscsi-inq") {
        return;
    }
    let server = serve();
    for portal in server.local_addrs() {
        let who = format!("esx1%{SECRET}@");
        let told = run("iscsi-ls", &["-i", HOST, "-s", &url(portal, &who, "")]).expect("let in");
        assert!(told.contains(TARGET) && told.contains("Lun:3"), "{told}");
        let unit = url(portal, &who, &format!("/{TARGET}/3"));
        let told = run("iscsi-inq", &["-i", HOST, &unit]).expect("let in");
        assert!(told.contains("VIRTUAL VOLUME"), "{told}");
        // The target shows who it is, and libiscsi checks it.
        let both = format!("{unit}?target_user=san&target_password={OWN_SECRET}");
        run("iscsi-inq", &["-i", HOST, &both]).expect("each knows the other");
        let wrong = format!("{unit}?target_user=san&target_password=another-secret");
        let told = run("iscsi-inq", &["-i", HOST, &wrong]).expect_err("not this target");
        assert!(told.contains("CHAP_R"), "{told}");
    }
    server.stop();
}

#[test]
fn those_who_prove_nothing_see_nothing() {
    if !have("iscsi-ls") || !have("iscsi-inq") {
        return;
    }
    let server = serve();
    let portal = server.local_addrs()[0];
    for (name, who) in [
        (HOST, String::new()),
        (HOST, "esx1%another-secret@".to_owned()),
        (HOST, format!("esx2%{SECRET}@")),
        ("iqn.2026-01.example:stranger", format!("esx1%{SECRET}@")),
        ("iqn.2026-01.example:stranger", String::new()),
    ] {
        let told = run("iscsi-ls", &["-i", name, &url(portal, &who, "")]).unwrap_or_else(|told| told);
        assert!(!told.contains(TARGET), "{name} {who}: {told}");
        let unit = url(portal, &who, &format!("/{TARGET}/3"));
        let told = run("iscsi-inq", &["-i", name, &unit]).expect_err("refused");
        assert!(!told.contains("VIRTUAL VOLUME"), "{name} {who}: {told}");
    }
    let told =
        run("iscsi-ls", &["-i", "iqn.2026-01.example:open", "-s", &url(portal, "", "")]).expect("let in");
    assert!(told.contains("Lun:7"), "{told}");
    server.stop();
}

/// The suite as a whole runs against real nodes (`.ci/run`); these need nothing but volumes.
#[test]
fn copies_atomic_writes_and_mode_pages_pass_the_conformance_suite() {
    if !have("iscsi-test-cu") || !have("python3") {
        return;
    }
    let mut config = TargetConfig::new(TARGET);
    config.portals = vec![([127, 0, 0, 1], 0).into()];
    let volume = Arc::new(ram::RamVolume::new(1, 1 << 17, config.pages.clone()));
    let server = Server::start(config, Access::for_anyone([(0, volume as _)])).expect("a free port");
    let unit = url(server.local_addrs()[0], "", &format!("/{TARGET}/0"));
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let (script, allow) = (format!("{tests}/iscsi-cu"), format!("{tests}/iscsi-cu.allow"));
    let only = "ExtendedCopy|ReceiveCopyResults|WriteAtomic16|ModeSense6|SCSI.CompareAndWrite|SCSI.OrWrite";
    let told = run("python3", &["-B", &script, &unit, "--allow", &allow, "--only", only]);
    let told = told.unwrap_or_else(|told| panic!("{told}"));
    assert!(told.contains("skip 0 hang 0 abort 0"), "{told}");
    server.stop();
}
