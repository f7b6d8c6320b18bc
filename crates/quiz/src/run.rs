//! The run of a VM, from its `RunSpec` to the exit code. What each step needs is in a module of its own; here is their
//! order.

pub mod agents;
mod announce;
pub mod crash;
pub mod debugger;
mod evidence;
pub mod history;
pub mod keep;
mod layers;
mod machine;
pub mod monitor;
mod order;
mod record;
pub mod registry;
pub mod rootvm;
mod scratch;
mod setup;
pub mod standby;
pub mod symbols;
mod terminal;
pub mod warm;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, SystemTime};

use quiz_arch::Arch;
use quiz_config::{AccelChoice, Chosen, DumpForm, DumpWhen, RunSpec, ShareSpec, Verbosity, WorktreeMode};
use quiz_host::tools::boot_id;
use quiz_host::{Cache, Report};
use quiz_image::initramfs;
use quiz_image::root::Root;
use quiz_kernel::Kernel;
use quiz_vm::accel::{AccelError, Choice, Host, Wish};
use quiz_vm::artifacts;
use quiz_vm::proto::Order;
use quiz_vm::supervise::{Dump, DumpFormat, Job, Notice, Saver};
use quiz_vm::unpack::Bounds;
use quiz_vm::{Accel, Disk, DiskFormat, Limits, Outcome, Run, Streams, Verdict, VmSpec, supervise};

use crate::consent;
use crate::context::Context;
use crate::errors::Fault;
use crate::output::Records;
use crate::prepare::{self, Prepared};
use crate::profiles;
use crate::standard::{self, Line};
use announce::Announcer;
use evidence::RunDir;
pub use evidence::RunsDir;
pub use order::SHELL;
pub use record::{Call, Record};
use registry::Running;
use scratch::Scratch;
pub use terminal::Terminal;
use warm::{Ingredients, Plan, Start};

/// A bound where the user has set none: longer than any run, short enough for arithmetic.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How much may come back from a run: what fits on its disk for artifacts.
const ARTIFACTS: Bounds = Bounds { bytes: scratch::OUT_BYTES, entries: 1_000_000 };

/// Runs what `spec` asks for, in the user's foreground; `call` says how to do it again.
pub fn run(spec: &RunSpec, call: Option<Call>, ctx: &Context) -> Result<Record, Fault> {
    standard::require_output()?;
    let records = spec.json.as_ref().map(Records::open).transpose()?;
    let mut ended = prepare_and_run(spec, Viewer::User, call, ctx)?;
    ended.announce(spec.verbosity)?;
    if let Some(records) = records {
        records.write(&ended.record.line(), ended.line.is_open())?;
    }
    if let Some(call) = ended.record.call.as_ref().filter(|_| ended.next) {
        standby::leave_one(call);
    }
    prune(spec, ctx)?;
    Ok(ended.record)
}

/// Who has a program run for them: its output is theirs, and it gets no input and no terminal.
pub struct Watch<'a> {
    /// The program's standard output.
    pub output: Box<dyn Write + Send>,
    /// The program's standard error.
    pub errors: Box<dyn Write + Send>,
    /// Hears what happens, in the user's place. It must not wait for anyone.
    pub hear: &'a mut dyn FnMut(Notice),
    /// Tells what the program is doing, for a guest that dies of it.
    pub doing: &'a dyn Fn() -> Option<String>,
}

/// Who the program is run for.
enum Viewer<'a> {
    /// The user, on this process's own streams.
    User,
    /// Somebody else in this process.
    Watch(Watch<'a>),
    /// Another quiz, on whose terminal it is, at the other end.
    Another(Terminal, UnixStream),
}

/// A run that is over.
pub struct Ended {
    /// Its record.
    pub record: Record,
    outcome: Outcome,
    /// Its directory, which nobody prunes as long as this value lives.
    dir: Option<RunDir>,
    /// What happened to the guest's kernel, in short.
    crash: Option<String>,
    /// A VM may wait for the next run like it.
    next: bool,
    /// The last line of the program's output.
    line: Line,
    /// Why its record is not in its directory.
    unwritten: Option<Fault>,
}

