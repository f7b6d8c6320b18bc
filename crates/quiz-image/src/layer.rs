//! Layers: read-only images of host directories that a run puts over its root. Not for the root
//! itself.
//!
//! A key identifies a layer. Its maker derives the key from the contents: with [`fingerprint`] for
//! directories that change, or in a shorter way for those that do not.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::squashfs;
use quiz_debian::usrmerge::merged;
use quiz_host::command::CommandError;
use quiz_host::report::{Report, Unit};
use quiz_host::store::{Cache, Entry, Shelf, StoreError};
use quiz_host::tools;
use quiz_kernel::kernel::Kernel;

const IMAGE: &str = "layer.squashfs";
/// How many layers are kept. Each change to a module makes a new layer of some megabytes.
const KEPT: usize = 24;
/// The smallest image, in bytes.
const SMALLEST: u64 = 16 << 20;

/// Why a layer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The cache failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A program of the host failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Its contents cannot be read.
    #[error("cannot read what is to be laid over the guest's root: {0}")]
    Read(#[from] io::Error),
    /// A file type that an image cannot contain, such as a socket.
    #[error("{} cannot be laid over the guest's root: it is neither a file nor a directory nor a symbolic link", .0.display())]
    Kind(PathBuf),
}

/// Host files, and their place in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// A file, or a directory whose contents are included.
    pub host: PathBuf,
    /// The directory's or the file's path in the guest, absolute.
    pub guest: PathBuf,
}

/// A layer in the cache, in use until this value is dropped.
#[derive(Debug)]
pub struct Layer {
    /// The image, to attach read-only.
    pub image: PathBuf,
    /// The name of the entry, which is different for different contents.
    pub name: String,
    /// The key of its contents, valid across reboots of the host.
    pub key: String,
    _entry: Entry,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    about: String,
    bytes: u64,
    built_at: jiff::Timestamp,
    quiz_version: String,
}

/// The shelf of layers. A layer is made between an edit and its run, where syncing to disk would
/// take most of the time. So a layer is valid only in the boot of the host in which it was written.
pub fn shelf(cache: &Cache) -> Shelf {
    cache.volatile_shelf("layers")
}

/// A key that changes with anything below `sources`: names, modes, sizes, inode numbers and inode
/// times. The contents are not read.
pub fn fingerprint(sources: &[Source]) -> Result<String, LayerError> {
    let mut sum = Sha256::new();
    for (guest, found) in collect(sources)? {
        let m = &found.meta;
        sum.update(guest.as_os_str().as_bytes());
        sum.update([0]);
        // A directory's own times also change with files that are left out.
        let times = if m.is_dir() {
            [0; 6]
        } else {
            [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec(), m.dev() as i64, m.ino() as i64]
        };
        for number in [i64::from(m.mode()), m.len() as i64 * i64::from(!m.is_dir())].iter().chain(&times) {
            sum.update(number.to_le_bytes());
        }
        if m.is_symlink() {
            sum.update(fs::read_link(&found.path)?.as_os_str().as_bytes());
        }
    }
    Ok(quiz_host::digest::hex(&sum.finalize()))
}

