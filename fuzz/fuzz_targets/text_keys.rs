//! Keys negotiated in a login and in the full-feature phase.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    twinsan_iscsi::fuzz::text_keys(input);
});
