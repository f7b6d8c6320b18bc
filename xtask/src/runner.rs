//! Runs jobs in parallel, the longest first: tests, and preparations for tests. A failing job does
//! not stop the others. At the end, the runner lists each failed job with its log. Not for defining
//! the jobs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fs_err as fs;
use rustix::process::{Pid, Signal, kill_process_group};

/// Time limit of a job; after that it counts as hung and is killed. The longest job compiles a
/// kernel.
const LIMIT: Duration = Duration::from_secs(45 * 60);

/// A program to run to its end.
pub struct Job {
    /// The name for the user and for its log: `quiz zfs a_fault_shows_in_the_pool`.
    pub name: String,
    /// The command. It runs in its own process group, and its output goes to the log.
    pub command: Command,
    /// Names of jobs to run first, because this one would only wait for their results.
    pub after: Vec<String>,
    /// Estimated duration in seconds, until it is measured.
    pub guess: f64,
}

/// The results of all jobs.
#[derive(Debug, Default)]
pub struct Summary {
    /// Single tests that passed; a job that is no test program counts as one.
    pub passed: u64,
    /// Single tests that failed.
    pub failed: u64,
    /// The names of the jobs that failed, each with its log.
    pub failures: Vec<(String, PathBuf)>,
}

/// The state that the workers share.
struct Queue {
    waiting: Vec<Job>,
    running: Vec<String>,
    summary: Summary,
    seconds: BTreeMap<String, f64>,
}

/// Runs `jobs`, `at_once` at a time. `dir` keeps the logs, and the durations for the next time.
///
/// # Errors
/// Fails if `dir` cannot be written to. A failing job is no error: see the summary.
pub fn run(mut jobs: Vec<Job>, at_once: usize, dir: &Path) -> Result<Summary, String> {
    let io = |e: std::io::Error| e.to_string();
    let (logs, file) = (dir.join("logs"), dir.join("seconds.json"));
    if logs.exists() {
        fs::remove_dir_all(&logs).map_err(io)?;
    }
    fs::create_dir_all(&logs).map_err(io)?;
    let known = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let seconds: BTreeMap<String, f64> = known.unwrap_or_default();
    let expected = |job: &Job| seconds.get(&job.name).copied().unwrap_or(job.guess);
    // Jobs that other jobs need come first.
    let needed = |job: &Job, jobs: &[Job]| jobs.iter().any(|other| other.after.contains(&job.name));
    let mut keys: Vec<(bool, f64)> = jobs.iter().map(|job| (needed(job, &jobs), expected(job))).collect();
    let mut order: Vec<(bool, f64, Job)> =
        keys.drain(..).zip(jobs.drain(..)).map(|((n, s), job)| (n, s, job)).collect();
    order.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)));
    let total = order.len();
    let queue = Mutex::new(Queue {
        waiting: order.into_iter().map(|(.., job)| job).collect(),
        running: Vec::new(),
        summary: Summary::default(),
        seconds,
    });
    let changed = Condvar::new();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| work(&queue, &changed, &logs, total));
        }
    });
    let mut queue = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    for job in queue.waiting.drain(..) {
        let after = job.after.join(", ");
        println!("not run: {}, because it waits for {after}, which waits for it", job.name);
        queue.summary.failed += 1;
        queue.summary.failures.push((job.name, file.clone()));
    }
    fs::write(&file, serde_json::to_vec_pretty(&queue.seconds).map_err(|e| e.to_string())?).map_err(io)?;
    Ok(queue.summary)
}

/// A worker: takes the first job that need not wait, until no job is left.
fn work(queue: &Mutex<Queue>, changed: &Condvar, logs: &Path, total: usize) {
    let mut state = queue.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let unfinished =
            |name: &String| state.running.contains(name) || state.waiting.iter().any(|job| job.name == *name);
        let Some(next) = state.waiting.iter().position(|job| !job.after.iter().any(unfinished)) else {
            // A job that waits for itself, or a cycle of waiting jobs, is a mistake in the list of
            // jobs.
            if state.waiting.is_empty() || state.running.is_empty() {
                changed.notify_all();
                return;
            }
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let mut job = state.waiting.remove(next);
        state.running.push(job.name.clone());
        drop(state);

        let log = logs.join(format!("{}.log", job.name.replace(['/', ' ', ':'], "-")));
        let start = Instant::now();
        let ended = run_one(&mut job.command, &log);
        let seconds = start.elapsed().as_secs_f64();
        let text = fs::read_to_string(&log).unwrap_or_default();
        let (passed, failed) = counts(&text).unwrap_or((u64::from(ended.is_ok()), u64::from(ended.is_err())));

        state = queue.lock().unwrap_or_else(PoisonError::into_inner);
        state.running.retain(|name| *name != job.name);
        state.summary.passed += passed;
        state.summary.failed += if ended.is_err() { failed.max(1) } else { failed };
        let done = total - state.waiting.len() - state.running.len();
        match ended {
            Ok(()) => {
                state.seconds.insert(job.name.clone(), seconds);
                println!("[{done:>3}/{total}] {seconds:>6.1} s  ok      {}", job.name);
            }
            Err(why) => {
                println!("[{done:>3}/{total}] {seconds:>6.1} s  FAILED  {}: {why}", job.name);
                println!("{}", tail(&text));
                state.summary.failures.push((job.name.clone(), log));
            }
        }
        changed.notify_all();
    }
}

