//! Bytes from an initiator to a connection.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    twinsan_iscsi::fuzz::pdu_stream(input);
});
