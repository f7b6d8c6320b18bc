//! One VM from its start to its verdict: a single thread, a single loop, every deadline in one place.
//!
//! The thread that calls [`supervise`] owns QEMU. It waits for whatever comes first (QEMU's end, QMP, the console, the
//! agent, a signal, the user's descriptors, a deadline), lets the matching `on_…` method change the state, and goes on until
//! QEMU has ended and the output is written. Then [`Supervisor::judge`] looks at what was seen, strictest first.

mod agent;
mod clients;
mod dumping;
mod job;
mod judge;
mod machine;
mod user;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use quiz_host::held::HeldDir;
use quiz_proto::{Decoder, Nonce, Sent, Status, Stream, ToGuest, WINDOW};
use rustix::event::{PollFd, PollFlags, poll};

use crate::artifacts::Unpacking;
use crate::console::Console;
use crate::escape::Escape;
use crate::feed::Feed;
use crate::monitor::{Monitor, StartError};
use crate::pump::{self, Allowance, Event, Mailbox};
use crate::qemu::{self, SavesTo};
use crate::qmp::{self, Command, Verb};
use crate::sparse;
use crate::standby::Standby;
use crate::{Outcome, Verdict};

pub(crate) use agent::now;
use clients::Clients;
pub use job::{Dump, DumpFormat, Job, Limits, NoSignals, Notice, Point, Run, Signals, SnapshotSink, Streams};

/// How long QEMU may take to end after it was asked to.
const QUIT: Duration = Duration::from_secs(5);
/// So long a guest that gets on is never quiet: its agent says every second that it is alive. One of whose processors another spins may hear
/// and answer all the same, while its clock stands still.
const QUIET: Duration = Duration::from_secs(3);
/// How long a guest may take to end after its kernel has said that it panicked.
const PANIC: Duration = Duration::from_secs(5);
/// How much processor time the VM may use before its agent has told where everything stands. On a busy host that takes longer than the clock
/// says.
const STACKS: Duration = Duration::from_millis(1500);
/// How long its agent may take, however little of the host's processors the VM gets.
const STACKS_AT_MOST: Duration = Duration::from_secs(10);
/// How long a guest that was up may take to answer a non-maskable interrupt: its kernel collects the stacks of all processors and waits a
/// second for them to stop before it prints a word, and a busy host makes that longer.
const NMI: Duration = Duration::from_secs(8);
/// How long a guest may take that boots, which seldom has an answer.
const NMI_IN_BOOT: Duration = Duration::from_millis(700);
/// How long a resumed guest may take to say its first word.
const RESUME: Duration = Duration::from_secs(10);
/// How long the state of a VM's devices may take to be saved.
const SAVE: Duration = Duration::from_secs(30);
/// How long a program may take to end by itself after the user's signal was passed on.
const GRACE: Duration = Duration::from_secs(2);
/// How long the guest may take to end after its processes were killed.
const KILLED: Duration = Duration::from_secs(1);
/// How exactly it is known what the VM had used of the host's processors when it was heard last.
const SAMPLE: Duration = Duration::from_millis(100);
/// How often the supervisor looks at the clock at least.
const LOOK: Duration = Duration::from_secs(1);
/// How much later than it wanted the supervisor may come to that on a busy host. More means that it could not run, and so that nothing was heard.
const LATE: Duration = Duration::from_secs(1);
/// How many notes of a guest are kept.
const NOTES: usize = 30;
/// How much a guest may tell of where everything stands, in bytes.
const STACKS_BYTES: usize = 4 << 20;
/// How much may wait for the guest to take it, in bytes: input and programs of many clients at once.
const UNTAKEN: usize = 32 << 20;
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
            headline: None,
            asked: String::new(),
            dumped: false,
            not_resumed: None,
            crashed_at_boot: false,
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
    #[error("cannot start a thread for the program's output: {0}")]
    Thread(#[source] io::Error),
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
    Saving(Point),
    /// The program runs.
    Running,
    /// The program has ended, and the guest stays for others.
    Kept,
    /// The run is over; artifacts are on their way.
    Ending,
    /// Time is over: the agent tells where everything stands.
    Stacks,
    /// The agent is silent: the kernel is asked by an interrupt that it cannot ignore.
    Nmi,
    /// The user wants an end; the program may still have its own.
    Grace,
    /// The guest's processes were killed.
    Killed,
    /// The guest stands still, and its memory is written.
    Dumping,
    /// QEMU was asked to end.
    Quitting,
}

