//! Simulates with apt what an installation would change on this host, and installs packages. Set-up
//! only adds packages: it never removes or downgrades one. It upgrades a package only if an added
//! package depends on the newer version.

use std::process::{Command, Stdio};

use quiz_host::tools;

use crate::sh::check;

/// Options of every installing call. The last one keeps apt from upgrading all packages of one
/// source together.
const INSTALL: &[&str] =
    &["install", "--no-install-recommends", "--no-remove", "-o", "APT::Get::Upgrade-By-Source-Package=false"];

/// The relevant part of apt's simulation output.
#[derive(Debug, Default, PartialEq, Eq)]
struct Simulation {
    /// Packages that would be removed, with their versions.
    removed: Vec<String>,
    /// Packages that would be downgraded, with both versions.
    downgraded: Vec<String>,
}

impl Simulation {
    fn only_adds(&self) -> bool {
        self.removed.is_empty() && self.downgraded.is_empty()
    }
}

/// Packages, sorted by whether apt can add them to the installed ones.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Arguments for apt: package names, some with a release
    /// (`qemu-system-x86/bookworm-backports`).
    pub install: Vec<String>,
    /// Packages that cannot be added, each with the reason.
    pub refused: Vec<(String, String)>,
}

/// Simulates with apt the installation of `packages`.
pub fn plan(packages: &[&str]) -> Result<Plan, String> {
    plan_with(packages, &releases()?, &mut simulate)
}

/// Plans all packages together if that only adds packages. Otherwise plans each one alone, from
/// another release in apt's lists if the preferred one conflicts.
fn plan_with(
    packages: &[&str],
    releases: &[String],
    simulate: &mut dyn FnMut(&[String]) -> Result<Simulation, String>,
) -> Result<Plan, String> {
    let mut plan = Plan { install: packages.iter().map(|name| (*name).to_owned()).collect(), refused: Vec::new() };
    if packages.is_empty() || simulate(&plan.install).is_ok_and(|all| all.only_adds()) {
        return Ok(plan);
    }
    plan.install.clear();
    for name in packages {
        let from_releases = releases.iter().map(|release| format!("{name}/{release}"));
        let mut reason = None;
        for candidate in std::iter::once((*name).to_owned()).chain(from_releases) {
            let together: Vec<String> = plan.install.iter().cloned().chain([candidate]).collect();
            match simulate(&together) {
                Ok(simulation) if simulation.only_adds() => {
                    plan.install = together;
                    reason = None;
                    break;
                }
                Ok(simulation) => _ = reason.get_or_insert_with(|| simulation.to_string()),
                Err(error) => _ = reason.get_or_insert(error),
            }
        }
        plan.refused.extend(reason.map(|reason| ((*name).to_owned(), reason)));
    }
    Ok(plan)
}

impl std::fmt::Display for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list =
            |verb: &str, packages: &[String]| (!packages.is_empty()).then(|| format!("{verb} {}", packages.join(", ")));
        let parts = [list("remove", &self.removed), list("downgrade", &self.downgraded)];
        write!(f, "apt would {}", parts.into_iter().flatten().collect::<Vec<_>>().join(" and "))
    }
}

/// Installs the packages of a plan.
pub fn install(names: &[String]) -> Result<(), String> {
    if names.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: installing {}", names.join(" "));
    check(apt_get().args(INSTALL).args(["-y", "-qq"]).args(names))
        .map_err(|_| format!("cannot install {}: apt-get failed (its own message is above)", names.join(" ")))
}

/// Updates the package lists.
pub fn update() -> Result<(), String> {
    check(apt_get().args(["update", "-qq"]))
}

fn apt_get() -> Command {
    let mut command = as_root("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// A command that runs the program as root, through sudo if necessary.
pub fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(tools::in_sbin(program));
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    sudo
}

fn simulate(names: &[String]) -> Result<Simulation, String> {
    // A simulation needs no privileges. Removals must be allowed, so that apt reports them.
    let mut command = Command::new("apt-get");
    command.args(INSTALL.iter().filter(|option| **option != "--no-remove")).arg("--simulate").args(names);
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(read_simulation(&String::from_utf8_lossy(&output.stdout)));
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("E: ")).collect();
    Err(errors.join("; "))
}

/// Reads `Remv NAME [OLD]` and `Inst NAME [OLD] (NEW …)`.
fn read_simulation(text: &str) -> Simulation {
    let mut simulation = Simulation::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(verb), Some(name)) = (words.next(), words.next()) else { continue };
        let old = words.next().and_then(|word| word.strip_prefix('[')?.strip_suffix(']'));
        match (verb, old) {
            ("Remv", old) => simulation.removed.push(format!("{name} {}", old.unwrap_or_default()).trim().to_owned()),
            ("Inst", Some(old)) => {
                let new = words.next().unwrap_or_default().trim_start_matches('(');
                if is_older(new, old) {
                    simulation.downgraded.push(format!("{name} {old} to {new}"));
                }
            }
            _ => {}
        }
    }
    simulation
}

