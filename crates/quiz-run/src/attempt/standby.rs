//! A VM that waits for the next run of the same kind, and the process that keeps it. Not for how it
//! is handed over (`quiz_vm::standby`).
//!
//! Whoever has just run something starts quiz once more, with the same words, as a keeper. That
//! finds the same template, restores it, rehearses a run, and waits at a socket that is named for
//! all that the VM is made of. A run that finds no such socket, or nobody behind it, starts from
//! its template: nothing but time depends on a keeper.

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

/// The cache's directory for them.
const DIR: &str = "standby";
/// How many may wait at the same time.
const KEPT: usize = 2;
/// How long one waits.
const IDLE: Duration = Duration::from_secs(120);

/// The name of the standby VM of `template` with the shares of `vm`.
pub fn name(template: &str, vm: &VmSpec) -> String {
    let mut text = template.as_bytes().to_vec();
    for share in &vm.shares {
        let host = share.host.as_os_str().as_bytes();
        text.extend_from_slice(format!("\n{} {} {} ", share.tag, share.writable, host.len()).as_bytes());
        text.extend_from_slice(host);
    }
    digest::of_bytes(&text)[..20].to_owned()
}

/// Where the sockets are. Others may not even look: whoever connects gets a VM with everything that
/// is in it.
fn dir(cache: &Cache) -> PathBuf {
    cache.dir().join(DIR)
}

/// The VM of that name, if one waits.
pub fn take(cache: &Cache, name: &str) -> Option<Standby> {
    let place = dir(cache);
    match connect(&place, name) {
        // Whatever is wrong with it, the run starts without.
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

/// Whether a standby VM may be kept for the next run like `run`, whose record is given.
pub fn can_follow(record: &Record, run: &PreparedRun) -> bool {
    let ended = matches!(record.verdict, Verdict::Exited { .. } | Verdict::Signalled { .. });
    // What a profile's program does on the host for one run must not be done for none.
    let pure = run.chosen.iter().all(|one| one.profile.setup().is_none() || one.profile.source == Source::BuiltIn);
    ended && record.template.is_some() && pure && is_general(run)
}

/// Nothing in the run is its own that could not be undone.
fn is_general(run: &PreparedRun) -> bool {
    run.disks.kept.is_empty() && run.order.personal.inits.programs.is_empty()
}

/// Starts a keeper for the next run that is called like this one. The words of this process may be
/// another verb's, which would do its work once more.
pub fn leave_one(call: &Call, ctx: &Context) {
    let Some(program) = &ctx.program else { return };
    let mut command = Command::new(program);
    command.arg("--hold-standby").arg(&call.directory).args(&call.words);
    for (name, _) in ctx.variables.iter().filter(|(name, _)| Call::is_setting(name)) {
        command.env_remove(name);
    }
    command.envs(&call.variables);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A host that has no process left has none to spare either.
    spawn::in_own_session(&mut command).ok();
}

/// Makes the directory of standby VMs, which nobody else may enter: a process that connects to a VM
/// is root in it.
fn make_place(cache: &Cache) -> Result<PathBuf, Fault> {
    let place = dir(cache);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&place)?;
    Ok(place)
}

/// The directory of a keeper, in which it assembles the run.
pub fn keepers_dir(ctx: &Context) -> Result<RunDir, Fault> {
    let cache = ctx.cache()?;
    make_place(&cache)?;
    let standby = RunsDir::below(cache.dir(), &[DIR]);
    // What keepers have left that were killed.
    evidence::sweep_all(&standby);
    RunDir::create(&standby)
}

/// Keeps a standby VM for the next run like `run`: until it is taken, or for a while.
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
            // A VM that cannot be seen from outside is a standby VM all the same.
            *seen.borrow_mut() = registry::register(&run.cache, &shown).ok();
            control::bind(&place, &socket_name(&name))
        },
        || {
            seen.take();
            fs::remove_file(&socket).ok();
            // Somebody may have it open to wait for it: then there are two keepers, of which one is
            // found.
            fs::remove_file(&lock_file).ok();
            drop(lock.take());
        },
    );
    if lock.is_some() {
        fs::remove_file(&socket).ok();
        fs::remove_file(&lock_file).ok();
    }
    drop(snapshot);
    // A process that dismissed this one sees it gone, and its template free.
    kept.map(drop)?;
    Ok(())
}

/// Has the keepers go that would be too many with one more, those first that have waited longest.
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

/// Has every keeper go.
pub fn dismiss_all(cache: &Cache) {
    let place = dir(cache);
    for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(SOCKET)) {
            dismiss(&place, name);
        }
    }
}

fn dismiss(place: &Path, name: &str) {
    // A socket without anyone behind it is only a file.
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
