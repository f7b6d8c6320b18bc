//! What was typed: recorded, and nothing else. Not for what it means (see `commands` and `quiz_config::lower`), so that
//! parsing never reads a file.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use quiz_config::{JsonTo, TypedOption, Verbosity};
use quiz_run::{Asked, Context, ContextParts, Fault};

use crate::commands::{
    allow, attach, completions, config, cp, debug, doctor, exec, kernel, kill, logs, profile, ps, replay, root, runs,
    show, template, zfs,
};
use crate::report::Terminal;
use line::Line;

mod line;

const AFTER_HELP: &str = "\
Programs:
  The first word that is no option is the program; all words after it are its
  own. A program that is named like a verb of quiz is run as `quiz -- NAME` or
  `quiz run NAME`. Without a program there is a shell.

In the guest:
  Everything can be written to, and is gone after the run, except:
  /quiz/out           kept: it comes back as the run's artifacts
  the worktree        read-only, at its own path (see --worktree)
  --share HOST:GUEST  read-only (with :rw at the end: writable)
  --disk FILE         writable

Exit codes:
  the program's own   and 128+N when signal N ended it
  121                 the guest's kernel panicked; or reported something (--strict)
  122                 the guest was lost: reset, or gone without a word
  124                 a time limit was reached
  125                 a fault of quiz, of the host, or of this command line
  126, 127            the program cannot be executed; is not there
  129, 130, 143       quiz was interrupted (hang-up, Ctrl-C, SIGTERM)

Settings:
  Each comes from quiz's defaults, the user's config.toml, the worktree's
  quiz.toml, QUIZ_* variables and options, the later the stronger; `quiz config`
  lists them all. An option that is a list (-p, --share, --disk, --env,
  --append, --qemu-arg) adds to the list; an empty one (-p '') first drops what
  was there.";

/// Runs a program in a fresh tiny VM
#[derive(Debug, Parser)]
#[command(name = "quiz", version, after_help = AFTER_HELP, subcommand_help_heading = "Verbs")]
#[command(
    override_usage = "quiz [OPTIONS] [PROGRAM [ARGUMENTS]...]\n       quiz [OPTIONS] -- PROGRAM [ARGUMENTS]...\n       quiz VERB ..."
)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// Options of a run.
    #[command(flatten)]
    pub run: RunOptions,
    /// A verb.
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a program in a fresh VM: the long form
    Run(Box<Run>),
    /// Run a program again, in a fresh VM, each time that the worktree's files change
    Watch(Box<Watch>),
    /// Get, build, list and remove kernels
    #[command(subcommand)]
    Kernel(kernel::Verb),
    /// Make, list and remove root images
    #[command(subcommand)]
    Root(root::Verb),
    /// Show what profiles there are
    #[command(subcommand)]
    Profile(profile::Verb),
    /// Build OpenZFS for kernels, and bring it up to date in the VM
    Zfs(zfs::Zfs),
    /// List the VMs that run
    Ps(ps::Ps),
    /// Run another program in a VM that runs
    Exec(exec::Exec),
    /// Show what the program of a VM writes, and type to it
    Attach(attach::Attach),
    /// Copy files and directories into a VM that runs, or out of it
    Cp(cp::Cp),
    /// End a VM that runs
    Kill(kill::Kill),
    /// Show what the kernel of a run has said
    Logs(logs::Logs),
    /// List the last runs and how they ended
    Runs(runs::Runs),
    /// Show one run, and where its evidence is
    Show(show::Show),
    /// Open a debugger on a guest's memory, or on a VM that waits for one
    Debug(debug::Debug),
    /// Do a run again, and say what has changed since
    Replay(replay::Replay),
    /// Allow the settings and profiles of this worktree that reach the host
    Allow(allow::Allow),
    /// List and remove the saved VMs that runs start from
    #[command(subcommand)]
    Template(template::Verb),
    /// Show every setting and where it comes from
    Config(config::Config),
    /// Show what this host has and lacks, and what is in the cache
    Doctor(doctor::Doctor),
    /// Print a shell's completions
    Completions(completions::Completions),
}

