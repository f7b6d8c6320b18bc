//! Unpacks source archives, either completely or not at all. Not for deciding whether to trust an
//! archive: that comes first.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use fs_err as fs;

use quiz_host::causes;
use quiz_host::report::Progress;

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Reading the archive or writing its files failed.
    #[error("cannot unpack {what}: {cause}")]
    Io {
        /// The archive.
        what: String,
        /// The system's answer.
        cause: io::Error,
    },
    /// The archive has other contents.
    #[error("cannot unpack {what}: it is not a kernel's source: {why}")]
    Content {
        /// The archive.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Reports to the progress how far a file has been read.
pub(crate) struct Counted<'a, R> {
    inner: R,
    read: u64,
    progress: &'a dyn Progress,
}

impl<'a, R: Read> Counted<'a, R> {
    pub(crate) fn new(inner: R, progress: &'a dyn Progress) -> Counted<'a, R> {
        Counted { inner, read: 0, progress }
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read += n as u64;
        self.progress.at(self.read);
        Ok(n)
    }
}

/// The uncompressed bytes of a file; its first bytes show the compression (xz, gzip or none).
pub(crate) fn decompressed<'a>(compressed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut compressed = BufReader::with_capacity(1 << 18, compressed);
    let start = io::BufRead::fill_buf(&mut compressed)?;
    Ok(match start {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(compressed)),
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(compressed)),
        _ => Box::new(compressed),
    })
}

/// Unpacks the tar stream `tar`, which has one directory at its top, to the directory `to`. An
/// existing directory is replaced once the new one is complete. `what` is the archive's name, for
/// messages.
pub(crate) fn unpack(tar: impl Read, to: &Path, what: &str) -> Result<(), ArchiveError> {
    let failed = |cause| ArchiveError::Io { what: what.to_owned(), cause: causes::told(cause) };
    let wrong = |why: &str| ArchiveError::Content { what: what.to_owned(), why: why.to_owned() };
    let part = PathBuf::from(format!("{}.part", to.display()));
    remove(&part).map_err(failed)?;
    fs::create_dir_all(&part).map_err(failed)?;
    let mut archive = tar::Archive::new(tar);
    // make compares times, so keep the archive's times; owners do not matter.
    archive.set_preserve_mtime(true);
    archive.unpack(&part).map_err(failed)?;
    let tops = fs::read_dir(&part).map_err(failed)?.collect::<io::Result<Vec<_>>>().map_err(failed)?;
    let [top] = &tops[..] else {
        return Err(wrong("it has not just one directory at its top"));
    };
    if !top.path().join("Makefile").is_file() || !top.path().join("Kconfig").is_file() {
        return Err(wrong("it has no Makefile and Kconfig at its top"));
    }
    remove(to).map_err(failed)?;
    fs::rename(top.path(), to).map_err(failed)?;
    remove(&part).map_err(failed)?;
    Ok(())
}

/// Removes a directory, if it is there.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    /// A tar archive of files by path.
    pub(crate) fn tar(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(1_000_000);
            builder.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    pub(crate) fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const FILES: &[(&str, &str)] = &[("linux-6.12/Makefile", "VERSION = 6\n"), ("linux-6.12/Kconfig", "x")];

    #[test]
    fn every_compression_unpacks_to_the_same_tree() {
        for bytes in [tar(FILES), xz(&tar(FILES)), gz(&tar(FILES))] {
            let dir = tempfile::tempdir().unwrap();
            let to = dir.path().join("source");
            fs::create_dir(&to).unwrap();
            fs::write(to.join("old"), "").unwrap();
            unpack(decompressed(&bytes[..]).unwrap(), &to, "x.tar").unwrap();
            assert_eq!(fs::read_to_string(to.join("Makefile")).unwrap(), "VERSION = 6\n");
            assert!(!to.join("old").exists());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_broken_or_foreign_archive_leaves_the_old_tree() {
        let truncated = {
            let whole = xz(&tar(&[("linux-6.12/Makefile", &"x".repeat(100_000)), ("linux-6.12/Kconfig", "")]));
            whole[..whole.len() / 2].to_vec()
        };
        let foreign = tar(&[("zlib/README", "")]);
        let two = tar(&[("a/Makefile", ""), ("a/Kconfig", ""), ("b/x", "")]);
        for bytes in [truncated, foreign, two, b"no archive at all".repeat(100)] {
            let dir = tempfile::tempdir().unwrap();
            let to = dir.path().join("source");
            fs::create_dir(&to).unwrap();
            fs::write(to.join("old"), "").unwrap();
            let error = unpack(decompressed(&bytes[..]).unwrap(), &to, "x.tar").unwrap_err().to_string();
            assert!(error.starts_with("cannot unpack x.tar: "), "{error}");
            assert!(!error.ends_with("failed to iterate over archive"), "without its cause: {error}");
            assert!(to.join("old").exists());
        }
    }
}
