//! Carries out a prepared run: the VM resumes from a snapshot if there is one, and boots otherwise.
//! The run ends in a record. Not for what happens while the VM runs (`quiz_vm::supervise`).

pub mod standby;
pub mod template;

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::time::{Duration, SystemTime};

use quiz_config::{DumpForm, DumpWhen, RunSpec, Verbosity};
use quiz_host::Report;
use quiz_vm::standby::Standby;
use quiz_vm::supervise::{Dump, Job, Notice, SnapshotSink};
use quiz_vm::{DumpFormat, Limits, Outcome, Run, Signals, Streams, Verdict, VmSpec, supervise};

use crate::assemble::PreparedRun;
use crate::assemble::disks::{ARTIFACTS, Moment};
use crate::consent;
use crate::context::Context;
use crate::evidence::RunDir;
use crate::evidence::history;
use crate::fault::Fault;
use crate::frontend::{Frontend, ProgramStreams};
use crate::outcome::crash;
use crate::outcome::debugger;
use crate::outcome::record::{self, Call, ProfileRecord, Record, StartedFrom};
use crate::outcome::salvage::salvage;
use crate::running::registry::{self, Registered};
use template::{Plan, Snapshot, SnapshotWriter, StartPoint};

/// Stands for no limit: longer than any run, and short enough for arithmetic.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A run with a chosen start point. Clients can find it in the registry.
pub struct PlannedRun {
    run: PreparedRun,
    start: Start,
    writer: Option<SnapshotWriter>,
    started_at: SystemTime,
    before: Option<Moment>,
    registered: Option<Registered>,
    control: Option<UnixListener>,
}

/// The start point of the next attempt.
enum Start {
    /// A standby VM, and the snapshot that it resumed from.
    Standby(Standby, Snapshot),
    /// A snapshot of a guest that is ready for a program.
    Ready(Snapshot),
    /// A snapshot of a guest that has just booted.
    Booted(Snapshot),
    /// No snapshot: the VM boots.
    Boot,
}

/// The start point that an attempt used.
enum Started {
    Standby(Snapshot),
    Ready(Snapshot),
    Booted(Snapshot),
    Boot,
}

/// The step after an attempt.
enum Next {
    /// Another attempt, from a start point that needs less.
    FallBack(Start),
    /// One more attempt from the same start point, because QEMU crashed.
    Retry(Start),
    /// No other attempt: the outcome of this one counts.
    Done(Started),
}

impl PlannedRun {
    /// Chooses the start point of `run`, and registers the run. If `resumes` is false, the VM boots
    /// and quiz takes no snapshot of it.
    pub fn new(run: PreparedRun, resumes: bool, ctx: &Context) -> Result<PlannedRun, Fault> {
        run.dir.write_command_line(&run.vm)?;
        let plan = if resumes { template::plan(&run, ctx) } else { Plan { start: StartPoint::Boot, writer: None } };
        let started_at = SystemTime::now();
        let before = run.disks.moment(run.dir.path());
        // A run works without a registry entry.
        let registered = registry::register(&run.cache, &run.entry(ctx.runs_dir()?.path(), started_at)).ok();
        let control = registered.as_ref().and_then(|_| registry::open_control(&run.cache, run.dir.id()).ok());
        if let Some(gdb) = &run.gdb {
            let kernel = &run.base.kernel;
            debugger::write_script(run.dir.held(), &crash::modules(kernel, ctx), Some(&gdb.path))?;
            let command = debugger::gdb(kernel, run.dir.path(), None);
            let command: Vec<String> =
                command.iter().flatten().map(|argument| history::quoted(&argument.to_string_lossy())).collect();
            ctx.report.say(&format!("the VM waits for gdb: {}", command.join(" ")));
        }
        let start = match plan.start {
            StartPoint::Ready(snapshot) => {
                // A standby VM has only its own disks. The fingerprint of a template covers disks
                // only by their sizes.
                let wanted = run.spec.standby && run.disks.kept.is_empty();
                match wanted.then(|| standby::take(&run.cache, &standby::name(&snapshot.name, &run.vm))).flatten() {
                    Some(vm) => Start::Standby(vm, snapshot),
                    None => Start::Ready(snapshot),
                }
            }
            StartPoint::Booted(snapshot) => Start::Booted(snapshot),
            StartPoint::Boot => Start::Boot,
        };
        if matches!(start, Start::Standby(..)) && run.spec.verbosity == Verbosity::Verbose {
            ctx.report.say("using a standby VM");
        }
        Ok(PlannedRun { run, start, writer: plan.writer, started_at, before, registered, control })
    }

