//! A kernel's last words: the message in a line of the console (`line`), which messages begin a
//! report (`classify`), what a report says (`report`), where each frame lies in the source
//! (`debug`), which files know that (`find`), and how it is shown (`render`). Not for reading the
//! console: the supervisor does that.
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
