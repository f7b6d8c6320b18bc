//! Decides how to make a root on this host. mmdebstrap needs privileges and a host that runs the
//! guest's programs; a VM needs neither. The decision is pure; [`Facts::gather`] collects its
//! inputs.

use fs_err as fs;
use quiz_arch::Arch;
use quiz_host::tools::Search;
use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The builder of roots that the user chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Builder {
    /// mmdebstrap if it works, else a VM.
    #[default]
    Auto,
    /// mmdebstrap, on the host.
    Mmdebstrap,
    /// A VM of the root's architecture.
    Vm,
}

/// How a root is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By mmdebstrap, on the host.
    Mmdebstrap,
    /// Inside a VM of the root's architecture.
    Vm(Reason),
}

/// Why a root is made in a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The user asked for it.
    Asked,
    /// mmdebstrap is not installed.
    NoMmdebstrap,
    /// The user is not root and cannot become root in a namespace.
    Unprivileged(&'static str),
    /// arch-test, which mmdebstrap asks about foreign programs, is not installed.
    NoArchTest,
    /// The host does not run programs of this architecture, by quiz-arch's name.
    Foreign(&'static str),
    /// mmdebstrap was tried and failed.
    Failed(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Asked => write!(f, "asked for"),
            Reason::NoMmdebstrap => write!(f, "mmdebstrap is not installed"),
            Reason::Unprivileged(why) => write!(f, "mmdebstrap cannot work for an ordinary user here: {why}"),
            Reason::NoArchTest => {
                write!(f, "arch-test is not installed, which mmdebstrap needs for other architectures")
            }
            Reason::Foreign(arch) => write!(f, "this host does not run programs of {arch}, as mmdebstrap has to"),
            Reason::Failed(why) => write!(f, "mmdebstrap cannot work here: {why}"),
        }
    }
}

/// What this host offers of mmdebstrap's requirements for a root of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// mmdebstrap is installed.
    pub mmdebstrap: bool,
    /// The user is root.
    pub root: bool,
    /// newuidmap and newgidmap are installed.
    pub id_maps: bool,
    /// The user has subordinate user and group ids.
    pub subordinate_ids: bool,
    /// The kernel lets the user make a user namespace and be root in it.
    pub user_namespaces: bool,
    /// arch-test is installed.
    pub arch_test: bool,
    /// The host runs programs of the architecture, itself or by emulation.
    pub runs_programs: bool,
}

impl Facts {
    /// Examines this host for roots of `arch`. Starts a few short programs.
    pub fn gather(arch: &Arch, host: &Arch, search: &Search) -> Facts {
        let has = |name| search.program(name).is_some();
        let root = rustix::process::geteuid().is_root();
        let foreign = arch.debian != host.debian;
        let arch_test = has("arch-test");
        Facts {
            mmdebstrap: has("mmdebstrap"),
            root,
            id_maps: has("newuidmap") && has("newgidmap"),
            subordinate_ids: !root && ["/etc/subuid", "/etc/subgid"].iter().all(|file| has_ids(Path::new(file))),
            user_namespaces: !root && may_make_namespaces(),
            arch_test,
            runs_programs: !foreign || (arch_test && succeeds("arch-test", &[arch.debian])),
        }
    }
}

/// How to make a root of `arch` on a host with these `facts`.
pub fn way(builder: Builder, arch: &Arch, host: &Arch, facts: &Facts) -> Way {
    match builder {
        Builder::Mmdebstrap => return Way::Mmdebstrap,
        Builder::Vm => return Way::Vm(Reason::Asked),
        Builder::Auto => {}
    }
    let foreign = arch.debian != host.debian;
    let reason = if !facts.mmdebstrap {
        Reason::NoMmdebstrap
    } else if !facts.root && !facts.id_maps {
        Reason::Unprivileged("newuidmap and newgidmap are not installed")
    } else if !facts.root && !facts.subordinate_ids {
        Reason::Unprivileged("the user has no ids in /etc/subuid and /etc/subgid")
    } else if !facts.root && !facts.user_namespaces {
        Reason::Unprivileged("the kernel does not let users make user namespaces")
    } else if foreign && !facts.arch_test {
        Reason::NoArchTest
    } else if foreign && !facts.runs_programs {
        Reason::Foreign(arch.name)
    } else {
        return Way::Mmdebstrap;
    };
    Way::Vm(reason)
}

/// The fewest subordinate ids that a Debian system needs.
const IDS: u64 = 65_536;

