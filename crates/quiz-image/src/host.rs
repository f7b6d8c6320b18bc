//! Which programs of the host a purpose needs, and how each distribution calls the packages they are in. Not for running
//! them, nor for what the host's hardware can do.

use quiz_arch::Arch;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

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
    /// Build a kernel with Clang.
    Llvm,
    /// Build quiz's agent for another architecture.
    Agent(&'static Arch),
    /// Make a root of the user's own file system.
    RootAdd,
    /// Make a root of an architecture.
    RootBuild(&'static Arch),
    /// Build OpenZFS for the host's architecture.
    ZfsBuild,
    /// Build OpenZFS for another architecture.
    ZfsCross(&'static Arch),
    /// Judge the results of the ZFS test suite.
    ZfsTest,
    /// Look into a guest's memory.
    Debug,
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
            Sign::Program(name) | Sign::Header(name) | Sign::File(name) => name,
        }
    }
}

const fn program(name: &'static str, purpose: &'static str, packages: [&'static str; 5]) -> Tool {
    Tool { sign: Sign::Program(name), purpose, packages }
}

const fn header(name: &'static str, purpose: &'static str, packages: [&'static str; 5]) -> Tool {
    Tool { sign: Sign::Header(name), purpose, packages }
}

const fn same(name: &'static str) -> [&'static str; 5] {
    [name; 5]
}

const QEMU: &str = "runs the VM";
static QEMUS: &[Tool] = &[
    program(
        "qemu-system-x86_64",
        QEMU,
        ["qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86", "qemu-x86", "qemu-system-x86_64"],
    ),
    program(
        "qemu-system-i386",
        QEMU,
        ["qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86", "qemu-x86", "qemu-system-i386"],
    ),
    program(
        "qemu-system-aarch64",
        QEMU,
        ["qemu-system-arm", "qemu-system-aarch64-core", "qemu-system-aarch64", "qemu-arm", "qemu-system-aarch64"],
    ),
    program(
        "qemu-system-arm",
        QEMU,
        ["qemu-system-arm", "qemu-system-arm-core", "qemu-system-arm", "qemu-arm", "qemu-system-arm"],
    ),
    program(
        "qemu-system-s390x",
        QEMU,
        ["qemu-system-misc", "qemu-system-s390x-core", "qemu-system-s390x", "qemu-s390x", "qemu-system-s390x"],
    ),
    program(
        "qemu-system-ppc64",
        QEMU,
        ["qemu-system-ppc", "qemu-system-ppc-core", "qemu-system-ppc", "qemu-ppc", "qemu-system-ppc64"],
    ),
    program(
        "qemu-system-riscv64",
        QEMU,
        ["qemu-system-misc", "qemu-system-riscv-core", "qemu-system-riscv", "qemu-extra", "qemu-system-riscv64"],
    ),
    program(
        "qemu-system-loongarch64",
        QEMU,
        [
            "qemu-system-misc",
            "qemu-system-loongarch64-core",
            "qemu-system-loongarch64",
            "qemu-extra",
            "qemu-system-loongarch64",
        ],
    ),
    program(
        "qemu-system-mips64el",
        QEMU,
        ["qemu-system-mips", "qemu-system-mips-core", "qemu-system-mips", "qemu-extra", "qemu-system-mips64el"],
    ),
];

const GET: &str = "fetches packages and checks their signatures";
static APT_GET: Tool = program("apt-get", GET, ["apt", "apt", "apt", "", "apt"]);
static DPKG_DEB: Tool = program("dpkg-deb", "unpacks Debian packages", same("dpkg"));
static KEYRING: Tool = Tool {
    sign: Sign::File("/usr/share/keyrings/debian-archive-keyring.gpg"),
    purpose: "holds the keys that sign Debian's packages",
    packages: ["debian-archive-keyring", "debian-keyring", "debian-archive-keyring", "", "debian-archive-keyring"],
};
static GDB: Tool = program("gdb", "looks into a guest's memory", same("gdb"));
static DEPMOD: Tool = program("depmod", "indexes kernel modules", same("kmod"));
static MMDEBSTRAP: Tool =
    program("mmdebstrap", "makes Debian file systems", ["mmdebstrap", "mmdebstrap", "mmdebstrap", "", "mmdebstrap"]);
static MKSQUASHFS: Tool = program(
    "sqfstar",
    "makes squashfs images",
    ["squashfs-tools", "squashfs-tools", "squashfs-tools", "squashfs", "squashfs-tools"],
);
const USER: &str = "runs programs of another architecture while its root is made";
const fn user_mode(registration: &'static str) -> Tool {
    Tool {
        sign: Sign::File(registration),
        purpose: USER,
        packages: [
            "qemu-user-static binfmt-support",
            "qemu-user-static",
            "qemu-user-static qemu-user-static-binfmt",
            "qemu-linux-user",
            "qemu-openrc",
        ],
    }
}
/// User-mode emulation through binfmt_misc lets package scripts of another architecture run. By quiz-arch's names.
static QEMU_USERS: &[(&str, Tool)] = &[
    ("x86_64", user_mode("/proc/sys/fs/binfmt_misc/qemu-x86_64")),
    ("aarch64", user_mode("/proc/sys/fs/binfmt_misc/qemu-aarch64")),
    ("s390x", user_mode("/proc/sys/fs/binfmt_misc/qemu-s390x")),
    ("ppc64le", user_mode("/proc/sys/fs/binfmt_misc/qemu-ppc64le")),
    ("ppc64", user_mode("/proc/sys/fs/binfmt_misc/qemu-ppc64")),
    ("riscv64", user_mode("/proc/sys/fs/binfmt_misc/qemu-riscv64")),
    ("loongarch64", user_mode("/proc/sys/fs/binfmt_misc/qemu-loongarch64")),
    ("armv7l", user_mode("/proc/sys/fs/binfmt_misc/qemu-arm")),
    ("i686", user_mode("/proc/sys/fs/binfmt_misc/qemu-i386")),
    ("mips64el", user_mode("/proc/sys/fs/binfmt_misc/qemu-mips64el")),
];

const BUILDS: &str = "builds kernels";
static GCC: Tool = program("gcc", BUILDS, same("gcc"));
static BUILD: &[Tool] = &[
    program("make", BUILDS, same("make")),
    program("ld", BUILDS, same("binutils")),
    program("flex", BUILDS, same("flex")),
    program("bison", BUILDS, same("bison")),
    program("bc", BUILDS, same("bc")),
    program("perl", BUILDS, same("perl")),
    program("python3", BUILDS, ["python3", "python3", "python", "python3", "python3"]),
    program("openssl", BUILDS, same("openssl")),
    program("xz", "unpacks kernel sources", ["xz-utils", "xz", "xz", "xz", "xz"]),
    header("libelf.h", BUILDS, ["libelf-dev", "elfutils-libelf-devel", "libelf", "libelf-devel", "elfutils-dev"]),
    header("openssl/opensslv.h", BUILDS, ["libssl-dev", "openssl-devel", "openssl", "libopenssl-devel", "openssl-dev"]),
    header(
        "linux/types.h",
        BUILDS,
        ["linux-libc-dev", "kernel-headers", "linux-api-headers", "linux-glibc-devel", "linux-headers"],
    ),
];

/// The suite's own `zts-report.py` reads its results.
static PYTHON: Tool = program(
    "python3",
    "reads the results of the ZFS test suite",
    ["python3", "python3", "python", "python3", "python3"],
);

const ZFS: &str = "builds OpenZFS";
static ZFS_BUILD: &[Tool] = &[
    program("make", ZFS, same("make")),
    program("ld", ZFS, same("binutils")),
    program("autoconf", ZFS, same("autoconf")),
    program("automake", ZFS, same("automake")),
    program("libtoolize", ZFS, same("libtool")),
    header("uuid/uuid.h", ZFS, ["uuid-dev", "libuuid-devel", "util-linux-libs", "libuuid-devel", "util-linux-dev"]),
    header(
        "blkid/blkid.h",
        ZFS,
        ["libblkid-dev", "libblkid-devel", "util-linux-libs", "libblkid-devel", "util-linux-dev"],
    ),
    header("tirpc/rpc/xdr.h", ZFS, ["libtirpc-dev", "libtirpc-devel", "libtirpc", "libtirpc-devel", "libtirpc-dev"]),
    header("openssl/evp.h", ZFS, ["libssl-dev", "openssl-devel", "openssl", "libopenssl-devel", "openssl-dev"]),
    header("zlib.h", ZFS, ["zlib1g-dev", "zlib-devel", "zlib", "zlib-devel", "zlib-dev"]),
    header("libudev.h", ZFS, ["libudev-dev", "systemd-devel", "systemd-libs", "systemd-devel", "eudev-dev"]),
    header("libaio.h", ZFS, ["libaio-dev", "libaio-devel", "libaio", "libaio-devel", "libaio-dev"]),
    // For the kernel's own objtool and modpost, where they are built again.
    header("libelf.h", ZFS, ["libelf-dev", "elfutils-libelf-devel", "libelf", "libelf-devel", "elfutils-dev"]),
];

static PKG_CONFIG: Tool =
    program("pkg-config", ZFS, ["pkg-config", "pkgconf-pkg-config", "pkgconf", "pkgconf-pkg-config", "pkgconf"]);

const CLANG: &str = "builds kernels with --llvm";
static LLVM: &[Tool] = &[
    program("clang", CLANG, same("clang")),
    program("ld.lld", CLANG, same("lld")),
    program("llvm-ar", CLANG, same("llvm")),
];

const CROSS: &str = "builds kernels for another architecture";
static CROSS_COMPILERS: &[Tool] = &[
    program(
        "x86_64-linux-gnu-gcc",
        CROSS,
        ["gcc-x86-64-linux-gnu", "gcc-x86_64-linux-gnu", "", "cross-x86_64-gcc14", ""],
    ),
    program(
        "aarch64-linux-gnu-gcc",
        CROSS,
        ["gcc-aarch64-linux-gnu", "gcc-aarch64-linux-gnu", "aarch64-linux-gnu-gcc", "cross-aarch64-gcc14", ""],
    ),
    program("s390x-linux-gnu-gcc", CROSS, ["gcc-s390x-linux-gnu", "gcc-s390x-linux-gnu", "", "cross-s390x-gcc14", ""]),
    program(
        "powerpc64le-linux-gnu-gcc",
        CROSS,
        ["gcc-powerpc64le-linux-gnu", "gcc-powerpc64le-linux-gnu", "", "cross-ppc64le-gcc14", ""],
    ),
    program(
        "riscv64-linux-gnu-gcc",
        CROSS,
        ["gcc-riscv64-linux-gnu", "gcc-riscv64-linux-gnu", "riscv64-linux-gnu-gcc", "cross-riscv64-gcc14", ""],
    ),
    program(
        "powerpc64-linux-gnu-gcc",
        CROSS,
        ["gcc-powerpc64-linux-gnu", "gcc-powerpc64-linux-gnu", "", "cross-ppc64-gcc14", ""],
    ),
    program(
        "loongarch64-linux-gnu-gcc",
        CROSS,
        ["gcc-loongarch64-linux-gnu", "gcc-loongarch64-linux-gnu", "loongarch64-linux-gnu-gcc", "", ""],
    ),
    program(
        "arm-linux-gnueabihf-gcc",
        CROSS,
        ["gcc-arm-linux-gnueabihf", "gcc-arm-linux-gnu", "", "cross-arm-gcc14", ""],
    ),
    program("i686-linux-gnu-gcc", CROSS, ["gcc-i686-linux-gnu", "", "", "", ""]),
    program("mips64el-linux-gnuabi64-gcc", CROSS, ["gcc-mips64el-linux-gnuabi64", "gcc-mips64-linux-gnu", "", "", ""]),
];

const LIBC: &str = "is linked to the agent for another architecture";
const fn libc(file: &'static str, debian: &'static str) -> Tool {
    Tool { sign: Sign::File(file), purpose: LIBC, packages: [debian, "", "", "", ""] }
}
/// By Rust's names of the targets.
static CROSS_LIBCS: &[(&str, Tool)] = &[
    ("x86_64-unknown-linux-gnu", libc("/usr/x86_64-linux-gnu/lib/libc.a", "libc6-dev-amd64-cross")),
    ("aarch64-unknown-linux-gnu", libc("/usr/aarch64-linux-gnu/lib/libc.a", "libc6-dev-arm64-cross")),
    ("s390x-unknown-linux-gnu", libc("/usr/s390x-linux-gnu/lib/libc.a", "libc6-dev-s390x-cross")),
    ("powerpc64le-unknown-linux-gnu", libc("/usr/powerpc64le-linux-gnu/lib/libc.a", "libc6-dev-ppc64el-cross")),
    ("powerpc64-unknown-linux-gnu", libc("/usr/powerpc64-linux-gnu/lib/libc.a", "libc6-dev-ppc64-cross")),
    ("riscv64gc-unknown-linux-gnu", libc("/usr/riscv64-linux-gnu/lib/libc.a", "libc6-dev-riscv64-cross")),
    ("loongarch64-unknown-linux-gnu", libc("/usr/loongarch64-linux-gnu/lib/libc.a", "libc6-dev-loong64-cross")),
    ("armv7-unknown-linux-gnueabihf", libc("/usr/arm-linux-gnueabihf/lib/libc.a", "libc6-dev-armhf-cross")),
    ("i686-unknown-linux-gnu", libc("/usr/i686-linux-gnu/lib/libc.a", "libc6-dev-i386-cross")),
    ("mips64el-unknown-linux-gnuabi64", libc("/usr/mips64el-linux-gnuabi64/lib/libc.a", "libc6-dev-mips64el-cross")),
];

/// Everything that `purpose` needs on a host of the architecture `host`.
pub fn tools(purpose: Purpose, host: &Arch) -> Vec<&'static Tool> {
    let named = |list: &'static [Tool], name: String| list.iter().filter(move |t| t.name() == name);
    match purpose {
        Purpose::Run(arch) => named(QEMUS, arch.qemu.to_owned()).collect(),
        Purpose::KernelAdd => vec![&APT_GET, &DPKG_DEB, &KEYRING, &DEPMOD],
        Purpose::KernelBuild(arch) if arch.name == host.name => [&GCC, &DEPMOD].into_iter().chain(BUILD).collect(),
        // Host programs of the kernel's build are compiled too.
        Purpose::KernelBuild(arch) => [&GCC, &DEPMOD]
            .into_iter()
            .chain(BUILD)
            .chain(named(CROSS_COMPILERS, format!("{}gcc", arch.cross)))
            .collect(),
        Purpose::Agent(arch) => {
            let libcs = CROSS_LIBCS.iter().filter(|(target, _)| *target == arch.rust).map(|(_, tool)| tool);
            named(CROSS_COMPILERS, format!("{}gcc", arch.cross)).chain(libcs).collect()
        }
        Purpose::Llvm => LLVM.iter().collect(),
        Purpose::ZfsTest => vec![&PYTHON],
        Purpose::Debug => vec![&GDB],
        Purpose::ZfsBuild => [&GCC, &DEPMOD].into_iter().chain(ZFS_BUILD).collect(),
        // Headers and libraries are the guest's (`sysroot`), but for those of programs that run during the build.
        Purpose::ZfsCross(arch) => [&GCC, &DEPMOD, &APT_GET, &DPKG_DEB, &KEYRING, &PKG_CONFIG]
            .into_iter()
            .chain(ZFS_BUILD.iter().filter(|tool| matches!(tool.sign, Sign::Program(_)) || tool.name() == "libelf.h"))
            .chain(named(CROSS_COMPILERS, format!("{}gcc", arch.cross)))
            .collect(),
        Purpose::RootAdd => vec![&MKSQUASHFS],
        Purpose::RootBuild(arch) => {
            let mut tools = vec![&APT_GET, &MMDEBSTRAP, &KEYRING, &MKSQUASHFS];
            // Processors of one kind run the programs of their elder kin themselves.
            if arch.name != host.name && (arch.name, host.name) != ("i686", "x86_64") {
                tools.extend(QEMU_USERS.iter().filter(|(name, _)| *name == arch.name).map(|(_, tool)| tool));
            }
            tools
        }
    }
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
    let single = [&APT_GET, &DPKG_DEB, &DEPMOD, &MMDEBSTRAP, &MKSQUASHFS, &GCC];
    let all = single.into_iter().chain(QEMUS).chain(BUILD).chain(LLVM).chain(ZFS_BUILD).chain(CROSS_COMPILERS);
    match all.into_iter().find(|t| t.name() == name) {
        Some(tool) => format!("; install the package that has it (Debian and Ubuntu: {})", tool.packages[0]),
        None if name == "apt-cache" || name == "apt-config" => advice("apt-get"),
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
            assert_eq!(emulator.len(), 1, "{}", arch.name);
            assert_eq!(emulator[0].package(Family::Debian), Some(arch.qemu_package));
            let cross = format!("{}gcc", arch.cross);
            assert!(tools(Purpose::KernelBuild(arch), &host).iter().any(|t| t.name() == cross), "{}", arch.name);
            assert_eq!(tools(Purpose::Agent(arch), &host).len(), 2, "{}", arch.name);
            let users = tools(Purpose::RootBuild(arch), &host).into_iter().filter(|tool| tool.purpose == USER);
            assert_eq!(users.count(), 1, "{}", arch.name);
        }
    }

    fn copy(a: &Arch) -> Arch {
        Arch { ..*a }
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
