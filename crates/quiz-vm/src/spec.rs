//! A virtual machine as plain data.

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

/// A virtual machine: everything that its command line is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// The QEMU program.
    pub qemu: PathBuf,
    /// The architecture of the guest.
    pub arch: &'static Arch,
    /// The machine; one of the architecture's.
    pub machine: &'static Machine,
    /// What executes it.
    pub accel: Accel,
    /// The rate of the TSC under [`Accel::Tcg`] in kHz, for architectures that have one.
    pub tsc_khz: Option<u64>,
    /// The kernel's timer interrupts per second (`CONFIG_HZ`), if known.
    pub hz: Option<u32>,
    /// Under [`Accel::Tcg`]: let the guest calibrate its local APIC timer, for timers finer than
    /// its tick.
    pub fine_timers: bool,
    /// The version of QEMU, major and minor; none where it is not known.
    pub version: Option<(u32, u32)>,
    /// This QEMU has the device through which a guest reports where a dump of its memory has what.
    pub vmcoreinfo: bool,
    /// This QEMU can have system calls forbidden to it that it does not need.
    pub sandbox: bool,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The file that is the guest's memory; none for memory that only QEMU has.
    pub ram: Option<RamFile>,
    /// The state of the devices with which the machine goes on, instead of booting.
    pub incoming: Option<PathBuf>,
    /// Number of vCPUs.
    pub cpus: u32,
    /// Kernel image.
    pub kernel: PathBuf,
    /// Initramfs with the agent.
    pub initramfs: PathBuf,
    /// Further words of the kernel command line.
    pub append: Vec<String>,
    /// Disks, in the order in which the guest numbers them.
    pub disks: Vec<Disk>,
    /// Host directories that the guest can mount.
    pub shares: Vec<Share>,
    /// The guest may make set-uid files and devices in those that it may write to.
    pub special_files: bool,
    /// A network device in user mode; what follows `user` in QEMU's `-netdev`.
    pub net: Option<String>,
    /// Further arguments for QEMU, as they are.
    pub extra: Vec<OsString>,
}

/// A file that is a guest's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamFile {
    pub path: PathBuf,
    /// What the guest writes goes to the file; otherwise the guest has copies of its own of what it
    /// changes.
    pub shared: bool,
}

impl VmSpec {
    /// How many virtio devices `disks` disks, `shares` shares and perhaps a network make, with the
    /// one for the agent.
    pub fn devices(disks: usize, shares: usize, net: bool) -> usize {
        1 + disks + shares + usize::from(net)
    }
}

/// A virtio disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What the guest finds it by; at most 20 bytes of letters, digits and `-`.
    pub serial: String,
    /// The image.
    pub file: PathBuf,
    /// The image's format.
    pub format: DiskFormat,
    /// The guest cannot write to it.
    pub read_only: bool,
    /// The size of its sectors in bytes; none leaves it to QEMU.
    pub sector: Option<u32>,
}

/// The format of a disk image, as QEMU calls it. Never guessed by QEMU: a guest could make a raw
/// disk look like another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// The bytes themselves.
    Raw,
    /// QEMU's own.
    Qcow2,
}

/// A host directory offered by 9p.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// What the guest mounts it by.
    pub tag: String,
    /// The directory.
    pub host: PathBuf,
    /// The guest may write to it.
    pub writable: bool,
}

/// The form of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DumpFormat {
    /// Pages of physical memory, compressed, without those that are zero: for drgn and crash.
    Kdump,
    /// An ELF file with the memory as the guest has mapped it: for gdb.
    Elf,
}
