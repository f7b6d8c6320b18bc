//! How a run ended: the verdict, its exit code and what is recorded about it. Not for deriving the
//! verdict (`judge`).

use std::io;
use std::time::Duration;

use quiz_proto::Status;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a run ended. The exit codes are those of SPECIFICATION.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Verdict {
    /// The program ran and exited with this code, and the VM went down cleanly.
    Exited {
        /// The program's exit code.
        code: u8,
    },
    /// The program died of a signal, and the VM went down cleanly.
    Signalled {
        /// The signal's number.
        signal: u8,
    },
    /// There is no such program in the guest.
    NotFound,
    /// The program is there and cannot be executed.
    NotExecutable {
        /// The guest kernel's reason.
        reason: String,
    },
    /// The guest's kernel panicked.
    Panic {
        /// The first line of its report.
        message: String,
    },
    /// The guest's kernel reported something wrong with itself, and that was to count as a failure.
    Report {
        /// The first line of the report.
        message: String,
    },
    /// The guest went away: it reset or powered itself off, or the agent is gone.
    Lost {
        /// What was seen.
        message: String,
    },
    /// A time limit was exceeded.
    Timeout {
        /// Which limit.
        message: String,
    },
    /// Not the guest's doing: quiz, QEMU or the host failed.
    Fault {
        /// The cause, and the remedy where there is one.
        message: String,
    },
    /// The user ended the run with a signal.
    Interrupted {
        /// The signal's number.
        signal: u8,
    },
}

impl Verdict {
    /// The exit code of quiz for this verdict.
    pub fn exit_code(&self) -> u8 {
        match self {
            Verdict::Exited { code } => *code,
            Verdict::Signalled { signal } | Verdict::Interrupted { signal } => 128u8.saturating_add(*signal),
            Verdict::Panic { .. } | Verdict::Report { .. } => 121,
            Verdict::Lost { .. } => 122,
            Verdict::Timeout { .. } => 124,
            Verdict::Fault { .. } => 125,
            Verdict::NotExecutable { .. } => 126,
            Verdict::NotFound => 127,
        }
    }

    /// One line for people.
    pub fn headline(&self) -> String {
        match self {
            Verdict::Exited { code } => format!("the program exited with {code}"),
            Verdict::Signalled { signal } => format!("the program died of signal {signal}"),
            Verdict::NotFound => "the program is not in the guest".to_owned(),
            Verdict::NotExecutable { reason } => format!("the program cannot be executed: {reason}"),
            Verdict::Panic { .. } => "the guest's kernel panicked".to_owned(),
            Verdict::Report { message } => format!("the guest's kernel reported: {message}"),
            Verdict::Lost { message } => format!("the guest is lost: {message}"),
            Verdict::Timeout { message } => format!("timed out: {message}"),
            Verdict::Fault { message } => format!("error: {message}"),
            Verdict::Interrupted { signal } => format!("interrupted by signal {signal}"),
        }
    }

    /// A few words, for tables and comparisons.
    pub fn brief(&self) -> String {
        match self {
            Verdict::Exited { code } => format!("exited {code}"),
            Verdict::Signalled { signal } => format!("signalled {signal}"),
            Verdict::NotFound => "not found".to_owned(),
            Verdict::NotExecutable { .. } => "not executable".to_owned(),
            Verdict::Panic { .. } => "panic".to_owned(),
            Verdict::Report { .. } => "report".to_owned(),
            Verdict::Lost { .. } => "lost".to_owned(),
            Verdict::Timeout { .. } => "timeout".to_owned(),
            Verdict::Fault { .. } => "fault".to_owned(),
            Verdict::Interrupted { signal } => format!("interrupted {signal}"),
        }
    }

    /// The cause, if the kind of verdict does not say it.
    pub fn message(&self) -> Option<&str> {
        match self {
            Verdict::Panic { message }
            | Verdict::Report { message }
            | Verdict::Lost { message }
            | Verdict::Timeout { message }
            | Verdict::Fault { message }
            | Verdict::NotExecutable { reason: message } => Some(message),
            _ => None,
        }
    }

    /// A run that the user ended with this signal of the host.
    pub fn interrupted(signal: i32) -> Verdict {
        Verdict::Interrupted { signal: u8::try_from(signal).unwrap_or(libc::SIGTERM as u8) }
    }

    /// A fault with this cause.
    pub fn fault(message: impl ToString) -> Verdict {
        Verdict::Fault { message: message.to_string() }
    }
}

impl From<Status> for Verdict {
    fn from(status: Status) -> Verdict {
        match status {
            Status::Code(code) => Verdict::Exited { code },
            Status::Signal(signal) => Verdict::Signalled { signal },
            Status::NotFound => Verdict::NotFound,
            Status::NotExecutable(errno) => {
                Verdict::NotExecutable { reason: io::Error::from_raw_os_error(errno).to_string() }
            }
        }
    }
}

/// The files that the program left in `/quiz/out`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArtifactsRecord {
    /// Files and links that are in the run's `artifacts/`.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// What was refused, and why.
    pub refused: Vec<String>,
    /// The first that the host could not write, and why; such a run is no success.
    pub failed: Option<String>,
}

/// Everything that the supervisor found out about a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// From the start of QEMU to the agent's first message.
    pub boot: Option<Duration>,
    /// From the start of QEMU to the start of the program.
    pub ready: Option<Duration>,
    /// How long the program ran.
    pub program: Option<Duration>,
    /// From the start of QEMU to its end.
    pub total: Duration,
    pub artifacts: ArtifactsRecord,
    /// What the user should read beside the verdict.
    pub notes: Vec<String>,
    /// The last lines of the console, for a run that failed.
    pub console_tail: String,
    /// The kernel's messages from its first report of trouble, of a checker or of a stall on.
    pub oops: String,
    /// The most important line of `oops`, without its time stamp: trouble first, then a report,
    /// then a stall.
    pub headline: Option<String>,
    /// What the kernel printed about processors and tasks after a time limit.
    pub asked: String,
    /// The guest's memory was dumped to `vmcore`.
    pub dumped: bool,
    /// Why the VM did not resume from its snapshot. Nothing has run in it then, so the run can be
    /// tried another way.
    pub not_resumed: Option<String>,
    /// QEMU itself crashed before the program started. Nothing has run then, so the run can be
    /// tried again.
    pub crashed_at_boot: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_program_that_exited_with_0_is_a_success() {
        let all = [
            Verdict::Signalled { signal: 9 },
            Verdict::Signalled { signal: 0 },
            Verdict::NotFound,
            Verdict::NotExecutable { reason: String::new() },
            Verdict::Panic { message: String::new() },
            Verdict::Report { message: String::new() },
            Verdict::Lost { message: String::new() },
            Verdict::Timeout { message: String::new() },
            Verdict::fault(""),
            Verdict::Interrupted { signal: 2 },
        ];
        assert_eq!(all.map(|v| v.exit_code()), [137, 128, 127, 126, 121, 121, 122, 124, 125, 130]);
        assert_eq!(Verdict::Exited { code: 0 }.exit_code(), 0);
        assert_eq!(Verdict::Exited { code: 255 }.exit_code(), 255);
    }
}
