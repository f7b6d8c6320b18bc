//! The table of architectures: everything that quiz knows about one is a row here.
//!
//! Adding an architecture is adding a row. No other code asks *which* architecture it has in hand; it asks the row.
//! Not for detection of what a host can do (that is measured, see `quiz-vm::accel`).

/// One architecture that quiz can run guests of, build kernels and roots for.
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// The name quiz uses everywhere, which is also what `uname -m` prints.
    pub name: &'static str,
    /// Debian's name for it.
    pub debian: &'static str,
    /// Where Debian has it.
    pub port: Port,
    /// Debian's metapackage of the stock kernel.
    pub debian_kernel: &'static str,
    /// Debian's metapackage of that kernel's headers.
    pub debian_headers: &'static str,
    /// `ARCH=` of the kernel's build system.
    pub kernel_arch: &'static str,
    /// The kernel's `make` target for an image that QEMU can start.
    pub kernel_image: &'static str,
    /// Where the image is after the build, relative to the build directory.
    pub kernel_image_path: &'static str,
    /// `CROSS_COMPILE=` when the host is another architecture (Debian's cross toolchain prefix).
    pub cross: &'static str,
    /// What Rust calls it when the agent is built for it.
    pub rust: &'static str,
    /// QEMU's program.
    pub qemu: &'static str,
    /// Debian's package of that program.
    pub qemu_package: &'static str,
    /// Machines to choose from, the preferred one first.
    pub machines: &'static [Machine],
    /// QEMU's `-cpu` when the guest is emulated; `host` is used with KVM.
    pub cpu: &'static str,
    /// The kernel's console device.
    pub console: &'static str,
    /// QEMU's device for that console, where it is not the machine's first serial port.
    pub console_device: Option<&'static str>,
    /// A CPU that waits in a loop says so, and QEMU then has another one run. Where none does, several CPUs need several threads: in one,
    /// each wait of one CPU for another lasts until QEMU's next turn, a tenth of a second.
    pub yields: bool,
    /// It has a time-stamp counter whose rate the kernel can be told.
    pub tsc: bool,
    /// Words for the kernel's command line that have it panic, and so tell where it is, when a non-maskable interrupt comes from outside.
    pub nmi_words: &'static [&'static str],
    /// Whether KVM on a host of this same architecture can run it.
    pub kvm: bool,
}

/// Where Debian has an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// In all releases of these years.
    Released,
    /// In this release and those after it.
    Since(&'static str),
    /// In the archive of unofficial ports only: built by volunteers, signed by keys of its own, and without any release but `sid`.
    Unofficial,
}

impl Port {
    /// The release to take where the user has not chosen one, if it is not the usual one.
    pub fn release(self) -> Option<&'static str> {
        match self {
            Port::Released => None,
            Port::Since(release) => Some(release),
            Port::Unofficial => Some("sid"),
        }
    }
}

/// A QEMU machine of an architecture.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine {
    /// QEMU's `-machine` name.
    pub name: &'static str,
    /// How virtio devices are attached to it.
    pub transport: Transport,
    /// How the kernel finds the machine's virtio devices.
    pub discovery: Discovery,
    /// Further properties of `-machine`.
    pub options: &'static [&'static str],
    /// Properties that are right only with KVM.
    pub kvm_options: &'static [&'static str],
    /// The machine starts an uncompressed ELF kernel through its PVH entry point.
    pub pvh: bool,
    /// The guest cannot find out its TSC frequency under TCG and must be told (`tsc_early_khz=`).
    pub needs_tsc_khz: bool,
    /// How many virtio devices it has room for.
    pub slots: usize,
    /// It has QEMU's firmware configuration device, and guests find it. Through it they say where a dump of their memory has what (`vmcoreinfo`).
    pub fw_cfg: bool,
}

/// How virtio devices are attached to a machine; decides QEMU's device names and the kernel's drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `virtio-*-pci`
    Pci,
    /// `virtio-*-device` on virtio-mmio
    Mmio,
    /// `virtio-*-ccw` of s390x
    Ccw,
}

