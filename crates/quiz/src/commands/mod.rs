//! The commands, one file each. Not for choosing one (`dispatch`), nor for runs (`run`).

pub mod allow;
pub mod arch;
pub mod attach;
pub mod completions;
pub mod config;
pub mod cp;
pub mod debug;
pub mod doctor;
pub mod exec;
pub mod kernel;
pub mod kill;
pub mod logs;
pub mod profile;
pub mod ps;
pub mod replay;
pub mod root;
pub mod runs;
pub mod show;
pub mod template;
pub mod watch;
pub mod zfs;
