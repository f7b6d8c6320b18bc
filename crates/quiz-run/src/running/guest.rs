//! Runs a program in a running VM, through the VM's control socket.

use std::os::unix::net::UnixStream;

use quiz_config::Escape;
use quiz_host::Cache;
use quiz_vm::client::{Ends, Heed, Parting, converse, greet};
use quiz_vm::control::{Exec, Request};
use quiz_vm::{Signals, Streams};

use crate::fault::Fault;
use crate::running::registry::Running;

/// Connects to a VM, and waits until programs can run in it.
///
/// # Errors
/// If the VM is gone, or does not answer.
pub fn enter(running: &Running, cache: &Cache) -> Result<UnixStream, Fault> {
    let socket = running.visit(cache)?;
    let unreachable = |e| Fault::new(format!("cannot run anything in the VM of {}: {e}", running.id));
    greet(&socket).map_err(unreachable)?;
    Ok(socket)
}

/// Runs a program in the VM at the other end of `socket`, and passes on this process's signals.
/// quiz stays if the first signal is one from the keyboard, and leaves after any other.
///
/// # Errors
/// If the streams fail.
pub fn run(
    socket: UnixStream,
    exec: Exec,
    streams: Streams,
    signals: &mut dyn Signals,
    escape: Escape,
) -> Result<Parting, Fault> {
    let escape = escape.0.filter(|_| exec.terminal.is_some());
    let mut received = 0;
    let mut heed = |signal| {
        received += 1;
        match signal {
            // From the keyboard: the program decides.
            libc::SIGINT | libc::SIGQUIT if received == 1 => Heed::Pass,
            _ => Heed::PassAndLeave,
        }
    };
    let ends = Ends { streams, signals, escape, begin: &mut || {}, heed: &mut heed };
    Ok(converse(socket, &Request::Exec(Box::new(exec)), ends)?)
}