/// How a kernel finds virtio devices; decides which of its options are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// The bus lists them.
    Bus,
    /// QEMU names them on the kernel command line (`CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES`).
    CommandLine,
    /// ACPI tables list them.
    Acpi,
}

const fn pci(name: &'static str) -> Machine {
    Machine {
        name,
        transport: Transport::Pci,
        discovery: Discovery::Bus,
        options: &[],
        kvm_options: &[],
        pvh: false,
        needs_tsc_khz: false,
        // A PCI bus has 32, of which machines take the first and the last for themselves.
        slots: 30,
        fw_cfg: false,
    }
}

/// `virt` of the architectures that have it.
const VIRT: Machine = Machine { fw_cfg: true, ..pci("virt") };

/// With the newest interrupt controller that the host has, or QEMU emulates: the oldest serves eight CPUs, and not every host has it.
const ARM_VIRT: Machine = Machine { options: &["gic-version=max"], ..VIRT };

/// A microvm has no port that tells an NMI's reason, which a kernel then takes for an error of the bus.
const X86_NMI: &[&str] = &["unknown_nmi_panic", "sysctl.kernel.panic_on_unrecovered_nmi=1"];

const MICROVM: Machine = Machine {
    name: "microvm",
    transport: Transport::Mmio,
    discovery: Discovery::Acpi,
    options: &["acpi=on", "isa-serial=on"],
    // kvmclock and the local APIC timer do their work. Under TCG leaving them out costs seconds.
    kvm_options: &["pit=off", "pic=off", "rtc=on"],
    pvh: true,
    needs_tsc_khz: true,
    slots: 24,
    fw_cfg: true,
};

