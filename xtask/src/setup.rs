//! Installs the host programs that quiz, its tests and its benchmarks need.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use quiz_arch::Arch;
use quiz_host::tools::{self, Distribution, Family, Search, Sign, Tool};
use quiz_needs::Purpose;

use crate::packages::{self, Plan, as_root};
use crate::qemu;
use crate::sh::check;

/// The Debian release whose QEMU the tests use if none can be installed: the oldest QEMU that quiz
/// supports.
const RELEASE: &str = "bookworm";

/// The everyday purposes of quiz, for guests of the host's architecture.
fn everyday() -> Vec<Purpose> {
    let arch = quiz_arch::host();
    vec![
        Purpose::Run(arch),
        Purpose::KernelAdd,
        Purpose::KernelBuild(arch),
        Purpose::RootBuild(arch),
        Purpose::ZfsBuild,
        Purpose::ZfsTest,
        Purpose::Debug,
    ]
}

fn for_guests_of(arch: &'static Arch) -> [Purpose; 6] {
    [
        Purpose::Run(arch),
        Purpose::RootBuild(arch),
        Purpose::Emulate(arch),
        Purpose::KernelBuild(arch),
        Purpose::Agent(arch),
        Purpose::ZfsCross(arch),
    ]
}

/// Installs every missing host program for guests of the host's architecture.
///
/// # Errors
/// Fails if programs are still missing afterwards; names them and the ways to get them.
pub fn setup() -> Result<(), String> {
    install(&everyday())
}

/// Installs what guests of the host's architecture and of `archs` need. With `tests`, also installs
/// what the tests and benchmarks need.
///
/// # Errors
/// As for [`setup`].
pub fn all(tests: bool, archs: &[String]) -> Result<(), String> {
    let mut purposes = everyday();
    if tests {
        purposes.extend([Purpose::KernelGit, Purpose::Test, Purpose::Bench]);
    }
    install(&purposes)?;
    for name in archs {
        foreign(quiz_arch::find(name).ok_or_else(|| format!("`{name}` is no architecture that quiz knows"))?)?;
    }
    Ok(())
}

/// Installs what the benchmarks need.
///
/// # Errors
/// As for [`setup`].
pub fn for_benches() -> Result<(), String> {
    install(&[everyday(), vec![Purpose::Test, Purpose::Bench]].concat())
}

/// Installs what fuzzing needs.
///
/// # Errors
/// As for [`setup`].
pub fn for_fuzzing() -> Result<(), String> {
    install(&[Purpose::Fuzz])
}

/// Installs what is missing for running guests of `arch`, and for making their kernels and roots.
///
/// # Errors
/// As for [`setup`].
pub fn foreign(arch: &'static Arch) -> Result<(), String> {
    let purposes = for_guests_of(arch);
    install(&purposes)?;
    // Registrations are lost at each boot, unless a service makes them.
    register_emulator(arch);
    Ok(())
}

