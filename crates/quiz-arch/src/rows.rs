//! The rows of the table. Not for the meaning of the columns (see `arch`).

use crate::arch::{Arch, Discovery, Machine, Port, Transport};

/// Every architecture, the most used first.
pub static ALL: &[&Arch] =
    &[&X86_64, &AARCH64, &S390X, &PPC64LE, &RISCV64, &PPC64, &LOONGARCH64, &ARMV7, &I686, &MIPS64EL];

const fn pci(name: &'static str) -> Machine {
    Machine {
        name,
        transport: Transport::Pci,
        discovery: Discovery::Bus,
        options: &[],
        kvm_options: &[],
        pvh: false,
        needs_tsc_khz: false,
        // A PCI bus has 32 slots; machines use the first and the last themselves.
        slots: 30,
        fw_cfg: false,
    }
}

/// The machine `virt`, which several architectures have.
const VIRT: Machine = Machine { fw_cfg: true, ..pci("virt") };

/// `virt` with the newest interrupt controller that the host has or QEMU emulates. The oldest
/// supports only eight CPUs, and not every host has it.
const ARM_VIRT: Machine = Machine { options: &["gic-version=max"], ..VIRT };

/// A microvm lacks the port that reports an NMI's reason. Its kernel therefore takes an NMI for a
/// bus error.
const X86_NMI: &[&str] = &["unknown_nmi_panic", "sysctl.kernel.panic_on_unrecovered_nmi=1"];

const MICROVM: Machine = Machine {
    name: "microvm",
    transport: Transport::Mmio,
    discovery: Discovery::Acpi,
    options: &["acpi=on", "isa-serial=on"],
    // kvmclock and the local APIC timer replace PIT and PIC. Under TCG, leaving these out costs
    // seconds.
    kvm_options: &["pit=off", "pic=off", "rtc=on"],
    pvh: true,
    needs_tsc_khz: true,
    slots: 24,
    fw_cfg: true,
};

/// A model of a real processor, plus features that speed up a kernel. Not QEMU's `max` minus slow
/// features: the remainder need not be consistent, and it differs between QEMU versions. For
/// example, QEMU 10's `max` without ERMS kept FSRM, which implies ERMS. Linux 6.1 then never left
/// its memmove().
///
/// - Westmere is an x86-64-v2 with AES and CLMUL.
/// - It has no AVX. Emulated AVX is slower than SSE, and OpenZFS and RAID 6 would measure it at
///   each load.
/// - It has no ERMS and FSRM: QEMU emulates a string instruction step by step.
/// - It has no 5-level page tables, and no PCID, which QEMU emulates by emptying its whole TLB.
/// - It has no XSAVE, so that a task's state is 512 bytes.
/// - `v1`, because later versions have IBRS, which QEMU does not emulate and warns about.
/// - RDRAND, so that the kernel has random numbers at once. Not RDSEED, which QEMU 7.2 lacks.
/// - SMEP and SMAP, to catch a kernel that wrongly uses a user's memory.
/// - FSGSBASE makes entering the kernel by an exception cheaper.
const X86_64_CPU: &str = "Westmere-v1,+rdrand,+smep,+smap,+fsgsbase";

static X86_64: Arch = Arch {
    name: "x86_64",
    debian: "amd64",
    port: Port::Released,
    debian_kernel: "linux-image-amd64",
    debian_headers: "linux-headers-amd64",
    kernel_arch: "x86_64",
    kernel_image: "bzImage",
    kernel_image_path: "arch/x86/boot/bzImage",
    kernel_config: include_str!("kernel-config/x86_64.config"),
    multiarch: "x86_64-linux-gnu",
    lib_links: &["lib32", "lib64", "libx32"],
    native_on: &[],
    cross: "x86_64-linux-gnu-",
    cross_gcc: "x86_64-linux-gnu-gcc",
    cross_packages: ["gcc-x86-64-linux-gnu", "gcc-x86_64-linux-gnu", "", "cross-x86_64-gcc14", ""],
    rust: "x86_64-unknown-linux-gnu",
    cross_libc: ("/usr/x86_64-linux-gnu/lib/libc.a", "libc6-dev-amd64-cross"),
    user_mode: "qemu-x86_64",
    qemu: "qemu-system-x86_64",
    qemu_packages: ["qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86", "qemu-x86", "qemu-system-x86_64"],
    machines: &[
        // Without ACPI tables it boots sooner, but the kernel must take its devices from the
        // command line.
        Machine {
            discovery: Discovery::CommandLine,
            options: &["acpi=off", "isa-serial=on"],
            slots: 8,
            // Linux's driver warns about missing ACPI even if the command line names the device
            // (`fw_cfg_read_blob`).
            fw_cfg: false,
            ..MICROVM
        },
        MICROVM,
        Machine { pvh: true, fw_cfg: true, ..pci("q35") },
    ],
    cpu: X86_64_CPU,
    console: "ttyS0",
    console_device: None,
    yields: true,
    tsc: true,
    nmi_words: X86_NMI,
    kvm: true,
};

