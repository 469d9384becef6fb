//! What is sent is what is received, however the bytes arrive.

use super::*;
use crate::guest::GuestError;
use crate::mirror::message::Control;
use crate::mirror::wire::{FRAME_BLOCKS_MAX, MESSAGE_BLOCKS_MAX, exercise};

#[derive(Clone, Debug)]
enum Sketch {
    Write { marks: Vec<u32>, origin: Option<u64> },
    Zero { blocks: u32 },
    Done { stored: bool },
    Forward { start: u64, count: u64, zero: bool, manner: u8 },
    Copy { marks: Vec<u32>, fresh: bool },
    Stable,
    Probe,
    Areas(Vec<u32>),
    Reply(Vec<u32>),
}

fn sketch() -> impl Strategy<Value = Sketch> {
    prop_oneof![
        4 => (marks(3), any::<Option<u64>>()).prop_map(|(marks, origin)| Sketch::Write { marks, origin }),
        1 => (marks(70), any::<Option<u64>>()).prop_map(|(marks, origin)| Sketch::Write { marks, origin }),
        1 => any::<u32>().prop_map(|blocks| Sketch::Zero { blocks }),
        4 => any::<bool>().prop_map(|stored| Sketch::Done { stored }),
        2 => (0u64..10_000, 0u64..200, any::<bool>(), 0u8..3)
            .prop_map(|(start, count, zero, manner)| Sketch::Forward { start, count, zero, manner }),
        2 => (marks(40), any::<bool>()).prop_map(|(marks, fresh)| Sketch::Copy { marks, fresh }),
        1 => Just(Sketch::Stable),
        1 => Just(Sketch::Probe),
        1 => prop::collection::vec(any::<u32>(), 0..9000).prop_map(Sketch::Areas),
        1 => marks(40).prop_map(Sketch::Reply),
    ]
}

