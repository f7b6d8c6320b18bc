//! Installs what quiz and its tests need on this host.

use std::process::Command;

use quiz_image::host::{self, Distribution, Family, Purpose, Search, Sign};

use crate::steps::check;

/// Installs every missing host program; says what to do where that is not Debian's way.
pub fn setup() -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let search = Search::new(&path);
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
    let missing = host::missing(&purposes, arch, &|sign: Sign| search.has(sign));
    // The tests sign what they serve.
    let gpg = search.has(Sign::Program("gpg"));
    if missing.is_empty() && gpg {
        return Ok(());
    }
    let text = fs_err::read_to_string("/etc/os-release").unwrap_or_default();
    let distribution = Distribution::from_os_release(&text);
    if distribution.family != Some(Family::Debian) {
        return Err(format!("install what is missing first: {}", host::install_hint(&distribution, &missing)));
    }
    let mut packages: Vec<&str> = missing.iter().filter_map(|tool| tool.package(Family::Debian)).collect();
    if !gpg {
        packages.push("gnupg");
    }
    packages.sort_unstable();
    packages.dedup();
    eprintln!("xtask: installing {}", packages.join(" "));
    check(apt_get().arg("update").arg("-qq"))?;
    check(apt_get().args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages))
}

fn apt_get() -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("apt-get");
        sudo
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
