//! The keys that may sign the source of a kernel: quiz's own, or the user's. Not for checking
//! signatures (`verify`).

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use quiz_host::digest;

use crate::trusted::Trusted;

/// The keys that sign Linux releases; `keys/README.md` lists their owners and origins.
const SHIPPED: &[u8] = include_bytes!("keys/kernel.org.gpg");

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The user's file is not a keyring.
    #[error(
        "the keyring {} cannot be used: {why}; make one with `gpg --export KEY > FILE`",
        path.display()
    )]
    Unusable {
        /// Its path.
        path: PathBuf,
        /// The problem.
        why: String,
    },
    /// quiz's own keys could not be written for gpgv.
    #[error("cannot write quiz's own keys to a temporary file: {0}")]
    Shipped(io::Error),
}

/// A file of keys.
pub(crate) struct Keyring {
    pub path: PathBuf,
    /// The name in messages.
    pub name: String,
    digest: Option<String>,
    _temporary: Option<tempfile::NamedTempFile>,
}

impl Keyring {
    /// The keys in a file of the user.
    pub fn of_user(path: &Path) -> Result<Keyring, KeyringError> {
        let (path, digest) = Keyring::read(path)?;
        Ok(Keyring { name: path.display().to_string(), path, digest: Some(digest), _temporary: None })
    }

    /// The absolute path of a user's keyring that gpgv can read, and the SHA-256 of its contents.
    pub fn read(path: &Path) -> Result<(PathBuf, String), KeyringError> {
        let unusable = |why: String| KeyringError::Unusable { path: path.to_owned(), why };
        let contents = fs::read(path).map_err(|e| unusable(e.to_string()))?;
        if contents.starts_with(b"-----BEGIN") {
            return Err(unusable("it is in text form, which gpgv does not read".to_owned()));
        }
        // gpgv would look for a name without a slash in gpg's own directory.
        let path = fs::canonicalize(path).map_err(|e| unusable(e.to_string()))?;
        Ok((path, digest::of_bytes(&contents)))
    }

    /// The keys of kernel.org.
    pub fn shipped() -> Result<Keyring, KeyringError> {
        Self::write_shipped().map_err(KeyringError::Shipped)
    }

    fn write_shipped() -> io::Result<Keyring> {
        let mut file = tempfile::Builder::new().prefix("quiz-keys-").suffix(".gpg").tempfile()?;
        file.write_all(SHIPPED)?;
        let path = file.path().to_owned();
        Ok(Keyring { path, name: "quiz's keyring of kernel.org".to_owned(), digest: None, _temporary: Some(file) })
    }

    /// The trust that a good signature by one of these keys gives.
    pub fn trusted(&self, key: String) -> Trusted {
        Trusted::Signature { key, keyring: self.digest.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::trust::Trust;
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
