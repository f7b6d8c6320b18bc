//! `quiz cp`: files and directories into a VM that runs, and out of it, through `tar` in the guest.
//!
//! What comes out of a guest is unpacked in a directory of its own beside the destination, which no name in the archive can leave, and put in place when
//! it is all there.

use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use clap::Args;
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use quiz_config::Escape;
use quiz_image::report::{Progress, Unit};
use quiz_image::{Cache, Report};
use quiz_vm::client::Parting;
use quiz_vm::control::Exec;
use quiz_vm::proto::Status;
use quiz_vm::{Streams, Verdict};
use tar::EntryType;
use walkdir::WalkDir;

use super::exec;
use crate::context::Context;
use crate::errors::Fault;
use crate::run::Terminal;
use crate::run::registry::{self, Running};

/// How much is moved at once, in bytes.
const PIECE: usize = 1 << 20;
/// From how many bytes on there is progress to be told.
const WORTH_TELLING: u64 = 64 << 20;

/// From where to where.
#[derive(Debug, Args)]
#[command(after_help = "\
A path in the guest is written ID:PATH, or :PATH for the newest run of this
worktree. Directories are copied with all that is in them, links as links; modes
and times are kept, and in the guest all belongs to root. A destination that is a
directory, or ends in a slash, gets what is copied by its own name.

  quiz cp core.patch :/tmp/           into the newest VM
  quiz cp 4b2c:/var/log/ ./evidence   out of the VM whose id ends in 4b2c")]
pub struct Cp {
    /// What is copied
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<OsString>,
    /// Where to
    #[arg(required = true, value_name = "DESTINATION")]
    pub destination: OsString,
}

/// A path on one side.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Host(PathBuf),
    /// In the VM of that id; without one in the newest.
    Guest(Option<String>, PathBuf),
}

/// `ID:PATH`, `:PATH`, or a path on the host: one with a slash in front of the colon, or none at all.
fn place(word: &OsStr) -> Place {
    let bytes = word.as_bytes();
    match bytes.iter().position(|b| matches!(b, b':' | b'/')).filter(|at| bytes[*at] == b':') {
        None => Place::Host(word.into()),
        Some(at) => {
            let id = String::from_utf8_lossy(&bytes[..at]).into_owned();
            Place::Guest(Some(id).filter(|id| !id.is_empty()), OsStr::from_bytes(&bytes[at + 1..]).into())
        }
    }
}

/// Copies.
pub fn run(args: &Cp, ctx: &Context) -> Result<(), Fault> {
    let cache = ctx.cache()?;
    let find = |id: Option<&str>| registry::find(&cache, &ctx.runs_dir()?, id);
    let sources: Vec<Place> = args.sources.iter().map(|word| place(word)).collect();
    let mut from_host = Vec::new();
    let mut from_guest = Vec::new();
    for source in sources {
        match source {
            Place::Host(path) => from_host.push(ctx.cwd.join(path)),
            Place::Guest(id, path) => from_guest.push((id, path)),
        }
    }
    match place(&args.destination) {
        Place::Guest(id, destination) if from_guest.is_empty() => {
            let guest = Guest { running: find(id.as_deref())?, cache: &cache };
            into_guest(&from_host, &destination, &guest, ctx)
        }
        Place::Host(destination) if from_host.is_empty() => {
            let (ids, paths): (Vec<_>, Vec<_>) = from_guest.into_iter().unzip();
            if ids.iter().any(|id| *id != ids[0]) {
                return Err(Fault::new("the sources are in several VMs").hint("copy from one after the other"));
            }
            let guest = Guest { running: find(ids[0].as_deref())?, cache: &cache };
            out_of_guest(&paths, &args.destination, &ctx.cwd.join(destination), &guest, ctx)
        }
        _ => Err(Fault::new("one side is to be in a VM and the other on the host")
            .hint("a path in the guest is written ID:PATH, or :PATH for the newest run of this worktree")),
    }
}

struct Guest<'a> {
    running: Running,
    cache: &'a Cache,
}

