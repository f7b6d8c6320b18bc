//! An isolated place for tests to run quiz in: its own worktree and home, with only the user's
//! cache shared.

pub mod kernels;
pub mod openzfs;
pub mod place;
mod processes;
mod pty;
mod sandbox;

pub use processes::{descendants, is_alive};
pub use pty::Pty;
pub use sandbox::{Ran, Sandbox, cache, runs_of};
