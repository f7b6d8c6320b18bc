//! A run whose VM stays after its program (`--keep`). A keeper, which is a process of its own, owns
//! the VM. The quiz that the user called shows the program and exits after it. Not for clients that
//! connect later (see `commands::exec`).

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, Command, ExitCode, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use quiz_config::RunSpec;
use quiz_host::Report;
use quiz_host::stream::Patient;
use quiz_host::wait;
use quiz_run::{Call, Context, Fault, Frontend, ProgramStreams, Record, in_own_session, plan, prune, registry};
use quiz_vm::client::{Ends, Heed, Parting, converse};
use quiz_vm::control::Request;
use quiz_vm::{Signals, Verdict};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, kill_process};

use crate::announce::Announcer;
use crate::run::conclude;
use crate::standard::Line;
use crate::terminal::{Terminal, UserSignals};

/// Starts a keeper, shows the program, and exits with the program's exit code.
pub fn front(spec: &RunSpec, ctx: &Context) -> Result<ExitCode, Fault> {
    if spec.json.is_some() {
        return Err(Fault::new("--json and --keep do not go together: the record is complete when the VM has ended")
            .hint("`quiz kill` ends it; `quiz show --json` prints the record then"));
    }
    crate::standard::require_output()?;
    let terminal = Terminal::of_this_process();
    terminal.tell_escape(spec.escape, ctx);
    let (mut keeper, socket) = start(&terminal, ctx)?;
    let words = keeper.stderr.take().map(Words::relay).transpose()?;
    let pid = keeper.id().cast_signed();
    let mut heed = |signal| match (signal, Pid::from_raw(pid), Signal::from_named_raw(signal)) {
        // The program continues without a terminal.
        (libc::SIGHUP, ..) => Heed::Leave,
        (_, Some(pid), Some(signal)) if kill_process(pid, signal).is_ok() => Heed::Nothing,
        _ => Heed::Leave,
    };
    let mut signals = terminal.signals()?;
    let parting = {
        let mut streams = terminal.streams(&Line::default())?;
        if streams.input.is_none() {
            streams.input = Some(fs_err::File::open("/dev/null")?.into_parts().0.into());
        }
        let escape = spec.escape.0.filter(|_| terminal.program().size.is_some());
        // The keeper may have much to prepare. Until the program runs, keys that end programs are
        // for the keeper.
        let mut raw = Ok(None);
        let ends =
            Ends { streams, signals: &mut signals, escape, begin: &mut || raw = terminal.raw(), heed: &mut heed };
        let parting = converse(socket, &Request::Attach, ends)?;
        drop(raw?);
        parting
    };
    let told = |what: &str, next: &str| -> Result<(), Fault> {
        if let Some(one) = registry::all(&ctx.cache()?).into_iter().find(|one| one.pid == pid) {
            ctx.report.say(&format!("{what}: {next} {id}, quiz kill {id}", id = one.id));
        }
        Ok(())
    };
    match parting {
        Parting::Over { code, stays: true, message } => {
            message.iter().for_each(|message| ctx.report.say(message));
            words.iter().for_each(Words::catch_up);
            told("the VM is kept", "quiz exec")?;
            Ok(ExitCode::from(code))
        }
        Parting::Escaped => {
            told("the program is still running", "quiz attach")?;
            Ok(ExitCode::from(Verdict::Interrupted { signal: libc::SIGHUP as u8 }.exit_code()))
        }
        Parting::Interrupted(signal) => {
            told("the program is still running", "quiz attach")?;
            Ok(ExitCode::from(Verdict::Interrupted { signal }.exit_code()))
        }
        Parting::Over { .. } | Parting::Gone | Parting::Ended(_) => {
            let ended = wait(&mut keeper, &mut signals, &mut heed)?;
            words.into_iter().for_each(Words::finish);
            // A keeper that still prepares the run ends by the user's signal, as any program does.
            let signal = ended.signal().and_then(|signal| u8::try_from(signal).ok());
            let interrupted = signal.filter(|signal| i32::from(*signal) != libc::SIGKILL);
            let code = ended.code().and_then(|code| u8::try_from(code).ok());
            let killed = || Fault::new(format!("the keeper of the VM was killed ({ended}), and the VM with it"));
            code.or(interrupted.map(|signal| Verdict::Interrupted { signal }.exit_code()))
                .map(ExitCode::from)
                .ok_or_else(killed)
        }
    }
}

