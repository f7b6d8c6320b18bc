//! What is written down about a build directory of quiz's own, beside its logs. Not for what is
//! installed of it.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

/// The directory in a build directory that is quiz's own.
pub(crate) const DIR: &str = ".quiz-build";

/// What is known about a build directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// The user's arguments of `configure`.
    pub args: Vec<String>,
    /// The kernel it was configured for, exactly. None if it has to be configured (again).
    pub identity: Option<String>,
    /// The path it was configured at.
    #[serde(with = "crate::pathtext")]
    pub dir: PathBuf,
    /// How many objects the first whole build made.
    pub objects: Option<u64>,
}

impl Record {
    /// Reads the record of the build directory `build`; one that is missing or makes no sense is
    /// empty.
    pub fn read(build: &Path) -> io::Result<Record> {
        match fs::read(path(build)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(e) => Err(e),
        }
    }

    /// Writes it, whole or not at all.
    pub fn write(&self, build: &Path) -> io::Result<()> {
        write_whole(&path(build), &serde_json::to_vec_pretty(self)?)
    }
}

fn path(build: &Path) -> PathBuf {
    build.join(DIR).join("record.json")
}

/// Writes a file so that whoever reads it finds all of it, or what was there before.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let mut new = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    io::Write::write_all(&mut new, bytes)?;
    new.persist(path).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_nonsense_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Record::default());
        let record = Record {
            args: vec!["--enable-debug".to_owned(), "CFLAGS=-g -O0".to_owned()],
            identity: Some("6.12 today".to_owned()),
            dir: "/src/zfs".into(),
            objects: Some(7),
        };
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), record);
        fs::write(path(dir.path()), "{\"args\": [").unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Record::default());
        fs::write(path(dir.path()), "{\"args\": [\"x\"], \"later\": 1}").unwrap();
        assert_eq!(Record::read(dir.path()).unwrap().args, ["x"]);
    }
}
