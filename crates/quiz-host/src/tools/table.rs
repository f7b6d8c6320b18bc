//! The table of host tools: what shows that each is installed, and which packages have it. Not for
//! which work needs which of them.

use quiz_arch::{Arch, Packages};

use super::{Sign, Tool};

const fn program(name: &'static str, does: &'static str, packages: Packages) -> Tool {
    Tool { sign: Sign::Program(name), does, packages }
}

const fn header(name: &'static str, packages: Packages) -> Tool {
    Tool { sign: Sign::Header(name), does: "header of a library", packages }
}

const fn same(name: &'static str) -> Packages {
    [name; 5]
}

macro_rules! tools {
    ($($(#[$about:meta])* $name:ident = $tool:expr;)*) => {
        $($(#[$about])* pub const $name: Tool = $tool;)*
        /// All tools of the table; those of each architecture are functions.
        pub const ALL: &[Tool] = &[$($name),*];
    };
}

#[rustfmt::skip]
tools! {
    /// apt, the program that fetches packages.
    APT_GET = program("apt-get", "fetches packages and checks their signatures", ["apt", "apt", "apt", "", "apt"]);
    /// dpkg's program that unpacks packages.
    DPKG_DEB = program("dpkg-deb", "unpacks Debian packages", same("dpkg"));
    /// Debian's keys.
    DEBIAN_KEYS = Tool {
        sign: Sign::File("/usr/share/keyrings/debian-archive-keyring.gpg"),
        does: "holds the keys that sign Debian's packages",
        packages: ["debian-archive-keyring", "debian-keyring", "debian-archive-keyring", "", "debian-archive-keyring"],
    };
    /// The root builder.
    MMDEBSTRAP = program("mmdebstrap", "makes Debian file systems", ["mmdebstrap", "mmdebstrap", "mmdebstrap", "", "mmdebstrap"]);
    /// Used by mmdebstrap to find out which other architectures' programs run here.
    ARCH_TEST = program("arch-test", "finds out which architectures' programs run here", ["arch-test", "arch-test", "arch-test", "", ""]);
    /// Makes squashfs images from archives. Is in the same package as mksquashfs, in newer versions
    /// only.
    SQFSTAR = program("sqfstar", "makes squashfs images", ["squashfs-tools", "squashfs-tools", "squashfs-tools", "squashfs", "squashfs-tools"]);
    /// Reads squashfs images.
    UNSQUASHFS = program("unsquashfs", "unpacks squashfs images", ["squashfs-tools", "squashfs-tools", "squashfs-tools", "squashfs", "squashfs-tools"]);
    /// Makes ext4 file systems.
    MKE2FS = program("mke2fs", "makes file systems", same("e2fsprogs"));
    /// Indexes a kernel's modules.
    DEPMOD = program("depmod", "indexes kernel modules", same("kmod"));
    /// The debugger.
    GDB = program("gdb", "debugs programs and kernels", same("gdb"));
    /// Checks signatures against given keys.
    GPGV = program("gpgv", "checks signatures", ["gpgv", "gnupg2", "gnupg", "gpg2", "gpgv"]);
    /// Makes signatures.
    GPG = program("gpg", "makes signatures", ["gnupg", "gnupg2", "gnupg", "gpg2", "gnupg"]);
    /// Ends gpg's agent.
    GPGCONF = program("gpgconf", "controls gpg", ["gnupg", "gnupg2", "gnupg", "gpg2", "gnupg"]);
    /// git.
    GIT = program("git", "fetches sources, and knows what a worktree ignores", same("git"));
    /// Python.
    PYTHON = program("python3", "runs Python programs", ["python3", "python3", "python", "python3", "python3"]);
    /// The Python module that makes virtual environments.
    PYTHON_VENV = Tool {
        sign: Sign::PythonModule("ensurepip"),
        does: "makes virtual environments of Python",
        packages: ["python3-venv", "python3", "python", "python3", "python3"],
    };
    /// Perl.
    PERL = program("perl", "runs Perl programs", same("perl"));
    /// bash.
    BASH = program("bash", "runs scripts", same("bash"));

    /// The C compiler.
    GCC = program("gcc", "compiles C", same("gcc"));
    /// The C compiler as `cc`.
    CC = program("cc", "compiles C", same("gcc"));
    /// The C++ compiler.
    CXX = program("c++", "compiles C++", ["g++", "gcc-c++", "gcc", "gcc-c++", "g++"]);
    /// Clang.
    CLANG = program("clang", "compiles C", same("clang"));
    /// LLVM's linker.
    LLD = program("ld.lld", "links programs", same("lld"));
    /// LLVM's other tools for object files.
    LLVM_AR = program("llvm-ar", "makes static libraries", same("llvm"));
    /// The linker.
    LD = program("ld", "links programs", same("binutils"));
    /// Shows what is in an ELF file.
    READELF = program("readelf", "reads ELF files", same("binutils"));
    /// make.
    MAKE = program("make", "builds", same("make"));
    /// Makes scanners.
    FLEX = program("flex", "generates scanners", same("flex"));
    /// Makes parsers.
    BISON = program("bison", "generates parsers", same("bison"));
    /// The calculator.
    BC = program("bc", "calculates", same("bc"));
    /// autoconf.
    AUTOCONF = program("autoconf", "generates configure scripts", same("autoconf"));
    /// automake.
    AUTOMAKE = program("automake", "generates makefiles", same("automake"));
    /// libtool.
    LIBTOOLIZE = program("libtoolize", "prepares the building of libraries", same("libtool"));
    /// pkg-config.
    PKG_CONFIG = program("pkg-config", "finds libraries", ["pkg-config", "pkgconf-pkg-config", "pkgconf", "pkgconf-pkg-config", "pkgconf"]);
    /// OpenSSL's program.
    OPENSSL = program("openssl", "makes keys and signatures", same("openssl"));

    /// cmp and diff.
    CMP = program("cmp", "compares files", same("diffutils"));
    /// cpio.
    CPIO = program("cpio", "packs archives", same("cpio"));
    /// tar.
    TAR = program("tar", "packs and unpacks archives", same("tar"));
    /// xz.
    XZ = program("xz", "compresses files", ["xz-utils", "xz", "xz", "xz", "xz"]);
    /// sha256sum.
    SHA256SUM = program("sha256sum", "computes checksums", same("coreutils"));
    /// Records a terminal.
    SCRIPT = program("script", "records a terminal", ["bsdutils", "util-linux", "util-linux", "util-linux", "util-linux-misc"]);
    /// Starts a session.
    SETSID = program("setsid", "starts a session", same("util-linux"));
    /// Enters namespaces.
    UNSHARE = program("unshare", "makes namespaces", same("util-linux"));

    /// The C library's headers. A compiler needs them, but distributions only recommend them with
    /// it.
    LIBC_HEADERS = header("stdio.h", ["libc6-dev", "glibc-devel", "glibc", "glibc-devel", "musl-dev"]);
    /// The kernel's userspace headers.
    LINUX_HEADERS = header("linux/types.h", ["linux-libc-dev", "kernel-headers", "linux-api-headers", "linux-glibc-devel", "linux-headers"]);
    /// libelf.
    LIBELF = header("libelf.h", ["libelf-dev", "elfutils-libelf-devel", "libelf", "libelf-devel", "elfutils-dev"]);
    /// OpenSSL's library.
    LIBCRYPTO = header("openssl/opensslv.h", ["libssl-dev", "openssl-devel", "openssl", "libopenssl-devel", "openssl-dev"]);
    /// libuuid.
    LIBUUID = header("uuid/uuid.h", ["uuid-dev", "libuuid-devel", "util-linux-libs", "libuuid-devel", "util-linux-dev"]);
    /// libblkid.
    LIBBLKID = header("blkid/blkid.h", ["libblkid-dev", "libblkid-devel", "util-linux-libs", "libblkid-devel", "util-linux-dev"]);
    /// libtirpc.
    LIBTIRPC = header("tirpc/rpc/xdr.h", ["libtirpc-dev", "libtirpc-devel", "libtirpc", "libtirpc-devel", "libtirpc-dev"]);
    /// zlib.
    ZLIB = header("zlib.h", ["zlib1g-dev", "zlib-devel", "zlib", "zlib-devel", "zlib-dev"]);
    /// libudev.
    LIBUDEV = header("libudev.h", ["libudev-dev", "systemd-devel", "systemd-libs", "systemd-devel", "eudev-dev"]);
    /// libaio.
    LIBAIO = header("libaio.h", ["libaio-dev", "libaio-devel", "libaio", "libaio-devel", "libaio-dev"]);
}

/// QEMU for guests of `arch`.
pub fn qemu(arch: &Arch) -> Tool {
    program(arch.qemu, "runs VMs", arch.qemu_packages)
}

/// The cross compiler for `arch`.
pub fn cross_gcc(arch: &Arch) -> Tool {
    program(arch.cross_gcc, "compiles C for another architecture", arch.cross_packages)
}

/// The C library to link programs for `arch` with, on hosts of other architectures.
pub fn cross_libc(arch: &Arch) -> Tool {
    let (file, debian) = arch.cross_libc;
    Tool { sign: Sign::File(file), does: "C library for another architecture", packages: [debian, "", "", "", ""] }
}

/// The user-mode emulator for programs of `arch`, registered with the kernel.
pub fn user_mode(arch: &Arch) -> Tool {
    Tool {
        sign: Sign::Emulator(arch.user_mode),
        does: "runs programs of another architecture",
        packages: [
            "qemu-user-static binfmt-support",
            "qemu-user-static",
            "qemu-user-static qemu-user-static-binfmt",
            "qemu-linux-user",
            "qemu-openrc",
        ],
    }
}

/// The tool that is the program `name`.
pub(super) fn find(name: &str) -> Option<Tool> {
    let of_arch = quiz_arch::ALL.iter().flat_map(|arch| [qemu(arch), cross_gcc(arch)]);
    ALL.iter().copied().chain(of_arch).find(|tool| tool.sign == Sign::Program(tool.name()) && tool.name() == name)
}