struct Supervisor<'a> {
    monitor: Monitor,
    /// QEMU's words.
    log: File,
    /// Where they are of a VM that was taken over.
    kept_log: Option<File>,
    phase: Phase,
    deadline: Option<Instant>,
    /// The VM was told to go on and QEMU has refused.
    stuck: Option<machine::Stuck>,
    limits: Limits,
    nonce: Nonce,
    job: Option<Job>,
    snapshots: Option<&'a mut dyn SnapshotSink>,
    terminal: Option<Escape>,
    began: Instant,
    /// When the supervisor last looked at what had happened.
    looked: Instant,
    /// For how long it could not in all.
    away: Duration,
    heard: Instant,
    /// Little before that.
    heard_mark: Mark,
    /// When the agent was asked where everything stands.
    asked: Mark,
    boot: Option<Duration>,
    ready: Option<Duration>,
    program: Option<Duration>,

    qmp: qmp::Reader,
    decoder: Decoder,
    to_guest: Vec<u8>,
    console: Console,
    stacks: Option<File>,
    /// How many bytes of them may still come.
    stacks_left: usize,
    dir: &'a HeldDir,
    /// The files of the machine's disks.
    disks: Vec<PathBuf>,
    /// How the VM is saved, and the file that it is saved to.
    saves_to: SavesTo,
    state: Option<File>,
    /// The guest's memory.
    vmcore: Option<File>,
    unpacking: Option<Unpacking>,
    artifacts: crate::ArtifactsRecord,

    input: Option<OwnedFd>,
    allowance: Option<Allowance>,
    output: Outlet,
    errors: Outlet,
    artifact_credit: Option<u32>,
    /// How many bytes of artifacts the guest may still send.
    artifact_spendable: u64,
    mailbox: Mailbox,
    events: Receiver<Event>,
    bell: Arc<OwnedFd>,

    clients: Clients,
    /// The environment and the working directories of the program.
    surroundings: Surroundings,

    signals: &'a mut dyn Signals,
    show: &'a mut dyn FnMut(Notice),
    seen: Seen,
}

/// Names and values; directories, of which the first that exists is used.
type Surroundings = (Vec<(Vec<u8>, Vec<u8>)>, Vec<Vec<u8>>);

/// One output stream of the program, on its way to the user.
struct Outlet {
    stream: Stream,
    feed: Option<Feed>,
    owed: u32,
    /// How many bytes the guest may still send.
    spendable: u64,
    open: bool,
}

/// A moment, and what the VM had used of the host's processors by then.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    used: Duration,
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
    /// Something of the run's is lost in the guest.
    spoilt: Option<String>,
    /// How much of the program's streams has come, and how much the agent says that it has sent.
    received: Sent,
    sent: Option<Sent>,
    /// The bits of the kernel's taint that were set while the program ran.
    taint: u64,
    shutdown: Option<String>,
    stopped: bool,
    /// A disk failed on the host, for which QEMU stops the machine.
    disk_error: Option<String>,
    stream_error: Option<String>,
    panic_at: Option<Instant>,
    /// The agent was asked where everything stands, and has not answered yet.
    mute: Option<Mute>,
    /// For how long nothing had been heard from the guest when the program's time was over, if that was long.
    quiet: Option<Duration>,
    signals: u32,
    notes: Vec<String>,
    /// How many of the guest's there were, of which the first are kept.
    notes_of_guest: usize,
    /// It told more of where everything stands than is kept.
    stacks_cut: bool,
    /// The guest's memory was kept, or could not be.
    dump: Option<bool>,
    /// QEMU's words about a command that it refused.
    refused: Option<String>,
}

/// How long an agent has not answered, and what its VM has used of the host's processors in that time.
#[derive(Debug, Clone, Copy)]
struct Mute {
    waited: Duration,
    used: Duration,
}

