//! Checks whether a download is what its authors signed: lists of checksums, and OpenPGP signatures
//! by way of gpgv. Not for fetching, nor for the choice of keys (`trust`).

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::keyring::{Keyring, KeyringError};

/// Why a signature cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// gpgv cannot be run.
    #[error("cannot check the signature of {what}: running `gpgv`: {cause}; install the package gpgv")]
    Gpgv {
        /// The signed thing.
        what: String,
        /// The system's answer.
        cause: io::Error,
    },
    /// The keys cannot be used.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// There is no signature.
    #[error("{what} is not signed, so quiz cannot verify it: {ways}")]
    Unsigned {
        /// The thing.
        what: String,
        /// Advice.
        ways: &'static str,
    },
    /// None of the signatures is by a trusted key.
    #[error(
        "{what} is not signed with a key of {keyring} but with {}: name a keyring that has the key with --keyring, or {ways}",
        keys.join(" and ")
    )]
    UnknownKeys {
        /// The signed thing.
        what: String,
        /// The keyring that was tried.
        keyring: String,
        /// Ids of the keys that signed.
        keys: Vec<String>,
        /// Advice.
        ways: &'static str,
    },
    /// The signature is wrong.
    #[error("the signature of {what} is bad: {said}. Do not use it; try another mirror")]
    Bad {
        /// The signed thing.
        what: String,
        /// gpgv's message.
        said: String,
    },
    /// The signed data could not be read.
    #[error("cannot read {what} for checking its signature: {cause}")]
    Read {
        /// The signed thing.
        what: String,
        /// The system's answer.
        cause: io::Error,
    },
}

/// The result of checking a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signature {
    /// Made with a key of the keyring.
    Good {
        /// The key's fingerprint.
        key: String,
        /// The signed text, if the signature encloses it.
        text: String,
    },
    /// Made with a key that the keyring does not have.
    UnknownKey {
        /// The key's id, as gpgv prints it.
        key: String,
    },
}

/// The SHA-256 of `file` in a list in kernel.org's format, with or without a signature around it.
pub(crate) fn sum_of<'a>(list: &'a str, file: &str) -> Option<&'a str> {
    list.lines().find_map(|line| {
        let (sum, name) = line.split_once(char::is_whitespace)?;
        let name = name.trim_start().trim_start_matches('*');
        let hex = sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit());
        (hex && name.trim_end() == file).then_some(sum)
    })
}

/// Checks a text with an enclosing signature, and returns the signed text.
pub(crate) fn clear_signed(text: &str, keyring: &Keyring, what: &str) -> Result<Signature, VerifyError> {
    gpgv(keyring, what, None, &mut text.as_bytes())
}

/// Checks `data` against the detached signature in the file `signature`.
pub(crate) fn detached(
    data: &mut dyn Read,
    signature: &Path,
    keyring: &Keyring,
    what: &str,
) -> Result<Signature, VerifyError> {
    gpgv(keyring, what, Some(signature), data)
}

