//! What makes the source of a kernel trustworthy: what the user says, and what was trusted in the end. Not for checking signatures (`verify`).

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::verify::VerifyError;
use quiz_host::digest;

/// The keys that sign Linux releases; `keys/README.md` says whose they are and where they are from.
const SHIPPED: &[u8] = include_bytes!("keys/kernel.org.gpg");

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

/// Why a source was taken for the right one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Trusted {
    /// A signature.
    Signature {
        /// The fingerprint of the key.
        key: String,
        /// The SHA-256 of the keyring that the user named; None for quiz's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keyring: Option<String>,
    },
    /// The archive's SHA-256, which the user gave.
    Sha256,
    /// The whole id of the commit, which the user gave.
    CommitId,
    /// A repository of this host.
    Local,
    /// Nothing: the user said to take what the server sends.
    Unverified,
}

impl std::fmt::Display for Trusted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trusted::Signature { key, .. } => write!(f, "signature by key {key}"),
            Trusted::Sha256 => f.write_str("SHA-256 given by the user"),
            Trusted::CommitId => f.write_str("commit id given by the user"),
            Trusted::Local => f.write_str("repository of this host"),
            Trusted::Unverified => f.write_str("unverified, as the user said"),
        }
    }
}

impl Trust {
    /// Whether what an earlier call has trusted is enough for this one, of an archive with the sum `sha256`.
    pub(crate) fn accepts(&self, trusted: &Trusted, sha256: &str) -> Result<bool, VerifyError> {
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
    pub(crate) fn keys(&self) -> Result<Keyring, VerifyError> {
        match &self.keyring {
            Some(path) => {
                let (path, digest) = Keyring::read(path)?;
                Ok(Keyring { name: path.display().to_string(), path, digest: Some(digest), _temporary: None })
            }
            None => Keyring::shipped().map_err(VerifyError::Shipped),
        }
    }
}

/// A file of keys.
pub(crate) struct Keyring {
    pub path: PathBuf,
    /// In messages.
    pub name: String,
    digest: Option<String>,
    _temporary: Option<tempfile::NamedTempFile>,
}

impl Keyring {
    /// The absolute path of a user's keyring that gpgv can read, and the SHA-256 of its contents.
    fn read(path: &Path) -> Result<(PathBuf, String), VerifyError> {
        let unusable = |why: String| VerifyError::Keyring { path: path.to_owned(), why };
        let contents = fs::read(path).map_err(|e| unusable(e.to_string()))?;
        if contents.starts_with(b"-----BEGIN") {
            return Err(unusable("it is in text form, which gpgv does not read".to_owned()));
        }
        // gpgv looks for a name without a slash in gpg's own directory.
        let path = fs::canonicalize(path).map_err(|e| unusable(e.to_string()))?;
        Ok((path, digest::of_bytes(&contents)))
    }

    fn shipped() -> io::Result<Keyring> {
        let mut file = tempfile::Builder::new().prefix("quiz-keys-").suffix(".gpg").tempfile()?;
        file.write_all(SHIPPED)?;
        let path = file.path().to_owned();
        Ok(Keyring { path, name: "quiz's keyring of kernel.org".to_owned(), digest: None, _temporary: Some(file) })
    }

    /// What a good signature by one of these keys is worth.
    pub fn trusted(&self, key: String) -> Trusted {
        Trusted::Signature { key, keyring: self.digest.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_shipped_keys_are_those_that_the_readme_names() {
        let keyring = Trust::default().keys().unwrap();
        let mut gpg = Command::new("gpg");
        let home = tempfile::tempdir().unwrap();
        gpg.args(["--batch", "--with-colons", "--homedir"]).arg(home.path()).arg("--show-keys").arg(&keyring.path);
        let output = gpg.output().expect("gpg (Debian: gnupg)");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines();
        let mut found = Vec::new();
        while let Some(line) = lines.next() {
            if line.starts_with("pub:") {
                let fingerprint = lines.next().and_then(|line| line.split(':').nth(9)).unwrap_or_default();
                found.push(fingerprint.to_owned());
            }
        }
        let named = include_str!("keys/README.md").lines().filter_map(|line| line.split('`').nth(1));
        let named: Vec<String> = named.map(|text| text.replace(' ', "")).filter(|text| text.len() == 40).collect();
        assert_eq!(found.len(), 3, "{text}");
        assert_eq!(found, named);
    }

    #[test]
    fn what_was_trusted_once_is_enough_for_what_asks_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.gpg");
        fs::write(&file, "keys").unwrap();
        let own = digest::of_bytes(b"keys");
        let signed =
            |keyring: Option<&str>| Trusted::Signature { key: "k".to_owned(), keyring: keyring.map(str::to_owned) };
        let none = Trust::default();
        let sum = Trust { sha256: Some("AB".to_owned()), ..Trust::default() };
        let other_sum = Trust { sha256: Some("cd".to_owned()), ..Trust::default() };
        let keyring = Trust { keyring: Some(file), ..Trust::default() };
        let unverified = Trust { unverified: true, ..Trust::default() };
        let cases = [
            (signed(None), [true, true, false, false, true]),
            (signed(Some(&own)), [true, true, false, true, true]),
            (signed(Some("of other keys")), [true, true, false, false, true]),
            (Trusted::Sha256, [true, true, false, false, true]),
            (Trusted::Unverified, [false, true, false, false, true]),
        ];
        for (trusted, expected) in cases {
            let got = [&none, &sum, &other_sum, &keyring, &unverified].map(|t| t.accepts(&trusted, "ab").unwrap());
            assert_eq!(got, expected, "{trusted:?}");
        }
    }
}
