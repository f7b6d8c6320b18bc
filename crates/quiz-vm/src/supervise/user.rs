//! The supervisor's side of the user: the program's streams and the signals that quiz gets. Not for the threads that read and write
//! (see `pump`).

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use quiz_proto::{ProgramId, Stream, ToGuest, WinSize};
use rustix::event::{PollFd, PollFlags, poll};

use super::{CREDIT, GRACE, Job, Outlet, Phase, Supervisor};
use crate::Verdict;
use crate::pump::Event;

impl Supervisor<'_> {
    pub(super) fn outlet(&mut self, stream: Stream) -> Option<&mut Outlet> {
        [&mut self.output, &mut self.errors].into_iter().find(|outlet| outlet.stream == stream)
    }

    /// How many bytes of a stream the guest may still send.
    pub(super) fn spendable(&mut self, stream: Stream) -> Option<&mut u64> {
        match stream {
            Stream::Artifacts => Some(&mut self.artifact_spendable),
            stream => self.outlet(stream).map(|outlet| &mut outlet.spendable),
        }
    }

    pub(super) fn on_events(&mut self) {
        rustix::io::read(&*self.bell, &mut [0; 8]).ok();
        while let Ok(event) = self.events.try_recv() {
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Input(bytes) => {
                if let Some(escape) = &mut self.terminal
                    && escape.typed(&bytes, Instant::now())
                {
                    self.seen.forced = Some(Verdict::Interrupted { signal: libc::SIGINT as u8 });
                    self.monitor.kill();
                    return;
                }
                self.say(&ToGuest::Data(ProgramId::MAIN, Stream::Stdin, bytes.into()));
            }
            Event::InputEnded => self.say(&ToGuest::Eof(ProgramId::MAIN, Stream::Stdin)),
            Event::ReadFailed(error) => {
                // A program that has ended did not want the rest.
                if self.seen.status.is_none() {
                    self.seen.stream_error.get_or_insert_with(|| format!("cannot read standard input: {error}"));
                }
            }
            Event::Written(Stream::Artifacts, bytes) => {
                let owed = self.artifact_credit.take().unwrap_or(0).saturating_add(bytes);
                self.artifact_credit = Some(self.pay(Stream::Artifacts, owed));
            }
            Event::Written(stream, bytes) => {
                if let Some(outlet) = self.outlet(stream) {
                    outlet.owed = outlet.owed.saturating_add(bytes);
                }
                self.pay_all();
            }
            Event::WriteFailed(stream, error) => {
                if error.kind() != io::ErrorKind::BrokenPipe {
                    let name = if stream == Stream::Stdout { "standard output" } else { "standard error" };
                    self.seen.stream_error.get_or_insert_with(|| format!("cannot write to {name}: {error}"));
                }
                if let Some(outlet) = self.outlet(stream) {
                    outlet.feed = None;
                }
                self.say(&ToGuest::Close(ProgramId::MAIN, stream));
            }
            Event::Finished(stream) => {
                if let Some(outlet) = self.outlet(stream) {
                    outlet.open = false;
                }
            }
        }
    }

    /// Returns credit for the program's output, as soon as all who watch it keep up.
    pub(super) fn pay_all(&mut self) {
        if self.clients.are_behind() {
            return;
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            let owed = self.outlet(stream).map_or(0, |outlet| outlet.owed);
            let owed = self.pay(stream, owed);
            if let Some(outlet) = self.outlet(stream) {
                outlet.owed = owed;
            }
        }
    }

    /// Returns credit to the guest once it is worth an interrupt; says what is still owed.
    fn pay(&mut self, stream: Stream, owed: u32) -> u32 {
        if owed < CREDIT {
            return owed;
        }
        if let Some(spendable) = self.spendable(stream) {
            *spendable += u64::from(owed);
        }
        self.say(&ToGuest::Credit(ProgramId::MAIN, stream, owed));
        0
    }

    pub(super) fn on_signals(&mut self) {
        for signal in self.signals.pending() {
            if signal == libc::SIGWINCH {
                if let Some(size) = self.signals.window_size() {
                    self.resize(size);
                }
                continue;
            }
            self.seen.signals += 1;
            if self.phase == Phase::Kept {
                self.end_kept();
                continue;
            }
            let number = u8::try_from(signal).unwrap_or(libc::SIGTERM as u8);
            self.seen.forced.get_or_insert(Verdict::Interrupted { signal: number });
            if self.seen.signals == 1 && self.phase == Phase::Running {
                self.say(&ToGuest::Signal(ProgramId::MAIN, signal));
                self.enter(Phase::Grace, Some(GRACE));
            } else {
                self.monitor.kill();
            }
        }
    }

    fn resize(&mut self, size: WinSize) {
        match &mut self.job {
            // The program does not run yet, and the guest hears nothing but orders.
            Some(Job::Program(_, order) | Job::Resumed(order)) => {
                order.program.terminal = order.program.terminal.map(|_| size);
            }
            _ => self.say(&ToGuest::Resize(ProgramId::MAIN, size)),
        }
    }

    /// After QEMU's end: only the user's descriptors and signals are left.
    pub(super) fn wait_for_output(&mut self) {
        {
            let mut fds = [
                PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN),
            ];
            poll(&mut fds, None).ok();
        }
        self.on_events();
        for signal in self.signals.pending() {
            if signal != libc::SIGWINCH {
                self.seen.signals = 2;
                let number = u8::try_from(signal).unwrap_or(libc::SIGTERM as u8);
                self.seen.forced.get_or_insert(Verdict::Interrupted { signal: number });
            }
        }
    }
}
