//! Connections driven by hand-made PDUs.

mod access;
mod chap;
mod copies;
mod crowd;
mod exclusive;
mod hostile;
mod management;
mod memory;
mod reservations;

use std::sync::Arc;

use twinsan::guest::{GuestError, PathState};

use super::bench::{Bench, HOST, OTHER, Pdu, TARGET, answers, hosts};
use super::drive::HandVolume;
use crate::access::Mapping;

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n * 7 + n / 251) as u8).collect()
}

#[test]
fn a_login_negotiates_and_enters_the_full_feature_phase() {
    let mut bench = Bench::new();
    let (_, found) = bench.login(HOST, 1, "HeaderDigest=None\0X-odd=1\0MaxBurstLength=4096\0");
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].opcode(), found[0].head[1], found[0].head[36]), (0x23, 0x87, 0));
    assert_ne!(found[0].head[14..16], [0, 0]);
    let text = found[0].text();
    for line in ["HeaderDigest=None", "X-odd=NotUnderstood", "MaxBurstLength=4096", "TargetPortalGroupTag=1"]
    {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn a_login_may_take_many_pdus() {
    let mut bench = Bench::new();
    let link = bench.drive.connect();
    let first = Pdu::new(0x43, 0x40, 1).data(b"InitiatorName=iqn.2026-01.example:ho");
    let found = bench.ask(link, &first);
    assert_eq!((found[0].head[1], found[0].data.len()), (0, 0));
    let rest = format!("st1\0TargetName={TARGET}\0AuthMethod=CHAP,None\0");
    let found = bench.ask(link, &Pdu::new(0x43, 0x81, 1).data(rest.as_bytes()));
    assert_eq!(found[0].head[1], 0x81);
    assert!(found[0].text().contains("AuthMethod=None"));
    let found = bench.ask(link, &Pdu::new(0x43, 0x04, 1).data(b"InitialR2T=No\0"));
    assert!(found[0].text().contains("MaxRecvDataSegmentLength=262144"));
    let found = bench.ask(link, &Pdu::new(0x43, 0x87, 1));
    assert_eq!((found[0].head[1], found[0].head[36]), (0x87, 0));
}

#[test]
fn logins_that_must_fail_say_why() {
    let cases: [(&str, u16); 5] = [
        ("InitiatorName=iqn.2026-01.example:stranger\0TargetName=iqn.2026-01.example:san\0", 0x0203),
        ("InitiatorName=iqn.2026-01.example:host1\0TargetName=iqn.2026-01.example:other\0", 0x0203),
        ("TargetName=iqn.2026-01.example:san\0", 0x0207),
        ("InitiatorName=a\0InitiatorName=a\0", 0x0200),
        ("InitiatorName=iqn.2026-01.example:host1\0AuthMethod=CHAP\0", 0x0201),
    ];
    for (text, status) in cases {
        let mut bench = Bench::new();
        let link = bench.drive.connect();
        let found = bench.ask(link, &Pdu::new(0x43, 0x87, 1).data(text.as_bytes()));
        assert_eq!(found[0].head[36..38], status.to_be_bytes(), "{text}");
        assert!(bench.drive.get(link).is_none(), "closed after {text}");
    }
}

#[test]
fn unknown_keys_are_capped() {
    let mut bench = Bench::new();
    let keys: String = (0..40).map(|n| format!("X-{n}=1\0")).collect();
    let (_, found) = bench.login(HOST, 1, &keys);
    assert_eq!(found[0].head[36..38], [2, 0]);
}

#[test]
fn discovery_shows_both_nodes_to_those_who_may_see() {
    for (host, sees) in [(HOST, true), ("iqn.2026-01.example:stranger", false)] {
        let mut bench = Bench::new();
        let link = bench.drive.connect();
        let text = format!("InitiatorName={host}\0SessionType=Discovery\0");
        bench.ask(link, &Pdu::new(0x43, 0x87, 1).data(text.as_bytes()));
        let pdu = Pdu::new(0x44, 0x80, 2).word(20, u32::MAX).data(b"SendTargets=All\0");
        let found = bench.ask(link, &pdu);
        let text = found[0].text();
        assert_eq!(text.contains(TARGET), sees, "{text}");
        assert_eq!(text.contains("TargetAddress=127.0.0.1:3260,1"), sees);
        assert_eq!(text.contains("TargetAddress=10.0.0.2:3260,2"), sees);
    }
}

#[test]
fn what_was_written_is_read_back_at_any_alignment() {
    let mut bench = Bench::new();
    let link = bench.session();
    let data = pattern(20 * 512);
    let found = bench.write(link, 7, 5, &data);
    assert_eq!(found[0].sense(), (0, 0, 0, 0));
    let found = bench.read(link, 8, 3, 24);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].opcode(), found[0].head[1]), (0x25, 0x81));
    assert!(found[0].data[1024..1024 + data.len()] == data[..]);
    assert!(found[0].data[..1024].iter().chain(&found[0].data[1024 + data.len()..]).all(|byte| *byte == 0));
}