fn gpgv(
    keyring: &Keyring,
    what: &str,
    signature: Option<&Path>,
    data: &mut dyn Read,
) -> Result<Signature, VerifyError> {
    let failed = |cause| VerifyError::Gpgv { what: what.to_owned(), cause };
    let mut command = Command::new("gpgv");
    command.args(["--status-fd", "2", "--keyring"]).arg(&keyring.path);
    match signature {
        Some(signature) => command.arg(signature).arg("-"),
        None => command.args(["--output", "-", "-"]),
    };
    command.env("LC_ALL", "C.UTF-8").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let (mut stdin, mut stdout) = (child.stdin.take(), child.stdout.take());
    let mut text = Vec::new();
    let copied = std::thread::scope(|scope| {
        let read = || stdout.as_mut().map_or(Ok(0), |out| out.read_to_end(&mut text));
        let reading = std::thread::Builder::new().spawn_scoped(scope, read);
        // gpgv ends when its input ends, whatever happens to this thread.
        let copied = if reading.is_ok() { feed(data, stdin.as_mut()) } else { Ok(()) };
        drop(stdin.take());
        let read = reading?.join().unwrap_or_else(|_| Err(io::Error::other("the reading thread panicked")));
        copied.and_then(|()| read.map(|_| ()))
    });
    let output = child.wait_with_output().map_err(failed)?;
    copied.map_err(|cause| VerifyError::Read { what: what.to_owned(), cause })?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let status = |word: &str| said.lines().find_map(|l| l.strip_prefix("[GNUPG:] ")?.strip_prefix(word));
    let words = || {
        let lines: Vec<&str> = said.lines().filter(|l| !l.starts_with("[GNUPG:]")).collect();
        if lines.is_empty() { format!("gpgv ended with {}", output.status) } else { lines.join("; ") }
    };
    if status("BADSIG").is_some() {
        return Err(VerifyError::Bad { what: what.to_owned(), said: words() });
    }
    // There may be several signatures. gpgv itself requires one good one and none bad, and prints
    // no GOODSIG for a key that has expired or was revoked. The last field of VALIDSIG is the
    // fingerprint of the primary key.
    if let Some(valid) = status("VALIDSIG").filter(|_| output.status.success() && status("GOODSIG").is_some()) {
        let key = valid.split_whitespace().last().unwrap_or_default().to_owned();
        return Ok(Signature::Good { key, text: String::from_utf8_lossy(&text).into_owned() });
    }
    if let Some(key) = status("NO_PUBKEY") {
        return Ok(Signature::UnknownKey { key: key.trim().to_owned() });
    }
    if output.status.signal().is_some() {
        return Err(failed(io::Error::other(output.status.to_string())));
    }
    Err(VerifyError::Bad { what: what.to_owned(), said: words() })
}

