//! Copies files and directories into and out of a running VM, through `tar` in the guest.
//!
//! quiz unpacks an archive from a guest in a new directory inside the destination. It accepts only
//! the requested names, and moves them into place when all are there.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use cap_std::fs::{Dir, PermissionsExt as _};
use fs_err as fs;
use quiz_config::Escape;
use quiz_host::held::HeldDir;
use quiz_host::report::{Progress, Unit};
use quiz_host::{Cache, Report};
use quiz_vm::client::Parting;
use quiz_vm::control::Exec;
use quiz_vm::proto::Status;
use quiz_vm::unpack::{Bounds, Rules, Unpacked, unpack};
use quiz_vm::{Streams, Verdict};
use walkdir::WalkDir;

use crate::context::Context;
use crate::fault::Fault;
use crate::running::guest;
use crate::running::registry::Running;
use crate::signals::ReceivedSignals;

/// How many bytes quiz moves at once.
const PIECE: usize = 1 << 20;
/// The number of bytes from which quiz reports progress.
const WORTH_TELLING: u64 = 64 << 20;

struct Guest<'a> {
    running: &'a Running,
    cache: &'a Cache,
}

impl Guest<'_> {
    /// Runs a program to its end. Returns its standard error, and how it ended.
    fn run(&self, argv: &[&OsStr], input: Option<io::PipeReader>, output: Box<dyn Write + Send>) -> Result<End, Fault> {
        let words = Collected::default();
        let exec = Exec {
            argv: argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
            env: Vec::new(),
            cwd: b"/root".to_vec(),
            terminal: None,
            separate_stderr: false,
        };
        let streams = Streams { input: input.map(Into::into), output, errors: Box::new(words.clone()) };
        let socket = guest::enter(self.running, self.cache)?;
        let parting = guest::run(socket, exec, streams, &mut ReceivedSignals::listen()?, Escape(None))?;
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

    /// Returns an error if the program has failed. `what` is what it had to do.
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

/// The output of a program, for messages.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

/// How many bytes of output [`Collected`] keeps.
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

/// Copies `sources` of the host to `destination` in a running VM.
///
/// # Errors
/// What quiz could not copy, and why.
pub fn into_guest(sources: &[PathBuf], destination: &Path, running: &Running, ctx: &Context) -> Result<(), Fault> {
    let cache = ctx.cache()?;
    let guest = Guest { running, cache: &cache };
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
    let (packed, end) = thread::scope(|scope| -> io::Result<_> {
        let unpack = || guest.run(&argv, Some(reader), Box::new(io::sink()));
        let unpacking = thread::Builder::new().spawn_scoped(scope, unpack)?;
        let packed = pack(&named, counted);
        Ok((packed, unpacking.join()))
    })?;
    let end = end.map_err(|_| Fault::new("copying into the guest failed"))??;
    match packed {
        // `tar` has reported why it reads no more.
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

/// Returns the size of all files in `path`, in bytes.
fn bytes_of(path: &Path) -> io::Result<u64> {
    WalkDir::new(path).into_iter().try_fold(0, |sum, entry| {
        let meta = entry?.metadata()?;
        Ok(sum + if meta.is_dir() { 0 } else { meta.len() })
    })
}

/// Copies `sources` of a running VM to `destination` on the host. `typed` is the destination as the
/// user typed it.
///
/// # Errors
/// What quiz could not copy, and why.
pub fn out_of_guest(
    sources: &[PathBuf],
    typed: &OsStr,
    destination: &Path,
    running: &Running,
    ctx: &Context,
) -> Result<(), Fault> {
    let cache = ctx.cache()?;
    let guest = Guest { running, cache: &cache };
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
        // With `./`, a name that begins with a dash is not an option.
        let name = [b"./", name.as_bytes()].concat();
        // Each `-C` is relative to the one before.
        argv.extend(["-C".into(), Path::new("/root").join(parent).into(), OsString::from_vec(name)]);
    }
    refuse_twins(sources.iter().filter_map(|source| source.file_name()))?;
    let asked: BTreeSet<OsString> =
        sources.iter().filter_map(|source| source.file_name()).map(OsString::from).collect();
    let argv: Vec<&OsStr> = argv.iter().map(OsString::as_os_str).collect();
    let refused = |e: io::Error| Fault::new(format!("cannot copy to {}: {e}", dir.display()));
    let dir = HeldDir::open(&fs::canonicalize(dir).map_err(refused)?).map_err(refused)?;
    let staging =
        Staging::make(&dir).map_err(|e| Fault::new(format!("cannot copy to {}: {e}", dir.path().display())))?;
    let (reader, writer) = io::pipe()?;
    let counted = Counted::new(reader, ctx, format!("copying out of {}", guest.running.id), None);
    let (unpacked, end) = thread::scope(|scope| -> io::Result<_> {
        let packing = thread::Builder::new().spawn_scoped(scope, || guest.run(&argv, None, Box::new(writer)))?;
        let unpacked = unpack_all(counted, staging.held(), &asked);
        Ok((unpacked, packing.join()))
    })?;
    let end = end.map_err(|_| Fault::new("copying from the guest failed"))??;
    // If unpacking fails here, `tar` fails there. If `tar` fails there, the archive here is only
    // short.
    let done = match unpacked {
        Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e.into()),
        // GNU tar exits so if files changed while it read them. It has sent them as far as it
        // could.
        unpacked if end.parting == Parting::Ended(Status::Code(1)) => {
            ctx.report.warn(&end.words);
            unpacked?
        }
        unpacked => {
            end.check("copying from the guest")?;
            unpacked?
        }
    };
    for name in &asked {
        let to = destination.file_name().filter(|_| !inside).unwrap_or(name);
        settle(staging.held(), name, dir.handle(), to)
            .map_err(|e| Fault::new(format!("cannot put {} in {}: {e}", to.display(), dir.path().display())))?;
    }
    if let Some(failed) = &done.failed {
        return Err(Fault::new(format!("not everything was copied: {failed}")));
    }
    match done.refused.first() {
        None => Ok(()),
        Some(first) => {
            Err(Fault::new(format!("not everything was copied ({} refused), the first: {first}", done.refusals))
                .hint("only only plain files, directories and links that stay inside are copied copied"))
        }
    }
}

/// A new directory inside the destination, for this user only. Dropping it removes all that is
/// still in it.
struct Staging<'a> {
    dir: &'a HeldDir,
    name: String,
    held: HeldDir,
}