#[test]
fn a_read_with_fua_flushes_first() {
    let mut bench = Bench::new();
    let link = bench.session();
    let data = pattern(512);
    bench.write(link, 7, 5, &data);
    bench.volume.state.lock().hold = true;
    let command = bench.command(0xc0, 8, 512, &[0x28, 0x08, 0, 0, 0, 5, 0, 0, 1, 0]);
    assert!(bench.ask(link, &command).is_empty());
    for request in ["the flush", "the read"] {
        assert_eq!(bench.volume.held(), 1, "{request}");
        assert!(bench.drive.drain(link).is_empty(), "nothing is sent before {request}");
        bench.volume.answer(0);
        bench.drive.deliver();
    }
    let found = answers(&bench.drive.drain(link));
    assert_eq!((found.len(), found[0].opcode(), found[0].head[1]), (1, 0x25, 0x81));
    assert!(found[0].data == data);
}

#[test]
fn a_read_with_fua_fails_with_its_flush() {
    let mut bench = Bench::new();
    let link = bench.session();
    bench.volume.state.lock().failure = Some(GuestError::Unavailable);
    let command = bench.command(0xc0, 8, 512, &[0x28, 0x08, 0, 0, 0, 5, 0, 0, 1, 0]);
    assert_eq!(bench.ask(link, &command)[0].sense(), (2, 2, 4, 0x0c));
}

#[test]
fn an_atomic_write_with_less_data_or_more_than_its_block_writes_nothing() {
    let mut bench = Bench::new();
    let link = bench.session();
    bench.write(link, 7, 0, &[7; 4096]);
    let cdb = [0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0];
    for (flags, bytes) in [(0xa0, 0), (0xa0, 512), (0xa0, 3584), (0xa0, 4608), (0x80, 0)] {
        let command = bench.command(flags, 8, bytes, &cdb).data(&vec![9; bytes as usize]);
        assert_eq!(bench.ask(link, &command)[0].sense(), (2, 5, 0x0e, 3), "{bytes} bytes");
        assert_eq!(bench.read(link, 9, 0, 8)[0].data, [7; 4096], "{bytes} bytes");
    }
    let command = bench.command(0xa0, 8, 4096, &cdb).data(&[9; 4096]);
    assert_eq!(bench.ask(link, &command)[0].sense(), (0, 0, 0, 0));
    assert_eq!(bench.read(link, 9, 0, 8)[0].data, [9; 4096]);
}

