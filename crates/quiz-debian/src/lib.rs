//! Packages of Debian and its relatives: runs apt with separate state, so that the host's stays
//! unchanged; unpacks packages; and makes sysroots for cross compilers. Not for products made from
//! packages: see `quiz-kernel` for kernels and `quiz-image` for roots.

pub mod apt;
pub mod deb;
pub mod sysroot;
pub mod usrmerge;