/// Installs what the tests need, also with guests of `archs`. Returns the `PATH` for the tests. If
/// apt would have to remove a package to install a QEMU, the tests use one that is only unpacked.
///
/// # Errors
/// As for [`setup`].
pub fn for_tests(archs: &[&str]) -> Result<OsString, String> {
    let archs: Vec<&'static Arch> = archs.iter().filter_map(|name| quiz_arch::find(name)).collect();
    let mut purposes = [everyday(), vec![Purpose::KernelGit, Purpose::Test, Purpose::Bench]].concat();
    purposes.extend(archs.iter().flat_map(|arch| for_guests_of(arch)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let lacking = missing(&purposes);
    let plan = plan(&lacking)?;
    let (emulators, others): (Vec<_>, Vec<_>) =
        plan.refused.iter().cloned().partition(|(package, _)| package.starts_with("qemu-system-"));
    if !others.is_empty() {
        return Err(refusal(&Plan { refused: others, ..plan }));
    }
    packages::install(&plan.install)?;
    archs.iter().for_each(|arch| register_emulator(arch));
    if emulators.is_empty() {
        ensure(&purposes)?;
        return Ok(path);
    }
    for (package, reason) in &emulators {
        eprintln!("xtask: not installing {package}: {reason}; the tests use one that is only unpacked");
    }
    let all: Vec<&'static Arch> = std::iter::once(quiz_arch::host()).chain(archs).collect();
    let unpacked = qemu::unpacked(RELEASE, &all)?;
    let dirs = std::iter::once(unpacked).chain(std::env::split_paths(&path));
    std::env::join_paths(dirs).map_err(|e| e.to_string())
}

/// Installs what is missing for `purposes`; the error names the cause and a solution.
fn install(purposes: &[Purpose]) -> Result<(), String> {
    let plan = plan(&missing(purposes))?;
    if !plan.refused.is_empty() {
        return Err(refusal(&plan));
    }
    packages::install(&plan.install)?;
    ensure(purposes)?;
    usable_qemu(&search())
}

/// The oldest QEMU that quiz supports.
const OLDEST_QEMU: (u32, u32) = (7, 2);

/// Fails if the host's QEMU is too old. Any newer QEMU is used.
fn usable_qemu(search: &Search) -> Result<(), String> {
    let Some(program) = search.program(quiz_arch::host().qemu) else { return Ok(()) };
    let output = Command::new(&program).arg("--version").output().map_err(|e| format!("{}: {e}", program.display()))?;
    match version(&String::from_utf8_lossy(&output.stdout)) {
        Some(found) if found < OLDEST_QEMU => Err(format!(
            "{} is QEMU {}.{}, and quiz needs {}.{} or later: `cargo xtask qemu --help` unpacks one; put its directory first in PATH",
            program.display(),
            found.0,
            found.1,
            OLDEST_QEMU.0,
            OLDEST_QEMU.1
        )),
        _ => Ok(()),
    }
}

/// Reads `QEMU emulator version 7.2.22 (Debian …)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_once("version ")?.1.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn search() -> Search {
    Search::new(&std::env::var_os("PATH").unwrap_or_default())
}

/// The missing tools that a package contains. An emulator's registration is made afterwards, if
/// possible.
fn missing(purposes: &[Purpose]) -> Vec<Tool> {
    let search = search();
    let present = |sign: Sign| match sign {
        Sign::Emulator(_) => {
            // A registration stays when the emulator is removed, and is lost at the next boot.
            search.has(sign) || search.has(Sign::Program("update-binfmts"))
        }
        _ => search.has(sign),
    };
    quiz_needs::missing(purposes, quiz_arch::host(), present)
}

/// Fails if a tool is still missing after the installation.
fn ensure(purposes: &[Purpose]) -> Result<(), String> {
    let names: Vec<&str> = missing(purposes).iter().map(|tool| tool.name()).collect();
    if names.is_empty() {
        Ok(())
    } else {
        Err(format!("the packages are installed, but still missing: {}", names.join(", ")))
    }
}

/// The packages that apt has to install so that this host has `tools`.
fn plan(tools: &[Tool]) -> Result<Plan, String> {
    if tools.is_empty() {
        return Ok(Plan::default());
    }
    let text = fs_err::read_to_string("/etc/os-release").unwrap_or_default();
    let distribution = Distribution::from_os_release(&text);
    if distribution.family != Some(Family::Debian) {
        return Err(format!("install what is missing first: {}", tools::install_hint(&distribution, tools)));
    }
    let names = tools.iter().filter_map(|tool| tool.package(Family::Debian)).flat_map(|names| names.split(' '));
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    packages::update()?;
    packages::plan(&names)
}

/// The error for packages that cannot be added: their names, the reasons and what the user can do.
/// Nothing was installed.
fn refusal(plan: &Plan) -> String {
    let names: Vec<&str> = plan.refused.iter().map(|(name, _)| name.as_str()).collect();
    let mut text = "set-up stops, because it never removes or downgrades a package:\n".to_owned();
    for (name, reason) in &plan.refused {
        text += &format!("  {name}: {reason}\n");
    }
    text += &format!(
        "choose one, then run this again:\n  let apt do it:         sudo apt-get install --no-install-recommends {}\n",
        names.join(" ")
    );
    text += "  fit the installed one: add the release that your newer packages come from (such as bookworm-backports) to apt's sources\n";
    if names.iter().any(|name| name.starts_with("qemu-system-")) {
        text += "  install nothing:       `cargo xtask qemu --help` unpacks a QEMU into quiz's cache; put its directory into PATH\n";
    }
    text
}

/// Registers user-mode emulation of `arch` with the kernel, if it is installed but not registered:
/// mmdebstrap makes roots faster than a VM does. If that is impossible, as in most containers, quiz
/// makes roots in a VM.
fn register_emulator(arch: &Arch) {
    let registration = Path::new(tools::BINFMT_MISC).join(arch.user_mode);
    if registration.exists() || !search().has(Sign::Program("update-binfmts")) {
        return;
    }
    let mount = || check(as_root("mount").args(["-t", "binfmt_misc", "none", tools::BINFMT_MISC]));
    let is_mounted = Path::new(tools::BINFMT_MISC).join("register").exists();
    let registered = if is_mounted { Ok(()) } else { mount() };
    let registered = registered.and_then(|()| check(as_root("update-binfmts").arg("--enable").arg(arch.user_mode)));
    if registered.is_err() || !registration.exists() {
        eprintln!("xtask: this host does not run programs of {}; quiz makes their roots in a VM", arch.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_that_is_too_old_is_named_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let qemu = dir.path().join(quiz_arch::host().qemu);
        let says = |version: &str| {
            quiz_testing::place::write_program(&qemu, &format!("#!/bin/sh\necho 'QEMU emulator version {version}'\n"));
            usable_qemu(&Search::new(dir.path().as_os_str()))
        };
        let error = says("5.2.0 (Debian 1:5.2+dfsg-11)").unwrap_err();
        assert!(
            error.contains("QEMU 5.2") && error.contains("7.2 or later") && error.contains("xtask qemu"),
            "{error}"
        );
        assert_eq!(says("7.2.22 (Debian 1:7.2+dfsg-7)"), Ok(()));
        assert_eq!(says("11.0.0"), Ok(()));
    }

    #[test]
    fn a_refusal_names_the_packages_the_reasons_and_the_choices() {
        let reason = "apt would remove qemu-utils 1:10.0.2+ds-2+deb13u1~bpo12+1";
        let plan = Plan { install: Vec::new(), refused: vec![("qemu-system-x86".to_owned(), reason.to_owned())] };
        let text = refusal(&plan);
        for part in
            [reason, "apt-get install --no-install-recommends qemu-system-x86", "apt's sources", "cargo xtask qemu"]
        {
            assert!(text.contains(part), "{text}");
        }
        let plan = Plan { refused: vec![("flex".to_owned(), "apt would remove bison".to_owned())], ..plan };
        assert!(!refusal(&plan).contains("xtask qemu"));
    }
}
