//! Looks up lines of source for the frames of a kernel's last messages, in a separate process.
//! Debug information takes hundreds of megabytes, and another user may have made the file. Not for
//! the lookup itself (`quiz_oops`).

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use quiz_host::wait;
use quiz_oops::{Origins, Symbols};
use quiz_vm::Signals;
use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};

/// The option with which quiz starts itself for a lookup. No user types it.
pub const OPTION: &str = "--look-up-symbols";
/// How often quiz checks for the user's signals meanwhile.
const LOOK: Duration = Duration::from_millis(50);
/// The longest answer, in bytes.
const ANSWER: usize = 16 << 20;

/// The question to that process, as JSON on its standard input.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    text: String,
    vmlinux: Option<OsString>,
    release: String,
    modules: Vec<OsString>,
    roots: Vec<OsString>,
    remedy: String,
}

impl Question {
    fn new(text: String, origins: Origins) -> Question {
        let words = |paths: Vec<PathBuf>| paths.into_iter().map(PathBuf::into_os_string).collect();
        Question {
            text,
            vmlinux: origins.vmlinux.map(PathBuf::into_os_string),
            release: origins.release,
            modules: words(origins.modules),
            roots: words(origins.roots),
            remedy: origins.remedy,
        }
    }

    fn answer(self) -> Symbols {
        let paths = |words: Vec<OsString>| words.into_iter().map(PathBuf::from).collect();
        let origins = Origins {
            vmlinux: self.vmlinux.map(PathBuf::from),
            release: self.release,
            modules: paths(self.modules),
            roots: paths(self.roots),
            remedy: self.remedy,
        };
        Symbols::of(&self.text, &origins)
    }
}

/// Answers the question in `input`, to `output`: the work of that process.
///
/// # Errors
/// If either stream fails, or `input` is no question.
pub fn answer(input: impl Read, mut output: impl Write) -> io::Result<()> {
    let question: Question = serde_json::from_reader(input)?;
    output.write_all(&serde_json::to_vec(&question.answer())?)
}

/// Looks up all frames in `text`. The user can interrupt it with a signal.
pub fn look_up(text: String, origins: Origins, signals: &mut dyn Signals) -> Symbols {
    let looked_up = start().and_then(|process| process.ask(&Question::new(text, origins), signals));
    looked_up.unwrap_or_else(|why| {
        let mut none = Symbols::default();
        none.missing.push(format!("no lines of source: {why}"));
        none
    })
}

fn start() -> Result<Process, String> {
    let cannot = |e: io::Error| format!("cannot start a process: {e}");
    // This is the same program even if another one has replaced its file.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("quiz").arg(OPTION).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    quiz_host::process::die_with_parent(&mut command, quiz_host::process::Signal::KILL);
    let mut child = command.spawn().map_err(cannot)?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    Ok(Process { child, input, output })
}

/// The process for the lookup. It ends when this value is dropped.
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
}

impl Process {
    fn ask(mut self, question: &Question, signals: &mut dyn Signals) -> Result<Symbols, String> {
        let failed = |e: io::Error| format!("the process that looks for them failed: {e}");
        let (Some(mut input), Some(mut output)) = (self.input.take(), self.output.take()) else {
            return Err("the process that looks for them has no streams".to_owned());
        };
        let question = serde_json::to_vec(question).map_err(|e| failed(e.into()))?;
        // The process reads all before it answers, unless it has ended.
        let written = thread::Builder::new().spawn(move || input.write_all(&question)).map_err(failed)?;
        let mut answer = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match wait::ready(&mut [PollFd::new(&output, PollFlags::IN)], Some(LOOK)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => match output.read(&mut buffer).map_err(failed)? {
                    0 => break,
                    read => answer.extend_from_slice(&buffer[..read]),
                },
                Err(e) => return Err(failed(e.into())),
            }
            if answer.len() > ANSWER {
                return Err("there are too many".to_owned());
            }
            if signals.pending().iter().any(|signal| *signal != libc::SIGWINCH) {
                return Err("looking for them was interrupted".to_owned());
            }
        }
        written.join().ok();
        let status = self.child.wait().map_err(failed)?;
        if !status.success() {
            return Err(format!("the process that looks for them failed ({status})"));
        }
        serde_json::from_slice(&answer).map_err(|e| failed(e.into()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
