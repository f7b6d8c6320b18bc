//! What a run needs of its caller while the VM runs. Not for how anything is shown.

use std::os::unix::net::UnixStream;

use quiz_vm::proto::WinSize;
use quiz_vm::supervise::Notice;
use quiz_vm::{Signals, Streams};

use crate::fault::Fault;

/// The terminal that the program is to have.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProgramTerminal {
    /// Its size; without one the program gets pipes.
    pub size: Option<WinSize>,
    /// The program's standard error does not go to the terminal.
    pub separate_stderr: bool,
}

/// Where the program's streams come from and go to.
pub enum ProgramStreams<'a> {
    /// Made anew for each attempt to run the program.
    Renewable(&'a mut dyn FnMut() -> Result<Streams, Fault>),
    /// For one attempt: such a run boots, and its program is started once.
    Single(Option<Streams>),
    /// Those of another process, at the other end of a socket.
    Remote(UnixStream),
}

/// What a run needs of its caller while the VM runs.
pub struct Frontend<'a> {
    /// The program's streams.
    pub streams: ProgramStreams<'a>,
    /// The signals that are sent to this process.
    pub signals: &'a mut dyn Signals,
    /// Receives what happens. It must not wait for anything.
    pub notices: &'a mut dyn FnMut(Notice<'_>),
}
