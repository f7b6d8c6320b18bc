//! The verdict: from what was seen of a VM to how it ended. Not for the seeing (see the supervisor).

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;

use quiz_oops::taint;

use super::{Phase, STACKS, Seen, Supervisor};
use crate::{Verdict, artifacts};

/// How much of QEMU's words is read, in bytes.
const LOG: u64 = 1 << 20;

impl Supervisor<'_> {
    /// Strictest first: success is what remains when nothing speaks against it.
    pub(super) fn judge(&mut self) -> Verdict {
        let ended = self.monitor.kill();
        let seen = &self.seen;
        if let (Phase::Resuming, None) = (self.phase, &seen.forced) {
            let why = self.why_not_resumed();
            return Verdict::fault(format!("the saved VM could not be resumed: {why}"));
        }
        if let Some(why) = &seen.failed {
            return Verdict::fault(why);
        }
        if let Some(why) = &seen.stream_error {
            return Verdict::fault(why);
        }
        if let Some(forced) = &seen.forced {
            let Verdict::Timeout { message } = forced else { return forced.clone() };
            return match self.why_it_hangs() {
                Some(why) => Verdict::Timeout { message: format!("{message}; {why}") },
                None => forced.clone(),
            };
        }
        if let Some(what) = &seen.nonsense {
            return Verdict::Lost { message: what.clone() };
        }
        let told_machine = seen.shutdown.as_deref() == Some(PANIC);
        if let (Some(status), true, true, false) = (seen.status, seen.down, ended.success(), told_machine) {
            if let Some(failed) = &self.artifacts.failed {
                let place = self.dir.path().join(artifacts::DIR);
                return Verdict::fault(format!("cannot write what came back to {}: {failed}", place.display()));
            }
            return match (self.what_is_lost(), self.strict_report()) {
                (Some(message), _) => Verdict::Lost { message },
                (None, Some(message)) => Verdict::Report { message },
                (None, None) => status.into(),
            };
        }
        if self.console.panicked() || told_machine {
            let message = self.console.trouble().unwrap_or("Kernel panic").to_owned();
            return Verdict::Panic { message };
        }
        if let Some(why) = seen.disk_error.as_ref().filter(|_| seen.stopped) {
            return Verdict::fault(format!("QEMU stopped the machine because a disk failed on the host: {why}"));
        }
        if seen.stopped && self.ready.is_some() {
            // With what a guest has done to itself an accelerator cannot go on either.
            return Verdict::Lost { message: "QEMU stopped the machine: it could not go on (see qemu.log)".to_owned() };
        }
        if seen.stopped {
            return Verdict::fault("QEMU stopped the machine: its accelerator failed (see qemu.log); try --accel tcg");
        }
        if let Some(reason) = &seen.shutdown {
            return Verdict::Lost { message: lost(reason).to_owned() };
        }
        let last = self.last_of_qemu();
        let fatal = ended.signal() == Some(libc::SIGABRT) && self.ready.is_some();
        if let Some(what) = self.fatal_to_qemu().filter(|_| fatal) {
            return Verdict::Lost { message: format!("QEMU could not go on with the guest: {what}") };
        }
        if ended.success() {
            return Verdict::Lost { message: "the VM ended without a word".to_owned() };
        }
        let message = match ended.signal().filter(|_| seen.panic_at.is_none()) {
            Some(signal) => format!("QEMU was killed by signal {signal}: {last}"),
            None => format!("QEMU failed ({ended}): {last}"),
        };
        // While the program runs, the guest can make QEMU fail; when it is down, what fails is QEMU's own end. Only somebody on the host can
        // send QEMU these signals.
        let from_outside = [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
        if self.ready.is_some() && !seen.down && !ended.signal().is_some_and(|signal| from_outside.contains(&signal)) {
            Verdict::Lost { message }
        } else {
            Verdict::fault(message)
        }
    }

    /// QEMU has ended by a signal of its own making, while the guest booted.
    pub(super) fn crashed_at_boot(&mut self) -> bool {
        let own = [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];
        let signal = self.monitor.ended().and_then(|ended| ended.signal());
        self.ready.is_none() && self.seen.forced.is_none() && signal.is_some_and(|signal| own.contains(&signal))
    }

    /// What the kernel has reported, where a run is to be free of that.
    pub(super) fn strict_report(&self) -> Option<String> {
        if !self.limits.strict {
            return None;
        }
        let tainted = || {
            let bad = taint::of_trouble(self.seen.taint);
            let words = taint::words(&bad).join(", ");
            (!bad.is_empty()).then(|| format!("it is tainted {bad} since the program began: {words}"))
        };
        self.console.strict().map(str::to_owned).or_else(tainted)
    }

    /// What of a run that went well is not all there.
    fn what_is_lost(&self) -> Option<String> {
        let Seen { spoilt, received, .. } = &self.seen;
        // An agent that sends anything sends this.
        let sent = self.seen.sent.unwrap_or(*received);
        let streams = [
            ("standard output", received.stdout, sent.stdout),
            ("standard error", received.stderr, sent.stderr),
            ("the artifacts", received.artifacts, sent.artifacts),
        ];
        let short = streams.iter().find(|(_, received, sent)| received != sent).map(|(name, received, sent)| {
            format!("of {sent} bytes of {name} that the guest sent, {received} have come")
        });
        spoilt.clone().or(short)
    }

    /// What speaks for a guest that hangs, rather than for one that is slow, when its time was over.
    fn why_it_hangs(&self) -> Option<String> {
        if let Some(line) = self.console.stall() {
            return Some(format!("the guest hangs, its kernel said: {line}"));
        }
        match (self.seen.mute, self.seen.quiet) {
            (Some(mute), None) if mute.used < STACKS => Some(format!(
                "its agent did not answer within {} s, in which the VM had {:.1} s of the host's processors",
                mute.waited.as_secs(),
                mute.used.as_secs_f64()
            )),
            (Some(_), _) => Some("the guest hangs: its agent does not answer".to_owned()),
            (None, Some(quiet)) => {
                Some(format!("the guest hangs: nothing was heard from it for {} s by then", quiet.as_secs()))
            }
            (None, None) => None,
        }
    }

    /// Why a saved VM did not come to life, if it did not.
    pub(super) fn why_not_resumed(&self) -> String {
        self.seen.refused.clone().unwrap_or_else(|| self.last_of_qemu())
    }

    fn log_of_qemu(&self) -> io::Result<String> {
        let mut log = String::new();
        self.dir.read("qemu.log")?.take(LOG).read_to_string(&mut log)?;
        Ok(log)
    }

    /// What QEMU says of an emulated processor that has done what none can go on from.
    fn fatal_to_qemu(&self) -> Option<String> {
        let log = self.log_of_qemu().unwrap_or_default();
        log.lines().find_map(|line| line.strip_prefix("qemu: fatal: ").map(str::to_owned))
    }

    fn last_of_qemu(&self) -> String {
        let log = self.log_of_qemu().unwrap_or_default();
        log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("QEMU said nothing").to_owned()
    }
}

/// QEMU's word for a panic that the kernel has told its machine of.
pub(super) const PANIC: &str = "guest-panic";

/// QEMU's word for the end of a guest, in ours.
fn lost(reason: &str) -> &str {
    match reason {
        "guest-reset" => "the guest reset itself (reboot, triple fault or watchdog)",
        "guest-shutdown" => "the guest powered itself off",
        "agent-gone" => "the agent in the guest is gone",
        other => other,
    }
}
