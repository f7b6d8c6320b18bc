//! The user's requirements for trusting a kernel's source. Not for checking signatures (`verify`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::keyring::{Keyring, KeyringError};
use crate::trusted::Trusted;

/// The user's requirements for a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The expected SHA-256 of the archive.
    pub sha256: Option<String>,
    /// The keyring to use instead of quiz's own keys, as written by `gpg --export`.
    pub keyring: Option<PathBuf>,
    /// Accept the download without verification.
    pub unverified: bool,
}

impl Trust {
    /// Whether the trust of an earlier call is sufficient for this one. `sha256` is the archive's
    /// checksum.
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
