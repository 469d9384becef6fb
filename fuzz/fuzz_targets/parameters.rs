//! Parameter lists of SCSI commands.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    twinsan_iscsi::fuzz::parameters(input);
});
