//! The fuzzer's seeds, run as ordinary tests.

#![expect(clippy::disallowed_methods, reason = "reads the seeds from the disk")]

use std::path::Path;

fn each(target: &str, run: impl Fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(seeds).expect("the corpus is part of the repository") {
        run(&std::fs::read(entry.expect("a directory can be listed").path()).expect("a seed can be read"));
        count += 1;
    }
    assert!(count >= 5, "{count} seeds of {target}");
}

#[test]
fn damaged_pools_are_refused_or_sound() {
    each("pool_image", |input| {
        let _ = twinsan::pool::open_arbitrary(input);
    });
}

#[test]
fn what_the_partner_sends_is_a_message_or_an_error() {
    each("mirror_frame", twinsan::mirror::wire::exercise);
}