#[test]
fn a_comparison_takes_both_runs_of_blocks_or_nothing() {
    let mut bench = Bench::new();
    let link = bench.session();
    bench.write(link, 7, 0, &[7; 8192]);
    let cdb = |blocks| [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, blocks, 0, 0];
    let runs = |expected: u8, data: u8, each: usize| [vec![expected; each], vec![data; each]].concat();
    for (flags, blocks, bytes, sense) in [
        (0xa0, 2, 0, (2, 5, 0x0e, 3)),
        (0xa0, 2, 512, (2, 5, 0x0e, 3)),
        (0xa0, 2, 1024, (2, 5, 0x0e, 3)),
        (0xa0, 2, 2560, (2, 5, 0x0e, 3)),
        (0xc0, 2, 2048, (2, 5, 0x0e, 3)),
        (0xa0, 9, 9216, (2, 5, 0x24, 0)),
        // 256 blocks, of which the CDB says nothing.
        (0xa0, 0, 8192, (2, 5, 0x24, 0)),
    ] {
        let sent = if flags == 0xa0 { vec![7; bytes as usize] } else { Vec::new() };
        let command = bench.command(flags, 8, bytes, &cdb(blocks)).data(&sent);
        assert_eq!(bench.ask(link, &command)[0].sense(), sense, "{blocks} blocks, {bytes} bytes");
        assert_eq!(bench.read(link, 9, 0, 16)[0].data, [7; 8192], "{bytes} bytes");
    }
    let command = bench.command(0xa0, 8, 4096, &cdb(4)).data(&runs(7, 9, 2048));
    assert_eq!(bench.ask(link, &command)[0].sense(), (0, 0, 0, 0));
    let mut now = [7; 8192];
    now[5 * 512..9 * 512].fill(9);
    assert_eq!(bench.read(link, 9, 0, 16)[0].data, now);
    let command = bench.command(0xa0, 8, 4096, &cdb(4)).data(&runs(7, 8, 2048));
    assert_eq!(bench.ask(link, &command)[0].sense(), (2, 0x0e, 0x1d, 0));
    assert_eq!(bench.read(link, 9, 0, 16)[0].data, now);
    let nothing = bench.command(0x80, 8, 0, &cdb(0));
    assert_eq!(bench.ask(link, &nothing)[0].sense(), (0, 0, 0, 0));
}

#[test]
fn bits_are_set_in_what_is_there() {
    let mut bench = Bench::new();
    let link = bench.session();
    bench.write(link, 7, 5, &[0x12; 1024]);
    let cdb = [0x8b, 0x18, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0];
    let command = bench.command(0xa0, 8, 1536, &cdb).data(&[0x41; 1536]);
    assert_eq!(bench.ask(link, &command)[0].sense(), (0, 0, 0, 0));
    let found = bench.read(link, 9, 5, 3)[0].data.clone();
    assert!(found[..1024].iter().all(|byte| *byte == 0x53) && found[1024..].iter().all(|byte| *byte == 0x41));
}

#[test]
fn long_reads_are_cut_by_segment_and_burst() {
    let mut bench = Bench::new();
    let link = bench.login(HOST, 1, "MaxRecvDataSegmentLength=4096\0MaxBurstLength=10240\0").0;
    let found = bench.read(link, 1, 1, 48);
    let shape: Vec<_> = found.iter().map(|a| (a.head[1], a.word(36), a.word(40), a.data.len())).collect();
    assert_eq!(
        shape,
        [
            (0x00, 0, 0, 4096),
            (0x00, 1, 4096, 4096),
            (0x80, 2, 8192, 2048),
            (0x00, 3, 10240, 4096),
            (0x00, 4, 14336, 4096),
            (0x80, 5, 18432, 2048),
            (0x81, 6, 20480, 4096),
        ]
    );
}

#[test]
fn data_is_asked_for_in_bursts() {
    let mut bench = Bench::new();
    let link = bench.login(HOST, 1, "ImmediateData=No\0MaxBurstLength=4096\0").0;
    let data = pattern(6144);
    let cdb = [0x2a, 0, 0, 0, 0, 3, 0, 0, 12, 0];
    let command = bench.command(0xa0, 9, 6144, &cdb);
    let found = bench.ask(link, &command);
    assert_eq!(
        (found[0].opcode(), found[0].word(36), found[0].word(40), found[0].word(44)),
        (0x31, 0, 0, 4096)
    );
    let ttt = found[0].word(20);
    let part = |sn: u32, from: usize, to: usize, last: u8| {
        Pdu::new(0x05, last, 9).word(20, ttt).word(36, sn).word(40, from as u32).data(&data[from..to])
    };
    assert!(bench.ask(link, &part(0, 0, 1000, 0)).is_empty());
    let found = bench.ask(link, &part(1, 1000, 4096, 0x80));
    assert_eq!(
        (found[0].opcode(), found[0].word(36), found[0].word(40), found[0].word(44)),
        (0x31, 1, 4096, 2048)
    );
    let found = bench.ask(link, &part(0, 4096, 6144, 0x80));
    assert_eq!(found[0].sense(), (0, 0, 0, 0));
    let found = bench.read(link, 10, 3, 12);
    assert!(found.iter().flat_map(|answer| &answer.data).eq(&data));
}

