//! The table of host tools: for each, what shows that it is installed and which package has it in each family of distributions.
//! Which purpose needs which of them is the parent module's.

use super::{Sign, Tool};

const fn program(name: &'static str, purpose: &'static str, packages: [&'static str; 5]) -> Tool {
    Tool { sign: Sign::Program(name), purpose, packages }
}

const fn header(name: &'static str, purpose: &'static str, packages: [&'static str; 5]) -> Tool {
    Tool { sign: Sign::Header(name), purpose, packages }
}

const fn same(name: &'static str) -> [&'static str; 5] {
    [name; 5]
}

pub(super) const QEMU: &str = "runs the VM";
pub(super) static QEMUS: &[Tool] = &[
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
pub(super) static APT_GET: Tool = program("apt-get", GET, ["apt", "apt", "apt", "", "apt"]);
pub(super) static DPKG_DEB: Tool = program("dpkg-deb", "unpacks Debian packages", same("dpkg"));
pub(super) static KEYRING: Tool = Tool {
    sign: Sign::File("/usr/share/keyrings/debian-archive-keyring.gpg"),
    purpose: "holds the keys that sign Debian's packages",
    packages: ["debian-archive-keyring", "debian-keyring", "debian-archive-keyring", "", "debian-archive-keyring"],
};
pub(super) static GDB: Tool = program("gdb", "looks into a guest's memory", same("gdb"));
pub(super) static GPGV: Tool =
    program("gpgv", "checks signatures of kernel sources", ["gpgv", "gnupg2", "gnupg", "gpg2", "gpgv"]);
pub(super) static GIT: Tool = program("git", "fetches sources, and knows what a worktree ignores", same("git"));
pub(super) static DEPMOD: Tool = program("depmod", "indexes kernel modules", same("kmod"));
pub(super) static MMDEBSTRAP: Tool =
    program("mmdebstrap", "makes Debian file systems", ["mmdebstrap", "mmdebstrap", "mmdebstrap", "", "mmdebstrap"]);
pub(super) static MKE2FS: Tool = program("mke2fs", "makes the file system for a run's artifacts", same("e2fsprogs"));
pub(super) static ARCH_TEST: Tool = program(
    "arch-test",
    "tells mmdebstrap whether the host can run another architecture's programs",
    ["arch-test", "arch-test", "arch-test", "", ""],
);
// Of one package with mksquashfs, but newer.
pub(super) static SQFSTAR: Tool = program(
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
pub(super) static QEMU_USERS: &[(&str, Tool)] = &[
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
pub(super) static GCC: Tool = program("gcc", BUILDS, same("gcc"));
// A compiler alone compiles nothing: distributions only recommend the C library's headers with it.
pub(super) static LIBC_HEADERS: Tool =
    header("stdio.h", BUILDS, ["libc6-dev", "glibc-devel", "glibc", "glibc-devel", "musl-dev"]);
pub(super) static BUILD: &[Tool] = &[
    program("make", BUILDS, same("make")),
    program("ld", BUILDS, same("binutils")),
    program("flex", BUILDS, same("flex")),
    program("bison", BUILDS, same("bison")),
    program("bc", BUILDS, same("bc")),
    program("perl", BUILDS, same("perl")),
    program("python3", BUILDS, ["python3", "python3", "python", "python3", "python3"]),
    program("openssl", BUILDS, same("openssl")),
    program("tar", "unpacks kernel sources", same("tar")),
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
pub(super) static PYTHON: Tool = program(
    "python3",
    "reads the results of the ZFS test suite",
    ["python3", "python3", "python", "python3", "python3"],
);

const TESTS: &str = "tests quiz itself";
/// What quiz's own tests call, beyond what quiz calls.
pub(super) static TEST: &[Tool] = &[
    // Tests sign what they serve, with a key that they make.
    program("gpg", TESTS, ["gnupg", "gnupg2", "gnupg", "gpg2", "gnupg"]),
    program("gpgconf", TESTS, ["gnupg", "gnupg2", "gnupg", "gpg2", "gnupg"]),
    program("readelf", TESTS, same("binutils")),
    program("unsquashfs", TESTS, ["squashfs-tools", "squashfs-tools", "squashfs-tools", "squashfs", "squashfs-tools"]),
    program("bash", TESTS, same("bash")),
    program("cmp", TESTS, same("diffutils")),
    program("sha256sum", TESTS, same("coreutils")),
    program("script", TESTS, ["bsdutils", "util-linux", "util-linux", "util-linux", "util-linux-misc"]),
    program("setsid", TESTS, same("util-linux")),
    program("unshare", TESTS, same("util-linux")),
];

const BENCHES: &str = "measures quiz";
/// What quiz's own benchmarks call, beyond what quiz and its tests call.
pub(super) static BENCH: &[Tool] = &[
    program("cc", BENCHES, same("gcc")),
    program("cpio", BENCHES, same("cpio")),
    // virtme-ng goes into a virtual environment.
    Tool {
        sign: Sign::PythonModule("ensurepip"),
        purpose: BENCHES,
        packages: ["python3-venv", "python3", "python", "python3", "python3"],
    },
];

/// libFuzzer is C++.
pub(super) static CXX: Tool = program("c++", "fuzzes quiz", ["g++", "gcc-c++", "gcc", "gcc-c++", "g++"]);

const ZFS: &str = "builds OpenZFS";
pub(super) static ZFS_BUILD: &[Tool] = &[
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

pub(super) static PKG_CONFIG: Tool =
    program("pkg-config", ZFS, ["pkg-config", "pkgconf-pkg-config", "pkgconf", "pkgconf-pkg-config", "pkgconf"]);

const CLANG: &str = "builds kernels with --llvm";
pub(super) static LLVM: &[Tool] = &[
    program("clang", CLANG, same("clang")),
    program("ld.lld", CLANG, same("lld")),
    program("llvm-ar", CLANG, same("llvm")),
];

const CROSS: &str = "builds kernels for another architecture";
pub(super) static CROSS_COMPILERS: &[Tool] = &[
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
pub(super) static CROSS_LIBCS: &[(&str, Tool)] = &[
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