/// The long form of a run.
#[derive(Debug, Args)]
#[command(override_usage = "quiz run [OPTIONS] [--] [PROGRAM [ARGUMENTS]...]")]
pub struct Run {
    /// Options of the run.
    #[command(flatten)]
    pub options: RunOptions,
}

/// A run that is done again and again.
#[derive(Debug, Args)]
#[command(override_usage = "quiz watch [OPTIONS] [--] PROGRAM [ARGUMENTS]...")]
pub struct Watch {
    /// A shell command that is run first, on the host; the program is run where it succeeds [default: the setting `watch_build`]
    #[arg(long, value_name = "COMMAND")]
    pub build: Option<String>,
    /// Options of the run.
    #[command(flatten)]
    pub options: RunOptions,
}

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

/// What was typed.
#[derive(Debug)]
pub enum Typed {
    /// A run.
    Run(Global, RunOptions, Vec<OsString>),
    /// A run that is done again and again; with what is run before it.
    Watch(Global, RunOptions, Option<String>, Vec<OsString>),
    /// A program beside the one of a VM that runs.
    Exec(Global, exec::Exec, exec::Words),
    /// A verb other than `run`, with the run's options that stood before it.
    Verb(Global, RunOptions, Box<Verb>),
}

/// Reads the command line `words`, the program's own name first.
///
/// # Errors
/// Also the help and the version that were asked for.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Typed, clap::Error> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let mut behind_dashes = false;
    let program = match line::split(&words, &Cli::command()) {
        Line::Run { options, program } => {
            behind_dashes = program > options;
            let program = words.split_off(program);
            words.truncate(options);
            Some(program)
        }
        Line::Verb => None,
    };
    let Cli { global, run, verb } = Cli::try_parse_from(words)?;
    Ok(match (verb, program) {
        (None, program) => Typed::Run(global, run, program.unwrap_or_default()),
        (Some(Verb::Run(long)), program) => Typed::Run(global, run.then(long.options), program.unwrap_or_default()),
        (Some(Verb::Watch(long)), program) => {
            Typed::Watch(global, run.then(long.options), long.build, program.unwrap_or_default())
        }
        (Some(Verb::Exec(exec)), program) => {
            if let Some(option) = run.first_given() {
                let message = format!("{option} belongs to a run: `quiz exec` has options of its own\n");
                return Err(Cli::command().error(clap::error::ErrorKind::ArgumentConflict, message));
            }
            Typed::Exec(global, exec, exec::Words { words: program.unwrap_or_default(), behind_dashes })
        }
        (Some(verb), _) => Typed::Verb(global, run, Box::new(verb)),
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn typed(words: &[&str]) -> Result<Typed, clap::Error> {
        parse(std::iter::once("quiz").chain(words.iter().copied()).map(OsString::from))
    }

    fn run(line: impl IntoIterator<Item = OsString>) -> (Global, RunOptions, Vec<OsString>) {
        match parse(line).unwrap() {
            Typed::Run(global, options, program) => (global, options, program),
            other => panic!("expected a run, got {other:?}"),
        }
    }

    fn program(words: &[&str]) -> Vec<OsString> {
        run(std::iter::once("quiz").chain(words.iter().copied()).map(OsString::from)).2
    }

    fn options(words: &[&str]) -> RunOptions {
        run(std::iter::once("quiz").chain(words.iter().copied()).map(OsString::from)).1
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_stop_at_the_program() {
        assert_eq!(program(&[]), Vec::<OsString>::new());
        assert_eq!(program(&["uname", "-a"]), ["uname", "-a"]);
        assert_eq!(program(&["-p", "zfs,memdev", "zpool", "status", "-p", "x"]), ["zpool", "status", "-p", "x"]);
        assert_eq!(
            program(&["ls", "--json", "-q", "--help", "-h", "-V"]),
            ["ls", "--json", "-q", "--help", "-h", "-V"]
        );
        assert_eq!(program(&["run", "uname", "-a"]), ["uname", "-a"]);
        assert_eq!(program(&["run", "-m", "2G", "ps", "-m"]), ["ps", "-m"]);
        assert_eq!(program(&["run"]), Vec::<OsString>::new());
    }

    #[test]
    fn the_value_of_an_option_is_no_program() {
        for line in [
            &["-p", "ps", "true"][..],
            &["-pps", "true"],
            &["-Sp", "ps", "true"],
            &["-vpzfs", "true"],
            &["--profile", "kernel", "true"],
            &["--profile=kernel", "true"],
            &["--append", "-x", "true"],
            &["--qemu-arg", "--", "true"],
            &["-C", "run", "true"],
            &["-k", "6.12", "run", "-m", "1G", "true"],
        ] {
            assert_eq!(program(line), ["true"], "{line:?}");
        }
    }

    #[test]
    fn what_is_watched_is_a_program_with_words_of_its_own() {
        for line in [
            &["watch", "--build", "make -s", "-m", "2G", "ls", "-m"][..],
            &["-m", "2G", "watch", "--", "ls", "-m"],
            &["watch", "-m", "2G", "-C", "/", "ls", "-m"],
        ] {
            match typed(line).unwrap() {
                Typed::Watch(_, options, build, program) => {
                    assert_eq!((options.memory, program), (Some("2G".into()), vec!["ls".into(), "-m".into()]));
                    assert_eq!(build.is_some(), line[1] == "--build");
                }
                other => panic!("{line:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn two_dashes_are_the_programs_own_once_it_has_begun() {
        assert_eq!(program(&["--", "ps"]), ["ps"]);
        assert_eq!(program(&["--", "-x"]), ["-x"]);
        assert_eq!(program(&["--", "--", "x"]), ["--", "x"]);
        assert_eq!(program(&["sh", "-c", "echo", "--", "a"]), ["sh", "-c", "echo", "--", "a"]);
        assert_eq!(program(&["sh", "--"]), ["sh", "--"]);
        assert_eq!(program(&["--", "sh", "--", "a"]), ["sh", "--", "a"]);
        assert_eq!(program(&["run", "--", "kernel", "list"]), ["kernel", "list"]);
        assert_eq!(program(&["run", "--", "sh", "--", "a"]), ["sh", "--", "a"]);
        assert_eq!(program(&["-p", "zfs", "--", "zfs", "list"]), ["zfs", "list"]);
        assert_eq!(program(&["--"]), Vec::<OsString>::new());
    }

    #[test]
    fn verbs_behind_run_or_dashes_are_programs() {
        for verb in ["run", "kernel", "root", "config", "doctor", "completions", "help", "zfs", "ps"] {
            assert_eq!(program(&["run", verb, "x"]), [verb, "x"]);
            assert_eq!(program(&["--", verb, "x"]), [verb, "x"]);
        }
    }

    #[test]
    fn arguments_arrive_byte_for_byte() {
        let odd: Vec<OsString> =
            [&b"prog"[..], b"", b" ", b"a b", b"\n", b"'\"\\$`", b"\xff\xfe", b"-", b"--", b"-\xff", b"=x"]
                .map(|bytes| OsStr::from_bytes(bytes).to_owned())
                .to_vec();
        for before in
            [&["quiz"][..], &["quiz", "--"], &["quiz", "run"], &["quiz", "run", "--"], &["quiz", "-k", "6.12"]]
        {
            let line = before.iter().map(OsString::from).chain(odd.iter().cloned());
            assert_eq!(run(line).2, odd, "{before:?}");
        }
        let empty = ["", "x"].map(OsString::from);
        let line = ["quiz", "--"].map(OsString::from).into_iter().chain(empty.clone());
        assert_eq!(run(line).2, empty);
        let not_text = OsStr::from_bytes(b"\xffprog").to_owned();
        let line = ["quiz".into(), not_text.clone()];
        assert_eq!(run(line).2, [not_text]);
    }

    #[test]
    fn options_are_recorded_as_typed() {
        let typed = |words: &[&str]| -> Vec<(&'static str, String)> {
            let list = options(words).typed().into_iter();
            list.map(|t| (t.key, t.value.to_string_lossy().into_owned())).collect()
        };
        assert_eq!(
            typed(&["-p", "a,b", "-p", "c", "--qemu-arg", "-d", "--qemu-arg=int", "--append", "-x", "true"]),
            [("profiles", "a,b"), ("profiles", "c"), ("append", "-x"), ("qemu_args", "-d"), ("qemu_args", "int")]
                .map(|(k, v)| (k, v.to_owned()))
        );
        assert_eq!(typed(&["-p", "", "true"]), [("profiles", String::new())]);
        assert_eq!(
            typed(&["-m", "1G", "-p", "a", "run", "-m", "2G", "-p", "b", "true"]),
            [("profiles", "a"), ("profiles", "b"), ("memory", "2G")].map(|(k, v)| (k, v.to_owned()))
        );
    }

    #[test]
    fn every_option_sets_a_key_that_there_is() {
        let value = || Some(OsString::from("1"));
        let list = || vec![OsString::from("1")];
        let all = RunOptions {
            profile: list(),
            kernel: value(),
            arch: value(),
            memory: value(),
            cpus: value(),
            shell_after: true,
            tmux: true,
            gdb: true,
            timeout: value(),
            boot_timeout: value(),
            hang_timeout: value(),
            kernel_messages: value(),
            dump: value(),
            dump_format: value(),
            share: list(),
            worktree: value(),
            disk: list(),
            env: list(),
            append: list(),
            qemu_arg: list(),
            qemu: value(),
            machine: value(),
            accel: value(),
            release: value(),
            cold: true,
            strict: true,
            keep: Some(value()),
            hold_run: Some("none".into()),
            hold_standby: Some("/".into()),
        };
        let command = Cli::command();
        for typed in all.typed() {
            assert!(quiz_config::KEYS.iter().any(|key| key.name == typed.key), "{}", typed.key);
            let long = typed.option.trim_start_matches('-');
            assert!(command.get_arguments().any(|arg| arg.get_long() == Some(long)), "{long}");
        }
        assert_eq!(all.typed().len(), 22);
    }

    #[test]
    fn global_options_are_understood_on_both_sides_of_a_verb() {
        for line in [&["--json", "config"][..], &["config", "--json"], &["--json", "-p", "kernel", "config"]] {
            let typed = typed(line).unwrap();
            let Typed::Verb(global, _, verb) = typed else { panic!("{typed:?}") };
            assert!(global.json == Some(None) && matches!(*verb, Verb::Config(_)), "{verb:?}");
        }
        let Typed::Run(global, _, words) = typed(&["--json=fd:3", "echo", "--json=x"]).unwrap() else { panic!() };
        assert_eq!((global.json, words), (Some(Some("fd:3".into())), vec!["echo".into(), "--json=x".into()]));
        for line in [&["-v", "run", "--", "true"][..], &["run", "-v", "--", "true"], &["-v", "true"]] {
            let Typed::Run(global, ..) = typed(line).unwrap() else { panic!("{line:?} is a run") };
            assert_eq!(global.verbosity(), Verbosity::Verbose);
        }
    }

    #[test]
    fn the_words_behind_exec_are_the_programs() {
        let exec = |words: &[&str]| match typed(words).unwrap() {
            Typed::Exec(_, exec, words) => (exec, words.words, words.behind_dashes),
            other => panic!("expected exec, got {other:?}"),
        };
        assert_eq!(exec(&["exec", "ls", "-l"]).1, ["ls", "-l"]);
        assert_eq!(exec(&["exec", "12ab", "--", "-x"]).1, ["12ab", "--", "-x"]);
        let (_, words, behind_dashes) = exec(&["exec", "--", "12ab"]);
        assert!(behind_dashes && words == ["12ab"]);
        assert_eq!(exec(&["-q", "exec", "--env", "A=B", "run", "--env"]).1, ["run", "--env"]);
        assert_eq!(program(&["--keep", "exec", "x"][..1]), Vec::<OsString>::new());
        assert_eq!(program(&["--keep", "sleep", "5"]), ["sleep", "5"]);
        assert_eq!(program(&["--keep=5m", "sleep", "5"]), ["sleep", "5"]);
        assert_eq!(program(&["--", "exec", "list"]), ["exec", "list"]);
        assert_eq!(program(&["run", "exec"]), ["exec"]);
        assert!(typed(&["-p", "x", "exec", "true"]).is_err());
    }

    #[test]
    fn unknown_options_are_refused() {
        for line in
            [&["--nosuch", "true"][..], &["run", "-Z", "true"], &["-v", "-q", "true"], &["-p"], &["-p", "--", "x"]]
        {
            assert!(typed(line).is_err(), "{line:?}");
        }
    }
}
