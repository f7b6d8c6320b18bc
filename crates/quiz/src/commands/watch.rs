//! `quiz watch`: runs a program in a fresh VM each time that files of the worktree change.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::{Event, EventKind, RecursiveMode, Watcher};
use quiz_host::Report;
use quiz_host::wait;
use quiz_vm::{Signals, Verdict};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

use crate::options::{Global, RunOptions};
use crate::terminal::Terminal;
use quiz_run::Call;
use quiz_run::{Context, Fault};

/// A change is complete after this time without another one: an editor writes, renames and removes.
const QUIET: Duration = Duration::from_millis(100);

/// Runs `command` now and after each change, until the user ends it.
pub fn run(
    global: &Global,
    options: &RunOptions,
    build: Option<&str>,
    command: &[OsString],
) -> Result<ExitCode, Fault> {
    let ctx = global.context()?;
    if options.keep.is_some() {
        return Err(Fault::new("--keep and `quiz watch` do not go together: each run has a fresh VM"));
    }
    if command.is_empty() {
        return Err(Fault::new("there is no program to run").hint("quiz watch [OPTIONS] -- PROGRAM [ARGUMENTS]..."));
    }
    let top = ctx.worktree.as_ref().map(|worktree| worktree.dir.clone()).ok_or_else(|| {
        Fault::new(format!("{} is in no worktree, so there is nothing to watch", ctx.cwd.display()))
            .hint("a worktree is the directory upwards with quiz.toml, .quiz/ or .git")
    })?;
    let mut signals = Terminal::of_this_process().signals()?;
    let changes = Changes::watch(&top)?;
    let mut last: Option<String> = None;
    loop {
        // The settings may have changed, too.
        let ctx = global.context()?;
        let settings = ctx.settings(Vec::new())?;
        let build = build.map(str::to_owned).or(settings.watch_build.map(|command| command.value.0));
        if built(build.as_deref(), &ctx)? {
            let spec = ctx.run_spec(&options.asked(), command.to_vec())?;
            let record = crate::run::run(&spec, Call::new(std::env::args_os().skip(1), &ctx), &ctx)?;
            if let Verdict::Interrupted { .. } = record.verdict {
                return Ok(ExitCode::from(record.exit_code));
            }
            let verdict = record.verdict.brief();
            ctx.report.say(&match &last {
                Some(last) if *last != verdict => format!("{verdict}; before: {last}"),
                Some(_) => format!("{verdict}, as before"),
                None => verdict.clone(),
            });
            last = Some(verdict);
        }
        ctx.report.say("waiting for a change; Ctrl-C ends this");
        loop {
            if let Some(signal) = changes.wait(&mut signals)? {
                return Ok(ExitCode::from(128u8.saturating_add(u8::try_from(signal).unwrap_or(0))));
            }
            let changed = relevant(&top, changes.take());
            if let Some(first) = changed.first() {
                let more = if changed.len() > 1 { format!(" and {} more", changed.len() - 1) } else { String::new() };
                ctx.report.say(&format!("changed: {}{more}", first.strip_prefix(&top).unwrap_or(first).display()));
                break;
            }
        }
    }
}

/// Runs the build command, if there is one. Returns whether it succeeded.
fn built(build: Option<&str>, ctx: &Context) -> Result<bool, Fault> {
    let Some(build) = build else { return Ok(true) };
    let status = Command::new("sh").args(["-c", build]).current_dir(&ctx.cwd).stdin(Stdio::null()).status();
    let status = status.map_err(|e| Fault::new(format!("cannot run `{build}`: {e}")))?;
    if !status.success() {
        ctx.report.say(&format!("`{build}` failed ({status}); the program is not run"));
    }
    Ok(status.success())
}

/// The files that have changed below a directory.
struct Changes {
    paths: Arc<Mutex<BTreeSet<PathBuf>>>,
    bell: Arc<OwnedFd>,
    _watcher: notify::RecommendedWatcher,
}

impl Changes {
    fn watch(top: &Path) -> Result<Changes, Fault> {
        let refused = |e: notify::Error| {
            Fault::new(format!("cannot watch {}: {e}", top.display()))
                .hint("the host may allow more watches: sysctl fs.inotify.max_user_watches")
        };
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = Arc::new(bell.map_err(|e| Fault::new(format!("the host gives no descriptor: {e}")))?);
        let paths = Arc::new(Mutex::new(BTreeSet::new()));
        let (ring, changed) = (bell.clone(), paths.clone());
        let heard = move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            if matches!(event.kind, EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_)) {
                changed.lock().unwrap_or_else(PoisonError::into_inner).extend(event.paths);
                // If the counter is full, the wake-up event is already pending.
                rustix::io::write(&*ring, &1u64.to_ne_bytes()).ok();
            }
        };
        let mut watcher = notify::recommended_watcher(heard).map_err(refused)?;
        watcher.watch(top, RecursiveMode::Recursive).map_err(refused)?;
        Ok(Changes { paths, bell, _watcher: watcher })
    }

    /// Waits until something has changed and then stays unchanged for [`QUIET`]. If the user sends
    /// a signal first, returns that.
    fn wait(&self, signals: &mut dyn Signals) -> Result<Option<i32>, Fault> {
        let mut changed_at: Option<Instant> = None;
        loop {
            let left = changed_at.map(|at| (at + QUIET).saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            let mut fds = [
                PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN),
            ];
            match wait::ready(&mut fds, left) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Fault::new(format!("cannot wait for changes: {e}"))),
            }
            if let Some(signal) = signals.pending().into_iter().find(|signal| *signal != libc::SIGWINCH) {
                return Ok(Some(signal));
            }
            if rustix::io::read(&*self.bell, &mut [0; 8]).is_ok() {
                changed_at = Some(Instant::now());
            }
        }
    }

    fn take(&self) -> BTreeSet<PathBuf> {
        std::mem::take(&mut self.paths.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns the sources among `paths`. Leaves out files of quiz and git, and what git ignores if the
/// worktree is git's.
fn relevant(top: &Path, paths: BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let own = [top.join(".quiz"), top.join(".git")];
    let mut paths: BTreeSet<PathBuf> =
        paths.into_iter().filter(|path| !own.iter().any(|own| path.starts_with(own))).collect();
    if !paths.is_empty() && top.join(".git").exists() {
        let ignored = ignored(top, &paths);
        paths.retain(|path| !ignored.contains(path));
    }
    paths
}

/// Returns those of `paths` that git ignores. Without git, returns none.
fn ignored(top: &Path, paths: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let ask = || -> std::io::Result<Vec<PathBuf>> {
        let mut command = Command::new("git");
        command.current_dir(top).args(["check-ignore", "-z", "--stdin"]);
        let mut git = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut list = Vec::new();
        for path in paths {
            list.extend_from_slice(path.as_os_str().as_bytes());
            list.push(0);
        }
        let mut stdin = git.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        let told = std::thread::Builder::new().spawn(move || stdin.write_all(&list))?;
        let output = git.wait_with_output()?;
        told.join().ok();
        let names = output.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| PathBuf::from(std::ffi::OsStr::from_bytes(name))).collect())
    };
    ask().unwrap_or_default()
}
