//! Starts, supervises and judges one virtual machine.
//!
//! [`VmSpec`] describes a virtual machine as plain data, and [`qemu::argv`] turns it into QEMU's
//! command line. [`supervise::supervise`] owns the process, the channel to the agent, the console
//! and all time limits until it returns a [`Verdict`]. Not for finding kernels and roots
//! (`quiz-image`), nor for options and terminals (`quiz`).

pub mod accel;
pub mod artifacts;
pub mod client;
mod clock;
pub mod console;
pub mod control;
mod dump;
mod duplex;
mod escape;
mod feed;
mod judge;
mod monitor;
mod outgoing;
pub mod probe;
mod pump;
pub mod qemu;
mod qmp;
pub mod sparse;
mod spec;
mod special;
pub mod standby;
pub mod supervise;
pub mod template;
pub mod unpack;
mod verdict;
pub mod visible;

pub use spec::*;
pub use supervise::{Limits, Run, Signals, Streams, supervise};
pub use verdict::{ArtifactsRecord, Outcome, Verdict};

/// The messages between quiz and the agent in the guest.
pub use quiz_proto as proto;
