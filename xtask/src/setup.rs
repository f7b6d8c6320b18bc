//! Installs what quiz and its tests need on this host.

use std::path::Path;
use std::process::Command;

use quiz_arch::Arch;
use quiz_image::host::{self, Distribution, Family, Purpose, Search, Sign};

use crate::steps::check;

/// Installs every host program that is missing for guests of the host's architecture; says what to do where that is not Debian's way.
pub fn setup() -> Result<(), String> {
    let arch = quiz_arch::host();
    let purposes = [
        Purpose::Run(arch),
        Purpose::KernelAdd,
        Purpose::KernelBuild(arch),
        Purpose::RootBuild(arch),
        Purpose::ZfsBuild,
        Purpose::ZfsTest,
        Purpose::Debug,
    ];
    // The tests sign what they serve.
    install(&purposes, &[("gpg", "gnupg")])
}

/// Installs what is missing to run guests of `arch`, and to make their kernels and roots.
pub fn foreign(arch: &'static Arch) -> Result<(), String> {
    let purposes = [
        Purpose::Run(arch),
        Purpose::RootBuild(arch),
        Purpose::KernelBuild(arch),
        Purpose::Agent(arch),
        Purpose::ZfsCross(arch),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let lacks = || {
        let search = Search::new(&path);
        host::missing(&purposes, quiz_arch::host(), &|sign: Sign| search.has(sign))
    };
    if lacks().is_empty() {
        return Ok(());
    }
    // Registrations are gone with each boot, where no service makes them.
    if Search::new(&path).has(Sign::Program("update-binfmts")) {
        register_emulators()?;
    }
    install(&purposes, &[])?;
    register_emulators()?;
    let missing = lacks();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|tool| tool.name()).collect();
    Err(format!("installed what there is, and still there is no {}", names.join(", ")))
}

/// Has the kernel start user-mode emulation for programs of other architectures, where that is installed and nobody has done it.
fn register_emulators() -> Result<(), String> {
    if !Path::new("/proc/sys/fs/binfmt_misc/register").exists() {
        check(as_root("mount").args(["-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc"]))?;
    }
    check(as_root("update-binfmts").arg("--enable"))
}

/// Installs what is missing for `purposes`, and those of the `programs` (with their packages) that are missing.
pub fn install(purposes: &[Purpose], programs: &'static [(&'static str, &'static str)]) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let search = Search::new(&path);
    let missing = host::missing(purposes, quiz_arch::host(), &|sign: Sign| search.has(sign));
    let others = programs.iter().filter(|(program, _)| !search.has(Sign::Program(program)));
    let mut packages: Vec<&str> = others.map(|(_, package)| *package).collect();
    if missing.is_empty() && packages.is_empty() {
        return Ok(());
    }
    let text = fs_err::read_to_string("/etc/os-release").unwrap_or_default();
    let distribution = Distribution::from_os_release(&text);
    if distribution.family != Some(Family::Debian) {
        return Err(format!("install what is missing first: {}", host::install_hint(&distribution, &missing)));
    }
    packages.extend(missing.iter().filter_map(|tool| tool.package(Family::Debian)).flat_map(|names| names.split(' ')));
    packages.sort_unstable();
    packages.dedup();
    eprintln!("xtask: installing {}", packages.join(" "));
    check(apt_get().arg("update").arg("-qq"))?;
    check(apt_get().args(["install", "-y", "-qq", "--no-install-recommends"]).args(&packages)).map_err(|_| {
        format!("apt-get could not install {} on {} (it has said why)", packages.join(" "), distribution.name)
    })
}

fn apt_get() -> Command {
    let mut command = as_root("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(host::in_sbin(program));
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    sudo
}
