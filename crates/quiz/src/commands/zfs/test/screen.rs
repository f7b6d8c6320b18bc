//! The display while the suite runs: a line for each test that has ended, and on a terminal also
//! the running test.
//!
//! A thread of its own writes, from a bounded queue. A terminal that is not read must not delay the
//! VM's supervisor. Not for the table at the end.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quiz_config::Verbosity;
use quiz_vm::supervise::Notice;
use quiz_zfs::suite::{Course, Finished, Outcome, result};

use quiz_run::{Context, Fault};

/// How many pieces may wait in the queue.
const QUEUE: usize = 1024;
/// The longest line, in bytes. Readable ones are shorter.
const LINE: usize = 64 * 1024;

/// Something to show.
pub enum Piece {
    /// A test has ended.
    Finished(Finished),
    /// Another test is running.
    Begun,
    /// A line of the suite's launcher.
    Launcher(String),
    /// Standard error of the suite or its tests.
    Errors(Vec<u8>),
    /// Output of the guest's console.
    Console(Vec<u8>),
    /// A message of the guest's kernel.
    Kernel(String),
    /// A line of quiz's own.
    Note(String),
}

/// Shows the pieces that arrive.
pub struct Screen {
    sender: SyncSender<Piece>,
    writer: JoinHandle<()>,
}

impl Screen {
    /// Starts a screen for `course`.
    pub fn start(course: &Arc<Mutex<Course>>, ctx: &Context) -> io::Result<Screen> {
        let (sender, pieces) = sync_channel(QUEUE);
        let view = View {
            course: Arc::clone(course),
            verbosity: ctx.verbosity,
            // In this case, standard output is for the record.
            json: ctx.json,
            bar: None,
            failed: 0,
        };
        let writer = thread::Builder::new().spawn(move || view.show_all(&pieces))?;
        Ok(Screen { sender, writer })
    }

    /// Returns a sender of pieces.
    pub fn sender(&self) -> SyncSender<Piece> {
        self.sender.clone()
    }

    /// Ends the screen after showing all pieces. All other senders must be dropped before.
    pub fn finish(self) {
        drop(self.sender);
        // A writer that panicked has nothing more to show.
        self.writer.join().ok();
    }
}

