//! What a connection holds, and what happens when that is too much.

use super::super::bench::{Bench, HOST, OTHER, Pdu, answers};

const MIB: u32 = 1 << 20;
const FULL: u8 = 0x28;

/// A CDB of 16 bytes for `bytes` at block 0.
fn cdb(operation: u8, bytes: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = operation;
    cdb[10..14].copy_from_slice(&(bytes / 512).to_be_bytes());
    cdb
}

impl Bench {
    fn read_much(&mut self, link: usize, itt: u32, bytes: u32) -> Vec<(u8, u8)> {
        let command = self.command(0xc0, itt, bytes, &cdb(0x88, bytes));
        self.ask(link, &command).iter().map(|answer| (answer.opcode(), answer.head[3])).collect()
    }

    /// A write of `bytes`, of which `immediate` come along.
    fn write_much(&mut self, link: usize, itt: u32, bytes: u32, immediate: usize) -> Vec<(u8, u8)> {
        let command = self.command(0xa0, itt, bytes, &cdb(0x8a, bytes)).data(&vec![itt as u8; immediate]);
        self.ask(link, &command).iter().map(|answer| (answer.opcode(), answer.head[3])).collect()
    }

    fn memory(&mut self, link: usize) -> usize {
        self.drive.get(link).expect("open").memory_bytes()
    }

    /// Lets everything go that is held, and takes what comes of it; the opcodes of all answers.
    fn let_go(&mut self, link: usize) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            self.volume.answer(0);
            self.drive.deliver();
            let found = answers(&self.drive.drain(link));
            if found.is_empty() && self.volume.held() == 0 {
                return all;
            }
            all.extend(found.iter().map(super::super::bench::Answer::opcode));
        }
    }
}

#[test]
fn data_that_comes_unasked_is_counted_and_beyond_a_bound_turned_away() {
    let mut bench = Bench::new();
    let link = bench.login(HOST, 1, "InitialR2T=No\0FirstBurstLength=262144\0").0;
    bench.volume.state.lock().hold = true;
    for itt in 0..64 {
        assert_eq!(bench.write_much(link, itt, 256 << 10, 256 << 10), [], "{itt}");
    }
    assert!((16 << 20..17 << 20).contains(&bench.memory(link)));
    assert_eq!(bench.write_much(link, 64, 256 << 10, 256 << 10), [(0x21, FULL)]);
    assert_eq!(bench.volume.held(), 64, "it never got to the volume");
    let ready = bench.command(0x80, 70, 0, &[0; 6]);
    assert_eq!(bench.ask(link, &ready)[0].sense(), (0, 0, 0, 0), "commands without data go on");
    assert_eq!(bench.let_go(link).len(), 64);
    bench.volume.state.lock().hold = false;
    assert_eq!(bench.write_much(link, 71, 256 << 10, 256 << 10), [(0x21, 0)]);
    assert!(bench.memory(link) < 64 << 10, "{}", bench.memory(link));
}

#[test]
fn a_task_that_is_turned_away_still_has_its_data_taken() {
    let mut bench = Bench::configured(|config| config.memory_bytes_max = 0);
    let link = bench.login(HOST, 1, "InitialR2T=No\0").0;
    bench.volume.state.lock().hold = true;
    assert_eq!(bench.read_much(link, 1, 2 * MIB), [], "who holds nothing is served");
    let command = bench.command(0x20, 9, 1024, &cdb(0x8a, 1024)).data(&[1; 512]);
    assert!(bench.ask(link, &command).is_empty(), "the rest is still to come");
    let data = Pdu::new(0x05, 0x80, 9).word(20, u32::MAX).word(40, 512).data(&[1; 512]);
    let found = bench.ask(link, &data);
    assert_eq!((found[0].opcode(), found[0].head[3], found[0].head[1] & 6), (0x21, FULL, 2));
    assert_eq!(found[0].word(44), 1024, "nothing was moved");
    bench.let_go(link);
    bench.volume.state.lock().hold = false;
    assert_eq!(bench.read(link, 10, 0, 2)[0].data, [0; 1024]);
}

#[test]
fn above_the_servers_limit_those_that_hold_little_go_on() {
    let mut bench = Bench::configured(|config| config.memory_bytes_max = 4 << 20);
    let greedy = bench.session();
    bench.volume.state.lock().hold = true;
    assert_eq!(bench.read_much(greedy, 1, 8 * MIB), []);
    assert_eq!(bench.read_much(greedy, 2, 8 * MIB), [(0x21, FULL)]);
    let next = bench.cmd_sn;
    bench.cmd_sn = 1;
    let modest = bench.login(OTHER, 1, "").0;
    let read = bench.command(0xc0, 5, 4096, &cdb(0x88, 4096)).byte(9, 5);
    assert!(bench.ask(modest, &read).is_empty(), "its command is under way");
    assert_eq!(bench.volume.held(), 2);
    bench.cmd_sn = next;
    bench.let_go(greedy);
    bench.drive.drain(modest);
    assert_eq!(bench.drive.target().budget.used(), bench.memory(greedy) + bench.memory(modest));
    bench.volume.state.lock().hold = false;
    assert!(bench.read_much(greedy, 3, 8 * MIB).len() > 1, "there is room again");
    for link in [greedy, modest] {
        bench.drive.get(link).expect("open").hang_up();
    }
    bench.drive.deliver();
    assert_eq!(bench.drive.target().budget.used(), 0);
}