static AARCH64: Arch = Arch {
    name: "aarch64",
    debian: "arm64",
    port: Port::Released,
    debian_kernel: "linux-image-arm64",
    debian_headers: "linux-headers-arm64",
    kernel_arch: "arm64",
    kernel_image: "Image",
    kernel_image_path: "arch/arm64/boot/Image",
    kernel_config: include_str!("kernel-config/aarch64.config"),
    multiarch: "aarch64-linux-gnu",
    lib_links: &[],
    native_on: &[],
    cross: "aarch64-linux-gnu-",
    cross_gcc: "aarch64-linux-gnu-gcc",
    cross_packages: [
        "gcc-aarch64-linux-gnu",
        "gcc-aarch64-linux-gnu",
        "aarch64-linux-gnu-gcc",
        "cross-aarch64-gcc14",
        "",
    ],
    rust: "aarch64-unknown-linux-gnu",
    cross_libc: ("/usr/aarch64-linux-gnu/lib/libc.a", "libc6-dev-arm64-cross"),
    user_mode: "qemu-aarch64",
    qemu: "qemu-system-aarch64",
    qemu_packages: [
        "qemu-system-arm",
        "qemu-system-aarch64-core",
        "qemu-system-aarch64",
        "qemu-arm",
        "qemu-system-aarch64",
    ],
    machines: &[ARM_VIRT],
    // A newer model signs every return address. Emulated, that takes four fifths of a boot's time,
    // or a third with the cheap algorithm.
    cpu: "neoverse-n1",
    console: "ttyAMA0",
    console_device: None,
    yields: true,
    tsc: false,
    nmi_words: &[],
    kvm: true,
};

static S390X: Arch = Arch {
    name: "s390x",
    debian: "s390x",
    port: Port::Released,
    debian_kernel: "linux-image-s390x",
    debian_headers: "linux-headers-s390x",
    kernel_arch: "s390",
    kernel_image: "bzImage",
    kernel_image_path: "arch/s390/boot/bzImage",
    kernel_config: include_str!("kernel-config/s390x.config"),
    multiarch: "s390x-linux-gnu",
    lib_links: &["lib32"],
    native_on: &[],
    cross: "s390x-linux-gnu-",
    cross_gcc: "s390x-linux-gnu-gcc",
    cross_packages: ["gcc-s390x-linux-gnu", "gcc-s390x-linux-gnu", "", "cross-s390x-gcc14", ""],
    rust: "s390x-unknown-linux-gnu",
    cross_libc: ("/usr/s390x-linux-gnu/lib/libc.a", "libc6-dev-s390x-cross"),
    user_mode: "qemu-s390x",
    qemu: "qemu-system-s390x",
    qemu_packages: [
        "qemu-system-misc",
        "qemu-system-s390x-core",
        "qemu-system-s390x",
        "qemu-s390x",
        "qemu-system-s390x",
    ],
    machines: &[Machine { transport: Transport::Ccw, slots: 256, ..pci("s390-ccw-virtio") }],
    cpu: "max",
    console: "ttysclp0",
    console_device: Some("sclpconsole"),
    yields: true,
    tsc: false,
    nmi_words: &[],
    kvm: true,
};

static PPC64LE: Arch = Arch {
    name: "ppc64le",
    debian: "ppc64el",
    port: Port::Released,
    debian_kernel: "linux-image-powerpc64le",
    debian_headers: "linux-headers-powerpc64le",
    kernel_arch: "powerpc",
    kernel_image: "vmlinux",
    kernel_image_path: "vmlinux",
    kernel_config: include_str!("kernel-config/ppc64le.config"),
    multiarch: "powerpc64le-linux-gnu",
    lib_links: &["lib64"],
    native_on: &[],
    cross: "powerpc64le-linux-gnu-",
    cross_gcc: "powerpc64le-linux-gnu-gcc",
    cross_packages: ["gcc-powerpc64le-linux-gnu", "gcc-powerpc64le-linux-gnu", "", "cross-ppc64le-gcc14", ""],
    rust: "powerpc64le-unknown-linux-gnu",
    cross_libc: ("/usr/powerpc64le-linux-gnu/lib/libc.a", "libc6-dev-ppc64el-cross"),
    user_mode: "qemu-ppc64le",
    qemu: "qemu-system-ppc64",
    qemu_packages: ["qemu-system-ppc", "qemu-system-ppc-core", "qemu-system-ppc", "qemu-ppc", "qemu-system-ppc64"],
    // VOF instead of the usual firmware, which takes most of a boot. QEMU itself implements VOF's
    // services.
    machines: &[Machine { options: &["x-vof=on"], ..pci("pseries") }],
    cpu: "power9",
    console: "hvc0",
    console_device: None,
    yields: true,
    tsc: false,
    nmi_words: &[],
    kvm: true,
};

