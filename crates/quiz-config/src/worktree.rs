//! Finds the worktree that contains a directory. Not for the worktree's contents.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The worktree's settings file.
pub const SETTINGS_FILE: &str = "quiz.toml";

/// The directory in the worktree where quiz keeps its state.
pub const STATE_DIR: &str = ".quiz";

/// The calling user, to decide whose files are trusted.
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
    /// Its top directory.
    pub dir: PathBuf,
    /// Its `quiz.toml`, if it has one.
    pub settings: Option<PathBuf>,
}

impl Worktree {
    /// The directory where quiz keeps this worktree's state.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join(STATE_DIR)
    }
}

/// A file or directory that marks a worktree but belongs to another user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignMark {
    /// The mark.
    pub path: PathBuf,
    /// The user id of its owner.
    pub owner: u32,
}

/// The result of a search upwards from a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The worktree.
    pub worktree: Option<Worktree>,
    /// The first mark that was skipped because of its owner.
    pub foreign: Option<ForeignMark>,
}

/// Finds the nearest directory from `start` upwards that holds `quiz.toml`, `.quiz/` or `.git`,
/// owned by the caller or root.
///
/// `.git` alone does not make the home directory a worktree. Many people keep their dot files that
/// way, and a run there would show the whole home directory to the guest. `/` is never a worktree.
///
/// Marks of other users are skipped. In a shared directory like `/tmp` any user could leave one,
/// and its contents decide where quiz writes and which programs it runs. Marks in a directory of
/// another user are skipped too, because that user can replace them at any time.
pub fn find(start: &Path, caller: &Caller) -> Found {
    let mut found = Found::default();
    for dir in start.ancestors().filter(|dir| dir.parent().is_some()) {
        let is_home = caller.home.as_deref() == Some(dir);
        let Some(mark) = mark(dir, is_home) else { continue };
        if let Some(owner) = foreign_owner(dir, &mark, caller) {
            found.foreign.get_or_insert(ForeignMark { path: mark, owner });
            continue;
        }
        let settings = Some(dir.join(SETTINGS_FILE)).filter(|file| file.is_file());
        found.worktree = Some(Worktree { dir: dir.to_owned(), settings });
        break;
    }
    found
}

/// The file or directory that makes `dir` a worktree.
fn mark(dir: &Path, is_home: bool) -> Option<PathBuf> {
    let settings = dir.join(SETTINGS_FILE);
    let state = dir.join(STATE_DIR);
    let git = dir.join(".git");
    if settings.is_file() {
        Some(settings)
    } else if state.is_dir() {
        Some(state)
    } else {
        Some(git).filter(|git| !is_home && git.exists())
    }
}

/// The owner of `dir` or `mark`, if that is neither the caller nor root. For a link, checks both
/// the link and its target.
fn foreign_owner(dir: &Path, mark: &Path, caller: &Caller) -> Option<u32> {
    let metas = [fs_err::metadata(dir), fs_err::symlink_metadata(mark), fs_err::metadata(mark)];
    let mut owners = metas.into_iter().flatten().map(|meta| meta.uid());
    owners.find(|owner| *owner != caller.uid && *owner != 0)
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
        let worktree = find(&start, &caller_of(top.path())).worktree?;
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
        let worktree = find(&top.path().join("a"), &caller_of(top.path())).worktree.unwrap();
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

    fn marks_of_somebody_else(name: &str) {
        let top = tree(&[&format!("a/{name}"), "a/work"]);
        let (dir, mark) = (top.path().join("a"), top.path().join("a").join(name));
        let me = caller_of(top.path()).uid;
        let found_by = |uid| find(&dir.join("work"), &Caller { uid, home: None });
        let refused = |owner| Found { worktree: None, foreign: Some(ForeignMark { path: mark.clone(), owner }) };
        if me != 0 {
            assert_eq!(found_by(me + 1), refused(me));
            return;
        }
        let give = |path: &Path, uid| std::os::unix::fs::lchown(path, Some(uid), None).unwrap();
        assert!(found_by(1000).worktree.is_some(), "root's files are good for everyone");
        give(&mark, 1001);
        assert!(found_by(1001).worktree.is_some());
        assert_eq!(found_by(1000), refused(1001));
        assert_eq!(found_by(0), refused(1001));
        // Root does not trust a directory of another user either, even if the mark is root's.
        give(&dir, 1001);
        assert_eq!(found_by(0), refused(1001));
        give(&mark, 0);
        assert_eq!(found_by(0), refused(1001));
        give(&dir, 0);
        assert!(found_by(0).worktree.is_some());
        // A link that belongs to another user, with a target that belongs to the caller.
        let own = top.path().join("own");
        fs_err::rename(&mark, &own).unwrap();
        std::os::unix::fs::symlink(&own, &mark).unwrap();
        give(&mark, 1001);
        assert_eq!(found_by(0), refused(1001));
    }

    #[test]
    fn marks_of_somebody_else_make_no_worktree() {
        for name in ["quiz.toml", ".quiz", ".git"] {
            marks_of_somebody_else(name);
        }
    }

    #[test]
    fn a_worktree_of_ones_own_is_found_above_a_foreign_mark() {
        let top = tree(&["a/.git", "a/b/.quiz"]);
        if caller_of(top.path()).uid != 0 {
            return;
        }
        let foreign = top.path().join("a/b/.quiz");
        std::os::unix::fs::chown(&foreign, Some(1001), None).unwrap();
        let found = find(&top.path().join("a/b"), &caller_of(top.path()));
        assert_eq!(found.worktree.unwrap().dir, top.path().join("a"));
        assert_eq!(found.foreign.unwrap(), ForeignMark { path: foreign, owner: 1001 });
    }
}
