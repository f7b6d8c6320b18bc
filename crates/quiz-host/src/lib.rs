//! What quiz needs of the host that it runs on: child processes that do not outlive it (`process`), the user's standard streams
//! (`stream`), directories that are held open (`held`). Knows nothing of kernels, images or VMs, so that the crates that do can share it without knowing each other.

pub mod held;
pub mod process;
pub mod stream;