fn run_one(command: &mut Command, log: &Path) -> Result<(), String> {
    let (file, _) = fs::File::create(log).map_err(|e| e.to_string())?.into_parts();
    let errors = file.try_clone().map_err(|e| e.to_string())?;
    std::os::unix::process::CommandExt::process_group(command, 0);
    // The job is no longer in the terminal's process group. An interrupt reaches it because this
    // process ends.
    quiz_host::process::die_with_parent(command, Signal::TERM);
    let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
    let mut child = child.map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let ended = wait(&mut child, LIMIT).map_err(|e| e.to_string())?;
    match ended {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(status.to_string()),
        None => {
            let group = Pid::from_child(&child);
            kill_process_group(group, Signal::KILL).ok();
            child.wait().map_err(|e| e.to_string())?;
            Err(format!("timed out after {} min", LIMIT.as_secs() / 60))
        }
    }
}

/// Waits for the end of `child`; `None` if it still runs after `limit`.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    use rustix::event::{PollFd, PollFlags};
    let until = Instant::now() + limit;
    let pidfd = rustix::process::pidfd_open(Pid::from_child(child), rustix::process::PidfdFlags::empty())?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        match quiz_host::wait::ready(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// The numbers of passed and failed tests in a test program's output: `test result: ok. 7 passed; 0
/// failed; …`.
fn counts(text: &str) -> Option<(u64, u64)> {
    let results = text.lines().filter_map(|line| line.trim().strip_prefix("test result: "));
    let number = |line: &str, what: &str| -> Option<u64> {
        line.split(['.', ';']).find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
    };
    let mut sums = None;
    for line in results {
        let (passed, failed) = sums.unwrap_or((0, 0));
        sums = Some((passed + number(line, "passed")?, failed + number(line, "failed")?));
    }
    sums
}

/// The end of a log, for a first look.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].iter().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str, script: &str, after: &[&str]) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job { name: name.to_owned(), command, after: after.iter().map(|name| (*name).to_owned()).collect(), guess: 1.0 }
    }

    #[test]
    fn a_failing_job_stops_no_other_and_its_log_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let say = |word: &str| format!("echo {word} >> {}", out.display());
        let jobs = vec![
            job("late", &say("late"), &["early"]),
            job("bad", "echo reason; exit 3", &[]),
            job("program", "echo 'test result: FAILED. 5 passed; 2 failed; 0 ignored'; exit 101", &[]),
            job("early", &format!("sleep 0.2; {}", say("early")), &[]),
        ];
        let summary = run(jobs, 2, dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&out).unwrap(), "early\nlate\n");
        assert_eq!((summary.passed, summary.failed), (7, 3));
        let mut failures = summary.failures;
        failures.sort();
        assert_eq!(failures.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["bad", "program"]);
        assert_eq!(fs::read_to_string(&failures[0].1).unwrap(), "reason\n");
        let seconds: BTreeMap<String, f64> =
            serde_json::from_slice(&fs::read(dir.path().join("seconds.json")).unwrap()).unwrap();
        assert!(seconds["early"] >= 0.2 && !seconds.contains_key("bad"), "{seconds:?}");
    }

    #[test]
    fn jobs_that_wait_for_each_other_do_not_hang_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = vec![job("a", "true", &["b"]), job("b", "true", &["a"]), job("c", "true", &[])];
        let summary = run(jobs, 2, dir.path()).unwrap();
        assert_eq!((summary.passed, summary.failed), (1, 2));
    }

    #[test]
    fn results_of_several_programs_add_up() {
        let text = "test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 101 filtered out; finished in 0.14s\n\
                    noise\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
        assert_eq!(counts(text), Some((8, 0)));
        assert_eq!(counts("nothing"), None);
    }
}
