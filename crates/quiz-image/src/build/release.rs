//! Release tarballs and release candidates of kernel.org, or of a mirror that is laid out like it. Not for unpacking them.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::archive;
use super::fetch::{Fetch, FetchError};
use super::verify::{self, Signature, VerifyError};
use crate::digest;
use crate::report::{Report, Unit};
use crate::version::Version;

/// Why a release could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The download failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A signature is bad or cannot be checked.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The list of sums does not have the file.
    #[error("{url} has no sum for {file}: is there such a version? If so, give its sum with --sha256")]
    NoSum {
        /// The list.
        url: String,
        /// The archive.
        file: String,
    },
    /// There is nothing to hold the archive against.
    #[error(
        "kernel.org publishes no checksums for {file}, so quiz cannot tell whether a download of it is right: give its \
         sum with --sha256, or say --unverified to trust the connection to {url}"
    )]
    Unverifiable {
        /// The archive.
        file: String,
        /// Where it would come from.
        url: String,
    },
    /// None of the signatures is by a key that the user trusts.
    #[error("no signature of {file} is by a key of {}: it is signed by {}; add that key, or leave the keyring out", keyring.display(), keys.join(" and "))]
    UnknownKeys {
        /// The archive.
        file: String,
        /// The keyring.
        keyring: PathBuf,
        /// Ids of the keys that signed.
        keys: Vec<String>,
    },
    /// kernel.org has no archive of that kind.
    #[error("kernel.org keeps no archive of {0}: build it from its git repository, with its tag")]
    NoArchive(Version),
    /// A file could not be kept.
    #[error("cannot keep the download: {0}")]
    Io(#[from] io::Error),
}

/// Where archives come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirrors {
    /// Has `v6.x/linux-6.12.30.tar.xz`, `v6.x/linux-6.12.30.tar.sign` and `v6.x/sha256sums.asc`.
    pub releases: String,
    /// Has `linux-6.19-rc3.tar.gz`.
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

/// What makes an archive trustworthy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The archive's SHA-256, if the user knows it.
    pub sha256: Option<String>,
    /// Keys that may sign kernels, as `gpg --export` writes them. With it, a signature by one of them is demanded of releases; candidates are
    /// published without.
    pub keyring: Option<PathBuf>,
    /// Where nothing is published to hold an archive against, take it as the server sends it.
    pub unverified: bool,
}

/// An archive on disk that has been verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Archive {
    /// Its file.
    #[serde(skip)]
    pub path: PathBuf,
    /// Where it came from.
    pub url: String,
    /// Its SHA-256.
    pub sha256: String,
    /// A signature was checked, beyond the sum.
    pub signature_checked: bool,
    /// The sum is only that of what the server sent.
    pub unverified: bool,
}

/// Downloads and verifies the archive of a release into `downloads`. What has been verified before is not asked for again.
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
    if let Some(known) = known(&path, &note, trust) {
        report.say(&format!("using {file}, downloaded and verified earlier"));
        return Ok(known);
    }
    let archive = match series {
        Some(series) => {
            signed(&format!("{}/{series}", mirrors.releases.trim_end_matches('/')), &file, &path, trust, fetch, report)?
        }
        None => {
            let url = format!("{}/{file}", mirrors.candidates.trim_end_matches('/'));
            if trust.sha256.is_none() && !trust.unverified {
                return Err(ReleaseError::Unverifiable { file, url });
            }
            if trust.keyring.is_some() {
                report.say(&format!("kernel.org publishes no signature for {file}: the keyring is of no use here"));
            }
            let sha256 = fetch.file(&url, &path, trust.sha256.as_deref(), report)?;
            if trust.sha256.is_none() {
                report.say(&format!("{file} was taken unverified; its SHA-256 is {sha256}"));
            }
            Archive { path: path.clone(), url, sha256, signature_checked: false, unverified: trust.sha256.is_none() }
        }
    };
    let text = serde_json::to_string_pretty(&archive).map_err(io::Error::from)?;
    fs::write(note, text + "\n")?;
    Ok(archive)
}

/// What an earlier call verified, if that is good enough for this one and the file has not changed.
fn known(path: &Path, note: &Path, trust: &Trust) -> Option<Archive> {
    let text = fs::read_to_string(note).ok()?;
    let archive = Archive { path: path.to_owned(), ..serde_json::from_str(&text).ok()? };
    let enough = (trust.keyring.is_none() || archive.signature_checked)
        && trust.sha256.as_ref().is_none_or(|sum| sum.eq_ignore_ascii_case(&archive.sha256))
        && (!archive.unverified || trust.unverified || trust.sha256.is_some());
    (enough && digest::of_file(path).ok()? == archive.sha256).then_some(archive)
}

