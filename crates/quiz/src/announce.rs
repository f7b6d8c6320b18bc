//! quiz's own messages during and after a run, on standard error.
//!
//! A thread of its own writes them, from a bounded queue. A kernel that floods its log, or a
//! standard error that is not read, must not delay the supervisor.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quiz_config::Verbosity;
use quiz_host::stream::Patient;
use quiz_oops::classify::is_fatal;
use quiz_vm::supervise::Notice;
use quiz_vm::visible::{visible, visible_console, visible_lines};
use quiz_vm::{Outcome, Verdict};

use quiz_run::{Fault, Record};

/// How many messages may wait in the queue.
const QUEUE: usize = 256;

/// How long a kernel may take to die of an oops.
const DEATH: Duration = Duration::from_secs(2);

/// Shows the events of a run.
pub struct Announcer {
    queue: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
    dropped: AtomicU64,
    verbosity: Verbosity,
    raw: bool,
    coloured: bool,
    dying: RefCell<Option<Dying>>,
}

/// The messages of a kernel that is about to die. quiz prints a summary of them after its death.
struct Dying {
    since: Instant,
    lines: Vec<String>,
}

impl Announcer {
    /// Starts an announcer. On a raw terminal (`raw`), lines end in a carriage return, too.
    ///
    /// # Errors
    /// If the host refuses a thread.
    pub fn start(verbosity: Verbosity, raw: bool) -> Result<Announcer, Fault> {
        let coloured = crate::output::allows_colours(raw || std::io::stderr().is_terminal());
        let (queue, pieces) = sync_channel::<Vec<u8>>(QUEUE);
        let write = move || {
            for piece in pieces {
                // Without stderr, there is nowhere to report the error.
                Patient(std::io::stderr()).write_all(&piece).ok();
            }
        };
        let writer = thread::Builder::new().spawn(write);
        let writer = writer.map_err(|e| Fault::new(format!("cannot start a thread for quiz's own messages: {e}")))?;
        Ok(Announcer {
            queue: Some(queue),
            writer: Some(writer),
            dropped: AtomicU64::new(0),
            verbosity,
            raw,
            coloured,
            dying: RefCell::new(None),
        })
    }

    /// Shows `notice`, if the verbosity includes it.
    pub fn show(&self, notice: Notice) {
        match (notice, self.verbosity) {
            (Notice::Console(bytes), Verbosity::Verbose) => {
                let text = visible_console(bytes);
                self.put(if self.raw { text.replace('\n', "\r\n") } else { text }.into_bytes());
            }
            (Notice::Kernel { level, micros, text }, Verbosity::Normal) => {
                self.kernel(text, kernel_line(level, micros, text, self.coloured));
            }
            (Notice::Note(text), Verbosity::Normal | Verbosity::Verbose) => {
                self.line(&format!("quiz: {}", visible(text)))
            }
            _ => {}
        }
    }

    /// Shows a kernel message `text`, formatted as `line`.
    fn kernel(&self, text: &str, line: String) {
        let mut dying = self.dying.borrow_mut();
        match &mut *dying {
            Some(Dying { since, lines }) if since.elapsed() < DEATH && lines.len() < QUEUE => lines.push(line),
            None if is_fatal(text) => *dying = Some(Dying { since: Instant::now(), lines: vec![line] }),
            _ => {
                // The kernel has survived.
                drop(dying);
                self.release();
                self.line(&line);
            }
        }
    }

    /// Shows the messages that were held back.
    fn release(&self) {
        let held = self.dying.borrow_mut().take();
        held.into_iter().flat_map(|dying| dying.lines).for_each(|line| self.line(&line));
    }

    fn line(&self, text: &str) {
        let end = if self.raw { "\r\n" } else { "\n" };
        self.put(format!("{text}{end}").into_bytes());
    }

