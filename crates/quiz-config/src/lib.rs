//! Layers of configuration, and the plain [`RunSpec`] that they end in.
//!
//! Not for reading the environment, `$HOME` or the command line: callers hand those over as data.

pub mod spec;

pub use spec::{AccelChoice, DiskSpec, RunSpec, ShareSpec, Verbosity, WorktreeMode};
