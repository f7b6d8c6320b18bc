//! One VM from its start to its verdict: a single thread, a single loop, every deadline in one place.
//!
//! The thread that calls [`supervise`] owns QEMU. It waits for whatever comes first (QEMU's end, QMP, the console, the
//! agent, a signal, the user's descriptors, a deadline), lets the matching `on_…` method change the state, and goes on until
//! QEMU has ended and the output is written. Then [`Supervisor::judge`] looks at what was seen, strictest first.

mod job;
mod judge;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use fs_err as fs;
use quiz_proto::{CHUNK, Decoder, Moment, Nonce, Status, Stream, ToGuest, ToHost, WINDOW, encode};
use rustix::event::{PollFd, PollFlags, poll};

use crate::artifacts::Unpacking;
use crate::console::Console;
use crate::escape::Escape;
use crate::monitor::{Monitor, StartError};
use crate::pump::{self, Allowance, Event, Mailbox};
use crate::qmp::{self, Said, command};
use crate::{Outcome, Verdict};

pub use job::{Job, Limits, NoSignals, Notice, Run, Signals, Streams};

/// How long QEMU may take to end after it was asked to.
const QUIT: Duration = Duration::from_secs(5);
/// How long a guest may take to end after its kernel has said that it panicked.
const PANIC: Duration = Duration::from_secs(5);
/// How long the agent may take to tell where everything stands.
const STACKS: Duration = Duration::from_millis(1500);
/// How long the guest may take to answer a non-maskable interrupt.
const NMI: Duration = Duration::from_millis(700);
/// How long a resumed guest may take to say its first word.
const RESUME: Duration = Duration::from_secs(10);
/// How long the state of a VM's devices may take to be saved.
const SAVE: Duration = Duration::from_secs(30);
/// How long a program may take to end by itself after the user's signal was passed on.
const GRACE: Duration = Duration::from_secs(2);
/// How long the guest may take to end after its processes were killed.
const KILLED: Duration = Duration::from_secs(1);
/// Credit is returned to the guest in pieces of this size, in bytes: each costs the guest an interrupt.
const CREDIT: u32 = WINDOW / 4;

/// Runs the VM to its end. Whatever goes wrong is in the verdict; QEMU is gone when this returns.
pub fn supervise(run: Run) -> Outcome {
    let began = Instant::now();
    match Supervisor::start(run, began) {
        Ok(supervisor) => supervisor.finish(),
        Err(e) => Outcome {
            verdict: Verdict::fault(e),
            boot: None,
            ready: None,
            program: None,
            total: began.elapsed(),
            artifacts: Default::default(),
            notes: Vec::new(),
            console_tail: String::new(),
            oops: String::new(),
            not_resumed: None,
        },
    }
}

/// The run could not begin.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    #[error(transparent)]
    Monitor(#[from] StartError),
    #[error("cannot keep the run's evidence: {0}")]
    Evidence(#[from] io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// QEMU loads a saved VM; its agent has not said a word.
    Resuming,
    /// The kernel boots; the agent has not said hello.
    Booting,
    /// The agent prepares the guest.
    Preparing,
    /// The VM is being saved.
    Saving,
    /// The program runs.
    Running,
    /// The program has ended; artifacts are on their way.
    Ending,
    /// Time is over: the agent tells where everything stands.
    Stacks,
    /// The agent is silent: the kernel is asked by an interrupt that it cannot ignore.
    Nmi,
    /// The user wants an end; the program may still have its own.
    Grace,
    /// The guest's processes were killed.
    Killed,
    /// QEMU was asked to end.
    Quitting,
}

struct Supervisor<'a> {
    monitor: Monitor,
    phase: Phase,
    deadline: Option<Instant>,
    limits: Limits,
    nonce: Nonce,
    job: Option<Job>,
    terminal: Option<Escape>,
    began: Instant,
    heard: Instant,
    boot: Option<Duration>,
    ready: Option<Duration>,
    program: Option<Duration>,

    qmp: qmp::Reader,
    decoder: Decoder,
    to_guest: Vec<u8>,
    console: Console,
    stacks: Option<File>,
    dir: &'a Path,
    unpacking: Option<Unpacking>,
    artifacts: crate::ArtifactsRecord,

    input: Option<OwnedFd>,
    allowance: Option<Allowance>,
    output: Outlet,
    errors: Outlet,
    artifact_credit: Option<u32>,
    mailbox: Mailbox,
    events: Receiver<Event>,
    bell: Arc<OwnedFd>,

    signals: &'a mut dyn Signals,
    show: &'a mut dyn FnMut(Notice),
    seen: Seen,
}