fn message(pool: &PagePool, n: u64, sketch: &Sketch) -> Message {
    let (epoch, volume) = (Epoch(n << 40), VolumeId(n as u32));
    match sketch.clone() {
        Sketch::Write { marks, origin } => {
            let mut message = write(n, blocks(pool, marks));
            let Body::Write { origin: place, .. } = &mut message.body else { panic!() };
            *place = origin;
            message
        }
        Sketch::Zero { blocks } => Message {
            body: Body::Write {
                epoch,
                volume,
                order: n,
                first: n,
                blocks,
                zero: true,
                carried: false,
                origin: None,
            },
            data: Payload::new(),
        },
        Sketch::Done { stored } => {
            Message { body: Body::WriteDone { epoch, volume, order: n, stored }, data: Payload::new() }
        }
        Sketch::Forward { start, count, zero, manner } => {
            let at = Sectors::new(start, count);
            let manner = [Manner::Replace, Manner::IfEqual, Manner::Or][usize::from(manner)];
            let zero = zero && manner != Manner::Or;
            let carried = if zero { 0..0 } else { at.blocks() };
            let compared = if manner == Manner::IfEqual { at.blocks() } else { 0..0 };
            let data = carried.chain(compared).map(|block| block as u32 % 3);
            in_manner(forward(at, blocks(pool, data)), manner, zero)
        }
        Sketch::Copy { marks, fresh } => {
            let data = blocks(pool, marks);
            let blocks = data.len() as u32;
            Message { body: Body::Copy { epoch, volume, tag: n, first: n, blocks, zero: false, fresh }, data }
        }
        Sketch::Stable => Message { body: Body::CopyStable { epoch, tag: n }, data: Payload::new() },
        Sketch::Probe => Message::control(Control::Probe { epoch, sent: Instant::from_nanos(n) }),
        Sketch::Areas(areas) => Message::control(Control::Cool { epoch, volume, areas }),
        Sketch::Reply(marks) => Message {
            body: Body::Control(Control::ReadReply { epoch, id: n, error: Some(GuestError::Medium) }),
            data: blocks(pool, marks),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sent_is_received(
        sketches in prop::collection::vec(sketch(), 1..20),
        steps in prop::collection::vec(prop_oneof![1usize..100, 1usize..10_000, Just(usize::MAX)], 1..8),
        write_step in prop_oneof![1usize..5000, Just(usize::MAX)],
    ) {
        let pool = PagePool::new();
        let messages = || -> Vec<Message> {
            sketches.iter().enumerate().map(|(n, sketch)| message(&pool, n as u64, sketch)).collect()
        };
        let mut encoder = Encoder::new(SALT);
        let mut bytes = Vec::new();
        for message in messages() {
            encoder.push(message).unwrap();
            while encoder.unfinished() {
                encoder.go_on();
            }
            if encoder.bytes() > 20_000 {
                drain(&mut encoder, &mut bytes, write_step);
            }
        }
        drain(&mut encoder, &mut bytes, write_step);
        let (received, error) = decode(&pool, &bytes, &steps);
        prop_assert_eq!(error, None);
        assert_same(&messages(), &received);
    }

    #[test]
    fn no_input_makes_it_panic(input in prop::collection::vec(any::<u8>(), 0..3000)) {
        exercise(&input);
    }

    /// Kinds and lengths that mean something, bodies that do not.
    #[test]
    fn no_sealed_input_makes_it_panic(
        frames in prop::collection::vec(
            (1u8..8, 0u8..4, prop_oneof![Just(44u16), Just(24), Just(64), Just(36), Just(16), Just(0), 0u16..300],
             0u8..18, prop::collection::vec(prop_oneof![3 => Just(0u8), 2 => Just(1), 1 => any::<u8>()], 0..400)),
            1..6),
        pace in any::<u8>(),
    ) {
        let mut input = vec![pace];
        for (kind, more, body, blocks, bytes) in frames {
            input.extend([kind, more, body as u8, (body >> 8) as u8, blocks]);
            input.extend(bytes);
        }
        exercise(&input);
    }
}

#[test]
fn a_zero_block_costs_a_table_entry() {
    let pool = PagePool::new();
    let bytes = encode([write(1, blocks(&pool, [0, 5, 0]))]);
    assert_eq!(bytes.len(), 32 + 44 + 3 * 8 + BLOCK_BYTES);
}

#[test]
fn an_urgent_message_goes_between_the_frames_of_another() {
    let pool = PagePool::new();
    let long = || write(1, blocks(&pool, 0..100));
    let probe = || Message::control(Control::Probe { epoch: Epoch(1), sent: Instant::from_nanos(5) });
    let mut encoder = Encoder::new(SALT);
    encoder.push(long()).unwrap();
    encoder.push(probe()).unwrap();
    let mut frames = 1;
    while encoder.unfinished() {
        encoder.go_on();
        frames += 1;
    }
    assert_eq!(frames, 100usize.div_ceil(FRAME_BLOCKS_MAX));
    let mut bytes = Vec::new();
    drain(&mut encoder, &mut bytes, usize::MAX);
    let (received, error) = decode(&pool, &bytes, &[1000]);
    assert_eq!(error, None);
    assert_same(&[probe(), long()], &received);
}

#[test]
fn the_longest_message_fits_and_a_longer_one_is_refused() {
    let pool = PagePool::new();
    let long = write(1, blocks(&pool, (0..MESSAGE_BLOCKS_MAX as u32).map(|n| n % 2)));
    let bytes = encode([long.clone()]);
    let (received, error) = decode(&pool, &bytes, &[usize::MAX]);
    assert_eq!(error, None);
    assert_same(std::slice::from_ref(&long), &received);
    let mut longer = long;
    longer.data.push(Block::Zero);
    let Body::Write { blocks, .. } = &mut longer.body else { panic!() };
    *blocks += 1;
    assert_eq!(Encoder::new(SALT).push(longer), Err(WireError::Length));
}

#[test]
fn a_message_that_contradicts_itself_is_not_sent() {
    let pool = PagePool::new();
    let mut message = write(1, blocks(&pool, [1, 2]));
    message.data.pop();
    let mut encoder = Encoder::new(SALT);
    assert!(matches!(encoder.push(message), Err(WireError::Malformed(_))));
    let areas = vec![u32::MAX; 300_000];
    let too_long = Message::control(Control::Cool { epoch: Epoch(1), volume: VolumeId(1), areas });
    assert_eq!(encoder.push(too_long), Err(WireError::Length));
    assert_eq!(encoder.bytes(), 0);
    encoder.push(write(2, blocks(&pool, [3]))).unwrap();
    let mut bytes = Vec::new();
    drain(&mut encoder, &mut bytes, usize::MAX);
    assert_eq!(decode(&pool, &bytes, &[usize::MAX]).0.len(), 1);
}

#[test]
fn pages_received_as_expected_are_not_copied() {
    let pool = PagePool::new();
    for (count, most) in [(1, 4), (3, 6), (16, 16), (40, 16)] {
        let bytes = encode((0..100).map(|n| write(n, blocks(&pool, 1..=count))));
        let mut decoder = Decoder::new(SALT, pool.clone());
        let (mut rest, mut messages) = (bytes.as_slice(), 0);
        while !rest.is_empty() {
            decoder.receive(|slices| rest.read_vectored(slices)).unwrap();
            while decoder.next().unwrap().is_some() {
                messages += 1;
            }
        }
        assert_eq!(messages, 100);
        assert!(decoder.pages_copied() <= most, "{count}: {} copied", decoder.pages_copied());
    }
}

#[test]
fn no_memory_is_left_behind() {
    let (source, pool) = (PagePool::new(), PagePool::new());
    let bytes = encode((0..400).map(|n| write(n, blocks(&source, [n as u32 + 1]))));
    assert_eq!(decode(&pool, &bytes, &[usize::MAX]).0.len(), 400);
    let held = pool.bytes_held();
    for _ in 0..20 {
        assert_eq!(decode(&pool, &bytes, &[40_000, 3]).0.len(), 400);
    }
    assert!(pool.bytes_held() <= held + 256 * 1024, "{held} then {}", pool.bytes_held());
}
