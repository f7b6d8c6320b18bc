//! quiz with real VMs: what users are promised, tried from outside.
//!
//! These tests need QEMU and the network for a first kernel and root (`cargo xtask setup` installs
//! what is missing). They fail, and are not skipped, where something is not there.

mod vm {
    mod artifacts;
    mod bisect;
    mod history;
    mod inside;
    mod looking;
    mod many;
    mod promises;
    mod shares;
    mod streams;
    mod terminal;
    mod verdicts;
    mod watching;
}

use quiz_testing::Sandbox;

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_quiz"))
}