impl Ended {
    /// Writes a file of evidence that the run itself has not left.
    pub fn keep(&self, name: &str, mut contents: impl std::io::Read) -> Result<(), Fault> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let mut file = dir.held().create(name)?;
        std::io::copy(&mut contents, &mut file)
            .map(drop)
            .map_err(|e| Fault::new(format!("cannot write {name} in {}: {e}", dir.path().display())))
    }

    /// Tells the user how, if it was not just the program that exited.
    ///
    /// # Errors
    /// If the record could not be written.
    pub fn announce(&mut self, verbosity: Verbosity) -> Result<(), Fault> {
        announce::verdict(&self.outcome, self.crash.as_deref(), &self.record, verbosity);
        self.unwritten.take().map_or(Ok(()), Err)
    }
}

/// Runs what `spec` asks for, for `watch`. Old evidence is still there (see [`prune`]).
pub fn watched(spec: &RunSpec, watch: Watch, ctx: &Context) -> Result<Ended, Fault> {
    prepare_and_run(spec, Viewer::Watch(watch), None, ctx)
}

/// Starts quiz once more as a keeper, in a session of its own: what ends this one's is not meant for it.
fn start_keeper(command: &mut Command) -> std::io::Result<Child> {
    // SAFETY: setsid is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
    command.spawn()
}

/// Where the evidence of a run of `spec` is kept: not where its guest may write.
fn runs_dir(spec: &RunSpec, ctx: &Context) -> Result<RunsDir, Fault> {
    let usual = ctx.runs_dir()?;
    let path = usual.path();
    let reaches = |share: &ShareSpec| {
        let host = fs_err::canonicalize(&share.host).unwrap_or_else(|_| share.host.clone());
        share.writable && (path.starts_with(&host) || host.starts_with(&path))
    };
    let whole_worktree = spec.worktree.is_some() && spec.worktree_mode == WorktreeMode::ReadWrite;
    if whole_worktree || spec.shares.iter().any(reaches) {
        return Ok(ctx.runs_dir_apart()?.unwrap_or(usual));
    }
    Ok(usual)
}

/// Removes the evidence of old runs, as far as `spec` says.
pub fn prune(spec: &RunSpec, ctx: &Context) -> Result<(), Fault> {
    for runs in ctx.runs_dirs()? {
        evidence::prune(&runs, spec.keep_runs, spec.keep_days);
    }
    Ok(())
}

fn prepare_and_run(spec: &RunSpec, viewer: Viewer, call: Option<Call>, ctx: &Context) -> Result<Ended, Fault> {
    let terminal = match &viewer {
        Viewer::User => Terminal::of_this_process(),
        Viewer::Watch(_) => Terminal::none(),
        Viewer::Another(terminal, _) => *terminal,
    };
    let dir = RunDir::create(&runs_dir(spec, ctx)?)?;
    let ended = equip(spec, &dir, &terminal, ctx, |equipment| run_with(equipment, &dir, &terminal, viewer, call, ctx))?;
    Ok(Ended { dir: Some(dir), ..ended })
}

