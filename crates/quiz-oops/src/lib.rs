//! A kernel's last words: the message in a line of the console (`line`), which messages begin a report (`classify`), what a report says
//! (`report`), where each frame lies in the source (`debug`), which files know that (`find`), and how it is shown (`render`). Not for reading the
//! console: the supervisor does that.
//!
//! ```text
//! text ─ report::frames ─► Frame (function, offset, size, module) ─ find, debug ─► Place (function, file, line; inlined ones first)
//!      └ report::Report ─► headline, culprit, call trace, taint, command
//! ```

pub mod classify;
pub mod debug;
pub mod find;
pub mod line;
pub mod render;
pub mod report;
pub mod taint;

pub use find::{Origins, Symbols};
pub use report::{Frame, Report};

/// A place in the source.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// The function's name.
    pub function: String,
    /// The source file, as short as it can be told.
    pub file: String,
    /// The line, from 1 on.
    pub line: u32,
}

/// Where a frame is, the innermost inlined function first.
pub type Places = Vec<Place>;

/// Of a frame's places the one that tells most: outside of headers, whose functions are everybody's.
pub fn telling(places: &[Place]) -> Option<&Place> {
    places.iter().find(|place| !place.file.ends_with(".h")).or(places.first())
}
