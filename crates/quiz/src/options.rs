//! The options that every command has, and those of a run. Not for the commands' own (`commands`), nor for what options mean (`quiz_config`).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use quiz_config::{JsonTo, TypedOption, Verbosity};
use quiz_run::{Asked, Context, ContextParts, Fault};

use crate::report::Terminal;

/// Options that every verb has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every verb")]
pub struct Global {
    /// Show every kernel message and what quiz does
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print one machine-readable record; of a run also to a file or a descriptor (fd:N) [default WHERE: standard output]
    #[arg(long, global = true, value_name = "WHERE", num_args = 0..=1, require_equals = true)]
    pub json: Option<Option<OsString>>,
    /// Do as if called in this directory
    #[arg(short = 'C', long, global = true, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

impl Global {
    /// What this call of quiz is made in.
    ///
    /// # Errors
    /// If the directory cannot be entered, or `--json` means no place.
    pub fn context(&self) -> Result<Context, Fault> {
        let here = std::env::current_dir().map_err(|error| {
            Fault::new(format!("cannot tell the current directory: {error}")).hint("change to one that exists")
        })?;
        let cwd = match &self.directory {
            None => here,
            Some(dir) => match fs_err::canonicalize(here.join(dir)) {
                Ok(dir) if dir.is_dir() => dir,
                Ok(dir) => return Err(Fault::new(format!("--directory: {} is not a directory", dir.display()))),
                Err(error) => return Err(Fault::new(format!("--directory: {error}"))),
            },
        };
        let json_to = match &self.json {
            None => None,
            Some(None) => Some(JsonTo::Output),
            Some(Some(place)) => Some(JsonTo::parse(place, &cwd).map_err(|why| Fault::new(format!("--json: {why}")))?),
        };
        let verbosity = self.verbosity();
        Ok(Context::new(ContextParts {
            cwd,
            variables: std::env::vars_os().collect(),
            program: std::env::current_exe().ok(),
            report: Box::new(Terminal::new(verbosity)),
            verbosity,
            json_to,
        }))
    }

    /// How much quiz prints.
    pub fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, true) => Verbosity::Verbose,
            (false, false) => Verbosity::Normal,
        }
    }
}

/// Options of a run.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Run options")]
pub struct RunOptions {
    /// Include profiles, perhaps with the value of an option
    #[arg(short, long, value_name = "NAME[:OPTION=VALUE],...")]
    pub profile: Vec<OsString>,
    /// Which kernel: a name, a release, or the beginning of a version (6.12)
    #[arg(short, long, value_name = "KERNEL")]
    pub kernel: Option<OsString>,
    /// The guest's architecture
    #[arg(short, long)]
    pub arch: Option<OsString>,
    /// The guest's memory
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<OsString>,
    /// The guest's processors
    #[arg(long, value_name = "N")]
    pub cpus: Option<OsString>,
    /// Give a shell in the VM after the program
    #[arg(short = 'S', long)]
    pub shell_after: bool,
    /// Run the program in tmux, with the kernel's log in a window of its own
    #[arg(long)]
    pub tmux: bool,
    /// How long the program may run (30s, 5m, off)
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<OsString>,
    /// How long the guest may take to boot
    #[arg(long, value_name = "TIME")]
    pub boot_timeout: Option<OsString>,
    /// How long the guest may give no sign of life
    #[arg(long, value_name = "TIME")]
    pub hang_timeout: Option<OsString>,
    /// Which kernel messages are shown: off, or those of a level (err, warning, info, ...) and worse
    #[arg(long, value_name = "LEVEL")]
    pub kernel_messages: Option<OsString>,
    /// When the guest's memory is kept, for `quiz debug`
    #[arg(long, value_name = "off|on-panic|on-failure")]
    pub dump: Option<OsString>,
    /// How: for drgn and crash, or for gdb
    #[arg(long, value_name = "kdump|elf")]
    pub dump_format: Option<OsString>,
    /// Have the VM wait for gdb before its kernel's first instruction
    #[arg(long)]
    pub gdb: bool,
    /// Show a host directory to the guest
    #[arg(long, value_name = "HOST[:GUEST][:rw]")]
    pub share: Vec<OsString>,
    /// How the guest sees the worktree
    #[arg(long, value_name = "ro|rw|off")]
    pub worktree: Option<OsString>,
    /// Add a block device: an empty one of a size, or a file
    #[arg(long, value_name = "SIZE|FILE")]
    pub disk: Vec<OsString>,
    /// Set a variable for the program, or pass on the caller's
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,
    /// Add to the kernel's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub append: Vec<OsString>,
    /// Add a word to QEMU's command line
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub qemu_arg: Vec<OsString>,
    /// The QEMU program
    #[arg(long, value_name = "PROGRAM")]
    pub qemu: Option<OsString>,
    /// QEMU's machine (auto, microvm, q35, virt)
    #[arg(long)]
    pub machine: Option<OsString>,
    /// What runs the guest's instructions
    #[arg(long, value_name = "auto|kvm|tcg")]
    pub accel: Option<OsString>,
    /// The distribution release of the root
    #[arg(long, value_name = "RELEASE")]
    pub release: Option<OsString>,
    /// Boot, even where a template would save it
    #[arg(long)]
    pub cold: bool,
    /// Fail where the kernel's checkers report something, or it warns
    #[arg(long)]
    pub strict: bool,
    /// Leave the VM running behind the program, for `quiz exec`, until `quiz kill` [default TIME: the setting `keep_time`]
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true)]
    pub keep: Option<Option<OsString>>,
    /// Be the keeper of a VM whose program another quiz shows, which is standard input
    #[arg(long, hide = true, value_name = "TERMINAL")]
    pub hold_run: Option<String>,
    /// Be the keeper of a VM that waits for the next run that is called like this in that directory
    #[arg(long, hide = true, value_name = "DIR")]
    pub hold_standby: Option<PathBuf>,
}

