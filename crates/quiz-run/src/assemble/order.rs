//! Makes the agent's order from the `RunSpec` and the inputs of the run.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use quiz_config::{Chosen, RunSpec, ShareSpec, WorktreeMode};
use quiz_image::root::Root;
use quiz_vm::Share;
use quiz_vm::proto::{self, Init, Inits, Moment, Order, Personal, Program, System};

use crate::assemble::disks::Disks;
use crate::assemble::layers;
use crate::assemble::setup::{self, Asked};
use crate::context::Context;
use crate::fault::Fault;
use crate::frontend::ProgramTerminal;

/// The serial number of the disk with the root.
pub const ROOT: &str = "quiz-root";

/// The program of a run that names none.
pub const SHELL: [&str; 2] = ["/bin/bash", "-l"];

/// The program of the profile `tmux` that runs another program in a tmux session.
const TMUX: &[u8] = b"/usr/local/lib/quiz/tmux";

/// The limit for arguments and environment, in bytes: less than a frame holds. Linux itself allows
/// less.
const ARGUMENTS: usize = 6 * 1024 * 1024;

/// Directories of the guest that a share must not hide.
const NEEDED: &[&str] =
    &["/", "/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp", "/usr", "/var"];

/// A host directory: how QEMU offers it, and where the guest mounts it.
#[derive(Debug, Clone)]
pub struct SharedDir {
    /// QEMU's side.
    pub offered: Share,
    /// The mount point in the guest.
    pub guest: PathBuf,
}

impl SharedDir {
    /// The guest's side.
    fn mounted(&self) -> proto::Share {
        proto::Share {
            tag: self.offered.tag.clone(),
            path: self.guest.as_os_str().as_bytes().to_vec(),
            writable: self.offered.writable,
        }
    }
}

/// Returns the shares: the worktree at its own path, and those of the profiles and the user. If two
/// have the same path in the guest, the user's wins.
pub fn shares(spec: &RunSpec, of_profiles: &[ShareSpec]) -> Result<Vec<SharedDir>, Fault> {
    let mut wanted: Vec<(PathBuf, PathBuf, bool)> = Vec::new();
    if let (Some(worktree), WorktreeMode::ReadOnly | WorktreeMode::ReadWrite) = (&spec.worktree, spec.worktree_mode) {
        wanted.push((worktree.clone(), worktree.clone(), spec.worktree_mode == WorktreeMode::ReadWrite));
    }
    for share in of_profiles.iter().chain(&spec.shares) {
        wanted.retain(|(_, guest, _)| *guest != share.guest);
        wanted.push((share.host.clone(), share.guest.clone(), share.writable));
    }
    // The guest must mount a share inside another one after that one.
    wanted.sort_by_key(|(_, guest, _)| guest.components().count());
    for (host, guest, _) in &wanted {
        if NEEDED.iter().any(|needed| Path::new(needed) == guest) {
            return Err(Fault::new(format!(
                "sharing {} at {} would hide that part of the guest",
                host.display(),
                guest.display()
            ))
            .hint("give it another place: --share HOST:GUEST; or, for the worktree, --worktree off"));
        }
        if !host.is_dir() {
            return Err(Fault::new(format!("cannot share {}: it is not a directory", host.display())));
        }
    }
    let shared = |(i, (host, guest, writable)): (usize, (PathBuf, PathBuf, bool))| SharedDir {
        offered: Share { tag: format!("share{i}"), host, writable },
        guest,
    };
    Ok(wanted.into_iter().enumerate().map(shared).collect())
}

/// What the guest gets beside its shares.
pub struct Parts<'a> {
    pub root: &'a Root,
    /// Serial numbers of the layers' disks, the uppermost first.
    pub layers: Vec<String>,
    pub modules: &'a [proto::Module],
    pub disks: &'a Disks,
    pub chosen: &'a [Chosen],
    pub asked: &'a Asked,
}

/// Returns what the agent prepares for any run on this VM.
pub fn system(parts: &Parts<'_>) -> System {
    let early: Vec<&Chosen> = parts.chosen.iter().filter(|one| is_early(one, parts)).collect();
    System {
        root_serial: ROOT.to_owned(),
        root_types: vec![parts.root.manifest.format.clone()],
        layers: parts.layers.clone(),
        out_serial: parts.disks.out.as_ref().map(|out| out.serial.clone()),
        hostname: "quiz".to_owned(),
        modules: parts.modules.to_vec(),
        links: parts.disks.links.iter().cloned().chain(parts.asked.links.iter().map(link)).collect(),
        inits: inits(&early, parts),
    }
}

/// Returns the run's own part of the agent's order.
pub fn order(
    spec: &RunSpec,
    ctx: &Context,
    parts: &Parts<'_>,
    shares: &[SharedDir],
    terminal: ProgramTerminal,
) -> Result<Order, Fault> {
    let mut machine_id = [0; 16];
    rustix::rand::getrandom(&mut machine_id, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Fault::new(format!("the host gives no random numbers: {e}")))?;
    let late: Vec<&Chosen> = parts.chosen.iter().filter(|one| !is_early(one, parts)).collect();
    let personal = Personal {
        // The supervisor sets the clock when it sends the order.
        moment: Moment::default(),
        machine_id: machine_id.iter().map(|byte| format!("{byte:02x}")).collect(),
        shares: shares.iter().map(SharedDir::mounted).collect(),
        changed: parts.disks.kept.clone(),
        inits: inits(&late, parts),
        write_back: !parts.disks.kept.is_empty(),
    };
    if spec.tmux && terminal.size.is_none() {
        return Err(Fault::new("--tmux needs a terminal on standard input and standard output"));
    }
    let program = program(spec, ctx, &parts.asked.env, shares, terminal);
    let size: usize = program.argv.iter().map(Vec::len).sum::<usize>()
        + program.env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    if size > ARGUMENTS {
        return Err(Fault::new(format!(
            "the arguments and the environment are {size} bytes long, too long for any program"
        )));
    }
    // In tmux, the kernel's messages are part of the program's output.
    let messages = spec.kernel_messages.level().filter(|_| !spec.tmux);
    Ok(Order { personal, program, messages, keep: spec.keep.is_some(), strict: spec.strict })
}

