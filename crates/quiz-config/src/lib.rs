//! Reads the layers of configuration and turns them into a plain [`RunSpec`].
//!
//! Not for reading the environment, `$HOME` or the command line: callers pass these as data.
//!
//! [`load`] reads the layers into [`Settings`], each value with its [`Origin`]. [`lower()`] makes
//! the [`RunSpec`] from them.

pub mod choices;
pub mod error;
pub mod item;
pub mod layer;
pub mod lower;
mod nearest;
pub mod origin;
pub mod profile;
pub mod settings;
pub mod size;
pub mod spec;
pub mod time;
pub mod value;
pub mod worktree;

pub use choices::*;
pub use error::{ConfigError, FileProblem};
pub use layer::{Loaded, Sources, TypedOption, default_text, load};
pub use lower::{BuildDefaults, Invocation, build_defaults, lower};
pub use nearest::nearest;
pub use origin::Origin;
pub use profile::{Catalog, Chosen, Given, Profile, ProfileError};
pub use settings::{Effective, KEYS, Key, KeyOption, Settings, Sourced, key};
pub use spec::RunSpec;
pub use worktree::{Caller, Worktree};
