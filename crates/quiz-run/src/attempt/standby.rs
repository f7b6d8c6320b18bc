//! Standby VMs for the next run of the same kind, and the processes that keep them. Not for the
//! handover (`quiz_vm::standby`).
//!
//! After a run, quiz starts itself once more, with the same arguments, as a keeper. The keeper
//! finds the same template, restores it, and rehearses a run. It then waits at a socket whose name
//! is the fingerprint of the VM's inputs. If a run finds no such socket, or no process listens
//! there, the run starts from its template. Without a keeper, a run is only slower.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use quiz_config::profile::Source;
use quiz_host::lock::Lock;
use quiz_host::{Cache, digest};
use quiz_vm::control;
use quiz_vm::standby::{self, Keeper, Standby};
use quiz_vm::{Verdict, VmSpec};

use crate::assemble::PreparedRun;
use crate::attempt::template;
use crate::context::Context;
use crate::evidence::{self, RunDir, RunsDir};
use crate::fault::Fault;
use crate::outcome::record::{Call, Record};
use crate::running::registry::{self, Running};
use crate::spawn;

/// The cache's directory of standby VMs.
const DIR: &str = "standby";
/// How many keepers may wait at the same time.
const KEPT: usize = 2;
/// How long a keeper waits.
const IDLE: Duration = Duration::from_secs(120);

/// Returns the name of the standby VM of `template` with the shares of `vm`.
pub fn name(template: &str, vm: &VmSpec) -> String {
    let mut text = template.as_bytes().to_vec();
    for share in &vm.shares {
        let host = share.host.as_os_str().as_bytes();
        text.extend_from_slice(format!("\n{} {} {} ", share.tag, share.writable, host.len()).as_bytes());
        text.extend_from_slice(host);
    }
    digest::of_bytes(&text)[..20].to_owned()
}

/// Returns the directory of the sockets. Only this user may enter it: a process that connects gets
/// the VM with everything in it.
fn dir(cache: &Cache) -> PathBuf {
    cache.dir().join(DIR)
}

/// Takes the standby VM `name`, if there is one.
pub fn take(cache: &Cache, name: &str) -> Option<Standby> {
    let place = dir(cache);
    match connect(&place, name) {
        // If the handover fails, the run starts without a standby VM.
        Ok(keeper) => standby::take(keeper).ok(),
        Err(e) => {
            if e.kind() == ErrorKind::ConnectionRefused {
                // Its keeper was killed.
                fs::remove_file(place.join(socket_name(name))).ok();
            }
            None
        }
    }
}

/// Whether quiz may keep a standby VM for the next run like `run`, whose record is `record`.
pub fn can_follow(record: &Record, run: &PreparedRun) -> bool {
    let ended = matches!(record.verdict, Verdict::Exited { .. } | Verdict::Signalled { .. });
    // A profile's `setup` acts on the host for a run. Without a run, only a built-in one may act.
    let pure = run.chosen.iter().all(|one| one.profile.setup().is_none() || one.profile.source == Source::BuiltIn);
    ended && record.template.is_some() && pure && is_general(run)
}

/// Whether quiz could undo everything that is particular to the run.
fn is_general(run: &PreparedRun) -> bool {
    run.disks.kept.is_empty() && run.order.personal.inits.programs.is_empty()
}

/// Starts a keeper for the next run that is called like this one. It gets the arguments of `call`.
/// Those of this process may belong to another command, and would repeat its work.
pub fn leave_one(call: &Call, ctx: &Context) {
    let Some(program) = &ctx.program else { return };
    let mut command = Command::new(program);
    command.arg("--hold-standby").arg(&call.directory).args(&call.words);
    for (name, _) in ctx.variables.iter().filter(|(name, _)| Call::is_setting(name)) {
        command.env_remove(name);
    }
    command.envs(&call.variables);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // If the host cannot start another process, there is no standby VM.
    spawn::in_own_session(&mut command).ok();
}