fn run_with(
    equipment: Equipment<'_>,
    dir: &RunDir,
    terminal: &Terminal,
    viewer: Viewer,
    call: Option<Call>,
    ctx: &Context,
) -> Result<Ended, Fault> {
    let Equipment { chosen, kernel, root, choice, vm, order, ingredients, cache, inputs, stub } = equipment;
    let Ingredients { spec, system, scratch, .. } = ingredients;
    dir.write_command_line(vm)?;
    // What somebody watches takes long in any case, and their ends of the streams are there once.
    let Plan { mut start, mut camera } = match viewer {
        Viewer::Watch(_) => Plan { start: Start::Boot, camera: None },
        _ => warm::plan(ingredients, cache, ctx),
    };
    let started_at = SystemTime::now();
    let moment = scratch.moment(dir.path());
    // Whoever cannot be seen from outside runs all the same.
    let seen = registry::register(cache, &running(spec, vm, kernel, dir, &ctx.runs_dir()?.path(), started_at)).ok();
    let door = seen.as_ref().and_then(|_| registry::open_door(cache, dir.id()).ok());
    let mut signals = terminal.signals()?;
    if let Some(stub) = &stub {
        debugger::write_script(dir.held(), &crash::modules(kernel, ctx), Some(stub))?;
        let words = debugger::gdb(kernel, dir.path(), None);
        let words: Vec<String> = words.iter().flatten().map(|word| history::quoted(&word.to_string_lossy())).collect();
        ctx.report.say(&format!("the VM waits for gdb: {}", words.join(" ")));
    }
    let announcer = Announcer::start(spec.verbosity, terminal.is_raw())
        .map_err(|e| Fault::new(format!("cannot start a thread for quiz's own messages: {e}")))?;
    let (mut watched, mut hear, mut doing, mut front) = (None, None, None, None);
    match viewer {
        Viewer::User => {}
        Viewer::Watch(Watch { output, errors, hear: heard, doing: of }) => {
            watched = Some(Streams { input: terminal.input(), output, errors });
            (hear, doing) = (Some(heard), Some(of));
        }
        Viewer::Another(_, other) => front = Some(other),
    }
    let mut waiting = match &start {
        // One that waits has no disks but its own, while a template knows them by their sizes only.
        Start::Template(from) if spec.standby && scratch.kept.is_empty() => {
            standby::take(cache, &standby::name(&from.name, vm))
        }
        _ => None,
    };
    let line = Line::default();
    let mut had_waited = waiting.is_some();
    let mut crashed = None;
    if had_waited && spec.verbosity == Verbosity::Verbose {
        ctx.report.say("a VM of it was waiting");
    }
    let mut outcome = {
        terminal.tell_escape(spec.escape, ctx);
        let _raw = terminal.raw()?;
        loop {
            let job = match start {
                Start::Template(_) => Job::Resumed(Box::new(order.clone())),
                _ => Job::Program(Box::new(system.clone()), Box::new(order.clone())),
            };
            let before = match &start {
                Start::Template(from) | Start::Bare(from) => Some(from.template.console()),
                Start::Boot => None,
            };
            let vm = match (&start, &mut camera) {
                (Start::Template(from), _) => {
                    match &waiting {
                        Some(waiting) => {
                            waiting.disks.iter().try_for_each(|(serial, disk)| scratch.adopt(serial, disk))?
                        }
                        None => from.fill(scratch)?,
                    }
                    from.template.clone_of(vm)
                }
                (Start::Bare(from), Some(camera)) => {
                    scratch.write_new()?;
                    camera.film(Some(&from.template))?
                }
                (_, Some(camera)) => {
                    scratch.write_new()?;
                    camera.film(None)?
                }
                (_, None) => {
                    scratch.write_new()?;
                    vm.clone()
                }
            };
            if let Some(console) = before.as_ref().filter(|_| spec.verbosity == Verbosity::Verbose) {
                // What is in this run's console.log, too: the guest has said it, only not just now.
                announcer.show(Notice::Console(&fs_err::read(console)?));
            }
            dir.write_command_line(&vm)?;
            let waited = waiting.is_some();
            let outcome = supervise(Run {
                vm: &vm,
                standby: waiting.take(),
                job,
                saver: camera.as_mut().map(|camera| camera as &mut dyn Saver),
                limits: limits(spec),
                console_before: before.as_deref(),
                dir: dir.held(),
                streams: match (watched.take(), &front) {
                    (Some(streams), _) => streams,
                    (None, Some(_)) => Streams::nowhere(),
                    (None, None) => terminal.streams(&line)?,
                },
                door: door.as_ref().and_then(|door| door.try_clone().ok()),
                front: front.as_ref().map(UnixStream::try_clone).transpose()?,
                escape: spec.escape.0,
                signals: &mut signals,
                show: &mut |notice| match &mut hear {
                    Some(hear) => hear(notice),
                    None => announcer.show(notice),
                },
            });
            match (&outcome.not_resumed, start) {
                // The template may be as good as ever.
                (Some(_), begun) if waited => {
                    (start, had_waited) = (begun, false);
                    scratch.write_new()?;
                }
                (Some(why), Start::Template(from) | Start::Bare(from)) => {
                    from.drop_it(why, ctx);
                    start = Start::Boot;
                }
                // QEMU's emulation has races. Who only looks on has been given the streams already.
                (None, begun) if outcome.crashed_at_boot && crashed.is_none() && hear.is_none() && front.is_none() => {
                    crashed = Some(crash_of_qemu(&outcome.verdict));
                    start = begun;
                }
                (_, begun) => {
                    start = begun;
                    break outcome;
                }
            }
        }
    };
    // Nobody is to wait for what will not be there.
    drop(door);
    announcer.finish(matches!(outcome.verdict, Verdict::Panic { .. } | Verdict::Timeout { .. }));
    if let Some(crashed) = crashed {
        ctx.report.say(&crashed);
        outcome.notes.push(crashed);
    }
    salvage(&mut outcome, moment.as_ref(), vm, scratch, dir, &mut signals);
    if let Some(camera) = camera.as_ref().filter(|_| spec.verbosity == Verbosity::Verbose) {
        camera.failures.iter().for_each(|why| ctx.report.say(&format!("no template was made: {why}")));
    }
    let made = camera.and_then(|camera| camera.made);
    let how = match &start {
        Start::Template(from) => (if had_waited { "standby" } else { "template" }, Some(from.name.clone())),
        Start::Bare(_) => ("bare", made),
        Start::Boot => ("boot", made),
    };
    let crash = crash::read(&mut outcome, spec, kernel, doing.and_then(|doing| doing()), dir.held(), &mut signals, ctx);
    // From here on nothing waits for anything but the user's own streams, and every signal ends that.
    let mut record =
        Record::new(dir, spec, chosen, vm, kernel, root, choice, how, (call, inputs), started_at, &outcome);
    let crash = crash.map(|crash| {
        record.oops = Some(crash.record);
        crash.short
    });
    record.call_seal = record.call.as_ref().and_then(|call| consent::seal(call, ctx));
    let unwritten = dir.finish(&record).err();
    let next = spec.standby && standby::can_follow(&record, &order, scratch, chosen);
    Ok(Ended { record, outcome, dir: None, crash, next, line, unwritten })
}

