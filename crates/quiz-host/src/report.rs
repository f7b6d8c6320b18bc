//! How long work speaks: lines that the user should read, and progress. Not for rendering, which is
//! the program's business.

/// Receives what long work has to say. Implementations may be called from several threads.
pub trait Report: Sync {
    /// One line that the user should read, without a prefix or newline.
    fn say(&self, line: &str);

    /// Something that the user did not ask about and should know.
    fn warn(&self, line: &str) {
        self.say(&format!("warning: {line}"));
    }

    /// A piece of work begins: `what` in a few words ("downloading linux-6.12.30.tar.xz"), `total`
    /// if known, counted in `unit`.
    fn start(&self, what: &str, total: Option<u64>, unit: Unit) -> Box<dyn Progress>;
}

/// One piece of work under way. Dropping it without [`Progress::done`] means that the work failed.
pub trait Progress: Send {
    /// `done` units of the total are behind us.
    fn at(&self, done: u64);
    /// The total became known, or changed.
    fn total(&self, total: u64);
    /// What is being worked on right now; a later note replaces it.
    fn note(&self, text: &str);
    /// The work has succeeded.
    fn done(self: Box<Self>);
}

/// What a progress counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things, with their plural name ("objects").
    Items(&'static str),
    /// Nothing countable: the work either goes on or is done.
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

/// Says nothing.
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