impl Guest<'_> {
    /// Runs a program to its end; what it says on standard error, and how it ended.
    fn run(&self, argv: &[&OsStr], input: Option<io::PipeReader>, output: Box<dyn Write + Send>) -> Result<End, Fault> {
        let words = Collected::default();
        let exec = Exec {
            argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
            env: Vec::new(),
            cwd: b"/root".to_vec(),
            terminal: None,
            separate_stderr: false,
        };
        let streams = Streams { input: input.map(Into::into), output, errors: Box::new(words.clone()) };
        let parting =
            exec::run_in(exec::enter(&self.running, self.cache)?, exec, streams, &Terminal::none(), Escape(None))?;
        Ok(End { parting, words: words.text() })
    }
}

struct End {
    parting: Parting,
    words: String,
}

impl End {
    fn is_good(&self) -> bool {
        self.parting == Parting::Ended(Status::Code(0))
    }

    /// The fault, if there is one.
    fn check(self, what: &str) -> Result<(), Fault> {
        if self.is_good() {
            return Ok(());
        }
        let why = match self.parting {
            Parting::Ended(Status::NotFound) => "the guest has no `tar`".to_owned(),
            Parting::Ended(_) if !self.words.is_empty() => self.words,
            Parting::Ended(status) => Verdict::from(status).headline(),
            Parting::Over { message, .. } => message.unwrap_or_else(|| "the VM has ended".to_owned()),
            Parting::Interrupted(signal) => format!("interrupted by signal {signal}"),
            Parting::Escaped | Parting::Gone => "the VM is gone".to_owned(),
        };
        Err(Fault::new(format!("{what}: {why}")))
    }
}

/// What a program has written, for messages.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

/// How much of it is kept, in bytes.
const KEPT: usize = 4096;

impl Collected {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).trim_end().to_owned()
    }
}

impl Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = KEPT.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..left.min(bytes.len())]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn into_guest(sources: &[PathBuf], destination: &Path, guest: &Guest, ctx: &Context) -> Result<(), Fault> {
    let is_dir =
        guest.run(&["test".as_ref(), "-d".as_ref(), destination.as_os_str()], None, Box::new(io::sink()))?.is_good();
    let inside = is_dir || sources.len() > 1 || ends_in_slash(destination.as_os_str());
    let mut named: Vec<(&Path, OsString)> = Vec::new();
    let mut total = 0;
    for source in sources {
        total += bytes_of(source)?;
        // `.` and `dir/..` have no name of their own.
        let own = || fs::canonicalize(source).ok().and_then(|path| path.file_name().map(OsStr::to_owned));
        let name = match destination.file_name().filter(|_| !inside) {
            Some(name) => name.to_owned(),
            None => source.file_name().map(OsStr::to_owned).or_else(own).unwrap_or_else(|| "root".into()),
        };
        named.push((source, name));
    }
    refuse_twins(named.iter().map(|(_, name)| name.as_os_str()))?;
    let dir = if inside { Some(destination) } else { destination.parent() };
    let dir = dir.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));

    let (reader, writer) = io::pipe()?;
    let counted = Counted::new(writer, ctx, format!("copying into {}", guest.running.id), Some(total));
    let tar = ["tar", "-x", "-p", "--no-same-owner", "-f", "-", "-C"].map(OsStr::new);
    let argv = [&tar[..], &[dir.as_os_str()]].concat();
    let (packed, end) = thread::scope(|scope| {
        let unpacking = scope.spawn(|| guest.run(&argv, Some(reader), Box::new(io::sink())));
        let packed = pack(&named, counted);
        (packed, unpacking.join())
    });
    let end = end.map_err(|_| Fault::new("copying into the guest failed"))??;
    match packed {
        // Whoever read it has said why they do not any more.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => end.check(&format!("copying to {} in the guest", destination.display())),
    }
}

fn pack(named: &[(&Path, OsString)], output: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(PIECE, output));
    archive.follow_symlinks(false);
    for (source, name) in named {
        if fs::symlink_metadata(source)?.is_dir() {
            archive.append_dir_all(name, source)?;
        } else {
            archive.append_path_with_name(source, name)?;
        }
    }
    archive.into_inner()?.flush()
}

/// The bytes of all files in `path`.
fn bytes_of(path: &Path) -> io::Result<u64> {
    WalkDir::new(path).into_iter().try_fold(0, |sum, entry| {
        let meta = entry?.metadata()?;
        Ok(sum + if meta.is_dir() { 0 } else { meta.len() })
    })
}

