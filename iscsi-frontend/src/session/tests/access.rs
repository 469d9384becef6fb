//! Hosts, masking, read-only mappings, and changes of them while sessions are open.

use std::sync::Arc;

use super::super::bench::{Bench, HOST, OTHER, Pdu, TARGET, hosts};
use super::super::drive::{Drive, HandVolume};
use crate::access::{Access, Host, Mapping};
use crate::target::{Target, TargetConfig};

const SECOND: &str = "iqn.2026-01.example:second";

fn read_only(bench: &Bench) -> Mapping {
    Mapping { read_only: true, ..Mapping::new("one", 0, Arc::clone(&bench.volume) as _) }
}

/// The sense of a command without data on LUN 0.
fn ready(bench: &mut Bench, link: usize) -> (u8, u8, u8, u8) {
    let command = bench.command(0x80, 3, 0, &[0; 6]);
    bench.ask(link, &command)[0].sense()
}

/// The device-specific parameter of MODE SENSE(6) and (10).
fn protection(bench: &mut Bench, link: usize) -> (u8, u8) {
    let six = bench.command(0xc0, 3, 255, &[0x1a, 0x08, 0x3f, 0, 255, 0]);
    let ten = bench.command(0xc0, 3, 255, &[0x5a, 0x08, 0x3f, 0, 0, 0, 0, 0, 255, 0]);
    (bench.ask(link, &six)[0].data[2], bench.ask(link, &ten)[0].data[3])
}

#[test]
fn a_read_only_mapping_refuses_what_changes_the_medium() {
    let bench = Bench::new();
    let mapping = read_only(&bench);
    refuses_what_changes_the_medium(bench, mapping);
}

#[test]
fn a_snapshot_refuses_what_changes_the_medium_however_it_is_mapped() {
    let bench = Bench::new();
    bench.volume.state.lock().read_only = true;
    let mapping = Mapping { read_only: false, ..read_only(&bench) };
    refuses_what_changes_the_medium(bench, mapping);
}

#[test]
fn a_snapshot_stays_protected_whatever_becomes_of_its_mapping() {
    let mut bench = Bench::new();
    bench.volume.state.lock().read_only = true;
    let link = bench.session();
    for read_only in [true, false] {
        let mapping = |lun, volume: &Arc<HandVolume>| Mapping::new("one", lun, Arc::clone(volume) as _);
        let first = Mapping { read_only, ..mapping(0, &bench.volume) };
        let second = mapping(300, &bench.second);
        bench.set_access(hosts(), vec![first, second]);
        assert_eq!(ready(&mut bench, link), (0, 0, 0, 0), "nothing has changed");
        assert_eq!(protection(&mut bench, link), (0x90, 0x90));
        assert_eq!(bench.write(link, 4, 0, &[1; 512])[0].sense(), (2, 7, 0x27, 0));
    }
}

fn refuses_what_changes_the_medium(mut bench: Bench, mapping: Mapping) {
    bench.set_access(hosts(), vec![mapping]);
    let link = bench.session();
    assert_eq!(protection(&mut bench, link), (0x90, 0x90));
    assert_eq!(bench.write(link, 4, 0, &[1; 512])[0].sense(), (2, 7, 0x27, 0));
    let writes: [(&[u8], usize); 7] = [
        (&[0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0], 4096),
        (&[0x0a, 0, 0, 0, 1, 0], 512),
        (&[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], 512),
        (&[0x2e, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512),
        (&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], 24),
        (&[0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512),
        (&[0x93, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], 0),
    ];
    for (cdb, bytes) in writes {
        let flags = if bytes > 0 { 0xa0 } else { 0x80 };
        let command = bench.command(flags, 5, bytes as u32, cdb).data(&vec![1; bytes]);
        assert_eq!(bench.ask(link, &command)[0].sense(), (2, 7, 0x27, 0), "{cdb:02x?}");
    }
    assert_eq!(bench.read(link, 6, 0, 1)[0].data, [0; 512]);
    let flush = bench.command(0x80, 7, 0, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bench.ask(link, &flush)[0].sense(), (0, 0, 0, 0));
    assert_eq!(bench.volume.held(), 0);
}

#[test]
fn a_mapping_that_becomes_read_only_is_told_and_lived() {
    let mut bench = Bench::new();
    let link = bench.session();
    assert_eq!(protection(&mut bench, link), (0x10, 0x10));
    let mapping = read_only(&bench);
    bench.set_access(hosts(), vec![mapping.clone()]);
    // That LUN 300 went is the greater news.
    assert_eq!(ready(&mut bench, link), (2, 6, 0x3f, 0x0e));
    assert_eq!(ready(&mut bench, link), (2, 6, 0x2a, 0x01));
    assert_eq!(bench.write(link, 4, 0, &[1; 512])[0].sense(), (2, 7, 0x27, 0));
    bench.set_access(hosts(), vec![Mapping { read_only: false, ..mapping }]);
    assert_eq!(bench.write(link, 4, 0, &[1; 512])[0].sense(), (2, 6, 0x2a, 0x01));
    assert_eq!(bench.write(link, 4, 0, &[1; 512])[0].sense(), (0, 0, 0, 0));
}

#[test]
fn report_luns_is_how_an_initiator_learns_of_changed_units() {
    let mut bench = Bench::new();
    let link = bench.session();
    let volume = Arc::clone(&bench.volume);
    let map = |lun| Mapping::new("one", lun, Arc::clone(&volume) as _);
    bench.set_access(hosts(), vec![map(0), map(1)]);
    let command = bench.command(0xc0, 4, 64, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64]);
    assert_eq!(bench.ask(link, &command)[0].data[..4], 16u32.to_be_bytes());
    assert_eq!(ready(&mut bench, link), (0, 0, 0, 0), "no attention is left");
}

