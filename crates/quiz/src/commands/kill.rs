//! `quiz kill`: ends a VM, as Ctrl-C in its quiz's terminal would.

use std::time::{Duration, Instant};

use clap::Args;
use quiz_image::Report;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::context::Context;
use crate::errors::Fault;
use crate::run::registry;

/// How long a run may take to end by itself: longer than its program's grace.
const GRACE: Duration = Duration::from_secs(8);

/// Which VM.
#[derive(Debug, Args)]
pub struct Kill {
    /// Its id, or the beginning or end of it [default: the newest run of this worktree]
    pub id: Option<String>,
}

/// Ends it.
pub fn run(args: &Kill, ctx: &Context) -> Result<(), Fault> {
    let cache = ctx.cache()?;
    let running = registry::find(&cache, &ctx.runs_dir()?.path(), args.id.as_deref())?;
    let gone = || Fault::new(format!("{} has just ended", running.id));
    let process = running.process().and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).ok_or_else(gone)?;
    // The number may be another process's by now; the descriptor cannot become one.
    if !registry::all(&cache).contains(&running) {
        return Err(gone());
    }
    let refused = |e| Fault::new(format!("cannot end {} (pid {}): {e}", running.id, running.pid));
    pidfd_send_signal(&process, Signal::TERM).map_err(refused)?;
    let until = Instant::now() + GRACE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = rustix::time::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) => {
                ctx.report.say(&format!("{} does not end; its quiz is killed", running.id));
                // It may have ended just now.
                pidfd_send_signal(&process, Signal::KILL).ok();
                return Ok(());
            }
            _ => return Ok(()),
        }
    }
}
