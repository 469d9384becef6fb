//! The parameter list of EXTENDED COPY.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    twinsan_iscsi::fuzz::copy_list(input);
});