    fn put(&self, bytes: Vec<u8>) {
        if let Some(queue) = &self.queue
            && queue.try_send(bytes).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all messages are written. Leaves out what a kernel printed when it died, since
    /// [`verdict`] shows that.
    pub fn finish(mut self, verdict: &Verdict) {
        if !matches!(verdict, Verdict::Panic { .. } | Verdict::Timeout { .. }) {
            self.release();
        }
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has nothing more to write.
            writer.join().ok();
        }
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            say(&format!("{dropped} more kernel messages are only in console.log"));
        }
    }
}

/// Syslog's levels, from 0.
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

/// Formats a kernel message, with its time in seconds and its level. It is dimmed if there are
/// colours.
fn kernel_line(level: u8, micros: u64, text: &str, coloured: bool) -> String {
    let level = LEVELS.get(usize::from(level)).unwrap_or(&"?");
    let line = format!("kernel: [{:5}.{:06}] {level}: {}", micros / 1_000_000, micros % 1_000_000, visible(text));
    if coloured { format!("\x1b[2m{line}\x1b[0m") } else { line }
}

/// Prints one line of quiz's own.
fn say(line: &str) {
    Patient(std::io::stderr()).write_all(format!("quiz: {}\n", visible_lines(line)).as_bytes()).ok();
}

/// Prints how the run ended, unless the program just exited. `crash` is what happened to the
/// guest's kernel.
pub fn verdict(outcome: &Outcome, crash: Option<&str>, record: &Record, verbosity: Verbosity) {
    let dir = record.dir.display();
    for refused in &outcome.artifacts.refused {
        say(&format!("an artifact was refused: {refused}"));
    }
    if verbosity == Verbosity::Verbose {
        for note in &outcome.notes {
            say(note);
        }
        if outcome.artifacts.files > 0 {
            say(&format!("{} artifacts are in {dir}/artifacts", outcome.artifacts.files));
        }
    }
    let (what, oops) = match &outcome.verdict {
        own @ (Verdict::Exited { .. } | Verdict::Signalled { .. }) => {
            let seems_quizs = is_quizs(own.exit_code());
            let died = matches!(own, Verdict::Signalled { .. });
            if (verbosity == Verbosity::Verbose && died) || (verbosity != Verbosity::Quiet && seems_quizs) {
                say(&own.headline());
            }
            return;
        }
        Verdict::NotFound => (format!("{}: not found in the guest", record.program()), false),
        Verdict::NotExecutable { reason } => (format!("{}: cannot be executed: {reason}", record.program()), false),
        other => (other.headline(), matches!(other, Verdict::Panic { .. } | Verdict::Report { .. })),
    };
    let mut text = String::new();
    // Where a guest hangs is more informative than its last output.
    let found = matches!(outcome.verdict, Verdict::Timeout { .. }) && crash.is_some();
    if needs_console(&outcome.verdict) && !found && !outcome.console_tail.is_empty() {
        text.push_str("the console's last lines:\n");
        text.push_str(&outcome.console_tail);
    }
    if oops || needs_console(&outcome.verdict) {
        text.push_str(crash.unwrap_or_default());
    }
    if verbosity != Verbosity::Quiet {
        Patient(std::io::stderr()).write_all(visible_lines(&text).as_bytes()).ok();
    }
    say(&what);
    if needs_console(&outcome.verdict) || oops {
        say(&format!("the evidence is in {dir}"));
    }
    if outcome.dumped {
        say(&format!("the guest's memory is in {dir}/vmcore: quiz debug {}", record.id));
    }
}

/// Whether quiz uses this exit code for verdicts of its own. If a program exits with it, quiz
/// prints that.
fn is_quizs(code: u8) -> bool {
    let signals = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];
    (121..=127).contains(&code) || signals.iter().any(|signal| i32::from(code) == 128 + signal)
}

/// Whether the end of the console is more informative about this verdict than the verdict itself.
fn needs_console(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Lost { .. } | Verdict::Timeout { .. } | Verdict::Fault { .. })
}
