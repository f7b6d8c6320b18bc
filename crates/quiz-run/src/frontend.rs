//! What a run needs from its caller while the VM runs. Not for how quiz shows anything.

use std::os::unix::net::UnixStream;

use quiz_vm::proto::WinSize;
use quiz_vm::supervise::Notice;
use quiz_vm::{Signals, Streams};

use crate::fault::Fault;

/// The terminal of the program.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProgramTerminal {
    /// Its size. Without one, the program gets pipes.
    pub size: Option<WinSize>,
    /// Whether the program's standard error goes elsewhere than to the terminal.
    pub separate_stderr: bool,
}

/// Where the program's streams come from and go to.
pub enum ProgramStreams<'a> {
    /// Makes new streams for each attempt to run the program.
    Renewable(&'a mut dyn FnMut() -> Result<Streams, Fault>),
    /// Streams for one attempt. Such a run boots, and starts its program once.
    Single(Option<Streams>),
    /// Streams of another process, at the other end of a socket.
    Remote(UnixStream),
}

/// What a run needs from its caller while the VM runs.
pub struct Frontend<'a> {
    /// The program's streams.
    pub streams: ProgramStreams<'a>,
    /// The signals that this process receives.
    pub signals: &'a mut dyn Signals,
    /// Receives the events of the run. It must not block.
    pub notices: &'a mut dyn FnMut(Notice<'_>),
}
