//! The columns of the table of architectures. Not for the rows.

/// An architecture for which quiz can run guests, and build kernels and roots.
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// quiz's name for it, which is also what `uname -m` prints.
    pub name: &'static str,
    /// Debian's name for it.
    pub debian: &'static str,
    /// Which Debian releases have it.
    pub port: Port,
    /// Debian's metapackage of the stock kernel.
    pub debian_kernel: &'static str,
    /// Debian's metapackage of that kernel's headers.
    pub debian_headers: &'static str,
    /// `ARCH=` of the kernel's build system.
    pub kernel_arch: &'static str,
    /// The kernel's `make` target for an image that QEMU can start.
    pub kernel_image: &'static str,
    /// The path of the built image, relative to the build directory.
    pub kernel_image_path: &'static str,
    /// The fragment of kernel configuration for this architecture, in addition to the one for all.
    pub kernel_config: &'static str,
    /// Debian's multiarch tuple: the name of its library directories.
    pub multiarch: &'static str,
    /// The top-level library directories, except `lib`, that are links into `/usr` on Debian's
    /// merged-/usr systems.
    pub lib_links: &'static [&'static str],
    /// Other architectures, by quiz's names, whose processors run its programs natively.
    pub native_on: &'static [&'static str],
    /// `CROSS_COMPILE=` on a host of another architecture (Debian's cross toolchain prefix).
    pub cross: &'static str,
    /// The cross compiler's program.
    pub cross_gcc: &'static str,
    /// The packages of the cross compiler, by family of distributions.
    pub cross_packages: Packages,
    /// Rust's target name for building the agent.
    pub rust: &'static str,
    /// A file of the C library that the agent is linked with on other hosts, and Debian's package
    /// of that file.
    pub cross_libc: (&'static str, &'static str),
    /// The name in binfmt_misc of the emulator for its programs.
    pub user_mode: &'static str,
    /// QEMU's program.
    pub qemu: &'static str,
    /// The packages of the QEMU program, by family of distributions.
    pub qemu_packages: Packages,
    /// Machines to choose from, the preferred one first.
    pub machines: &'static [Machine],
    /// QEMU's `-cpu` when the guest is emulated; `host` is used with KVM.
    pub cpu: &'static str,
    /// The kernel's console device.
    pub console: &'static str,
    /// QEMU's device for that console, if it is not the machine's first serial port.
    pub console_device: Option<&'static str>,
    /// Whether a CPU in a waiting loop yields to QEMU, which then runs another CPU. Without that,
    /// several CPUs need several threads. In a single thread, each wait of one CPU for another
    /// would last until QEMU's next turn, a tenth of a second.
    pub yields: bool,
    /// Whether it has a time-stamp counter whose rate the kernel can be given.
    pub tsc: bool,
    /// Kernel parameters that make the kernel panic on an external non-maskable interrupt, and so
    /// print its stack.
    pub nmi_words: &'static [&'static str],
    /// Whether KVM on a host of this same architecture can run it.
    pub kvm: bool,
}

/// The names of a package in Debian, Fedora, Arch, openSUSE and Alpine, in this order, and in
/// relatives of each. Blanks separate several names; empty if there is no package.
pub type Packages = [&'static str; 5];

/// Which Debian releases have an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// All releases of recent years.
    Released,
    /// This release and later ones.
    Since(&'static str),
    /// Only the archive of unofficial ports: volunteers build it, its keys are separate, and `sid`
    /// is its only release.
    Unofficial,
}

impl Port {
    /// The default release, if it is not the usual one.
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
    /// Properties to use only with KVM.
    pub kvm_options: &'static [&'static str],
    /// Whether the machine starts an uncompressed ELF kernel through its PVH entry point.
    pub pvh: bool,
    /// Whether the guest cannot detect its TSC frequency under TCG and needs `tsc_early_khz=`.
    pub needs_tsc_khz: bool,
    /// The number of virtio devices that fit.
    pub slots: usize,
    /// Whether it has QEMU's firmware configuration device and guests find it. Guests use it to
    /// report the layout of their memory for dumps (`vmcoreinfo`).
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
    /// The bus enumerates them.
    Bus,
    /// QEMU names them on the kernel command line (`CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES`).
    CommandLine,
    /// ACPI tables list them.
    Acpi,
}

impl Arch {
    /// Whether programs of this architecture need emulation on processors of `host`.
    pub fn is_foreign_to(&self, host: &Arch) -> bool {
        self.name != host.name && !self.native_on.contains(&host.name)
    }
}
