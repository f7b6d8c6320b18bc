//! Supervises one VM from its start to its verdict, in a single thread with a single loop. All
//! deadlines are in this module. Not for deriving the verdict (`judge`).
//!
//! The thread that calls [`supervise`] owns QEMU. It waits for the next event: QEMU's end, QMP, the
//! console, the agent, a signal, the user's descriptors or a deadline. The matching `on_…` method
//! then changes the state. The loop ends when QEMU has ended and the output is written. Then
//! `judge` derives the verdict from the observations.

mod agent;
mod clients;
mod dumping;
pub mod job;
mod machine;
mod phase;
mod serving;
mod user;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use quiz_host::held::HeldDir;
use quiz_host::wait::ready;
use quiz_proto::{Decoder, Nonce, Stream, ToGuest, WINDOW};
use rustix::event::{PollFd, PollFlags};

use crate::artifacts::{self, Unpacking};
use crate::console::Console;
use crate::duplex::Duplex;
use crate::escape::Escape;
use crate::judge::{self, ANSWER, Mute, Observations};
use crate::monitor::{Monitor, StartError};
use crate::outgoing::Outgoing;
use crate::qemu::{self, SavesTo};
use crate::qmp::{self, Command, CommandName};
use crate::sparse;
use crate::standby::Standby;
use crate::verdict::{Outcome, Verdict};

use clients::Clients;
pub use job::{Dump, Job, Limits, NoSignals, Notice, Point, Run, Signals, SnapshotSink, Streams};
use phase::Phase;

/// How long QEMU may take to end after quiz has asked it to quit.
const QUIT: Duration = Duration::from_secs(5);
/// A healthy guest is never silent for this long, because its agent sends a heartbeat every second.
/// If one of the guest's processors spins, the agent may still receive and answer messages. The
/// guest's clock stands still then.
const QUIET: Duration = Duration::from_secs(3);
/// How long a guest may take to end after its kernel has reported a panic.
const PANIC: Duration = Duration::from_secs(5);
/// How long the agent may take to report the stacks, even if the VM gets little processor time.
const STACKS_AT_MOST: Duration = Duration::from_secs(10);
/// How long a guest that has booted may take to answer a non-maskable interrupt. Its kernel
/// collects the stacks of all processors. It waits a second for the processors to stop before it
/// prints anything. A busy host makes that longer.
const NMI: Duration = Duration::from_secs(8);
/// How long a booting guest may take to answer a non-maskable interrupt. It seldom does.
const NMI_IN_BOOT: Duration = Duration::from_millis(700);
/// How long a resumed guest may take to send its first message.
const RESUME: Duration = Duration::from_secs(10);
/// How long QEMU may take to save the state of a VM's devices.
const SAVE: Duration = Duration::from_secs(30);
/// How long the program may take to end by itself after quiz has passed the user's signal on.
const GRACE: Duration = Duration::from_secs(2);
/// How long the guest may take to end after quiz has told the agent to kill its processes.
const KILLED: Duration = Duration::from_secs(1);
/// The precision of the VM's processor time at the last message from the guest.
const SAMPLE: Duration = Duration::from_millis(100);
/// The longest time between two readings of the clock.
const LOOK: Duration = Duration::from_secs(1);
/// How much later than planned the supervisor may wake up on a busy host. If it wakes up later than
/// that, it could not run, and so it could not receive anything.
const LATE: Duration = Duration::from_secs(1);
/// How many notes of the guest are kept.
const NOTES: usize = 30;
/// How many bytes of stacks the guest may report.
const STACKS_BYTES: usize = 4 << 20;
/// How many bytes may be queued for the guest: input and programs of many clients at once.
const UNTAKEN: usize = 32 << 20;
/// How many bytes of QEMU's output are read for the verdict.
const LOG: u64 = 1 << 20;

/// Runs the VM to its end. QEMU has ended when this returns. All failures are in the verdict.
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
            headline: None,
            asked: String::new(),
            dumped: false,
            not_resumed: None,
            crashed_at_boot: false,
        },
    }
}

