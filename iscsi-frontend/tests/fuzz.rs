//! The fuzzing entry points over the committed corpus, and over mutations of it by a seeded generator.

#[path = "common/random.rs"]
mod random;

use std::path::Path;

use random::Random;
use twinsan_iscsi::fuzz;

/// Mutations of each target. `FUZZ_ROUNDS` asks for more.
const ROUNDS: u64 = 4_000;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .expect("the corpus")
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

/// Flips, overwrites, repeats, cuts, and joins.
fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.index(seeds.len())].clone();
    for _ in 0..1 + random.index(6) {
        let at = random.index(bytes.len());
        match random.index(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.index(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.index(5)],
            3 => bytes.truncate(at),
            4 => {
                let other = &seeds[random.index(seeds.len())];
                bytes.extend_from_slice(other.get(1..).unwrap_or(&[]));
            }
            5 => {
                let end = at + random.index(bytes.len() - at + 1);
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                // A header field at its usual place in some PDU.
                let place = 1 + 48 * random.index(bytes.len() / 48 + 1) + random.index(48);
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = random.next() as u8;
                }
            }
        }
    }
    bytes.truncate(64 << 10);
    bytes
}

fn run(name: &str, target: fn(&[u8])) {
    let seeds = corpus(name);
    seeds.iter().for_each(|seed| target(seed));
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let mut random = Random(rounds);
    for round in 0..rounds {
        let input = mutate(&mut random, &seeds);
        let outcome = std::panic::catch_unwind(|| target(&input));
        assert!(outcome.is_ok(), "round {round}: {input:02x?}");
    }
}

#[test]
fn no_pdu_stream_breaks_a_connection() {
    run("pdu_stream", |input| {
        fuzz::pdu_stream(input);
    });
}

#[test]
fn no_login_text_gets_around_the_proof() {
    run("login_text", |input| {
        fuzz::login_text(input);
    });
}

#[test]
fn the_corpus_of_logins_gets_through_where_it_proves_who_it_is() {
    let through = corpus("login_text").iter().filter(|seed| fuzz::login_text(seed)).count();
    assert_eq!(through, 3);
}

#[test]
fn no_text_negotiates_what_cannot_be() {
    run("text_keys", |input| {
        fuzz::text_keys(input);
    });
}

#[test]
fn no_chap_value_is_decoded_to_what_it_does_not_say() {
    run("chap_decode", |input| {
        fuzz::chap_decode(input);
    });
}

#[test]
fn no_parameter_list_reaches_beyond_the_unit() {
    run("parameters", |input| {
        fuzz::parameters(input);
    });
}

#[test]
fn no_copy_reaches_what_its_host_does_not_see() {
    run("copy_list", |input| {
        fuzz::copy_list(input);
    });
}

#[test]
fn no_orders_break_reservations() {
    run("reservations", |input| {
        fuzz::reservations(input);
    });
}

/// A corpus that says nothing would pass as well.
#[test]
fn the_seeds_say_what_their_names_say() {
    let saying = |name: &str, says: fn(&[u8]) -> bool| corpus(name).iter().filter(|seed| says(seed)).count();
    assert_eq!(saying("text_keys", |seed| fuzz::text_keys(seed) > 0), 9);
    assert_eq!(saying("chap_decode", |seed| fuzz::chap_decode(seed).is_some()), 5);
    assert_eq!(saying("parameters", |seed| fuzz::parameters(seed) > 0), 7);
    assert_eq!(saying("copy_list", |seed| fuzz::copy_list(seed) > 0), 8);
    assert_eq!(saying("reservations", |seed| fuzz::reservations(seed) > 0), 8);
}

#[test]
fn no_command_breaks_the_device_server() {
    run("command", fuzz::command);
}

#[test]
fn the_corpus_reaches_the_full_feature_phase() {
    let answered = corpus("pdu_stream").iter().filter(|seed| fuzz::pdu_stream(seed) > 200).count();
    assert!(answered >= 10, "{answered} of the seeds were answered at length");
}