    /// Runs the program in the VM. If an attempt fails before the program starts, another one
    /// follows.
    pub fn attempt(self, mut frontend: Frontend<'_>, ctx: &Context) -> Result<Attempted, Fault> {
        let PlannedRun { run, mut start, mut writer, started_at, before, registered, control } = self;
        let mut crashed: Option<String> = None;
        let (started, mut outcome) = loop {
            let (started, outcome) = attempt_once(&run, start, writer.as_mut(), control.as_ref(), &mut frontend)?;
            // QEMU's emulation has races, so one retry is useful. Streams that exist only once may
            // be used up.
            let repeatable = crashed.is_none() && matches!(frontend.streams, ProgramStreams::Renewable(_));
            match next(started, &outcome, repeatable, ctx) {
                Next::Done(started) => break (started, outcome),
                Next::FallBack(other) => start = other,
                Next::Retry(same) => {
                    crashed = Some(crash_of_qemu(&outcome.verdict));
                    start = same;
                }
            }
        };
        // Close the control socket, so that no client waits for a VM that is gone.
        drop(control);
        outcome.notes.extend(crashed.clone());
        Ok(Attempted { run, started, writer, started_at, before, outcome, crashed, _registered: registered })
    }
}

/// Makes one attempt, from `start`.
fn attempt_once(
    run: &PreparedRun,
    start: Start,
    mut writer: Option<&mut SnapshotWriter>,
    control: Option<&UnixListener>,
    frontend: &mut Frontend<'_>,
) -> Result<(Started, Outcome), Fault> {
    let (standby, started) = match start {
        Start::Standby(vm, snapshot) => (Some(vm), Started::Standby(snapshot)),
        Start::Ready(snapshot) => (None, Started::Ready(snapshot)),
        Start::Booted(snapshot) => (None, Started::Booted(snapshot)),
        Start::Boot => (None, Started::Boot),
    };
    match (&started, &standby) {
        (_, Some(standby)) => {
            standby.disks.iter().try_for_each(|(serial, disk)| run.disks.adopt(serial, disk))?;
        }
        (Started::Standby(snapshot) | Started::Ready(snapshot), None) => snapshot.fill(&run.disks)?,
        (Started::Booted(_) | Started::Boot, None) => run.disks.write_new()?,
    }
    let vm: VmSpec = match (&started, &mut writer) {
        (Started::Standby(snapshot) | Started::Ready(snapshot), _) => snapshot.template.clone_of(&run.vm),
        (Started::Booted(snapshot), Some(writer)) => writer.begin(Some(&snapshot.template))?,
        (_, Some(writer)) => writer.begin(None)?,
        (_, None) => run.vm.clone(),
    };
    let console_before = started.snapshot().map(|snapshot| snapshot.template.console());
    if let Some(console) = console_before.as_ref().filter(|_| run.spec.verbosity == Verbosity::Verbose) {
        // The guest printed this before the snapshot. It is in this run's console.log, too.
        (frontend.notices)(Notice::Console(&fs_err::read(console)?));
    }
    run.dir.write_command_line(&vm)?;
    let order = Box::new(run.order.clone());
    let (streams, front) = match &mut frontend.streams {
        ProgramStreams::Renewable(make) => (make()?, None),
        ProgramStreams::Single(streams) => (streams.take().unwrap_or_else(Streams::nowhere), None),
        ProgramStreams::Remote(socket) => (Streams::nowhere(), Some(socket.try_clone()?)),
    };
    let outcome = supervise(Run {
        vm: &vm,
        standby,
        job: match started {
            Started::Standby(_) | Started::Ready(_) => Job::Resumed(order),
            Started::Booted(_) | Started::Boot => Job::Program(Box::new(run.system.clone()), order),
        },
        snapshots: writer.map(|writer| writer as &mut dyn SnapshotSink),
        limits: limits(&run.spec),
        console_before: console_before.as_deref(),
        dir: run.dir.held(),
        streams,
        door: control.and_then(|control| control.try_clone().ok()),
        front,
        escape: run.spec.escape.0,
        signals: &mut *frontend.signals,
        show: &mut *frontend.notices,
    });
    Ok((started, outcome))
}

