//! Starts another quiz process, in the background.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Starts `command` in a session of its own, so that a signal to this process's terminal or process
/// group does not reach it.
///
/// # Errors
/// If the host refuses another process.
pub fn in_own_session(command: &mut Command) -> io::Result<Child> {
    // SAFETY: setsid is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            // setsid fails only if the process already leads its group.
            rustix::process::setsid().ok();
            Ok(())
        });
    }
    command.spawn()
}