/// Makes the directory of standby VMs. Only this user may enter it: a process that connects to a VM
/// is root in it.
fn make_place(cache: &Cache) -> Result<PathBuf, Fault> {
    let place = dir(cache);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&place)?;
    Ok(place)
}

/// Makes the directory in which a keeper assembles the run.
pub fn keepers_dir(ctx: &Context) -> Result<RunDir, Fault> {
    let cache = ctx.cache()?;
    make_place(&cache)?;
    let standby = RunsDir::below(cache.dir(), &[DIR]);
    // Killed keepers leave directories there.
    evidence::sweep_all(&standby);
    RunDir::create(&standby)
}

/// Keeps a standby VM for the next run like `run`, until a run takes it or it times out.
pub fn keep(run: &PreparedRun, ctx: &Context) -> Result<(), Fault> {
    let place = make_place(&run.cache)?;
    let Some(snapshot) = template::existing(run, ctx)? else { return Ok(()) };
    if !is_general(run) {
        return Ok(());
    }
    let name = name(&snapshot.name, &run.vm);
    let lock_file = place.join(format!("{name}.lock"));
    let mut lock = Lock::attempt(&lock_file, "keeping a VM for the next run")?;
    if lock.is_none() {
        return Ok(());
    }
    snapshot.fill(&run.disks)?;
    let log = tempfile::tempfile_in(&place)?;
    let disks: Vec<_> = run.disks.thrown_away().collect();
    let vm = snapshot.template.clone_of(&run.vm);
    let keeper = Keeper { vm: &vm, order: run.order.clone(), log: &log, disks: &disks, idle: IDLE };
    let socket = place.join(socket_name(&name));
    let shown = Running {
        waits: true,
        socket: (DIR.to_owned(), socket_name(&name)),
        ..run.entry(ctx.runs_dir()?.path(), SystemTime::now())
    };
    let seen = RefCell::new(None);
    let kept = keeper.keep(
        || {
            make_room(&place);
            fs::remove_file(&socket).ok();
            // A standby VM works without a registry entry.
            *seen.borrow_mut() = registry::register(&run.cache, &shown).ok();
            control::bind(&place, &socket_name(&name))
        },
        || {
            seen.take();
            fs::remove_file(&socket).ok();
            // Another process may have the file open and wait for its lock. Then there are two
            // keepers, and runs find one of them.
            fs::remove_file(&lock_file).ok();
            drop(lock.take());
        },
    );
    if lock.is_some() {
        fs::remove_file(&socket).ok();
        fs::remove_file(&lock_file).ok();
    }
    drop(snapshot);
    // A process that dismissed this keeper sees the connection close, after the template is free.
    kept.map(drop)?;
    Ok(())
}

/// Dismisses the keepers that have waited longest, so that there is room for one more.
fn make_room(place: &Path) {
    let mut waiting: Vec<(SystemTime, String)> = Vec::new();
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(SOCKET)).map(str::to_owned)
        else {
            continue;
        };
        let made = entry.metadata().and_then(|meta| meta.modified());
        waiting.push((made.unwrap_or(SystemTime::UNIX_EPOCH), name));
    }
    waiting.sort();
    let surplus = (waiting.len() + 1).saturating_sub(KEPT);
    waiting.iter().take(surplus).for_each(|(_, name)| dismiss(place, name));
}

/// Dismisses every keeper.
pub fn dismiss_all(cache: &Cache) {
    let place = dir(cache);
    for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(SOCKET)) {
            dismiss(&place, name);
        }
    }
}

fn dismiss(place: &Path, name: &str) {
    // A socket that no process listens on is only a file.
    if connect(place, name).and_then(standby::dismiss).is_err() {
        fs::remove_file(place.join(socket_name(name))).ok();
    }
}

const SOCKET: &str = ".sock";

fn socket_name(name: &str) -> String {
    format!("{name}{SOCKET}")
}

fn connect(place: &Path, name: &str) -> std::io::Result<UnixStream> {
    control::connect(place, &socket_name(name))
}
