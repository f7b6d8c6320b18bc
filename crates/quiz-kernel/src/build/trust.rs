//! What the user says about the trust in the source of a kernel. Not for checking signatures
//! (`verify`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::keyring::{Keyring, KeyringError};
use crate::trusted::Trusted;

/// What the user says about the source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The archive's SHA-256.
    pub sha256: Option<String>,
    /// The keys that may sign kernels, as `gpg --export` writes them, instead of quiz's own.
    pub keyring: Option<PathBuf>,
    /// Take what the server sends.
    pub unverified: bool,
}

impl Trust {
    /// Whether what an earlier call has trusted is enough for this one, of an archive with the sum
    /// `sha256`.
    pub(crate) fn accepts(&self, trusted: &Trusted, sha256: &str) -> Result<bool, KeyringError> {
        if let Some(wanted) = &self.sha256
            && !wanted.eq_ignore_ascii_case(sha256)
        {
            return Ok(false);
        }
        if let Some(path) = &self.keyring
            && !self.unverified
        {
            let own = Keyring::read(path)?.1;
            return Ok(matches!(trusted, Trusted::Signature { keyring: Some(keyring), .. } if *keyring == own));
        }
        Ok(self.sha256.is_some() || self.unverified || *trusted != Trusted::Unverified)
    }

    /// The keys that may sign.
    pub(crate) fn keys(&self) -> Result<Keyring, KeyringError> {
        match &self.keyring {
            Some(path) => Keyring::of_user(path),
            None => Keyring::shipped(),
        }
    }
}