/// One output stream of the program, on its way to the user.
struct Outlet {
    stream: Stream,
    sender: Option<Sender<Vec<u8>>>,
    owed: u32,
    open: bool,
}

/// What the verdict is made of.
#[derive(Default)]
struct Seen {
    /// Decided by us before the guest ended.
    forced: Option<Verdict>,
    status: Option<Status>,
    down: bool,
    failed: Option<String>,
    nonsense: Option<String>,
    shutdown: Option<String>,
    stopped: bool,
    write_error: Option<String>,
    panic_at: Option<Instant>,
    signals: u32,
    notes: Vec<String>,
    /// QEMU's words about a command that it refused.
    refused: Option<String>,
    saved: bool,
}

impl<'a> Supervisor<'a> {
    fn start(run: Run<'a>, began: Instant) -> Result<Self, BeginError> {
        let (log, _) = fs::File::create(run.dir.join("qemu.log"))?.into_parts();
        let console = Console::create(&run.dir.join("console.log"), run.console_before)?;
        let (mailbox, events, bell) = Mailbox::new()?;
        let mut nonce = Nonce::default();
        rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty()).map_err(io::Error::from)?;
        let monitor = Monitor::start(run.vm, &log)?;
        let terminal = match &run.job {
            Job::Program(_, order) | Job::Resumed(order) => order.program.terminal.map(|_| Escape::default()),
            Job::Save(..) | Job::Salvage { .. } => None,
        };
        let resuming = matches!(run.job, Job::Resumed(_));
        let (phase, limit) = if resuming { (Phase::Resuming, RESUME) } else { (Phase::Booting, run.limits.boot) };
        let outlet = |stream, output| Outlet {
            stream,
            sender: Some(pump::write_output(stream, output, mailbox.clone())),
            owed: 0,
            open: true,
        };
        let mut supervisor = Supervisor {
            monitor,
            phase,
            deadline: Some(began + limit),
            limits: run.limits,
            nonce,
            job: Some(run.job),
            terminal,
            began,
            heard: began,
            boot: None,
            ready: None,
            program: None,
            qmp: qmp::Reader::default(),
            decoder: Decoder::default(),
            to_guest: Vec::new(),
            console,
            stacks: None,
            dir: run.dir,
            unpacking: None,
            artifacts: Default::default(),
            input: run.streams.input,
            allowance: None,
            output: outlet(Stream::Stdout, run.streams.output),
            errors: outlet(Stream::Stderr, run.streams.errors),
            artifact_credit: None,
            mailbox,
            events,
            bell,
            signals: run.signals,
            show: run.show,
            seen: Seen::default(),
        };
        if resuming {
            // The guest hears it as soon as it lives.
            supervisor.start_program();
        }
        Ok(supervisor)
    }

    fn finish(mut self) -> Outcome {
        while self.monitor.ended().is_none() {
            self.turn();
        }
        // What QEMU had passed on before it ended.
        self.read_console();
        self.read_agent();
        self.read_qmp();
        self.console.finish().unwrap_or_else(|e| self.seen.notes.push(format!("console.log is incomplete: {e}")));
        let total = self.began.elapsed();
        self.output.sender = None;
        self.errors.sender = None;
        if let Some(unpacking) = self.unpacking.take() {
            self.artifacts = unpacking.finish();
        }
        while (self.output.open || self.errors.open) && self.seen.signals < 2 {
            self.wait_for_output();
        }
        let not_resumed = (self.phase == Phase::Resuming && self.seen.forced.is_none()).then(|| self.why_not_resumed());
        let verdict = self.judge();
        let (oops, console_tail) = (self.console.oops().to_owned(), self.console.last_lines());
        if !oops.is_empty()
            && let Err(e) = fs::write(self.dir.join("oops.txt"), &oops)
        {
            self.seen.notes.push(format!("oops.txt is missing: {e}"));
        }
        Outcome {
            verdict,
            boot: self.boot,
            ready: self.ready,
            program: self.program,
            total,
            artifacts: self.artifacts,
            notes: self.seen.notes,
            console_tail,
            oops,
            not_resumed,
        }
    }

    /// Waits for the next thing to happen and deals with it.
    fn turn(&mut self) {
        let wants_write = if self.to_guest.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let timeout = self.next_deadline().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            rustix::time::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        let ready = {
            let pidfd = self.monitor.pidfd();
            let mut fds = [
                PollFd::new(&pidfd, PollFlags::IN),
                PollFd::new(&self.monitor.console, PollFlags::IN),
                PollFd::new(&self.monitor.agent, PollFlags::IN | wants_write),
                PollFd::new(&self.monitor.qmp, PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) => fds.map(|fd| !fd.revents().is_empty()),
                Err(_) => [false, true, true, true, true, true],
            }
        };
        let [_, console, agent, qmp, signals, bell] = ready;
        if console {
            self.read_console();
        }
        if agent {
            self.write_agent();
            self.read_agent();
        }
        if qmp {
            self.read_qmp();
        }
        if bell {
            self.on_events();
        }
        if signals {
            self.on_signals();
        }
        self.on_deadlines(Instant::now());
        self.write_agent();
    }

    // ---- Time.

    fn next_deadline(&self) -> Option<Instant> {
        let hang = self.hang_at();
        let panic = self.seen.panic_at.map(|at| at + PANIC);
        [self.deadline, hang, panic].into_iter().flatten().min()
    }

    /// When silence becomes a hang. Only where the agent is expected to speak.
    fn hang_at(&self) -> Option<Instant> {
        let speaking = matches!(self.phase, Phase::Running | Phase::Ending);
        self.limits.hang.filter(|_| speaking).map(|limit| self.heard + limit)
    }

    fn enter(&mut self, phase: Phase, limit: Option<Duration>) {
        self.phase = phase;
        self.deadline = limit.map(|limit| Instant::now() + limit);
    }

    fn on_deadlines(&mut self, now: Instant) {
        if self.seen.panic_at.is_some_and(|at| now >= at + PANIC) {
            // It said its last words and did not end by itself.
            self.monitor.kill();
        } else if self.hang_at().is_some_and(|at| now >= at) {
            let limit = self.limits.hang.unwrap_or_default();
            self.time_is_over(format!("nothing was heard from the guest for {}", text(limit)), true);
        } else if self.deadline.is_some_and(|at| now >= at) {
            self.on_deadline();
        }
    }

    fn on_deadline(&mut self) {
        match self.phase {
            Phase::Resuming => {
                self.seen.refused.get_or_insert_with(|| format!("it said no word within {}", text(RESUME)));
                self.monitor.kill();
            }
            Phase::Saving => {
                self.seen.failed.get_or_insert_with(|| format!("the VM was not saved within {}", text(SAVE)));
                self.monitor.kill();
            }
            Phase::Booting | Phase::Preparing => {
                let message = format!("the guest was not ready within {}", text(self.limits.boot));
                self.time_is_over(message, self.phase == Phase::Booting);
            }
            Phase::Running => {
                let message = format!("the program ran longer than {}", text(self.limits.program.unwrap_or_default()));
                self.time_is_over(message, false);
            }
            Phase::Stacks => self.ask_by_nmi(),
            Phase::Grace => self.kill_processes(),
            Phase::Ending => self.deadline = None,
            Phase::Nmi | Phase::Killed => {
                self.monitor.kill();
            }
            Phase::Quitting => {
                let message = format!("QEMU did not end within {} of being asked to", text(QUIT));
                self.seen.failed.get_or_insert(message);
                self.monitor.kill();
            }
        }
    }

    fn time_is_over(&mut self, message: String, silent: bool) {
        self.seen.forced.get_or_insert(Verdict::Timeout { message });
        if silent {
            self.ask_by_nmi();
        } else {
            self.say(&ToGuest::Stacks);
            self.enter(Phase::Stacks, Some(STACKS));
        }
    }

    fn ask_by_nmi(&mut self) {
        self.monitor.say(command::STATUS);
        self.monitor.say(command::NMI);
        self.enter(Phase::Nmi, Some(NMI));
    }

    fn kill_processes(&mut self) {
        self.say(&ToGuest::Kill);
        self.enter(Phase::Killed, Some(KILLED));
    }

    fn quit(&mut self) {
        self.monitor.say(command::QUIT);
        self.enter(Phase::Quitting, Some(QUIT));
    }

    // ---- QEMU.

    fn read_qmp(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = (&self.monitor.qmp).read(&mut buffer) {
            for said in self.qmp.push(&buffer[..n]) {
                self.on_qmp(said);
            }
        }
    }

    fn on_qmp(&mut self, said: Said) {
        match said {
            Said::Shutdown { reason } => self.seen.shutdown = Some(reason),
            // It stops to be saved.
            Said::Stopped if self.phase == Phase::Saving => {}
            Said::Stopped if self.phase != Phase::Quitting => {
                // Nobody asked for that: the accelerator gave up.
                self.seen.stopped = true;
                self.monitor.kill();
            }
            Said::AgentPort { open: false } if self.boot.is_some() && !self.seen.down => {
                self.seen.shutdown.get_or_insert_with(|| "agent-gone".to_owned());
                // A panic is still being printed.
                self.seen.panic_at.get_or_insert_with(Instant::now);
            }
            Said::Migration(status) => self.on_migration(&status),
            Said::Refused(why) if matches!(self.phase, Phase::Resuming | Phase::Saving) => {
                self.seen.refused.get_or_insert(why);
                self.on_migration("failed");
            }
            Said::Stopped | Said::AgentPort { .. } | Said::Status(_) | Said::Refused(_) => {}
        }
    }

    fn on_migration(&mut self, status: &str) {
        match (self.phase, status) {
            (Phase::Saving, "completed") => {
                self.seen.saved = true;
                // For the verdict: what was asked for is done.
                (self.seen.status, self.seen.down) = (Some(Status::Code(0)), true);
                self.quit();
            }
            (Phase::Saving, "failed" | "cancelled") => {
                let why = self.seen.refused.clone().unwrap_or_else(|| "QEMU gave no reason".to_owned());
                self.seen.failed.get_or_insert(format!("the VM could not be saved: {why}"));
                self.monitor.kill();
            }
            (Phase::Resuming, "failed") => {
                self.monitor.kill();
            }
            _ => {}
        }
    }

    fn read_console(&mut self) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(n @ 1..) = (&self.monitor.console).read(&mut buffer) {
            if let Err(e) = self.console.push(&buffer[..n]) {
                self.seen.failed.get_or_insert_with(|| format!("console.log cannot be written: {e}"));
            }
            (self.show)(Notice::Console(&buffer[..n]));
        }
        if self.console.panicked() {
            self.seen.panic_at.get_or_insert_with(Instant::now);
        }
    }

    // ---- The agent.

    fn say(&mut self, message: &ToGuest) {
        encode(message, &mut self.to_guest);
    }

    fn write_agent(&mut self) {
        while !self.to_guest.is_empty() {
            match rustix::net::send(&self.monitor.agent, &self.to_guest, rustix::net::SendFlags::NOSIGNAL) {
                Ok(n) => {
                    self.to_guest.drain(..n);
                }
                Err(rustix::io::Errno::INTR) => {}
                // A full socket is polled for; a closed one means that QEMU is ending, which the pidfd tells.
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => self.to_guest.clear(),
            }
        }
    }

    fn read_agent(&mut self) {
        let mut buffer = vec![0; 8 * CHUNK];
        // A few reads at most, so that a chatty guest does not keep us from the clock.
        for _ in 0..8 {
            let Ok(n @ 1..) = (&self.monitor.agent).read(&mut buffer) else { return };
            let mut decoder = std::mem::take(&mut self.decoder);
            decoder.push(&buffer[..n]);
            loop {
                match decoder.next::<ToHost>() {
                    Ok(Some(message)) => self.on_message(message),
                    Ok(None) => break,
                    Err(e) => {
                        self.seen.nonsense.get_or_insert_with(|| format!("the agent sent {e}"));
                        self.monitor.kill();
                        return;
                    }
                }
            }
            self.decoder = decoder;
            self.heard = Instant::now();
            if self.seen.panic_at.is_some_and(|at| at.elapsed() > PANIC / 5) && self.seen.shutdown.is_none() {
                // Whoever printed those words, the kernel is alive.
                self.seen.panic_at = None;
            }
        }
    }

    fn on_message(&mut self, message: ToHost) {
        match message {
            ToHost::Hello { version } => self.on_hello(version),
            ToHost::Ready => self.on_ready(),
            ToHost::Begun if self.phase == Phase::Resuming => {
                self.boot = Some(self.began.elapsed());
                self.phase = Phase::Preparing;
                self.deadline = Some(self.began + self.limits.boot);
            }
            ToHost::Begun => {}
            ToHost::Started => self.on_started(),
            ToHost::Pulse => {}
            ToHost::Data(Stream::Artifacts, bytes) => self.on_artifacts(&bytes),
            ToHost::Data(stream, bytes) => {
                if let Some(sender) = self.outlet(stream).and_then(|outlet| outlet.sender.as_ref()) {
                    // A pump that has given up has said so; the guest hears it with `Close`.
                    sender.send(bytes.into_owned()).ok();
                }
            }
            ToHost::Eof(stream) => {
                if let Some(outlet) = self.outlet(stream) {
                    outlet.sender = None;
                }
            }
            ToHost::Credit(Stream::Stdin, bytes) => {
                if let Some(allowance) = &self.allowance {
                    allowance.add(bytes);
                }
            }
            ToHost::Credit(..) | ToHost::Close(_) => {}
            ToHost::Kernel { level, text } => (self.show)(Notice::Kernel(level, &text)),
            ToHost::Note(text) => {
                (self.show)(Notice::Note(&text));
                self.seen.notes.push(text.into_owned());
            }
            ToHost::Stacks(text) => self.on_stacks(&text),
            ToHost::StacksEnd if self.phase == Phase::Stacks => self.kill_processes(),
            ToHost::StacksEnd => {}
            ToHost::Exited { nonce, status } if nonce == self.nonce => {
                self.seen.status.get_or_insert(status);
                self.program = self.ready.map(|ready| self.began.elapsed().saturating_sub(ready));
                if matches!(self.phase, Phase::Preparing | Phase::Running) {
                    self.enter(Phase::Ending, None);
                }
            }
            ToHost::Down { nonce } if nonce == self.nonce => {
                self.seen.down = true;
                self.quit();
            }
            ToHost::Exited { .. } | ToHost::Down { .. } => {
                self.seen.nonsense.get_or_insert_with(|| "a record of another run came from the guest".to_owned());
                self.monitor.kill();
            }
            ToHost::Failed(why) => {
                self.seen.failed.get_or_insert(why.into_owned());
                self.quit();
            }
        }
    }

    fn on_hello(&mut self, version: u32) {
        if version != quiz_proto::VERSION {
            self.seen.failed = Some(format!(
                "the agent speaks version {version} of the frames and quiz version {}; delete the initramfs cache",
                quiz_proto::VERSION
            ));
            return self.quit();
        }
        let first = self.phase == Phase::Booting;
        self.boot = Some(self.began.elapsed());
        self.phase = Phase::Preparing;
        let nonce = self.nonce;
        match &self.job {
            Some(Job::Program(system, _) | Job::Save(system, _)) if first => {
                let (moment, system) = (now(), system.clone());
                self.say(&ToGuest::Prepare { moment, system });
            }
            Some(Job::Salvage { out_serial }) if first => {
                let out_serial = out_serial.clone();
                self.seen.status = Some(Status::Code(0));
                self.say(&ToGuest::Salvage { nonce, out_serial });
            }
            _ => {
                // A hello where none is due: the guest has started anew without QEMU's noticing.
                self.seen.nonsense = Some("the agent started a second time".to_owned());
                self.monitor.kill();
            }
        }
    }

    fn on_ready(&mut self) {
        match &self.job {
            Some(Job::Save(_, state)) => {
                let command = command::save(&state.to_string_lossy());
                self.monitor.say(&command);
                self.enter(Phase::Saving, Some(SAVE));
            }
            _ => self.start_program(),
        }
    }

    /// Says once what the program is.
    fn start_program(&mut self) {
        if let Some(Job::Program(_, mut order) | Job::Resumed(mut order)) = self.job.take() {
            order.personal.moment = now();
            self.say(&ToGuest::Start { nonce: self.nonce, order });
        }
    }

    fn on_started(&mut self) {
        self.ready = Some(self.began.elapsed());
        if self.phase == Phase::Preparing {
            self.enter(Phase::Running, self.limits.program);
        }
        match self.input.take() {
            Some(input) => self.allowance = Some(pump::read_input(input, self.mailbox.clone())),
            None => self.say(&ToGuest::Eof(Stream::Stdin)),
        }
    }

    fn on_artifacts(&mut self, bytes: &[u8]) {
        let (dir, bounds, mailbox) = (self.dir.join("artifacts"), self.limits.artifacts, self.mailbox.clone());
        self.artifact_credit.get_or_insert(0);
        self.unpacking
            .get_or_insert_with(|| Unpacking::start(dir, bounds, move |n| mailbox.written(Stream::Artifacts, n)))
            .push(bytes.to_vec());
    }

    fn on_stacks(&mut self, text: &str) {
        let written = match &mut self.stacks {
            Some(file) => file.write_all(text.as_bytes()),
            None => fs::File::create(self.dir.join("stacks.txt")).and_then(|file| {
                let (mut file, _) = file.into_parts();
                file.write_all(text.as_bytes())?;
                self.stacks = Some(file);
                Ok(())
            }),
        };
        if let Err(e) = written {
            self.seen.notes.push(format!("stacks.txt is incomplete: {e}"));
        }
    }

    // ---- The user.

    fn outlet(&mut self, stream: Stream) -> Option<&mut Outlet> {
        [&mut self.output, &mut self.errors].into_iter().find(|outlet| outlet.stream == stream)
    }

    fn on_events(&mut self) {
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
                self.say(&ToGuest::Data(Stream::Stdin, bytes.into()));
            }
            Event::InputEnded => self.say(&ToGuest::Eof(Stream::Stdin)),
            Event::Written(Stream::Artifacts, bytes) => {
                let owed = self.artifact_credit.take().unwrap_or(0) + bytes;
                self.artifact_credit = Some(self.pay(Stream::Artifacts, owed));
            }
            Event::Written(stream, bytes) => {
                let owed = self.outlet(stream).map_or(0, |outlet| outlet.owed) + bytes;
                let owed = self.pay(stream, owed);
                if let Some(outlet) = self.outlet(stream) {
                    outlet.owed = owed;
                }
            }
            Event::WriteFailed(stream, error) => {
                if error.kind() != io::ErrorKind::BrokenPipe {
                    let name = if stream == Stream::Stdout { "standard output" } else { "standard error" };
                    self.seen.write_error.get_or_insert_with(|| format!("cannot write to {name}: {error}"));
                }
                if let Some(outlet) = self.outlet(stream) {
                    outlet.sender = None;
                }
                self.say(&ToGuest::Close(stream));
            }
            Event::Finished(stream) => {
                if let Some(outlet) = self.outlet(stream) {
                    outlet.open = false;
                }
            }
        }
    }

    /// Returns credit to the guest once it is worth an interrupt; says what is still owed.
    fn pay(&mut self, stream: Stream, owed: u32) -> u32 {
        if owed < CREDIT {
            return owed;
        }
        self.say(&ToGuest::Credit(stream, owed));
        0
    }

    fn on_signals(&mut self) {
        for signal in self.signals.pending() {
            if signal == libc::SIGWINCH {
                if let Some(size) = self.signals.window_size() {
                    self.say(&ToGuest::Resize(size));
                }
                continue;
            }
            self.seen.signals += 1;
            let number = u8::try_from(signal).unwrap_or(libc::SIGTERM as u8);
            self.seen.forced.get_or_insert(Verdict::Interrupted { signal: number });
            if self.seen.signals == 1 && self.phase == Phase::Running {
                self.say(&ToGuest::Signal(signal));
                self.enter(Phase::Grace, Some(GRACE));
            } else {
                self.monitor.kill();
            }
        }
    }

    /// After QEMU's end: only the user's descriptors and signals are left.
    fn wait_for_output(&mut self) {
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

/// The host's time, and randomness for a guest.
fn now() -> Moment {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let mut seed = vec![0; 64];
    let full = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
    // Linux gives so few bytes whole, whatever the signals.
    assert_eq!(full, Ok(seed.len()), "the host gives no random numbers");
    Moment { clock: (now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0)), seed }
}

/// A duration as the user would have typed it.
fn text(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms if ms > 1000 => format!("{:.1} s", duration.as_secs_f64()),
        ms => format!("{ms} ms"),
    }
}
