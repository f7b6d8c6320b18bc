//! What becomes of a run whose VM has ended: its record, the kernel's report with lines of source,
//! the artifacts of a guest that died. Not for the verdict (`quiz_vm::judge`).

pub mod crash;
pub mod debugger;
pub(crate) mod record;
pub(crate) mod salvage;
pub mod symbols;
