//! Builds an OpenZFS checkout for quiz's kernels, each in its own directory. For each kernel it
//! keeps an install tree of the last compiled state.
//!
//! ```text
//! checkout ─ sources, shadow ─► .quiz/build/<release>/  autogen, configure and make run here
//!    │                              │
//!    └─ your own build ─────────────┤ builds: which one is for this kernel
//!                                   ▼
//!                 learn ─► what is installed, and which product each file comes from
//!                 stage ─► .quiz/install/<release>/{modules,tools}: what changed, stripped
//! ```
//!
//! Not for running VMs, nor for talking to the user. Long work reports through a
//! [`quiz_host::Report`], and nothing here reads the environment, `$HOME` or a terminal.
//!
//! The text of an error is complete: it includes the cause.

pub mod build;
pub mod builds;
pub mod checkout;
mod configure;
mod configure_error;
mod cross;
mod elf;
mod fingerprint;
mod generation;
mod index;
mod learn;
pub mod load;
pub mod meta;
mod pathtext;
mod record;
mod shadow;
mod sources;
pub mod stage;
pub mod suite;

pub use build::{BuildError, Builder};
pub use builds::BuildsError;
pub use checkout::{Checkout, CheckoutError};
pub use cross::Cross;
pub use load::{LoadError, Loading};
pub use meta::Meta;
pub use stage::{StageError, Staged, stage};
