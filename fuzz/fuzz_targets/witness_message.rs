//! Bytes between a node and the witness, to both.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    twinsan_witness::exercise(input);
});
