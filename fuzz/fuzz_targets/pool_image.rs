//! A pool whose metadata are damaged.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = twinsan::pool::open_arbitrary(input);
});
