//! Gets kernel sources from a git repository. It fetches only the wanted commit into quiz's own
//! bare repository, and its checkout touches only changed files. Not for the user's own tree: its
//! git state does not matter here.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;

use super::trust::Trust;
use super::verify::{self, Signature, VerifyError};
use crate::trusted::Trusted;
use quiz_host::command::{CommandError, Run};
use quiz_host::digest;
use quiz_host::report::{Report, Unit};
use quiz_host::store::{Cache, StoreError};

/// Why a commit could not be obtained.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// git failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The cache failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The text is not a reference that git could fetch.
    #[error("`{0}` is not the name of a branch, tag or commit")]
    Reference(String),
    /// The commit cannot be trusted.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The tag is signed, but the signature is for a tag of another name.
    #[error("cannot use the tag {reference} of {url}: its signature is for the tag {name}; try another mirror")]
    OtherTag {
        /// The repository.
        url: String,
        /// The requested tag.
        reference: String,
        /// The name that was signed.
        name: String,
    },
    /// A file could not be written.
    #[error("cannot check the signature of a tag: {0}")]
    Io(#[from] std::io::Error),
    /// The text is not an address that git could fetch from.
    #[error("`{0}` is not the address of a git repository")]
    Url(String),
}

/// Environment variables of the caller that would make git use another repository.
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

/// Advice for a commit that is not signed.
const WAYS: &str = "give a signed tag, or the whole id of the commit, or --unverified to take what the server sends";

