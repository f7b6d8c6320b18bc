//! Where a value comes from. Not for the value itself.

use std::fmt;
use std::path::PathBuf;

/// The place that set a value, so that the user can find and change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// quiz's own defaults.
    BuiltIn,
    /// The user's `config.toml`.
    User {
        /// The file.
        file: PathBuf,
        /// Its line, counted from 1.
        line: usize,
    },
    /// The worktree's `quiz.toml`.
    Worktree {
        /// The file.
        file: PathBuf,
        /// Its line, counted from 1.
        line: usize,
    },
    /// A variable of the environment, by its name.
    Variable(String),
    /// An option of the command line, as it is spelled in the help.
    Option(&'static str),
}

impl Origin {
    /// The layer's name: one word for tables and JSON.
    pub fn layer(&self) -> &'static str {
        match self {
            Origin::BuiltIn => "default",
            Origin::User { .. } => "user",
            Origin::Worktree { .. } => "worktree",
            Origin::Variable(_) => "environment",
            Origin::Option(_) => "command line",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::BuiltIn => f.write_str("built in"),
            Origin::User { file, line } | Origin::Worktree { file, line } => write!(f, "{}:{line}", file.display()),
            Origin::Variable(name) => f.write_str(name),
            Origin::Option(option) => f.write_str(option),
        }
    }
}
