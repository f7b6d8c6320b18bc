//! Reads the reports of a kernel in trouble. Not for reading the console: the supervisor does that.
//!
//! - `line` finds the message in a line of the console.
//! - `classify` decides which messages begin a report.
//! - `report` reads the report.
//! - `find` finds the files with debug information, and `debug` looks up each frame's source there.
//! - `render` prints the result.
//!
//! ```text
//! text ─ report::frame ─► Frame ─ find, debug ─► Place (innermost inlined function first)
//!      └ report::Report ─► headline, culprit, call trace, taint, task
//! ```

pub mod classify;
pub mod debug;
pub mod find;
pub mod line;
mod place;
pub mod render;
pub mod report;
pub mod taint;

pub use find::{Origins, Symbols};
pub use place::{Place, Places, telling};
pub use report::{Frame, Report};
