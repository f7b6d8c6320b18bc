//! Runs a program of the host to its end. Its output goes to a log file. If it fails, the error
//! shows the important lines. Not for interactive programs.

use fs_err as fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::first_error;
use crate::guard::Guard;

/// Why a program of the host did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program is not installed.
    #[error("cannot {doing}: the program `{program}` is not installed{}", crate::tools::advice(program))]
    Missing {
        /// What the program was needed for, to follow "cannot".
        doing: String,
        /// The program's name.
        program: String,
    },
    /// The program could not be started, or its output could not be read or written.
    #[error("cannot {doing}: running `{program}`: {cause}")]
    Io {
        /// What was being done, to follow "cannot".
        doing: String,
        /// The program.
        program: String,
        /// The system's error.
        cause: io::Error,
    },
    /// The program ran and failed.
    #[error("cannot {doing}: `{program}` ended with {status}{}\nthe whole log is {}", quote(lines), log.display())]
    Failed {
        /// What was being done, to follow "cannot".
        doing: String,
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The most important lines of its output.
        lines: Vec<String>,
        /// The file with its whole output.
        log: PathBuf,
    },
}

impl CommandError {
    /// The cause in one line.
    pub fn reason(&self) -> String {
        match self {
            CommandError::Failed { lines, .. } if !lines.is_empty() => {
                let line = lines.iter().find(|line| line.starts_with("E: ")).unwrap_or(&lines[lines.len() - 1]);
                line.trim_start_matches("E: ").to_owned()
            }
            other => other.to_string(),
        }
    }
}

fn quote(lines: &[String]) -> String {
    if lines.is_empty() { ", without any output".to_owned() } else { format!(":\n  {}", lines.join("\n  ")) }
}

/// One program to run.
pub struct Run<'a> {
    /// The program and its arguments.
    pub command: Command,
    /// What the program is for, to follow "cannot".
    pub doing: &'a str,
    /// The file that its output is appended to.
    pub log: &'a Path,
}

