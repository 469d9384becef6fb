//! Bytes from the partner on the mirror link.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    twinsan::mirror::wire::exercise(input);
});
