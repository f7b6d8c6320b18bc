//! The supervisor's side of the user: the program's streams, and the signals that quiz receives.
//! Not for the threads that read and write (`pump`).

use std::time::Instant;

use quiz_host::wait;
use quiz_proto::{ProgramId, Stream, ToGuest, WinSize};
use rustix::event::{PollFd, PollFlags};

use super::{GRACE, Job, Phase, Supervisor};
use crate::duplex::{self, Change};
use crate::verdict::Verdict;

impl Supervisor<'_> {
    pub(super) fn on_streams(&mut self) {
        for change in self.duplex.changes() {
            self.on_change(change);
        }
        self.pay_all();
    }

    fn on_change(&mut self, change: Change) {
        match change {
            Change::Input(bytes) => {
                if let Some(escape) = &mut self.terminal
                    && escape.typed(&bytes, Instant::now())
                {
                    self.seen.decided = Some(Verdict::interrupted(libc::SIGINT));
                    self.monitor.kill();
                    return;
                }
                self.say(&ToGuest::Data(ProgramId::MAIN, Stream::Stdin, bytes.into()));
            }
            Change::InputEnded => self.say(&ToGuest::Eof(ProgramId::MAIN, Stream::Stdin)),
            Change::InputFailed(error) => {
                // If the program has ended, it does not need the rest.
                if self.seen.status.is_none() {
                    self.seen.stream_error.get_or_insert_with(|| format!("cannot read standard input: {error}"));
                }
            }
            Change::Unpacked(bytes) => {
                self.artifacts_owed = self.artifacts_owed.saturating_add(bytes);
                if duplex::is_worth_returning(self.artifacts_owed) {
                    let credit = std::mem::take(&mut self.artifacts_owed);
                    self.pay(Stream::Artifacts, credit);
                }
            }
            Change::OutputClosed(stream, error) => {
                if let Some(error) = error {
                    let name = duplex::name(stream);
                    self.seen.stream_error.get_or_insert_with(|| format!("cannot write to {name}: {error}"));
                }
                self.say(&ToGuest::Close(ProgramId::MAIN, stream));
            }
        }
    }

    /// Returns credit for the program's output, as soon as all clients that watch it keep up.
    pub(super) fn pay_all(&mut self) {
        if self.clients.are_behind() {
            return;
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(credit) = self.duplex.take_credit(stream) {
                self.pay(stream, credit);
            }
        }
    }

    fn pay(&mut self, stream: Stream, credit: u32) {
        if let Some(spendable) = self.spendable.of(stream) {
            *spendable += u64::from(credit);
        }
        self.say(&ToGuest::Credit(ProgramId::MAIN, stream, credit));
    }

    pub(super) fn on_signals(&mut self) {
        for signal in self.signals.pending() {
            if signal == libc::SIGWINCH {
                if let Some(size) = self.signals.window_size() {
                    self.resize(size);
                }
                continue;
            }
            self.user_signals += 1;
            if self.phase == Phase::Kept {
                self.end_kept();
                continue;
            }
            self.seen.decided.get_or_insert(Verdict::interrupted(signal));
            if self.user_signals == 1 && self.phase == Phase::Running {
                self.say(&ToGuest::Signal(ProgramId::MAIN, signal));
                self.enter(Phase::Grace, Some(GRACE));
            } else {
                self.monitor.kill();
            }
        }
    }

    fn resize(&mut self, size: WinSize) {
        match &mut self.job {
            // The program does not run yet, and the guest accepts only orders.
            Some(Job::Program(_, order) | Job::Resumed(order)) => {
                order.program.terminal = order.program.terminal.map(|_| size);
            }
            _ => self.say(&ToGuest::Resize(ProgramId::MAIN, size)),
        }
    }

    /// After QEMU has ended: handles the user's descriptors and signals, which are all that is
    /// left.
    pub(super) fn wait_for_output(&mut self) {
        {
            let mut fds = [
                PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.duplex.wakeup(), PollFlags::IN),
            ];
            wait::ready(&mut fds, None).ok();
        }
        self.on_streams();
        for signal in self.signals.pending() {
            if signal != libc::SIGWINCH {
                self.user_signals = 2;
                self.seen.decided.get_or_insert(Verdict::interrupted(signal));
            }
        }
    }
}
