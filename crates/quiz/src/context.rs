//! What every verb and every run has at hand: the cache, the worktree, the caller's directory and environment, and the
//! way to speak to the user. Not for what was asked (that is a `RunSpec`).

use std::ffi::OsString;
use std::path::PathBuf;

use quiz_config::{Caller, Invocation, Loaded, RunSpec, Settings, Sources, TypedOption, Verbosity, Worktree, worktree};
use quiz_image::Cache;

use crate::cli::{Global, RunOptions};
use crate::errors::Fault;
use crate::paths::{Paths, PathsError};
use crate::report::Terminal;

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
        let worktree = worktree::find(&cwd, &caller)?;
        let verbosity = global.verbosity();
        Ok(Context { cwd, worktree, variables, paths, report: Terminal::new(verbosity), verbosity, json: global.json })
    }

    /// The cache. It need not exist yet.
    pub fn cache(&self) -> Result<Cache, PathsError> {
        Ok(Cache::at(self.paths.cache()?))
    }

    /// Where the evidence of runs is kept: below the worktree, or for runs outside of any, below the user's state
    /// directory. It need not exist yet.
    pub fn runs_dir(&self) -> Result<PathBuf, PathsError> {
        let base = match &self.worktree {
            Some(worktree) => worktree.state_dir(),
            None => self.paths.state()?,
        };
        Ok(base.join("runs"))
    }

    /// The value of the caller's variable `name`; empty counts as not set.
    pub fn variable(&self, name: &str) -> Option<&OsString> {
        let found = self.variables.iter().find(|(n, _)| n == name).map(|(_, value)| value);
        found.filter(|value| !value.is_empty())
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

    /// Reads the layers of settings, with `options` as the uppermost.
    pub fn settings(&self, options: Vec<TypedOption>) -> Result<Settings, Fault> {
        let Loaded { settings, warnings } = quiz_config::load(&self.sources(options))?;
        warnings.iter().for_each(|warning| self.report.warn(warning));
        Ok(settings)
    }

    /// The run of `command` that the settings and `options` ask for.
    pub fn run_spec(&self, options: &RunOptions, command: Vec<OsString>) -> Result<RunSpec, Fault> {
        let settings = self.settings(options.typed())?;
        let invocation = Invocation {
            command,
            shell_after: options.shell_after,
            cold: options.cold,
            verbosity: self.verbosity,
            json: self.json,
            cwd: self.cwd.clone(),
            worktree: self.worktree.as_ref().map(|worktree| worktree.dir.clone()),
            variables: self.variables.clone(),
        };
        Ok(quiz_config::lower(&settings, invocation)?)
    }
}
