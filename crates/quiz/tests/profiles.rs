//! Profiles in real VMs: quiz's own, and those that users make.
//!
//! These tests need QEMU and the network for a first kernel and for roots with the profiles'
//! packages (`cargo xtask setup` installs what is missing). They fail, and are not skipped, where
//! something is not there.

mod profiles {
    mod arrays;
    mod disks;
    mod faults;
    mod network;
    mod own;
    mod windows;
}

use quiz_testing::{Ran, Sandbox, kernels};

/// A sandbox, with the kernel that these tests run on in its cache.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    kernels::built(&sandbox, "memdev");
    sandbox
}

/// Runs a script of the guest's shell with profiles, on the kernel that quiz has built, and a limit
/// that nothing here comes near.
fn run(sandbox: &Sandbox, profiles: &str, script: &str) -> Ran {
    run_on(sandbox, kernels::name(sandbox), profiles, script)
}

fn run_on(sandbox: &Sandbox, kernel: &str, profiles: &str, script: &str) -> Ran {
    sandbox.quiz(["-k", kernel, "--timeout", "2m", "-p", profiles, "sh", "-euc", script])
}

/// Its output, if it ended well.
fn output(ran: &Ran) -> String {
    assert_eq!(ran.code, 0, "{}\n{}", ran.out(), ran.stderr);
    ran.out()
}
