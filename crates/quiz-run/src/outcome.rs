//! Completes a run whose VM has shut down: its record, the kernel's report with lines of source,
//! and the artifacts of a guest that died. Not for the verdict (`quiz_vm::judge`).

pub mod crash;
pub mod debugger;
pub(crate) mod record;
pub(crate) mod salvage;
pub mod symbols;
