//! The registry of this user's running and standby VMs, for clients. Not for run directories
//! (`evidence`).
//!
//! Each VM has a file in the cache, which its quiz process holds locked, and a socket beside it. If
//! a file is not locked, its process was killed: the next lookup removes both.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use quiz_host::Cache;
use quiz_host::lock::Locked;
use quiz_host::wait;
use quiz_vm::control;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use crate::evidence::history::the_one;
use crate::fault::Fault;

/// A running VM or a standby VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The run's id. A standby VM has its own.
    pub id: String,
    /// The quiz process of the VM.
    pub pid: i32,
    /// Its socket, in the cache: the directory and the name.
    pub socket: (String, String),
    /// Its run directory.
    pub dir: PathBuf,
    /// The directory of all runs of its worktree.
    pub runs: PathBuf,
    /// When it was started (RFC 3339).
    pub started_at: String,
    /// The program and its arguments; bytes that are not UTF-8 are replaced.
    pub command: Vec<String>,
    /// Whether it is a standby VM.
    pub waits: bool,
    pub kernel: String,
    /// Its memory in MiB.
    pub memory_mib: u32,
    pub arch: String,
    pub profiles: Vec<String>,
}

/// A registry entry. It exists as long as this value.
#[derive(Debug)]
pub struct Registered {
    path: PathBuf,
    _lock: Locked,
}

impl Drop for Registered {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    // The next lookup removes what stays.
    fs::remove_file(path).ok();
    fs::remove_file(path.with_extension(SOCKET)).ok();
}

/// The extension of the control sockets.
const SOCKET: &str = "sock";

/// The cache's directory of the registry.
const DIR: &str = "running";

fn place(cache: &Cache) -> PathBuf {
    cache.dir().join(DIR)
}

/// Returns where the control socket of the run `id` is: the directory in the cache, and the name.
pub fn socket_of(id: &str) -> (String, String) {
    (DIR.to_owned(), format!("{id}.{SOCKET}"))
}

/// Registers a VM. Clients see the whole entry or none.
pub fn register(cache: &Cache, running: &Running) -> Result<Registered, Fault> {
    let place = place(cache);
    // A process that connects to a VM is root in it.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&place)?;
    fs::set_permissions(&place, std::fs::Permissions::from_mode(0o700))?;
    let mut file = tempfile::Builder::new().prefix(".").tempfile_in(&place)?;
    serde_json::to_writer(&mut file, running).map_err(|e| Fault::new(format!("cannot note a run: {e}")))?;
    file.as_file().lock()?;
    let path = place.join(format!("{}.json", running.id));
    let lock = file.persist(&path).map_err(|e| Fault::new(format!("cannot note a run: {}", e.error)))?;
    Ok(Registered { _lock: Locked::new(fs::File::from_parts(lock, &path)), path })
}

/// Returns all registered VMs, the newest first.
pub fn all(cache: &Cache) -> Vec<Running> {
    let found = fs::read_dir(place(cache)).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut running: Vec<Running> =
        found.filter(|path| path.extension().is_some_and(|e| e == "json")).filter_map(|path| read(&path)).collect();
    running.sort_by(|a, b| b.started_at.cmp(&a.started_at));
    running
}

