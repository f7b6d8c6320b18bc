//! An empty ext4 file system in a sparse file, made once and copied for every run that needs one.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use quiz_host::report::Report;
use quiz_host::store::{Cache, Entry, StoreError};

/// The name of the image in its entry.
const FILE: &str = "blank.ext4";

/// The search path for `mke2fs`; users' `PATH`s often lack the system directories.
const PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// Why an empty file system could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BlankError {
    /// The cache failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The program is missing or failed.
    #[error("cannot make an empty ext4 file system: mke2fs: {0}; it is in the package e2fsprogs")]
    Mke2fs(String),
    /// The file could not be made.
    #[error(transparent)]
    File(#[from] io::Error),
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    bytes: u64,
    built_at: jiff::Timestamp,
    quiz_version: String,
}

/// An empty file system in the cache. The entry counts as in use until this value is dropped.
#[derive(Debug)]
pub struct Blank {
    entry: Entry,
}

impl Blank {
    /// The sparse file.
    pub fn path(&self) -> PathBuf {
        self.entry.dir().join(FILE)
    }
}

/// The empty ext4 file system of this size in bytes, from the cache if it exists.
///
/// It has no journal. Synced data is in its final place at once, so a reader needs no recovery, and
/// mounting is faster.
pub fn ext4(cache: &Cache, bytes: u64, report: &dyn Report) -> Result<Blank, BlankError> {
    let name = format!("ext4-{}m", bytes >> 20);
    let entry = cache.shelf("blank").build(&name, "making an empty file system", false, report, |dir| {
        make(&dir.join(FILE), bytes)?;
        let quiz_version = env!("CARGO_PKG_VERSION").to_owned();
        Ok::<_, BlankError>(Manifest { bytes, built_at: jiff::Timestamp::now(), quiz_version })
    })?;
    Ok(Blank { entry })
}

fn make(path: &Path, bytes: u64) -> Result<(), BlankError> {
    fs::File::create(path).and_then(|file| file.set_len(bytes))?;
    let made = Command::new("mke2fs")
        .env("PATH", PATH)
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-b", "4096", "-i", "65536", "-L", "quiz-out"])
        .args(["-O", "^has_journal,^resize_inode,^64bit", "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
        .arg(path)
        .output()
        .map_err(|e| BlankError::Mke2fs(e.to_string()))?;
    if !made.status.success() {
        return Err(BlankError::Mke2fs(String::from_utf8_lossy(&made.stderr).trim().to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quiz_host::report::Silent;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn an_empty_file_system_is_small_and_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned());
        let blank = ext4(&cache, 1 << 30, &Silent).unwrap();
        let meta = fs::metadata(blank.path()).unwrap();
        assert_eq!(meta.len(), 1 << 30);
        assert!(meta.blocks() * 512 < 4 << 20, "{} bytes are allocated", meta.blocks() * 512);
        assert_eq!(ext4(&cache, 1 << 30, &Silent).unwrap().path(), blank.path());
    }
}
