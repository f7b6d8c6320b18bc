//! Records why the source of a kernel was trusted.

use serde::{Deserialize, Serialize};

/// Why a source was trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Trusted {
    /// A signature.
    Signature {
        /// The fingerprint of the key.
        key: String,
        /// The SHA-256 of the user's keyring; `None` for quiz's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keyring: Option<String>,
    },
    /// The user gave the archive's SHA-256.
    Sha256,
    /// The user gave the whole id of the commit.
    CommitId,
    /// The repository is on this host.
    Local,
    /// The user allowed an unverified download.
    Unverified,
}

impl std::fmt::Display for Trusted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trusted::Signature { key, .. } => write!(f, "signature by key {key}"),
            Trusted::Sha256 => f.write_str("SHA-256 given by the user"),
            Trusted::CommitId => f.write_str("commit id given by the user"),
            Trusted::Local => f.write_str("repository of this host"),
            Trusted::Unverified => f.write_str("unverified, at the user's request"),
        }
    }
}
