//! Kernels for tests. The first use takes minutes; after that they are in the user's cache.

use serde_json::Value;

use crate::{Ran, Sandbox};

/// Debian's source package: the tests need Debian's mirror anyway.
const PACKAGE: &str = "linux-source-6.12";
const SUITE: &str = "bookworm";
/// Checks that the guest's kernel has what memory dumps need, the last feature that an older quiz
/// did not enable.
const IS_RECENT: &str = "zcat /proc/config.gz | grep -q ^CONFIG_FW_CFG_SYSFS=y || exit 3";

/// The name of a kernel that quiz has built, with what `profiles` need. It is built now if there is
/// none, or if it was built before quiz enabled all of that. Tests use its name because a stock
/// kernel of the same version may be newer.
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

/// The name of the kernel that [`built`] has provided.
///
/// # Panics
/// If it is missing.
pub fn name(sandbox: &Sandbox) -> &'static str {
    name_of_built(sandbox).expect("a kernel that quiz has built")
}

/// The name of the plain kernel for this host that was built from [`PACKAGE`], if there is one.
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

/// Builds that kernel, unless one with the same inputs exists.
///
/// # Panics
/// If it cannot be built.
pub fn build(sandbox: &Sandbox) -> Ran {
    let built = sandbox.quiz(["kernel", "build", PACKAGE, "--release", SUITE]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    built
}

/// The `-k` argument for a variant of the built kernel, which is built now if it is missing.
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

/// The `-k` argument for the distribution's own kernel, which is added now if it is missing.
///
/// # Panics
/// If it cannot be added.
pub fn stock(sandbox: &Sandbox) -> &'static str {
    if sandbox.quiz(["-k", "6.1", "--timeout", "1m", "true"]).code != 0 {
        let added = sandbox.quiz(["kernel", "add", "--release", "bookworm"]);
        assert_eq!(added.code, 0, "{}", added.stderr);
    }
    "6.1"
}

/// The beginning of the name of an architecture's stock kernel, for `-k`.
pub fn stock_name(arch: &str) -> &'static str {
    // The release that supports this architecture has a different kernel.
    if arch == "riscv64" { "6.12" } else { "6.1" }
}

/// Adds the distribution's own kernel for another architecture, if it is missing.
///
/// # Panics
/// If it cannot be added.
pub fn stock_of(sandbox: &Sandbox, arch: &str) {
    let there = sandbox.quiz(["-a", arch, "-k", stock_name(arch), "--timeout", "3m", "true"]);
    if there.code != 0 {
        let added = sandbox.quiz(["kernel", "add", "-a", arch]);
        assert_eq!(added.code, 0, "{}", added.stderr);
    }
}