/// Decides what follows an attempt: a retry, a start point that needs less, or nothing.
fn next(started: Started, outcome: &Outcome, repeatable: bool, ctx: &Context) -> Next {
    match (&outcome.not_resumed, started) {
        // Only the standby VM failed: its template may still be good.
        (Some(_), Started::Standby(snapshot)) => Next::FallBack(Start::Ready(snapshot)),
        (Some(why), Started::Ready(snapshot) | Started::Booted(snapshot)) => {
            snapshot.discard(why, ctx);
            Next::FallBack(Start::Boot)
        }
        (None, started) if outcome.crashed_at_boot && repeatable => Next::Retry(match started {
            Started::Standby(snapshot) | Started::Ready(snapshot) => Start::Ready(snapshot),
            Started::Booted(snapshot) => Start::Booted(snapshot),
            Started::Boot => Start::Boot,
        }),
        (_, started) => Next::Done(started),
    }
}

impl Started {
    fn snapshot(&self) -> Option<&Snapshot> {
        match self {
            Started::Standby(snapshot) | Started::Ready(snapshot) | Started::Booted(snapshot) => Some(snapshot),
            Started::Boot => None,
        }
    }
}

/// Returns the message about a QEMU that quiz started a second time.
fn crash_of_qemu(verdict: &Verdict) -> String {
    let why = match verdict {
        Verdict::Fault { message, .. } => message.as_str(),
        _ => "",
    };
    format!("QEMU crashed while the VM booted, and the VM was booted once more: {why}")
}

fn limits(spec: &RunSpec) -> Limits {
    Limits {
        boot: spec.boot_timeout.unwrap_or(FOR_EVER),
        program: spec.timeout,
        hang: spec.hang_timeout,
        strict: spec.strict,
        keep: spec.keep,
        debugged: spec.gdb,
        dump: (spec.dump != DumpWhen::Off)
            .then_some(Dump { of_every_failure: spec.dump == DumpWhen::OnFailure, format: dump_format(spec) }),
        artifacts: ARTIFACTS,
    }
}

/// Converts the dump format of the settings to that of `quiz_vm`.
fn dump_format(spec: &RunSpec) -> DumpFormat {
    match spec.dump_format {
        DumpForm::Kdump => DumpFormat::Kdump,
        DumpForm::Elf => DumpFormat::Elf,
    }
}

/// A run whose VM has shut down. Its run directory is not complete yet.
pub struct Attempted {
    run: PreparedRun,
    started: Started,
    writer: Option<SnapshotWriter>,
    started_at: SystemTime,
    before: Option<Moment>,
    outcome: Outcome,
    crashed: Option<String>,
    _registered: Option<Registered>,
}

impl Attempted {
    /// How the VM ended.
    pub fn verdict(&self) -> &Verdict {
        &self.outcome.verdict
    }

