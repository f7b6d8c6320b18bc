//! The ZFS test suite of a checkout: its run files, what of them a selection means, the results,
//! and what the suite itself makes of them. Not for running it: that takes a VM.

pub mod course;
mod fraction;
pub mod judge;
pub mod result;
pub mod runfile;
pub mod select;

pub use course::{Course, Step};
pub use judge::{JudgeError, Judgement, Row};
pub use result::{Finished, Outcome, Remarks};
pub use runfile::{Group, RunFileError};
pub use select::{SelectError, Selection, Suite};
