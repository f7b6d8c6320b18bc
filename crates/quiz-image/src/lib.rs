//! Kernels, roots, initramfs images and downloads in quiz's cache: how each is made, verified, found and removed.
//!
//! Not for running them (that is `quiz-vm`) and not for talking to the user: long work speaks through a [`Report`],
//! and nothing here reads the environment, `$HOME` or a terminal.
//!
//! The text of an error is the whole story, its cause included; there is no need to print a chain of sources.

pub mod apt;
pub mod blank;
pub mod build;
pub mod command;
pub mod deb;
pub mod debian;
pub mod digest;
pub mod elf;
pub mod environment;
pub mod first_error;
mod guard;
pub mod host;
pub mod initramfs;
pub mod kernel;
pub mod layer;
pub mod lock;
pub mod modules;
pub mod report;
pub mod root;
pub mod squashfs;
pub mod store;
pub mod sysroot;
mod version;

pub use environment::Environment;
pub use kernel::{Kernel, KernelManifest, Version};
pub use report::{Progress, Report, Silent, Unit};
pub use store::{Begun, Cache, Entry, Making, Shelf, StoreError};
