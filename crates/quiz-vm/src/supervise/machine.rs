//! The supervisor's side of QMP: what QEMU reports and refuses, and what that changes. Not for the
//! messages themselves (`qmp`).

use std::io::Read;
use std::time::{Duration, Instant};

use super::{Phase, SAVE, Supervisor, text};
use crate::judge;
use crate::qemu;
use crate::qmp::{Said, Verb};

/// How long QEMU may refuse to let a VM go on that it has paused. It takes a millisecond or two.
const UNPAUSE: Duration = Duration::from_secs(5);
/// The first pause before it is asked again; each is twice as long as the one before, up to the
/// last.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(50);

/// QEMU refuses to let the VM go on.
pub(super) struct Stuck {
    /// When it is asked again.
    pub again: Instant,
    /// It has been asked, and has not answered.
    asked: bool,
    pause: Duration,
    since: Instant,
}

impl Supervisor<'_> {
    pub(super) fn read_qmp(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = (&self.monitor.qmp).read(&mut buffer) {
            for said in self.qmp.push(&buffer[..n]) {
                self.on_qmp(said);
            }
        }
    }

    fn on_qmp(&mut self, said: Said) {
        match said {
            Said::Shutdown { reason } => {
                self.seen.shutdown.get_or_insert(reason);
            }
            Said::Panicked => {
                self.seen.shutdown.get_or_insert_with(|| judge::GUEST_PANIC.to_owned());
                self.panic_at.get_or_insert_with(Instant::now);
            }
            Said::Stopped => self.on_stopped(),
            Said::DiskFailed { node, operation, reason } => {
                let file = self.disks.iter().enumerate().find(|(i, _)| qemu::node(*i) == node).map(|(_, file)| file);
                let disk = file.map_or(node, |file| file.display().to_string());
                self.seen.disk_error.get_or_insert(format!("cannot {operation} {disk}: {reason}"));
            }
            Said::AgentPort { open: false } if self.boot.is_some() && !self.seen.down => {
                self.seen.shutdown.get_or_insert_with(|| judge::AGENT_GONE.to_owned());
                // A panic is still being printed.
                self.panic_at.get_or_insert_with(Instant::now);
            }
            Said::AgentPort { .. } => {}
            Said::Dumped(problem) if self.phase == Phase::Dumping => self.on_dumped(problem),
            Said::Dumped(_) => {}
            Said::Migration(status) => self.on_migration(&status),
            Said::Done(Verb::Cont, _) => self.stuck = None,
            Said::Done(..) => {}
            Said::Refused(verb, why) => self.on_refused(verb, why),
        }
    }

    fn on_stopped(&mut self) {
        let ended = self.seen.shutdown.is_some();
        match self.phase {
            // It has printed why.
            _ if self.limits.dump.is_none() && self.seen.shutdown.as_deref() == Some(judge::GUEST_PANIC) => {}
            // It is paused to be saved, or to be dumped.
            Phase::Saving(_) | Phase::Dumping => {}
            _ if self.limits.debugged && !ended && self.seen.disk_error.is_none() => {}
            // It is paused because it has ended.
            _ if self.limits.dump.is_some() && ended => {
                if self.wants_dump() {
                    self.dump()
                } else {
                    self.quit()
                }
            }
            Phase::Quitting => {}
            _ => {
                // Nobody asked for that: the accelerator gave up.
                self.seen.stopped = true;
                self.monitor.kill();
            }
        }
    }

    fn on_refused(&mut self, verb: Verb, why: String) {
        match (verb, self.phase) {
            // What needs the descriptor is refused next.
            (Verb::GetFd, _) => {
                self.seen.refused.get_or_insert(why);
            }
            (Verb::DumpGuestMemory, Phase::Dumping) => self.on_dumped(Some(why)),
            (Verb::SetAction, _) => {
                self.notes.all.push(format!("QEMU does not keep the memory of a guest that ends by itself: {why}"));
            }
            (Verb::MigrateIncoming | Verb::MigrateSetCapabilities | Verb::Cont, Phase::Resuming)
            | (Verb::Migrate, Phase::Saving(_)) => {
                self.seen.refused.get_or_insert(why);
                self.on_migration("failed");
            }
            (Verb::MigrateSetCapabilities, _) => self.cannot_save(&why),
            // QEMU reports that saving is over a moment before the VM may go on ("Migration is not
            // finalized yet").
            (Verb::Cont, _) => self.on_stuck(why),
            // The machine has no such interrupt, so there is nothing to wait for.
            (Verb::InjectNmi, Phase::Nmi) => {
                self.monitor.kill();
            }
            _ => {}
        }
    }

    /// This QEMU cannot save a VM whose memory is a file.
    fn cannot_save(&mut self, why: &str) {
        if let Some(snapshots) = self.snapshots.take() {
            for point in [super::Point::Booted, super::Point::Ready] {
                snapshots.not_saved(point, why);
            }
        }
    }

    fn on_stuck(&mut self, why: String) {
        let now = Instant::now();
        let (since, pause) = match &self.stuck {
            Some(stuck) => (stuck.since, (stuck.pause * 2).min(LAST_PAUSE)),
            None => (now, FIRST_PAUSE),
        };
        if now >= since + UNPAUSE {
            self.seen.failed.get_or_insert_with(|| format!("QEMU does not let the saved VM continue: {why}"));
            self.monitor.kill();
            return;
        }
        self.stuck = Some(Stuck { again: now + pause, asked: false, pause, since });
    }

    /// Asks a QEMU that has refused once more to let the VM go on.
    pub(super) fn ask_again(&mut self, now: Instant) {
        if let Some(stuck) = self.stuck.as_mut().filter(|stuck| now >= stuck.again) {
            if stuck.asked {
                self.seen.failed.get_or_insert_with(|| {
                    format!("QEMU did not answer within {} when it was asked to continue the saved VM", text(UNPAUSE))
                });
                self.monitor.kill();
                return;
            }
            (stuck.asked, stuck.again) = (true, now + UNPAUSE);
            self.monitor.say(Verb::Cont);
        }
    }

    pub(super) fn on_migration(&mut self, status: &str) {
        if matches!(status, "completed" | "failed" | "cancelled") {
            self.state = None;
        }
        match (self.phase, status) {
            (Phase::Saving(point), "completed") => {
                if let Some(snapshots) = &mut self.snapshots {
                    snapshots.saved(point);
                }
                self.continue_from(point);
            }
            (Phase::Saving(point), "failed" | "cancelled") => {
                let why =
                    self.seen.refused.take().unwrap_or_else(|| format!("QEMU gave no reason within {}", text(SAVE)));
                if let Some(snapshots) = &mut self.snapshots {
                    snapshots.not_saved(point, &why);
                }
                self.continue_from(point);
            }
            (Phase::Resuming, "failed") => {
                self.monitor.kill();
            }
            _ => {}
        }
    }
}
