//! What is kept of reservations, and orders of PERSISTENT RESERVE OUT.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    twinsan_iscsi::fuzz::reservations(input);
});
