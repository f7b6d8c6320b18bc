//! What has to be installed on the host for each thing that quiz does: for `quiz doctor`, for the
//! errors of commands, and for the set-up of `xtask`. Not for whether it is installed, nor for its
//! packages: that is [`quiz_host::tools`].

use quiz_arch::Arch;
use quiz_host::tools::table::*;
use quiz_host::tools::{Sign, Tool};

/// Something that quiz does on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Run VMs of an architecture.
    Run(&'static Arch),
    /// Fetch a distribution's kernel.
    KernelAdd,
    /// Build a kernel for an architecture.
    KernelBuild(&'static Arch),
    /// Build a kernel from a git repository.
    KernelGit,
    /// Build a kernel with Clang.
    Llvm,
    /// Build quiz's agent for another architecture.
    Agent(&'static Arch),
    /// Make a root of a file system that the user has.
    RootAdd,
    /// Make a root of an architecture with mmdebstrap.
    RootBuild(&'static Arch),
    /// Run programs of an architecture on the host, as mmdebstrap does.
    Emulate(&'static Arch),
    /// Build OpenZFS for the host's architecture.
    ZfsBuild,
    /// Build OpenZFS for another architecture.
    ZfsCross(&'static Arch),
    /// Judge the results of the ZFS test suite.
    ZfsTest,
    /// Debug a guest's kernel or a dump of its memory.
    Debug,
    /// Run quiz's own tests.
    Test,
    /// Run quiz's own benchmarks.
    Bench,
    /// Fuzz the parts of quiz that read untrusted input.
    Fuzz,
}

const C: [Tool; 4] = [GCC, LIBC_HEADERS, MAKE, LD];
const KERNEL: [Tool; 12] = [DEPMOD, GPGV, FLEX, BISON, BC, PERL, PYTHON, OPENSSL, TAR, XZ, LIBELF, LIBCRYPTO];
const DEBIAN: [Tool; 3] = [APT_GET, DPKG_DEB, DEBIAN_KEYS];
const ZFS_PROGRAMS: [Tool; 4] = [DEPMOD, AUTOCONF, AUTOMAKE, LIBTOOLIZE];
const ZFS_LIBRARIES: [Tool; 7] = [LIBUUID, LIBBLKID, LIBTIRPC, LIBCRYPTO, ZLIB, LIBUDEV, LIBAIO];

/// The tools that `purpose` needs on a host of the architecture `host`.
pub fn tools(purpose: Purpose, host: &Arch) -> Vec<Tool> {
    let all = |lists: &[&[Tool]]| lists.concat();
    match purpose {
        Purpose::Run(arch) => vec![qemu(arch), MKE2FS, SQFSTAR],
        Purpose::KernelAdd => all(&[&DEBIAN, &[DEPMOD]]),
        // The kernel's build has programs for the host, too: with a cross compiler, the host's is
        // needed as well.
        Purpose::KernelBuild(arch) if arch.name == host.name => all(&[&C, &KERNEL, &[LINUX_HEADERS]]),
        Purpose::KernelBuild(arch) => all(&[&C, &KERNEL, &[LINUX_HEADERS, cross_gcc(arch)]]),
        Purpose::KernelGit => vec![GIT],
        Purpose::Llvm => vec![CLANG, LLD, LLVM_AR],
        Purpose::Agent(arch) => vec![cross_gcc(arch), cross_libc(arch)],
        Purpose::RootAdd => vec![SQFSTAR],
        Purpose::RootBuild(arch) => {
            let foreign: &[Tool] = if arch.is_foreign_to(host) { &[ARCH_TEST] } else { &[] };
            all(&[&[APT_GET, MMDEBSTRAP, DEBIAN_KEYS, SQFSTAR], foreign])
        }
        Purpose::Emulate(arch) if arch.is_foreign_to(host) => vec![user_mode(arch)],
        Purpose::Emulate(_) => Vec::new(),
        // The kernel's objtool and modpost need libelf where they are built again.
        Purpose::ZfsBuild => all(&[&C, &ZFS_PROGRAMS, &ZFS_LIBRARIES, &[LIBELF]]),
        // Libraries are the guest's, in a sysroot.
        Purpose::ZfsCross(arch) => all(&[&C, &ZFS_PROGRAMS, &DEBIAN, &[LIBELF, PKG_CONFIG, cross_gcc(arch)]]),
        Purpose::ZfsTest => vec![PYTHON],
        Purpose::Debug => vec![GDB],
        Purpose::Test => {
            // Tests sign what they serve, with a key that they make.
            vec![GIT, PYTHON, GPG, GPGCONF, READELF, UNSQUASHFS, BASH, CMP, SHA256SUM, SCRIPT, SETSID, UNSHARE]
        }
        // virtme-ng is installed into a virtual environment.
        Purpose::Bench => vec![CC, CPIO, PYTHON_VENV],
        // libFuzzer is C++.
        Purpose::Fuzz => vec![GCC, LIBC_HEADERS, CXX],
    }
}

/// The tools that are missing for `purposes`, each once. `present` reports whether one is there.
pub fn missing(purposes: &[Purpose], host: &Arch, present: impl Fn(Sign) -> bool) -> Vec<Tool> {
    quiz_host::tools::missing(purposes.iter().flat_map(|purpose| tools(*purpose, host)), present)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quiz_host::tools::{Distribution, Family, install_hint};

    fn distribution(id: &str) -> Distribution {
        Distribution::from_os_release(&format!("NAME=x\n{id}\n"))
    }

    #[test]
    fn all_missing_tools_are_named_at_once() {
        let arch = quiz_arch::find("x86_64").unwrap();
        let tools = missing(&[Purpose::Run(arch), Purpose::KernelAdd, Purpose::RootBuild(arch)], arch, |_| false);
        let hint = install_hint(&distribution("ID=debian"), &tools);
        assert!(hint.starts_with("sudo apt-get install "), "{hint}");
        for package in ["qemu-system-x86", "mmdebstrap", "kmod", "debian-archive-keyring"] {
            assert_eq!(hint.matches(&format!(" {package}")).count(), 1, "{hint}");
        }
        assert!(missing(&[Purpose::Run(arch), Purpose::KernelBuild(arch)], arch, |_| true).is_empty());
        let hint = install_hint(&distribution("ID=opensuse-leap"), &tools);
        assert!(hint.contains("zypper install") && hint.contains("has no package of: apt-get"), "{hint}");
        assert!(install_hint(&distribution("ID=plan9"), &tools).contains("qemu-system-x86_64"));
    }

    #[test]
    fn the_needs_of_openzfs_are_named_by_packages() {
        let arch = quiz_arch::find("x86_64").unwrap();
        let only_programs = |sign: Sign| matches!(sign, Sign::Program(name) if name != "libtoolize");
        let hint = install_hint(&distribution("ID=debian"), &missing(&[Purpose::ZfsBuild], arch, only_programs));
        let packages =
            ["libtool", "uuid-dev", "libblkid-dev", "libtirpc-dev", "libssl-dev", "zlib1g-dev", "libudev-dev"];
        for package in packages {
            assert!(hint.split(' ').any(|word| word == package), "{package}: {hint}");
        }
        assert!(!hint.contains("autoconf"), "{hint}");
    }

    #[test]
    fn every_architecture_has_an_emulator_and_a_cross_compiler() {
        let host = Arch { name: "none", ..*quiz_arch::ALL[0] };
        for arch in quiz_arch::ALL {
            assert_eq!(tools(Purpose::Run(arch), &host)[0].name(), arch.qemu);
            assert!(tools(Purpose::KernelBuild(arch), &host).contains(&cross_gcc(arch)), "{}", arch.name);
            assert_eq!(tools(Purpose::Agent(arch), &host).len(), 2, "{}", arch.name);
            assert_eq!(tools(Purpose::Emulate(arch), &host), [user_mode(arch)], "{}", arch.name);
            for tool in [qemu(arch), cross_gcc(arch), cross_libc(arch)] {
                assert!(tool.package(Family::Debian).is_some(), "{}", tool.name());
            }
        }
    }
}
