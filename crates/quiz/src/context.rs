//! What every verb and every run has at hand: the cache, the worktree, the caller's directory and environment, and the
//! way to speak to the user. Not for what was asked (that is a `RunSpec`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use quiz_config::JsonTo;
use quiz_config::layer::unknown_variable;
use quiz_config::value::Place;
use quiz_config::{
    Caller, Catalog, Given, Invocation, Loaded, RunSpec, Settings, Sources, TypedOption, Verbosity, Worktree, worktree,
};
use quiz_host::{Cache, Environment, Report};

use crate::cli::{Global, RunOptions};
use crate::consent;
use crate::errors::Fault;
use crate::paths::{Paths, PathsError};
use crate::profiles::{self, Profiles};
use crate::report::Terminal;
use crate::run::RunsDir;

/// What every verb and every run has at hand.
#[derive(Debug)]
pub struct Context {
    /// The directory that quiz was called in, or was told to do as if; absolute, without symbolic links.
    pub cwd: PathBuf,
    /// The worktree that this directory is in.
    pub worktree: Option<Worktree>,
    /// The caller's environment.
    pub variables: Vec<(OsString, OsString)>,
    /// Where the user's files are.
    pub paths: Paths,
    /// Shows what long work says.
    pub report: Terminal,
    /// How much quiz says.
    pub verbosity: Verbosity,
    /// Print one machine-readable record.
    pub json: bool,
    /// Where that of a run goes.
    pub json_to: Option<JsonTo>,
    profiles: OnceLock<Profiles>,
}

impl Context {
    /// Finds everything out. Reads no settings.
    pub fn new(global: &Global) -> Result<Context, Fault> {
        let here = std::env::current_dir().map_err(|error| {
            Fault::new(format!("cannot tell the current directory: {error}")).hint("change to one that exists")
        })?;
        let cwd = match &global.directory {
            None => here,
            Some(dir) => match fs_err::canonicalize(here.join(dir)) {
                Ok(dir) if dir.is_dir() => dir,
                Ok(dir) => return Err(Fault::new(format!("--directory: {} is not a directory", dir.display()))),
                Err(error) => return Err(Fault::new(format!("--directory: {error}"))),
            },
        };
        let variables: Vec<_> = std::env::vars_os().collect();
        let paths = Paths::new(&variables, &cwd);
        let caller = Caller {
            uid: rustix::process::geteuid().as_raw(),
            // The current directory has no symbolic links in it, so that HOME must not have any either.
            home: paths.home.as_ref().map(|home| fs_err::canonicalize(home).unwrap_or_else(|_| home.clone())),
        };
        let verbosity = global.verbosity();
        let report = Terminal::new(verbosity);
        let worktree::Found { worktree, foreign } = worktree::find(&cwd, &caller);
        if let Some(foreign) = foreign {
            report.say(&format!(
                "ignoring {}: it belongs to user {}, not to you; run quiz as that user, or in a copy that you own",
                foreign.path.display(),
                foreign.owner
            ));
        }
        let json_to = match &global.json {
            None => None,
            Some(None) => Some(JsonTo::Output),
            Some(Some(place)) => Some(JsonTo::parse(place, &cwd).map_err(|why| Fault::new(format!("--json: {why}")))?),
        };
        Ok(Context {
            cwd,
            worktree,
            variables,
            paths,
            report,
            verbosity,
            json: json_to.is_some(),
            json_to,
            profiles: OnceLock::new(),
        })
    }

    /// The cache. It need not exist yet.
    pub fn cache(&self) -> Result<Cache, PathsError> {
        Ok(Cache::at(self.paths.cache()?))
    }

    /// Where the evidence of runs is usually kept: below the worktree, or for runs outside of any, below the user's state
    /// directory. It need not exist yet.
    pub fn runs_dir(&self) -> Result<RunsDir, PathsError> {
        match &self.worktree {
            Some(worktree) => Ok(RunsDir::of_worktree(&worktree.dir)),
            None => Ok(RunsDir::below(&self.paths.state()?, &["runs"])),
        }
    }