    /// Completes the run directory: artifacts of a guest that died, lines of source, and the
    /// record. `call` tells how the user called quiz. `doing` is what the guest was doing, if that
    /// is more than the run's program.
    pub fn finish(self, call: Option<Call>, doing: Option<String>, signals: &mut dyn Signals, ctx: &Context) -> Ended {
        let Attempted { run, started, writer, started_at, before, mut outcome, crashed, _registered } = self;
        crashed.iter().for_each(|crashed| ctx.report.say(crashed));
        salvage(&run, before.as_ref(), &mut outcome, signals);
        if let Some(writer) = writer.as_ref().filter(|_| run.spec.verbosity == Verbosity::Verbose) {
            writer.failures.iter().for_each(|why| ctx.report.say(&format!("no template was made: {why}")));
        }
        let made = writer.and_then(|writer| writer.made);
        let start = match &started {
            Started::Standby(snapshot) => (StartedFrom::Standby, Some(snapshot.name.clone())),
            Started::Ready(snapshot) => (StartedFrom::Template, Some(snapshot.name.clone())),
            Started::Booted(_) => (StartedFrom::Bare, made),
            Started::Boot => (StartedFrom::Boot, made),
        };
        let crash = crash::read(&mut outcome, &run, doing, signals, ctx);
        // From here on, quiz only waits for the user's own streams, and every signal ends that
        // wait.
        let call_seal = call.as_ref().and_then(|call| consent::seal(call, ctx));
        let mut record = record(&run, start, started_at, &outcome);
        (record.call, record.call_seal) = (call, call_seal);
        let crash = crash.map(|crash| {
            record.oops = Some(crash.record);
            crash.short
        });
        let unwritten = run.dir.finish(&record.line()).err();
        let standby_follows = run.spec.standby && standby::can_follow(&record, &run);
        Ended { record, outcome, dir: run.dir, crash, standby_follows, unwritten }
    }
}

/// Returns the record of a run that has ended, without the kernel's report and the call.
fn record(
    run: &PreparedRun,
    (start, template): (StartedFrom, Option<String>),
    started_at: SystemTime,
    outcome: &Outcome,
) -> Record {
    let PreparedRun { spec, dir, vm, base, .. } = run;
    let started_at = jiff::Timestamp::try_from(started_at).map(|at| at.to_string());
    Record {
        schema: record::SCHEMA,
        id: dir.id().to_owned(),
        dir: dir.path().to_owned(),
        verdict: outcome.verdict.clone(),
        exit_code: outcome.verdict.exit_code(),
        command: spec.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        kernel: base.kernel.name().to_owned(),
        root: base.root.name().to_owned(),
        profiles: run
            .chosen
            .iter()
            .map(|one| ProfileRecord { name: one.profile.name.clone(), options: one.values.clone() })
            .collect(),
        arch: vm.arch.name.to_owned(),
        machine: vm.machine.name.to_owned(),
        accelerator: vm.accel,
        accelerator_why: run.choice.why.clone(),
        start,
        template,
        started_at: started_at.unwrap_or_default(),
        boot_ms: outcome.boot.map(ms),
        ready_ms: outcome.ready.map(ms),
        program_ms: outcome.program.map(ms),
        total_ms: ms(outcome.total),
        artifacts: outcome.artifacts.clone(),
        notes: outcome.notes.clone(),
        oops: None,
        dump: outcome.dumped.then_some(dump_format(spec)),
        call: None,
        call_seal: None,
        inputs: run.inputs.clone(),
        quiz_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A run that has ended.
pub struct Ended {
    /// Its record.
    pub record: Record,
    /// What the supervisor observed.
    pub outcome: Outcome,
    /// What happened to the guest's kernel, in a few lines.
    pub crash: Option<String>,
    /// Whether quiz may keep a standby VM for the next run like this one.
    pub standby_follows: bool,
    /// Why quiz could not write the record to the run directory.
    pub unwritten: Option<Fault>,
    /// The run directory. No process prunes it while this value lives.
    dir: RunDir,
}

impl Ended {
    /// Writes an additional file to the run directory.
    ///
    /// # Errors
    /// If quiz cannot write the file. The error names it.
    pub fn keep(&self, name: &str, mut contents: impl Read) -> Result<(), Fault> {
        let mut file: File = self.dir.held().create(name)?;
        std::io::copy(&mut contents, &mut file)
            .map(drop)
            .map_err(|e| Fault::new(format!("cannot write {name} in {}: {e}", self.dir.path().display())))
    }
}