impl<'a> Supervisor<'a> {
    fn start(run: Run<'a>, began: Instant) -> Result<Self, BeginError> {
        let log = run.dir.create("qemu.log")?;
        let console = Console::create(run.dir.create("console.log")?, run.console_before)?;
        let (mailbox, events, bell) = Mailbox::new()?;
        let mut nonce = Nonce::default();
        rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty()).map_err(io::Error::from)?;
        let (monitor, kept_log) = match run.standby {
            Some(Standby { mut monitor, log, disks: _ }) => {
                monitor.say(Verb::Cont);
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
        let outlet = |stream, output| -> Result<Outlet, BeginError> {
            let feed = pump::write_output(stream, output, mailbox.clone()).map_err(BeginError::Thread)?;
            Ok(Outlet { stream, feed: Some(feed), owed: 0, spendable: WINDOW.into(), open: true })
        };
        let output = outlet(Stream::Stdout, run.streams.output)?;
        let errors = outlet(Stream::Stderr, run.streams.errors)?;
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
            to_guest: Vec::new(),
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
            allowance: None,
            output,
            errors,
            artifact_credit: None,
            artifact_spendable: WINDOW.into(),
            mailbox,
            events,
            bell,
            clients,
            surroundings,
            signals: run.signals,
            show: run.show,
            seen: Seen::default(),
        };
        if run.limits.dump.is_some() {
            supervisor.monitor.say(Command::pause_at_end());
        }
        if resuming {
            // The guest hears it as soon as it lives.
            supervisor.say_order();
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
        self.drop_half_a_dump();
        let total = self.began.elapsed();
        self.output.feed = None;
        self.errors.feed = None;
        if let Some(unpacking) = self.unpacking.take() {
            self.artifacts = unpacking.finish();
        }
        while (self.output.open || self.errors.open) && self.seen.signals < 2 {
            self.wait_for_output();
        }
        if let Some(kept) = &self.kept_log
            && let Err(e) = sparse::copy(kept, &self.log)
        {
            self.seen.notes.push(format!("qemu.log is incomplete: {e}"));
        }
        let not_resumed = (self.phase == Phase::Resuming && self.seen.forced.is_none()).then(|| self.why_not_resumed());
        if self.seen.notes_of_guest > NOTES {
            self.seen.notes.push(format!("the guest had {} more notes", self.seen.notes_of_guest - NOTES));
        }
        if self.seen.stacks_cut {
            self.seen.notes.push(format!("stacks.txt has the first {} MiB of what the guest told", STACKS_BYTES >> 20));
        }
        let verdict = self.judge();
        let crashed_at_boot = self.crashed_at_boot() && matches!(verdict, Verdict::Fault { .. });
        if not_resumed.is_none() {
            self.say_farewell(&verdict);
        }
        let (oops, console_tail) = (self.console.oops().to_owned(), self.console.last_lines());
        if !oops.is_empty()
            && let Err(e) = self.dir.write_whole("oops.txt", oops.as_bytes())
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
            headline: self.console.headline().map(str::to_owned),
            asked: self.console.asked().to_owned(),
            dumped: self.seen.dump == Some(true),
            not_resumed,
            crashed_at_boot,
        }
    }

