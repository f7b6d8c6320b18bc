//! `RunSpec`: the complete request for one run as plain data, after all layers of configuration are
//! settled.
//!
//! Not for how to do it: later steps choose the kernel, the accelerator and QEMU's command line
//! from this.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::choices::{
    AccelChoice, DiskSpec, DumpForm, DumpWhen, Escape, JsonTo, KernelMessages, RootBuilder, ShareSpec, Verbosity,
    WorktreeMode,
};
use crate::profile::Given;

/// The request for one run. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSpec {
    /// The program and its arguments, exactly as they were typed. Empty: a shell.
    pub command: Vec<OsString>,
    /// Start a shell in the VM for the user after the program has ended, however it ended.
    pub shell_after: bool,
    /// The directory in which quiz was called. The program's working directory, if the guest can
    /// see it.
    pub cwd: PathBuf,

    /// Which installed kernel: its name, its `uname -r`, or the beginning of its version (`6.12`).
    /// `None`: the best one.
    pub kernel: Option<String>,
    /// The guest's architecture, by its name in `quiz_arch`.
    pub arch: String,
    /// The distribution release of the root, such as `bookworm`.
    pub release: String,
    /// The user did not choose the release: an architecture that it lacks takes another release.
    pub release_is_default: bool,
    /// Packages for the root, in addition to those that quiz needs; sorted, each once.
    pub packages: Vec<String>,
    /// Mirrors for packages. Empty: the distribution's own mirror.
    pub mirrors: Vec<String>,
    /// The keyring that the mirror's signatures are checked against. `None`: the distribution's
    /// own.
    pub keyring: Option<PathBuf>,
    /// The builder of a missing root.
    pub root_builder: RootBuilder,

    /// The guest's memory, in MiB; at least 64.
    pub memory_mib: u32,
    /// The guest's processors; at least 1.
    pub cpus: u32,
    /// QEMU's machine type. `None`: the best one of the architecture that works here.
    pub machine: Option<String>,
    /// The accelerator.
    pub accel: AccelChoice,
    /// The QEMU program. `None`: the architecture's, from `PATH`.
    pub qemu: Option<PathBuf>,
    /// Arguments for the end of QEMU's command line.
    pub qemu_args: Vec<OsString>,
    /// Parameters for the end of the kernel command line.
    pub append: Vec<String>,
    /// An oops causes a panic, and so ends the run with the verdict "panic".
    pub panic_on_oops: bool,
    /// A report of the guest's kernel about a problem in itself fails the run.
    pub strict: bool,
    /// An emulated guest calibrates a timer that is finer than its tick. That costs each boot a
    /// quarter of a second.
    pub fine_timers: bool,

    /// Profiles in the order in which the user named them, each once; without those that they need.
    pub profiles: Vec<String>,
    /// Options of profiles that some layer sets, the strongest last. Profiles that this run does
    /// not include may be among them.
    pub profile_options: Vec<Given>,
    /// The VM waits for gdb.
    pub gdb: bool,
    /// Run the program in a tmux session.
    pub tmux: bool,
    /// The worktree that the caller is in, if any.
    pub worktree: Option<PathBuf>,
    /// The guest's access to that worktree, which it sees at the same path.
    pub worktree_mode: WorktreeMode,
    /// Further host directories to share with the guest.
    pub shares: Vec<ShareSpec>,
    /// Block devices, in the guest's order.
    pub disks: Vec<DiskSpec>,
    /// Variables of the program's environment, each once.
    pub env: Vec<(OsString, OsString)>,

    /// Time limit of the program. `None`: no limit.
    pub timeout: Option<Duration>,
    /// Time limit from QEMU's start until the program's start. `None`: no limit.
    pub boot_timeout: Option<Duration>,
    /// How long the guest may send nothing before it counts as hung. `None`: no limit.
    pub hang_timeout: Option<Duration>,

    /// Which kernel messages are shown.
    pub kernel_messages: KernelMessages,
    /// When to keep the guest's memory.
    pub dump: DumpWhen,
    /// The format of the memory dump.
    pub dump_format: DumpForm,
    /// The key that leaves the terminal.
    pub escape: Escape,
    /// How long the VM stays after its program has ended.
    pub keep: Option<Duration>,

    /// Boot, even if a template could be used.
    pub cold: bool,
    /// Leave a standby VM for the next run of the same kind.
    pub standby: bool,
    /// The guest may make set-uid files and devices in writable shares.
    pub special_files: bool,
    /// How much quiz prints.
    pub verbosity: Verbosity,
    /// Where to write the run's record at the end, as one line of JSON. `None`: nowhere.
    pub json: Option<JsonTo>,
    /// How many run directories a worktree keeps. `None`: all.
    pub keep_runs: Option<u32>,
    /// For how many days a worktree keeps run directories. `None`: no limit.
    pub keep_days: Option<u32>,
}