/// What is said of a QEMU that was started a second time.
fn crash_of_qemu(verdict: &Verdict) -> String {
    let why = match verdict {
        Verdict::Fault { message, .. } => message.as_str(),
        _ => "",
    };
    format!("QEMU crashed while the VM booted, and the VM was booted once more: {why}")
}

/// All that a run is made of.
pub struct Equipment<'a> {
    pub chosen: &'a [Chosen],
    pub kernel: &'a Kernel,
    pub root: &'a Root,
    pub choice: &'a Choice,
    pub vm: &'a VmSpec,
    pub order: Order,
    pub ingredients: Ingredients<'a>,
    pub cache: &'a Cache,
    /// By what the inputs can be told from others.
    pub inputs: BTreeMap<String, String>,
    /// The socket where the VM waits for gdb.
    pub stub: Option<PathBuf>,
}

/// Finds and makes what the run that `spec` asks for needs, whose directory is `dir`, and does `work` with it.
pub fn equip<R>(
    spec: &RunSpec,
    dir: &RunDir,
    terminal: &Terminal,
    ctx: &Context,
    work: impl FnOnce(Equipment<'_>) -> Result<R, Fault>,
) -> Result<R, Fault> {
    let chosen = profiles::choose(&spec.profiles, &spec.profile_options, ctx)?;
    let prepared = prepare::kernel_and_root(spec, &chosen, ctx)?;
    equip_with(spec, &chosen, prepared, dir, terminal, ctx, work)
}

/// The same with a kernel and a root that were found or made before.
fn equip_with<R>(
    spec: &RunSpec,
    chosen: &[Chosen],
    Prepared { kernel, root }: Prepared,
    dir: &RunDir,
    terminal: &Terminal,
    ctx: &Context,
    work: impl FnOnce(Equipment<'_>) -> Result<R, Fault>,
) -> Result<R, Fault> {
    let arch = crate::commands::arch(Some(&spec.arch))?;
    let own = tempfile::Builder::new()
        .prefix("setup-")
        .tempdir_in(dir.path())
        .map_err(|e| Fault::new(format!("cannot make a directory for the profiles: {e}")))?;
    let asked = setup::run(chosen, &kernel, own.path(), ctx)?;

    // Nobody else may connect, and QEMU takes a path of a bounded length only.
    let private = spec.gdb.then(|| tempfile::Builder::new().prefix("quiz-gdb-").tempdir()).transpose()?;
    let stub = private.as_ref().map(|dir| dir.path().join("stub"));
    let stub_words = stub.iter().flat_map(|stub| {
        let mut socket = OsString::from("unix:");
        socket.push(quiz_vm::qemu::escaped(stub));
        socket.push(",server=on,wait=off");
        ["-S".into(), "-gdb".into(), socket]
    });
    let stub_words: Vec<OsString> = stub_words.collect();

    let cache = ctx.cache()?;
    let agent = agents::of(arch)?;
    let mut host = host(ctx)?;
    let facts = machine::KernelFacts::of(&kernel)?;
    let mut scratch = Scratch::create(spec, &asked.disks, dir.path(), &cache, facts.ext4, ctx)?;
    let layers = layers::make(chosen, &asked, &kernel, &cache, &ctx.report)?;
    let (modules, module_words) = layers::modules(&asked, &kernel)?;
    let mut disks = vec![Disk {
        serial: order::ROOT.to_owned(),
        file: root.image(),
        format: DiskFormat::Raw,
        read_only: true,
        sector: None,
    }];
    disks.extend(layers.iter().enumerate().map(|(i, layer)| layers::disk(i, layer)));
    disks.append(&mut scratch.disks);
    let shares = order::shares(spec, &asked.shares)?;
    let devices = VmSpec::devices(disks.len(), shares.len(), asked.net.is_some());
    let qemu = monitor::Asked::of(spec, arch, &mut host, ctx);
    let machine_for = |accel, host: &mut Host| -> Result<_, Fault> {
        let tsc = if accel == Accel::Tcg { host.tsc_khz() } else { None };
        let needs = machine::Needs { devices, dump: spec.dump != DumpWhen::Off };
        let machine = machine::choose(arch, accel, spec.machine.as_deref(), &facts, tsc, needs, &qemu)?;
        qemu.require(machine, shares.len(), asked.net.is_some())?;
        Ok((machine, tsc))
    };
    let known = host.known(wish(spec.accel), arch, &qemu.program).map_err(refused)?;
    let vm_for = |accel: Accel, host: &mut Host| -> Result<(VmSpec, initramfs::Initramfs), Fault> {
        let (machine, tsc_khz) = machine_for(accel, host)?;
        let modules = facts.modules(machine.transport, &root.manifest.format);
        let initramfs = initramfs::make(&cache, &kernel, agent, &modules, &ctx.report)?;
        let mut append = [&module_words[..], &asked.append, &spec.append].concat();
        if !spec.panic_on_oops {
            append.insert(0, "oops=continue".to_owned());
        }
        if spec.gdb {
            // Symbols are where vmlinux says.
            append.insert(0, "nokaslr".to_owned());
        }
        let vm = VmSpec {
            qemu: qemu.program.clone(),
            arch,
            machine,
            accel,
            tsc_khz: tsc_khz.filter(|_| facts.knows_tsc_khz),
            hz: facts.hz,
            fine_timers: spec.fine_timers,
            version: qemu.has.version,
            vmcoreinfo: qemu.has.has_type(quiz_vm::qemu::VMCOREINFO),
            sandbox: qemu.has.has_type(quiz_vm::qemu::SANDBOX),
            special_files: spec.special_files,
            memory_mib: spec.memory_mib,
            ram: None,
            incoming: None,
            cpus: spec.cpus,
            kernel: kernel.boot(),
            initramfs: initramfs.path.clone(),
            append,
            disks: disks.clone(),
            shares: shares.iter().map(|share| share.offered.clone()).collect(),
            net: asked.net.clone(),
            extra: [&asked.qemu_args[..], &spec.qemu_args, &stub_words].concat(),
        };
        Ok((vm, initramfs))
    };
    let choice = match known {
        Some(choice) => choice,
        None => {
            let (trial, _initramfs) = vm_for(Accel::Kvm, &mut host)?;
            host.try_kvm(&trial, dir.path())
        }
    };
    tell_accelerator(&choice, ctx);
    host.told(&choice);
    let (vm, initramfs) = vm_for(choice.accel, &mut host)?;

    let serials = (0..layers.len()).map(|i| layers::disk(i, &layers[i]).serial).collect();
    let parts = order::Parts { root: &root, layers: serials, modules, scratch: &scratch, chosen, asked: &asked };
    let system = order::system(&parts);
    let order = order::order(spec, ctx, &parts, &shares, terminal)?;
    let contents = |path: &Path| {
        let of_layer = || layers.iter().find(|layer| layer.image == path).map(|layer| layer.name.clone());
        match path {
            path if path == kernel.boot() => Some(kernel.identity()),
            path if path == root.image() => Some(root.identity()),
            path if path == initramfs.path => Some(initramfs.entry.name().to_owned()),
            _ => of_layer(),
        }
    };
    let boot_id = boot_id()?;
    let ingredients = Ingredients {
        spec,
        vm: &vm,
        system: &system,
        scratch: &scratch,
        contents: &contents,
        qemu: &qemu,
        boot_id: &boot_id,
        evidence: dir.path(),
    };
    let mut inputs = BTreeMap::from([
        ("kernel".to_owned(), kernel.identity()),
        ("root".to_owned(), root.identity()),
        (
            "qemu".to_owned(),
            qemu.program.display().to_string() + &qemu.has.version.map(version_text).unwrap_or_default(),
        ),
    ]);
    for layer in &layers {
        let label = layer.name.rsplit_once('-').map_or(layer.name.as_str(), |(label, _)| label);
        inputs.insert(format!("layer {label}"), layer.key.clone());
    }
    work(Equipment {
        chosen,
        kernel: &kernel,
        root: &root,
        choice: &choice,
        vm: &vm,
        order,
        ingredients,
        cache: &cache,
        inputs,
        stub,
    })
}

/// What others may know of a run while it goes on.
fn running(spec: &RunSpec, vm: &VmSpec, kernel: &Kernel, dir: &RunDir, runs: &Path, started_at: SystemTime) -> Running {
    Running {
        id: dir.id().to_owned(),
        pid: rustix::process::getpid().as_raw_nonzero().get(),
        socket: registry::socket_of(dir.id()),
        dir: dir.path().to_owned(),
        runs: runs.to_owned(),
        started_at: jiff::Timestamp::try_from(started_at).map(|at| at.to_string()).unwrap_or_default(),
        command: spec.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        waits: false,
        kernel: kernel.name().to_owned(),
        memory_mib: vm.memory_mib,
        arch: vm.arch.name.to_owned(),
        profiles: spec.profiles.clone(),
    }
}

fn version_text((major, minor): (u32, u32)) -> String {
    format!(" {major}.{minor}")
}

/// What is known of this host.
fn host(ctx: &Context) -> Result<Host, Fault> {
    Ok(Host::open(ctx.cache()?.dir().join("facts.json"), &boot_id()?))
}

fn wish(choice: AccelChoice) -> Wish {
    match choice {
        AccelChoice::Auto => Wish::Auto,
        AccelChoice::Kvm => Wish::Kvm,
        AccelChoice::Tcg => Wish::Tcg,
    }
}

fn refused(error: AccelError) -> Fault {
    let hint = error.hint();
    Fault::from(error).hint(hint)
}

/// The accelerator of a run of `spec` as far as it is known without trying, and why; for `quiz doctor`.
///
/// # Errors
/// If there is no cache, or the one that was asked for cannot be used.
pub fn accelerator(choice: AccelChoice, arch: &'static Arch, ctx: &Context) -> Result<Option<Choice>, Fault> {
    let mut host = host(ctx)?;
    let program = prepare::search(ctx).program(arch.qemu).or_else(|| monitor::beside_path(arch));
    let program = program.unwrap_or_else(|| arch.qemu.into());
    host.known(wish(choice), arch, &program).map_err(refused)
}

fn tell_accelerator(choice: &Choice, ctx: &Context) {
    if choice.new && choice.accel == Accel::Tcg {
        ctx.report
            .say(&format!("{}; using QEMU's own translation (TCG), remembered until the host's next boot", choice.why));
    } else if ctx.verbosity >= Verbosity::Verbose {
        ctx.report.say(&format!("accelerator {}: {}", choice.accel.name(), choice.why));
    }
}

fn limits(spec: &RunSpec) -> Limits {
    Limits {
        boot: spec.boot_timeout.unwrap_or(FOR_EVER),
        program: spec.timeout,
        hang: spec.hang_timeout,
        strict: spec.strict,
        keep: spec.keep,
        debugged: spec.gdb,
        dump: (spec.dump != DumpWhen::Off).then_some(Dump {
            of_every_failure: spec.dump == DumpWhen::OnFailure,
            format: match spec.dump_format {
                DumpForm::Kdump => DumpFormat::Kdump,
                DumpForm::Elf => DumpFormat::Elf,
            },
        }),
        artifacts: ARTIFACTS,
    }
}

/// A guest that died took its artifacts with it, but for what it had synced to its disk. Another guest reads that disk, so that
/// no file system made by a broken kernel is ever parsed on the host.
fn salvage(
    outcome: &mut Outcome,
    moment: Option<&scratch::Moment>,
    vm: &VmSpec,
    scratch: &Scratch,
    dir: &RunDir,
    signals: &mut terminal::UserSignals,
) {
    let died = matches!(outcome.verdict, Verdict::Panic { .. } | Verdict::Lost { .. } | Verdict::Timeout { .. });
    let Some(ready) = outcome.ready.filter(|_| died && outcome.artifacts.files == 0) else { return };
    let Some(out) = moment.and_then(|moment| scratch.written_since(moment, ready)) else { return };
    let mut second = VmSpec {
        disks: vec![out.clone()],
        shares: Vec::new(),
        net: None,
        ram: None,
        incoming: None,
        extra: Vec::new(),
        ..vm.clone()
    };
    second.memory_mib = second.memory_mib.min(512);
    const PLACE: &str = "salvage";
    let result = dir.held().make_new_below(PLACE).map(|place| {
        let found = supervise(Run {
            vm: &second,
            standby: None,
            job: Job::Salvage { out_serial: out.serial.clone() },
            saver: None,
            console_before: None,
            limits: Limits {
                boot: Duration::from_secs(60),
                program: None,
                hang: Some(Duration::from_secs(30)),
                strict: false,
                keep: None,
                debugged: false,
                dump: None,
                artifacts: ARTIFACTS,
            },
            dir: &place,
            streams: Streams::nowhere(),
            door: None,
            front: None,
            escape: None,
            signals,
            show: &mut |_| {},
        });
        (place, found)
    });
    match result {
        Ok((place, found)) if found.verdict == (Verdict::Exited { code: 0 }) => {
            if found.artifacts.files > 0
                && let Err(e) = place.move_dir(artifacts::DIR, dir.held())
            {
                outcome.notes.push(format!("the artifacts stay in salvage/: {e}"));
                return;
            }
            outcome.artifacts = found.artifacts;
            dir.held().remove_dir_all(PLACE).ok();
        }
        Ok((_, found)) => {
            outcome.notes.push(format!("what was synced to /quiz/out could not be read: {:?}", found.verdict))
        }
        Err(e) => outcome.notes.push(format!("what was synced to /quiz/out could not be read: {e}")),
    }
}