/// Copies until the end, or until gpgv closes its input.
fn feed(data: &mut dyn Read, to: Option<&mut std::process::ChildStdin>) -> io::Result<()> {
    let Some(to) = to else { return Ok(()) };
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = match data.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        match to.write_all(&buffer[..n]) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use fs_err as fs;

    use super::super::trust::Trust;
    use super::*;

    /// A key made for the test, and gpg to sign with it.
    pub(crate) struct Signer {
        home: tempfile::TempDir,
        pub keyring: std::path::PathBuf,
    }

    impl Signer {
        pub(crate) fn new() -> Signer {
            // gpg-agent's socket must have a short path.
            let home = tempfile::Builder::new()
                .prefix("q")
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .tempdir_in("/tmp")
                .unwrap();
            let keyring = home.path().join("keys.gpg");
            let signer = Signer { home, keyring };
            signer.gpg(
                &["--passphrase", "", "--quick-gen-key", "Test <test@example.org>", "ed25519", "sign", "never"],
                b"",
            );
            let exported = signer.gpg(&["--export"], b"");
            fs::write(&signer.keyring, exported).unwrap();
            signer
        }

        /// gpg's directory.
        pub(crate) fn home(&self) -> &Path {
            self.home.path()
        }

        /// A [`Trust`] that names these keys.
        pub(crate) fn trust(&self) -> Trust {
            Trust { keyring: Some(self.keyring.clone()), ..Trust::default() }
        }

        fn gpg(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
            let mut child = Command::new("gpg")
                .args(["--batch", "--quiet", "--pinentry-mode", "loopback", "--homedir"])
                .arg(self.home.path())
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("the test makes its own key with gpg (Debian: gnupg)");
            child.stdin.take().unwrap().write_all(input).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "gpg {args:?}");
            output.stdout
        }

        pub(crate) fn clear_sign(&self, text: &str) -> String {
            String::from_utf8(self.gpg(&["--clear-sign"], text.as_bytes())).unwrap()
        }

        pub(crate) fn detached(&self, data: &[u8]) -> Vec<u8> {
            self.gpg(&["--detach-sign", "--armor"], data)
        }
    }

    impl Drop for Signer {
        fn drop(&mut self) {
            let mut agent = Command::new("gpgconf");
            agent.arg("--homedir").arg(self.home.path()).args(["--kill", "gpg-agent"]);
            let _ended = agent.status();
        }
    }

    #[test]
    fn sums_are_found_by_the_whole_name() {
        let sum = "a".repeat(64);
        let list = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{}  linux-6.12.3.tar.xz\n{sum}  linux-6.12.tar.xz\n\
             short  linux-6.1.tar.xz\n{sum} *linux-6.2.tar.xz\n-----BEGIN PGP SIGNATURE-----\n",
            "b".repeat(64)
        );
        assert_eq!(sum_of(&list, "linux-6.12.tar.xz"), Some(&*sum));
        assert_eq!(sum_of(&list, "linux-6.2.tar.xz"), Some(&*sum));
        for absent in ["linux-6.12.tar", "6.12.tar.xz", "linux-6.1.tar.xz", ""] {
            assert_eq!(sum_of(&list, absent), None, "{absent}");
        }
    }

    #[test]
    fn signatures_are_told_apart() {
        let (signer, other) = (Signer::new(), Signer::new());
        let (keys, others) = (signer.trust().keys().unwrap(), other.trust().keys().unwrap());
        let signed = signer.clear_sign("one\ntwo\n");
        let Signature::Good { text, key } = clear_signed(&signed, &keys, "the list").unwrap() else { panic!() };
        assert_eq!(text, "one\ntwo\n");
        assert!(key.len() == 40 && key.bytes().all(|b| b.is_ascii_hexdigit()), "{key}");
        // Text outside of the signature is not signed.
        let with_more = format!("three\n{signed}four\n");
        match clear_signed(&with_more, &keys, "the list") {
            Ok(Signature::Good { text, .. }) => assert_eq!(text, "one\ntwo\n"),
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(matches!(error, VerifyError::Bad { .. }), "{error}"),
        }
        let altered = signed.replace("two", "too");
        let error = clear_signed(&altered, &keys, "the list").unwrap_err();
        assert!(matches!(error, VerifyError::Bad { .. }) && error.to_string().contains("the list"), "{error}");
        let unknown = clear_signed(&signed, &others, "the list").unwrap();
        assert!(matches!(unknown, Signature::UnknownKey { .. }), "{unknown:?}");
        assert!(clear_signed("no signature at all", &keys, "the list").is_err());

        let file = signer.home.path().join("a.sign");
        fs::write(&file, signer.detached(b"data")).unwrap();
        let good = detached(&mut &b"data"[..], &file, &keys, "a").unwrap();
        assert!(matches!(good, Signature::Good { .. }));
        let error = detached(&mut &b"date"[..], &file, &keys, "a").unwrap_err();
        assert!(matches!(error, VerifyError::Bad { .. }), "{error}");
    }

    #[test]
    fn a_key_that_has_expired_signs_nothing_any_more() {
        let signer = Signer::new();
        let signed = signer.clear_sign("one\n");
        let fingerprint = match clear_signed(&signed, &signer.trust().keys().unwrap(), "x").unwrap() {
            Signature::Good { key, .. } => key,
            other => panic!("{other:?}"),
        };
        signer.gpg(&["--passphrase", "", "--quick-set-expire", &fingerprint, "seconds=1"], b"");
        std::thread::sleep(std::time::Duration::from_millis(2100));
        fs::write(&signer.keyring, signer.gpg(&["--export"], b"")).unwrap();
        let error = clear_signed(&signed, &signer.trust().keys().unwrap(), "the list").unwrap_err();
        assert!(matches!(error, VerifyError::Bad { .. }), "{error}");
    }

    #[test]
    fn an_unusable_keyring_is_said_to_be_so() {
        let dir = tempfile::tempdir().unwrap();
        let armored = dir.path().join("k.asc");
        fs::write(&armored, "-----BEGIN PGP PUBLIC KEY BLOCK-----\n").unwrap();
        for path in [armored, dir.path().join("nosuch")] {
            let trust = Trust { keyring: Some(path), ..Trust::default() };
            assert!(matches!(trust.keys().err(), Some(KeyringError::Unusable { .. })));
        }
    }
}
