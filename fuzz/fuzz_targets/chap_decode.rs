//! Values of CHAP_R and CHAP_C.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    twinsan_iscsi::fuzz::chap_decode(input);
});
