//! Finds the profiles, the kernel and the root of a run, or makes those that are missing. Not for
//! what becomes of them (`assemble`).

pub mod chosen;
pub mod needs;
pub mod packages;
pub mod prepare;
mod rootvm;
