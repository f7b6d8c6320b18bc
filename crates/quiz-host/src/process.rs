//! Processes: children that do not outlive their parent, and the processor time of a process. Not
//! for running a program to its end (`command`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use fs_err as fs;

pub use rustix::process::Signal;

/// Makes the kernel send `signal` to the child of `command` when the thread that starts the child
/// ends, for whatever reason. The threads of a killed process also end. If the parent process has
/// ended before the child's program starts, the program never starts.
///
/// The kernel watches the thread that calls `spawn`, not the process. Call `spawn` from a thread
/// that lives as long as the child is needed. Only the child gets the signal, not the child's own
/// children.
pub fn die_with_parent(command: &mut Command, signal: Signal) {
    let parent = rustix::process::getpid();
    // SAFETY: prctl and getppid are async-signal-safe and touch no memory of the parent; so are
    // both ways to return.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(signal))?;
            // If the parent ended before the line above took effect, the kernel sends no signal any
            // more.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::from(rustix::io::Errno::SRCH));
            }
            Ok(())
        });
    }
}

/// The processor time that the process of `pidfd` has used with all its threads, to 10 ms. `None`
/// if the process is gone.
pub fn processor_time(pidfd: BorrowedFd) -> Option<Duration> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid: u32 = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    let ticks = used_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    Some(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

/// User and system time in ticks, from the text of `/proc/<pid>/stat`. Its second field may contain
/// blanks and parentheses (proc(5)).
fn used_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Stdio};
    use std::time::Instant;

    const ROLE: &str = "QUIZ_TEST_ROLE";
    const DIR: &str = "QUIZ_TEST_DIR";
    const LONG: Duration = Duration::from_secs(20);

    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let until = Instant::now() + LONG;
        while !condition() {
            assert!(Instant::now() < until, "{what}: not within {LONG:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts this test again in another process, which starts a child as `role` has it.
    fn parent(test: &str, role: &str, dir: &Path) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(ROLE, role).env(DIR, dir);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn role() -> Option<PathBuf> {
        std::env::var_os(ROLE)?;
        std::env::var_os(DIR).map(PathBuf::from)
    }

    fn is_running(pid: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    #[test]
    fn a_child_is_killed_with_its_parent() {
        if let Some(dir) = role() {
            let mut command = Command::new("sleep");
            die_with_parent(command.arg("60"), Signal::KILL);
            let mut child = command.spawn().unwrap();
            fs::write(dir.join("new"), child.id().to_string()).unwrap();
            fs::rename(dir.join("new"), dir.join("pid")).unwrap();
            child.wait().unwrap();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut parent = parent("process::tests::a_child_is_killed_with_its_parent", "parent", dir.path());
        wait_until("the child starts", || dir.path().join("pid").exists());
        let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
        assert!(is_running(&pid));
        parent.kill().unwrap();
        parent.wait().unwrap();
        wait_until("the child ends", || !is_running(&pid));
    }

    /// Between fork and prctl, the kernel does not report the parent's end.
    #[test]
    fn a_child_of_a_parent_that_has_ended_already_never_runs_its_program() {
        if let Some(dir) = role() {
            let here = rustix::process::getpid();
            let mut command = Command::new("touch");
            command.arg(dir.join("ran")).current_dir(&dir);
            let (begun, over) = (c"begun", c"over");
            // SAFETY: all calls are async-signal-safe and touch no memory of the parent.
            unsafe {
                command.pre_exec(move || {
                    let make = |path| rustix::fs::mkdir(path, rustix::fs::Mode::RWXU).map_err(io::Error::from);
                    make(begun)?;
                    while rustix::process::getppid() == Some(here) {
                        rustix::thread::sched_yield();
                    }
                    make(over)
                });
            }
            die_with_parent(&mut command, Signal::KILL);
            drop(command.spawn());
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let test = "process::tests::a_child_of_a_parent_that_has_ended_already_never_runs_its_program";
        let mut parent = parent(test, "parent", dir.path());
        wait_until("the child is forked", || dir.path().join("begun").exists());
        parent.kill().unwrap();
        parent.wait().unwrap();
        wait_until("the child sees that it is alone", || dir.path().join("over").exists());
        std::thread::sleep(Duration::from_millis(300));
        assert!(!dir.path().join("ran").exists(), "the program has run without its parent");
    }

    #[test]
    fn processor_time_is_that_of_the_process() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        wait_until("it works", || processor_time(pidfd.as_fd()).unwrap() >= Duration::from_millis(50));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(processor_time(pidfd.as_fd()), None);
        assert_eq!(used_ticks("7 (a) b) R 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20"), Some(42));
        assert_eq!(used_ticks("7 (a) R"), None);
    }
}