impl Run<'_> {
    /// Runs the program with its standard output and error in the log. Calls `watch` about ten
    /// times a second with the last line of the output.
    pub fn run(self, watch: impl FnMut(&str)) -> Result<(), CommandError> {
        self.wait(Stdio::null(), None, watch)
    }

    /// As [`Run::run`], with a file as standard input.
    pub fn run_with_input(self, input: std::fs::File, watch: impl FnMut(&str)) -> Result<(), CommandError> {
        self.wait(input.into(), None, watch)
    }

    /// As [`Run::run`], for a program whose children would continue after it is stopped. All of
    /// them end with this process, for whatever reason it ends. The program has no terminal.
    pub fn run_group(mut self, watch: impl FnMut(&str)) -> Result<(), CommandError> {
        let guard = Guard::over(&mut self.command).map_err(|e| self.io(e))?;
        self.wait(Stdio::null(), Some(guard), watch)
    }

    fn wait(mut self, input: Stdio, guard: Option<Guard>, mut watch: impl FnMut(&str)) -> Result<(), CommandError> {
        let (mut running, from) = self.start(input, false, guard)?;
        loop {
            // Returns at once when the program ends, so that short programs are not delayed.
            let ended = running.wait_for(Duration::from_millis(100)).map_err(|e| self.io(e))?;
            if let Some(status) = ended {
                return self.check(status, from);
            }
            watch(last_lines(self.log, from, 1, &|_| true).first().map_or("", String::as_str));
        }
    }

    /// Runs the program with its standard output read by `read`, and its standard error in the log.
    /// If both fail, the program's error is returned. If the program failed only because `read`
    /// stopped early, the error of `read` is returned.
    pub fn stream<T, E: From<CommandError>>(
        mut self,
        read: impl FnOnce(&mut ChildStdout) -> Result<T, E>,
    ) -> Result<T, E> {
        let (mut running, from) = self.start(Stdio::null(), true, None)?;
        let Some(mut stdout) = running.child.stdout.take() else {
            return Err(self.io(io::Error::other("it has no standard output")).into());
        };
        let result = read(&mut stdout);
        if result.is_ok() {
            // There may be padding after the end of an archive. If quiz did not read it, the
            // program would fail with a broken pipe.
            io::copy(&mut stdout, &mut io::sink()).map_err(|e| self.io(e))?;
        }
        drop(stdout);
        let status = running.child.wait().map_err(|e| self.io(e))?;
        // Then the program failed because quiz stopped reading, and the error of `read` counts.
        let cut_off = result.is_err()
            && (std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGPIPE)
                || !last_lines(self.log, from, 1, &|line| line.contains("roken pipe")).is_empty());
        if !cut_off {
            self.check(status, from)?;
        }
        result
    }

    fn start(&mut self, input: Stdio, stdout: bool, guard: Option<Guard>) -> Result<(Running, u64), CommandError> {
        if let Some(dir) = self.log.parent() {
            fs::create_dir_all(dir).map_err(|e| self.io(e))?;
        }
        let log = fs::OpenOptions::new().append(true).create(true).open(self.log).map_err(|e| self.io(e))?;
        let from = log.metadata().map_err(|e| self.io(e))?.len();
        let log = log.into_parts().0;
        let out = if stdout { Stdio::piped() } else { log.try_clone().map_err(|e| self.io(e))?.into() };
        self.command.stdin(input).stdout(out).stderr(log).env("LC_ALL", "C.UTF-8");
        // If quiz is killed, its child processes end too. The kernel watches the thread that spawns
        // them, and that thread waits here.
        crate::process::die_with_parent(&mut self.command, crate::process::Signal::TERM);
        match self.command.spawn() {
            Ok(child) => Ok((Running { child, guard }, from)),
            Err(e) => {
                if let Some(guard) = guard {
                    guard.dismiss();
                }
                match e.kind() {
                    io::ErrorKind::NotFound => Err(self.not_found()),
                    _ => Err(self.io(e)),
                }
            }
        }
    }

    /// The error for "not found" when a program is started. The system may mean something else that
    /// the program needs, such as its interpreter.
    fn not_found(&self) -> CommandError {
        let program = self.command.get_program();
        let dir = self.command.get_current_dir();
        let is_there = if program.as_encoded_bytes().contains(&b'/') {
            dir.unwrap_or(Path::new("")).join(program).exists()
        } else {
            let mut search = Command::new("/bin/sh");
            search.args(["-c", "command -v -- \"$1\"", "sh"]).arg(program).stdin(Stdio::null());
            if let Some(path) = self.command.get_envs().find_map(|(name, value)| value.filter(|_| name == "PATH")) {
                search.env("PATH", path);
            }
            search.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        match dir {
            Some(dir) if !dir.is_dir() => {
                self.io(io::Error::new(io::ErrorKind::NotFound, format!("there is no directory {}", dir.display())))
            }
            _ if is_there => {
                self.io(io::Error::new(io::ErrorKind::NotFound, "the interpreter named in its first line is not there"))
            }
            _ => CommandError::Missing { doing: self.doing.to_owned(), program: self.program() },
        }
    }

    fn program(&self) -> String {
        self.command.get_program().to_string_lossy().into_owned()
    }

    fn io(&self, cause: io::Error) -> CommandError {
        CommandError::Io { doing: self.doing.to_owned(), program: self.program(), cause }
    }

    fn check(&self, status: ExitStatus, from: u64) -> Result<(), CommandError> {
        if status.success() {
            return Ok(());
        }
        let mut lines = first_error::in_log(self.log, from);
        if lines.is_empty() {
            lines = telling_lines(self.log, from);
        }
        Err(CommandError::Failed {
            doing: self.doing.to_owned(),
            program: self.program(),
            status,
            lines,
            log: self.log.to_owned(),
        })
    }
}

/// The lines of a log that say most about a failure: up to 6, from the byte `from` on.
pub fn telling_lines(log: &Path, from: u64) -> Vec<String> {
    let telling = |line: &str| {
        let low = line.to_ascii_lowercase();
        ["e: ", "err:", "w: "].iter().any(|p| low.starts_with(p))
            || ["error", "failed", "cannot", "fatal", "not found", "no such", "unable"].iter().any(|w| low.contains(w))
    };
    let lines = last_lines(log, from, 6, &telling);
    if lines.is_empty() { last_lines(log, from, 6, &|_| true) } else { lines }
}

