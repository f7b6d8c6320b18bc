//! Layers of configuration, and the plain [`RunSpec`] that they end in.
//!
//! Not for reading the environment, `$HOME` or the command line: callers hand those over as data.
//!
//! [`load`] reads the layers into [`Settings`], each value with its [`Origin`]; [`lower`] makes the [`RunSpec`] of them.

pub mod error;
pub mod item;
pub mod layer;
pub mod lower;
pub mod origin;
pub mod profile;
pub mod settings;
pub mod size;
pub mod spec;
pub mod time;
pub mod value;
pub mod worktree;

pub use error::{ConfigError, FileProblem};
pub use layer::{Loaded, Sources, TypedOption, load};
pub use lower::{BuildDefaults, Invocation, build_defaults, lower};
pub use origin::Origin;
pub use profile::{Catalog, Chosen, Given, Profile, ProfileError};
pub use settings::{Effective, KEYS, Key, Settings, Sourced, nearest};
pub use spec::{
    AccelChoice, DiskSpec, DumpForm, DumpWhen, Escape, ImageFormat, JsonTo, KernelMessages, RootBuilder, RunSpec,
    ShareSpec, Verbosity, WorktreeMode,
};
pub use worktree::{Caller, Worktree};