/// Whether a profile's `init` can run before the agent knows the run. It cannot run before an
/// `init` of an earlier profile, nor if a disk has contents of its own.
fn is_early(one: &Chosen, parts: &Parts<'_>) -> bool {
    let before = parts.chosen.iter().take_while(|other| other.profile.name != one.profile.name);
    let ready = |one: &Chosen| one.profile.early || one.profile.init().is_none();
    parts.disks.kept.is_empty() && ready(one) && before.into_iter().all(ready)
}

fn inits(chosen: &[&Chosen], parts: &Parts<'_>) -> Inits {
    let programs: Vec<Init> = chosen.iter().filter_map(|one| init(one)).collect();
    let env = if programs.is_empty() { Vec::new() } else { init_env(parts.chosen, parts.asked) };
    Inits { programs, env }
}

fn link((path, target): &(String, String)) -> proto::Link {
    proto::Link { path: path.clone(), target: proto::Device::Path(target.clone()), partitions: true }
}

fn init(one: &Chosen) -> Option<proto::Init> {
    one.profile.init()?;
    Some(proto::Init { name: one.profile.name.clone(), path: layers::init_path(&one.profile.name) })
}

/// Returns the environment that every program in the guest starts with.
fn base_env() -> Vec<(OsString, OsString)> {
    [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("SHELL", "/bin/bash"),
        ("LANG", "C.UTF-8"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .to_vec()
}

fn set(env: &mut Vec<(OsString, OsString)>, name: &OsStr, value: &OsStr) {
    env.retain(|(known, _)| known != name);
    env.push((name.to_owned(), value.to_owned()));
}

fn in_bytes(env: &[(OsString, OsString)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    env.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn init_env(chosen: &[Chosen], asked: &Asked) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut env = base_env();
    for (name, value) in setup::options(chosen).iter().chain(&asked.env) {
        set(&mut env, name.as_ref(), value.as_ref());
    }
    let names: Vec<&str> = chosen.iter().map(|one| one.profile.name.as_str()).collect();
    set(&mut env, "PROFILE_PROFILES".as_ref(), names.join(" ").as_ref());
    in_bytes(&env)
}

fn program(
    spec: &RunSpec,
    ctx: &Context,
    of_profiles: &[(String, String)],
    shares: &[SharedDir],
    terminal: ProgramTerminal,
) -> Program {
    let bytes = |word: &OsStr| word.as_bytes().to_vec();
    let mut argv = match spec.command.as_slice() {
        [] => SHELL.map(|word| word.as_bytes().to_vec()).to_vec(),
        command => command.iter().map(|word| bytes(word)).collect(),
    };
    if spec.tmux {
        argv.insert(0, TMUX.to_vec());
    }
    let mut env = base_env();
    for (name, value) in of_profiles {
        set(&mut env, name.as_ref(), value.as_ref());
    }
    if spec.tmux {
        set(&mut env, "QUIZ_PROFILES".as_ref(), spec.profiles.join(",").as_ref());
    }
    for (name, value) in &spec.env {
        set(&mut env, name, value);
    }
    let cwd = visible(&ctx.cwd, shares).map(|dir| bytes(dir.as_os_str()));
    Program {
        argv,
        env: in_bytes(&env),
        cwd: cwd.into_iter().chain([b"/root".to_vec()]).collect(),
        terminal: terminal.size,
        separate_stderr: terminal.separate_stderr,
        shell_after: spec.shell_after,
    }
}

/// Returns the guest's path of the host directory `dir`, through the innermost share that contains
/// it.
fn visible(dir: &Path, shares: &[SharedDir]) -> Option<PathBuf> {
    let holds = |share: &&SharedDir| dir.starts_with(&share.offered.host);
    let share = shares.iter().filter(holds).max_by_key(|share| share.offered.host.components().count())?;
    let inside = dir.strip_prefix(&share.offered.host).ok()?;
    Some(if inside.as_os_str().is_empty() { share.guest.clone() } else { share.guest.join(inside) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(host: &str, guest: &str) -> SharedDir {
        SharedDir { offered: Share { tag: "t".into(), host: host.into(), writable: false }, guest: guest.into() }
    }

    #[test]
    fn the_callers_directory_is_found_through_the_innermost_share() {
        let shares = [share("/home/u/zfs", "/home/u/zfs"), share("/home/u/zfs/tests", "/t")];
        let seen = |dir: &str| visible(Path::new(dir), &shares);
        assert_eq!(seen("/home/u/zfs"), Some("/home/u/zfs".into()));
        assert_eq!(seen("/home/u/zfs/module/zfs"), Some("/home/u/zfs/module/zfs".into()));
        assert_eq!(seen("/home/u/zfs/tests/a"), Some("/t/a".into()));
        assert_eq!(seen("/home/u"), None);
        assert_eq!(seen("/home/u/zfs-2"), None);
    }
}