/// Waits for the keeper, which still has to complete the run directory. Passes this process's
/// signals to it.
fn wait(
    keeper: &mut Child,
    signals: &mut UserSignals,
    heed: &mut dyn FnMut(i32) -> Heed,
) -> std::io::Result<ExitStatus> {
    let soon = Duration::from_millis(20);
    loop {
        if let Some(ended) = keeper.try_wait()? {
            return Ok(ended);
        }
        wait::ready(&mut [PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN)], Some(soon)).ok();
        for signal in signals.pending().into_iter().filter(|signal| *signal != libc::SIGWINCH) {
            heed(signal);
        }
    }
}

/// Starts quiz once more as the keeper, with the same arguments.
fn start(terminal: &Terminal, ctx: &Context) -> Result<(Child, UnixStream), Fault> {
    let cannot = |e| Fault::new(format!("cannot start a keeper for the VM: {e}"));
    let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
    let mut command =
        Command::new(ctx.program.as_deref().ok_or_else(|| Fault::new("cannot find the program file of quiz"))?);
    command.arg("--hold-run").arg(terminal.describes()).args(std::env::args_os().skip(1));
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::piped());
    Ok((in_own_session(&mut command).map_err(cannot)?, ours))
}

/// Passes the keeper's messages on to the user.
struct Words {
    pipe: OwnedFd,
    relay: JoinHandle<()>,
}

impl Words {
    fn relay(mut from: ChildStderr) -> std::io::Result<Words> {
        let pipe = from.as_fd().try_clone_to_owned()?;
        let relay = thread::Builder::new().spawn(move || {
            // Without stderr, there is nowhere to report the error.
            std::io::copy(&mut from, &mut Patient(std::io::stderr())).ok();
        })?;
        Ok(Words { pipe, relay })
    }

    /// Waits until all messages so far are passed on.
    fn catch_up(&self) {
        loop {
            let mut fds = [PollFd::new(&self.pipe, PollFlags::IN)];
            // The pipe of a keeper that has ended stays hung up.
            if wait::ready(&mut fds, Some(Duration::ZERO)) != Ok(1) || !fds[0].revents().contains(PollFlags::IN) {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the keeper has closed its end.
    fn finish(self) {
        // A relay that panicked has reported that itself.
        self.relay.join().ok();
    }
}

/// Runs what `spec` asks for, as the keeper, and keeps the VM. Another quiz shows the program, on a
/// terminal that `describes` describes.
pub fn hold(spec: &RunSpec, call: Option<Call>, describes: &str, ctx: &Context) -> Result<Record, Fault> {
    let terminal = Terminal::of_another(describes)
        .ok_or_else(|| Fault::new(format!("--hold-run: `{describes}` describes no terminal")))?;
    let caller = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let planned = plan(spec, terminal.program(), ctx)?;
    let mut signals = terminal.signals()?;
    let announcer = Announcer::start(spec.verbosity, terminal.is_raw())?;
    let frontend = Frontend {
        streams: ProgramStreams::Remote(caller),
        signals: &mut signals,
        notices: &mut |notice| announcer.show(notice),
    };
    let attempted = planned.attempt(frontend, ctx)?;
    announcer.finish(attempted.verdict());
    let ended = attempted.finish(call, None, &mut signals, ctx);
    let record = conclude(ended, spec)?;
    prune(spec, ctx)?;
    Ok(record)
}
