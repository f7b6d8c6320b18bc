//! `RunSpec`: everything that one run was asked to do, as plain data with every layer of
//! configuration settled.
//!
//! Not for how it is done: which kernel a selector means, which accelerator works and what QEMU's
//! command line looks like are found out later, from this.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::choices::{
    AccelChoice, DiskSpec, DumpForm, DumpWhen, Escape, JsonTo, KernelMessages, RootBuilder, ShareSpec, Verbosity,
    WorktreeMode,
};
use crate::profile::Given;

/// One run, as it was asked for. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSpec {
    /// The program and its arguments, exactly as they were typed. Empty: a shell.
    pub command: Vec<OsString>,
    /// Give the user a shell in the VM after the program has ended, however it ended.
    pub shell_after: bool,
    /// The directory that quiz was called in; the program's working directory where the guest can
    /// see it.
    pub cwd: PathBuf,

    /// Which installed kernel: its name, its `uname -r`, or the beginning of its version (`6.12`).
    /// None: the best one.
    pub kernel: Option<String>,
    /// The guest's architecture, by the name that `quiz_arch` uses.
    pub arch: String,
    /// The distribution release of the root, `bookworm` for one.
    pub release: String,
    /// Nobody has chosen the release; an architecture that it does not have takes another one.
    pub release_is_default: bool,
    /// Packages that the root has on top of what quiz itself asks for; sorted, each once.
    pub packages: Vec<String>,
    /// Where packages are fetched from. Empty: the distribution's own mirror.
    pub mirrors: Vec<String>,
    /// The keyring that the mirror's signatures are checked against. None: the distribution's own.
    pub keyring: Option<PathBuf>,
    /// What makes a root that is missing.
    pub root_builder: RootBuilder,

    /// The guest's memory, in MiB; at least 64.
    pub memory_mib: u32,
    /// The guest's processors; at least 1.
    pub cpus: u32,
    /// QEMU's machine. None: the best one of the architecture that works here.
    pub machine: Option<String>,
    /// What runs the guest's instructions.
    pub accel: AccelChoice,
    /// The QEMU program. None: the architecture's, from `PATH`.
    pub qemu: Option<PathBuf>,
    /// Words for the end of QEMU's command line.
    pub qemu_args: Vec<OsString>,
    /// Words for the end of the kernel's command line.
    pub append: Vec<String>,
    /// An oops is a panic, and so ends the run with the verdict "panic".
    pub panic_on_oops: bool,
    /// A report of the guest's kernel about itself is a failure.
    pub strict: bool,
    /// An emulated guest calibrates a timer that is finer than its tick, which costs each boot a
    /// quarter of a second.
    pub fine_timers: bool,

    /// Profiles, in the order in which they were named, each once; without those that they need.
    pub profiles: Vec<String>,
    /// Options of profiles that some layer sets, the strongest last; also of profiles that this run
    /// does not include.
    pub profile_options: Vec<Given>,
    /// The VM waits for gdb.
    pub gdb: bool,
    /// The program is run in a session of tmux.
    pub tmux: bool,
    /// The worktree that the caller is in, if any.
    pub worktree: Option<PathBuf>,
    /// How the guest sees that worktree, at its own path.
    pub worktree_mode: WorktreeMode,
    /// Further host directories that the guest sees.
    pub shares: Vec<ShareSpec>,
    /// Block devices, in the guest's order.
    pub disks: Vec<DiskSpec>,
    /// Variables of the program's environment, each once.
    pub env: Vec<(OsString, OsString)>,

    /// How long the program may run. None: for ever.
    pub timeout: Option<Duration>,
    /// How long the guest may take from QEMU's start until the program's. None: for ever.
    pub boot_timeout: Option<Duration>,
    /// How long the guest may give no sign of life before it counts as hung. None: for ever.
    pub hang_timeout: Option<Duration>,

    /// Which of its kernel's messages are shown.
    pub kernel_messages: KernelMessages,
    /// When its memory is kept.
    pub dump: DumpWhen,
    /// How its memory is kept.
    pub dump_format: DumpForm,
    /// How its terminal is left.
    pub escape: Escape,
    /// The VM stays after its program, so long.
    pub keep: Option<Duration>,

    /// Boot, even where a template would save it.
    pub cold: bool,
    /// A VM is left waiting for the next run of the same kind.
    pub standby: bool,
    /// The guest may make set-uid files and devices in what it may write to.
    pub special_files: bool,
    /// How much quiz says.
    pub verbosity: Verbosity,
    /// Where the run's record is written as one line of JSON at the end. None: nowhere.
    pub json: Option<JsonTo>,
    /// How many runs' directories are kept in a worktree. None: all.
    pub keep_runs: Option<u32>,
    /// For how many days runs' directories are kept in a worktree. None: for ever.
    pub keep_days: Option<u32>,
}