/// Whether the user has enough ids in a file of lines `USER:FIRST:COUNT`.
fn has_ids(file: &Path) -> bool {
    let Ok(text) = fs::read_to_string(file) else { return false };
    let uid = rustix::process::geteuid().as_raw().to_string();
    // Not every user is listed in /etc/passwd.
    let name = Command::new("id").arg("-un").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let name = name.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    grants_ids(&text, &uid, &name)
}

fn grants_ids(text: &str, uid: &str, name: &str) -> bool {
    text.lines().any(|line| {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [user, _, count] = fields[..] else { return false };
        (user == uid || (user == name && !name.is_empty())) && count.parse().is_ok_and(|count: u64| count >= IDS)
    })
}

/// Tries whether the kernel permits user namespaces. AppArmor is checked separately: it permits the
/// namespace, and then removes its root's privileges.
fn may_make_namespaces() -> bool {
    let restricted = fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    let restricted = restricted.is_ok_and(|value| value.trim() == "1");
    // Ubuntu's mmdebstrap includes a profile that permits it.
    (!restricted || Path::new("/etc/apparmor.d/mmdebstrap").exists()) && succeeds("unshare", &["--user", "true"])
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Facts = Facts {
        mmdebstrap: true,
        root: true,
        id_maps: false,
        subordinate_ids: false,
        user_namespaces: false,
        arch_test: true,
        runs_programs: true,
    };
    const USER: Facts = Facts { root: false, id_maps: true, subordinate_ids: true, user_namespaces: true, ..ROOT };

    fn decided(arch: &str, facts: &Facts) -> Way {
        let find = |name| quiz_arch::find(name).unwrap();
        way(Builder::Auto, find(arch), find("x86_64"), facts)
    }

    fn reason(arch: &str, facts: &Facts) -> String {
        match decided(arch, facts) {
            Way::Vm(reason) => reason.to_string(),
            Way::Mmdebstrap => panic!("mmdebstrap with {facts:?}"),
        }
    }

    #[test]
    fn mmdebstrap_is_taken_where_it_works() {
        for facts in [ROOT, USER] {
            assert_eq!(decided("x86_64", &facts), Way::Mmdebstrap);
            assert_eq!(decided("s390x", &facts), Way::Mmdebstrap);
            let alone = Facts { arch_test: false, runs_programs: true, ..facts };
            assert_eq!(decided("x86_64", &alone), Way::Mmdebstrap, "nothing foreign is needed for the host's own");
        }
    }

    #[test]
    fn whatever_is_missing_leads_to_a_vm_and_is_named() {
        assert!(reason("x86_64", &Facts { mmdebstrap: false, ..ROOT }).contains("mmdebstrap is not installed"));
        assert!(reason("x86_64", &Facts { id_maps: false, ..USER }).contains("newuidmap"));
        assert!(reason("x86_64", &Facts { subordinate_ids: false, ..USER }).contains("/etc/subuid"));
        assert!(reason("x86_64", &Facts { user_namespaces: false, ..USER }).contains("namespaces"));
        assert!(reason("s390x", &Facts { arch_test: false, runs_programs: false, ..ROOT }).contains("arch-test"));
        assert!(reason("s390x", &Facts { runs_programs: false, ..ROOT }).contains("programs of s390x"));
    }

    #[test]
    fn the_users_word_counts() {
        let (s390x, host) = (quiz_arch::find("s390x").unwrap(), quiz_arch::find("x86_64").unwrap());
        assert_eq!(way(Builder::Vm, host, host, &ROOT), Way::Vm(Reason::Asked));
        let nothing = Facts { mmdebstrap: false, runs_programs: false, ..ROOT };
        assert_eq!(way(Builder::Mmdebstrap, s390x, host, &nothing), Way::Mmdebstrap);
    }

    #[test]
    fn subordinate_ids_are_by_name_or_number_and_enough() {
        let text = "# comment\nann:100000:65536\n1001:165536:65536\nfew:300000:1000\n";
        assert!(grants_ids(text, "1000", "ann"));
        assert!(grants_ids(text, "1001", "bob"));
        assert!(!grants_ids(text, "1002", "few"));
        assert!(!grants_ids(text, "1003", ""));
        assert!(!grants_ids("", "1000", "ann"));
    }

    #[test]
    fn this_host_can_be_asked() {
        let host = quiz_arch::host();
        let facts = Facts::gather(host, host, &Search::new("".as_ref()));
        assert!(!facts.mmdebstrap && facts.runs_programs);
    }
}
