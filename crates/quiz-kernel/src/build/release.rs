//! Downloads releases and release candidates from kernel.org, or from a mirror with the same
//! layout. Not for unpacking them.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::archive;
use super::fetch::{Fetch, FetchError};
use super::keyring::Keyring;
use super::trust::Trust;
use super::verify::{self, Signature, VerifyError};
use crate::trusted::Trusted;
use crate::version::Version;
use quiz_host::digest;
use quiz_host::report::{Report, Unit};

/// Why a release could not be obtained.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The download failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A signature is bad or cannot be checked.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The list of checksums lacks the file.
    #[error("{url} does not list {file}: is there such a version? If so, give the SHA-256 of {file} with --sha256")]
    NoSum {
        /// The list.
        url: String,
        /// The archive.
        file: String,
    },
    /// kernel.org has no archive of that kind.
    #[error("kernel.org keeps no archive of {0}: build it from its git repository, with its tag")]
    NoArchive(Version),
    /// A file could not be stored.
    #[error("cannot keep the download: {0}")]
    Io(#[from] io::Error),
}

/// Servers of archives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirrors {
    /// A server that has `v6.x/linux-6.12.30.tar.xz`, `v6.x/linux-6.12.30.tar.sign` and
    /// `v6.x/sha256sums.asc`.
    pub releases: String,
    /// A server that has `linux-6.19-rc3.tar.gz`.
    pub candidates: String,
    /// The git repository of linux-next, with its tags `next-YYYYMMDD`.
    pub next: String,
}

impl Default for Mirrors {
    fn default() -> Mirrors {
        Mirrors {
            releases: "https://cdn.kernel.org/pub/linux/kernel".to_owned(),
            candidates: "https://git.kernel.org/torvalds/t".to_owned(),
            next: "https://git.kernel.org/pub/scm/linux/kernel/git/next/linux-next.git".to_owned(),
        }
    }
}

/// An archive on disk that has been verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Archive {
    /// Its file.
    #[serde(skip)]
    pub path: PathBuf,
    /// Its URL.
    pub url: String,
    /// Its SHA-256.
    pub sha256: String,
    /// Why quiz trusts it.
    pub trusted: Trusted,
}

/// Advice for an archive without the expected signature.
const WAYS: &str = "give its SHA-256 with --sha256, or --unverified to take what the server sends";

/// Downloads and verifies the archive of a release into `downloads`. An archive that was verified
/// earlier is not downloaded again.
pub(crate) fn obtain(
    version: &Version,
    mirrors: &Mirrors,
    trust: &Trust,
    downloads: &Path,
    fetch: &Fetch,
    report: &dyn Report,
) -> Result<Archive, ReleaseError> {
    let name = version.source_name();
    let (series, file) = match *version {
        Version::Release { major, rc: None, .. } => (Some(format!("v{major}.x")), format!("linux-{name}.tar.xz")),
        Version::Release { patch: 0, rc: Some(_), .. } => (None, format!("linux-{name}.tar.gz")),
        _ => return Err(ReleaseError::NoArchive(*version)),
    };
    let path = downloads.join(&file);
    let note = downloads.join(format!("{file}.json"));
    if let Some(known) = known(&path, &note, trust)? {
        report.say(&format!("using {file}, which was downloaded earlier ({})", known.trusted));
        return Ok(known);
    }
    // Remove the note first: it must not vouch for a file that is not verified yet.
    match fs::remove_file(&note) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let base = match &series {
        Some(series) => format!("{}/{series}", mirrors.releases.trim_end_matches('/')),
        None => mirrors.candidates.trim_end_matches('/').to_owned(),
    };
    let from = Place { base, file, path, fetch, report };
    // If the user gives both a checksum and a keyring, both must match. kernel.org does not sign
    // archives of candidates.
    let sum = trust.sha256.as_deref();
    let archive = if let Some(sum) = sum.filter(|_| trust.keyring.is_none() || series.is_none()) {
        from.pinned(sum)?
    } else if trust.unverified && sum.is_none() {
        from.unverified()?
    } else if series.is_some() {
        from.signed(&trust.keys().map_err(VerifyError::from)?, sum)?
    } else {
        // kernel.org signs the tags of candidates, not their archives.
        let what = format!("{}/{}", from.base, from.file);
        return Err(VerifyError::Unsigned { what, ways: WAYS }.into());
    };
    let text = serde_json::to_string_pretty(&archive).map_err(io::Error::from)?;
    fs::write(note, text + "\n")?;
    Ok(archive)
}

