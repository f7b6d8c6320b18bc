//! Sends the program's files in `/quiz/out` to the host, as a tar archive.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use quiz_proto::{CHUNK, ProgramId, Stream, ToHost};

use crate::link::Link;
use crate::setup::OUT;

/// Sends all artifacts, or nothing if there are none. Reports files that cannot be read, because
/// the run then failed.
pub fn send_all(link: &Link) {
    let writer = BufWriter::with_capacity(CHUNK, link.sender(ProgramId::MAIN, Stream::Artifacts));
    let sent = archive(link, writer);
    if let Err(e) = sent
        && e.kind() != io::ErrorKind::BrokenPipe
    {
        spoilt(link, OUT, &e);
    }
}

/// Lists the artifacts without sending them, as a rehearsal.
pub fn rehearse() {
    entries_of(Path::new(OUT)).ok();
}

fn spoilt(link: &Link, what: impl std::fmt::Display, why: &io::Error) {
    link.send(&ToHost::Spoilt(format!("what the program left in {what} cannot all be read: {why}").into()));
}

fn archive(link: &Link, writer: impl Write) -> io::Result<()> {
    let mut entries = entries_of(Path::new(OUT))?;
    // The file system makes this directory; it is empty unless the file system was repaired.
    entries.retain(|name| name.as_os_str() != "lost+found");
    if entries.is_empty() {
        return Ok(());
    }
    let mut archive = tar::Builder::new(writer);
    archive.follow_symlinks(false);
    while let Some(name) = entries.pop() {
        let path = Path::new(OUT).join(&name);
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(e) => {
                spoilt(link, path.display(), &e);
                continue;
            }
        };
        let kind = meta.file_type();
        if kind.is_dir() {
            archive.append_dir(&name, &path)?;
            match entries_of(&path) {
                Ok(inner) => entries.extend(inner.into_iter().map(|inner| name.join(inner))),
                Err(e) => spoilt(link, path.display(), &e),
            }
        } else if kind.is_file() || kind.is_symlink() {
            match open(&path, kind.is_file()) {
                Ok(file) => {
                    if let Some(e) = append(&mut archive, &path, &name, &meta, file)? {
                        spoilt(link, path.display(), &e);
                    }
                }
                Err(e) => spoilt(link, path.display(), &e),
            }
        } else {
            link.send(&ToHost::Note(format!("{} is not a file, and is not copied", path.display()).into()));
        }
    }
    archive.into_inner()?.flush()
}

/// Opens `path` if `is_file`. A file that cannot be opened is left out before any of it is in the
/// archive.
fn open(path: &Path, is_file: bool) -> io::Result<Option<File>> {
    is_file.then(|| fs::File::open(path).map(|file| file.into_parts().0)).transpose()
}

/// Adds a file to the archive, or a link if there is no file. Returns the error of a file that
/// could not be read to its end.
fn append(
    archive: &mut tar::Builder<impl Write>,
    path: &Path,
    name: &Path,
    meta: &std::fs::Metadata,
    file: Option<File>,
) -> io::Result<Option<io::Error>> {
    let mut header = tar::Header::new_gnu();
    header.set_metadata(meta);
    let Some(file) = file else {
        header.set_size(0);
        archive.append_link(&mut header, name, fs::read_link(path)?)?;
        return Ok(None);
    };
    let mut contents = Contents { file, left: meta.len(), error: None };
    header.set_size(contents.left);
    archive.append_data(&mut header, name, &mut contents)?;
    Ok(contents.error)
}

/// Yields exactly as many bytes as the archive's header announced. Zeros replace bytes that cannot
/// be read: otherwise the rest of the archive would be lost.
struct Contents {
    file: File,
    left: u64,
    error: Option<io::Error>,
}

impl Read for Contents {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let mut n = most;
        if most > 0 && self.error.is_none() {
            match self.file.read(&mut buffer[..most]) {
                Ok(0) => self.error = Some(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => n = read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
                Err(e) => self.error = Some(e),
            }
        }
        if self.error.is_some() {
            buffer[..n].fill(0);
        }
        self.left -= n as u64;
        Ok(n)
    }
}

fn entries_of(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_to_its_end_has_its_size_all_the_same() {
        let short = fs::read("/proc/self/stat").unwrap().len();
        let file = fs::File::open("/proc/self/stat").unwrap().into_parts().0;
        let mut contents = Contents { file, left: short as u64 + 500, error: None };
        let mut bytes = Vec::new();
        contents.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), short + 500);
        assert!(bytes.ends_with(&[0; 400]) && bytes[0] != 0);
        assert!(contents.error.is_some());
    }
}