impl Staging<'_> {
    fn make(dir: &HeldDir) -> io::Result<Staging<'_>> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!(".quiz-cp-{:016x}", u64::from_le_bytes(random));
        let held = dir.make_new_below(&name)?;
        held.std_file()?.set_permissions(Permissions::from_mode(0o700))?;
        Ok(Staging { dir, name, held })
    }

    fn held(&self) -> &Dir {
        self.held.handle()
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if self.dir.remove_dir_all(&self.name).is_ok() {
            return;
        }
        // The owner may not change some directories, because of their modes.
        for entry in WalkDir::new(self.held.path()).into_iter().flatten().filter(|entry| entry.file_type().is_dir()) {
            fs::set_permissions(entry.path(), Permissions::from_mode(0o700)).ok();
        }
        self.dir.remove_dir_all(&self.name).ok();
    }
}

/// Refuses two sources of the same name, because they would become one.
fn refuse_twins<'a>(names: impl Iterator<Item = &'a OsStr>) -> Result<(), Fault> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(
                Fault::new(format!("two sources are called {}", name.display())).hint("copy one after the other")
            );
        }
    }
    Ok(())
}

/// Unpacks the requested names, and reads the archive to its end.
fn unpack_all(input: impl Read, dir: &Dir, asked: &BTreeSet<OsString>) -> io::Result<Unpacked> {
    let mut input = io::BufReader::with_capacity(PIECE, input);
    let mut done = Unpacked::default();
    unpack(&mut input, dir, &Rules { bounds: Bounds::NONE, only: Some(asked), faithful: true }, &mut done)?;
    // `tar` pads its last block.
    io::copy(&mut input, &mut io::sink())?;
    Ok(done)
}

/// Moves `name`, if it exists, to `to`. An existing directory keeps its mode and its other entries.
fn settle(from: &Dir, name: &OsStr, to_dir: &Dir, to: &OsStr) -> io::Result<()> {
    let Ok(meta) = from.symlink_metadata(name) else { return Ok(()) };
    if !meta.is_dir() {
        return from.rename(name, to_dir, to);
    }
    // The move needs the owner's permissions. The original mode follows after it.
    let mode = meta.permissions();
    from.set_permissions(name, cap_std::fs::Permissions::from_std(Permissions::from_mode(mode.mode() | 0o700)))?;
    if to_dir.symlink_metadata(to).is_ok_and(|there| there.is_dir()) {
        let (from, into) = (from.open_dir(name)?, to_dir.open_dir(to)?);
        for entry in from.entries()? {
            let name = entry?.file_name();
            settle(&from, &name, &into, &name)?;
        }
        return Ok(());
    }
    from.rename(name, to_dir, to)?;
    to_dir.set_permissions(to, mode)
}

fn ends_in_slash(path: &OsStr) -> bool {
    path.as_bytes().ends_with(b"/")
}

/// Reports the progress of large transfers.
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
    fn a_directory_that_is_there_keeps_what_else_is_in_it() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        for (name, text) in
            [("new/d/a", "new"), ("new/d/b", "new"), ("new/e/x", "new"), ("old/d/b", "old"), ("old/d/c", "old")]
        {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), text).unwrap();
        }
        fs::set_permissions(at("new/d"), Permissions::from_mode(0o500)).unwrap();
        fs::set_permissions(at("new/e"), Permissions::from_mode(0o555)).unwrap();
        fs::set_permissions(at("old/d"), Permissions::from_mode(0o750)).unwrap();
        let held = HeldDir::open(top.path()).unwrap();
        settle(held.handle(), "new".as_ref(), held.handle(), "old".as_ref()).unwrap();
        let read = |name: &str| fs::read_to_string(at(name)).unwrap();
        assert_eq!(["old/d/a", "old/d/b", "old/d/c", "old/e/x"].map(read), ["new", "new", "old", "new"]);
        let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("old/d"), mode("old/e")), (0o750, 0o555));
    }

    #[test]
    fn what_is_half_done_goes() {
        let top = tempfile::tempdir().unwrap();
        let dir = HeldDir::open(top.path()).unwrap();
        let staging = Staging::make(&dir).unwrap();
        staging.held().create_dir_all("d/e").unwrap();
        fs::set_permissions(staging.held.path().join("d"), Permissions::from_mode(0o500)).unwrap();
        drop(staging);
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_what_was_asked_for_arrives() {
        let mut archive = tar::Builder::new(Vec::new());
        for name in ["./dmesg", "./.bashrc"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o4755);
            archive.append_data(&mut header, name, &b"x"[..]).unwrap();
        }
        let bytes = archive.into_inner().unwrap();
        let top = tempfile::tempdir().unwrap();
        let dir = HeldDir::open(top.path()).unwrap();
        let done = unpack_all(bytes.as_slice(), dir.handle(), &["dmesg".into()].into()).unwrap();
        assert_eq!(done.refused, [".bashrc: it was not asked for"]);
        assert_eq!(dir.handle().entries().unwrap().count(), 1);
        let mode = fs::metadata(top.path().join("dmesg")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7000, 0);
    }
}
