//! Logins to a target that asks for CHAP.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    twinsan_iscsi::fuzz::login_text(input);
});
