//! Gives access to running VMs: finds them, runs programs in them, and copies files. Not for
//! starting them.

pub mod guest;
pub mod registry;
pub mod transfer;
