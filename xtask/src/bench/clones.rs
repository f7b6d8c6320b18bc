//! Measures many clones of one template at once: how fast they start, and how much memory each
//! uses.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quiz_testing::descendants;
use quiz_testing::openzfs::{self, Release};

use super::samples::Samples;
use crate::sh::check;
use crate::steps::released_quiz;

/// How many clones run at once.
const COUNTS: [usize; 3] = [1, 4, 16];

/// Measures in `rounds` turns, in `worktree` or in a separate checkout of OpenZFS 2.3.
pub fn run(rounds: usize, kernel: Option<&str>, worktree: Option<&Path>) -> Result<(), String> {
    let program = released_quiz()?;
    let worktree = match worktree {
        Some(worktree) => worktree.to_owned(),
        None => openzfs::checkout(Release::BookwormBackports)?,
    };
    let quiz = || {
        let mut command = Command::new(&program);
        command.current_dir(&worktree).args(["-q"]);
        if let Some(kernel) = kernel {
            command.env("QUIZ_KERNEL", kernel);
        }
        command
    };
    check(quiz().arg("zfs"))?;
    // Lists the module, reports that it is up, and stays until its input ends.
    let clone = || {
        let mut command = quiz();
        command.args(["-m", "1G", "-p", "zfs,memdev", "--timeout", "5m"]);
        command.args(["sh", "-c", "grep -q ^zfs /proc/modules && echo up && cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    };
    drop(Clones::start(1, &clone)?);
    println!(
        "{:<8} {:>12} {:>12} {:>16} {:>16}",
        "clones", "until all up", "clones/s", "PSS of a VM", "PSS of its quiz"
    );
    for count in COUNTS {
        let mut times = Samples::of("clones");
        let (mut vm, mut own) = (0, 0);
        for _ in 0..rounds {
            let begin = Instant::now();
            let clones = Clones::start(count, &clone)?;
            times.add(begin.elapsed());
            let (of_vms, of_quiz) = clones.memory()?;
            (vm, own) = (vm.max(of_vms / count), own.max(of_quiz / count));
        }
        let seconds = times.median() / 1000.0;
        let rate = count as f64 / seconds;
        println!("{count:<8} {seconds:>10.2} s {rate:>12.1} {:>12} MiB {:>12} MiB", vm / 1024, own / 1024);
    }
    Ok(())
}

/// Running clones; they end when this value is dropped.
struct Clones(Vec<Child>);

impl Clones {
    fn start(count: usize, command: &dyn Fn() -> Command) -> Result<Clones, String> {
        let mut clones = Clones(Vec::new());
        for _ in 0..count {
            clones.0.push(command().spawn().map_err(|e| e.to_string())?);
        }
        for child in &mut clones.0 {
            let mut said = [0; 3];
            let stdout = child.stdout.as_mut().ok_or("a clone without output")?;
            stdout.read_exact(&mut said).map_err(|e| format!("a clone did not come up: {e}"))?;
        }
        Ok(clones)
    }

    /// The proportional set sizes of all VMs, and of all quiz processes, in KiB.
    fn memory(&self) -> Result<(usize, usize), String> {
        // Wait until starting is over: memory that is only in transit does not count.
        std::thread::sleep(Duration::from_millis(500));
        let (mut vms, mut own) = (0, 0);
        for child in &self.0 {
            own += pss(child.id())?;
            for pid in descendants(child.id()) {
                vms += pss(pid)?;
            }
        }
        Ok((vms, own))
    }
}

impl Drop for Clones {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.stdin.take());
        }
        for child in &mut self.0 {
            child.wait().ok();
        }
    }
}

/// The proportional set size of one process, in KiB (`/proc/PID/smaps_rollup`).
fn pss(pid: u32) -> Result<usize, String> {
    let text = fs_err::read_to_string(format!("/proc/{pid}/smaps_rollup")).map_err(|e| e.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("the kernel tells no PSS")?;
    line.trim().trim_end_matches(" kB").parse().map_err(|e| format!("{line}: {e}"))
}
