//! One target of `quiz-fuzz` for libFuzzer: the one that this program is called.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| quiz_fuzz::run(env!("CARGO_BIN_NAME"), input));