/// A child process that ends with this value.
struct Running {
    child: Child,
    /// Ends the child's own children with it.
    guard: Option<Guard>,
}

impl Running {
    fn wait_for(&mut self, time: Duration) -> io::Result<Option<ExitStatus>> {
        if let Some(status) = self.child.try_wait()? {
            if let Some(guard) = self.guard.take() {
                guard.dismiss();
            }
            return Ok(Some(status));
        }
        let pid = rustix::process::Pid::from_child(&self.child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        match crate::wait::ready(&mut fds, Some(time)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(None),
            Ok(_) => self.wait_for(Duration::ZERO),
            Err(e) => Err(e.into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            if let Some(mut guard) = self.guard.take() {
                guard.alarm();
                // The guard also ends the child, which may have to clean up.
                let _ended = self.wait_for(Duration::from_secs(3));
            }
            let _killed = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// Up to `count` of the last lines that pass `wanted`, in the order of the log. Only the last 64
/// KiB are read.
fn last_lines(log: &Path, from: u64, count: usize, wanted: &dyn Fn(&str) -> bool) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(log)?;
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(65536))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<String> = text
        .split(['\n', '\r'])
        .rev()
        .map(str::trim_end)
        .filter(|l| !l.is_empty() && wanted(l))
        .take(count)
        .map(str::to_owned)
        .collect();
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::Signal;
    use std::os::unix::process::CommandExt;

    fn sh(script: &str, log: &Path) -> Result<(), CommandError> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Run { command, doing: "try", log }.run(|_| {})
    }

    #[test]
    fn a_failure_shows_the_telling_lines_and_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("logs/x.log");
        sh("echo 'E: of an earlier program'", &log).unwrap();
        let error =
            sh("echo noise; echo 'E: Unable to locate package nosuch'; echo more noise; exit 100", &log).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("cannot try: `sh` ended with exit status: 100"), "{text}");
        assert!(text.contains("\n  E: Unable to locate package nosuch\n"), "{text}");
        assert!(!text.contains("noise") && !text.contains("earlier"), "{text}");
        assert!(text.contains(&*log.to_string_lossy()), "{text}");
        assert!(fs::read_to_string(&log).unwrap().contains("more noise"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let command = Command::new("quiz-no-such-program");
        let error = Run { command, doing: "try", log: &dir.path().join("l") }.run(|_| {}).unwrap_err();
        assert!(error.to_string().contains("`quiz-no-such-program` is not installed"), "{error}");
    }

    #[test]
    fn a_group_ends_with_whoever_started_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("l");
        let group = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            Run { command, doing: "try", log: &log }
        };
        group("test ! -t 0 && echo fine").run_group(|_| {}).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "fine\n");
        let error = group("echo 'E: broken'; exit 7").run_group(|_| {}).unwrap_err().to_string();
        assert!(error.contains("`sh` ended with exit status: 7") && error.contains("E: broken"), "{error}");
        let command = Command::new("quiz-no-such-program");
        let error = Run { command, doing: "try", log: &log }.run_group(|_| {}).unwrap_err().to_string();
        assert!(error.contains("`quiz-no-such-program` is not installed"), "{error}");

