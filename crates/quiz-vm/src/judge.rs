//! Derives the verdict: a pure function of the observations. Not for observing (`supervise`).

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use quiz_oops::taint;
use quiz_proto::{Sent, Status};

use crate::verdict::Verdict;

/// QEMU's name for a panic that the kernel has reported to the machine.
pub const GUEST_PANIC: &str = "guest-panic";
/// The reason when the agent has closed its port, named like QEMU's reasons.
pub const AGENT_GONE: &str = "agent-gone";
/// The processor time that a VM needs before a silent agent counts as hung. With less, the guest
/// may not have run.
pub const ANSWER: Duration = Duration::from_millis(1500);

/// Everything that a verdict depends on.
#[derive(Debug, Clone, Default)]
pub struct Observations {
    /// The supervisor's decision before the guest ended: a time limit, or the user's signal.
    pub decided: Option<Verdict>,
    /// quiz or the host could not continue the run, and why.
    pub failed: Option<String>,
    /// One of the user's streams failed, and why.
    pub stream_error: Option<String>,
    /// How the guest violated the protocol.
    pub violation: Option<String>,
    /// What the guest has lost of the run.
    pub spoilt: Option<String>,
    /// How the program ended, as the agent reported it.
    pub status: Option<Status>,
    /// The agent has reported that the guest is about to power off.
    pub down: bool,
    /// How many bytes of the program's streams have arrived.
    pub received: Sent,
    /// How many bytes the agent reports that it has sent.
    pub sent: Option<Sent>,
    /// The first artifact that the host could not write, and why.
    pub artifacts_failed: Option<String>,
    /// The agent started the program.
    pub started: bool,
    /// QEMU's reason for the shutdown.
    pub shutdown: Option<String>,
    /// QEMU stopped the machine although quiz had not asked it to.
    pub stopped: bool,
    /// A disk failed on the host, so QEMU stopped the machine.
    pub disk_error: Option<String>,
    /// The VM was to resume from a snapshot, and its agent has not reported anything.
    pub not_resumed: bool,
    /// QEMU's message about a command that it refused.
    pub refused: Option<String>,
    /// How QEMU ended.
    pub ended: ExitStatus,
    /// QEMU's output.
    pub qemu_log: String,
    /// The console shows a panic.
    pub panicked: bool,
    /// The console line that begins the kernel's report.
    pub trouble: Option<String>,
    /// The console line in which the kernel reports a hung task or processor.
    pub stall: Option<String>,
    /// What the kernel has reported, if the run is strict.
    pub strict_report: Option<String>,
    /// Set if the agent was asked for the stacks and has not answered.
    pub mute: Option<Mute>,
    /// How long the guest had been silent when the program timed out, if that was long.
    pub quiet: Option<Duration>,
}

/// How long an agent has not answered, and the processor time of its VM in that time.
#[derive(Debug, Clone, Copy)]
pub struct Mute {
    /// By the host's clock.
    pub waited: Duration,
    /// The VM's processor time on the host.
    pub used: Duration,
}

/// Returns the verdict. The strictest evidence counts: a run succeeds only if no evidence is
/// against it.
pub fn judge(seen: &Observations) -> Verdict {
    if let Some(why) = why_not_resumed(seen) {
        return Verdict::fault(format!("the saved VM could not be resumed: {why}"));
    }
    if let Some(why) = seen.failed.as_ref().or(seen.stream_error.as_ref()) {
        return Verdict::fault(why);
    }
    match &seen.decided {
        Some(Verdict::Timeout { message }) => {
            let why = why_it_hangs(seen).map(|why| format!("; {why}")).unwrap_or_default();
            return Verdict::Timeout { message: format!("{message}{why}") };
        }
        Some(decided) => return decided.clone(),
        None => {}
    }
    if let Some(what) = &seen.violation {
        return Verdict::Lost { message: what.clone() };
    }
    let machine_panicked = seen.shutdown.as_deref() == Some(GUEST_PANIC);
    match seen.status {
        Some(status) if seen.down && seen.ended.success() && !machine_panicked => of_program(seen, status),
        _ if seen.panicked || machine_panicked => {
            Verdict::Panic { message: seen.trouble.as_deref().unwrap_or("Kernel panic").to_owned() }
        }
        _ => of_machine(seen),
    }
}