/// Why a run could not begin.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    #[error(transparent)]
    Monitor(#[from] StartError),
    #[error("cannot keep the run's evidence: {0}")]
    Evidence(#[from] io::Error),
    #[error("cannot start a thread for the program's output: {0}")]
    Thread(#[source] io::Error),
}

struct Supervisor<'a> {
    monitor: Monitor,
    /// QEMU's output.
    log: File,
    /// QEMU's output so far, if the VM was taken over from a keeper.
    kept_log: Option<File>,
    phase: Phase,
    deadline: Option<Instant>,
    /// Set while QEMU refuses to continue a paused VM.
    stuck: Option<machine::Stuck>,
    limits: Limits,
    nonce: Nonce,
    job: Option<Job>,
    snapshots: Option<&'a mut dyn SnapshotSink>,
    terminal: Option<Escape>,
    began: Instant,
    /// When the supervisor last read the clock.
    looked: Instant,
    /// The total time in which quiz could not run.
    away: Duration,
    heard: Instant,
    /// Taken at most [`SAMPLE`] before `heard`.
    heard_mark: Mark,
    /// When quiz asked the agent for the stacks.
    asked: Mark,
    boot: Option<Duration>,
    ready: Option<Duration>,
    program: Option<Duration>,

    qmp: qmp::Reader,
    decoder: Decoder,
    to_guest: Outgoing,
    console: Console,
    stacks: Option<File>,
    /// How many more bytes of stacks are kept.
    stacks_left: usize,
    dir: &'a HeldDir,
    /// The image files of the VM's disks.
    disks: Vec<PathBuf>,
    /// How QEMU saves the VM.
    saves_to: SavesTo,
    state: Option<File>,
    /// The file that QEMU writes the guest's memory to.
    vmcore: Option<File>,
    unpacking: Option<Unpacking>,
    artifacts: crate::verdict::ArtifactsRecord,

    input: Option<OwnedFd>,
    duplex: Duplex,
    /// How many bytes of each stream the guest may still send.
    spendable: Spendable,
    /// The number of artifact bytes for which quiz has not returned credit yet.
    artifacts_owed: u32,

    clients: Clients,
    /// The environment and the working directories of the program.
    surroundings: Surroundings,

    signals: &'a mut dyn Signals,
    show: &'a mut dyn FnMut(Notice),
    seen: Observations,
    /// The kernel taint bits that were set while the program ran.
    taint: u64,
    /// When quiz saw that the kernel panicked.
    panic_at: Option<Instant>,
    /// How many signals the user has sent.
    user_signals: u32,
    notes: Notes,
    /// Whether the guest's memory was dumped; `None` if nothing was tried.
    dumped: Option<bool>,
}

/// Environment variables (name, value) and candidate working directories. The program starts in the
/// first directory that exists.
type Surroundings = (Vec<(Vec<u8>, Vec<u8>)>, Vec<Vec<u8>>);

/// How many bytes of each stream the guest may still send.
struct Spendable {
    stdout: u64,
    stderr: u64,
    artifacts: u64,
}

impl Default for Spendable {
    fn default() -> Spendable {
        let window = u64::from(WINDOW);
        Spendable { stdout: window, stderr: window, artifacts: window }
    }
}

impl Spendable {
    /// `None` for a stream that the guest does not send.
    fn of(&mut self, stream: Stream) -> Option<&mut u64> {
        match stream {
            Stream::Stdin => None,
            Stream::Stdout => Some(&mut self.stdout),
            Stream::Stderr => Some(&mut self.stderr),
            Stream::Artifacts => Some(&mut self.artifacts),
        }
    }
}

/// An instant, and the host processor time that the VM had used by then.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    used: Duration,
}

/// Notes of the guest and QEMU that are kept beside the evidence for the verdict.
#[derive(Default)]
struct Notes {
    all: Vec<String>,
    /// How many notes the guest has sent. Only the first [`NOTES`] are kept.
    of_guest: usize,
    /// The guest reported more stacks than are kept.
    stacks_cut: bool,
}