fn bar(course: &Mutex<Course>, verbosity: Verbosity) -> Option<ProgressBar> {
    if verbosity == Verbosity::Quiet || !io::stderr().is_terminal() {
        return None;
    }
    let total = course.lock().unwrap_or_else(PoisonError::into_inner).total();
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("quiz: {spinner} {pos}/{len} {bar:20} {elapsed} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(125));
    Some(bar)
}

struct View {
    course: Arc<Mutex<Course>>,
    verbosity: Verbosity,
    json: bool,
    bar: Option<ProgressBar>,
    failed: usize,
}

impl View {
    fn show_all(mut self, pieces: &Receiver<Piece>) {
        for piece in pieces {
            // Wait for the guest: its preparation may show bars of its own.
            if self.bar.is_none() {
                self.bar = bar(&self.course, self.verbosity);
            }
            self.show(piece);
            if let Some(bar) = &self.bar {
                let course = self.course.lock().unwrap_or_else(PoisonError::into_inner);
                bar.set_position(course.finished().len() as u64);
                let failed = if self.failed == 0 { String::new() } else { format!("{} not passed · ", self.failed) };
                let running =
                    if course.started() { course.running().unwrap_or_default() } else { "setting up the guest" };
                bar.set_message(format!("{failed}{running}"));
            }
        }
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn show(&mut self, piece: Piece) {
        let verbose = self.verbosity == Verbosity::Verbose;
        let quiet = self.verbosity == Verbosity::Quiet;
        match piece {
            Piece::Finished(test) => {
                let passed = test.result == Outcome::Pass;
                self.failed += usize::from(!passed);
                if !quiet || !passed {
                    self.print(self.json, line(&test).as_bytes());
                }
            }
            Piece::Begun => {}
            Piece::Launcher(text) if verbose || text.starts_with("Warning:") => {
                self.print(true, format!("{text}\n").as_bytes())
            }
            Piece::Errors(bytes) => self.print(true, &bytes),
            Piece::Console(bytes) if verbose => self.print(true, &bytes),
            Piece::Kernel(text) if !verbose && !quiet => self.print(true, format!("kernel: {text}\n").as_bytes()),
            Piece::Note(text) if !quiet => self.print(true, format!("quiz: {text}\n").as_bytes()),
            Piece::Launcher(_) | Piece::Console(_) | Piece::Kernel(_) | Piece::Note(_) => {}
        }
    }

    fn print(&self, to_stderr: bool, bytes: &[u8]) {
        // If the reader is gone, there is nowhere to report the error.
        let print = || match to_stderr {
            true => io::stderr().write_all(bytes).ok(),
            false => io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()).ok(),
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        };
    }
}

fn line(test: &Finished) -> String {
    let user = if test.user == "root" { String::new() } else { format!(" (as {})", test.user) };
    format!("{:<6} {:>5}  {}{user}\n", test.result.word(), time(test.seconds), test.name)
}

/// Formats a time as minutes and seconds.
pub fn time(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// Reads the guest's output, and updates the course.
pub struct Watcher {
    course: Arc<Mutex<Course>>,
    sender: SyncSender<Piece>,
    console: Lines,
}

impl Watcher {
    /// Makes a watcher that shows through `sender`.
    pub fn new(course: Arc<Mutex<Course>>, sender: SyncSender<Piece>) -> Watcher {
        Watcher { course, sender, console: Lines::default() }
    }

    /// Returns a writer for the suite's standard output, which also goes to the file `log`.
    pub fn output(&self, log: &Path) -> Result<Box<dyn Write + Send>, Fault> {
        let (log, _) = fs_err::File::create(log)?.into_parts();
        Ok(Box::new(Output {
            course: Arc::clone(&self.course),
            sender: self.sender.clone(),
            log,
            lines: Lines::default(),
        }))
    }

    /// Returns a writer for the suite's standard error.
    pub fn errors(&self) -> Box<dyn Write + Send> {
        Box::new(Errors(self.sender.clone()))
    }

    /// Takes a notice of the supervisor. It must not block.
    pub fn hear(&mut self, notice: Notice) {
        let piece = match notice {
            Notice::Console(bytes) => {
                let course = &self.course;
                let mut begun = false;
                self.console.take(bytes, |line| {
                    if let Some(name) = result::began(line) {
                        course.lock().unwrap_or_else(PoisonError::into_inner).begin(&name);
                        begun = true;
                    }
                });
                if begun {
                    self.sender.try_send(Piece::Begun).ok();
                }
                Piece::Console(bytes.to_vec())
            }
            Notice::Kernel { text, .. } => Piece::Kernel(text.to_owned()),
            Notice::Note(text) => Piece::Note(text.to_owned()),
        };
        // console.log has what does not fit.
        self.sender.try_send(piece).ok();
    }
}

struct Output {
    course: Arc<Mutex<Course>>,
    sender: SyncSender<Piece>,
    log: std::fs::File,
    lines: Lines,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.log.write_all(bytes)?;
        let Output { course, sender, lines, .. } = self;
        lines.take(bytes, |line| {
            let piece = match result::finished(line) {
                Some(test) => {
                    course.lock().unwrap_or_else(PoisonError::into_inner).finish(test.clone());
                    Piece::Finished(test)
                }
                None => {
                    course.lock().unwrap_or_else(PoisonError::into_inner).remark(line);
                    Piece::Launcher(line.to_owned())
                }
            };
            // The screen outlives the run.
            sender.send(piece).ok();
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Errors(SyncSender<Piece>);

impl Write for Errors {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(Piece::Errors(bytes.to_vec())).ok();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Splits a stream into lines, and truncates overlong ones.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], mut found: impl FnMut(&str)) {
        for &byte in bytes {
            if byte == b'\n' {
                found(String::from_utf8_lossy(&self.rest).trim_end_matches('\r'));
                self.rest.clear();
            } else if self.rest.len() < LINE {
                self.rest.push(byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_pieces() {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in [&b"one\r\ntw"[..], b"o\n", b"\nthr\xffee"] {
            lines.take(piece, |line| found.push(line.to_owned()));
        }
        lines.take(b"!\n", |line| found.push(line.to_owned()));
        assert_eq!(found, ["one", "two", "", "thr\u{fffd}ee!"]);
        lines.take(&vec![b'x'; 3 * LINE], |_| panic!("there is no end of a line"));
        assert!(lines.rest.len() <= LINE);
    }

    #[test]
    fn a_test_is_one_line() {
        let log =
            "Test: /usr/share/zfs/zfs-tests/tests/functional/cli_user/misc/zfs_001_neg (run as tester) [01:05] [FAIL]";
        let test = result::finished(log).unwrap();
        assert_eq!(line(&test), "FAIL    1:05  cli_user/misc/zfs_001_neg (as tester)\n");
    }
}
