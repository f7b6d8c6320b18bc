//! How long work reports to the user: lines of text, and progress. Not for rendering, which the
//! `quiz` program does.

/// Receives reports of long work. Implementations may be called from several threads.
pub trait Report: Sync {
    /// One line that the user should read, without a prefix or newline.
    fn say(&self, line: &str);

    /// Reports a warning: something that the user should know without having asked.
    fn warn(&self, line: &str) {
        self.say(&format!("warning: {line}"));
    }

    /// Starts the progress of one piece of work. `what` names it in a few words ("downloading
    /// linux-6.12.30.tar.xz"). `total` is counted in `unit`, if known.
    fn start(&self, what: &str, total: Option<u64>, unit: Unit) -> Box<dyn Progress>;
}

/// One piece of work under way. Dropping it without [`Progress::done`] means that the work failed.
pub trait Progress: Send {
    /// `done` units of the total are complete.
    fn at(&self, done: u64);
    /// The total became known, or changed.
    fn total(&self, total: u64);
    /// What is being worked on now. It replaces the last note.
    fn note(&self, text: &str);
    /// The work has succeeded.
    fn done(self: Box<Self>);
}

/// The unit of a progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things, by their plural name ("objects").
    Items(&'static str),
    /// Nothing countable: the work is either under way or done.
    None,
}

impl<R: Report + ?Sized> Report for Box<R> {
    fn say(&self, line: &str) {
        (**self).say(line);
    }

    fn start(&self, what: &str, total: Option<u64>, unit: Unit) -> Box<dyn Progress> {
        (**self).start(what, total, unit)
    }
}

/// Discards all reports.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Report for Silent {
    fn say(&self, _line: &str) {}

    fn start(&self, _what: &str, _total: Option<u64>, _unit: Unit) -> Box<dyn Progress> {
        Box::new(Silent)
    }
}

impl Progress for Silent {
    fn at(&self, _done: u64) {}
    fn total(&self, _total: u64) {}
    fn note(&self, _text: &str) {}
    fn done(self: Box<Self>) {}
}