static RISCV64: Arch = Arch {
    name: "riscv64",
    debian: "riscv64",
    port: Port::Since("trixie"),
    debian_kernel: "linux-image-riscv64",
    debian_headers: "linux-headers-riscv64",
    kernel_arch: "riscv",
    kernel_image: "Image",
    kernel_image_path: "arch/riscv/boot/Image",
    kernel_config: include_str!("kernel-config/riscv64.config"),
    multiarch: "riscv64-linux-gnu",
    lib_links: &[],
    native_on: &[],
    cross: "riscv64-linux-gnu-",
    cross_gcc: "riscv64-linux-gnu-gcc",
    cross_packages: [
        "gcc-riscv64-linux-gnu",
        "gcc-riscv64-linux-gnu",
        "riscv64-linux-gnu-gcc",
        "cross-riscv64-gcc14",
        "",
    ],
    rust: "riscv64gc-unknown-linux-gnu",
    cross_libc: ("/usr/riscv64-linux-gnu/lib/libc.a", "libc6-dev-riscv64-cross"),
    user_mode: "qemu-riscv64",
    qemu: "qemu-system-riscv64",
    qemu_packages: [
        "qemu-system-misc",
        "qemu-system-riscv-core",
        "qemu-system-riscv",
        "qemu-extra",
        "qemu-system-riscv64",
    ],
    // QEMU's firmware configuration device has no DMA here, which vmcoreinfo needs.
    machines: &[pci("virt")],
    cpu: "rv64",
    console: "ttyS0",
    console_device: None,
    yields: false,
    tsc: false,
    nmi_words: &[],
    kvm: true,
};

/// Big-endian PowerPC.
static PPC64: Arch = Arch {
    name: "ppc64",
    debian: "ppc64",
    port: Port::Unofficial,
    debian_kernel: "linux-image-powerpc64",
    debian_headers: "linux-headers-powerpc64",
    kernel_config: include_str!("kernel-config/ppc64.config"),
    multiarch: "powerpc64-linux-gnu",
    lib_links: &["lib32", "lib64"],
    native_on: &[],
    cross: "powerpc64-linux-gnu-",
    cross_gcc: "powerpc64-linux-gnu-gcc",
    cross_packages: ["gcc-powerpc64-linux-gnu", "gcc-powerpc64-linux-gnu", "", "cross-ppc64-gcc14", ""],
    rust: "powerpc64-unknown-linux-gnu",
    cross_libc: ("/usr/powerpc64-linux-gnu/lib/libc.a", "libc6-dev-ppc64-cross"),
    user_mode: "qemu-ppc64",
    ..PPC64LE
};

static LOONGARCH64: Arch = Arch {
    name: "loongarch64",
    debian: "loong64",
    port: Port::Since("forky"),
    debian_kernel: "linux-image-loong64",
    debian_headers: "linux-headers-loong64",
    kernel_arch: "loongarch",
    kernel_image: "vmlinux",
    kernel_image_path: "vmlinux",
    kernel_config: include_str!("kernel-config/loongarch64.config"),
    multiarch: "loongarch64-linux-gnu",
    lib_links: &["lib64"],
    native_on: &[],
    cross: "loongarch64-linux-gnu-",
    cross_gcc: "loongarch64-linux-gnu-gcc",
    cross_packages: ["gcc-loongarch64-linux-gnu", "gcc-loongarch64-linux-gnu", "loongarch64-linux-gnu-gcc", "", ""],
    rust: "loongarch64-unknown-linux-gnu",
    cross_libc: ("/usr/loongarch64-linux-gnu/lib/libc.a", "libc6-dev-loong64-cross"),
    user_mode: "qemu-loongarch64",
    qemu: "qemu-system-loongarch64",
    qemu_packages: [
        "qemu-system-misc",
        "qemu-system-loongarch64-core",
        "qemu-system-loongarch64",
        "qemu-extra",
        "qemu-system-loongarch64",
    ],
    machines: &[VIRT],
    cpu: "la464",
    console: "ttyS0",
    console_device: None,
    yields: false,
    tsc: false,
    nmi_words: &[],
    kvm: true,
};

