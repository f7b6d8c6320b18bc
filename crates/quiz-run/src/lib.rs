//! Carries out one run, from its `RunSpec` to its record. It finds or makes the inputs, starts or
//! resumes the VM, supervises it, and completes the run directory. It also lists running VMs, runs
//! that have ended, and standby VMs.
//!
//! The modules are the stages: `find` ─► `assemble` ─► `attempt` ─► `outcome`. `evidence` manages
//! run directories, and `running` gives access to running VMs.
//!
//! Not for the command line, nor for the display: the caller passes a [`Frontend`] and a
//! [`Context`]. Nothing here reads the environment or writes to a standard stream.

mod arch;
mod assemble;
mod attempt;
pub mod consent;
mod context;
mod evidence;
mod fault;
mod find;
mod frontend;
mod outcome;
mod paths;
mod profiles;
mod run;
mod running;
mod settings;
mod signals;
mod spawn;

pub use arch::arch;
pub use assemble::host::accelerator;
pub use assemble::order::SHELL;
pub use assemble::{agents, monitor};
pub use attempt::{Attempted, Ended, PlannedRun, standby, template};
pub use context::{Context, ContextParts};
pub use evidence::{RunsDir, history};
pub use fault::{FAULT, Fault};
pub use find::{chosen, needs, packages, prepare};
pub use frontend::{Frontend, ProgramStreams, ProgramTerminal};
pub use outcome::record::{Call, Record};
pub use outcome::{crash, debugger, symbols};
pub use paths::Paths;
pub use run::{hold_standby, plan, plan_watched, prune};
pub use running::{guest, registry, transfer};
pub use settings::Asked;
pub use signals::ReceivedSignals;
pub use spawn::in_own_session;
