//! The supervisor's side of QMP: handles events, answers and refusals of QEMU. Not for the messages
//! themselves (`qmp`).

use std::io::Read;
use std::time::{Duration, Instant};

use super::{Phase, SAVE, Supervisor, text};
use crate::judge;
use crate::qemu;
use crate::qmp::{CommandName, Said};

/// How long QEMU may refuse to continue a VM that it has paused. Normally it takes 1 to 2 ms.
const UNPAUSE: Duration = Duration::from_secs(5);
/// The first pause before quiz asks again. Each pause is twice as long as the last one, up to
/// [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(50);

/// QEMU refuses to continue the VM.
pub(super) struct Stuck {
    /// When quiz asks again.
    pub again: Instant,
    /// quiz has asked again, and QEMU has not answered.
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
                // The kernel is still printing its panic.
                self.panic_at.get_or_insert_with(Instant::now);
            }
            Said::AgentPort { .. } => {}
            Said::Dumped(problem) if self.phase == Phase::Dumping => self.on_dumped(problem),
            Said::Dumped(_) => {}
            Said::Migration(status) => self.on_migration(&status),
            Said::Done(CommandName::Cont, _) => self.stuck = None,
            Said::Done(..) => {}
            Said::Refused(command, why) => self.on_refused(command, why),
        }
    }

    fn on_stopped(&mut self) {
        let ended = self.seen.shutdown.is_some();
        match self.phase {
            // The kernel has printed why.
            _ if self.limits.dump.is_none() && self.seen.shutdown.as_deref() == Some(judge::GUEST_PANIC) => {}
            // QEMU has paused it for a snapshot or a dump.
            Phase::Saving(_) | Phase::Dumping => {}
            _ if self.limits.debugged && !ended && self.seen.disk_error.is_none() => {}
            // QEMU has paused it because the guest has ended.
            _ if self.limits.dump.is_some() && ended => {
                if self.wants_dump() {
                    self.dump()
                } else {
                    self.quit()
                }
            }
            Phase::Quitting => {}
            _ => {
                // quiz did not ask for that: the accelerator failed.
                self.seen.stopped = true;
                self.monitor.kill();
            }
        }
    }

    fn on_refused(&mut self, command: CommandName, why: String) {
        match (command, self.phase) {
            // QEMU refuses the command that needs the descriptor next.
            (CommandName::GetFd, _) => {
                self.seen.refused.get_or_insert(why);
            }
            (CommandName::DumpGuestMemory, Phase::Dumping) => self.on_dumped(Some(why)),
            (CommandName::SetAction, _) => {
                self.notes.all.push(format!("QEMU does not keep the memory of a guest that ends by itself: {why}"));
            }
            (
                CommandName::MigrateIncoming | CommandName::MigrateSetCapabilities | CommandName::Cont,
                Phase::Resuming,
            )
            | (CommandName::Migrate, Phase::Saving(_)) => {
                self.seen.refused.get_or_insert(why);
                self.on_migration("failed");
            }
            (CommandName::MigrateSetCapabilities, _) => self.cannot_save(&why),
            // QEMU reports that saving has completed shortly before it can continue the VM
            // ("Migration is not finalized yet").
            (CommandName::Cont, _) => self.on_stuck(why),
            // The machine has no such interrupt, so there is no answer to wait for.
            (CommandName::InjectNmi, Phase::Nmi) => {
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

    /// Asks QEMU to continue the VM again, after a refusal.
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
            self.monitor.say(CommandName::Cont);
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
