//! What every command and every run needs to know of its caller: the cache, the worktree, the
//! directory and the environment, and where progress is reported. Not for what was asked for (that
//! is a `RunSpec`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use quiz_config::JsonTo;
use quiz_config::{Caller, Sources, TypedOption, Verbosity, Worktree, worktree};
use quiz_host::tools::Search;
use quiz_host::{Cache, Environment, Report};

use crate::evidence::RunsDir;
use crate::fault::Fault;
use crate::paths::{Paths, PathsError};
use crate::profiles::Profiles;

/// What every command and every run needs to know of its caller.
pub struct Context {
    /// The directory that quiz was called in, or was told to do as if; absolute, without symbolic
    /// links.
    pub cwd: PathBuf,
    /// The worktree that this directory is in.
    pub worktree: Option<Worktree>,
    /// The caller's environment.
    pub variables: Vec<(OsString, OsString)>,
    /// Where the user's files are.
    pub paths: Paths,
    /// This program, to start it once more.
    pub program: Option<PathBuf>,
    /// Shows the progress of long work.
    pub report: Box<dyn Report + Send>,
    /// How much quiz prints.
    pub verbosity: Verbosity,
    /// Print one machine-readable record.
    pub json: bool,
    /// Where that of a run goes.
    pub json_to: Option<JsonTo>,
    profiles: OnceLock<Profiles>,
}

/// How quiz was called.
pub struct ContextParts {
    /// The directory that quiz was called in; absolute, without symbolic links.
    pub cwd: PathBuf,
    /// The caller's environment.
    pub variables: Vec<(OsString, OsString)>,
    /// This program, to start it once more.
    pub program: Option<PathBuf>,
    /// Shows the progress of long work.
    pub report: Box<dyn Report + Send>,
    /// How much quiz prints.
    pub verbosity: Verbosity,
    /// Where the record of a run goes.
    pub json_to: Option<JsonTo>,
}

impl Context {
    /// Finds the worktree and the user's directories. Reads no settings.
    pub fn new(parts: ContextParts) -> Context {
        let ContextParts { cwd, variables, program, report, verbosity, json_to } = parts;
        let paths = Paths::new(&variables, &cwd);
        let caller = Caller {
            uid: rustix::process::geteuid().as_raw(),
            // The current directory has no symbolic links in it, so that HOME must not have any
            // either.
            home: paths.home.as_ref().map(|home| fs_err::canonicalize(home).unwrap_or_else(|_| home.clone())),
        };
        let worktree::Found { worktree, foreign } = worktree::find(&cwd, &caller);
        if let Some(foreign) = foreign {
            report.say(&format!(
                "ignoring {}: it belongs to user {}, not to you; run quiz as that user, or in a copy that you own",
                foreign.path.display(),
                foreign.owner
            ));
        }
        let json = json_to.is_some();
        let profiles = OnceLock::new();
        Context { cwd, worktree, variables, program, paths, report, verbosity, json, json_to, profiles }
    }

    /// The cache. It need not exist yet.
    pub fn cache(&self) -> Result<Cache, PathsError> {
        Ok(Cache::at(self.paths.cache()?))
    }

    /// Where the evidence of runs is usually kept: below the worktree, or for runs outside of any,
    /// below the user's state directory. It need not exist yet.
    pub fn runs_dir(&self) -> Result<RunsDir, PathsError> {
        match &self.worktree {
            Some(worktree) => Ok(RunsDir::of_worktree(&worktree.dir)),
            None => Ok(RunsDir::below(&self.paths.state()?, &["runs"])),
        }
    }

    /// Where it is kept instead of guests that may write to the worktree: below the user's state
    /// directory. None outside of a worktree.
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
        let found = Profiles::find(&self.cache()?, &self.paths, self.worktree.as_ref(), &self.report)?;
        Ok(self.profiles.get_or_init(|| found))
    }

    /// Where this host's programs are.
    pub fn search(&self) -> Search {
        Search::new(self.variable("PATH").map_or("".as_ref(), |path| path.as_os_str()))
    }
}
