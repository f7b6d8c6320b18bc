//! The inputs of a build for another architecture.

use std::path::Path;

use quiz_arch::Arch;

/// The target of a build for another architecture.
#[derive(Debug, Clone, Copy)]
pub struct Cross<'a> {
    /// The architecture.
    pub arch: &'static Arch,
    /// The headers and libraries of the guest's distribution, at a permanent path.
    pub sysroot: &'a Path,
}