#[test]
fn data_out_of_order_fails_the_command() {
    for (sn, offset) in [(1, 0), (0, 512)] {
        let mut bench = Bench::new();
        let link = bench.session();
        let command = bench.command(0x20, 9, 1024, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        assert!(bench.ask(link, &command).is_empty());
        let data = Pdu::new(0x05, 0x80, 9).word(20, u32::MAX).word(36, sn).word(40, offset).data(&[1; 512]);
        let found = bench.ask(link, &data);
        assert_eq!(found[0].sense(), (2, 0x0b, 0x4b, 0));
        assert_eq!(bench.read(link, 10, 0, 2)[0].data, [0; 1024]);
    }
}

#[test]
fn residuals_of_every_kind() {
    let mut bench = Bench::new();
    let link = bench.session();
    let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    for (expected, flag, residual) in [(0, 0x04, 512), (200, 0x04, 312), (10_000, 0x02, 9_488), (512, 0, 0)] {
        let command = bench.command(0xc0, 5, expected, &read);
        let found = bench.ask(link, &command);
        assert_eq!((found[0].head[1] & 6, found[0].word(44)), (flag, residual), "{expected}");
        assert_eq!(found[0].data.len(), expected.min(512) as usize);
    }
}

#[test]
fn a_command_outside_the_window_is_dropped() {
    let mut bench = Bench::new();
    let link = bench.session();
    let ready = |sn: u32| Pdu::new(0x01, 0x80, 5).word(24, sn);
    assert!(bench.ask(link, &ready(0)).is_empty());
    assert!(bench.ask(link, &ready(bench.cmd_sn + super::WINDOW)).is_empty());
    let found = bench.ask(link, &ready(bench.cmd_sn));
    assert_eq!(found[0].sense().0, 0);
    assert_eq!(found[0].word(28), bench.cmd_sn + 1);
    assert_eq!(found[0].word(32), bench.cmd_sn + super::WINDOW);
}

#[test]
fn the_window_closes_with_commands_in_progress() {
    let mut bench = Bench::new();
    let link = bench.session();
    bench.volume.state.lock().hold = true;
    for itt in 0..super::WINDOW {
        assert!(bench.read(link, itt, 0, 1).is_empty());
    }
    assert!(bench.read(link, 500, 0, 1).is_empty());
    assert_eq!(bench.volume.held(), super::WINDOW as usize, "the one too many was dropped");
    let ping = bench.ask(link, &Pdu::new(0x40, 0x80, 77).data(b"ping"));
    assert_eq!((ping[0].opcode(), &ping[0].data[..]), (0x20, &b"ping"[..]));
    assert_eq!(ping[0].word(32).wrapping_add(1), ping[0].word(28), "no room");
}

#[test]
fn an_aborted_task_never_answers() {
    let mut bench = Bench::new();
    let link = bench.session();
    bench.volume.state.lock().hold = true;
    assert!(bench.read(link, 21, 0, 1).is_empty());
    let found = bench.ask(link, &Pdu::new(0x42, 0x81, 50).word(20, 21));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].opcode(), found[0].head[2]), (0x22, 0));
    let found = bench.ask(link, &Pdu::new(0x42, 0x81, 51).word(20, 21));
    assert_eq!(found[0].head[2], 1, "no such task");
    let found = bench.ask(link, &Pdu::new(0x42, 0x88, 52).word(20, 21));
    assert_eq!(found[0].head[2], 4, "no reassignment");
}

#[test]
fn a_lun_reset_ends_the_tasks_of_all_and_tells_them() {
    let mut bench = Bench::new();
    let link = bench.session();
    let (other, _) = bench.login(OTHER, 1, "");
    bench.volume.state.lock().hold = true;
    assert!(bench.read(link, 21, 0, 1).is_empty());
    let cdb = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let command = bench.command(0xc0, 4, 512, &cdb).byte(9, 5).word(24, 1);
    assert!(bench.ask(other, &command).is_empty());
    assert_eq!(bench.volume.held(), 2);
    let found = bench.ask(link, &Pdu::new(0x42, 0x85, 50));
    assert_eq!((found.len(), found[0].opcode(), found[0].head[2]), (1, 0x22, 0));
    assert_eq!(bench.volume.held(), 0);
    assert!(bench.drive.drain(other).is_empty());
    for (link, sn, lun) in [(other, 2, 5), (link, bench.cmd_sn, 0)] {
        let ready = Pdu::new(0x01, 0x80, 9).byte(9, lun).word(24, sn);
        let found = bench.ask(link, &ready);
        assert_eq!(found[0].sense(), (2, 6, 0x29, 3));
    }
}