fn read(path: &Path) -> Option<Running> {
    let file = fs::File::open(path).ok()?;
    if file.file().try_lock_shared().is_ok() {
        remove(path);
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Returns the VM that `wanted` names, by its id or the beginning or end of it. Without `wanted`,
/// returns the newest running VM whose runs are in `runs`.
pub fn find(cache: &Cache, runs: &Path, wanted: Option<&str>) -> Result<Running, Fault> {
    let mut running = all(cache);
    let Some(wanted) = wanted else {
        running.retain(|one| one.runs == runs && !one.waits);
        let none = || Fault::new("no VM of this worktree runs").hint("`quiz ps --all` lists those of other worktrees");
        return running.into_iter().next().ok_or_else(none);
    };
    let nothing = || Fault::new(format!("no VM that runs is called {wanted}")).hint("`quiz ps --all` lists them");
    the_one(running, wanted, |one| &one.id, nothing)
}

/// Opens the control socket of the run `id`. It goes when the value of [`register`] is dropped.
pub fn open_control(cache: &Cache, id: &str) -> std::io::Result<UnixListener> {
    control::bind(&place(cache), &socket_of(id).1)
}

impl Running {
    /// Connects to the VM.
    pub fn visit(&self, cache: &Cache) -> Result<UnixStream, Fault> {
        self.connect(cache).map_err(|e| Fault::new(format!("cannot reach the VM of {}: {e}", self.id)))
    }

    /// Returns how long ago the VM started.
    pub fn age(&self) -> Option<Duration> {
        let started: jiff::Timestamp = self.started_at.parse().ok()?;
        SystemTime::now().duration_since(started.into()).ok()
    }

    fn connect(&self, cache: &Cache) -> std::io::Result<UnixStream> {
        let (dir, name) = &self.socket;
        control::connect(&cache.dir().join(dir), name)
    }

    /// Returns the VM's quiz process, and the connection that shows whether it still listens. The
    /// kernel reports which process listens there. The number in the file may be that of another
    /// process. The file may be from another host or container, or its process may have ended.
    pub fn process(&self, cache: &Cache) -> std::io::Result<(OwnedFd, UnixStream)> {
        let connection = self.connect(cache)?;
        let pid = peer(&connection)?.ok_or_else(|| std::io::Error::other("it is of another PID namespace"))?;
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        // The connection ends with the process. While it is open, no other process has the number.
        let mut ended = [PollFd::new(&connection, PollFlags::empty())];
        wait::ready(&mut ended, Some(Duration::ZERO))?;
        if ended[0].revents().contains(PollFlags::HUP) {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        Ok((process, connection))
    }
}

/// Returns the process that listens at the other end. None if this PID namespace does not have it.
fn peer(connection: &UnixStream) -> std::io::Result<Option<Pid>> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // rustix's call has no process 0, which stands for a process of another namespace.
    // SAFETY: the descriptor is open, and the kernel writes no more than `size` bytes.
    let done = unsafe {
        libc::getsockopt(
            connection.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut size,
        )
    };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(Pid::from_raw(credentials.pid)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(id: &str, started_at: &str, runs: &str) -> Running {
        Running {
            id: id.to_owned(),
            pid: i32::try_from(std::process::id()).unwrap(),
            socket: socket_of(id),
            dir: PathBuf::from(runs).join(id),
            runs: runs.into(),
            started_at: started_at.to_owned(),
            command: vec!["true".to_owned()],
            waits: false,
            kernel: "6.12".to_owned(),
            memory_mib: 1024,
            arch: "x86_64".to_owned(),
            profiles: Vec::new(),
        }
    }

    #[test]
    fn what_is_registered_is_seen_and_what_was_left_is_swept() {
        let top = tempfile::tempdir().unwrap();
        let cache = Cache::at(top.path().to_owned());
        let one = running("1a", "2026-01-01T00:00:00Z", "/w/.quiz/runs");
        let two = running("2b", "2026-01-02T00:00:00Z", "/w/.quiz/runs");
        let other = running("3c", "2026-01-03T00:00:00Z", "/other/.quiz/runs");
        let held = [&one, &two, &other].map(|one| register(&cache, one).unwrap());
        fs::write(top.path().join("running/4d.json"), serde_json::to_vec(&running("4d", "x", "/w")).unwrap()).unwrap();
        assert_eq!(all(&cache), [other.clone(), two.clone(), one.clone()]);
        assert!(!top.path().join("running/4d.json").exists());
        let of = |wanted| find(&cache, Path::new("/w/.quiz/runs"), wanted);
        assert_eq!(of(None).unwrap(), two);
        assert_eq!(of(Some("c")).unwrap(), other);
        assert_eq!(of(Some("1")).unwrap(), one);
        assert!(of(Some("")).unwrap_err().message().contains("any of"));
        drop(held);
        assert!(all(&cache).is_empty() && of(None).is_err());
    }

    #[test]
    fn a_process_is_known_by_its_socket_and_not_by_a_number() {
        let top = tempfile::tempdir().unwrap();
        let cache = Cache::at(top.path().to_owned());
        let one = Running { pid: 1, ..running("1a", "2026-01-01T00:00:00Z", "/w/.quiz/runs") };
        let _held = register(&cache, &one).unwrap();
        assert!(one.process(&cache).is_err(), "nobody listens");
        let door = open_control(&cache, "1a").unwrap();
        let (process, _connection) = one.process(&cache).unwrap();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).unwrap();
        assert!(info.contains(&format!("Pid:\t{}\n", std::process::id())), "{info}");
        drop(door);
        assert!(one.process(&cache).is_err(), "it does not listen any more");
    }
}
