//! Directories for one test, in which the test calls quiz.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use fs_err as fs;

/// A worktree and a home. They are deleted at the end, unless the test fails.
#[derive(Debug)]
pub struct Sandbox {
    program: PathBuf,
    top: tempfile::TempDir,
}

/// The output and the exit code of a call of quiz.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; -1 when a signal killed quiz itself.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error as text; invalid UTF-8 is replaced.
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
    /// Makes a sandbox for the quiz at `program`.
    ///
    /// # Panics
    /// If no temporary directory can be made.
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

    /// A command that calls quiz with `args` in the worktree, with a minimal environment. Kernels
    /// and roots come from the user's cache, so that they are made only once for all tests.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.command_in(&self.worktree(), args)
    }

    /// Like [`Sandbox::command`], but in another directory.
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

    /// Trusts everything in the worktree that can affect the host, in its present state.
    ///
    /// # Panics
    /// If quiz refuses.
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

    /// Calls quiz with `input` on its standard input and waits for its end.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn quiz_with_input<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Ran {
        let mut child = self.start(self.command(args).stdin(Stdio::piped()));
        let mut stdin = child.stdin.take().expect("standard input is piped");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A program may read only the beginning of its input.
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

    /// The run directories of the worktree, oldest first.
    pub fn runs(&self) -> Vec<PathBuf> {
        runs_of(&self.worktree())
    }

    /// The newest run directory.
    ///
    /// # Panics
    /// If there is none.
    pub fn last_run(&self) -> PathBuf {
        self.runs().pop().expect("there was a run")
    }
}

impl Drop for Sandbox {
    /// Keeps the directories of a failing test and prints their path.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.top.disable_cleanup(true);
            eprintln!("the evidence is in {}", self.top.path().display());
        }
    }
}

/// The run directories of a worktree, oldest first.
pub fn runs_of(worktree: &Path) -> Vec<PathBuf> {
    let Ok(found) = fs::read_dir(worktree.join(".quiz/runs")) else { return Vec::new() };
    let mut runs: Vec<PathBuf> = found.flatten().map(|entry| entry.path()).collect();
    runs.sort();
    runs
}

/// The user's cache, which keeps kernels, roots and checkouts between tests.
///
/// # Panics
/// If `HOME` is not set.
pub fn cache() -> PathBuf {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    of("QUIZ_CACHE")
        .or_else(|| of("XDG_CACHE_HOME").map(|dir| dir.join("quiz")))
        .or_else(|| of("HOME").map(|dir| dir.join(".cache/quiz")))
        .expect("HOME is set")
}
