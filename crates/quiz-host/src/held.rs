//! Directories that stay open. Files are created in the directory itself, even if another process
//! moves it or replaces its path by a link. Not for whole paths: names are single components.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use rustix::fs::{Mode, OFlags};

/// An open directory, and the path at which it was opened. Names of entries are single components,
/// never paths.
#[derive(Debug)]
pub struct HeldDir {
    path: PathBuf,
    dir: Dir,
}

/// The flags to open a directory with. A link as the last component is an error.
const FLAGS: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::RDONLY).union(OFlags::CLOEXEC);

impl HeldDir {
    /// Opens the directory at `path`. The last component must not be a link.
    ///
    /// # Errors
    /// If it does not exist, is not a directory or is a link.
    pub fn open(path: &Path) -> io::Result<HeldDir> {
        let dir = rustix::fs::open(path, FLAGS, Mode::empty()).map_err(|e| named(path, e.into()))?;
        Ok(HeldDir { path: path.to_owned(), dir: Dir::from_std_file(dir.into()) })
    }

    /// Opens its subdirectory `name`.
    ///
    /// # Errors
    /// As for [`HeldDir::open`].
    pub fn below(&self, name: &str) -> io::Result<HeldDir> {
        let path = self.path.join(name);
        let dir = rustix::fs::openat(&self.dir, name, FLAGS, Mode::empty()).map_err(|e| named(&path, e.into()))?;
        Ok(HeldDir { path, dir: Dir::from_std_file(dir.into()) })
    }

    /// Opens its subdirectory `name`, and makes it if it does not exist.
    ///
    /// # Errors
    /// If it cannot be made, or is not a directory.
    pub fn make_below(&self, name: &str) -> io::Result<HeldDir> {
        match self.dir.create_dir(name) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(named(&self.path.join(name), e)),
            _ => self.below(name),
        }
    }

    /// Makes its subdirectory `name`, which must not exist, and opens it.
    ///
    /// # Errors
    /// If anything of that name exists, or the directory cannot be made.
    pub fn make_new_below(&self, name: &str) -> io::Result<HeldDir> {
        self.dir.create_dir(name).map_err(|e| named(&self.path.join(name), e))?;
        self.below(name)
    }

    /// Creates the file `name`. An existing file is replaced, not written to. Until the caller
    /// writes to the new file, other processes find it empty.
    ///
    /// # Errors
    /// If `name` is a directory, or the file cannot be created.
    pub fn create(&self, name: &str) -> io::Result<File> {
        self.create_with_mode(name, 0o666)
    }

    /// As [`HeldDir::create`], with these permissions, less those that the umask removes.
    ///
    /// # Errors
    /// As for [`HeldDir::create`].
    pub fn create_with_mode(&self, name: &str, mode: u32) -> io::Result<File> {
        match self.dir.remove_file(name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(named(&self.path.join(name), e)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(mode);
        let file = self.dir.open_with(name, &options).map_err(|e| named(&self.path.join(name), e))?;
        Ok(file.into_std())
    }

    /// Writes the file `name` atomically: it is complete, or not there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_whole(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        // Another process may write the same file at the same time.
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let new = format!(".{name}.{:016x}", u64::from_le_bytes(random));
        let written = self.create(&new).and_then(|mut file| io::Write::write_all(&mut file, bytes));
        written.and_then(|()| self.dir.rename(&new, &self.dir, name)).map_err(|e| {
            self.remove_file(&new);
            named(&self.path.join(name), e)
        })
    }

    /// Opens the regular file `name` for reading.
    ///
    /// # Errors
    /// If it does not exist, is a link or is not a regular file.
    pub fn read(&self, name: &str) -> io::Result<File> {
        let path = || self.path.join(name);
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, name, flags, Mode::empty()).map_err(|e| named(&path(), e.into()))?;
        let file = File::from(file);
        if file.metadata()?.is_file() { Ok(file) } else { Err(named(&path(), io::Error::other("it is no plain file"))) }
    }

    /// Whether anything of that name exists, even a broken link.
    pub fn has(&self, name: &str) -> bool {
        self.dir.symlink_metadata(name).is_ok()
    }

    /// Whether its entry `name` is the directory `dir`, and not another one in its place.
    pub fn is_same(&self, name: &str, dir: &HeldDir) -> bool {
        let id = |meta: rustix::fs::Stat| (meta.st_dev, meta.st_ino);
        let there = rustix::fs::statat(&self.dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).map(id);
        there.is_ok() && there == rustix::fs::fstat(&dir.dir).map(id)
    }

    /// Whether a regular file of that name exists.
    pub fn has_file(&self, name: &str) -> bool {
        self.dir.symlink_metadata(name).is_ok_and(|meta| meta.is_file())
    }

    /// The names of its subdirectories.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn dirs(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.dir.entries()? {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Removes the file `name`. Returns whether that succeeded.
    pub fn remove_file(&self, name: &str) -> bool {
        self.dir.remove_file(name).is_ok()
    }

    /// Moves its subdirectory `name` into `to`. There, only an empty directory of that name may
    /// exist.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn move_dir(&self, name: &str, to: &HeldDir) -> io::Result<()> {
        self.dir.rename(name, &to.dir, name)
    }

    /// Removes its subdirectory `name` with its content. Follows no link.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn remove_dir_all(&self, name: &str) -> io::Result<()> {
        self.dir.remove_dir_all(name)
    }

    /// A second handle of the same directory.
    ///
    /// # Errors
    /// If the process has too many open files.
    pub fn try_clone(&self) -> io::Result<HeldDir> {
        Ok(HeldDir { path: self.path.clone(), dir: self.dir.try_clone()? })
    }

    /// The user id of the owner.
    ///
    /// # Errors
    /// If the system does not report it.
    pub fn owner(&self) -> io::Result<u32> {
        Ok(self.std_file()?.metadata()?.uid())
    }

    /// The directory as a [`File`], for what needs one, such as locks.
    ///
    /// # Errors
    /// If the process has too many open files.
    pub fn std_file(&self) -> io::Result<File> {
        Ok(self.dir.try_clone()?.into_std_file())
    }

    /// The path at which it was opened, for messages and for later use by path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The handle to access its content. No path and no link leads out of it.
    pub fn handle(&self) -> &Dir {
        &self.dir
    }
}

