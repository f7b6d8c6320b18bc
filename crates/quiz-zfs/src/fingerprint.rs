//! Detects whether a file has changed from the result of `stat`, without reading it. Not for
//! contents.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};

/// Changes whenever the file is written or replaced. The change time cannot be set back, so a
/// restored modification time does not hide a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, i64, i64, u64)", into = "(u64, i64, i64, u64)")]
pub(crate) struct Fingerprint {
    /// Size in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970.
    pub modified: i64,
    /// Change time in nanoseconds since 1970.
    pub changed: i64,
    /// Inode number.
    pub inode: u64,
}

impl Fingerprint {
    /// The fingerprint of the file at `path`, with symbolic links followed. `None` if there is no
    /// file.
    pub fn of(path: &Path) -> io::Result<Option<Fingerprint>> {
        match fs::metadata(path) {
            Ok(meta) => Ok(Some(Fingerprint::from(&meta))),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl From<&std::fs::Metadata> for Fingerprint {
    fn from(meta: &std::fs::Metadata) -> Fingerprint {
        let time = |seconds: i64, nanoseconds: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
        Fingerprint {
            size: meta.size(),
            modified: time(meta.mtime(), meta.mtime_nsec()),
            changed: time(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        }
    }
}

impl From<(u64, i64, i64, u64)> for Fingerprint {
    fn from((size, modified, changed, inode): (u64, i64, i64, u64)) -> Fingerprint {
        Fingerprint { size, modified, changed, inode }
    }
}

impl From<Fingerprint> for (u64, i64, i64, u64) {
    fn from(f: Fingerprint) -> Self {
        (f.size, f.modified, f.changed, f.inode)
    }
}