impl<'a> Supervisor<'a> {
    fn start(run: Run<'a>, began: Instant) -> Result<Self, BeginError> {
        let log = run.dir.create("qemu.log")?;
        let console = Console::create(run.dir.create("console.log")?, run.console_before)?;
        let mut nonce = Nonce::default();
        rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty()).map_err(io::Error::from)?;
        let (monitor, kept_log) = match run.standby {
            Some(Standby { mut monitor, log, disks: _ }) => {
                monitor.say(CommandName::Cont);
                (monitor, Some(log))
            }
            None => (Monitor::start(run.vm, &log)?, None),
        };
        let (terminal, surroundings) = match &run.job {
            Job::Program(_, order) | Job::Resumed(order) => {
                let program = &order.program;
                (program.terminal.map(|_| Escape::new(run.escape)), (program.env.clone(), program.cwd.clone()))
            }
            Job::Salvage { .. } => (None, Surroundings::default()),
        };
        let clients = Clients::new(run.door, run.front)?;
        let resuming = run.vm.incoming.is_some();
        let (phase, limit) = if resuming { (Phase::Resuming, RESUME) } else { (Phase::Booting, run.limits.boot) };
        let duplex = Duplex::new(run.streams.output, run.streams.errors).map_err(BeginError::Thread)?;
        let mut supervisor = Supervisor {
            monitor,
            log,
            kept_log,
            phase,
            deadline: Some(began + limit),
            stuck: None,
            limits: run.limits,
            nonce,
            job: Some(run.job),
            snapshots: run.snapshots,
            terminal,
            began,
            looked: began,
            away: Duration::ZERO,
            heard: began,
            heard_mark: Mark { at: began, used: Duration::ZERO },
            asked: Mark { at: began, used: Duration::ZERO },
            boot: None,
            ready: None,
            program: None,
            qmp: qmp::Reader::default(),
            decoder: Decoder::default(),
            to_guest: Outgoing::default(),
            console,
            stacks: None,
            stacks_left: STACKS_BYTES,
            dir: run.dir,
            saves_to: qemu::saves_to(run.vm),
            state: None,
            vmcore: None,
            disks: run.vm.disks.iter().map(|disk| disk.file.clone()).collect(),
            unpacking: None,
            artifacts: Default::default(),
            input: run.streams.input,
            duplex,
            spendable: Spendable::default(),
            artifacts_owed: 0,
            clients,
            surroundings,
            signals: run.signals,
            show: run.show,
            seen: Observations::default(),
            taint: 0,
            panic_at: None,
            user_signals: 0,
            notes: Notes::default(),
            dumped: None,
        };
        if run.limits.dump.is_some() {
            supervisor.monitor.say(Command::pause_at_end());
        }
        if resuming {
            // The guest receives it as soon as it resumes.
            supervisor.say_order();
        }
        Ok(supervisor)
    }

    fn finish(mut self) -> Outcome {
        while self.monitor.ended().is_none() {
            self.turn();
        }
        // Reads what QEMU passed on before it ended.
        self.read_console();
        self.read_agent();
        self.read_qmp();
        self.console.finish().unwrap_or_else(|e| self.notes.all.push(format!("console.log is incomplete: {e}")));
        self.drop_half_a_dump();
        let total = self.began.elapsed();
        self.duplex.end_output();
        if let Some(unpacking) = self.unpacking.take() {
            self.artifacts = unpacking.finish();
        }
        while self.duplex.is_writing() && self.user_signals < 2 {
            self.wait_for_output();
        }
        if let Some(kept) = &self.kept_log
            && let Err(e) = sparse::copy(kept, &self.log)
        {
            self.notes.all.push(format!("qemu.log is incomplete: {e}"));
        }
        if self.notes.of_guest > NOTES {
            self.notes.all.push(format!("the guest had {} more notes", self.notes.of_guest - NOTES));
        }
        if self.notes.stacks_cut {
            let kept = STACKS_BYTES >> 20;
            self.notes.all.push(format!("stacks.txt has the first {kept} MiB of what the guest reported"));
        }
        self.complete_observations();
        let verdict = judge::judge(&self.seen);
        let crashed_at_boot = judge::crashed_at_boot(&self.seen);
        let not_resumed = judge::why_not_resumed(&self.seen);
        if not_resumed.is_none() {
            self.say_farewell(&verdict);
        }
        let (oops, console_tail) = (self.console.oops().to_owned(), self.console.last_lines());
        if !oops.is_empty()
            && let Err(e) = self.dir.write_whole("oops.txt", oops.as_bytes())
        {
            self.notes.all.push(format!("oops.txt is missing: {e}"));
        }
        Outcome {
            verdict,
            boot: self.boot,
            ready: self.ready,
            program: self.program,
            total,
            artifacts: self.artifacts,
            notes: self.notes.all,
            console_tail,
            oops,
            headline: self.console.headline().map(str::to_owned),
            asked: self.console.asked().to_owned(),
            dumped: self.dumped == Some(true),
            not_resumed,
            crashed_at_boot,
        }
    }

    /// Adds the observations that are complete only after QEMU has ended.
    fn complete_observations(&mut self) {
        let strict_report = self.strict_report();
        let seen = &mut self.seen;
        seen.not_resumed = self.phase == Phase::Resuming;
        seen.started = self.ready.is_some();
        seen.ended = self.monitor.kill();
        seen.panicked = self.console.panicked();
        seen.trouble = self.console.trouble().map(str::to_owned);
        seen.stall = self.console.stall().map(str::to_owned);
        seen.strict_report = strict_report;
        let place = self.dir.path().join(artifacts::DIR);
        let failed = self.artifacts.failed.as_ref();
        seen.artifacts_failed = failed.map(|why| format!("cannot write what came back to {}: {why}", place.display()));
        // If the log cannot be read, the verdict is the same with a shorter message.
        self.dir.read("qemu.log").and_then(|log| log.take(LOG).read_to_string(&mut seen.qemu_log)).ok();
    }

    /// What the kernel has reported, if the run is strict.
    fn strict_report(&self) -> Option<String> {
        judge::reported(self.console.strict(), self.taint).filter(|_| self.limits.strict)
    }

    /// Waits for the next event and handles it.
    fn turn(&mut self) {
        let wait = self.next_deadline().map(|at| at.saturating_duration_since(Instant::now()).min(LOOK));
        let answers = {
            let pidfd = self.monitor.pidfd();
            let mut fds = vec![
                PollFd::new(&pidfd, PollFlags::IN),
                PollFd::new(&self.monitor.console, PollFlags::IN),
                PollFd::new(&self.monitor.agent, PollFlags::IN | self.to_guest.interest()),
                PollFd::new(&self.monitor.qmp, PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.duplex.wakeup(), PollFlags::IN),
            ];
            fds.extend(self.clients.polled());
            let polled = ready(&mut fds, wait);
            // After an error no result is valid. Reading never blocks, so quiz tries all
            // descriptors.
            fds.iter().map(|fd| polled.is_err() || !fd.revents().is_empty()).collect::<Vec<_>>()
        };
        let [_, console, agent, qmp, signals, streams, clients @ ..] = answers.as_slice() else {
            unreachable!("there is one answer for each descriptor")
        };
        let [console, agent, qmp, signals, streams] = [console, agent, qmp, signals, streams].map(|ready| *ready);
        self.look_at_the_clock(wait);
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
        if streams {
            self.on_streams();
        }
        if signals {
            self.on_signals();
        }
        if clients.contains(&true) {
            self.serve(clients);
        }
        // Uses the time read above, because quiz may have been stopped since then.
        self.on_deadlines(self.looked);
        self.write_agent();
        self.write_clients();
    }

    // ---- Time.

    /// Detects that quiz could not run for a while, for example because it was stopped or frozen,
    /// perhaps with its VM. Moves all deadlines by that time, which does not count against the
    /// guest. `wait` is how long quiz wanted to wait. While the host sleeps, this clock stands
    /// still.
    fn look_at_the_clock(&mut self, wait: Option<Duration>) {
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.looked, now);
        let Some(away) = wait.and_then(|wait| took.checked_sub(wait + LATE)).map(|more| more + LATE) else { return };
        self.away += away;
        self.heard += away;
        let stuck = self.stuck.as_mut().map(|stuck| &mut stuck.again);
        let marks = [&mut self.heard_mark.at, &mut self.asked.at];
        let times = [self.deadline.as_mut(), self.panic_at.as_mut(), stuck];
        marks.into_iter().chain(times.into_iter().flatten()).for_each(|at| *at += away);
    }

    /// When the guest's boot times out.
    fn boot_deadline(&self) -> Instant {
        self.began + self.limits.boot + self.away
    }

    fn next_deadline(&self) -> Option<Instant> {
        let hang = self.hang_at();
        let may_wait = self.phase == Phase::Dumping || self.limits.debugged;
        let panic = self.panic_at.map(|at| at + PANIC).filter(|_| !may_wait);
        let again = self.stuck.as_ref().map(|stuck| stuck.again);
        [self.deadline, hang, panic, again].into_iter().flatten().min()
    }

    /// When a silent guest counts as hung. `None` in phases in which the agent need not send
    /// anything.
    fn hang_at(&self) -> Option<Instant> {
        let speaking = matches!(self.phase, Phase::Running | Phase::Kept | Phase::Ending);
        self.limits.hang.filter(|_| speaking).map(|limit| self.heard + limit)
    }

    fn enter(&mut self, phase: Phase, limit: Option<Duration>) {
        self.enter_until(phase, limit.map(|limit| Instant::now() + limit));
    }

    /// The only place where the phase changes.
    fn enter_until(&mut self, phase: Phase, deadline: Option<Instant>) {
        debug_assert!(self.phase.may_become(phase), "{:?} is followed by {phase:?}", self.phase);
        self.phase = phase;
        self.deadline = deadline;
    }

    fn on_deadlines(&mut self, now: Instant) {
        self.ask_again(now);
        let may_wait = self.phase == Phase::Dumping || self.limits.debugged;
        if self.panic_at.is_some_and(|at| now >= at + PANIC) && !may_wait {
            // The kernel has panicked, and the guest did not end by itself.
            self.end_or_dump();
        } else if self.hang_at().is_some_and(|at| now >= at) {
            let limit = self.limits.hang.unwrap_or_default();
            self.time_is_over(format!("the guest hangs: it sent nothing for {}", text(limit)), true);
        } else if self.deadline.is_some_and(|at| now >= at) {
            self.on_deadline();
        }
    }

    fn on_deadline(&mut self) {
        match self.phase {
            Phase::Resuming => {
                self.seen.refused.get_or_insert_with(|| format!("it sent nothing within {}", text(RESUME)));
                self.monitor.kill();
            }
            Phase::Saving(_) => {
                self.monitor.say(CommandName::MigrateCancel);
                self.on_migration("cancelled");
            }
            Phase::Booting | Phase::Preparing => {
                let message = format!("the guest was not ready within {}", text(self.limits.boot));
                self.time_is_over(message, self.phase == Phase::Booting);
            }
            Phase::Running => {
                let message =
                    format!("the program was still running after {}", text(self.limits.program.unwrap_or_default()));
                let quiet = self.heard.elapsed();
                // If the VM got little processor time, it could not send anything. That is no hang.
                self.seen.quiet = (quiet >= QUIET && self.since(self.heard_mark).used >= QUIET / 2).then_some(quiet);
                self.time_is_over(message, false);
            }
            Phase::Kept => self.end_kept(),
            Phase::Stacks => self.wait_or_ask_by_nmi(),
            Phase::Grace => self.kill_processes(),
            Phase::Ending => self.deadline = None,
            Phase::Nmi | Phase::Killed => self.end_or_dump(),
            Phase::Dumping => self.give_dump_up(),
            Phase::Quitting => {
                let message = format!("QEMU did not end within {} of being asked to", text(QUIT));
                self.seen.failed.get_or_insert(message);
                self.monitor.kill();
            }
        }
    }

    fn time_is_over(&mut self, message: String, silent: bool) {
        self.seen.decided.get_or_insert(Verdict::Timeout { message });
        if silent {
            self.ask_by_nmi();
        } else {
            self.say(&ToGuest::Stacks);
            self.asked = self.mark();
            self.enter(Phase::Stacks, Some(ANSWER));
        }
    }

    /// The agent has not reported the stacks. Waits longer if the VM got too little processor time.
    fn wait_or_ask_by_nmi(&mut self) {
        let mute = self.since(self.asked);
        if mute.used < ANSWER && mute.waited < STACKS_AT_MOST {
            self.deadline = Some(Instant::now() + (ANSWER - mute.used).min(STACKS_AT_MOST - mute.waited));
        } else {
            self.seen.mute = Some(mute);
            self.ask_by_nmi();
        }
    }

    fn mark(&self) -> Mark {
        let used = quiz_host::process::processor_time(self.monitor.pidfd()).unwrap_or_default();
        Mark { at: Instant::now(), used }
    }

    fn since(&self, mark: Mark) -> Mute {
        let now = self.mark();
        Mute { waited: now.at - mark.at, used: now.used.saturating_sub(mark.used) }
    }

    fn ask_by_nmi(&mut self) {
        self.monitor.say(CommandName::InjectNmi);
        self.enter(Phase::Nmi, Some(if self.boot.is_some() { NMI } else { NMI_IN_BOOT }));
    }

    fn kill_processes(&mut self) {
        self.say(&ToGuest::Kill);
        self.enter(Phase::Killed, Some(KILLED));
    }

    /// Whether the guest stays up after its program has ended.
    fn is_kept(&self) -> bool {
        self.limits.keep.is_some()
    }

    fn end_kept(&mut self) {
        self.say(&ToGuest::End);
        self.enter(Phase::Ending, None);
    }

    fn quit(&mut self) {
        self.monitor.say(CommandName::Quit);
        self.enter(Phase::Quitting, Some(QUIT));
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
            self.panic_at.get_or_insert_with(Instant::now);
        }
    }
}

/// A duration as the user would type it.
fn text(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms if ms > 1000 => format!("{:.1} s", duration.as_secs_f64()),
        ms => format!("{ms} ms"),
    }
}
