//! What is known of an architecture: the columns of the table. Not for the rows.

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
    /// What quiz asks of the configuration of its kernels, beyond what it asks of all: a fragment
    /// of Kconfig.
    pub kernel_config: &'static str,
    /// Debian's multiarch tuple: the name of its directories of libraries.
    pub multiarch: &'static str,
    /// The directories of libraries at the top of Debian's merged-/usr systems, `lib` apart, that
    /// are links into `/usr`.
    pub lib_links: &'static [&'static str],
    /// Other architectures, by quiz's names, whose processors run its programs.
    pub native_on: &'static [&'static str],
    /// `CROSS_COMPILE=` when the host is another architecture (Debian's cross toolchain prefix).
    pub cross: &'static str,
    /// The cross compiler's program.
    pub cross_gcc: &'static str,
    /// The packages of that program, by family of distributions.
    pub cross_packages: Packages,
    /// What Rust calls it when the agent is built for it.
    pub rust: &'static str,
    /// A file of the C library that the agent is linked with on other hosts, and Debian's package
    /// of it.
    pub cross_libc: (&'static str, &'static str),
    /// binfmt_misc's name of the emulator for its programs.
    pub user_mode: &'static str,
    /// QEMU's program.
    pub qemu: &'static str,
    /// The packages of that program, by family of distributions.
    pub qemu_packages: Packages,
    /// Machines to choose from, the preferred one first.
    pub machines: &'static [Machine],
    /// QEMU's `-cpu` when the guest is emulated; `host` is used with KVM.
    pub cpu: &'static str,
    /// The kernel's console device.
    pub console: &'static str,
    /// QEMU's device for that console, where it is not the machine's first serial port.
    pub console_device: Option<&'static str>,
    /// A CPU that waits in a loop says so, and QEMU then has another one run. Where none does,
    /// several CPUs need several threads: in one, each wait of one CPU for another lasts until
    /// QEMU's next turn, a tenth of a second.
    pub yields: bool,
    /// It has a time-stamp counter whose rate the kernel can be told.
    pub tsc: bool,
    /// Words for the kernel's command line that have it panic, and so tell where it is, when a
    /// non-maskable interrupt comes from outside.
    pub nmi_words: &'static [&'static str],
    /// Whether KVM on a host of this same architecture can run it.
    pub kvm: bool,
}

/// The names of a package in Debian, Fedora, Arch, openSUSE and Alpine, in this order, and
/// relatives of each. Several names are separated by blanks; where there is none it is empty.
pub type Packages = [&'static str; 5];

/// Where Debian has an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// In all releases of these years.
    Released,
    /// In this release and those after it.
    Since(&'static str),
    /// In the archive of unofficial ports only: built by volunteers, signed by keys of its own, and
    /// without any release but `sid`.
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
    /// It has QEMU's firmware configuration device, and guests find it. Through it they say where a
    /// dump of their memory has what (`vmcoreinfo`).
    pub fw_cfg: bool,
}

/// How virtio devices are attached to a machine; decides QEMU's device names and the kernel's
/// drivers.
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

impl Arch {
    /// Whether programs of this architecture have to be emulated on processors of `host`.
    pub fn is_foreign_to(&self, host: &Arch) -> bool {
        self.name != host.name && !self.native_on.contains(&host.name)
    }
}
