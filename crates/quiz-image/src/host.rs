//! Which programs of the host a purpose needs, and which package of a distribution has each of them. Not for running
//! them, nor for what the host's hardware can do.

mod table;

use quiz_arch::Arch;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use table::*;

/// A family of distributions that share package names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Debian, Ubuntu and relatives.
    Debian,
    /// Fedora, RHEL and relatives.
    Fedora,
    /// Arch Linux and relatives.
    Arch,
    /// openSUSE and SLES.
    Suse,
    /// Alpine.
    Alpine,
}

/// What quiz wants to do on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Run VMs of an architecture.
    Run(&'static Arch),
    /// Get a distribution's kernel.
    KernelAdd,
    /// Build a kernel for an architecture.
    KernelBuild(&'static Arch),
    /// Build a kernel from a git repository.
    KernelGit,
    /// Build a kernel with Clang.
    Llvm,
    /// Build quiz's agent for another architecture.
    Agent(&'static Arch),
    /// Make a root of the user's own file system.
    RootAdd,
    /// Make a root of an architecture with mmdebstrap.
    RootBuild(&'static Arch),
    /// Run programs of an architecture on the host, as mmdebstrap has to.
    Emulate(&'static Arch),
    /// Build OpenZFS for the host's architecture.
    ZfsBuild,
    /// Build OpenZFS for another architecture.
    ZfsCross(&'static Arch),
    /// Judge the results of the ZFS test suite.
    ZfsTest,
    /// Look into a guest's memory.
    Debug,
    /// Run quiz's own tests.
    Test,
    /// Run quiz's own benchmarks.
    Bench,
    /// Fuzz what reads untrusted input in quiz.
    Fuzz,
}

/// What shows that something is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// A program by its name.
    Program(&'static str),
    /// A header of a library, below an include directory.
    Header(&'static str),
    /// A file by its path.
    File(&'static str),
    /// A module that `python3` can import.
    PythonModule(&'static str),
}

/// Something that must be installed on the host.
#[derive(Debug, PartialEq, Eq)]
pub struct Tool {
    /// How its presence is seen.
    pub sign: Sign,
    /// What it is for, in a few words.
    pub purpose: &'static str,
    /// Package names for Debian, Fedora, Arch, openSUSE and Alpine, in this order; empty where there is none.
    packages: [&'static str; 5],
}

impl Tool {
    /// The name of the package in a family's repositories, if it has one.
    pub fn package(&self, family: Family) -> Option<&'static str> {
        Some(self.packages[family as usize]).filter(|p| !p.is_empty())
    }

    /// The program's or library's name, for messages.
    pub fn name(&self) -> &'static str {
        match self.sign {
            Sign::Program(name) | Sign::Header(name) | Sign::File(name) | Sign::PythonModule(name) => name,
        }
    }
}

/// Everything that `purpose` needs on a host of the architecture `host`.
pub fn tools(purpose: Purpose, host: &Arch) -> Vec<&'static Tool> {
    let named = |list: &'static [Tool], name: String| list.iter().filter(move |t| t.name() == name);
    let compiler = |arch: &Arch| named(CROSS_COMPILERS, format!("{}gcc", arch.cross)).collect::<Vec<_>>();
    // Processors of one kind run the programs of their elder kin themselves.
    let is_foreign = |arch: &Arch| arch.name != host.name && (arch.name, host.name) != ("i686", "x86_64");
    match purpose {
        Purpose::Run(arch) => named(QEMUS, arch.qemu.to_owned()).chain([&MKE2FS, &SQFSTAR]).collect(),
        Purpose::KernelAdd => vec![&APT_GET, &DPKG_DEB, &KEYRING, &DEPMOD],
        Purpose::KernelBuild(arch) => {
            let mut tools = vec![&GCC, &LIBC_HEADERS, &DEPMOD, &GPGV];
            tools.extend(BUILD);
            // For the host's own programs of the kernel's build, the host's compiler is needed too.
            if arch.name != host.name {
                tools.extend(compiler(arch));
            }
            tools
        }
        Purpose::KernelGit => vec![&GIT],
        Purpose::Agent(arch) => {
            let libcs = CROSS_LIBCS.iter().filter(|(target, _)| *target == arch.rust).map(|(_, tool)| tool);
            compiler(arch).into_iter().chain(libcs).collect()
        }
        Purpose::Llvm => LLVM.iter().collect(),
        Purpose::ZfsTest => vec![&PYTHON],
        Purpose::Debug => vec![&GDB],
        Purpose::ZfsBuild => [&GCC, &LIBC_HEADERS, &DEPMOD].into_iter().chain(ZFS_BUILD).collect(),
        // Headers and libraries are the guest's (`sysroot`), but for those of programs that run during the build.
        Purpose::ZfsCross(arch) => [&GCC, &LIBC_HEADERS, &DEPMOD, &APT_GET, &DPKG_DEB, &KEYRING, &PKG_CONFIG]
            .into_iter()
            .chain(ZFS_BUILD.iter().filter(|tool| matches!(tool.sign, Sign::Program(_)) || tool.name() == "libelf.h"))
            .chain(compiler(arch))
            .collect(),
        Purpose::RootAdd => vec![&SQFSTAR],
        Purpose::RootBuild(arch) => {
            let mut tools = vec![&APT_GET, &MMDEBSTRAP, &KEYRING, &SQFSTAR];
            if is_foreign(arch) {
                tools.push(&ARCH_TEST);
            }
            tools
        }
        Purpose::Emulate(arch) => {
            let named = QEMU_USERS.iter().filter(|(name, _)| is_foreign(arch) && *name == arch.name);
            named.map(|(_, tool)| tool).collect()
        }
        Purpose::Test => [&GIT, &PYTHON].into_iter().chain(TEST).collect(),
        Purpose::Bench => BENCH.iter().collect(),
        Purpose::Fuzz => vec![&GCC, &LIBC_HEADERS, &CXX],
    }
}

/// Where the kernel lists the emulators that it starts for programs of other architectures.
pub const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc/";

/// The file that shows that the kernel starts an emulator for programs of `arch`.
pub fn emulator(arch: &Arch) -> Option<&'static str> {
    QEMU_USERS.iter().find(|(name, _)| *name == arch.name).map(|(_, tool)| tool.name())
}

/// Which boot of this host it is: what was not brought to the disk is of use in the same one only.
pub fn boot_id() -> std::io::Result<String> {
    Ok(fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// What is missing for `purposes`, each tool once. `present` tells whether one is there; [`Search`] is the usual one.
pub fn missing(purposes: &[Purpose], host: &Arch, present: &dyn Fn(Sign) -> bool) -> Vec<&'static Tool> {
    let mut all: Vec<&Tool> = Vec::new();
    for tool in purposes.iter().flat_map(|p| tools(*p, host)) {
        if !present(tool.sign) && !all.contains(&tool) {
            all.push(tool);
        }
    }
    all
}

/// Looks for programs and headers in directories that are given as data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    programs: Vec<PathBuf>,
    headers: Vec<PathBuf>,
}

impl Search {
    /// `path` is a value of `$PATH`; the system's `sbin` directories, where `depmod` and `mke2fs` may be, are always
    /// searched too.
    pub fn new(path: &OsStr) -> Search {
        let mut programs: Vec<PathBuf> = std::env::split_paths(path).collect();
        programs.extend(SBIN.iter().map(PathBuf::from));
        let mut headers = vec![PathBuf::from("/usr/include"), PathBuf::from("/usr/local/include")];
        // Debian's multiarch directories (`x86_64-linux-gnu`) hold some headers.
        if let Ok(found) = fs_err::read_dir("/usr/include") {
            headers.extend(found.flatten().map(|i| i.path()).filter(|p| p.to_string_lossy().contains("-linux-gnu")));
        }
        Search { programs, headers }
    }

    /// The file of a program.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        self.programs.iter().map(|dir| dir.join(name)).find(|p| is_executable(p))
    }

    /// Whether a tool is there.
    pub fn has(&self, sign: Sign) -> bool {
        match sign {
            Sign::Program(name) => self.program(name).is_some(),
            Sign::Header(name) => self.headers.iter().any(|dir| dir.join(name).exists()),
            Sign::File(path) => Path::new(path).exists(),
            Sign::PythonModule(name) => self.program("python3").is_some_and(|python| {
                let mut import = Command::new(python);
                import.args(["-c", &format!("import {name}")]);
                let status = import.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
                status.is_ok_and(|status| status.success())
            }),
        }
    }
}

const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A program to start that may be in an `sbin` directory, which ordinary users do not have on their path. Falls back on the plain name.
pub fn in_sbin(name: &str) -> PathBuf {
    SBIN.iter().map(|dir| Path::new(dir).join(name)).find(|p| is_executable(p)).unwrap_or_else(|| name.into())
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// What `/etc/os-release` says about the user's distribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// What it calls itself ("Debian GNU/Linux 12 (bookworm)").
    pub name: String,
    /// Whose package names it uses, if that is one we know.
    pub family: Option<Family>,
}

impl Distribution {
    /// Reads the text of an `os-release` file.
    pub fn from_os_release(text: &str) -> Distribution {
        let field = |name: &str| {
            text.lines().find_map(|line| {
                let (key, value) = line.trim().split_once('=')?;
                (key == name).then(|| value.trim_matches(['"', '\'']).to_owned())
            })
        };
        let ids = format!("{} {}", field("ID").unwrap_or_default(), field("ID_LIKE").unwrap_or_default());
        let family = ids.split_whitespace().find_map(|id| match id {
            "debian" | "ubuntu" => Some(Family::Debian),
            "fedora" | "rhel" | "centos" => Some(Family::Fedora),
            "arch" => Some(Family::Arch),
            "suse" | "opensuse" | "sles" => Some(Family::Suse),
            id if id.starts_with("opensuse") => Some(Family::Suse),
            "alpine" => Some(Family::Alpine),
            _ => None,
        });
        Distribution {
            name: field("PRETTY_NAME").or_else(|| field("NAME")).unwrap_or_else(|| "Linux".to_owned()),
            family,
        }
    }
}

/// One command that installs `tools` on the distribution, or a sentence where we do not know its package names.
pub fn install_hint(distribution: &Distribution, tools: &[&Tool]) -> String {
    let Some(family) = distribution.family else {
        let names: Vec<_> = tools.iter().map(|t| t.name()).collect();
        return format!("install what provides: {}", names.join(", "));
    };
    let mut packages: Vec<&str> = Vec::new();
    let mut without: Vec<&str> = Vec::new();
    for tool in tools {
        match tool.package(family) {
            Some(names) => packages.extend(names.split(' ')),
            None => without.push(tool.name()),
        }
    }
    packages.sort_unstable();
    packages.dedup();
    let install = match family {
        Family::Debian => "sudo apt-get install",
        Family::Fedora => "sudo dnf install",
        Family::Arch => "sudo pacman -S",
        Family::Suse => "sudo zypper install",
        Family::Alpine => "sudo apk add",
    };
    let mut parts = Vec::new();
    if !packages.is_empty() {
        parts.push(format!("{install} {}", packages.join(" ")));
    }
    if !without.is_empty() {
        parts.push(format!("{} has no package of: {}", distribution.name, without.join(", ")));
    }
    parts.join("; ")
}

/// For an error about a program that is not there: which packages have it, ready to follow the sentence.
pub(crate) fn advice(name: &str) -> String {
    let single =
        [&APT_GET, &DPKG_DEB, &DEPMOD, &MMDEBSTRAP, &ARCH_TEST, &SQFSTAR, &MKE2FS, &GCC, &GIT, &GPGV, &PYTHON, &GDB];
    let lists = [QEMUS, BUILD, LLVM, ZFS_BUILD, CROSS_COMPILERS, TEST, BENCH];
    let all = single.into_iter().chain(lists.into_iter().flatten());
    match all.into_iter().find(|t| t.name() == name) {
        Some(tool) => format!("; install the package that has it (Debian and Ubuntu: {})", tool.packages[0]),
        None if name == "apt-cache" || name == "apt-config" => advice("apt-get"),
        None if name == "dpkg" => advice("dpkg-deb"),
        None if name == "mksquashfs" => advice("sqfstar"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(id: &str) -> Distribution {
        Distribution::from_os_release(&format!("NAME=x\n{id}\n"))
    }

    #[test]
    fn distributions_are_known_by_id_or_relatives() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nID=debian\n";
        assert_eq!(
            Distribution::from_os_release(debian),
            Distribution { name: "Debian GNU/Linux 12 (bookworm)".to_owned(), family: Some(Family::Debian) }
        );
        for (text, family) in [
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"", Some(Family::Debian)),
            ("ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"", Some(Family::Fedora)),
            ("ID=opensuse-tumbleweed\nID_LIKE='opensuse suse'", Some(Family::Suse)),
            ("ID=arch", Some(Family::Arch)),
            ("ID=alpine", Some(Family::Alpine)),
            ("ID=plan9", None),
        ] {
            assert_eq!(distribution(text).family, family, "{text}");
        }
    }

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let arch = quiz_arch::find("x86_64").unwrap();
        let none = |_: Sign| false;
        let tools = missing(&[Purpose::Run(arch), Purpose::KernelAdd, Purpose::RootBuild(arch)], arch, &none);
        let hint = install_hint(&distribution("ID=debian"), &tools);
        assert!(hint.starts_with("sudo apt-get install "), "{hint}");
        for package in ["qemu-system-x86", "mmdebstrap", "kmod", "debian-archive-keyring"] {
            assert_eq!(hint.matches(&format!(" {package}")).count(), 1, "{hint}");
        }
        let all = |_: Sign| true;
        assert!(missing(&[Purpose::Run(arch), Purpose::KernelBuild(arch)], arch, &all).is_empty());
        let hint = install_hint(&distribution("ID=opensuse-leap"), &tools);
        assert!(hint.contains("zypper install") && hint.contains("has no package of: apt-get"), "{hint}");
        assert!(install_hint(&distribution("ID=plan9"), &tools).contains("qemu-system-x86_64"));
    }

    #[test]
    fn what_openzfs_needs_is_named_by_packages() {
        let arch = quiz_arch::find("x86_64").unwrap();
        let only_programs = |sign: Sign| matches!(sign, Sign::Program(name) if name != "libtoolize");
        let tools = missing(&[Purpose::ZfsBuild], arch, &only_programs);
        let hint = install_hint(&distribution("ID=debian"), &tools);
        for package in
            ["libtool", "uuid-dev", "libblkid-dev", "libtirpc-dev", "libssl-dev", "zlib1g-dev", "libudev-dev"]
        {
            assert!(hint.split(' ').any(|word| word == package), "{package}: {hint}");
        }
        assert!(!hint.contains("autoconf"), "{hint}");
    }

    #[test]
    fn every_architecture_has_an_emulator_and_a_cross_compiler() {
        let host = Arch { name: "none", ..copy(quiz_arch::ALL[0]) };
        for arch in quiz_arch::ALL {
            let emulator = tools(Purpose::Run(arch), &host);
            assert_eq!(emulator.len(), 3, "{}", arch.name);
            assert_eq!(emulator[0].package(Family::Debian), Some(arch.qemu_package));
            let cross = format!("{}gcc", arch.cross);
            assert!(tools(Purpose::KernelBuild(arch), &host).iter().any(|t| t.name() == cross), "{}", arch.name);
            assert_eq!(tools(Purpose::Agent(arch), &host).len(), 2, "{}", arch.name);
            assert_eq!(tools(Purpose::Emulate(arch), &host).len(), 1, "{}", arch.name);
        }
    }

    fn copy(a: &Arch) -> Arch {
        Arch { ..*a }
    }

    /// Programs that every distribution's smallest system has.
    const ALWAYS: &[&str] = &["sh", "true", "cat", "id", "sleep", "touch"];

    /// A program that quiz, its tests or its benchmarks start by name and that the table lacks is missing on the next fresh machine.
    #[test]
    fn every_program_that_is_started_by_name_is_in_the_table() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let mut unknown = Vec::new();
        for dir in ["crates", "xtask"] {
            for file in sources(&top.join(dir)) {
                let text = fs_err::read_to_string(&file).unwrap();
                for start in ["Command::new(\"", "in_sbin(\""] {
                    for rest in text.split(start).skip(1) {
                        let name = rest.split('"').next().unwrap();
                        // Paths are the guest's, and these two are not to be found; set-up itself takes what it finds.
                        let exempt =
                            name.contains('/') || name.contains("no-such") || ["rustup", "sudo"].contains(&name);
                        if !exempt && !ALWAYS.contains(&name) && advice(name).is_empty() {
                            unknown.push(format!("{name} ({})", file.display()));
                        }
                    }
                }
            }
        }
        assert!(unknown.is_empty(), "not in the table of host tools: {}", unknown.join(", "));
    }

    /// The Rust sources below `dir`, the guest's agent left out.
    fn sources(dir: &Path) -> Vec<PathBuf> {
        let entries = fs_err::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        let below = dirs.iter().filter(|dir| !dir.ends_with("quiz-agent")).flat_map(|dir| sources(dir));
        files.into_iter().filter(|file| file.extension() == Some(OsStr::new("rs"))).chain(below).collect()
    }

    #[test]
    fn programs_are_found_where_the_path_says() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("flex");
        fs_err::write(&file, "").unwrap();
        let search = Search::new(dir.path().as_os_str());
        let nowhere = Search::new(OsStr::new(""));
        assert_eq!(search.program("flex"), nowhere.program("flex"), "not executable");
        fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(search.program("flex"), Some(file));
        assert!(!search.has(Sign::Program("quiz-no-such-program")));
        assert!(!search.has(Sign::File("/nonexistent")));
    }
}