fn signed(
    base: &str,
    file: &str,
    path: &Path,
    trust: &Trust,
    fetch: &Fetch,
    report: &dyn Report,
) -> Result<Archive, ReleaseError> {
    let mut unknown = Vec::new();
    let mut checked = false;
    let wanted = match &trust.sha256 {
        Some(sum) => sum.clone(),
        None => {
            let url = format!("{base}/sha256sums.asc");
            let mut list = fetch.text(&url)?;
            if let Some(keyring) = &trust.keyring {
                match verify::clear_signed(&list, keyring, &url)? {
                    Signature::Good { text } => {
                        list = text;
                        checked = true;
                    }
                    Signature::UnknownKey { key } => unknown.push(key),
                }
            }
            verify::sum_of(&list, file).ok_or_else(|| ReleaseError::NoSum { url, file: file.to_owned() })?.to_owned()
        }
    };
    let url = format!("{base}/{file}");
    let sha256 = fetch.file(&url, path, Some(&wanted), report)?;
    if let Some(keyring) = &trust.keyring {
        // It is the archive before compression that is signed.
        let sign_name = format!("{}.sign", file.trim_end_matches(".xz"));
        let sign = path.with_file_name(&sign_name);
        fs::write(&sign, fetch.text(&format!("{base}/{sign_name}"))?)?;
        let progress = report.start(&format!("checking the signature of {file}"), None, Unit::Bytes);
        let archive = fs::File::open(path)?;
        progress.total(archive.metadata()?.len());
        let mut tar = archive::decompressed(archive::Counted::new(archive, progress.as_ref()))?;
        match verify::detached(&mut tar, &sign, keyring, file)? {
            Signature::Good { .. } => checked = true,
            Signature::UnknownKey { key } => unknown.push(key),
        }
        drop(tar);
        progress.done();
        if !checked {
            return Err(ReleaseError::UnknownKeys { file: file.to_owned(), keyring: keyring.clone(), keys: unknown });
        }
    }
    Ok(Archive { path: path.to_owned(), url, sha256, signature_checked: checked, unverified: false })
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::{gz, tar, xz};
    use super::super::fetch::tests::{Server, quick};
    use super::super::verify::tests::Signer;
    use super::*;
    use crate::report::Silent;

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

    #[test]
    fn a_release_is_checked_against_the_list_and_used_again() {
        let mirror = Mirror::new();
        let archive = xz(&source());
        let sum = digest::of_bytes(&archive);
        mirror.server.put("/k/v6.x/linux-6.12.tar.xz", &archive);
        mirror.server.put("/k/v6.x/sha256sums.asc", format!("{sum}  linux-6.12.tar.xz\n").as_bytes());
        let got = mirror.get("6.12", &Trust::default()).unwrap();
        assert_eq!((got.sha256.as_str(), got.signature_checked), (sum.as_str(), false));
        assert!(got.url.ends_with("/k/v6.x/linux-6.12.tar.xz"));
        assert_eq!(fs::read(&got.path).unwrap(), archive);
        let before = mirror.server.asked().len();
        assert_eq!(mirror.get("6.12.0", &Trust::default()).unwrap(), got);
        assert_eq!(mirror.server.asked().len(), before);
        // A version that the list lacks, although there might be such a file.
        let error = mirror.get("6.12.1", &Trust::default()).unwrap_err();
        assert!(matches!(&error, ReleaseError::NoSum { file, .. } if file == "linux-6.12.1.tar.xz"), "{error}");
    }

    #[test]
    fn altered_and_truncated_archives_are_refused_by_name() {
        let mirror = Mirror::new();
        let archive = xz(&source());
        let list = format!("{}  linux-6.12.30.tar.xz\n", digest::of_bytes(&archive));
        mirror.server.put("/k/v6.x/sha256sums.asc", list.as_bytes());
        let mut altered = archive.clone();
        altered[20] ^= 1;
        for bad in [altered, archive[..archive.len() - 1].to_vec()] {
            mirror.server.put("/k/v6.x/linux-6.12.30.tar.xz", &bad);
            let error = mirror.get("6.12.30", &Trust::default()).unwrap_err();
            assert!(matches!(error, ReleaseError::Fetch(FetchError::Altered { .. })), "{error}");
            assert!(error.to_string().contains("linux-6.12.30.tar.xz"), "{error}");
            assert_eq!(mirror.left(), Vec::<String>::new());
        }
        // A sum that the user gives goes before the list's.
        mirror.server.put("/k/v6.x/linux-6.12.30.tar.xz", &archive);
        let trust = Trust { sha256: Some("0".repeat(64)), ..Trust::default() };
        assert!(matches!(mirror.get("6.12.30", &trust), Err(ReleaseError::Fetch(FetchError::Altered { .. }))));
    }

    #[test]
    fn a_candidate_needs_a_sum_or_the_users_word() {
        let mirror = Mirror::new();
        let archive = gz(&source());
        mirror.server.put("/t/linux-6.19-rc3.tar.gz", &archive);
        let error = mirror.get("6.19-rc3", &Trust::default()).unwrap_err();
        assert!(matches!(error, ReleaseError::Unverifiable { .. }), "{error}");
        assert!(mirror.server.asked().is_empty());
        let sum = digest::of_bytes(&archive);
        let wrong = Trust { sha256: Some("1".repeat(64)), ..Trust::default() };
        assert!(matches!(mirror.get("6.19-rc3", &wrong), Err(ReleaseError::Fetch(FetchError::Altered { .. }))));
        let trusting = Trust { unverified: true, ..Trust::default() };
        let got = mirror.get("6.19-rc3", &trusting).unwrap();
        assert_eq!((&got.sha256, got.unverified), (&sum, true));
        // That word holds for that time only.
        assert!(matches!(mirror.get("6.19-rc3", &Trust::default()), Err(ReleaseError::Unverifiable { .. })));
        let pinned = Trust { sha256: Some(sum), ..Trust::default() };
        assert!(!mirror.get("6.19-rc3", &pinned).unwrap().signature_checked);
        assert!(matches!(mirror.get("6.12.30-rc1", &trusting), Err(ReleaseError::NoArchive(_))));
    }

    #[test]
    fn with_a_keyring_a_signature_by_one_of_its_keys_is_demanded() {
        let mirror = Mirror::new();
        let (tar, signer, stranger) = (source(), Signer::new(), Signer::new());
        let archive = xz(&tar);
        let list = format!("{}  linux-6.12.tar.xz\n", digest::of_bytes(&archive));
        mirror.server.put("/k/v6.x/linux-6.12.tar.xz", &archive);
        mirror.server.put("/k/v6.x/linux-6.12.tar.sign", &signer.detached(&tar));
        mirror.server.put("/k/v6.x/sha256sums.asc", stranger.clear_sign(&list).as_bytes());
        let trust = Trust { keyring: Some(signer.keyring.clone()), ..Trust::default() };
        // The list is by a stranger, but the archive itself is signed.
        assert!(mirror.get("6.12", &trust).unwrap().signature_checked);

        let mirror = Mirror::new();
        mirror.server.put("/k/v6.x/linux-6.12.tar.xz", &archive);
        mirror.server.put("/k/v6.x/linux-6.12.tar.sign", &stranger.detached(&tar));
        mirror.server.put("/k/v6.x/sha256sums.asc", stranger.clear_sign(&list).as_bytes());
        let error = mirror.get("6.12", &trust).unwrap_err();
        assert!(matches!(&error, ReleaseError::UnknownKeys { keys, .. } if keys.len() == 2), "{error}");
        // Without the keyring the same is taken, and the record says that no signature was checked; that does not satisfy the keyring later.
        assert!(!mirror.get("6.12", &Trust::default()).unwrap().signature_checked);
        assert!(matches!(mirror.get("6.12", &trust), Err(ReleaseError::UnknownKeys { .. })));
        mirror.server.put("/k/v6.x/sha256sums.asc", signer.clear_sign(&list).as_bytes());
        assert!(mirror.get("6.12", &trust).unwrap().signature_checked);

        let mirror = Mirror::new();
        mirror.server.put("/k/v6.x/linux-6.12.tar.xz", &archive);
        mirror.server.put("/k/v6.x/linux-6.12.tar.sign", &signer.detached(b"something else"));
        mirror.server.put("/k/v6.x/sha256sums.asc", signer.clear_sign(&list).as_bytes());
        let error = mirror.get("6.12", &trust).unwrap_err();
        assert!(matches!(error, ReleaseError::Verify(VerifyError::Bad { .. })), "{error}");
    }
}