fn out_of_guest(
    sources: &[PathBuf],
    typed: &OsStr,
    destination: &Path,
    guest: &Guest,
    ctx: &Context,
) -> Result<(), Fault> {
    let inside = destination.is_dir() || sources.len() > 1 || ends_in_slash(typed);
    let dir = if inside { Some(destination) } else { destination.parent() }.unwrap_or(Path::new("/"));
    if !dir.is_dir() {
        return Err(Fault::new(format!("cannot copy to {}: {} is no directory", destination.display(), dir.display())));
    }
    let mut argv: Vec<OsString> = ["tar", "-c", "-f", "-"].map(Into::into).to_vec();
    for source in sources {
        let parent = source.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("/root"));
        let name = source.file_name().ok_or_else(|| {
            Fault::new(format!("cannot copy {}: it has no name of its own", source.display()))
                .hint("name a directory, or write its whole path")
        })?;
        // A name that begins with a dash is no option.
        let name = [b"./", name.as_bytes()].concat();
        // One `-C` is relative to the one before.
        argv.extend(["-C".into(), Path::new("/root").join(parent).into(), OsString::from_vec(name)]);
    }
    refuse_twins(sources.iter().filter_map(|source| source.file_name()))?;
    let argv: Vec<&OsStr> = argv.iter().map(OsString::as_os_str).collect();
    let staging = tempfile::Builder::new()
        .prefix(".quiz-cp-")
        .tempdir_in(dir)
        .map_err(|e| Fault::new(format!("cannot copy to {}: {e}", dir.display())))?;
    let (reader, writer) = io::pipe()?;
    let counted = Counted::new(reader, ctx, format!("copying out of {}", guest.running.id), None);
    let (unpacked, end) = thread::scope(|scope| {
        let packing = scope.spawn(|| guest.run(&argv, None, Box::new(writer)));
        let unpacked = unpack(counted, staging.path());
        (unpacked, packing.join())
    });
    let end = end.map_err(|_| Fault::new("copying from the guest failed"))??;
    // What goes wrong here ends `tar` there, but not the other way round: then the archive is short.
    let Unpacked { refused, dirs } = match unpacked {
        Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e.into()),
        // GNU tar's word for files that changed while they were read: they are there as far as they could be.
        unpacked if end.parting == Parting::Ended(Status::Code(1)) => {
            ctx.report.warn(&end.words);
            unpacked?
        }
        unpacked => {
            end.check("copying from the guest")?;
            unpacked?
        }
    };
    for entry in fs::read_dir(staging.path())? {
        let entry = entry?;
        let to = if inside { dir.join(entry.file_name()) } else { destination.to_owned() };
        settle(&entry.path(), &to)?;
    }
    // Last, and those inside first: what is put into a directory changes its time, and needs leave to write.
    for (name, mode, time) in dirs.iter().rev() {
        let below = || name.components().skip(1).collect::<PathBuf>();
        let path = if inside { dir.join(name) } else { destination.join(below()) };
        let file = directory(&path)?;
        file.set_modified(*time)?;
        file.set_permissions(Permissions::from_mode(*mode))?;
    }
    match refused.first() {
        None => Ok(()),
        Some(first) => {
            Err(Fault::new(format!("not everything was copied ({} refused), the first: {first}", refused.len()))
                .hint("plain files, directories and links that stay inside are"))
        }
    }
}

/// Two of a name would become one.
fn refuse_twins<'a>(names: impl Iterator<Item = &'a OsStr>) -> Result<(), Fault> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(
                Fault::new(format!("two sources are called {}", name.display())).hint("copy one after the other")
            );
        }
    }
    Ok(())
}

/// What came of an archive.
#[derive(Debug, Default)]
struct Unpacked {
    refused: Vec<String>,
    /// The directories, with the modes and times that they are to have; those that hold others first.
    dirs: Vec<(PathBuf, u32, SystemTime)>,
}

/// Unpacks into `dir` and nowhere else.
fn unpack(input: impl Read, dir: &Path) -> io::Result<Unpacked> {
    let mut archive = tar::Archive::new(io::BufReader::with_capacity(PIECE, input));
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    let mut done = Unpacked::default();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        let name = entry.path()?.display().to_string();
        let plain = kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link();
        if !plain && kind != EntryType::GNUSparse && kind != EntryType::Continuous {
            done.refused.push(format!("{name} is no file"));
        } else if !entry.unpack_in(dir)? {
            done.refused.push(format!("{name} leads out of the directory"));
        } else if kind.is_dir() {
            let path: PathBuf = entry.path()?.components().filter(|part| *part != Component::CurDir).collect();
            let (mode, time) = (entry.header().mode()? & 0o7777, entry.header().mtime()?);
            // Until all that is in it is there.
            directory(&dir.join(&path))?.set_permissions(Permissions::from_mode(mode | 0o700))?;
            done.dirs.push((path, mode, SystemTime::UNIX_EPOCH + Duration::from_secs(time)));
        }
    }
    // `tar` fills up its last block.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(done)
}

