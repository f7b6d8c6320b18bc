//! Kernel sources from a git repository: just the one commit that is wanted, in a bare repository of quiz's own, and a checkout in
//! which only what changed is touched. Not for the user's own tree, whose git state is nobody's business here.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;

use crate::command::{CommandError, Run};
use crate::digest;
use crate::report::{Report, Unit};
use crate::store::{Cache, StoreError};

/// Why a commit could not be had.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// git failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The cache failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not something that git could fetch.
    #[error("`{0}` is not the name of a branch, tag or commit")]
    Reference(String),
    /// Not something that git could fetch from.
    #[error("`{0}` is not the address of a git repository")]
    Url(String),
}

/// Variables of the caller's environment by which git would work somewhere else.
const MEANINGFUL: &[&str] = &[
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_CEILING_DIRECTORIES",
];

/// A bare repository in the cache.
#[derive(Debug)]
pub(crate) struct Repository {
    dir: PathBuf,
    url: String,
    log: PathBuf,
}

impl Repository {
    /// The repository that mirrors what quiz has asked of `url`.
    pub fn of(cache: &Cache, url: &str, log: &Path) -> Result<Repository, GitError> {
        // A leading dash would be an option to git, and `ext::` and the like would be commands to run.
        if url.is_empty() || url.starts_with('-') || url.contains("::") || url.chars().any(char::is_control) {
            return Err(GitError::Url(url.to_owned()));
        }
        let dir = cache.shelf("downloads").dir().join(format!("git-{}", &digest::of_bytes(url.as_bytes())[..16]));
        Ok(Repository { dir, url: url.to_owned(), log: log.to_owned() })
    }

    fn git(&self) -> Command {
        let mut command = Command::new("git");
        for name in MEANINGFUL {
            command.env_remove(name);
        }
        // Nobody is there to answer a question.
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_DIR", &self.dir);
        command.args(["-c", "gc.auto=0", "-c", "core.autocrlf=false", "-c", "advice.detachedHead=false"]);
        command
    }

    fn run(&self, command: Command, doing: &str, watch: impl FnMut(&str)) -> Result<(), GitError> {
        Ok(Run { command, doing, log: &self.log }.run(watch)?)
    }

    /// Fetches `reference` (a branch, a tag, or a whole commit id, if the server lets one ask for that) without history, and returns
    /// the id of its commit.
    pub fn fetch(&self, cache: &Cache, reference: &str, report: &dyn Report) -> Result<String, GitError> {
        let odd = |c: char| c.is_control() || " :?*[\\^~+".contains(c);
        if reference.is_empty() || reference.starts_with('-') || reference.contains("..") || reference.contains(odd) {
            return Err(GitError::Reference(reference.to_owned()));
        }
        let doing = format!("fetch {reference} of {}", self.url);
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let _lock = cache.shelf("downloads").lock(&name, &format!("fetching from {}", self.url), report)?;
        self.break_locks(&self.dir);
        if !self.dir.join("HEAD").exists() {
            let mut init = self.git();
            init.args(["init", "--quiet", "--bare"]).arg(&self.dir);
            init.env_remove("GIT_DIR");
            self.run(init, &doing, |_| {})?;
        }
        let progress = report.start(&format!("fetching {reference} of {}", self.url), None, Unit::None);
        let mut fetch = self.git();
        fetch.args(["fetch", "--progress", "--depth", "1", "--no-tags", "--force", "--", &self.url, reference]);
        self.run(fetch, &doing, |line| progress.note(line))?;
        let commit = self.commit("FETCH_HEAD^{commit}", &doing)?;
        // Keeps the commit from being collected as garbage.
        let kept = format!("refs/quiz/{}", &digest::of_bytes(reference.as_bytes())[..16]);
        let mut keep = self.git();
        keep.args(["update-ref", &kept, &commit]);
        self.run(keep, &doing, |_| {})?;
        progress.done();
        Ok(commit)
    }

    /// Removes lock files that a killed git has left in `dir`, which nobody else uses now: quiz holds its own lock on it.
    fn break_locks(&self, dir: &Path) {
        for item in fs::read_dir(dir).into_iter().flatten().flatten() {
            if item.file_name().to_string_lossy().ends_with(".lock") {
                let _removed = fs::remove_file(item.path());
            }
        }
    }

    fn commit(&self, name: &str, doing: &str) -> Result<String, GitError> {
        let mut command = self.git();
        command.args(["rev-parse", "--verify", "--quiet", name]);
        Run { command, doing, log: &self.log }.stream(|out| {
            let mut text = String::new();
            std::io::Read::read_to_string(out, &mut text).map_err(|cause| CommandError::Io {
                doing: doing.to_owned(),
                program: "git".to_owned(),
                cause,
            })?;
            Ok(text.trim().to_owned())
        })
    }

