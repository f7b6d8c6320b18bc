//! The kernels that tests run on. The first time takes minutes; then they are in the user's cache.

use serde_json::Value;

use crate::{Ran, Sandbox};

/// Debian's source package, since Debian's mirror is what tests need anyway.
const PACKAGE: &str = "linux-source-6.12";
const SUITE: &str = "bookworm";
/// Whether the guest's kernel has what dumps of its memory need, the last thing that an older quiz
/// did not give it.
const IS_RECENT: &str = "zcat /proc/config.gz | grep -q ^CONFIG_FW_CFG_SYSFS=y || exit 3";

/// A kernel that quiz has built, with what `profiles` need: built now if there is none, or if the
/// one that there is was built before quiz gave kernels all of that. Its name, since a stock kernel
/// of the same version may be newer.
///
/// # Panics
/// If it cannot be built.
pub fn built(sandbox: &Sandbox, profiles: &str) -> &'static str {
    let try_it = |name: &str| sandbox.quiz(["-p", profiles, "-k", name, "--timeout", "1m", "sh", "-c", IS_RECENT]);
    if let Some(name) = name_of_built(sandbox) {
        let ran = try_it(name);
        let lacks = ran.code == 125 && ran.stderr.contains(" lacks ");
        if !lacks && ran.code != 3 {
            assert_eq!(ran.code, 0, "{}", ran.stderr);
            return name;
        }
    }
    build(sandbox);
    let name = name_of_built(sandbox).expect("it was just built");
    let ran = try_it(name);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    name
}

/// The name of the kernel that [`built`] has made sure of.
///
/// # Panics
/// If it is not there.
pub fn name(sandbox: &Sandbox) -> &'static str {
    name_of_built(sandbox).expect("a kernel that quiz has built")
}

/// The name of the plain kernel for this host that was built of [`PACKAGE`], if there is one.
fn name_of_built(sandbox: &Sandbox) -> Option<&'static str> {
    let listed = sandbox.quiz(["--json", "kernel", "list"]);
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    let kernels: Vec<Value> = serde_json::from_str(&listed.out()).expect("a list of kernels");
    let is_it = |kernel: &&Value| {
        kernel["origin"]["package"] == PACKAGE
            && kernel["variant"].is_null()
            && kernel["arch"] == std::env::consts::ARCH
    };
    let name = kernels.iter().find(is_it)?["name"].as_str()?;
    Some(Box::leak(name.to_owned().into_boxed_str()))
}

/// Has that kernel built, unless it is there with all the same inputs.
///
/// # Panics
/// If it cannot be built.
pub fn build(sandbox: &Sandbox) -> Ran {
    let built = sandbox.quiz(["kernel", "build", PACKAGE, "--release", SUITE]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    built
}

/// The variant of the built kernel, built now if it is not there. What `-k` takes.
///
/// # Panics
/// If it cannot be built.
pub fn variant(sandbox: &Sandbox, name: &str) -> String {
    let selector = format!("6.12-{name}");
    if sandbox.quiz(["kernel", "show", &selector]).code != 0 {
        let built = sandbox.quiz(["kernel", "build", PACKAGE, "--release", SUITE, "--variant", name]);
        assert_eq!(built.code, 0, "{}", built.stderr);
    }
    selector
}

/// The distribution's own kernel, added now if it is not there. What `-k` takes.
///
/// # Panics
/// If it cannot be had.
pub fn stock(sandbox: &Sandbox) -> &'static str {
    if sandbox.quiz(["-k", "6.1", "--timeout", "1m", "true"]).code != 0 {
        let added = sandbox.quiz(["kernel", "add", "--release", "bookworm"]);
        assert_eq!(added.code, 0, "{}", added.stderr);
    }
    "6.1"
}

/// The beginning of the name of an architecture's stock kernel. What `-k` takes.
pub fn stock_name(arch: &str) -> &'static str {
    // The release that has the architecture has another kernel.
    if arch == "riscv64" { "6.12" } else { "6.1" }
}

/// The distribution's own kernel for another architecture, added now if it is not there.
///
/// # Panics
/// If it cannot be had.
pub fn stock_of(sandbox: &Sandbox, arch: &str) {
    let there = sandbox.quiz(["-a", arch, "-k", stock_name(arch), "--timeout", "3m", "true"]);
    if there.code != 0 {
        let added = sandbox.quiz(["kernel", "add", "-a", arch]);
        assert_eq!(added.code, 0, "{}", added.stderr);
    }
}