/// A real processor as a whole, and what a kernel gains by. Not QEMU's `max` less what is slow: what is left need not make sense, and it is
/// another processor with each QEMU. So QEMU 10's `max` without ERMS kept FSRM, which implies it, and Linux 6.1 then never left its memmove().
///
/// - Westmere is an x86-64-v2 with AES and CLMUL. It has no AVX, which is slower than SSE when emulated and which OpenZFS and RAID 6 would
///   measure at each load; no ERMS and FSRM, since a string instruction is emulated step by step; no 5-level page tables; no PCID, which
///   QEMU emulates by emptying its whole TLB; no XSAVE, so that a task's state is 512 bytes.
/// - `v1`, because later ones have IBRS, which QEMU does not emulate and warns of.
/// - RDRAND, so that the kernel's random numbers are there at once. Not RDSEED, which QEMU 7.2 lacks.
/// - SMEP and SMAP, because a kernel that wrongly uses a user's memory is to be caught.
/// - FSGSBASE, because entering the kernel by an exception is cheaper with it.
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
    cross: "x86_64-linux-gnu-",
    rust: "x86_64-unknown-linux-gnu",
    qemu: "qemu-system-x86_64",
    qemu_package: "qemu-system-x86",
    machines: &[
        // Without ACPI tables to read it boots sooner, but the kernel must take its devices from the command line.
        Machine {
            discovery: Discovery::CommandLine,
            options: &["acpi=off", "isa-serial=on"],
            slots: 8,
            // Linux's driver warns of missing ACPI even where it is told of the device (`fw_cfg_read_blob`).
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
    cross: "aarch64-linux-gnu-",
    rust: "aarch64-unknown-linux-gnu",
    qemu: "qemu-system-aarch64",
    qemu_package: "qemu-system-arm",
    machines: &[ARM_VIRT],
    // Emulated, a newer one signs every return address, which takes four fifths of the time of a boot; done the cheap way, a third.
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
    cross: "s390x-linux-gnu-",
    rust: "s390x-unknown-linux-gnu",
    qemu: "qemu-system-s390x",
    qemu_package: "qemu-system-misc",
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
    cross: "powerpc64le-linux-gnu-",
    rust: "powerpc64le-unknown-linux-gnu",
    qemu: "qemu-system-ppc64",
    qemu_package: "qemu-system-ppc",
    // Without its firmware, which is most of a boot, and speaks to the guest from QEMU instead.
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
    cross: "riscv64-linux-gnu-",
    rust: "riscv64gc-unknown-linux-gnu",
    qemu: "qemu-system-riscv64",
    qemu_package: "qemu-system-misc",
    // Its firmware configuration device has no DMA, which vmcoreinfo wants.
    machines: &[pci("virt")],
    cpu: "rv64",
    console: "ttyS0",
    console_device: None,
    yields: false,
    tsc: false,
    nmi_words: &[],
    kvm: true,
};

/// The big-endian one.
static PPC64: Arch = Arch {
    name: "ppc64",
    debian: "ppc64",
    port: Port::Unofficial,
    debian_kernel: "linux-image-powerpc64",
    debian_headers: "linux-headers-powerpc64",
    cross: "powerpc64-linux-gnu-",
    rust: "powerpc64-unknown-linux-gnu",
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
    cross: "loongarch64-linux-gnu-",
    rust: "loongarch64-unknown-linux-gnu",
    qemu: "qemu-system-loongarch64",
    qemu_package: "qemu-system-misc",
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
    cross: "arm-linux-gnueabihf-",
    rust: "armv7-unknown-linux-gnueabihf",
    qemu: "qemu-system-arm",
    qemu_package: "qemu-system-arm",
    // A kernel with short page tables finds nothing above 4 GiB, where the PCI bus is otherwise.
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
    cross: "i686-linux-gnu-",
    rust: "i686-unknown-linux-gnu",
    qemu: "qemu-system-i386",
    qemu_package: "qemu-system-x86",
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
    cross: "mips64el-linux-gnuabi64-",
    rust: "mips64el-unknown-linux-gnuabi64",
    qemu: "qemu-system-mips64el",
    qemu_package: "qemu-system-mips",
    machines: &[pci("malta")],
    cpu: "5KEc",
    console: "ttyS0",
    console_device: None,
    yields: false,
    tsc: false,
    nmi_words: &[],
    kvm: false,
};

impl Arch {
    /// Whether KVM on this host can run its guests, if there is a KVM that works.
    pub fn runs_under_kvm_here(&'static self) -> bool {
        self.kvm && *self == *host()
    }

    /// What GNU's tools and Debian's directories of libraries call it: `s390x-linux-gnu`.
    pub fn triple(&self) -> &'static str {
        match self.cross.strip_suffix('-') {
            // Debian's directories have the oldest name of that family.
            Some("i686-linux-gnu") => "i386-linux-gnu",
            triple => triple.unwrap_or(self.cross),
        }
    }
}

/// Every architecture, the most used first.
pub static ALL: &[&Arch] =
    &[&X86_64, &AARCH64, &S390X, &PPC64LE, &RISCV64, &PPC64, &LOONGARCH64, &ARMV7, &I686, &MIPS64EL];

/// The architecture that is called `name`: quiz's name, Debian's, or the kernel's.
pub fn find(name: &str) -> Option<&'static Arch> {
    ALL.iter().copied().find(|a| a.name == name || a.debian == name || a.kernel_arch == name)
}

/// The architecture of the host that this program was built for.
pub fn host() -> &'static Arch {
    find(match std::env::consts::ARCH {
        "powerpc64" if cfg!(target_endian = "big") => "ppc64",
        "powerpc64" => "ppc64le",
        "mips64" => "mips64el",
        "arm" => "armv7l",
        "x86" => "i686",
        other => other,
    })
    .unwrap_or(&X86_64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for (i, a) in ALL.iter().enumerate() {
            for b in &ALL[i + 1..] {
                assert_ne!(a.name, b.name);
                assert_ne!(a.debian, b.debian);
            }
            assert_eq!(find(a.name), Some(*a));
            assert_eq!(find(a.debian), Some(*a));
            assert!(!a.machines.is_empty());
        }
        assert_eq!(find("vax"), None);
    }
}
