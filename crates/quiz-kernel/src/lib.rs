//! Kernels in the cache: stock ones of a distribution (`stock`), those built from source (`build`),
//! and how a run finds one (`kernel`). Not for starting them: that is `quiz-vm`.

pub mod bootimage;
pub mod build;
pub mod kernel;
pub mod modules;
pub mod stock;
mod trusted;
mod version;

pub use kernel::{Kernel, KernelManifest, Version};
pub use trusted::Trusted;
