//! Receives reports of the libraries: progress as plain lines, and the reason why a cache entry was
//! not made.

use quiz_host::{Progress, Report, StoreError, Unit};

/// Prints each piece of work on a line of its own.
pub struct Lines;

impl Report for Lines {
    fn say(&self, line: &str) {
        eprintln!("xtask: {line}");
    }

    fn start(&self, what: &str, _total: Option<u64>, _unit: Unit) -> Box<dyn Progress> {
        eprintln!("xtask: {what}");
        quiz_host::Silent.start(what, None, Unit::None)
    }
}

/// The reason why a cache entry was not made.
pub struct Failed(pub String);

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Failed {
        Failed(error.to_string())
    }
}