impl RunOptions {
    /// What these options ask of a run.
    pub fn asked(&self) -> Asked {
        Asked {
            options: self.typed(),
            shell_after: self.shell_after,
            cold: self.cold,
            strict: self.strict,
            keep: self.keep.is_some(),
            tmux: self.tmux,
            gdb: self.gdb,
        }
    }

    /// The options that are settings, by key.
    pub fn typed(&self) -> Vec<TypedOption> {
        let one = |value: &Option<OsString>| value.iter().cloned().collect::<Vec<_>>();
        let all: [(&'static str, &'static str, Vec<OsString>); 22] = [
            ("profiles", "--profile", self.profile.clone()),
            ("kernel", "--kernel", one(&self.kernel)),
            ("arch", "--arch", one(&self.arch)),
            ("memory", "--memory", one(&self.memory)),
            ("cpus", "--cpus", one(&self.cpus)),
            ("timeout", "--timeout", one(&self.timeout)),
            ("boot_timeout", "--boot-timeout", one(&self.boot_timeout)),
            ("hang_timeout", "--hang-timeout", one(&self.hang_timeout)),
            ("kernel_messages", "--kernel-messages", one(&self.kernel_messages)),
            ("dump", "--dump", one(&self.dump)),
            ("dump_format", "--dump-format", one(&self.dump_format)),
            ("keep_time", "--keep", self.keep.iter().flatten().cloned().collect()),
            ("shares", "--share", self.share.clone()),
            ("worktree", "--worktree", one(&self.worktree)),
            ("disks", "--disk", self.disk.clone()),
            ("env", "--env", self.env.clone()),
            ("append", "--append", self.append.clone()),
            ("qemu_args", "--qemu-arg", self.qemu_arg.clone()),
            ("qemu", "--qemu", one(&self.qemu)),
            ("machine", "--machine", one(&self.machine)),
            ("accel", "--accel", one(&self.accel)),
            ("release", "--release", one(&self.release)),
        ];
        let typed = |(key, option, values): (&'static str, &'static str, Vec<OsString>)| {
            values.into_iter().map(move |value| TypedOption { key, option, value })
        };
        all.into_iter().flat_map(typed).collect()
    }

    /// The spelling of one option that was given, if any was.
    pub fn first_given(&self) -> Option<&'static str> {
        let flags = [
            (self.shell_after, "--shell-after"),
            (self.tmux, "--tmux"),
            (self.gdb, "--gdb"),
            (self.cold, "--cold"),
            (self.strict, "--strict"),
            (self.keep.is_some(), "--keep"),
            (self.hold_run.is_some(), "--hold-run"),
            (self.hold_standby.is_some(), "--hold-standby"),
        ];
        let flag = flags.into_iter().find_map(|(given, flag)| given.then_some(flag));
        self.typed().first().map(|typed| typed.option).or(flag)
    }

    /// These options with `later` behind them.
    pub fn then(mut self, later: RunOptions) -> RunOptions {
        self.profile.extend(later.profile);
        self.share.extend(later.share);
        self.disk.extend(later.disk);
        self.env.extend(later.env);
        self.append.extend(later.append);
        self.qemu_arg.extend(later.qemu_arg);
        RunOptions {
            kernel: later.kernel.or(self.kernel),
            arch: later.arch.or(self.arch),
            memory: later.memory.or(self.memory),
            cpus: later.cpus.or(self.cpus),
            shell_after: later.shell_after || self.shell_after,
            tmux: later.tmux || self.tmux,
            gdb: later.gdb || self.gdb,
            timeout: later.timeout.or(self.timeout),
            boot_timeout: later.boot_timeout.or(self.boot_timeout),
            hang_timeout: later.hang_timeout.or(self.hang_timeout),
            kernel_messages: later.kernel_messages.or(self.kernel_messages),
            dump: later.dump.or(self.dump),
            dump_format: later.dump_format.or(self.dump_format),
            worktree: later.worktree.or(self.worktree),
            qemu: later.qemu.or(self.qemu),
            machine: later.machine.or(self.machine),
            accel: later.accel.or(self.accel),
            release: later.release.or(self.release),
            cold: later.cold || self.cold,
            strict: later.strict || self.strict,
            keep: later.keep.or(self.keep),
            hold_run: later.hold_run.or(self.hold_run),
            hold_standby: later.hold_standby.or(self.hold_standby),
            ..self
        }
    }
}
