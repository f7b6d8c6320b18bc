//! The record of one of quiz's build directories, beside its logs. Not for what is installed from
//! it.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

/// quiz's own directory in a build directory.
pub(crate) const DIR: &str = ".quiz-build";

/// The state of a build directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// The user's arguments of `configure`.
    pub args: Vec<String>,
    /// The identity of the kernel that it was configured for. `None` if it has to be configured
    /// (again).
    pub identity: Option<String>,
    /// The path at which it was configured.
    #[serde(with = "crate::pathtext")]
    pub dir: PathBuf,
    /// How many objects the first full build made.
    pub objects: Option<u64>,
}

impl Record {
    /// Reads the record of the build directory `build`. A missing or invalid record is empty.
    pub fn read(build: &Path) -> io::Result<Record> {
        match fs::read(path(build)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(e) => Err(e),
        }
    }

    /// Writes the record atomically.
    pub fn write(&self, build: &Path) -> io::Result<()> {
        write_whole(&path(build), &serde_json::to_vec_pretty(self)?)
    }
}

fn path(build: &Path) -> PathBuf {
    build.join(DIR).join("record.json")
}

/// Writes a file atomically: a reader sees either the old or the complete new contents.
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
