//! The images that a guest starts from: root file systems, layers over them, initramfs images and
//! blank disks. Not for kernels (`quiz-kernel`), nor for running VMs (`quiz-vm`): if making an
//! image needs a VM, the caller runs it.

pub mod blank;
pub mod initramfs;
pub mod layer;
pub mod root;
pub mod squashfs;
