//! One run, from its `RunSpec` to its record: finds or makes what it needs, starts or resumes the VM, supervises it, and keeps the evidence.
//! Beside it, what is seen of runs from outside: those that run (`registry`), those that have ended (`history`), standby VMs.
//!
//! Not for the command line, nor for what is shown: the caller gives a [`Frontend`] and a [`Context`]. Nothing here reads the environment or
//! writes to a standard stream.

pub mod agents;
mod arch;
mod assemble;
mod attempt;
pub mod chosen;
pub mod consent;
mod context;
pub mod crash;
pub mod debugger;
mod disks;
mod evidence;
mod fault;
mod frontend;
pub mod guest;
pub mod history;
mod host;
mod layers;
mod machine;
pub mod monitor;
pub mod needs;
mod order;
pub mod packages;
mod paths;
pub mod prepare;
mod profiles;
mod record;
pub mod registry;
mod rootvm;
mod run;
mod salvage;
mod settings;
mod setup;
mod signals;
mod spawn;
pub mod standby;
pub mod symbols;
pub mod template;
pub mod transfer;

pub use arch::arch;
pub use attempt::{Attempted, Ended, PlannedRun};
pub use context::{Context, ContextParts};
pub use evidence::RunsDir;
pub use fault::{FAULT, Fault};
pub use frontend::{Frontend, ProgramStreams, ProgramTerminal};
pub use host::accelerator;
pub use order::SHELL;
pub use paths::Paths;
pub use record::{Call, Record};
pub use run::{hold_standby, plan, plan_watched, prune};
pub use settings::Asked;
pub use signals::ReceivedSignals;
pub use spawn::in_own_session;