        // A grandchild that does not end with its parent.
        let pid = dir.path().join("pid");
        let script = format!("sh -c 'echo $$ > {0}.new; mv {0}.new {0}; sleep 60; :' & wait", pid.display());
        let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            group(&script).run_group(|_| {
                if pid.exists() {
                    panic!("stop");
                }
            })
        }));
        assert!(stopped.is_err());
        let process = Path::new("/proc").join(fs::read_to_string(&pid).unwrap().trim());
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while process.exists() {
            assert!(std::time::Instant::now() < end, "the grandchild is still there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_group_gets_the_environment_that_its_command_has() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("l");
        let seen = |change: &dyn Fn(&mut Command)| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "echo \"[$QUIZ_GIVEN] [${HOME+home}] [$(pwd)]\""]);
            change(&mut command);
            fs::write(&log, "").unwrap();
            Run { command, doing: "try", log: &log }.run_group(|_| {}).unwrap();
            fs::read_to_string(&log).unwrap()
        };
        let here = std::env::current_dir().unwrap().display().to_string();
        assert_eq!(seen(&|_| {}), format!("[] [home] [{here}]\n"));
        assert_eq!(seen(&|c| _ = c.env_remove("HOME")), format!("[] [] [{here}]\n"));
        assert_eq!(seen(&|c| _ = c.env_clear().env("QUIZ_GIVEN", "x").current_dir("/")), "[x] [] [/]\n");
    }

    #[test]
    fn only_what_is_not_there_is_not_installed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("l");
        let said =
            |command: Command| Run { command, doing: "try", log: &log }.run_group(|_| {}).unwrap_err().to_string();
        let mut ended = Command::new("sh");
        ended.args(["-c", "echo 'sh: 1: flex: not found'; exit 127"]);
        let text = said(ended);
        assert!(text.contains("`sh` ended with exit status: 127") && text.contains("flex: not found"), "{text}");
        let mut nowhere = Command::new("true");
        nowhere.current_dir(dir.path().join("nowhere"));
        let text = said(nowhere);
        assert!(
            text.starts_with("cannot try: running `true`: there is no directory ") && text.ends_with("/nowhere"),
            "{text}"
        );
        let script = dir.path().join("script");
        fs::write(&script, "#!/no/such/interpreter\n").unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let text = said(Command::new(&script));
        assert!(text.ends_with("the interpreter named in its first line is not there"), "{text}");
        let mut by_name = Command::new("script");
        by_name.env("PATH", dir.path());
        let text = said(by_name);
        assert!(text.ends_with("the interpreter named in its first line is not there"), "{text}");
        let mut relative = Command::new("./no-such-script");
        relative.current_dir(dir.path());
        let text = said(relative);
        assert!(text.contains("`./no-such-script` is not installed"), "{text}");
    }

    /// Set if the test has started itself to be killed: the file for the pid of its grandchild.
    const VICTIM: &str = "QUIZ_IMAGE_TEST_VICTIM";

    #[test]
    fn a_group_ends_with_a_process_that_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        if let Some(pid) = std::env::var_os(VICTIM).map(PathBuf::from) {
            let mut command = Command::new("sh");
            // All of them ignore SIGTERM, and the leader ends first.
            let script =
                format!("trap '' TERM; sh -c 'echo $$ > {0}.new; mv {0}.new {0}; sleep 60; :' & wait", pid.display());
            command.args(["-c", &script]);
            let _never = Run { command, doing: "try", log: &pid.with_extension("log") }.run_group(|_| {});
            return;
        }
        let until = |what: &str, is_so: &dyn Fn() -> bool| {
            let end = std::time::Instant::now() + Duration::from_secs(30);
            while !is_so() {
                assert!(std::time::Instant::now() < end, "{what}");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        let name = "command::tests::a_group_ends_with_a_process_that_is_killed";
        // With SIGKILL, and with SIGTERM to all processes of its own group, as `timeout` does.
        for (signal, whole_group) in [(Signal::KILL, false), (Signal::TERM, true)] {
            let pid = dir.path().join(format!("pid-{}", signal.as_raw()));
            let mut victim = Command::new(std::env::current_exe().unwrap());
            let mut victim = victim
                .args(["--exact", name])
                .env(VICTIM, &pid)
                .stdout(Stdio::null())
                .process_group(0)
                .spawn()
                .unwrap();
            until("the grandchild did not start", &|| pid.exists());
            let id = rustix::process::Pid::from_child(&victim);
            match whole_group {
                true => rustix::process::kill_process_group(id, signal).unwrap(),
                false => rustix::process::kill_process(id, signal).unwrap(),
            }
            victim.wait().unwrap();
            let process = Path::new("/proc").join(fs::read_to_string(&pid).unwrap().trim());
            until("the grandchild is still there", &|| !process.exists());
        }
    }

    #[test]
    fn output_is_streamed_and_a_late_failure_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("l");
        let stream = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            Run { command, doing: "try", log: &log }.stream(|out| {
                let mut text = String::new();
                out.read_to_string(&mut text).unwrap();
                Ok::<_, CommandError>(text)
            })
        };
        assert_eq!(stream("echo data; echo words >&2").unwrap(), "data\n");
        assert!(stream("echo data; echo 'E: broken' >&2; exit 3").unwrap_err().to_string().contains("E: broken"));
    }
}
