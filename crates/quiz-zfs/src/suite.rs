//! The ZFS test suite of a checkout: run files, selections, results, and the suite's own judgement.
//! Not for running it: that needs a VM.

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