#[test]
fn what_a_command_reads_for_itself_is_counted_too() {
    let mut bench = Bench::new();
    let link = bench.session();
    bench.volume.state.lock().hold = true;
    for itt in 0..6 {
        let verify = bench.command(0x80, itt, 0, &cdb(0x8f, 8 * MIB));
        assert!(bench.ask(link, &verify).is_empty());
    }
    assert_eq!(bench.volume.held(), 4, "four of 8 MiB fit");
    assert_eq!(bench.let_go(link), [0x21; 6]);
}

#[test]
fn commands_that_wait_for_room_are_all_served_in_the_end() {
    let mut bench = Bench::new();
    let link = bench.login(HOST, 1, "InitialR2T=No\0MaxRecvDataSegmentLength=262144\0").0;
    let writes = 100;
    let asked = |r2t: &super::super::bench::Answer| (r2t.word(16), r2t.word(20), r2t.word(40), r2t.word(44));
    let mut ready = Vec::new();
    for itt in 0..writes {
        let command = bench.command(0xa0, itt, MIB, &cdb(0x8a, MIB)).data(&[7; 64 << 10]);
        let found = bench.ask(link, &command);
        ready.extend(found.iter().map(asked));
    }
    assert_eq!(ready.len(), 32, "as many as fit were asked for their data");
    let mut done = 0;
    while let Some((itt, ttt, offset, length)) = ready.pop() {
        let mut data = Pdu::new(0x05, 0x80, itt).word(20, ttt);
        for (sn, from) in (0..length).step_by(256 << 10).enumerate() {
            let to = length.min(from + (256 << 10));
            data = data.word(36, sn as u32).word(40, offset + from).data(&vec![7; (to - from) as usize]);
            data.head[1] = if to == length { 0x80 } else { 0 };
            for answer in bench.ask(link, &data) {
                match answer.opcode() {
                    0x31 => ready.push(asked(&answer)),
                    _ => done += u32::from(answer.head[3] == 0),
                }
            }
        }
    }
    assert_eq!(done, writes);
    assert!(bench.memory(link) < 64 << 10);
}

/// In one receive come very many requests, and each answer may be a hundred times as long as its request.
#[test]
fn short_requests_for_long_answers_are_turned_away_while_too_much_is_unread() {
    const LIMIT: usize = 8 << 20;
    let mut bench = Bench::configured(|config| {
        let portals = (0..1000u32).map(|n| ([10, 0, (n >> 8) as u8, n as u8], 3260).into());
        config.partner_portals = portals.collect();
    });
    let link = bench.session();
    let ask = |itt| Pdu::new(0x44, 0x80, itt).word(20, u32::MAX).data(b"SendTargets=\0");
    let flood: Vec<u8> = (0..2000).flat_map(|itt| ask(itt).bytes()).collect();
    bench.drive.feed(link, &flood);
    let rejects = 2000 * 96;
    assert!((LIMIT..LIMIT + (64 << 10) + rejects).contains(&bench.memory(link)), "{}", bench.memory(link));
    // The answers of the device server are not counted in the window either.
    let opcodes = |bench: &mut Bench, itt| {
        let cdb = [0xa3, 0x0c, 0x80, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
        bench.command(0xc0, itt, 65_535, &cdb)
    };
    let many: Vec<u8> = (0..100).flat_map(|itt| opcodes(&mut bench, 5000 + itt).bytes()).collect();
    bench.drive.feed(link, &many);
    let inquiry = bench.command(0xc0, 6000, 255, &[0x12, 0, 0, 0, 0xff, 0]);
    let found = bench.ask(link, &inquiry);
    let texts: Vec<_> = found.iter().filter(|answer| matches!(answer.opcode(), 0x24 | 0x3f)).collect();
    assert_eq!(texts.len(), 2000, "each is answered");
    let served = texts.iter().position(|answer| answer.opcode() == 0x3f).expect("too many");
    assert!(served > 100 && texts[served..].iter().all(|answer| answer.head[..3] == [0x3f, 0x80, 0x0a]));
    let full = found.iter().filter(|answer| (answer.opcode(), answer.head[3]) == (0x21, FULL)).count();
    assert_eq!(full, 100, "and so are commands");
    let last = found.last().expect("the inquiry's");
    assert!(last.opcode() == 0x25 && last.head[1] & 1 == 1, "what is short is given");
    // It has read all of it.
    assert_eq!(bench.ask(link, &ask(1))[0].opcode(), 0x24);
    let again = opcodes(&mut bench, 7000);
    let found = bench.ask(link, &again);
    assert!(found[0].opcode() == 0x25 && found[0].data.len() > 256);
}

#[test]
fn a_login_holds_little_however_it_is_drawn_out() {
    let mut bench = Bench::new();
    let fixed = size_of::<super::super::Connection>();
    let shapes: [&dyn Fn(u32) -> (u8, Vec<u8>); 3] = [
        &|n| (0x40, vec![b'a' + (n % 26) as u8; 1000]),
        &|n| (0x00, format!("InitiatorName={HOST}\0X-key-number-{n}=1\0").into_bytes()),
        &|n| (0x00, format!("X-{n}-{}=Reject\0", "k".repeat(50)).into_bytes()),
    ];
    for shape in shapes {
        let link = bench.drive.connect();
        for n in 0..70 {
            let (flags, text) = shape(n);
            bench.drive.feed(link, &Pdu::new(0x43, flags, 1).data(&text).bytes());
            let Some(connection) = bench.drive.get(link) else { break };
            let held = fixed + connection.memory_bytes();
            assert!(held <= 16 << 10, "{held} bytes");
        }
    }
    // A length that is only claimed.
    let link = bench.drive.connect();
    let mut head = Pdu::new(0x43, 0x40, 1).data(&[0; 8192]).bytes();
    head.truncate(48);
    bench.drive.feed(link, &head);
    assert!(fixed + bench.memory(link) <= 16 << 10);
}
