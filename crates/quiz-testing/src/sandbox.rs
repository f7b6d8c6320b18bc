//! Directories for one test, and quiz called in them.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use fs_err as fs;

/// A worktree and a home. They are deleted in the end, unless the test fails.
#[derive(Debug)]
pub struct Sandbox {
    program: PathBuf,
    top: tempfile::TempDir,
}

/// What a call of quiz said and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; -1 when quiz itself died of a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, lossy.
    pub stderr: String,
}

impl Ran {
    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Sandbox {
    /// A sandbox for the quiz at `program`.
    ///
    /// # Panics
    /// If the host gives no temporary directory.
    pub fn new(program: impl Into<PathBuf>) -> Sandbox {
        let top = tempfile::Builder::new().prefix("quiz-test-").tempdir().expect("a temporary directory");
        fs::create_dir_all(top.path().join("home")).expect("a home");
        let sandbox = Sandbox { program: program.into(), top };
        sandbox.make_worktree("worktree");
        sandbox
    }

    /// The worktree.
    pub fn worktree(&self) -> PathBuf {
        self.top.path().join("worktree")
    }

    /// The home.
    pub fn home(&self) -> PathBuf {
        self.top.path().join("home")
    }

    /// A directory beside the worktree.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    /// Makes another worktree.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn make_worktree(&self, name: &str) -> PathBuf {
        let dir = self.beside(name);
        fs::create_dir_all(dir.join(".quiz")).expect("a worktree");
        dir
    }

    /// Quiz, to be called with `args` in the worktree, with an environment of just what it needs.
    /// Kernels and roots come from the user's cache, so that they are made once and not for every
    /// test.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.command_in(&self.worktree(), args)
    }

    /// The same, called in another directory.
    pub fn command_in<S: AsRef<OsStr>>(&self, dir: &Path, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(dir).env_clear().env("HOME", self.home());
        for kept in ["PATH", "TMPDIR"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.env("QUIZ_CACHE", cache()).stdin(Stdio::null());
        command
    }

    /// Calls quiz and waits for its end.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn quiz<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.command(args).output().expect("quiz can be started").into()
    }

    /// Allows all of the worktree that reaches the host, as it is now.
    ///
    /// # Panics
    /// If quiz does not take it.
    pub fn allow(&self) {
        let ran = self.quiz(["allow"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }

    /// Calls quiz in another directory and waits for its end.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn quiz_in<S: AsRef<OsStr>>(&self, dir: &Path, args: impl IntoIterator<Item = S>) -> Ran {
        self.command_in(dir, args).output().expect("quiz can be started").into()
    }

    /// Calls quiz with this on its standard input.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn quiz_with_input<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Ran {
        let mut child = self.start(self.command(args).stdin(Stdio::piped()));
        let mut stdin = child.stdin.take().expect("standard input is piped");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A program that reads only the beginning is fine.
                stdin.write_all(input).ok();
            });
            child.wait_with_output().expect("quiz can be waited for").into()
        })
    }

    /// Starts quiz with its output piped.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(&self, command: &mut Command) -> Child {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("quiz can be started")
    }

    /// The directories of the worktree's runs, oldest first.
    pub fn runs(&self) -> Vec<PathBuf> {
        runs_of(&self.worktree())
    }

    /// The directory of the newest run.
    ///
    /// # Panics
    /// If there is none.
    pub fn last_run(&self) -> PathBuf {
        self.runs().pop().expect("there was a run")
    }
}

impl Drop for Sandbox {
    /// What a failing test has left stays, and is named.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.top.disable_cleanup(true);
            eprintln!("the evidence is in {}", self.top.path().display());
        }
    }
}

/// The directories of a worktree's runs, oldest first.
pub fn runs_of(worktree: &Path) -> Vec<PathBuf> {
    let Ok(found) = fs::read_dir(worktree.join(".quiz/runs")) else { return Vec::new() };
    let mut runs: Vec<PathBuf> = found.flatten().map(|entry| entry.path()).collect();
    runs.sort();
    runs
}

/// The cache that holds kernels, roots and checkouts between tests: the user's.
///
/// # Panics
/// Without HOME.
pub fn cache() -> PathBuf {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    of("QUIZ_CACHE")
        .or_else(|| of("XDG_CACHE_HOME").map(|dir| dir.join("quiz")))
        .or_else(|| of("HOME").map(|dir| dir.join(".cache/quiz")))
        .expect("HOME is set")
}
