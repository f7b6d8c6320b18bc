//! The guest's console: stored on disk within limits, and searched for reports of the kernel. Not
//! for classifying messages (`quiz_oops`).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use fs_err as fs;
use quiz_oops::line;

use quiz_oops::classify;

/// How many bytes are kept from the start.
const HEAD: u64 = 32 * 1024 * 1024;
/// How many bytes are kept from the end, if there are more.
const TAIL: usize = 1024 * 1024;
/// The longest line that is searched, in bytes.
const LINE: usize = 4096;
/// How many bytes of an oops are kept.
const OOPS: usize = 256 * 1024;
/// How many bytes are kept from a mere report or stall on. The rest of [`OOPS`] is for an oops that
/// may follow.
const REPORT: usize = 64 * 1024;
/// How many of the last lines are kept for a message.
const LAST_LINES: usize = 12;

/// How the kernel begins its list of processors and tasks after a sysrq request.
const ASKED: &str = "sysrq: Show ";

/// The console of one run.
pub struct Console {
    log: File,
    written: u64,
    tail: VecDeque<u8>,
    line: Vec<u8>,
    last: VecDeque<String>,
    oops: String,
    asked: String,
    trouble: Option<String>,
    report: Option<String>,
    stall: Option<String>,
    panicked: bool,
    /// Whether the kernel puts time stamps in front of its messages.
    stamps: bool,
    strict: Strict,
    /// The same for the kernel's log, with the text from its first report on.
    logged: Strict,
    logged_text: String,
}

/// Finds the first message for which a strict run fails.
#[derive(Default)]
struct Strict {
    first: Option<String>,
    /// The last line announced such a message.
    announced: bool,
}

impl Strict {
    fn look_at(&mut self, message: &str) {
        if self.first.is_none() {
            let is_announcement = message.starts_with(classify::CUT);
            if !is_announcement && (self.announced || classify::is_any(message)) {
                self.first = Some(message.to_owned());
            }
            self.announced = is_announcement;
        }
    }

    fn first(&self) -> Option<&str> {
        self.first.as_deref().or(self.announced.then_some(classify::CUT))
    }
}

impl Console {
    /// A console stored in `log`, after the content of `before`: the console log of the VM that
    /// this one resumes from.
    ///
    /// # Errors
    /// If `before` cannot be read or `log` cannot be written.
    pub fn create(mut log: File, before: Option<&Path>) -> io::Result<Console> {
        let before = before.map_or_else(|| Ok(Vec::new()), fs::read)?;
        log.write_all(&before)?;
        let written = before.len() as u64;
        let mut console = Console {
            log,
            written,
            tail: VecDeque::new(),
            line: Vec::new(),
            last: VecDeque::new(),
            oops: String::new(),
            asked: String::new(),
            trouble: None,
            report: None,
            stall: None,
            panicked: false,
            stamps: false,
            strict: Strict::default(),
            logged: Strict::default(),
            logged_text: String::new(),
        };
        // Reports of the saved guest also count for this one.
        for line in String::from_utf8_lossy(&before).lines() {
            let text = console.judge(line);
            if console.report.is_none() && classify::is_report(text) {
                console.report = Some(text.to_owned());
            }
        }
        Ok(console)
    }