    /// Where it is kept instead of guests that may write to the worktree: below the user's state directory. None outside of a worktree.
    pub fn runs_dir_apart(&self) -> Result<Option<RunsDir>, PathsError> {
        let Some(worktree) = &self.worktree else { return Ok(None) };
        let path = worktree.dir.as_os_str().as_bytes();
        let name = worktree.dir.file_name().unwrap_or_default().to_string_lossy();
        let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).take(40).collect();
        let name = format!("{name}-{}", &quiz_host::digest::of_bytes(path)[..12]);
        Ok(Some(RunsDir::below(&self.paths.state()?, &["worktrees", &name, "runs"])))
    }

    /// All directories where runs of this worktree may be.
    pub fn runs_dirs(&self) -> Result<Vec<RunsDir>, PathsError> {
        Ok(std::iter::once(self.runs_dir()?).chain(self.runs_dir_apart().ok().flatten()).collect())
    }

    /// The value of the caller's variable `name`; empty counts as not set.
    pub fn variable(&self, name: &str) -> Option<&OsString> {
        let found = self.variables.iter().find(|(n, _)| n == name).map(|(_, value)| value);
        found.filter(|value| !value.is_empty())
    }

    /// What of the caller's environment the programs of a build get.
    pub fn build_environment(&self) -> Environment {
        Environment::of(&self.variables)
    }

    /// Where the layers of settings are.
    pub fn sources(&self, options: Vec<TypedOption>) -> Sources {
        Sources {
            user_file: self.paths.config_file(),
            worktree_file: self.worktree.as_ref().and_then(|worktree| worktree.settings.clone()),
            variables: self.variables.clone(),
            options,
            cwd: self.cwd.clone(),
            home: self.paths.home.clone(),
        }
    }

    /// All profiles that there are, found once.
    pub fn profiles(&self) -> Result<&Profiles, Fault> {
        if let Some(profiles) = self.profiles.get() {
            return Ok(profiles);
        }
        let found = profiles::find(self)?;
        Ok(self.profiles.get_or_init(|| found))
    }

    /// Reads the layers of settings, with `options` as the uppermost.
    pub fn settings(&self, options: Vec<TypedOption>) -> Result<Settings, Fault> {
        Ok(self.settings_and_options(options)?.0)
    }

    /// The settings, and the options of profiles that files and variables set. What of the worktree reaches the host must have been allowed.
    pub fn settings_and_options(&self, options: Vec<TypedOption>) -> Result<(Settings, Vec<Given>), Fault> {
        let (settings, profile_options) = self.settings_to_show(options)?;
        consent::require_settings(&settings, &profile_options, self)?;
        Ok((settings, profile_options))
    }

    /// The same, only to be shown.
    pub fn settings_to_show(&self, options: Vec<TypedOption>) -> Result<(Settings, Vec<Given>), Fault> {
        let Loaded { settings, mut profile_options, unknown_variables } = quiz_config::load(&self.sources(options))?;
        if !unknown_variables.is_empty() {
            let place = Place { dir: self.cwd.clone(), home: self.paths.home.clone() };
            // A cache that cannot be written is the fault of those who need it; here it only costs the meaning of a variable.
            let none = Catalog::default();
            let catalog = self.profiles().map_or(&none, |profiles| &profiles.catalog);
            let (given, unknown) = catalog.variables(unknown_variables, &place);
            profile_options.extend(given);
            unknown.iter().for_each(|name| self.report.warn(&unknown_variable(name, catalog)));
        }
        Ok((settings, profile_options))
    }

    /// The run of `command` that the settings and `options` ask for.
    pub fn run_spec(&self, options: &RunOptions, command: Vec<OsString>) -> Result<RunSpec, Fault> {
        let (settings, profile_options) = self.settings_and_options(options.typed())?;
        self.lower(&settings, profile_options, options, command)
    }

    /// The same of settings that were read before.
    pub fn lower(
        &self,
        settings: &Settings,
        profile_options: Vec<Given>,
        options: &RunOptions,
        command: Vec<OsString>,
    ) -> Result<RunSpec, Fault> {
        let invocation = Invocation {
            command,
            shell_after: options.shell_after,
            cold: options.cold,
            strict: options.strict,
            keep: options.keep.is_some(),
            tmux: options.tmux,
            gdb: options.gdb,
            verbosity: self.verbosity,
            json: self.json_to.clone(),
            cwd: self.cwd.clone(),
            worktree: self.worktree.as_ref().map(|worktree| worktree.dir.clone()),
            variables: self.variables.clone(),
            profile_options,
        };
        Ok(quiz_config::lower(settings, invocation)?)
    }
}