    /// Waits for the next thing to happen and deals with it.
    fn turn(&mut self) {
        let wants_write = if self.to_guest.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let wait = self.next_deadline().map(|at| at.saturating_duration_since(Instant::now()).min(LOOK));
        let timeout = wait
            .map(|wait| rustix::time::Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() });
        let ready = {
            let pidfd = self.monitor.pidfd();
            let mut fds = vec![
                PollFd::new(&pidfd, PollFlags::IN),
                PollFd::new(&self.monitor.console, PollFlags::IN),
                PollFd::new(&self.monitor.agent, PollFlags::IN | wants_write),
                PollFd::new(&self.monitor.qmp, PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN),
            ];
            fds.extend(self.clients.polled());
            let polled = poll(&mut fds, timeout.as_ref());
            // After an error nothing is known; to look everywhere blocks nowhere.
            fds.iter().map(|fd| polled.is_err() || !fd.revents().is_empty()).collect::<Vec<_>>()
        };
        let [_, console, agent, qmp, signals, bell, clients @ ..] = ready.as_slice() else {
            unreachable!("there is one answer for each descriptor")
        };
        let [console, agent, qmp, signals, bell] = [console, agent, qmp, signals, bell].map(|ready| *ready);
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
        if bell {
            self.on_events();
        }
        if signals {
            self.on_signals();
        }
        if clients.contains(&true) {
            self.serve(clients);
        }
        // By the time that was looked at: quiz may have been stopped since.
        self.on_deadlines(self.looked);
        self.write_agent();
        self.write_clients();
    }

    // ---- Time.

    /// Notices that quiz could not run, as when it was stopped or frozen, perhaps with its VM: that is not the guest's time. `wait` is how long
    /// it wanted to wait. While a host sleeps its clock stands still.
    fn look_at_the_clock(&mut self, wait: Option<Duration>) {
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.looked, now);
        let Some(away) = wait.and_then(|wait| took.checked_sub(wait + LATE)).map(|more| more + LATE) else { return };
        self.away += away;
        self.heard += away;
        let stuck = self.stuck.as_mut().map(|stuck| &mut stuck.again);
        let marks = [&mut self.heard_mark.at, &mut self.asked.at];
        let times = [self.deadline.as_mut(), self.seen.panic_at.as_mut(), stuck];
        marks.into_iter().chain(times.into_iter().flatten()).for_each(|at| *at += away);
    }

    /// When the guest's boot has taken too long.
    fn boot_deadline(&self) -> Instant {
        self.began + self.limits.boot + self.away
    }

    fn next_deadline(&self) -> Option<Instant> {
        let hang = self.hang_at();
        let may_wait = self.phase == Phase::Dumping || self.limits.debugged;
        let panic = self.seen.panic_at.map(|at| at + PANIC).filter(|_| !may_wait);
        let again = self.stuck.as_ref().map(|stuck| stuck.again);
        [self.deadline, hang, panic, again].into_iter().flatten().min()
    }

    /// When silence becomes a hang. Only where the agent is expected to speak.
    fn hang_at(&self) -> Option<Instant> {
        let speaking = matches!(self.phase, Phase::Running | Phase::Kept | Phase::Ending);
        self.limits.hang.filter(|_| speaking).map(|limit| self.heard + limit)
    }

    fn enter(&mut self, phase: Phase, limit: Option<Duration>) {
        self.phase = phase;
        self.deadline = limit.map(|limit| Instant::now() + limit);
    }

    fn on_deadlines(&mut self, now: Instant) {
        self.ask_again(now);
        let may_wait = self.phase == Phase::Dumping || self.limits.debugged;
        if self.seen.panic_at.is_some_and(|at| now >= at + PANIC) && !may_wait {
            // It said its last words and did not end by itself.
            self.end_or_dump();
        } else if self.hang_at().is_some_and(|at| now >= at) {
            let limit = self.limits.hang.unwrap_or_default();
            self.time_is_over(format!("the guest hangs: nothing was heard from it for {}", text(limit)), true);
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
            Phase::Saving(_) => {
                self.monitor.say(Verb::MigrateCancel);
                self.on_migration("cancelled");
            }
            Phase::Booting | Phase::Preparing => {
                let message = format!("the guest was not ready within {}", text(self.limits.boot));
                self.time_is_over(message, self.phase == Phase::Booting);
            }
            Phase::Running => {
                let message = format!("the program ran longer than {}", text(self.limits.program.unwrap_or_default()));
                let quiet = self.heard.elapsed();
                // A VM that could not run had nothing to say.
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
        self.seen.forced.get_or_insert(Verdict::Timeout { message });
        if silent {
            self.ask_by_nmi();
        } else {
            self.say(&ToGuest::Stacks);
            self.asked = self.mark();
            self.enter(Phase::Stacks, Some(STACKS));
        }
    }

    /// The agent has not told where everything stands. It may not have had the time.
    fn wait_or_ask_by_nmi(&mut self) {
        let mute = self.since(self.asked);
        if mute.used < STACKS && mute.waited < STACKS_AT_MOST {
            self.deadline = Some(Instant::now() + (STACKS - mute.used).min(STACKS_AT_MOST - mute.waited));
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
        self.monitor.say(Verb::InjectNmi);
        self.enter(Phase::Nmi, Some(if self.boot.is_some() { NMI } else { NMI_IN_BOOT }));
    }

    fn kill_processes(&mut self) {
        self.say(&ToGuest::Kill);
        self.enter(Phase::Killed, Some(KILLED));
    }

    /// The guest stays when its program has ended.
    fn is_kept(&self) -> bool {
        self.limits.keep.is_some()
    }

    fn end_kept(&mut self) {
        self.say(&ToGuest::End);
        self.enter(Phase::Ending, None);
    }

    fn quit(&mut self) {
        self.monitor.say(Verb::Quit);
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
            self.seen.panic_at.get_or_insert_with(Instant::now);
        }
    }
}

/// A duration as the user would have typed it.
fn text(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms if ms > 1000 => format!("{:.1} s", duration.as_secs_f64()),
        ms => format!("{ms} ms"),
    }
}