    /// Adds output of the guest.
    ///
    /// # Errors
    /// If the log cannot be written.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = usize::try_from(HEAD.saturating_sub(self.written)).unwrap_or(usize::MAX);
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.log.write_all(head)?;
        self.written += head.len() as u64;
        self.tail.extend(rest);
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                b'\r' => {}
                _ => {
                    if self.line.len() == 2 * LINE {
                        // A program has written this without a newline. A message of the kernel may
                        // follow on the same line.
                        self.line.splice(..LINE, "…".bytes());
                    }
                    self.line.push(*byte);
                }
            }
        }
        Ok(())
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        let text = self.judge(&line);
        // The kernel also prints this at the end of its report. Without time stamps, it may follow
        // output of a program on the same line.
        self.panicked |= text.contains(classify::PANIC);
        let (trouble, report, stall) =
            (classify::is_trouble(text), classify::is_report(text), classify::is_stall(text));
        for (is_it, first) in [(trouble, &mut self.trouble), (report, &mut self.report), (stall, &mut self.stall)] {
            if is_it && first.is_none() {
                *first = Some(text.to_owned());
            }
        }
        let limit = if self.trouble.is_some() { OOPS } else { REPORT };
        if (trouble || report || stall || !self.oops.is_empty()) && self.oops.len() < limit {
            self.oops.push_str(&line);
            self.oops.push('\n');
        }
        if (text.starts_with(ASKED) || !self.asked.is_empty()) && self.asked.len() < OOPS {
            self.asked.push_str(&line);
            self.asked.push('\n');
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// Searches a line for messages that fail a strict run. Returns the message in the line.
    fn judge<'a>(&mut self, line: &'a str) -> &'a str {
        let line::Line { message, stamped } = line::read(line);
        self.stamps |= stamped;
        let text = message.trim_start();
        // If the kernel's messages have time stamps, a line without one is from a program.
        if stamped || !self.stamps {
            self.strict.look_at(text);
        }
        text
    }

    /// Adds messages of the kernel's log, one a line. Some of them may not have reached the
    /// console.
    pub fn log(&mut self, messages: &str) {
        for text in messages.lines() {
            self.logged.look_at(text.trim_start());
            if self.logged.first().is_some() && self.logged_text.len() < REPORT {
                self.logged_text.push_str(text);
                self.logged_text.push('\n');
            }
        }
    }

    /// Completes the log. No more output follows.
    ///
    /// # Errors
    /// If the log cannot be written.
    pub fn finish(&mut self) -> io::Result<()> {
        if !self.line.is_empty() {
            self.end_line();
        }
        if !self.tail.is_empty() {
            writeln!(self.log, "\n… more than {} MiB of console output; the end follows …", HEAD >> 20)?;
            let (a, b) = self.tail.as_slices();
            self.log.write_all(a)?;
            self.log.write_all(b)?;
            self.tail.clear();
        }
        self.log.flush()
    }

    /// Whether the kernel reported a panic.
    pub fn panicked(&self) -> bool {
        self.panicked
    }

    /// The first line of the first report of a checker, or of the first warning.
    pub fn report(&self) -> Option<&str> {
        self.report.as_deref()
    }

    /// The first message for which a strict run fails, on the console or in the kernel's log.
    pub fn strict(&self) -> Option<&str> {
        self.strict.first().or(self.logged.first())
    }

    /// The first line about a hung task or processor.
    pub fn stall(&self) -> Option<&str> {
        self.stall.as_deref()
    }

    /// The first line that reports that the kernel is in trouble.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The most important line about the failure.
    pub fn headline(&self) -> Option<&str> {
        self.trouble().or(self.report()).or(self.stall()).or(self.strict())
    }

    /// What the kernel printed about processors and tasks after a sysrq request; empty if there was
    /// none.
    pub fn asked(&self) -> &str {
        &self.asked
    }

    /// The output from the first sign of trouble, report of a checker or stall on; empty without
    /// one.
    pub fn oops(&self) -> &str {
        if self.oops.is_empty() { &self.logged_text } else { &self.oops }
    }

    pub fn last_lines(&self) -> String {
        self.last.iter().map(|line| format!("{line}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console() -> (tempfile::TempDir, Console) {
        let dir = tempfile::tempdir().unwrap();
        let console =
            Console::create(fs::File::create(dir.path().join("console.log")).unwrap().into_parts().0, None).unwrap();
        (dir, console)
    }

    #[test]
    fn an_oops_is_kept_from_its_first_line() {
        let (_dir, mut c) = console();
        c.push(b"[    1.0] all is well\r\n[    2.0][  T1] BUG: kernel NULL pointer").unwrap();
        c.push(b" dereference\r\n[    2.1] Call Trace:\n[    2.2] Kernel panic - not syncing: Fatal exception")
            .unwrap();
        assert!(!c.panicked());
        c.finish().unwrap();
        assert!(c.panicked());
        assert_eq!(c.oops().lines().count(), 3);
        assert!(c.oops().starts_with("[    2.0][  T1] BUG: kernel NULL"));
        assert_eq!(c.trouble(), Some("BUG: kernel NULL pointer dereference"));
    }

    #[test]
    fn a_long_report_leaves_room_for_the_oops_after_it() {
        let (_dir, mut c) = console();
        c.push(b"[ 1.0] INFO: task sh:12 blocked for more than 10 seconds.\n").unwrap();
        for _ in 0..OOPS / 10 {
            c.push(b"[ 1.0] and more\n").unwrap();
        }
        c.push(b"[ 2.0] BUG: kernel NULL pointer dereference\n[ 2.0] Call Trace:\n").unwrap();
        assert!(c.oops().len() < OOPS / 2 && c.oops().ends_with("Call Trace:\n"));
    }

    #[test]
    fn reports_and_stalls_are_told_from_an_oops() {
        let (_dir, mut c) = console();
        c.push(b"[ 1.0] INFO: lockdep is turned off.\n[ 1.0] rcu: Hierarchical RCU implementation.\n").unwrap();
        c.push(b"[ 1.0] kmemleak: Kernel memory leak detector initialized\n[ 1.0] WARNING: Pool 'tank' has\n").unwrap();
        assert_eq!((c.report(), c.stall()), (None, None));
        c.push(b"[ 2.0][ T7] UBSAN: array-index-out-of-bounds in a.c:3:4\n[ 3.0] BUG: KASAN: double-free in f\n")
            .unwrap();
        c.push(b"[ 4.0] INFO: task sh:12 blocked for more than 10 seconds.\n").unwrap();
        assert_eq!(c.report(), Some("UBSAN: array-index-out-of-bounds in a.c:3:4"));
        assert_eq!(c.stall(), Some("INFO: task sh:12 blocked for more than 10 seconds."));
    }

    #[test]
    fn what_the_kernel_prints_in_front_of_a_message_does_not_hide_it_and_brackets_of_its_own_stay() {
        for prefix in ["", "<4>", "[    1.234567] ", "[    1.234567][  T123] ", "[    C0] "] {
            let (_dir, mut c) = console();
            c.push(
                format!("{prefix}[ BUG: Invalid wait context ]\n{prefix}UBSAN: shift\n{prefix}Oops: 0002\n").as_bytes(),
            )
            .unwrap();
            let wanted = (Some("[ BUG: Invalid wait context ]"), Some("Oops: 0002"));
            assert_eq!((c.report(), c.trouble()), wanted, "{prefix}");
        }
    }

    #[test]
    fn what_follows_a_line_that_has_not_ended_is_seen() {
        for before in ["login: ", "# ", &"x".repeat(3 * LINE)] {
            let (_dir, mut c) = console();
            c.push(format!("{before}[    2.0] BUG: KASAN: double-free in f\r\n").as_bytes()).unwrap();
            assert_eq!(c.strict(), Some("BUG: KASAN: double-free in f"));
            c.push(format!("{before}[    3.0] Kernel panic - not syncing: x\r\n").as_bytes()).unwrap();
            assert!(c.panicked());
            assert!(c.line.capacity() <= 4 * LINE);
        }
    }

    #[test]
    fn a_program_that_writes_to_the_console_is_not_the_kernel() {
        let (_dir, mut c) = console();
        c.push(b"BUG: KASAN: this kernel has no stamps\n").unwrap();
        assert!(c.strict().is_some());
        let (_dir, mut c) = console();
        c.push(b"[    1.000000] Linux version 6\nBUG: of a program\n").unwrap();
        assert_eq!(c.strict(), None);
    }

    #[test]
    fn whatever_follows_the_cut_of_a_warning_counts() {
        let (_dir, mut c) = console();
        c.push(b"[ 1.0] ------------[ cut here ]------------\n").unwrap();
        assert_eq!(c.strict(), Some(classify::CUT));
        c.push(b"[ 1.0] the wheel is not round\n[ 1.0] WARNING: CPU: 1 PID: 7 at fs/x.c:3 f+0x1/0x2\n").unwrap();
        assert_eq!(c.strict(), Some("the wheel is not round"));
        assert_eq!(c.report(), Some("WARNING: CPU: 1 PID: 7 at fs/x.c:3 f+0x1/0x2"));
    }

    #[test]
    fn what_only_the_log_has_counts_too() {
        let (_dir, mut c) = console();
        c.push(b"[    1.000000] all is well\n").unwrap();
        c.log("all is well\nWARNING: bad contention detected!\nsh/7 is trying\n");
        assert_eq!(c.strict(), Some("WARNING: bad contention detected!"));
        assert_eq!(c.headline(), c.strict());
        assert_eq!(c.oops(), "WARNING: bad contention detected!\nsh/7 is trying\n");
        for _ in 0..REPORT {
            c.log("and more\n");
        }
        assert!(c.logged_text.len() < REPORT + 100);
    }

    #[test]
    fn ordinary_words_are_no_oops() {
        let (_dir, mut c) = console();
        c.push(b"[ 1.0] debug: BUG: is a word here\n[ 1.0] cpu_bugs: fine\n").unwrap();
        assert_eq!(c.oops(), "");
    }

    #[test]
    fn an_endless_console_is_bounded_and_keeps_its_end() {
        let (dir, mut c) = console();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..(HEAD / 1024 + 4096) {
            c.push(&line).unwrap();
        }
        c.push(b"the very last\n").unwrap();
        assert!(c.tail.len() <= TAIL);
        c.finish().unwrap();
        let kept = fs::read(dir.path().join("console.log")).unwrap();
        assert!(kept.len() as u64 <= HEAD + TAIL as u64 + 200);
        assert!(kept.ends_with(b"the very last\n"));
    }
}