    /// Makes `to` the tree of `commit`. Files that are right already are not touched, so that make does not build them again.
    pub fn checkout(&self, commit: &str, to: &Path, report: &dyn Report) -> Result<(), GitError> {
        let doing = format!("check out {commit}");
        fs::create_dir_all(to).map_err(StoreError::io(&doing))?;
        let index = PathBuf::from(format!("{}.index", to.display()));
        if let Some(dir) = index.parent() {
            self.break_locks(dir);
        }
        let progress = report.start(&format!("checking out {}", &commit[..12.min(commit.len())]), None, Unit::None);
        let mut command = self.git();
        command.env("GIT_WORK_TREE", to).env("GIT_INDEX_FILE", &index).current_dir(to);
        command.args(["read-tree", "--reset", "-u", commit]);
        self.run(command, &doing, |_| {})?;
        progress.done();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Silent;

    /// A repository with a branch and a tag.
    struct Origin {
        dir: tempfile::TempDir,
    }

    impl Origin {
        fn new() -> Origin {
            let origin = Origin { dir: tempfile::tempdir().unwrap() };
            origin.git(&["init", "--quiet", "--initial-branch=main"]);
            origin.git(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
            origin
        }

        fn git(&self, args: &[&str]) -> String {
            let output = Command::new("git")
                .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"])
                .args(args)
                .current_dir(self.dir.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        }

        fn commit(&self, files: &[(&str, &str)]) -> String {
            for (path, text) in files {
                fs::write(self.dir.path().join(path), text).unwrap();
            }
            self.git(&["add", "-A"]);
            self.git(&["commit", "--quiet", "-m", "x"]);
            self.git(&["rev-parse", "HEAD"])
        }

        fn url(&self) -> String {
            format!("file://{}", self.dir.path().display())
        }
    }

    #[test]
    fn branches_tags_and_commits_are_fetched_and_only_changes_are_touched() {
        let (origin, dir) = (Origin::new(), tempfile::tempdir().unwrap());
        let first = origin.commit(&[("Makefile", "one"), ("same", "same"), ("gone", "")]);
        origin.git(&["tag", "-a", "-m", "x", "v6.12"]);
        let cache = Cache::at(dir.path().join("cache"));
        let repository = Repository::of(&cache, &origin.url(), &dir.path().join("log")).unwrap();
        let to = dir.path().join("source");
        assert_eq!(repository.fetch(&cache, "v6.12", &Silent).unwrap(), first);
        repository.checkout(&first, &to, &Silent).unwrap();
        let time = || fs::metadata(to.join("same")).unwrap().modified().unwrap();
        let before = time();

        fs::remove_file(origin.dir.path().join("gone")).unwrap();
        let second = origin.commit(&[("Makefile", "two")]);
        // A git that was killed leaves its lock files.
        for lock in [repository.dir.join("shallow.lock"), dir.path().join("source.index.lock")] {
            fs::write(lock, "").unwrap();
        }
        assert_eq!(repository.fetch(&cache, "main", &Silent).unwrap(), second);
        repository.checkout(&second, &to, &Silent).unwrap();
        assert_eq!(fs::read_to_string(to.join("Makefile")).unwrap(), "two");
        assert_eq!(time(), before);
        assert!(!to.join("gone").exists());

        assert_eq!(repository.fetch(&cache, &first, &Silent).unwrap(), first);
        repository.checkout(&first, &to, &Silent).unwrap();
        assert_eq!(fs::read_to_string(to.join("Makefile")).unwrap(), "one");
    }

    #[test]
    fn a_reference_that_is_not_there_is_named() {
        let (origin, dir) = (Origin::new(), tempfile::tempdir().unwrap());
        origin.commit(&[("Makefile", "one")]);
        let cache = Cache::at(dir.path().join("cache"));
        let repository = Repository::of(&cache, &origin.url(), &dir.path().join("log")).unwrap();
        let error = repository.fetch(&cache, "nosuch", &Silent).unwrap_err().to_string();
        assert!(error.contains("cannot fetch nosuch of file://") && error.contains("nosuch"), "{error}");
    }

    #[test]
    fn nothing_that_git_would_take_as_an_option_or_command_gets_through() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned());
        let log = dir.path().join("log");
        for url in ["", "--upload-pack=touch /tmp/x", "ext::sh -c true", "a\nb"] {
            assert!(matches!(Repository::of(&cache, url, &log), Err(GitError::Url(_))), "{url}");
        }
        let repository = Repository::of(&cache, "file:///nonexistent", &log).unwrap();
        for reference in ["", "-x", "a b", "+main", "main:other", "a..b", "refs/*", "a^"] {
            let error = repository.fetch(&cache, reference, &Silent).unwrap_err();
            assert!(matches!(error, GitError::Reference(_)), "{reference}: {error}");
        }
    }
}