/// A directory, and no link to one, which may lead anywhere.
fn directory(path: &Path) -> io::Result<std::fs::File> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    Ok(fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?.into_parts().0)
}

/// Puts `from` where `to` says; a directory that is there keeps what else is in it.
fn settle(from: &Path, to: &Path) -> io::Result<()> {
    let is_dir = |path: &Path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    if !is_dir(from) || !is_dir(to) {
        return fs::rename(from, to);
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        settle(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn ends_in_slash(path: &OsStr) -> bool {
    path.as_bytes().ends_with(b"/")
}

/// Tells the user how far it is, where there is much to move.
struct Counted<'a, T> {
    inner: T,
    report: &'a dyn Report,
    what: String,
    total: Option<u64>,
    done: u64,
    progress: Option<Box<dyn Progress>>,
}

impl<'a, T> Counted<'a, T> {
    fn new(inner: T, ctx: &'a Context, what: String, total: Option<u64>) -> Counted<'a, T> {
        Counted { inner, report: &ctx.report, what, total, done: 0, progress: None }
    }

    fn count(&mut self, bytes: usize) -> usize {
        self.done += bytes as u64;
        if self.done >= WORTH_TELLING {
            let start = || self.report.start(&self.what, self.total, Unit::Bytes);
            self.progress.get_or_insert_with(start).at(self.done);
        }
        bytes
    }
}

impl<T> Drop for Counted<'_, T> {
    fn drop(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.done();
        }
    }
}

impl<T: Read> Read for Counted<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map(|n| self.count(n))
    }
}

impl<T: Write> Write for Counted<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes).map(|n| self.count(n))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_makes_a_path_the_guests_unless_a_slash_comes_first() {
        let at = |word: &str| place(word.as_ref());
        assert_eq!(at(":/tmp/x"), Place::Guest(None, "/tmp/x".into()));
        assert_eq!(at("4b2c:x:y"), Place::Guest(Some("4b2c".into()), "x:y".into()));
        assert_eq!(at("./a:b"), Place::Host("./a:b".into()));
        assert_eq!(at("/a:b"), Place::Host("/a:b".into()));
        assert_eq!(at("plain"), Place::Host("plain".into()));
    }

    #[test]
    fn what_leads_out_of_the_directory_is_refused() {
        let top = tempfile::tempdir().unwrap();
        let (inside, outside) = (top.path().join("in"), top.path().join("out"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        let with_link_out = || {
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, "link", &outside).unwrap();
            archive
        };
        let mut archive = with_link_out();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        header.set_mode(0o777);
        archive.append_data(&mut header, "link", io::empty()).unwrap();
        let linked = archive.into_inner().unwrap();
        let before = fs::metadata(&outside).unwrap().permissions();
        drop(unpack(linked.as_slice(), &inside));
        assert_eq!(fs::metadata(&outside).unwrap().permissions(), before, "no mode is set through a link");
        let mut archive = with_link_out();
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        archive.append_data(&mut header, "link/file", &b"x"[..]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        header.as_old_mut().name[..9].copy_from_slice(b"../escape");
        header.set_cksum();
        archive.append(&header, &b"x"[..]).unwrap();
        let bytes = archive.into_inner().unwrap();
        // Whether it says so or stops.
        drop(unpack(bytes.as_slice(), &inside));
        assert!(!outside.join("file").exists() && !top.path().join("escape").exists());
    }

    #[test]
    fn a_directory_that_is_there_keeps_what_else_is_in_it() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        for (name, text) in [("new/d/a", "new"), ("new/d/b", "new"), ("old/d/b", "old"), ("old/d/c", "old")] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), text).unwrap();
        }
        settle(&at("new"), &at("old")).unwrap();
        let read = |name: &str| fs::read_to_string(at(name)).unwrap();
        assert_eq!(["old/d/a", "old/d/b", "old/d/c"].map(read), ["new", "new", "old"]);
    }
}
