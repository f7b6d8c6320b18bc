//! `quiz kill`: shuts down a VM, as Ctrl-C in its quiz's terminal would.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use clap::Args;
use quiz_host::Report;
use quiz_host::wait;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Signal, pidfd_send_signal};

use quiz_run::registry;
use quiz_run::{Context, Fault};

/// How long a run may take to end by itself: longer than the grace time of its program.
const GRACE: Duration = Duration::from_secs(8);

#[derive(Debug, Args)]
pub struct Kill {
    /// Id of the run, or its beginning or end [default: the newest run of this worktree]
    pub id: Option<String>,
}

/// Shuts down the VM.
pub fn run(args: &Kill, ctx: &Context) -> Result<(), Fault> {
    let cache = ctx.cache()?;
    let running = registry::find(&cache, &ctx.runs_dir()?.path(), args.id.as_deref())?;
    let (process, _connection) = running.process(&cache).map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionReset => Fault::new(format!("{} has just ended", running.id)),
        // Another host or container uses the same cache.
        _ => Fault::new(format!("cannot find the process of {} on this host: {e}", running.id))
            .hint("run `quiz kill` where the VM was started"),
    })?;
    let refused = |e| Fault::new(format!("cannot end {} (pid {}): {e}", running.id, running.pid));
    pidfd_send_signal(&process, Signal::TERM).map_err(refused)?;
    let until = Instant::now() + GRACE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match wait::ready(&mut [PollFd::new(&process, PollFlags::IN)], Some(left)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) => {
                ctx.report.say(&format!("{} does not end; its quiz is killed", running.id));
                // The process may have ended just now.
                pidfd_send_signal(&process, Signal::KILL).ok();
                return Ok(());
            }
            _ => return Ok(()),
        }
    }
}
