//! The images that a guest starts from: root file systems, layers over them, initramfs images and
//! blank disks. Not for kernels (`quiz-kernel`) and not for running anything (`quiz-vm`): where an
//! image is made in a VM, the caller runs it.

pub mod blank;
pub mod initramfs;
pub mod layer;
pub mod root;
pub mod squashfs;