/// Whether `reference` is a whole commit id, which identifies the commit's contents.
pub(crate) fn is_whole_id(reference: &str) -> bool {
    [40, 64].contains(&reference.len()) && reference.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A bare repository in the cache.
#[derive(Debug)]
pub(crate) struct Repository {
    dir: PathBuf,
    url: String,
    log: PathBuf,
}

impl Repository {
    /// The bare repository for commits that quiz has fetched from `url`.
    pub fn of(cache: &Cache, url: &str, log: &Path) -> Result<Repository, GitError> {
        // A leading dash would be an option of git. `ext::` and similar prefixes would run
        // commands.
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
        // There is no user to answer a prompt.
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_DIR", &self.dir);
        command.args(["-c", "gc.auto=0", "-c", "core.autocrlf=false", "-c", "advice.detachedHead=false"]);
        command
    }

    fn run(&self, command: Command, doing: &str, watch: impl FnMut(&str)) -> Result<(), GitError> {
        Ok(Run { command, doing, log: &self.log }.run(watch)?)
    }

    /// Fetches `reference` without history: a branch, a tag, or a whole commit id if the server
    /// allows that. Returns the id of its commit and why quiz trusts it.
    pub fn fetch(
        &self,
        cache: &Cache,
        reference: &str,
        trust: &Trust,
        report: &dyn Report,
    ) -> Result<(String, Trusted), GitError> {
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
        let commit = self.ask(&["rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}"], &doing)?.trim().to_owned();
        let trusted = self.trust(reference, &commit, trust, &doing)?;
        // This reference keeps git from deleting the commit as garbage.
        let kept = format!("refs/quiz/{}", &digest::of_bytes(reference.as_bytes())[..16]);
        let mut keep = self.git();
        keep.args(["update-ref", &kept, &commit]);
        self.run(keep, &doing, |_| {})?;
        progress.done();
        if trusted == Trusted::Unverified {
            report.say(&format!("{reference} of {} was taken unverified; it is the commit {commit}", self.url));
        }
        Ok((commit, trusted))
    }

    /// Decides why the fetched commit is the one that its authors published.
    fn trust(&self, reference: &str, commit: &str, trust: &Trust, doing: &str) -> Result<Trusted, GitError> {
        if self.is_local() {
            return Ok(Trusted::Local);
        }
        // git computes the ids of the objects that it receives.
        if is_whole_id(reference) && reference == commit {
            return Ok(Trusted::CommitId);
        }
        if trust.unverified {
            return Ok(Trusted::Unverified);
        }
        let what = format!("{reference} of {}", self.url);
        let unsigned = || VerifyError::Unsigned { what: what.clone(), ways: WAYS };
        if self.ask(&["cat-file", "-t", "FETCH_HEAD"], doing)?.trim() != "tag" {
            return Err(unsigned().into());
        }
        let tag = self.ask(&["cat-file", "tag", "FETCH_HEAD"], doing)?;
        let start = tag.find("-----BEGIN PGP SIGNATURE-----").ok_or_else(unsigned)?;
        let (signed, signature) = tag.split_at(start);
        let mut file = tempfile::NamedTempFile::new()?;
        std::io::Write::write_all(&mut file, signature.as_bytes())?;
        let keys = trust.keys().map_err(VerifyError::from)?;
        let key = match verify::detached(&mut signed.as_bytes(), file.path(), &keys, &what)? {
            Signature::Good { key, .. } => key,
            Signature::UnknownKey { key } => {
                return Err(VerifyError::UnknownKeys { what, keyring: keys.name, keys: vec![key], ways: WAYS }.into());
            }
        };
        // An old kernel's tag has a valid signature as well, so compare the name.
        let head = signed.split("\n\n").next().unwrap_or_default();
        let name = head.lines().find_map(|line| line.strip_prefix("tag ")).unwrap_or_default();
        if name != reference.strip_prefix("refs/tags/").or(reference.strip_prefix("tags/")).unwrap_or(reference) {
            let (url, reference, name) = (self.url.clone(), reference.to_owned(), name.to_owned());
            return Err(GitError::OtherTag { url, reference, name });
        }
        Ok(keys.trusted(key))
    }

    /// Whether the repository is a directory of this host.
    fn is_local(&self) -> bool {
        self.url.starts_with("file://") || (!self.url.contains("://") && Path::new(&self.url).is_dir())
    }

    /// Removes lock files that a killed git has left in `dir`. No other process uses it now: quiz
    /// holds its own lock on it.
    fn break_locks(&self, dir: &Path) {
        for item in fs::read_dir(dir).into_iter().flatten().flatten() {
            if item.file_name().to_string_lossy().ends_with(".lock") {
                let _removed = fs::remove_file(item.path());
            }
        }
    }

    /// Runs git and returns its output.
    fn ask(&self, args: &[&str], doing: &str) -> Result<String, GitError> {
        let mut command = self.git();
        command.args(args);
        Run { command, doing, log: &self.log }.stream(|out| {
            let mut text = String::new();
            std::io::Read::read_to_string(out, &mut text).map_err(|cause| CommandError::Io {
                doing: doing.to_owned(),
                program: "git".to_owned(),
                cause,
            })?;
            Ok(text)
        })
    }

    /// Makes `to` the tree of `commit`. Files that are correct already are not touched, so that
    /// make does not rebuild them.
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
    use super::super::verify::tests::Signer;
    use super::*;
    use quiz_host::report::Silent;

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

        /// Serves it over the network until the process ends.
        fn serve(&self) -> String {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("git://{}/", listener.local_addr().unwrap());
            let dir = self.dir.path().to_owned();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let stream = std::os::fd::OwnedFd::from(stream.unwrap());
                    let mut daemon = Command::new("git");
                    daemon.args(["daemon", "--inetd", "--export-all"]).arg(format!("--base-path={}", dir.display()));
                    let mut daemon = daemon.stdin(stream.try_clone().unwrap()).stdout(stream).spawn().unwrap();
                    daemon.wait().unwrap();
                }
            });
            url
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
        let fetch = |reference: &str| {
            let (commit, trusted) = repository.fetch(&cache, reference, &Trust::default(), &Silent).unwrap();
            assert_eq!(trusted, Trusted::Local);
            commit
        };
        let to = dir.path().join("source");
        assert_eq!(fetch("v6.12"), first);
        repository.checkout(&first, &to, &Silent).unwrap();
        let time = || fs::metadata(to.join("same")).unwrap().modified().unwrap();
        let before = time();

        fs::remove_file(origin.dir.path().join("gone")).unwrap();
        let second = origin.commit(&[("Makefile", "two")]);
        // A git that was killed leaves its lock files.
        for lock in [repository.dir.join("shallow.lock"), dir.path().join("source.index.lock")] {
            fs::write(lock, "").unwrap();
        }
        assert_eq!(fetch("main"), second);
        repository.checkout(&second, &to, &Silent).unwrap();
        assert_eq!(fs::read_to_string(to.join("Makefile")).unwrap(), "two");
        assert_eq!(time(), before);
        assert!(!to.join("gone").exists());

        assert_eq!(fetch(&first), first);
        repository.checkout(&first, &to, &Silent).unwrap();
        assert_eq!(fs::read_to_string(to.join("Makefile")).unwrap(), "one");
    }

    #[test]
    fn a_reference_that_is_not_there_is_named() {
        let (origin, dir) = (Origin::new(), tempfile::tempdir().unwrap());
        origin.commit(&[("Makefile", "one")]);
        let cache = Cache::at(dir.path().join("cache"));
        let repository = Repository::of(&cache, &origin.url(), &dir.path().join("log")).unwrap();
        let error = repository.fetch(&cache, "nosuch", &Trust::default(), &Silent).unwrap_err().to_string();
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
            let error = repository.fetch(&cache, reference, &Trust::default(), &Silent).unwrap_err();
            assert!(matches!(error, GitError::Reference(_)), "{reference}: {error}");
        }
    }

    #[test]
    fn over_the_network_a_commit_is_signed_or_named_or_taken_unverified() {
        let (origin, signer, stranger) = (Origin::new(), Signer::new(), Signer::new());
        let first = origin.commit(&[("Makefile", "one")]);
        let tag = |signer: &Signer, name: &str| {
            let mut git = Command::new("git");
            git.args(["-c", "user.name=t", "-c", "user.email=test@example.org", "tag", "-s", "-m", "x", name]);
            git.env("GNUPGHOME", signer.home()).current_dir(origin.dir.path());
            assert!(git.status().unwrap().success());
        };
        tag(&signer, "v6.12");
        tag(&stranger, "v6.13");
        origin.git(&["tag", "-a", "-m", "x", "v6.14"]);
        origin.git(&["update-ref", "refs/tags/v6.99", "refs/tags/v6.12"]);

        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache"));
        let repository = Repository::of(&cache, &origin.serve(), &dir.path().join("log")).unwrap();
        let (none, keyring) = (Trust::default(), signer.trust());
        let fetch = |reference: &str, trust: &Trust| repository.fetch(&cache, reference, trust, &Silent);
        let (commit, trusted) = fetch("v6.12", &keyring).unwrap();
        assert!(commit == first && matches!(trusted, Trusted::Signature { keyring: Some(_), .. }), "{trusted:?}");
        assert!(fetch("refs/tags/v6.12", &keyring).is_ok());
        assert_eq!(fetch(&first, &none).unwrap(), (first.clone(), Trusted::CommitId));
        let word = Trust { unverified: true, ..Trust::default() };
        for reference in ["main", "v6.14", "v6.13"] {
            assert_eq!(fetch(reference, &word).unwrap(), (first.clone(), Trusted::Unverified));
        }
        for (reference, trust) in [("v6.12", &none), ("v6.13", &keyring)] {
            let error = fetch(reference, trust).unwrap_err();
            assert!(matches!(error, GitError::Verify(VerifyError::UnknownKeys { .. })), "{error}");
        }
        for reference in ["main", "v6.14"] {
            let error = fetch(reference, &keyring).unwrap_err();
            assert!(matches!(error, GitError::Verify(VerifyError::Unsigned { .. })), "{error}");
            assert!(error.to_string().contains("--unverified") && error.to_string().contains(reference), "{error}");
        }
        let error = fetch("v6.99", &keyring).unwrap_err();
        assert!(matches!(&error, GitError::OtherTag { name, .. } if name == "v6.12"), "{error}");
        // The text of a signed tag with another commit in it.
        let second = origin.commit(&[("Makefile", "two")]);
        let forged = origin.git(&["cat-file", "tag", "v6.12"]).replace(&first, &second);
        fs::write(origin.dir.path().join("forged"), forged + "\n").unwrap();
        let id = origin.git(&["hash-object", "-t", "tag", "-w", "forged"]);
        origin.git(&["update-ref", "refs/tags/v6.12", &id]);
        let error = fetch("v6.12", &keyring).unwrap_err();
        assert!(matches!(error, GitError::Verify(VerifyError::Bad { .. })), "{error}");
    }
}
