//! What every command and every run needs to know of its caller: the cache, the worktree, the
//! directory, the environment, and where quiz reports progress. Not for what the user asked for,
//! which is a `RunSpec`.

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
    /// The directory that the user called quiz in or named with `-C`; absolute, without symbolic
    /// links.
    pub cwd: PathBuf,
    /// The worktree that this directory is in.
    pub worktree: Option<Worktree>,
    /// The caller's environment.
    pub variables: Vec<(OsString, OsString)>,
    /// Where the user's files are.
    pub paths: Paths,
    /// The path of this program, to start it once more.
    pub program: Option<PathBuf>,
    /// Shows the progress of long work.
    pub report: Box<dyn Report + Send>,
    /// How much quiz prints.
    pub verbosity: Verbosity,
    /// Print one machine-readable record.
    pub json: bool,
    /// Where the record of a run goes.
    pub json_to: Option<JsonTo>,
    profiles: OnceLock<Profiles>,
}

/// How quiz was called.
pub struct ContextParts {
    /// The directory that the user called quiz in or named with `-C`; absolute, without symbolic
    /// links.
    pub cwd: PathBuf,
    /// The caller's environment.
    pub variables: Vec<(OsString, OsString)>,
    /// The path of this program, to start it once more.
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
            // The current directory has no symbolic links in it, so HOME must not have any either.
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

    /// Returns the cache. It need not exist yet.
    pub fn cache(&self) -> Result<Cache, PathsError> {
        Ok(Cache::at(self.paths.cache()?))
    }

    /// Returns where run directories usually are: below the worktree, or below the user's state
    /// directory if there is none. It need not exist yet.
    pub fn runs_dir(&self) -> Result<RunsDir, PathsError> {
        match &self.worktree {
            Some(worktree) => Ok(RunsDir::of_worktree(&worktree.dir)),
            None => Ok(RunsDir::below(&self.paths.state()?, &["runs"])),
        }
    }

    /// Returns where run directories are if guests may write to the worktree: below the user's
    /// state directory. None outside of a worktree.
    pub fn runs_dir_apart(&self) -> Result<Option<RunsDir>, PathsError> {
        let Some(worktree) = &self.worktree else { return Ok(None) };
        let path = worktree.dir.as_os_str().as_bytes();
        let name = worktree.dir.file_name().unwrap_or_default().to_string_lossy();
        let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).take(40).collect();
        let name = format!("{name}-{}", &quiz_host::digest::of_bytes(path)[..12]);
        Ok(Some(RunsDir::below(&self.paths.state()?, &["worktrees", &name, "runs"])))
    }

    /// Returns all directories where runs of this worktree may be.
    pub fn runs_dirs(&self) -> Result<Vec<RunsDir>, PathsError> {
        Ok(std::iter::once(self.runs_dir()?).chain(self.runs_dir_apart().ok().flatten()).collect())
    }

    /// Returns the value of the caller's variable `name`. An empty one counts as not set.
    pub fn variable(&self, name: &str) -> Option<&OsString> {
        let found = self.variables.iter().find(|(n, _)| n == name).map(|(_, value)| value);
        found.filter(|value| !value.is_empty())
    }

    /// Returns the part of the caller's environment that the programs of a build receive.
    pub fn build_environment(&self) -> Environment {
        Environment::of(&self.variables)
    }

    /// Returns where the layers of settings are, with `options` as the uppermost.
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

    /// Returns all profiles. Only the first call looks for them.
    pub fn profiles(&self) -> Result<&Profiles, Fault> {
        if let Some(profiles) = self.profiles.get() {
            return Ok(profiles);
        }
        let found = Profiles::find(&self.cache()?, &self.paths, self.worktree.as_ref(), &self.report)?;
        Ok(self.profiles.get_or_init(|| found))
    }

    /// Returns where this host's programs are.
    pub fn search(&self) -> Search {
        Search::new(self.variable("PATH").map_or("".as_ref(), |path| path.as_os_str()))
    }
}
