//! Describes a virtual machine as plain data. Not for QEMU's command line (`qemu`).

use std::ffi::OsString;
use std::path::PathBuf;

use quiz_arch::{Arch, Machine};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The host's processor, through `/dev/kvm`.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Accel {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }
}

/// A virtual machine: everything that QEMU's command line depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// The QEMU program.
    pub qemu: PathBuf,
    /// The architecture of the guest.
    pub arch: &'static Arch,
    /// The machine type, one of the architecture's.
    pub machine: &'static Machine,
    pub accel: Accel,
    /// The rate of the TSC under [`Accel::Tcg`] in kHz, for architectures that have one.
    pub tsc_khz: Option<u64>,
    /// The kernel's timer interrupts per second (`CONFIG_HZ`), if known.
    pub hz: Option<u32>,
    /// Under [`Accel::Tcg`]: let the guest calibrate its local APIC timer, for timers finer than
    /// its tick.
    pub fine_timers: bool,
    /// QEMU's major and minor version; `None` if unknown.
    pub version: Option<(u32, u32)>,
    /// Whether this QEMU has the `vmcoreinfo` device. With it, the guest reports where things are
    /// in a dump of its memory.
    pub vmcoreinfo: bool,
    /// Whether this QEMU supports a seccomp sandbox, which forbids it system calls that it does not
    /// need.
    pub sandbox: bool,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The file that holds the guest's memory; `None` for memory that is private to QEMU.
    pub ram: Option<RamFile>,
    /// The saved device state from which the VM resumes; `None` to boot.
    pub incoming: Option<PathBuf>,
    /// Number of vCPUs.
    pub cpus: u32,
    /// Kernel image.
    pub kernel: PathBuf,
    /// Initramfs with the agent.
    pub initramfs: PathBuf,
    /// Further parameters for the kernel command line.
    pub append: Vec<String>,
    /// Disks, in the order in which the guest numbers them.
    pub disks: Vec<Disk>,
    /// Host directories that the guest can mount.
    pub shares: Vec<Share>,
    /// Whether the guest may create set-uid files and devices in writable shares.
    pub special_files: bool,
    /// A user-mode network device: what follows `user` in QEMU's `-netdev`. `None` for no network.
    pub net: Option<String>,
    /// Further arguments for QEMU, unchanged.
    pub extra: Vec<OsString>,
}

/// A file that holds a guest's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamFile {
    pub path: PathBuf,
    /// Whether the guest writes to the file. Otherwise its changes are private copies.
    pub shared: bool,
}

impl VmSpec {
    /// The number of virtio devices of a VM with `disks` disks, `shares` shares and perhaps a
    /// network. Includes the one for the agent.
    pub fn devices(disks: usize, shares: usize, net: bool) -> usize {
        1 + disks + shares + usize::from(net)
    }
}

/// A virtio disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The serial number by which the guest finds it: at most 20 bytes of letters, digits and `-`.
    pub serial: String,
    /// The image file.
    pub file: PathBuf,
    pub format: DiskFormat,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
    /// The sector size in bytes; `None` for QEMU's default.
    pub sector: Option<u32>,
}

/// The format of a disk image, as QEMU calls it. QEMU must not guess it: a guest could make a raw
/// disk look like another format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// Plain bytes.
    Raw,
    /// QEMU's own format.
    Qcow2,
}

/// A host directory that the guest can mount over 9p.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The tag by which the guest mounts it.
    pub tag: String,
    pub host: PathBuf,
    /// Whether the guest may write to it.
    pub writable: bool,
}

/// The format of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DumpFormat {
    /// Pages of physical memory, compressed, without those that are zero: for drgn and crash.
    Kdump,
    /// An ELF file with the memory as the guest has mapped it: for gdb.
    Elf,
}