/// The verdict on a program whose guest shut down cleanly.
fn of_program(seen: &Observations, status: Status) -> Verdict {
    if let Some(why) = &seen.artifacts_failed {
        return Verdict::fault(why);
    }
    match (what_is_missing(seen), &seen.strict_report) {
        (Some(message), _) => Verdict::Lost { message },
        (None, Some(message)) => Verdict::Report { message: message.clone() },
        (None, None) => status.into(),
    }
}

/// The verdict on a machine that ended without a panic, before the end of its program was known.
fn of_machine(seen: &Observations) -> Verdict {
    let lost = |message: &str| Verdict::Lost { message: message.to_owned() };
    match (&seen.disk_error, seen.stopped, seen.started) {
        (Some(why), true, _) => {
            return Verdict::fault(format!("QEMU stopped the machine because a disk failed on the host: {why}"));
        }
        // A guest can bring itself into states that an accelerator cannot handle.
        (None, true, true) => return lost("QEMU stopped the machine: it could not continue (see qemu.log)"),
        (None, true, false) => {
            return Verdict::fault("QEMU stopped the machine: its accelerator failed (see qemu.log); try --accel tcg");
        }
        (_, false, _) => {}
    }
    match seen.shutdown.as_deref() {
        Some("guest-reset") => return lost("the guest reset itself (reboot, triple fault or watchdog)"),
        Some("guest-shutdown") => return lost("the guest powered itself off"),
        Some(AGENT_GONE) => return lost("the agent in the guest is gone"),
        Some(other) => return lost(other),
        None => {}
    }
    let by_signal = seen.ended.signal();
    // QEMU's message about an emulated processor in a state from which it cannot continue.
    let fatal = seen.qemu_log.lines().find_map(|line| line.strip_prefix("qemu: fatal: "));
    if let Some(what) = fatal.filter(|_| by_signal == Some(libc::SIGABRT) && seen.started) {
        return lost(&format!("QEMU could not continue with the guest: {what}"));
    }
    if seen.ended.success() {
        return lost("the VM ended without a report from the agent");
    }
    let last = last_line(&seen.qemu_log);
    let message = match by_signal {
        Some(signal) => format!("QEMU was killed by signal {signal}: {last}"),
        None => format!("QEMU failed ({}): {last}", seen.ended),
    };
    // While the program runs, the guest can make QEMU fail. After the guest is down, QEMU's own end
    // failed. Only a process of the host can send QEMU these signals.
    let from_outside = [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
    let by_guest = seen.started && !seen.down && !by_signal.is_some_and(|signal| from_outside.contains(&signal));
    if by_guest { Verdict::Lost { message } } else { Verdict::fault(message) }
}

/// Why the VM did not resume from its snapshot; `None` if it did. If it did not, nothing has run in
/// it.
pub fn why_not_resumed(seen: &Observations) -> Option<String> {
    let resumed = !seen.not_resumed || seen.decided.is_some();
    (!resumed).then(|| seen.refused.clone().unwrap_or_else(|| last_line(&seen.qemu_log).to_owned()))
}

/// Whether QEMU crashed by a signal of its own while the guest booted.
pub fn crashed_at_boot(seen: &Observations) -> bool {
    let own = [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];
    let by_own = seen.ended.signal().is_some_and(|signal| own.contains(&signal));
    !seen.started && seen.decided.is_none() && by_own && matches!(judge(seen), Verdict::Fault { .. })
}

/// What the kernel has reported, if anything. `report` is from the console or the kernel's log.
/// Without it, `taint` decides: the taint bits set since the program started.
pub fn reported(report: Option<&str>, taint: u64) -> Option<String> {
    let tainted = || {
        let bad = taint::of_trouble(taint);
        let words = taint::words(&bad).join(", ");
        (!bad.is_empty()).then(|| format!("tainted {bad} since the program started: {words}"))
    };
    report.map(str::to_owned).or_else(tainted)
}

/// What is incomplete in a run that otherwise succeeded.
fn what_is_missing(seen: &Observations) -> Option<String> {
    // An agent that sends anything also sends its totals.
    let sent = seen.sent.unwrap_or(seen.received);
    let streams = [
        ("standard output", seen.received.stdout, sent.stdout),
        ("standard error", seen.received.stderr, sent.stderr),
        ("the artifacts", seen.received.artifacts, sent.artifacts),
    ];
    let short = streams
        .iter()
        .find(|(_, received, sent)| received != sent)
        .map(|(name, received, sent)| format!("the guest sent {sent} bytes of {name}, and {received} have arrived"));
    seen.spoilt.clone().or(short)
}

/// The evidence that a guest hangs, and is not just slow, after a time limit.
fn why_it_hangs(seen: &Observations) -> Option<String> {
    if let Some(line) = &seen.stall {
        return Some(format!("the guest hangs; its kernel reported: {line}"));
    }
    match (seen.mute, seen.quiet) {
        (Some(mute), None) if mute.used < ANSWER => Some(format!(
            "its agent did not answer within {} s, in which the VM had {:.1} s of the host's processors",
            mute.waited.as_secs(),
            mute.used.as_secs_f64()
        )),
        (Some(_), _) => Some("the guest hangs: its agent does not answer".to_owned()),
        (None, Some(quiet)) => Some(format!("the guest hangs: it had sent nothing for {} s", quiet.as_secs())),
        (None, None) => None,
    }
}

fn last_line(log: &str) -> &str {
    log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("QEMU printed nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run whose program exited with 0, and whose guest shut down cleanly.
    fn success() -> Observations {
        Observations { status: Some(Status::Code(0)), down: true, started: true, ..Observations::default() }
    }

    /// A run whose program runs, in a VM that has ended with this status.
    fn ended(ended: ExitStatus) -> Observations {
        Observations { started: true, ended, ..Observations::default() }
    }

    fn signal(signal: i32) -> ExitStatus {
        ExitStatus::from_raw(signal)
    }

    fn exit(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    fn kind(verdict: &Verdict) -> (&'static str, u8) {
        let kind = match verdict {
            Verdict::Exited { .. } => "exited",
            Verdict::Signalled { .. } => "signalled",
            Verdict::NotFound => "not_found",
            Verdict::NotExecutable { .. } => "not_executable",
            Verdict::Panic { .. } => "panic",
            Verdict::Report { .. } => "report",
            Verdict::Lost { .. } => "lost",
            Verdict::Timeout { .. } => "timeout",
            Verdict::Fault { .. } => "fault",
            Verdict::Interrupted { .. } => "interrupted",
        };
        (kind, verdict.exit_code())
    }

    /// A row for each line of the specification's table.
    #[test]
    fn every_verdict_of_the_specification() {
        let with = |status| Observations { status: Some(status), ..success() };
        let shutdown = |reason: &str| Observations { shutdown: Some(reason.to_owned()), ..ended(exit(0)) };
        let decided = |verdict| Observations { decided: Some(verdict), ..ended(signal(libc::SIGKILL)) };
        let rows: [(&str, Observations, (&str, u8)); 26] = [
            ("exited with 0", success(), ("exited", 0)),
            ("exited with 3", with(Status::Code(3)), ("exited", 3)),
            ("exited with 121", with(Status::Code(121)), ("exited", 121)),
            ("died of SIGKILL", with(Status::Signal(9)), ("signalled", 137)),
            ("cannot be executed", with(Status::NotExecutable(libc::EACCES)), ("not_executable", 126)),
            ("is not there", with(Status::NotFound), ("not_found", 127)),
            ("panic on the console", Observations { panicked: true, ..ended(exit(0)) }, ("panic", 121)),
            ("panic, reported to the machine", shutdown(GUEST_PANIC), ("panic", 121)),
            ("strict", Observations { strict_report: Some("BUG: x".into()), ..success() }, ("report", 121)),
            ("reset", shutdown("guest-reset"), ("lost", 122)),
            ("powered off", shutdown("guest-shutdown"), ("lost", 122)),
            ("agent gone", shutdown(AGENT_GONE), ("lost", 122)),
            ("ended without a word", ended(exit(0)), ("lost", 122)),
            ("machine stopped", Observations { stopped: true, ..ended(exit(0)) }, ("lost", 122)),
            ("QEMU gave the guest up", ended(signal(libc::SIGABRT)), ("lost", 122)),
            ("QEMU failed under it", ended(exit(1)), ("lost", 122)),
            ("timed out", decided(Verdict::Timeout { message: "t".into() }), ("timeout", 124)),
            ("QEMU was killed", ended(signal(libc::SIGKILL)), ("fault", 125)),
            ("QEMU did not start", Observations { ended: exit(1), ..Observations::default() }, ("fault", 125)),
            ("accelerator failed", Observations { stopped: true, started: false, ..ended(exit(0)) }, ("fault", 125)),
            (
                "disk failed",
                Observations { stopped: true, disk_error: Some("d".into()), ..ended(exit(0)) },
                ("fault", 125),
            ),
            ("QEMU failed at its own end", Observations { ended: exit(1), ..success() }, ("fault", 125)),
            ("not resumed", Observations { not_resumed: true, ..ended(exit(1)) }, ("fault", 125)),
            ("interrupted", decided(Verdict::Interrupted { signal: 2 }), ("interrupted", 130)),
            ("terminated", decided(Verdict::Interrupted { signal: 15 }), ("interrupted", 143)),
            ("hung up", decided(Verdict::Interrupted { signal: 1 }), ("interrupted", 129)),
        ];
        for (name, seen, expected) in rows {
            assert_eq!(kind(&judge(&seen)), expected, "{name}: {:?}", judge(&seen));
        }
    }

    type Evidence = (&'static str, fn(&mut Observations), &'static str);

    /// Each piece of evidence against a success, the strictest first. With it, the verdict that it
    /// makes of a success.
    const EVIDENCE: &[Evidence] = &[
        ("not resumed", |seen| seen.not_resumed = true, "fault"),
        ("quiz failed", |seen| seen.failed = Some("f".into()), "fault"),
        ("stream failed", |seen| seen.stream_error = Some("s".into()), "fault"),
        ("timed out", |seen| seen.decided = Some(Verdict::Timeout { message: "t".into() }), "timeout"),
        ("violation", |seen| seen.violation = Some("v".into()), "lost"),
        ("panic reported", |seen| seen.shutdown = Some(GUEST_PANIC.into()), "panic"),
        ("QEMU failed", |seen| seen.ended = ExitStatus::from_raw(1 << 8), "fault"),
        ("no word of the end", |seen| seen.down = false, "lost"),
        ("no status", |seen| seen.status = None, "lost"),
        ("artifacts failed", |seen| seen.artifacts_failed = Some("a".into()), "fault"),
        ("spoilt", |seen| seen.spoilt = Some("s".into()), "lost"),
        ("output missing", |seen| seen.sent = Some(Sent { stdout: 1, ..Sent::default() }), "lost"),
        ("strict report", |seen| seen.strict_report = Some("r".into()), "report"),
        ("program failed", |seen| seen.status = Some(Status::Code(1)), "exited"),
    ];

    #[test]
    fn every_evidence_takes_success_away() {
        for (name, apply, expected) in EVIDENCE {
            let mut seen = success();
            apply(&mut seen);
            let verdict = judge(&seen);
            assert_eq!(kind(&verdict).0, *expected, "{name}: {verdict:?}");
            assert_ne!(verdict.exit_code(), 0, "{name}: {verdict:?}");
        }
    }

    /// A row for each pair of evidence. The verdict is never a success: it is that of the stricter
    /// one, or that of both together.
    #[test]
    fn of_two_pieces_of_evidence_the_stricter_counts() {
        let together: &[(&str, &str, &str)] = &[
            // The supervisor decided about a VM that it ended while the VM resumed.
            ("not resumed", "timed out", "timeout"),
            // Without the agent's report of the end, a failure of QEMU is caused by the guest.
            ("QEMU failed", "no word of the end", "lost"),
        ];
        for (i, (first, apply_first, expected)) in EVIDENCE.iter().enumerate() {
            for (second, apply_second, _) in &EVIDENCE[i + 1..] {
                let mut seen = success();
                // The later one first, so that the stricter one stays if both set the same field.
                apply_second(&mut seen);
                apply_first(&mut seen);
                let special = together.iter().find(|(a, b, _)| a == first && b == second).map(|(.., kind)| kind);
                let verdict = judge(&seen);
                assert_eq!(kind(&verdict).0, *special.unwrap_or(expected), "{first} and {second}: {verdict:?}");
                assert_ne!(verdict.exit_code(), 0, "{first} and {second}: {verdict:?}");
            }
        }
    }

    /// Any program of the guest can write to its console. So output on the console alone neither
    /// overrules a success nor makes one.
    #[test]
    fn the_console_alone_does_not_overrule_the_agent() {
        let printed = Observations { panicked: true, trouble: Some("BUG: x".into()), ..success() };
        assert_eq!(judge(&printed), Verdict::Exited { code: 0 });
        let silent = Observations { panicked: false, ..ended(exit(0)) };
        assert_ne!(judge(&silent).exit_code(), 0);
    }

    #[test]
    fn a_time_limit_tells_why_the_guest_hangs() {
        let decided = Some(Verdict::Timeout { message: "t".into() });
        let mute = |used| Some(Mute { waited: Duration::from_secs(10), used: Duration::from_millis(used) });
        let message = |seen: Observations| match judge(&seen) {
            Verdict::Timeout { message } => message,
            other => panic!("{other:?}"),
        };
        let seen = || Observations { decided: decided.clone(), ..ended(signal(libc::SIGKILL)) };
        assert_eq!(message(seen()), "t");
        let stall = Some("INFO: task x blocked".to_owned());
        assert!(message(Observations { stall, mute: mute(2000), ..seen() }).contains("INFO: task x"));
        assert!(message(Observations { mute: mute(2000), ..seen() }).contains("its agent does not answer"));
        assert!(message(Observations { mute: mute(100), ..seen() }).contains("0.1 s of the host's processors"));
        let quiet = Some(Duration::from_secs(7));
        assert!(message(Observations { quiet, ..seen() }).contains("it had sent nothing for 7 s"));
    }

    #[test]
    fn only_a_crash_of_qemus_own_at_boot_is_one() {
        let at_boot = |raw| Observations { started: false, ..ended(signal(raw)) };
        assert!(crashed_at_boot(&at_boot(libc::SIGABRT)) && crashed_at_boot(&at_boot(libc::SIGSEGV)));
        assert!(!crashed_at_boot(&at_boot(libc::SIGKILL)));
        assert!(!crashed_at_boot(&ended(signal(libc::SIGABRT))), "the program ran");
        let decided = Some(Verdict::Interrupted { signal: 2 });
        assert!(!crashed_at_boot(&Observations { decided, ..at_boot(libc::SIGABRT) }));
    }
}
