//! Profiles: named pieces of set-up that a run can include. Not for running their programs.

pub mod choice;
pub mod definition;
pub mod directive;
pub mod option;

pub use choice::{Catalog, Chosen, Given};
pub use definition::{KernelOption, Profile, ProfileError, Source};
pub use directive::{Directive, DiskDirective};