/// Whether version `a` is older than `b`, by dpkg's rules.
fn is_older(a: &str, b: &str) -> bool {
    Command::new("dpkg").args(["--compare-versions", a, "lt", b]).status().is_ok_and(|status| status.success())
}

/// The releases in apt's lists, by code name, in apt's order of preference.
fn releases() -> Result<Vec<String>, String> {
    let output = Command::new("apt-cache").arg("policy").env("LC_ALL", "C").output().map_err(|e| e.to_string())?;
    Ok(read_releases(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads lines such as `release v=12,o=Debian
/// Backports,a=stable-backports,n=bookworm-backports,l=…`.
fn read_releases(policy: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for line in policy.lines().filter_map(|line| line.trim().strip_prefix("release ")) {
        let name = line.split(',').find_map(|field| field.trim().strip_prefix("n="));
        names.extend(name.filter(|name| !names.iter().any(|known| known == name)).map(str::to_owned));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_tells_what_would_be_lost() {
        let text = "NOTE: This is only a simulation!\nReading package lists...\n\
                    Remv qemu-utils [1:10.0.2+ds-2+deb13u1~bpo12+1]\nInst libudev1 [252.38-1~deb12u1] (252.39-1~deb12u2 Debian:12 [amd64])\n\
                    Inst libc6-dev [2.37-1] (2.36-9 Debian:12 [amd64]) []\nInst cpio (2.13+dfsg-7.1 Debian:12 [amd64])\nConf cpio (2.13)\n";
        let simulation = read_simulation(text);
        assert_eq!(simulation.removed, ["qemu-utils 1:10.0.2+ds-2+deb13u1~bpo12+1"]);
        assert_eq!(simulation.downgraded, ["libc6-dev 2.37-1 to 2.36-9"]);
        assert_eq!(
            simulation.to_string(),
            "apt would remove qemu-utils 1:10.0.2+ds-2+deb13u1~bpo12+1 and downgrade libc6-dev 2.37-1 to 2.36-9"
        );
        assert!(read_simulation("Inst cpio (2.13+dfsg-7.1 Debian:12 [amd64])\n").only_adds());
    }

    #[test]
    fn releases_are_known_by_their_code_names() {
        let policy = "Package files:\n 100 /var/lib/dpkg/status\n     release a=now\n 100 http://deb.debian.org/debian bookworm-backports/main amd64 Packages\n     \
                      release v=12,o=Debian Backports,a=stable-backports,n=bookworm-backports,l=Debian Backports,c=main,b=amd64\n 500 x\n     \
                      release v=12.15,o=Debian,a=oldstable,n=bookworm,l=Debian,c=main,b=amd64\n     release n=bookworm,c=contrib\n";
        assert_eq!(read_releases(policy), ["bookworm-backports", "bookworm"]);
    }

    #[test]
    fn what_conflicts_is_taken_from_another_release_or_refused_and_the_rest_is_installed() {
        // As on a host with newer QEMU tools, which QEMU of the preferred release would remove.
        let conflict = |names: &[String]| -> Result<Simulation, String> {
            let hurts = names.iter().any(|name| name == "qemu-system-arm" || name == "qemu-system-arm/bookworm");
            let removed = if hurts { vec!["qemu-utils 10.0".to_owned()] } else { Vec::new() };
            Ok(Simulation { removed, ..Simulation::default() })
        };
        let packages = ["flex", "qemu-system-arm", "bison"];
        let with = |releases: &[&str]| {
            let releases: Vec<String> = releases.iter().map(|name| (*name).to_owned()).collect();
            plan_with(&packages, &releases, &mut { conflict }).unwrap()
        };
        let both = with(&["bookworm", "bookworm-backports"]);
        assert_eq!(both.install, ["flex", "qemu-system-arm/bookworm-backports", "bison"]);
        assert_eq!(both.refused, []);
        let one = with(&["bookworm"]);
        assert_eq!(one.install, ["flex", "bison"]);
        assert_eq!(one.refused, [("qemu-system-arm".to_owned(), "apt would remove qemu-utils 10.0".to_owned())]);
        let unknown = |_: &[String]| Err("Unable to locate package nosuch".to_owned());
        let plan = plan_with(&["nosuch"], &[], &mut { unknown }).unwrap();
        assert_eq!(plan.refused, [("nosuch".to_owned(), "Unable to locate package nosuch".to_owned())]);
    }
}
