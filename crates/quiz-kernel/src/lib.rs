//! Kernels in the cache: a distribution's stock kernels (`stock`), kernels built from source
//! (`build`), and the choice of one for a run (`kernel`). Not for starting them: that is `quiz-vm`.

pub mod bootimage;
pub mod build;
pub mod kernel;
pub mod modules;
pub mod stock;
mod trusted;
mod version;

pub use kernel::{Kernel, KernelManifest, Version};
pub use trusted::Trusted;
