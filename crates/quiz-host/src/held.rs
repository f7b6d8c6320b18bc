//! Directories that stay open: files are created in the directory itself, even if another process
//! moves it or replaces its path by a link.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use rustix::fs::{Mode, OFlags};

/// A directory, and the path by which it was found. Names of what is in it are single components,
/// never paths.
#[derive(Debug)]
pub struct HeldDir {
    path: PathBuf,
    dir: Dir,
}

/// What a directory is opened with. A last component that is a link is not followed.
const FLAGS: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::RDONLY).union(OFlags::CLOEXEC);

impl HeldDir {
    /// Opens the directory at `path`, whose last component is no link.
    ///
    /// # Errors
    /// If it is not there, is no directory or is a link.
    pub fn open(path: &Path) -> io::Result<HeldDir> {
        let dir = rustix::fs::open(path, FLAGS, Mode::empty()).map_err(|e| named(path, e.into()))?;
        Ok(HeldDir { path: path.to_owned(), dir: Dir::from_std_file(dir.into()) })
    }

    /// Opens the directory `name` in it.
    ///
    /// # Errors
    /// As for [`HeldDir::open`].
    pub fn below(&self, name: &str) -> io::Result<HeldDir> {
        let path = self.path.join(name);
        let dir = rustix::fs::openat(&self.dir, name, FLAGS, Mode::empty()).map_err(|e| named(&path, e.into()))?;
        Ok(HeldDir { path, dir: Dir::from_std_file(dir.into()) })
    }

    /// Makes the directory `name` in it unless it is there, and opens it.
    ///
    /// # Errors
    /// If it cannot be made, or is no directory.
    pub fn make_below(&self, name: &str) -> io::Result<HeldDir> {
        match self.dir.create_dir(name) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(named(&self.path.join(name), e)),
            _ => self.below(name),
        }
    }

    /// Makes the directory `name` in it, which must not be there, and opens it.
    ///
    /// # Errors
    /// If anything of that name is there.
    pub fn make_new_below(&self, name: &str) -> io::Result<HeldDir> {
        self.dir.create_dir(name).map_err(|e| named(&self.path.join(name), e))?;
        self.below(name)
    }

    /// Makes the file `name`, in the place of what is there, which is not written to. An empty file
    /// is all that others can find before it is written.
    ///
    /// # Errors
    /// If a directory is in the way, or it cannot be made.
    pub fn create(&self, name: &str) -> io::Result<File> {
        self.create_with_mode(name, 0o666)
    }

    /// The same with a mode, of which the umask takes its part.
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

    /// Writes the file `name` so that it is whole or not there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_whole(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        // Others may write the same file at the same time.
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let new = format!(".{name}.{:016x}", u64::from_le_bytes(random));
        let written = self.create(&new).and_then(|mut file| io::Write::write_all(&mut file, bytes));
        written.and_then(|()| self.dir.rename(&new, &self.dir, name)).map_err(|e| {
            self.remove_file(&new);
            named(&self.path.join(name), e)
        })
    }

    /// Opens the plain file `name` to read it.
    ///
    /// # Errors
    /// If it is not there, is a link or is no plain file.
    pub fn read(&self, name: &str) -> io::Result<File> {
        let path = || self.path.join(name);
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, name, flags, Mode::empty()).map_err(|e| named(&path(), e.into()))?;
        let file = File::from(file);
        if file.metadata()?.is_file() { Ok(file) } else { Err(named(&path(), io::Error::other("it is no plain file"))) }
    }

    /// Whether anything of that name is there, if only a link that leads nowhere.
    pub fn has(&self, name: &str) -> bool {
        self.dir.symlink_metadata(name).is_ok()
    }

    /// Whether the directory `name` in it is `dir`, not another that has taken its place.
    pub fn is_same(&self, name: &str, dir: &HeldDir) -> bool {
        let id = |meta: rustix::fs::Stat| (meta.st_dev, meta.st_ino);
        let there = rustix::fs::statat(&self.dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).map(id);
        there.is_ok() && there == rustix::fs::fstat(&dir.dir).map(id)
    }

    /// Whether there is a plain file of that name.
    pub fn has_file(&self, name: &str) -> bool {
        self.dir.symlink_metadata(name).is_ok_and(|meta| meta.is_file())
    }

    /// The names of the directories in it.
    ///
    /// # Errors
    /// If it cannot be read.
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

    /// Removes the file `name`; whether it was there.
    pub fn remove_file(&self, name: &str) -> bool {
        self.dir.remove_file(name).is_ok()
    }

    /// Moves the directory `name` into `to`, where nothing of that name may be but an empty
    /// directory.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn move_dir(&self, name: &str, to: &HeldDir) -> io::Result<()> {
        self.dir.rename(name, &to.dir, name)
    }

    /// Removes the directory `name` with all that is in it, and follows no link.
    ///
    /// # Errors
    /// If something of it stays.
    pub fn remove_dir_all(&self, name: &str) -> io::Result<()> {
        self.dir.remove_dir_all(name)
    }

    /// A second handle of it.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn try_clone(&self) -> io::Result<HeldDir> {
        Ok(HeldDir { path: self.path.clone(), dir: self.dir.try_clone()? })
    }

    /// Whose it is.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn owner(&self) -> io::Result<u32> {
        Ok(self.std_file()?.metadata()?.uid())
    }

    /// Itself as a file, for what is done with those: locks.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn std_file(&self) -> io::Result<File> {
        Ok(self.dir.try_clone()?.into_std_file())
    }

    /// Where it was when it was opened: for messages, and for those who look for it later.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The handle of what is below it, which no path and no link leaves.
    pub fn handle(&self) -> &Dir {
        &self.dir
    }
}

impl AsFd for HeldDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// The path by which another process of the same user opens a file that this process has open,
/// whatever has become of the file's own name.
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
