//! Sends what the program left in `/quiz/out` to the host, as a tar archive.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use fs_err as fs;
use quiz_proto::{CHUNK, ProgramId, Stream, ToHost};

use crate::link::Link;
use crate::setup::OUT;

/// Sends everything, or nothing when there is nothing. What cannot be sent is named in a note.
pub fn send_all(link: &Link) {
    let writer = BufWriter::with_capacity(CHUNK, link.sender(ProgramId::MAIN, Stream::Artifacts));
    let sent = archive(link, writer);
    if let Err(e) = sent
        && e.kind() != io::ErrorKind::BrokenPipe
    {
        link.send(&ToHost::Note(format!("the artifacts are incomplete: {e}").into()));
    }
}

/// Looks for what there is to send, for practice.
pub fn rehearse() {
    entries_of(Path::new(OUT));
}

fn archive(link: &Link, writer: impl Write) -> io::Result<()> {
    let mut entries = entries_of(Path::new(OUT));
    // The file system's own; empty unless it was repaired.
    entries.retain(|name| name.as_os_str() != "lost+found");
    if entries.is_empty() {
        return Ok(());
    }
    let mut archive = tar::Builder::new(writer);
    archive.follow_symlinks(false);
    while let Some(name) = entries.pop() {
        let path = Path::new(OUT).join(&name);
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let kind = meta.file_type();
        if kind.is_dir() {
            archive.append_dir(&name, &path)?;
            entries.extend(entries_of(&path).into_iter().map(|inner| name.join(inner)));
        } else if kind.is_file() || kind.is_symlink() {
            append(&mut archive, &path, &name, &meta)?;
        } else {
            link.send(&ToHost::Note(format!("{} is no file, and stays in the guest", path.display()).into()));
        }
    }
    archive.into_inner()?.flush()
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    path: &Path,
    name: &Path,
    meta: &std::fs::Metadata,
) -> io::Result<()> {
    if meta.file_type().is_symlink() {
        let mut header = tar::Header::new_gnu();
        header.set_metadata(meta);
        header.set_size(0);
        return archive.append_link(&mut header, name, fs::read_link(path)?);
    }
    let (mut file, _) = fs::File::open(path)?.into_parts();
    archive.append_file(name, &mut file)
}

fn entries_of(dir: &Path) -> Vec<std::path::PathBuf> {
    let Ok(found) = fs::read_dir(dir) else { return Vec::new() };
    found.flatten().map(|entry| entry.file_name().into()).collect()
}
