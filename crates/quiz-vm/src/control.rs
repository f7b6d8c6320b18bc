//! The messages between a VM's supervisor and its clients, on the control socket. The frames are
//! those of the channel to the agent. Not for handling them (`supervise::serving`, `client`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use quiz_proto::{ToGuest, ToHost, WinSize};
use serde::{Deserialize, Serialize};

/// A message of a client: first what it wants, then [`Request::Say`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// Run another program in the guest. It gets SIGHUP when its client is gone.
    Exec(Box<Exec>),
    /// Show the output of the run's program, and accept input for it.
    Attach,
    /// A message about the client's program. The program id in it is ignored.
    Say(#[serde(borrow)] ToGuest<'a>),
}

/// A program of a client. It gets the environment of the run's program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments, unchanged; never empty.
    pub argv: Vec<Vec<u8>>,
    /// Variables that differ from that environment: name and value.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The working directory. If the guest does not have it, that of the run's program.
    pub cwd: Vec<u8>,
    /// Run it on a terminal of this size.
    pub terminal: Option<WinSize>,
    /// On a terminal: whether standard error is still separate.
    pub separate_stderr: bool,
}

/// A message of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer<'a> {
    /// The first message.
    Welcome {
        /// [`quiz_proto::VERSION`] of the supervisor.
        version: u32,
        /// Whether the run's program has a terminal.
        terminal: bool,
    },
    /// A message about the client's program. The program id in it is meaningless.
    Guest(#[serde(borrow)] ToHost<'a>),
    /// The last message, unless the program has ended by itself.
    Over {
        /// The exit code for the client.
        code: u8,
        /// What has happened, unless the program just ended.
        message: Option<String>,
        /// Whether the VM stays up.
        stays: bool,
    },
}

/// Calls `how` with a short path to `name` in `dir`, through an open directory. A socket's path may
/// have only 107 bytes, and `dir` alone can be longer.
fn through<T>(dir: &Path, name: &str, how: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let dir = OwnedFd::from(fs_err::File::open(dir)?.into_parts().0);
    how(Path::new(&format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())))
}

/// Connects to the socket `name` in `dir`.
pub fn connect(dir: &Path, name: &str) -> io::Result<UnixStream> {
    through(dir, name, |path| UnixStream::connect(path))
}

/// Makes the socket `name` in `dir`.
pub fn bind(dir: &Path, name: &str) -> io::Result<UnixListener> {
    through(dir, name, |path| UnixListener::bind(path))
}