/// The layer of `sources`, which `key` identifies; from the cache if it exists. `label` begins its
/// name, and `about` describes it for people.
pub fn make(
    cache: &Cache,
    label: &str,
    about: &str,
    key: &str,
    sources: &[Source],
    report: &dyn Report,
) -> Result<Layer, LayerError> {
    let shelf = shelf(cache);
    // The first number is the format of the image; increase it when the format changes.
    let name =
        format!("{label}-{}", &quiz_host::digest::of_bytes(format!("3 {} {key}", tools::boot_id()?).as_bytes())[..20]);
    if let Some(entry) = shelf.open(&name)? {
        entry.touch();
        return Ok(Layer { image: entry.dir().join(IMAGE), name, key: key.to_owned(), _entry: entry });
    }
    let what = format!("making the layer of {about}");
    let entry = shelf.build(&name, &what, false, report, |dir| {
        let progress = report.start(&what, None, Unit::None);
        let image = dir.join(IMAGE);
        let log = cache.log_file(&format!("layer-{label}"));
        let files = collect(sources)?;
        let (reader, writer) = io::pipe()?;
        std::thread::scope(|scope| {
            let written = std::thread::Builder::new().spawn_scoped(scope, move || write_tar(writer, &files))?;
            let made = squashfs::from_tar(
                std::fs::File::from(std::os::fd::OwnedFd::from(reader)),
                &image,
                &format!("make the layer of {about}"),
                &log,
            );
            let written = written.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // A read error explains more than the error of a program that got half an archive.
            match (written, made) {
                (Err(LayerError::Read(e)), Err(made)) if e.kind() == io::ErrorKind::BrokenPipe => Err(made.into()),
                (Err(error), _) => Err(error),
                (Ok(()), made) => made.map_err(LayerError::from),
            }
        })?;
        let bytes = fs::metadata(&image)?.len();
        // A guest learns a disk's size at boot. Rounding mostly keeps the size after a small
        // change, so a saved guest can use the new image.
        fs::OpenOptions::new().write(true).open(&image)?.set_len(bytes.max(SMALLEST).next_power_of_two())?;
        progress.done();
        Ok::<_, LayerError>(Manifest {
            about: about.to_owned(),
            bytes,
            built_at: jiff::Timestamp::now(),
            quiz_version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    })?;
    shelf.keep_newest(KEPT)?;
    Ok(Layer { image: entry.dir().join(IMAGE), name, key: key.to_owned(), _entry: entry })
}

/// The layer with the modules of `kernel`, if it has any, at the path where modprobe looks for
/// them.
pub fn of_modules(cache: &Cache, kernel: &Kernel, report: &dyn Report) -> Result<Option<Layer>, LayerError> {
    let Some(modules) = kernel.modules_dir() else { return Ok(None) };
    let guest = Path::new("/lib/modules").join(&kernel.manifest.release);
    let about = format!("the modules of kernel {}", kernel.name());
    let source = Source { host: modules, guest };
    make(cache, &format!("modules-{}", kernel.name()), &about, &kernel.identity(), &[source], report).map(Some)
}

struct Found {
    path: PathBuf,
    meta: std::fs::Metadata,
}

/// Everything below `sources` by its path in the guest, without the leading slash. If two sources
/// have the same path, the later wins.
fn collect(sources: &[Source]) -> Result<BTreeMap<PathBuf, Found>, LayerError> {
    let mut all = BTreeMap::new();
    for source in sources {
        for entry in walkdir::WalkDir::new(&source.host).follow_root_links(true) {
            let entry = entry.map_err(io::Error::from)?;
            let below = entry.path().strip_prefix(&source.host).unwrap_or(Path::new(""));
            let guest = merged(&source.guest.join(below));
            // Follow the link if the source itself is one.
            let meta =
                if entry.depth() == 0 { fs::metadata(entry.path())? } else { fs::symlink_metadata(entry.path())? };
            let kind = meta.file_type();
            if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
                return Err(LayerError::Kind(entry.path().to_owned()));
            }
            if !guest.as_os_str().is_empty() {
                all.insert(guest, Found { path: entry.into_path(), meta });
            }
        }
    }
    Ok(all)
}

fn write_tar(out: impl io::Write, files: &BTreeMap<PathBuf, Found>) -> Result<(), LayerError> {
    let mut archive = tar::Builder::new(BufWriter::with_capacity(1 << 20, out));
    let mut made = BTreeSet::new();
    for (guest, found) in files {
        let parents: Vec<&Path> = guest.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
        for parent in parents.into_iter().rev().filter(|p| !files.contains_key(*p)) {
            if made.insert(parent.to_owned()) {
                archive.append_data(&mut header(tar::EntryType::Directory, 0o755, 0, 0), parent, io::empty())?;
            }
        }
        let m = &found.meta;
        let time = u64::try_from(m.mtime()).unwrap_or(0);
        if m.is_dir() {
            archive.append_data(&mut header(tar::EntryType::Directory, m.mode(), 0, time), guest, io::empty())?;
        } else if m.is_symlink() {
            let target = fs::read_link(&found.path)?;
            archive.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0, time), guest, target)?;
        } else {
            let file = fs::File::open(&found.path)?;
            // The file may have grown since; the archive needs the size in its header.
            let mut header = header(tar::EntryType::Regular, m.mode(), m.len(), time);
            archive.append_data(&mut header, guest, io::Read::take(file, m.len()))?;
        }
    }
    archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(())
}