#[test]
fn a_host_has_several_initiators_and_all_see_the_same() {
    let mut bench = Bench::new();
    let volume = Arc::clone(&bench.volume);
    let hosts = vec![Host::new("cluster", &[HOST, OTHER])];
    bench.set_access(hosts, vec![Mapping::new("cluster", 0, volume)]);
    let one = bench.session();
    assert_eq!(bench.write(one, 4, 0, &[7; 512])[0].sense(), (0, 0, 0, 0));
    bench.cmd_sn = 1;
    let other = bench.login(OTHER, 1, "").0;
    assert_eq!(bench.read(other, 4, 0, 1)[0].data, [7; 512]);
}

#[test]
fn an_initiator_that_loses_its_host_is_logged_out() {
    let mut bench = Bench::new();
    let link = bench.session();
    bench.set_access(vec![Host::new("two", &[OTHER])], Vec::new());
    assert_eq!(super::super::bench::answers(&bench.drive.drain(link))[0].opcode(), 0x32);
    assert!(bench.drive.get(link).is_none());
    let (_, found) = bench.login(HOST, 1, "");
    assert_eq!(found[0].head[36..38], [2, 3]);
}

/// Two targets, of which the host sees volume 1 at the first and volume 2 at the second.
fn two_targets() -> Drive {
    let mut config = TargetConfig::new(TARGET);
    config.names.push(SECOND.to_owned());
    let second = Mapping { target: Some(SECOND.to_owned()), ..Mapping::new("one", 9, HandVolume::new(2)) };
    let mappings = vec![Mapping::new("one", 0, HandVolume::new(1)), second];
    let target = Target::new(config, Access { hosts: hosts(), mappings }).expect("good");
    target.bound.lock().push("[::1]:3260".parse().expect("an address"));
    Drive::new(target)
}

#[test]
fn targets_have_names_sessions_and_units_of_their_own() {
    let mut bench =
        Bench { drive: two_targets(), volume: HandVolume::new(1), second: HandVolume::new(2), cmd_sn: 1 };
    let ask = |bench: &mut Bench, text: &str| {
        let link = bench.drive.connect();
        let pdu = Pdu::new(0x43, 0x87, 1).byte(13, 1).word(24, 1).data(text.as_bytes());
        (link, bench.ask(link, &pdu))
    };
    let (link, _) = ask(&mut bench, &format!("InitiatorName={HOST}\0SessionType=Discovery\0"));
    let pdu = |value: &str| {
        Pdu::new(0x44, 0x80, 2).word(20, u32::MAX).data(format!("SendTargets={value}\0").as_bytes())
    };
    let all = bench.ask(link, &pdu("All").word(24, 1))[0].text();
    assert!(all.contains(&format!("TargetName={TARGET}\nTargetAddress=[::1]:3260,1")), "{all}");
    assert!(all.contains(&format!("TargetName={SECOND}\n")), "{all}");

    // The same name and ISID at two targets are two sessions.
    for (target, lun) in [(TARGET, 0), (SECOND, 9)] {
        let (link, _) = ask(&mut bench, &format!("InitiatorName={HOST}\0TargetName={target}\0"));
        bench.cmd_sn = 1;
        let command = bench.command(0xc0, 4, 64, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64]);
        assert_eq!(bench.ask(link, &command)[0].data[8..], [0, lun, 0, 0, 0, 0, 0, 0]);
        let command = bench.command(0xc0, 5, 255, &[0x12, 1, 0x83, 0, 255, 0]).byte(9, lun);
        let page = String::from_utf8_lossy(&bench.ask(link, &command)[0].data).into_owned();
        assert!(page.contains(target), "{page}");
        let own = bench.ask(link, &pdu("").word(24, bench.cmd_sn))[0].text();
        assert!(own.contains(target) && own.matches("TargetName").count() == 1, "{own}");
        bench.cmd_sn += 1;
        let other = bench.ask(link, &pdu("All").word(24, bench.cmd_sn))[0].text();
        assert_eq!(other, "SendTargets=Reject\n");
    }
    assert!((0..3).all(|link| bench.drive.get(link).is_some()));
}