static ARMV7: Arch = Arch {
    name: "armv7l",
    debian: "armhf",
    port: Port::Released,
    debian_kernel: "linux-image-armmp",
    debian_headers: "linux-headers-armmp",
    kernel_arch: "arm",
    kernel_image: "zImage",
    kernel_image_path: "arch/arm/boot/zImage",
    kernel_config: include_str!("kernel-config/armv7l.config"),
    multiarch: "arm-linux-gnueabihf",
    lib_links: &[],
    native_on: &[],
    cross: "arm-linux-gnueabihf-",
    cross_gcc: "arm-linux-gnueabihf-gcc",
    cross_packages: ["gcc-arm-linux-gnueabihf", "gcc-arm-linux-gnu", "", "cross-arm-gcc14", ""],
    rust: "armv7-unknown-linux-gnueabihf",
    cross_libc: ("/usr/arm-linux-gnueabihf/lib/libc.a", "libc6-dev-armhf-cross"),
    user_mode: "qemu-arm",
    qemu: "qemu-system-arm",
    qemu_packages: ["qemu-system-arm", "qemu-system-arm-core", "qemu-system-arm", "qemu-arm", "qemu-system-arm"],
    // A kernel with short page tables cannot reach addresses above 4 GiB, where the PCI bus is by
    // default.
    machines: &[Machine { options: &["highmem=off"], ..VIRT }],
    cpu: "cortex-a15",
    console: "ttyAMA0",
    console_device: None,
    yields: false,
    tsc: false,
    nmi_words: &[],
    kvm: false,
};

static I686: Arch = Arch {
    name: "i686",
    debian: "i386",
    port: Port::Released,
    debian_kernel: "linux-image-686-pae",
    debian_headers: "linux-headers-686-pae",
    kernel_arch: "i386",
    kernel_image: "bzImage",
    kernel_image_path: "arch/x86/boot/bzImage",
    kernel_config: include_str!("kernel-config/i686.config"),
    multiarch: "i386-linux-gnu",
    lib_links: &["lib64", "libx32"],
    native_on: &["x86_64"],
    cross: "i686-linux-gnu-",
    cross_gcc: "i686-linux-gnu-gcc",
    cross_packages: ["gcc-i686-linux-gnu", "", "", "", ""],
    rust: "i686-unknown-linux-gnu",
    cross_libc: ("/usr/i686-linux-gnu/lib/libc.a", "libc6-dev-i386-cross"),
    user_mode: "qemu-i386",
    qemu: "qemu-system-i386",
    qemu_packages: ["qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86", "qemu-x86", "qemu-system-i386"],
    machines: &[Machine { fw_cfg: true, ..pci("q35") }],
    cpu: "max",
    console: "ttyS0",
    console_device: None,
    yields: true,
    tsc: true,
    nmi_words: X86_NMI,
    kvm: false,
};

static MIPS64EL: Arch = Arch {
    name: "mips64el",
    debian: "mips64el",
    port: Port::Released,
    debian_kernel: "linux-image-5kc-malta",
    debian_headers: "linux-headers-5kc-malta",
    kernel_arch: "mips",
    kernel_image: "vmlinux",
    kernel_image_path: "vmlinux",
    kernel_config: include_str!("kernel-config/mips64el.config"),
    multiarch: "mips64el-linux-gnuabi64",
    lib_links: &["lib32", "lib64"],
    native_on: &[],
    cross: "mips64el-linux-gnuabi64-",
    cross_gcc: "mips64el-linux-gnuabi64-gcc",
    cross_packages: ["gcc-mips64el-linux-gnuabi64", "gcc-mips64-linux-gnu", "", "", ""],
    rust: "mips64el-unknown-linux-gnuabi64",
    cross_libc: ("/usr/mips64el-linux-gnuabi64/lib/libc.a", "libc6-dev-mips64el-cross"),
    user_mode: "qemu-mips64el",
    qemu: "qemu-system-mips64el",
    qemu_packages: [
        "qemu-system-mips",
        "qemu-system-mips-core",
        "qemu-system-mips",
        "qemu-extra",
        "qemu-system-mips64el",
    ],
    machines: &[pci("malta")],
    cpu: "5KEc",
    console: "ttyS0",
    console_device: None,
    yields: false,
    tsc: false,
    nmi_words: &[],
    kvm: false,
};
