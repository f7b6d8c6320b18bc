//! A process that ends a process group when quiz is gone, for whatever reason. Not for starting the
//! group (`command`).

use std::io::{self, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// The guard first reads the number of the group. If its input then ends without another line, quiz
/// is gone.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
read -r group || exit 0
[ "$group" != over ] || exit 0
read -r over && exit 0
kill -TERM "-$group"
sleep 2
kill -KILL "-$group"
"#;

/// A guard over the processes of one command. If it is dropped without [`Guard::dismiss`], the
/// guard ends the processes: with SIGTERM, and 2 s later with SIGKILL.
pub(crate) struct Guard {
    process: Child,
    /// The other end of the guard's input. Closing it makes the guard end the group.
    words: Option<PipeWriter>,
}

impl Guard {
    /// Makes `command` the leader of its own process group and session, and starts a guard for the
    /// group. Nothing else about the command changes.
    ///
    /// # Errors
    /// If the guard cannot be started.
    pub fn over(command: &mut Command) -> io::Result<Guard> {
        let (input, words) = io::pipe()?;
        let mut guard = Command::new("sh");
        guard.args(["-c", SCRIPT]).stdin(input).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        // A signal to all processes of quiz, from the terminal or from `timeout`, must not end the
        // guard first.
        guard.process_group(0);
        let process = guard.spawn()?;
        let told = words.as_raw_fd();
        // SAFETY: between fork and exec only the async-signal-safe setsid, getpid and write are
        // called, on a descriptor that is open in the child until exec closes it: `Guard` has it
        // open here for as long as the command can be spawned.
        unsafe {
            command.pre_exec(move || {
                let group = rustix::process::setsid().map_err(io::Error::from)?.as_raw_nonzero().get();
                let told = std::os::fd::BorrowedFd::borrow_raw(told);
                let (line, length) = line(group);
                rustix::io::write(told, &line[..length]).map_err(io::Error::from)?;
                Ok(())
            });
        }
        Ok(Guard { process, words: Some(words) })
    }

    /// Ends the guard without ending the rest of the group.
    pub fn dismiss(mut self) {
        if let Some(mut words) = self.words.take() {
            // If the guard is gone, there is nothing to dismiss.
            let _told = words.write_all(b"over\n");
        }
        let _reaped = self.process.wait();
    }

    /// Makes the guard end the group, which takes up to 2 s.
    pub fn alarm(&mut self) {
        self.words = None;
    }
}

/// `number` with a newline, and the length of both. Allocates no memory, which is forbidden between
/// fork and exec.
fn line(mut number: i32) -> ([u8; 12], usize) {
    let mut backwards = [0; 11];
    let mut digits = 0;
    while digits == 0 || number > 0 {
        backwards[digits] = b'0' + (number % 10) as u8;
        number /= 10;
        digits += 1;
    }
    let mut line = [b'\n'; 12];
    for at in 0..digits {
        line[at] = backwards[digits - 1 - at];
    }
    (line, digits + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_as_people_do() {
        for number in [0, 7, 10, 4_194_304, i32::MAX] {
            let (line, length) = line(number);
            assert_eq!(&line[..length], format!("{number}\n").as_bytes());
        }
    }
}
