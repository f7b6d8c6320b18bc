//! What a build for another architecture needs.

use std::path::Path;

use quiz_arch::Arch;

/// How a build is made for another architecture.
#[derive(Debug, Clone, Copy)]
pub struct Cross<'a> {
    /// The architecture.
    pub arch: &'static Arch,
    /// Where the headers and libraries of the guest's distribution are, by a path that lasts.
    pub sysroot: &'a Path,
}
