//! Packages of Debian and its relatives: apt with its own state, so that the host's is never
//! touched; unpacking; and sysroots for cross compilers. Not for what is made of the packages:
//! kernels are `quiz-kernel`'s, roots are `quiz-image`'s.

pub mod apt;
pub mod deb;
pub mod sysroot;
pub mod usrmerge;
