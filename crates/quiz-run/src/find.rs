//! What a run asks for is found, or made where it is missing: its profiles, its kernel and its
//! root. Not for what is made of them (`assemble`).

pub mod chosen;
pub mod needs;
pub mod packages;
pub mod prepare;
mod rootvm;