#[test]
fn a_session_is_reinstated_only_when_the_old_tasks_are_dead() {
    let mut bench = Bench::new();
    let old = bench.session();
    bench.volume.state.lock().hold = true;
    assert!(bench.write(old, 21, 0, &[1; 512]).is_empty());
    assert_eq!(bench.volume.held(), 1);
    let (new, found) = bench.login(HOST, 1, "");
    assert_eq!(found.len(), 1, "the volume gave the task up at once");
    assert_eq!(bench.volume.held(), 0);
    assert!(bench.drive.get(old).is_none());
    bench.volume.state.lock().hold = false;
    assert_eq!(bench.read(new, 3, 0, 1)[0].data, [0; 512]);
}

#[test]
fn masking_hides_what_is_not_mapped() {
    let mut bench = Bench::new();
    let link = bench.login(OTHER, 1, "").0;
    let command = bench.command(0xc0, 4, 64, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64]);
    let found = bench.ask(link, &command);
    assert_eq!(found[0].data[..4], 8u32.to_be_bytes());
    assert_eq!(found[0].data[8..16], [0, 5, 0, 0, 0, 0, 0, 0]);
    let command = bench.command(0xc0, 5, 96, &[0x12, 0, 0, 0, 96, 0]);
    let found = bench.ask(link, &command);
    assert_eq!(found[0].data[0], 0x7f);
    let found = bench.read(link, 6, 0, 1);
    assert_eq!(found[0].sense(), (2, 5, 0x25, 0));
}

#[test]
fn guest_errors_become_the_sense_that_hosts_act_on() {
    let table = [
        (GuestError::Unavailable, (2, 2, 4, 0x0c)),
        (GuestError::Transitioning, (2, 2, 4, 0x0a)),
        (GuestError::OutOfSpace, (2, 7, 0x27, 7)),
        (GuestError::OutOfRange, (2, 5, 0x21, 0)),
        (GuestError::Medium, (2, 3, 0x11, 0)),
        (GuestError::Gone, (2, 5, 0x25, 0)),
        (GuestError::ReadOnly, (2, 7, 0x27, 0)),
        (GuestError::Miscompare { offset: 7 }, (2, 0x0e, 0x1d, 0)),
        (GuestError::Uncertain, (2, 4, 0x44, 0)),
    ];
    let mut bench = Bench::new();
    let link = bench.session();
    for (error, sense) in table {
        bench.volume.state.lock().failure = Some(error);
        assert_eq!(bench.write(link, 3, 0, &[1; 512])[0].sense(), sense);
        assert_eq!(bench.read(link, 3, 0, 1)[0].sense(), sense);
    }
}

#[test]
fn a_change_of_path_state_is_told_once_and_then_lived() {
    let mut bench = Bench::new();
    let link = bench.session();
    bench.volume.state.lock().path = PathState::Unavailable;
    assert_eq!(bench.read(link, 3, 0, 1)[0].sense(), (2, 6, 0x2a, 6));
    assert_eq!(bench.read(link, 3, 0, 1)[0].sense(), (2, 2, 4, 0x0c));
    let command = bench.command(0xc0, 5, 96, &[0x12, 0, 0, 0, 96, 0]);
    assert_eq!(bench.ask(link, &command)[0].data.len(), 96);
    let command = bench.command(0xc0, 5, 64, &[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 64]);
    let found = bench.ask(link, &command);
    assert_eq!((found[0].data[4], found[0].data[16]), (3, 1), "unavailable here, non-optimized there");
}