fn header(kind: tar::EntryType, mode: u32, size: u64, time: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode & 0o7777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(time);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(host: &Path, guest: &str) -> Source {
        Source { host: host.to_owned(), guest: guest.into() }
    }

    #[test]
    fn every_change_makes_another_fingerprint() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("d");
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/file"), "one").unwrap();
        let of = || fingerprint(&[source(&dir, "/")]).unwrap();
        let first = of();
        assert_eq!(of(), first);
        fs::write(dir.join("sub/file"), "two").unwrap();
        let second = of();
        assert_ne!(second, first);
        fs_err::os::unix::fs::symlink("file", dir.join("sub/link")).unwrap();
        let third = of();
        assert_ne!(third, second);
        fs::rename(dir.join("sub/link"), dir.join("sub/other")).unwrap();
        assert_ne!(of(), third);
        fs::remove_file(dir.join("sub/other")).unwrap();
        assert_eq!(of(), second);
        assert_ne!(fingerprint(&[source(&dir, "/opt")]).unwrap(), second);
    }

    #[test]
    fn an_image_holds_what_its_sources_have_at_their_places() {
        let top = tempfile::tempdir().unwrap();
        let (one, two) = (top.path().join("one"), top.path().join("two"));
        fs::create_dir_all(one.join("lib/deep/er")).unwrap();
        fs::write(one.join("lib/deep/er/a b,c"), "A").unwrap();
        fs::create_dir_all(&two).unwrap();
        fs::write(two.join("x"), "later").unwrap();
        fs::write(top.path().join("init"), "#!/bin/sh\n").unwrap();
        fs_err::os::unix::fs::symlink("a b,c", one.join("lib/deep/er/link")).unwrap();
        let sources = [
            source(&one, "/"),
            source(&top.path().join("init"), "/quiz/profiles/p/init"),
            source(&two, "/usr/lib/deep"),
        ];
        let cache = Cache::at(top.path().join("cache"));
        let key = fingerprint(&sources).unwrap();
        let layer = make(&cache, "t", "a test", &key, &sources, &quiz_host::report::Silent).unwrap();
        let out = top.path().join("out");
        let done =
            std::process::Command::new("unsquashfs").args(["-q", "-n", "-d"]).arg(&out).arg(&layer.image).output();
        assert!(done.unwrap().status.success());
        assert_eq!(fs::read_to_string(out.join("usr/lib/deep/er/a b,c")).unwrap(), "A");
        assert_eq!(fs::read_to_string(out.join("usr/lib/deep/er/link")).unwrap(), "A");
        assert_eq!(fs::read_to_string(out.join("usr/lib/deep/x")).unwrap(), "later");
        assert!(out.join("quiz/profiles/p/init").exists() && !out.join("lib").exists());
        let again = make(&cache, "t", "a test", &key, &[], &quiz_host::report::Silent).unwrap();
        assert_eq!(again.image, layer.image);
    }

    #[test]
    fn what_cannot_be_in_an_image_is_named() {
        let top = tempfile::tempdir().unwrap();
        let socket = top.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = fingerprint(&[source(top.path(), "/")]).unwrap_err().to_string();
        assert!(error.contains(&socket.display().to_string()), "{error}");
        let error = fingerprint(&[source(&top.path().join("none"), "/")]).unwrap_err().to_string();
        assert!(error.contains("none"), "{error}");
    }
}