/// The archive of an earlier download, if its trust is sufficient for this call and the file has
/// not changed.
fn known(path: &Path, note: &Path, trust: &Trust) -> Result<Option<Archive>, VerifyError> {
    let read = || -> Option<Archive> { serde_json::from_str(&fs::read_to_string(note).ok()?).ok() };
    let Some(archive) = read() else { return Ok(None) };
    let archive = Archive { path: path.to_owned(), ..archive };
    if !trust.accepts(&archive.trusted, &archive.sha256)? {
        return Ok(None);
    }
    let same = digest::of_file(path).is_ok_and(|sum| sum == archive.sha256);
    Ok(same.then_some(archive))
}

/// An archive on a server, and its file here.
struct Place<'a> {
    base: String,
    file: String,
    path: PathBuf,
    fetch: &'a Fetch,
    report: &'a dyn Report,
}

impl Place<'_> {
    fn get(&self, sum: Option<&str>, trusted: Trusted) -> Result<Archive, ReleaseError> {
        let url = format!("{}/{}", self.base, self.file);
        let sha256 = self.fetch.file(&url, &self.path, sum, self.report)?;
        Ok(Archive { path: self.path.clone(), url, sha256, trusted })
    }

    fn pinned(&self, sum: &str) -> Result<Archive, ReleaseError> {
        self.get(Some(sum), Trusted::Sha256)
    }

    fn unverified(&self) -> Result<Archive, ReleaseError> {
        let archive = self.get(None, Trusted::Unverified)?;
        self.report.say(&format!("{} was taken unverified; its SHA-256 is {}", self.file, archive.sha256));
        Ok(archive)
    }

    /// Verifies the archive by a signature of the list of checksums or of the archive itself. If
    /// its checksum is `pinned`, only the latter counts.
    fn signed(&self, keys: &Keyring, pinned: Option<&str>) -> Result<Archive, ReleaseError> {
        let mut unknown = Vec::new();
        let mut trusted = None;
        let url = format!("{}/sha256sums.asc", self.base);
        let mut list = if pinned.is_none() { self.optional(&url)? } else { None };
        if let Some(text) = list.as_ref().filter(|text| text.starts_with("-----BEGIN PGP SIGNED MESSAGE-----")) {
            match verify::clear_signed(text, keys, &url)? {
                Signature::Good { key, text } => {
                    trusted = Some(keys.trusted(key));
                    list = Some(text);
                }
                Signature::UnknownKey { key } => unknown.push(key),
            }
        }
        // A checksum from an unsigned list only detects a broken download.
        let sum = match &list {
            Some(list) => Some(
                verify::sum_of(list, &self.file).ok_or_else(|| ReleaseError::NoSum { url, file: self.file.clone() })?,
            ),
            None => pinned,
        };
        if let Some(trusted) = trusted {
            return self.get(sum, trusted);
        }
        // The signature is of the uncompressed archive.
        let sign_name = format!("{}.sign", self.file.trim_end_matches(".xz"));
        let what = format!("{}/{}", self.base, self.file);
        let sign_text = match self.optional(&format!("{}/{sign_name}", self.base))? {
            Some(text) => text,
            None if unknown.is_empty() => return Err(VerifyError::Unsigned { what, ways: WAYS }.into()),
            None => {
                let keyring = keys.name.clone();
                return Err(VerifyError::UnknownKeys { what, keyring, keys: unknown, ways: WAYS }.into());
            }
        };
        let mut archive = self.get(sum, Trusted::Unverified)?;
        match self.check(&sign_name, &sign_text, keys) {
            Ok(Signature::Good { key, .. }) => archive.trusted = keys.trusted(key),
            Ok(Signature::UnknownKey { key }) => {
                unknown.push(key);
                return Err(
                    VerifyError::UnknownKeys { what, keyring: keys.name.clone(), keys: unknown, ways: WAYS }.into()
                );
            }
            Err(e) => {
                if matches!(e, ReleaseError::Verify(VerifyError::Bad { .. } | VerifyError::Read { .. })) {
                    fs::remove_file(&self.path)?;
                }
                return Err(e);
            }
        }
        Ok(archive)
    }

    fn optional(&self, url: &str) -> Result<Option<String>, ReleaseError> {
        match self.fetch.text(url) {
            Ok(text) => Ok(Some(text)),
            Err(FetchError::Refused { status: 404, .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Checks the signature of the downloaded archive.
    fn check(&self, sign_name: &str, sign_text: &str, keys: &Keyring) -> Result<Signature, ReleaseError> {
        let sign = self.path.with_file_name(sign_name);
        fs::write(&sign, sign_text)?;
        let progress = self.report.start(&format!("checking the signature of {}", self.file), None, Unit::Bytes);
        let archive = fs::File::open(&self.path)?;
        progress.total(archive.metadata()?.len());
        let mut tar = archive::decompressed(archive::Counted::new(archive, progress.as_ref()))?;
        let signature = verify::detached(&mut tar, &sign, keys, &self.file)?;
        drop(tar);
        progress.done();
        Ok(signature)
    }
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::{gz, tar, xz};
    use super::super::fetch::tests::{Server, quick};
    use super::super::verify::tests::Signer;
    use super::*;
    use quiz_host::report::Silent;

    struct Mirror {
        server: Server,
        dir: tempfile::TempDir,
    }

    impl Mirror {
        fn new() -> Mirror {
            Mirror { server: Server::start(), dir: tempfile::tempdir().unwrap() }
        }

        fn get(&self, version: &str, trust: &Trust) -> Result<Archive, ReleaseError> {
            let url = &self.server.url;
            let mirrors =
                Mirrors { releases: format!("{url}/k/"), candidates: format!("{url}/t"), next: String::new() };
            obtain(&version.parse().unwrap(), &mirrors, trust, self.dir.path(), &quick(), &Silent)
        }

        fn left(&self) -> Vec<String> {
            let mut names: Vec<_> =
                fs::read_dir(self.dir.path()).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    fn source() -> Vec<u8> {
        tar(&[("linux-6.12/Makefile", "VERSION = 6\n"), ("linux-6.12/Kconfig", "")])
    }

    /// Puts a release on the mirror, with an unsigned list of checksums.
    fn put(mirror: &Mirror, version: &str, archive: &[u8]) {
        let name = format!("linux-{version}.tar.xz");
        mirror.server.put(&format!("/k/v6.x/{name}"), archive);
        let list = format!("{}  {name}\n", digest::of_bytes(archive));
        mirror.server.put("/k/v6.x/sha256sums.asc", list.as_bytes());
    }

    #[test]
    fn a_release_is_checked_by_its_signature_and_used_again() {
        let (mirror, signer) = (Mirror::new(), Signer::new());
        let archive = xz(&source());
        put(&mirror, "6.12", &archive);
        mirror.server.put("/k/v6.x/linux-6.12.tar.sign", &signer.detached(&source()));
        let got = mirror.get("6.12", &signer.trust()).unwrap();
        assert_eq!(got.sha256, digest::of_bytes(&archive));
        assert!(matches!(&got.trusted, Trusted::Signature { keyring: Some(_), .. }), "{:?}", got.trusted);
        assert!(got.url.ends_with("/k/v6.x/linux-6.12.tar.xz"));
        assert_eq!(fs::read(&got.path).unwrap(), archive);
        let before = mirror.server.asked().len();
        assert_eq!(mirror.get("6.12.0", &signer.trust()).unwrap(), got);
        assert_eq!(mirror.get("6.12.0", &Trust::default()).unwrap(), got);
        assert_eq!(mirror.server.asked().len(), before);
        // The list lacks this version, although such a file may exist.
        let error = mirror.get("6.12.1", &signer.trust()).unwrap_err();
        assert!(matches!(&error, ReleaseError::NoSum { file, .. } if file == "linux-6.12.1.tar.xz"), "{error}");
    }

    #[test]
    fn a_list_that_nobody_has_signed_counts_for_nothing() {
        let mirror = Mirror::new();
        put(&mirror, "6.12", &xz(&source()));
        for trust in [Trust::default(), Signer::new().trust()] {
            let error = mirror.get("6.12", &trust).unwrap_err();
            assert!(matches!(error, ReleaseError::Verify(VerifyError::Unsigned { .. })), "{error}");
            assert!(error.to_string().contains("--sha256") && error.to_string().contains("--unverified"), "{error}");
            assert_eq!(mirror.left(), Vec::<String>::new());
        }
        let archives = mirror.server.asked().into_iter().filter(|(path, _)| path.ends_with(".xz")).count();
        assert_eq!(archives, 0, "nothing is downloaded that cannot be used");
        // Nor does one that looks signed.
        let sum = digest::of_bytes(&xz(&source()));
        let list = format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{sum}  linux-6.12.tar.xz\n");
        mirror.server.put("/k/v6.x/sha256sums.asc", list.as_bytes());
        let error = mirror.get("6.12", &Trust::default()).unwrap_err();
        assert!(matches!(error, ReleaseError::Verify(VerifyError::Bad { .. })), "{error}");
        // quiz does not believe the notes of a version that accepted such lists.
        fs::write(mirror.dir.path().join("linux-6.12.tar.xz"), xz(&source())).unwrap();
        let note = format!(r#"{{"url": "u", "sha256": "{sum}", "signature_checked": false, "unverified": false}}"#);
        fs::write(mirror.dir.path().join("linux-6.12.tar.xz.json"), note).unwrap();
        assert!(mirror.get("6.12", &Trust::default()).is_err());
        let got = mirror.get("6.12", &Trust { unverified: true, ..Trust::default() }).unwrap();
        assert_eq!(got.trusted, Trusted::Unverified);
    }

    #[test]
    fn altered_and_truncated_archives_are_refused_by_name() {
        let (mirror, signer) = (Mirror::new(), Signer::new());
        let archive = xz(&source());
        put(&mirror, "6.12.30", &archive);
        mirror.server.put("/k/v6.x/linux-6.12.30.tar.sign", &signer.detached(&source()));
        let mut altered = archive.clone();
        altered[20] ^= 1;
        for bad in [altered.clone(), archive[..archive.len() - 1].to_vec()] {
            mirror.server.put("/k/v6.x/linux-6.12.30.tar.xz", &bad);
            let error = mirror.get("6.12.30", &signer.trust()).unwrap_err();
            assert!(matches!(error, ReleaseError::Fetch(FetchError::Altered { .. })), "{error}");
            assert!(error.to_string().contains("linux-6.12.30.tar.xz"), "{error}");
            assert_eq!(mirror.left(), Vec::<String>::new());
        }
        // Neither an altered list with an altered archive, nor other complete contents are
        // accepted.
        let other = xz(&tar(&[("linux-6.12/Makefile", "all:; rm -rf /\n")]));
        for bad in [altered, other] {
            put(&mirror, "6.12.30", &bad);
            let error = mirror.get("6.12.30", &signer.trust()).unwrap_err();
            assert!(matches!(error, ReleaseError::Verify(_)), "{error}");
            assert!(error.to_string().contains("linux-6.12.30.tar.xz"), "{error}");
            assert!(!mirror.left().iter().any(|name| name.contains(".tar.xz")), "{:?}", mirror.left());
        }
        // A checksum from the user comes before the list's.
        mirror.server.put("/k/v6.x/linux-6.12.30.tar.xz", &archive);
        let trust = Trust { sha256: Some("0".repeat(64)), ..Trust::default() };
        assert!(matches!(mirror.get("6.12.30", &trust), Err(ReleaseError::Fetch(FetchError::Altered { .. }))));
        let trust = Trust { sha256: Some(digest::of_bytes(&archive)), ..Trust::default() };
        assert_eq!(mirror.get("6.12.30", &trust).unwrap().trusted, Trusted::Sha256);
        // It does not replace the signature if the user also names a keyring.
        let stranger = Trust { keyring: Signer::new().trust().keyring, ..trust.clone() };
        assert!(mirror.get("6.12.30", &stranger).is_err());
        let both = Trust { keyring: signer.trust().keyring, ..trust };
        assert!(matches!(mirror.get("6.12.30", &both).unwrap().trusted, Trusted::Signature { .. }));
    }

    #[test]
    fn a_candidate_needs_a_sum_or_the_users_word() {
        let mirror = Mirror::new();
        let archive = gz(&source());
        mirror.server.put("/t/linux-6.19-rc3.tar.gz", &archive);
        let unsigned = |result: Result<Archive, ReleaseError>| {
            let error = result.unwrap_err();
            assert!(matches!(error, ReleaseError::Verify(VerifyError::Unsigned { .. })), "{error}");
        };
        unsigned(mirror.get("6.19-rc3", &Trust::default()));
        assert!(mirror.server.asked().is_empty());
        let sum = digest::of_bytes(&archive);
        let wrong = Trust { sha256: Some("1".repeat(64)), ..Trust::default() };
        assert!(matches!(mirror.get("6.19-rc3", &wrong), Err(ReleaseError::Fetch(FetchError::Altered { .. }))));
        let trusting = Trust { unverified: true, ..Trust::default() };
        let got = mirror.get("6.19-rc3", &trusting).unwrap();
        assert_eq!((&got.sha256, got.trusted), (&sum, Trusted::Unverified));
        // `unverified` applies only to the call that gives it.
        unsigned(mirror.get("6.19-rc3", &Trust::default()));
        let pinned = Trust { sha256: Some(sum), ..Trust::default() };
        assert_eq!(mirror.get("6.19-rc3", &pinned).unwrap().trusted, Trusted::Sha256);
        assert!(matches!(mirror.get("6.12.30-rc1", &trusting), Err(ReleaseError::NoArchive(_))));
    }

    #[test]
    fn the_list_or_the_archive_is_signed_by_a_key_of_the_keyring() {
        let mirror = Mirror::new();
        let (tar, signer, stranger) = (source(), Signer::new(), Signer::new());
        let archive = xz(&tar);
        let list = format!("{}  linux-6.12.tar.xz\n", digest::of_bytes(&archive));
        mirror.server.put("/k/v6.x/linux-6.12.tar.xz", &archive);
        mirror.server.put("/k/v6.x/linux-6.12.tar.sign", &signer.detached(&tar));
        mirror.server.put("/k/v6.x/sha256sums.asc", stranger.clear_sign(&list).as_bytes());
        // A stranger signed the list, but the archive itself is signed correctly.
        mirror.get("6.12", &signer.trust()).unwrap();

        let mirror = Mirror::new();
        mirror.server.put("/k/v6.x/linux-6.12.tar.xz", &archive);
        mirror.server.put("/k/v6.x/linux-6.12.tar.sign", &stranger.detached(&tar));
        mirror.server.put("/k/v6.x/sha256sums.asc", stranger.clear_sign(&list).as_bytes());
        let unknown = |trust: &Trust| {
            let error = mirror.get("6.12", trust).unwrap_err();
            let ReleaseError::Verify(VerifyError::UnknownKeys { keys, .. }) = &error else { panic!("{error}") };
            assert_eq!(keys.len(), 2);
        };
        unknown(&signer.trust());
        // quiz's own keys do not help either.
        unknown(&Trust::default());
        // An archive accepted as unverified does not satisfy the keyring later.
        let word = Trust { unverified: true, ..Trust::default() };
        assert_eq!(mirror.get("6.12", &word).unwrap().trusted, Trusted::Unverified);
        unknown(&signer.trust());
        mirror.server.put("/k/v6.x/sha256sums.asc", signer.clear_sign(&list).as_bytes());
        mirror.get("6.12", &signer.trust()).unwrap();

        let mirror = Mirror::new();
        mirror.server.put("/k/v6.x/linux-6.12.tar.xz", &archive);
        mirror.server.put("/k/v6.x/linux-6.12.tar.sign", &signer.detached(b"something else"));
        let error = mirror.get("6.12", &signer.trust()).unwrap_err();
        assert!(matches!(error, ReleaseError::Verify(VerifyError::Bad { .. })), "{error}");
    }
}
