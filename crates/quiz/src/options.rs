//! The global options, and those of a run. Not for options of single commands (`commands`), nor for
//! what options mean (`quiz_config`).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use quiz_config::{JsonTo, KEYS, Key, KeyOption, TypedOption, Verbosity};
use quiz_run::{Asked, Context, ContextParts, Fault};

use crate::report::Terminal;

/// Options that every command has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print every kernel message, and what quiz does
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Print errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print one JSON record; that of a run to WHERE, a file or a descriptor (fd:N) [default WHERE:
    /// standard output]
    #[arg(long, global = true, value_name = "WHERE", num_args = 0..=1, require_equals = true)]
    pub json: Option<Option<OsString>>,
    /// Run as if quiz was started in this directory
    #[arg(short = 'C', long, global = true, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

impl Global {
    /// Returns the context of this call of quiz.
    ///
    /// # Errors
    /// If quiz cannot enter the directory, or `--json` names no usable place.
    pub fn context(&self) -> Result<Context, Fault> {
        let here = std::env::current_dir().map_err(|error| {
            Fault::new(format!("cannot find the current directory: {error}")).hint("change to one that exists")
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
#[command(next_help_heading = "Run options (settings can change their defaults: see quiz config)")]
pub struct RunOptions {
    /// Those that are settings.
    #[command(flatten)]
    pub settings: SettingOptions,
    /// Start a shell in the VM after the program
    #[arg(short = 'S', long)]
    pub shell_after: bool,
    /// Run the program in tmux, with the kernel's log in a second window
    #[arg(long)]
    pub tmux: bool,
    /// Stop the VM before the kernel's first instruction, until gdb attaches
    #[arg(long)]
    pub gdb: bool,
    /// Boot the VM, even if there is a template to resume from
    #[arg(long)]
    pub cold: bool,
    /// Fail the run on a kernel warning or a report of a kernel checker (KASAN, lockdep, UBSAN,
    /// ...)
    #[arg(long)]
    pub strict: bool,
    /// Keep the VM after the program, for `quiz exec`, until `quiz kill` or for TIME [default TIME:
    /// the setting `keep_time`]
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true)]
    pub keep: Option<Option<OsString>>,
    /// Be the keeper of a VM whose program another quiz shows, at the other end of standard input
    #[arg(long, hide = true, value_name = "TERMINAL")]
    pub hold_run: Option<String>,
    /// Be the keeper of a standby VM for the next run with these arguments in this directory
    #[arg(long, hide = true, value_name = "DIR")]
    pub hold_standby: Option<PathBuf>,
}

impl RunOptions {
    /// Returns what these options ask of a run.
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

    /// Returns the options that set a key, as the user typed them.
    pub fn typed(&self) -> Vec<TypedOption> {
        let keep = self.keep.iter().flatten();
        let by_flag = keep.map(|time| TypedOption { key: "keep_time", option: "--keep", value: time.clone() });
        self.settings.0.iter().cloned().chain(by_flag).collect()
    }

    /// Returns the spelling of one given option, if there is any.
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
        self.settings.0.first().map(|typed| typed.option).or(flag)
    }

    /// Returns these options followed by `later` ones.
    pub fn then(self, later: RunOptions) -> RunOptions {
        RunOptions {
            settings: self.settings.then(later.settings),
            shell_after: later.shell_after || self.shell_after,
            tmux: later.tmux || self.tmux,
            gdb: later.gdb || self.gdb,
            cold: later.cold || self.cold,
            strict: later.strict || self.strict,
            keep: later.keep.or(self.keep),
            hold_run: later.hold_run.or(self.hold_run),
            hold_standby: later.hold_standby.or(self.hold_standby),
        }
    }
}

/// The options of a run that are settings: one for each key that has an option in the table of
/// settings.
#[derive(Debug, Clone, Default)]
pub struct SettingOptions(Vec<TypedOption>);

impl SettingOptions {
    /// Returns these options followed by `later` ones. Lists grow; a later value replaces any
    /// other.
    fn then(self, later: SettingOptions) -> SettingOptions {
        let is_list = |name: &str| KEYS.iter().any(|key| key.name == name && key.list);
        let replaced = |typed: &TypedOption| !is_list(typed.key) && later.0.iter().any(|other| other.key == typed.key);
        let earlier = self.0.into_iter().filter(|typed| !replaced(typed));
        let mut all: Vec<TypedOption> = earlier.chain(later.0.iter().cloned()).collect();
        all.sort_by_key(|typed| KEYS.iter().position(|key| key.name == typed.key));
        SettingOptions(all)
    }

    /// Removes the option for `key`, and returns its value.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|typed| typed.key == key)?;
        Some(self.0.remove(at).value.to_string_lossy().into_owned())
    }

    /// Gives the option for `key` this value, unless it has one.
    pub fn set_if_missing(&mut self, key: &Key, value: Option<String>) {
        if let (Some(value), Some(option)) = (value, key.option)
            && !self.0.iter().any(|typed| typed.key == key.name)
        {
            self.0.push(TypedOption { key: key.name, option: option.long, value: value.into() });
        }
    }
}

/// Returns the keys that have an option of their own.
fn keys_with_option() -> impl Iterator<Item = (&'static Key, KeyOption)> {
    KEYS.iter().filter_map(|key| Some((key, key.option.filter(|option| !option.by_flag)?)))
}

impl Args for SettingOptions {
    fn augment_args(command: Command) -> Command {
        keys_with_option().fold(command, |command, (key, option)| {
            let default = quiz_config::default_text(key);
            let default = if default.is_empty() { default } else { format!(" [default: {default}]") };
            let mut arg = Arg::new(key.name)
                .long(option.long.trim_start_matches('-'))
                .value_name(option.value)
                .value_parser(ValueParser::os_string())
                .allow_hyphen_values(option.hyphens)
                .action(if key.list { ArgAction::Append } else { ArgAction::Set })
                .help(format!("{}{default}", key.about));
            if let Some(short) = option.short {
                arg = arg.short(short);
            }
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        SettingOptions::augment_args(command)
    }
}

impl FromArgMatches for SettingOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SettingOptions, clap::Error> {
        let typed = keys_with_option().flat_map(|(key, option)| {
            let values = matches.get_many::<OsString>(key.name).into_iter().flatten();
            values.map(move |value| TypedOption { key: key.name, option: option.long, value: value.clone() })
        });
        Ok(SettingOptions(typed.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = SettingOptions::from_arg_matches(matches)?;
        Ok(())
    }
}
