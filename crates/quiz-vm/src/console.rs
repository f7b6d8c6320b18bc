//! The guest's console: kept on disk within bounds, and searched for the kernel's last words.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use fs_err as fs;

/// How much is kept from the start, in bytes.
const HEAD: u64 = 32 * 1024 * 1024;
/// How much is kept from the end when there is more, in bytes.
const TAIL: usize = 1024 * 1024;
/// The longest line that is looked at, in bytes.
const LINE: usize = 4096;
/// How much of an oops is kept, in bytes.
const OOPS: usize = 256 * 1024;
/// How much is kept of what the kernel says from a mere report or stall on, so that there is room for an oops that follows, in bytes.
const REPORT: usize = 64 * 1024;
/// How many last lines are kept for a message.
const LAST_LINES: usize = 12;

/// What begins the report of a kernel in trouble. The words are those of `Documentation/admin-guide/bug-hunting.rst` and
/// of the `pr_*` calls in `kernel/panic.c`, `lib/bug.c` and the architectures' fault handlers.
const TROUBLE: &[&str] = &[
    "BUG: ",
    "Oops",
    "Internal error: ",
    "kernel BUG at ",
    "general protection fault",
    "Unable to handle kernel",
    "Kernel panic - not syncing",
    "VERIFY",
    "PANIC at ",
];

/// What begins the report of a checker that was built into the kernel, or of a warning: the kernel goes on, and something is wrong with
/// it. The words are those of `mm/kasan/report.c`, `mm/kfence/report.c`, `mm/kmsan/report.c`, `kernel/kcsan/report.c`, `lib/ubsan.c`,
/// `kernel/locking/lockdep.c`, `mm/kmemleak.c`, `kernel/sched/core.c` and `kernel/panic.c`.
const REPORTS: &[&str] = &[
    "BUG: KASAN: ",
    "BUG: KFENCE: ",
    "BUG: KMSAN: ",
    "BUG: KCSAN: ",
    "UBSAN: ",
    "WARNING: possible circular locking dependency detected",
    "WARNING: possible recursive locking detected",
    "WARNING: possible irq lock inversion dependency detected",
    "WARNING: inconsistent lock state",
    "WARNING: bad unlock balance detected",
    "WARNING: suspicious RCU usage",
    "WARNING: lock held when returning to user space",
    "BUG: sleeping function called from invalid context",
    "BUG: scheduling while atomic",
];

/// What a kernel says of tasks and processors that do not get on. The words are those of `kernel/watchdog.c`, `kernel/hung_task.c` and
/// `kernel/rcu/tree_stall.h`.
const STALLS: &[&str] =
    &["watchdog: BUG: soft lockup", "watchdog: Watchdog detected hard LOCKUP", "INFO: task ", "rcu: INFO: rcu_"];

/// Whether a kernel that says this is about to die of it, and everything that it says then is about that.
pub fn is_fatal(text: &str) -> bool {
    // OpenZFS only has the task stand still that found something wrong.
    let fatal = TROUBLE.iter().filter(|words| !["VERIFY", "PANIC at "].contains(words));
    fatal.into_iter().any(|words| text.starts_with(words)) && !is_report(text)
}

/// What a kernel says before it tells where processors and tasks stand because it was asked to.
const ASKED: &str = "sysrq: Show ";

/// What a panicking kernel prints whatever the cause.
const PANIC: &str = "Kernel panic - not syncing";

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
}

impl Console {
    /// A console that is kept in the file `path`, behind what `before` holds: the console of the VM that this one goes on from.
    pub fn create(mut log: File, before: Option<&Path>) -> io::Result<Console> {
        let before = before.map_or_else(|| Ok(Vec::new()), fs::read)?;
        log.write_all(&before)?;
        let written = before.len() as u64;
        // What was wrong with the guest that was saved is wrong with this one.
        let report =
            String::from_utf8_lossy(&before).lines().map(message).find(|text| is_report(text)).map(str::to_owned);
        Ok(Console {
            log,
            written,
            tail: VecDeque::new(),
            line: Vec::new(),
            last: VecDeque::new(),
            oops: String::new(),
            asked: String::new(),
            trouble: None,
            report,
            stall: None,
            panicked: false,
        })
    }

    /// Takes output of the guest.
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
                _ if self.line.len() < LINE => self.line.push(*byte),
                _ => {}
            }
        }
        Ok(())
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        let text = message(&line);
        self.panicked |= text.starts_with(PANIC);
        let starts = |all: &[&str]| all.iter().any(|words| text.starts_with(words));
        let (trouble, report, stall) = (starts(TROUBLE), is_report(text), starts(STALLS));
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

    /// Nothing more will come.
    pub fn finish(&mut self) -> io::Result<()> {
        if !self.line.is_empty() {
            self.end_line();
        }
        if !self.tail.is_empty() {
            writeln!(self.log, "\n… the console said more than {} MiB; what follows is its end …", HEAD >> 20)?;
            let (a, b) = self.tail.as_slices();
            self.log.write_all(a)?;
            self.log.write_all(b)?;
            self.tail.clear();
        }
        self.log.flush()
    }

    /// The kernel said that it panicked.
    pub fn panicked(&self) -> bool {
        self.panicked
    }

    /// The first line of the first report of a checker, or of the first warning.
    pub fn report(&self) -> Option<&str> {
        self.report.as_deref()
    }

    /// The first line about something that does not get on.
    pub fn stall(&self) -> Option<&str> {
        self.stall.as_deref()
    }

    /// The first line that says that the kernel is in trouble.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The line that tells most of what was wrong.
    pub fn headline(&self) -> Option<&str> {
        self.trouble().or(self.report()).or(self.stall())
    }

    /// What the kernel said of where processors and tasks stand, because it was asked; empty if it was not.
    pub fn asked(&self) -> &str {
        &self.asked
    }

    /// From the first sign of trouble, report of a checker or stall on; empty without one.
    pub fn oops(&self) -> &str {
        &self.oops
    }

    /// The last lines.
    pub fn last_lines(&self) -> String {
        self.last.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// Whether a kernel message is the first line of a report.
fn is_report(text: &str) -> bool {
    REPORTS.iter().any(|words| text.starts_with(words))
        || (text.starts_with("kmemleak: ") && text.contains("new suspected memory leaks"))
        // Of `WARN()`, which names the place in the code; others warn of their users' matters in the same word.
        || (text.starts_with("WARNING: ") && text.contains("+0x"))
}

/// The kernel's message in `line`, without indentation.
fn message(line: &str) -> &str {
    quiz_symbols::line::message(line).trim_start()
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
    fn warnings_and_leaks_are_reports() {
        for text in
            ["WARNING: CPU: 1 PID: 7 at fs/x.c:3 f+0x1/0x2", "kmemleak: 3 new suspected memory leaks (see /sys)"]
        {
            assert!(is_report(text), "{text}");
        }
    }

    #[test]
    fn what_the_kernel_prints_in_front_of_a_message_does_not_hide_it_and_brackets_of_its_own_stay() {
        for prefix in ["", "<4>", "[    1.234567] ", "[    1.234567][  T123] ", "[    C0] "] {
            let (_dir, mut c) = console();
            c.push(
                format!("{prefix}[ BUG: Invalid wait context ]\n{prefix}UBSAN: shift\n{prefix}Oops: 0002\n").as_bytes(),
            )
            .unwrap();
            assert_eq!((c.report(), c.trouble()), (Some("UBSAN: shift"), Some("Oops: 0002")), "{prefix}");
            assert_eq!(message(&format!("{prefix}[ BUG: Invalid wait context ]")), "[ BUG: Invalid wait context ]");
        }
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
