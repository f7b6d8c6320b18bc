//! Finds the worktree that a directory is in. Not for what is kept in it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::ConfigError;

/// The worktree's settings file.
pub const SETTINGS_FILE: &str = "quiz.toml";

/// The worktree's directory of what quiz keeps there.
pub const STATE_DIR: &str = ".quiz";

/// Who is asking, as far as it matters for whose files are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The effective user id.
    pub uid: u32,
    /// The home directory.
    pub home: Option<PathBuf>,
}

/// A directory tree that the user works in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worktree {
    /// Its top.
    pub dir: PathBuf,
    /// Its `quiz.toml`, if it has one.
    pub settings: Option<PathBuf>,
}

impl Worktree {
    /// Where quiz keeps what belongs to this worktree.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join(STATE_DIR)
    }
}

/// The nearest directory from `start` upwards that holds `quiz.toml`, `.quiz/` or `.git`.
///
/// `.git` alone does not make the home directory a worktree: many people keep their dot files that way, and a run there
/// would show all of the home directory to the guest. `/` is never one.
///
/// # Errors
/// A `quiz.toml` that belongs to neither the caller nor root is an error and not passed over: in a shared directory
/// like `/tmp` anyone could leave one, and it can name programs to run. For root, who often works in others'
/// directories, one that belongs to the owner of `start` is good too.
pub fn find(start: &Path, caller: &Caller) -> Result<Option<Worktree>, ConfigError> {
    for dir in start.ancestors().filter(|dir| dir.parent().is_some()) {
        let settings = dir.join(SETTINGS_FILE);
        if let Some(owner) = owner_of_file(&settings) {
            let start_owner = fs_err::metadata(start).map(|m| m.uid()).ok();
            let trusted = owner == caller.uid || owner == 0 || (caller.uid == 0 && start_owner == Some(owner));
            if !trusted {
                return Err(ConfigError::Foreign { file: settings, owner });
            }
            return Ok(Some(Worktree { dir: dir.to_owned(), settings: Some(settings) }));
        }
        let is_home = caller.home.as_deref() == Some(dir);
        if dir.join(STATE_DIR).is_dir() || (!is_home && dir.join(".git").exists()) {
            return Ok(Some(Worktree { dir: dir.to_owned(), settings: None }));
        }
    }
    Ok(None)
}

fn owner_of_file(path: &Path) -> Option<u32> {
    fs_err::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|m| m.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in paths {
            let path = dir.path().join(path);
            if path.extension().is_some_and(|e| e == "toml") {
                fs_err::create_dir_all(path.parent().unwrap()).unwrap();
                fs_err::write(path, "").unwrap();
            } else {
                fs_err::create_dir_all(path).unwrap();
            }
        }
        dir
    }

    fn caller_of(dir: &Path) -> Caller {
        Caller { uid: fs_err::metadata(dir).unwrap().uid(), home: Some(dir.join("home")) }
    }

    fn found(top: &tempfile::TempDir, start: &str) -> Option<PathBuf> {
        let start = top.path().join(start);
        let worktree = find(&start, &caller_of(top.path())).unwrap()?;
        Some(worktree.dir.strip_prefix(top.path()).unwrap().to_owned())
    }

    #[test]
    fn the_nearest_mark_wins() {
        let top = tree(&["a/quiz.toml", "a/b/.git", "a/b/c/.quiz", "a/b/c/d"]);
        assert_eq!(found(&top, "a/b/c/d"), Some("a/b/c".into()));
        assert_eq!(found(&top, "a/b"), Some("a/b".into()));
        assert_eq!(found(&top, "a"), Some("a".into()));
    }

    #[test]
    fn settings_are_found_beside_other_marks() {
        let top = tree(&["a/.git", "a/.quiz", "a/quiz.toml"]);
        let worktree = find(&top.path().join("a"), &caller_of(top.path())).unwrap().unwrap();
        assert_eq!(worktree.settings, Some(top.path().join("a/quiz.toml")));
        assert_eq!(worktree.state_dir(), top.path().join("a/.quiz"));
    }

    #[test]
    fn git_alone_does_not_make_home_a_worktree() {
        let top = tree(&["home/.git", "home/src"]);
        assert_eq!(found(&top, "home/src"), None);
        fs_err::write(top.path().join("home/quiz.toml"), "").unwrap();
        assert_eq!(found(&top, "home/src"), Some("home".into()));
    }

    #[test]
    fn a_git_file_of_a_linked_checkout_counts() {
        let top = tree(&["a/b"]);
        fs_err::write(top.path().join("a/.git"), "gitdir: elsewhere").unwrap();
        assert_eq!(found(&top, "a/b"), Some("a".into()));
    }

    #[test]
    fn settings_of_someone_else_are_refused() {
        let top = tree(&["a/quiz.toml"]);
        let (dir, file) = (top.path().join("a"), top.path().join("a/quiz.toml"));
        let me = caller_of(top.path()).uid;
        let found_by = |uid| find(&dir, &Caller { uid, home: None });
        if me != 0 {
            assert!(matches!(found_by(me + 1), Err(ConfigError::Foreign { owner, .. }) if owner == me));
            return;
        }
        let give = |path: &Path, uid| std::os::unix::fs::chown(path, Some(uid), None).unwrap();
        assert!(found_by(1000).unwrap().is_some(), "root's files are good for everyone");
        give(&file, 1001);
        assert!(found_by(1001).unwrap().is_some());
        assert!(matches!(found_by(1000), Err(ConfigError::Foreign { owner: 1001, .. })));
        assert!(found_by(0).is_err(), "as in /tmp");
        give(&dir, 1001);
        assert!(found_by(0).unwrap().is_some(), "root in a user's own directory");
        assert!(found_by(1000).is_err());
    }
}