#[test]
fn digests_are_made_and_checked() {
    let mut bench = Bench::new();
    let (link, _) = bench.login(HOST, 1, "HeaderDigest=CRC32C\0DataDigest=CRC32C\0");
    let data = pattern(512);
    let command = bench.command(0xa0, 5, 512, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0]).data(&data);
    let wire = |pdu: &Pdu, spoil: u32| {
        let mut bytes = pdu.head.to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(&pdu.head).to_le_bytes());
        bytes.extend_from_slice(&pdu.data);
        bytes.extend_from_slice(&(crc32c::crc32c(&pdu.data) ^ spoil).to_le_bytes());
        bytes
    };
    bench.drive.feed(link, &wire(&command, 1));
    let sent = bench.drive.drain(link);
    assert_eq!((sent[0], sent[2]), (0x3f, 2), "a reject for the data digest");
    let command = bench.command(0xa0, 6, 512, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0]).data(&data);
    bench.drive.feed(link, &wire(&command, 0));
    let sent = bench.drive.drain(link);
    assert_eq!((sent[0], sent[3]), (0x21, 0));
    assert_eq!(sent[48..52], crc32c::crc32c(&sent[..48]).to_le_bytes());
}

#[test]
fn a_header_digest_that_is_wrong_closes_the_connection() {
    let mut bench = Bench::new();
    let (link, _) = bench.login(HOST, 1, "HeaderDigest=CRC32C\0");
    bench.drive.feed(link, &[&Pdu::new(0x40, 0x80, 1).head[..], &[0; 4]].concat());
    assert!(bench.drive.get(link).is_none());
}

#[test]
fn logout_ends_the_session() {
    let mut bench = Bench::new();
    let link = bench.session();
    let found = bench.ask(link, &Pdu::new(0x46, 0x80, 9));
    assert_eq!((found[0].opcode(), found[0].head[2]), (0x26, 0));
    assert!(bench.drive.get(link).is_none());
}

#[test]
fn a_silent_initiator_is_pinged_then_dropped() {
    let mut bench = Bench::new();
    let link = bench.session();
    for _ in 0..2 {
        bench.drive.get(link).expect("open").keep_alive();
    }
    let sent = answers(&bench.drive.drain(link));
    assert_eq!((sent[0].opcode(), sent[0].word(16)), (0x20, u32::MAX));
    // Sending counts as a sign of life only once.
    for _ in 0..2 {
        bench.drive.get(link).expect("open").keep_alive();
    }
    bench.drive.deliver();
    assert!(bench.drive.get(link).is_none());
}

#[test]
fn commands_beyond_the_memory_of_a_connection_wait() {
    let mut bench = Bench::new();
    let link = bench.session();
    bench.volume.state.lock().hold = true;
    for itt in 0..6 {
        let cdb = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0];
        let command = bench.command(0xc0, itt, 8 << 20, &cdb);
        assert!(bench.ask(link, &command).is_empty());
    }
    assert_eq!(bench.volume.held(), 4, "four of 8 MiB fit");
    bench.volume.state.lock().hold = false;
    bench.volume.answer(0);
    bench.drive.deliver();
    let mut bytes = 0;
    loop {
        let sent = answers(&bench.drive.drain(link));
        if sent.is_empty() {
            break;
        }
        bytes += sent.iter().map(|answer| answer.data.len()).sum::<usize>();
    }
    assert_eq!(bytes, 3 * (8 << 20), "one was answered, and the two that waited went on");
}

#[test]
fn a_change_of_mappings_is_told_and_takes_effect() {
    let mut bench = Bench::new();
    let link = bench.session();
    bench.volume.state.lock().hold = true;
    assert!(bench.read(link, 21, 0, 1).is_empty());
    let new = HandVolume::new(3);
    let map = |lun| Mapping::new("one", lun, Arc::clone(&new) as _);
    bench.set_access(hosts(), vec![map(1)]);
    assert_eq!(bench.volume.held(), 0, "the task on the volume that went was given up");
    let ready = |bench: &mut Bench, lun: u8| {
        let command = bench.command(0x80, 3, 0, &[0; 6]).byte(9, lun);
        bench.ask(link, &command)[0].sense()
    };
    assert_eq!(ready(&mut bench, 0), (2, 5, 0x25, 0));
    assert_eq!(ready(&mut bench, 1), (2, 6, 0x3f, 0x0e));
    assert_eq!(ready(&mut bench, 1), (0, 0, 0, 0));
    bench.set_access(hosts(), Vec::new());
    assert_eq!(answers(&bench.drive.drain(link))[0].opcode(), 0x32, "asked to leave");
    assert!(bench.drive.get(link).is_none());
}
