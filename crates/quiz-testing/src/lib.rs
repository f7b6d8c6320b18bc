//! A sealed place to run quiz in from tests: a worktree and a home of its own, the cache shared,
//! nothing else inherited.

pub mod kernels;
pub mod openzfs;
pub mod place;
mod processes;
mod pty;
mod sandbox;

pub use processes::{descendants, is_alive};
pub use pty::Pty;
pub use sandbox::{Ran, Sandbox, cache, runs_of};
