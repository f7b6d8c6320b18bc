//! Shows the progress of long work on standard error: bars on a terminal, plain lines elsewhere.
//! Not for errors (see `errors`).

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use quiz_config::Verbosity;
use quiz_host::report::{Progress, Report, Silent, Unit};
use quiz_host::stream::Patient;
use quiz_vm::visible::visible_lines;

use crate::output::size;

/// The time between two lines about the same work, if there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Work that takes less than this gets no line at its end.
const WORTH_TELLING: Duration = Duration::from_secs(5);

/// Where quiz's own messages go.
#[derive(Debug)]
pub struct Terminal {
    show: Show,
}

#[derive(Debug)]
enum Show {
    Nothing,
    Lines,
    Bars(MultiProgress),
}

impl Terminal {
    /// Returns the one for this process's stderr.
    pub fn new(verbosity: Verbosity) -> Terminal {
        let show = if verbosity == Verbosity::Quiet {
            Show::Nothing
        } else if std::io::stderr().is_terminal() {
            Show::Bars(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
        } else {
            Show::Lines
        };
        Terminal { show }
    }
}

/// Prints a line on stderr, in any verbosity.
pub fn print(line: &str) {
    // Without stderr, there is nowhere to report the error.
    let _told = Patient(std::io::stderr()).write_all(format!("quiz: {}\n", visible_lines(line)).as_bytes());
}

impl Report for Terminal {
    fn say(&self, line: &str) {
        match &self.show {
            Show::Nothing => {}
            Show::Lines => print(line),
            Show::Bars(bars) => bars.suspend(|| print(line)),
        }
    }

    fn start(&self, what: &str, total: Option<u64>, unit: Unit) -> Box<dyn Progress> {
        match &self.show {
            Show::Nothing => Box::new(Silent),
            Show::Lines => Box::new(Lines::new(what, total, unit, print)),
            Show::Bars(bars) => Box::new(Bar::new(bars, what, total, unit)),
        }
    }
}

/// Work that a bar shows.
struct Bar {
    bar: ProgressBar,
    unit: Unit,
}

impl Bar {
    fn new(bars: &MultiProgress, what: &str, total: Option<u64>, unit: Unit) -> Bar {
        let bar = bars.add(ProgressBar::new(total.unwrap_or(0)));
        let bar = Bar { bar, unit };
        bar.style(total);
        bar.bar.set_prefix(what.to_owned());
        bar.bar.enable_steady_tick(Duration::from_millis(125));
        bar
    }

    fn style(&self, total: Option<u64>) {
        let counted = match (self.unit, total) {
            (Unit::Bytes, Some(_)) => "{bar:24} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}".to_owned(),
            (Unit::Bytes, None) => "{binary_bytes} {binary_bytes_per_sec}".to_owned(),
            (Unit::Items(name), Some(_)) => format!("{{bar:24}} {{pos}}/{{len}} {name}"),
            (Unit::Items(name), None) => format!("{{pos}} {name}"),
            (Unit::None, _) => "{elapsed}".to_owned(),
        };
        let template = format!("quiz: {{spinner}} {{prefix}} {counted} {{wide_msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style);
    }
}

impl Progress for Bar {
    fn at(&self, done: u64) {
        self.bar.set_position(done);
    }

    fn total(&self, total: u64) {
        self.bar.set_length(total);
        self.style(Some(total));
    }

    fn note(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    fn done(self: Box<Self>) {}
}

impl Drop for Bar {
    /// Removes the bar, whether the work succeeded or failed. Lines report the result.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Work that a few lines show.
struct Lines<P> {
    what: String,
    total: Cell<Option<u64>>,
    unit: Unit,
    begun: Instant,
    told: Cell<Instant>,
    note: RefCell<String>,
    print: P,
}

impl<P: Fn(&str) + Send> Lines<P> {
    fn new(what: &str, total: Option<u64>, unit: Unit, print: P) -> Lines<P> {
        print(what);
        let now = Instant::now();
        Lines {
            what: what.to_owned(),
            total: Cell::new(total),
            unit,
            begun: now,
            told: Cell::new(now),
            note: RefCell::new(String::new()),
            print,
        }
    }

    /// Prints how far the work is at `now`, unless it has printed that just before.
    fn tell(&self, done: Option<u64>, now: Instant) {
        if now.duration_since(self.told.get()) < BETWEEN_LINES {
            return;
        }
        self.told.set(now);
        let counted = match (done, self.total.get().filter(|total| *total > 0), self.unit) {
            (Some(done), Some(total), _) => format!(": {} %", u128::from(done) * 100 / u128::from(total)),
            (Some(done), None, Unit::Bytes) => format!(": {}", size(done)),
            (Some(done), None, Unit::Items(name)) => format!(": {done} {name}"),
            _ => String::new(),
        };
        let note = self.note.borrow();
        let note = if counted.is_empty() && !note.is_empty() { format!(": {note}") } else { String::new() };
        (self.print)(&format!("{}{counted}{note}", self.what));
    }
}

impl<P: Fn(&str) + Send> Progress for Lines<P> {
    fn at(&self, done: u64) {
        self.tell(Some(done), Instant::now());
    }

    fn total(&self, total: u64) {
        self.total.set(Some(total));
    }

    fn note(&self, text: &str) {
        self.note.replace(text.to_owned());
        if self.unit == Unit::None {
            self.tell(None, Instant::now());
        }
    }

    fn done(self: Box<Self>) {
        let took = self.begun.elapsed();
        if took >= WORTH_TELLING {
            (self.print)(&format!("{}: done in {} s", self.what, took.as_secs()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn lines_come_at_most_every_few_seconds() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&told);
        let lines = Lines::new("downloading x", None, Unit::Bytes, move |line: &str| {
            into.lock().expect("no test thread panics").push(line.to_owned());
        });
        let at = |seconds| lines.begun + Duration::from_secs(seconds);
        lines.tell(Some(1), at(1));
        lines.tell(Some(3 << 20), at(6));
        lines.total(6 << 20);
        lines.tell(Some(4 << 20), at(10));
        lines.tell(Some(5 << 20), at(12));
        let told = told.lock().expect("no test thread panics");
        assert_eq!(*told, ["downloading x", "downloading x: 3.0 MiB", "downloading x: 83 %"]);
    }

    #[test]
    fn a_note_tells_where_nothing_is_counted() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&told);
        let lines = Lines::new("making a root", None, Unit::None, move |line: &str| {
            into.lock().expect("no test thread panics").push(line.to_owned());
        });
        lines.note("unpacking bash");
        lines.tell(None, lines.begun + Duration::from_secs(7));
        let told = told.lock().expect("no test thread panics");
        assert_eq!(*told, ["making a root", "making a root: unpacking bash"]);
    }
}