impl AsFd for HeldDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// The path by which another process of the same user can open `file`, which this process has open.
/// The path works even if the file's own name is gone.
pub fn path_of(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

fn named(path: &Path, error: io::Error) -> io::Error {
    let what = match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => "it is a link, or no directory".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_written_lands_in_it_whatever_takes_its_place() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        fs::create_dir(at("dir")).unwrap();
        fs::create_dir(at("elsewhere")).unwrap();
        fs::write(at("precious"), "mine").unwrap();
        let held = HeldDir::open(&at("dir")).unwrap();
        fs::rename(at("dir"), at("moved")).unwrap();
        symlink(at("elsewhere"), at("dir")).unwrap();
        symlink(at("precious"), at("moved/link")).unwrap();
        held.create("link").unwrap().write_all(b"theirs").unwrap();
        held.write_whole("whole", b"text").unwrap();
        drop(held.make_below("sub").unwrap().create("file").unwrap());
        assert_eq!(fs::read_to_string(at("precious")).unwrap(), "mine");
        assert_eq!(fs::read_dir(at("elsewhere")).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(at("moved/link")).unwrap(), "theirs");
        assert_eq!(fs::read_to_string(at("moved/whole")).unwrap(), "text");
        assert!(at("moved/sub/file").is_file());
    }

    #[test]
    fn a_file_that_many_write_is_whole() {
        let top = tempfile::tempdir().unwrap();
        let held = HeldDir::open(top.path()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| held.write_whole("file", &[b'x'; 1000]).unwrap());
            }
        });
        assert_eq!(fs::read(top.path().join("file")).unwrap(), [b'x'; 1000]);
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_are_no_directories_and_no_files() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        fs::create_dir_all(at("dir/real")).unwrap();
        fs::write(at("dir/text"), "text").unwrap();
        symlink("real", at("dir/link")).unwrap();
        symlink("text", at("dir/textlink")).unwrap();
        let held = HeldDir::open(&at("dir")).unwrap();
        assert!(HeldDir::open(&at("dir/link")).unwrap_err().to_string().contains("link"));
        assert!(held.below("link").is_err() && held.make_below("link").is_err() && held.below("text").is_err());
        assert!(held.read("textlink").is_err() && held.read("real").is_err() && held.read("text").is_ok());
        assert!(!held.has_file("textlink") && held.has_file("text"));
        assert_eq!(held.dirs().unwrap(), ["real"]);
        assert!(held.make_new_below("real").is_err());
    }

    #[test]
    fn what_is_removed_is_what_is_in_it() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        fs::create_dir_all(at("dir/old/deep")).unwrap();
        fs::create_dir(at("home")).unwrap();
        fs::write(at("home/thesis"), "").unwrap();
        symlink(at("home"), at("dir/old/deep/link")).unwrap();
        symlink(at("home"), at("dir/link")).unwrap();
        let held = HeldDir::open(&at("dir")).unwrap();
        held.remove_dir_all("old").unwrap();
        drop(held.remove_dir_all("link"));
        assert!(at("home/thesis").is_file() && !at("dir/old").exists());
    }
}
