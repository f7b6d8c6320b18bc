//! Everything about the host that quiz runs on. Not for kernels, images or VMs, so that all other
//! crates can share it. This crate has:
//!
//! - the cache and its locks
//! - child processes that do not outlive quiz
//! - the host's programs, and the packages that have them
//! - directories that are held open
//!
//! Nothing here reads the environment, `$HOME` or a terminal. Long work reports its progress
//! through a [`Report`].

pub mod causes;
pub mod command;
pub mod digest;
pub mod environment;
pub mod first_error;
mod guard;
pub mod held;
pub mod lock;
pub mod process;
pub mod report;
pub mod store;
pub mod stream;
pub mod tools;
pub mod wait;

pub use environment::Environment;
pub use report::{Progress, Report, Silent, Unit};
pub use store::{Begun, Cache, Entry, Making, Shelf, StoreError};
