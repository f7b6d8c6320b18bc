//! VMs that run, as seen from outside: finding them, running programs in them, and copying files.
//! Not for starting them.

pub mod guest;
pub mod registry;
pub mod transfer;
