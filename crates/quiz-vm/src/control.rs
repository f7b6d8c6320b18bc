//! What is said between a VM's supervisor and those who come to it from outside, through a socket
//! of its own. Frames as on the channel to the agent.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use quiz_proto::{ToGuest, ToHost, WinSize};
use serde::{Deserialize, Serialize};

/// What somebody from outside says: first what they want, then [`Request::Say`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// Run another program in the guest. It is hung up when its client is gone.
    Exec(Box<Exec>),
    /// Show what the run's program writes, and let it be typed to.
    Attach,
    /// About that program; whatever number stands in it.
    Say(#[serde(borrow)] ToGuest<'a>),
}

/// Another program. It gets the environment of the run's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments, exactly; never empty.
    pub argv: Vec<Vec<u8>>,
    /// What is different in its environment: name and value.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The working directory, if the guest has it; else it is that of the run's program.
    pub cwd: Vec<u8>,
    /// Run it on a terminal of this size.
    pub terminal: Option<WinSize>,
    /// On a terminal: standard error is separate all the same.
    pub separate_stderr: bool,
}

/// What the supervisor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer<'a> {
    /// The first word.
    Welcome {
        /// [`quiz_proto::VERSION`] of the supervisor.
        version: u32,
        /// The run's program has a terminal.
        terminal: bool,
    },
    /// About the client's program; whatever number stands in it.
    Guest(#[serde(borrow)] ToHost<'a>),
    /// The last word, if the program has not ended by itself before.
    Over {
        /// The exit code for whoever waited for it.
        code: u8,
        /// What has happened, unless it was the program's own doing.
        message: Option<String>,
        /// The VM stays.
        stays: bool,
    },
}

/// A socket's path may have 107 bytes, which a directory alone can exceed: it is reached through an
/// open directory.
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
