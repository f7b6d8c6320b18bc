//! Finds the tests that a selection stands for: run files, tags, groups, and single tests,
//! including tests that no run file lists yet. Not for running them.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use walkdir::WalkDir;

use super::course::stem;
use super::fraction::Fraction;
use super::runfile::{self, Group, RunFileError, short};

/// Why a selection is invalid.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A name matches nothing.
    #[error("no test, group, tag or run file of the ZFS test suite in {} is called `{word}`{}", suite.display(), meant(nearest))]
    NoSuch {
        /// The name.
        word: String,
        /// The suite.
        suite: PathBuf,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// A name exists, but not in the given run files.
    #[error("`{word}` is not in the run file {runfiles}; leave out --run-files to find it")]
    Elsewhere {
        /// The name.
        word: String,
        /// The run files.
        runfiles: String,
    },
    /// No group has the tag.
    #[error("no group in the run files {runfiles} has the tag `{tag}`{}", meant(nearest))]
    NoTag {
        /// The tag.
        tag: String,
        /// The run files.
        runfiles: String,
        /// The most similar tag.
        nearest: Option<String>,
    },
    /// A fraction is invalid, or is combined with tags.
    #[error(
        "cannot select the fraction `{text}` of the tests: write PART/PARTS with PART from 1 to PARTS, such as 1/3, and no tag beside it"
    )]
    Fraction {
        /// The fraction as written.
        text: String,
    },
    /// The run file does not exist.
    #[error("there is no run file `{name}`, neither as a file nor in {}{}", dir.display(), meant(nearest))]
    NoRunFile {
        /// The name.
        name: String,
        /// The directory of the suite's run files.
        dir: PathBuf,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// The file is not a run file.
    #[error("{} is not a run file: {source}", path.display())]
    RunFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: RunFileError,
    },
    /// There is no test suite.
    #[error("there is no ZFS test suite in {}: it has no tests/runfiles", dir.display())]
    NoSuite {
        /// The checkout.
        dir: PathBuf,
    },
    /// The suite cannot be read.
    #[error("cannot read the ZFS test suite: {0}")]
    Io(#[from] io::Error),
}

fn meant(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default()
}

/// The suite in a checkout.
#[derive(Debug, Clone)]
pub struct Suite {
    /// The checkout's top.
    top: PathBuf,
}

/// The user's selection.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Run files, by name or path, to choose from.
    pub runfiles: Vec<String>,
    /// Tags: only groups that have one of them. Or one fraction, such as `1/3`: only groups that
    /// `zfs-tests.sh -T 1/3` would take from the run files.
    pub tags: Vec<String>,
    /// Run files, tags, groups and tests, by name or path.
    pub words: Vec<String>,
}

/// The run files to choose from if names are given but no run files; the default of zfs-tests.sh.
const USUAL: [&str; 2] = ["common", "linux"];
/// The default selection.
const QUICK: &str = "sanity";

impl Suite {
    /// Opens the suite of the checkout whose top is `top`.
    ///
    /// # Errors
    /// Fails if there is no suite.
    pub fn open(top: &Path) -> Result<Suite, SelectError> {
        let suite = Suite { top: top.to_owned() };
        match suite.runfiles().is_dir() {
            true => Ok(suite),
            false => Err(SelectError::NoSuite { dir: top.to_owned() }),
        }
    }

    fn runfiles(&self) -> PathBuf {
        self.top.join("tests/runfiles")
    }

    fn tests(&self) -> PathBuf {
        self.top.join("tests/zfs-tests")
    }

    /// The program that judges results. Only its first line depends on OpenZFS's configuration.
    pub fn judge(&self) -> PathBuf {
        self.top.join("tests/test-runner/bin/zts-report.py.in")
    }

    /// Whether this suite can write the names of tests to the kernel's log.
    pub fn knows_kmsg(&self) -> bool {
        fs::read(self.top.join("scripts/zfs-tests.sh"))
            .is_ok_and(|text| String::from_utf8_lossy(&text).contains("\n\tK)\n"))
    }

    /// Whether this suite's own run files set the directory of the logs.
    pub fn names_logs(&self) -> bool {
        let file = self.runfiles().join(format!("{}.run", USUAL[0]));
        fs::read(file).is_ok_and(|text| text.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"outputdir")))
    }

    /// The groups that `selection` stands for, each with its selected tests. Relative paths start
    /// from `cwd`.
    ///
    /// # Errors
    /// Fails if a name matches nothing.
    pub fn select(&self, selection: &Selection, cwd: &Path) -> Result<Vec<Group>, SelectError> {
        let mut files: Vec<PathBuf> = Vec::new();
        for name in &selection.runfiles {
            files.push(self.runfile(name, cwd).ok_or_else(|| self.no_runfile(name))?);
        }
        let mut words = Vec::new();
        for word in &selection.words {
            match self.runfile(word, cwd) {
                Some(file) => files.push(file),
                None => words.push(self.plain(word, cwd)),
            }
        }
        let named = !files.is_empty();
        if !named {
            let names = if words.is_empty() && selection.tags.is_empty() { &[QUICK][..] } else { &USUAL };
            files.extend(names.iter().filter_map(|name| self.runfile(name, cwd)));
        }
        let fraction = match &selection.tags[..] {
            [text] if text.contains('/') => {
                Some(text.parse::<Fraction>().map_err(|()| SelectError::Fraction { text: text.clone() })?)
            }
            tags => match tags.iter().find(|tag| tag.contains('/')) {
                Some(_) => return Err(SelectError::Fraction { text: tags.join(",") }),
                None => None,
            },
        };
        let listed = self.groups(&files)?;
        let tags = fraction.map_or_else(|| selection.tags.clone(), |fraction| fraction.tags(&listed));
        let is_narrowed = !selection.tags.is_empty();
        let mut all = Vec::new();
        listed.into_iter().for_each(|group| merge(&mut all, group));
        let shown = files.iter().map(|file| file_name(file)).collect::<Vec<_>>().join(", ");
        for tag in &tags {
            if !all.iter().any(|group| group.tags.contains(tag)) {
                let tags = all.iter().flat_map(|group| &group.tags).map(String::as_str);
                let nearest = nearest(tag, tags);
                return Err(SelectError::NoTag { tag: tag.clone(), runfiles: shown, nearest });
            }
        }
        let tagged = |group: &&Group| !is_narrowed || group.tags.iter().any(|tag| tags.contains(tag));
        let all: Vec<Group> = all.iter().filter(tagged).cloned().collect();
        if words.is_empty() {
            return Ok(all);
        }
        let mut chosen: Vec<Group> = Vec::new();
        for word in &words {
            let mut found: Vec<Group> = all.iter().filter_map(|group| part(group, word)).collect();
            if found.is_empty() && !named && !is_narrowed {
                found.extend(self.unlisted(word)?);
            }
            if found.is_empty() {
                return Err(self.no_such(word, named.then_some(shown))?);
            }
            found.into_iter().for_each(|group| merge(&mut chosen, group));
        }
        // Use the order of the run files, whatever the order of the names.
        let place = |group: &Group, test: &String| {
            let whole = all.iter().find(|other| other.section == group.section);
            whole.and_then(|whole| whole.tests.iter().position(|other| other == test)).unwrap_or(usize::MAX)
        };
        for group in &mut chosen {
            let mut tests = std::mem::take(&mut group.tests);
            tests.sort_by_key(|test| place(group, test));
            group.tests = tests;
        }
        Ok(chosen)
    }

    fn runfile(&self, name: &str, cwd: &Path) -> Option<PathBuf> {
        let own = self.runfiles();
        let mut places = vec![own.join(name), own.join(format!("{name}.run"))];
        if name.ends_with(".run") {
            places.push(cwd.join(name));
        }
        places.into_iter().find(|place| place.is_file() && place.extension().is_some_and(|e| e == "run"))
    }

    fn no_runfile(&self, name: &str) -> SelectError {
        let dir = self.runfiles();
        let names: Vec<String> = self.runfile_names();
        let nearest = nearest(name.strip_suffix(".run").unwrap_or(name), names.iter().map(String::as_str));
        SelectError::NoRunFile { name: name.to_owned(), dir, nearest }
    }

    fn runfile_names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.runfiles()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_suffix(".run").map(str::to_owned)).collect()
    }

    /// The groups of several run files, unchanged.
    fn groups(&self, files: &[PathBuf]) -> Result<Vec<Group>, SelectError> {
        let mut all = Vec::new();
        for path in files {
            let groups = runfile::parse(&fs::read_to_string(path)?)
                .map_err(|source| SelectError::RunFile { path: path.clone(), source })?;
            all.extend(groups);
        }
        Ok(all)
    }

    /// Converts a typed path to the path of a group or test below `tests/functional`. A name that
    /// is not a path stays as it is.
    fn plain(&self, word: &str, cwd: &Path) -> String {
        let tests = self.tests();
        let path = cwd.join(word);
        let path = fs::canonicalize(&path).unwrap_or(path);
        let tests = fs::canonicalize(&tests).unwrap_or(tests);
        let inside = path.strip_prefix(&tests).ok().filter(|_| word.contains('/') && path.exists());
        let word = inside.and_then(Path::to_str).unwrap_or(word).trim_end_matches('/');
        let word = word.strip_prefix("zfs-tests/").or_else(|| word.strip_prefix("tests/zfs-tests/")).unwrap_or(word);
        stem(short(word)).to_owned()
    }

    /// A test that no run file lists, as `zfs-tests.sh -t` would run it.
    fn unlisted(&self, word: &str) -> Result<Option<Group>, SelectError> {
        let tests = self.tests();
        for entry in WalkDir::new(tests.join("tests")).sort_by_file_name() {
            let entry = entry.map_err(io::Error::from)?;
            let Ok(path) = entry.path().strip_prefix(&tests) else { continue };
            let Some(path) = path.to_str() else { continue };
            if !entry.file_type().is_file() || !ends_with(stem(path), word) {
                continue;
            }
            if entry.metadata().map_err(io::Error::from)?.permissions().mode() & 0o111 == 0 {
                continue;
            }
            let Some((dir, file)) = path.rsplit_once('/') else { continue };
            let there = |name: &str| tests.join(dir).join(format!("{name}.ksh")).is_file();
            let mut settings: BTreeMap<String, String> =
                [("user", "root"), ("pre_user", "root"), ("post_user", "root"), ("timeout", "600")]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into();
            for (setting, script) in [("pre", "setup"), ("post", "cleanup")] {
                settings.insert(setting.to_owned(), if there(script) { script } else { "" }.to_owned());
            }
            return Ok(Some(Group {
                section: dir.to_owned(),
                tests: vec![file.to_owned()],
                tags: vec!["functional".to_owned()],
                settings,
            }));
        }
        Ok(None)
    }

    fn no_such(&self, word: &str, runfiles: Option<String>) -> Result<SelectError, SelectError> {
        let usual: Vec<PathBuf> = USUAL.iter().filter_map(|name| self.runfile(name, &self.top)).collect();
        let all = self.groups(&usual)?;
        if let Some(runfiles) = runfiles
            && all.iter().any(|group| part(group, word).is_some())
        {
            return Ok(SelectError::Elsewhere { word: word.to_owned(), runfiles });
        }
        let mut names = self.runfile_names();
        for group in &all {
            names.extend(group.tags.iter().cloned());
            names.push(group.name().to_owned());
            for test in &group.tests {
                names.push(stem(test).to_owned());
                names.push(format!("{}/{}", group.name(), stem(test)));
            }
        }
        let nearest = nearest(word, names.iter().map(String::as_str));
        Ok(SelectError::NoSuch { word: word.to_owned(), suite: self.top.join("tests"), nearest })
    }
}

/// The part of `group` that `word` stands for: all tests, some tests, or `None`.
fn part(group: &Group, word: &str) -> Option<Group> {
    let name = group.name();
    let whole = group.tags.iter().any(|tag| tag == word)
        || ends_with(name, word)
        || name.strip_prefix(word).is_some_and(|rest| rest.starts_with('/'));
    if whole {
        return Some(group.clone());
    }
    let meant = |test: &&String| ends_with(&format!("{name}/{}", stem(test)), word);
    let tests: Vec<String> = group.tests.iter().filter(meant).cloned().collect();
    (!tests.is_empty()).then(|| Group { tests, ..group.clone() })
}

/// Whether `path` is `word`, or ends with its components.
fn ends_with(path: &str, word: &str) -> bool {
    path.strip_suffix(word).is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

fn merge(groups: &mut Vec<Group>, group: Group) {
    match groups.iter_mut().find(|other| other.section == group.section) {
        None => groups.push(group),
        Some(there) => {
            for test in group.tests {
                if !there.tests.iter().any(|other| stem(other) == stem(&test)) {
                    there.tests.push(test);
                }
            }
        }
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or("?")
}

/// The one of `names` that is most similar to `typed`. `None` if more than a third of it would have
/// to differ.
fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let most = (typed.chars().count() / 3).max(1);
    let scored = names.into_iter().map(|name| (strsim::damerau_levenshtein(typed, name), name));
    scored.filter(|(typos, _)| *typos <= most).min_by_key(|(typos, _)| *typos).map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: &str = "[DEFAULT]\npre = setup\npost = cleanup\nuser = root\n\
        [tests/functional/atime]\ntests = ['atime_001_pos', 'atime_002_neg']\ntags = ['functional', 'atime']\n\
        [tests/functional/cli_root/zpool_get]\ntests = ['zpool_get_001_pos', 'zpool_get_002_pos']\n\
        tags = ['functional', 'cli_root', 'zpool_get']\n\
        [tests/functional/cli_root/zpool_set]\ntests = ['zpool_set_ashift']\ntags = ['functional', 'cli_root', 'zpool_set']\n\
        [tests/functional/cli_user/zpool_get]\ntests = ['zpool_get_001_pos']\nuser =\ntags = ['functional', 'cli_user', 'zpool_get']\n";
    const LINUX: &str = "[DEFAULT]\npre = setup\n[tests/functional/atime:Linux]\ntests = ['atime_003_pos']\ntags = ['functional', 'atime']\n";
    const SANITY: &str =
        "[DEFAULT]\npre = setup\n[tests/functional/atime]\ntests = ['atime_001_pos']\ntags = ['functional', 'atime']\n";

    fn suite(top: &Path) -> Suite {
        for (file, text) in [("common", COMMON), ("linux", LINUX), ("sanity", SANITY)] {
            let file = top.join(format!("tests/runfiles/{file}.run"));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let dir = top.join("tests/zfs-tests/tests/functional/cli_root/zpool_new");
        fs::create_dir_all(&dir).unwrap();
        for (file, mode) in [("setup.ksh", 0o755), ("zpool_new_001_pos.ksh", 0o755), ("zpool_new.cfg", 0o644)] {
            fs::write(dir.join(file), "#!/bin/ksh\n").unwrap();
            fs::set_permissions(dir.join(file), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        Suite::open(top).unwrap()
    }

    /// The selection as one line.
    fn select(runfiles: &[&str], tags: &[&str], words: &[&str]) -> Result<String, String> {
        let top = tempfile::tempdir().unwrap();
        let owned = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
        let selection = Selection { runfiles: owned(runfiles), tags: owned(tags), words: owned(words) };
        let groups = suite(top.path()).select(&selection, top.path()).map_err(|e| e.to_string())?;
        let shown =
            groups.iter().map(|g| format!("{}={}", g.section.replace("tests/functional/", ""), g.tests.join("+")));
        Ok(shown.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn nothing_asked_for_is_the_quick_run() {
        assert_eq!(select(&[], &[], &[]).unwrap(), "atime=atime_001_pos");
        assert_eq!(select(&["sanity"], &[], &[]).unwrap(), "atime=atime_001_pos");
        assert_eq!(select(&[], &[], &["sanity.run"]).unwrap(), "atime=atime_001_pos");
        assert_eq!(select(&["linux.run"], &[], &[]).unwrap(), "atime:Linux=atime_003_pos");
    }

    #[test]
    fn groups_are_found_by_tag_name_and_path() {
        let atime = "atime=atime_001_pos+atime_002_neg atime:Linux=atime_003_pos";
        for word in ["atime", "tests/functional/atime", "functional/atime/", "tests/zfs-tests/tests/functional/atime"] {
            assert_eq!(select(&[], &[], &[word]).unwrap(), atime, "{word}");
        }
        assert_eq!(select(&[], &["atime"], &[]).unwrap(), atime);
        let both = "cli_root/zpool_get=zpool_get_001_pos+zpool_get_002_pos cli_user/zpool_get=zpool_get_001_pos";
        assert_eq!(select(&[], &[], &["zpool_get"]).unwrap(), both);
        assert_eq!(select(&[], &[], &["cli_user/zpool_get"]).unwrap(), "cli_user/zpool_get=zpool_get_001_pos");
        assert_eq!(select(&[], &[], &["cli_root"]).unwrap().matches('=').count(), 2);
        assert_eq!(select(&["sanity"], &["atime"], &[]).unwrap(), "atime=atime_001_pos");
        assert_eq!(
            select(&[], &["cli_root"], &["zpool_get"]).unwrap(),
            "cli_root/zpool_get=zpool_get_001_pos+zpool_get_002_pos"
        );
    }

    #[test]
    fn tests_are_found_by_name_and_path() {
        let set = "cli_root/zpool_set=zpool_set_ashift";
        for word in [
            "zpool_set_ashift",
            "zpool_set_ashift.ksh",
            "zpool_set/zpool_set_ashift",
            "tests/functional/cli_root/zpool_set/zpool_set_ashift.ksh",
        ] {
            assert_eq!(select(&[], &[], &[word]).unwrap(), set, "{word}");
        }
        let both = "cli_root/zpool_get=zpool_get_001_pos+zpool_get_002_pos cli_user/zpool_get=zpool_get_001_pos";
        assert_eq!(select(&[], &[], &["zpool_get_002_pos", "zpool_get_001_pos", "zpool_get_001_pos"]).unwrap(), both);
    }

    #[test]
    fn a_new_test_needs_no_run_file() {
        let path = "tests/zfs-tests/tests/functional/cli_root/zpool_new/zpool_new_001_pos.ksh";
        for word in ["zpool_new_001_pos", path] {
            assert_eq!(
                select(&[], &[], &[word]).unwrap(),
                "tests/functional/cli_root/zpool_new=zpool_new_001_pos.ksh".replace("tests/functional/", "")
            );
        }
        let top = tempfile::tempdir().unwrap();
        let selection = Selection { words: vec!["zpool_new_001_pos".to_owned()], ..Selection::default() };
        let groups = suite(top.path()).select(&selection, top.path()).unwrap();
        assert_eq!(
            (groups[0].setting("pre"), groups[0].setting("post"), groups[0].setting("user")),
            ("setup", "", "root")
        );
    }

    #[test]
    fn a_fraction_is_taken_of_the_run_files() {
        // In the order of their tags: atime, zpool_get, zpool_set.
        assert_eq!(select(&[], &["1/3"], &[]).unwrap(), "cli_root/zpool_set=zpool_set_ashift");
        assert_eq!(select(&[], &["2/3"], &[]).unwrap(), "atime=atime_001_pos+atime_002_neg atime:Linux=atime_003_pos");
        assert_eq!(select(&[], &["3/3"], &["cli_user"]).unwrap(), "cli_user/zpool_get=zpool_get_001_pos");
        assert_eq!(select(&[], &["1/1"], &[]).unwrap().matches('=').count(), 5);
        assert_eq!(select(&["sanity"], &["1/1"], &[]).unwrap(), "atime=atime_001_pos");
        assert_eq!(select(&["sanity"], &["1/2"], &[]).unwrap(), "", "the only tag is in the second part");
        for wrong in [&["0/3"][..], &["4/3"], &["x/3"], &["1/3", "atime"], &["atime", "1/3"], &["cli_root/zpool_get"]] {
            let said = select(&[], wrong, &[]).unwrap_err();
            assert!(
                said.starts_with(&format!("cannot select the fraction `{}` of the tests: write ", wrong.join(","))),
                "{said}"
            );
        }
    }

    #[test]
    fn what_means_nothing_is_refused_with_what_was_meant() {
        let said = |runfiles: &[&str], tags: &[&str], words: &[&str]| select(runfiles, tags, words).unwrap_err();
        assert!(said(&[], &[], &["zpool_gte"]).ends_with("is called `zpool_gte`; did you mean `zpool_get`?"));
        assert!(said(&[], &[], &["zpool_set_asihft"]).ends_with("did you mean `zpool_set_ashift`?"));
        assert!(said(&[], &[], &["sanitiy"]).ends_with("did you mean `sanity`?"));
        assert!(said(&[], &[], &["frobnicate"]).ends_with("is called `frobnicate`"));
        assert!(said(&[], &[], &["zpool_new.cfg"]).contains("no test, group, tag or run file"));
        assert_eq!(
            said(&[], &["atmie"], &[]),
            "no group in the run files common.run, linux.run has the tag `atmie`; did you mean `atime`?"
        );
        assert!(said(&["santy"], &[], &[]).ends_with("did you mean `sanity`?"));
        assert_eq!(
            said(&["sanity"], &[], &["zpool_get"]),
            "`zpool_get` is not in the run file sanity.run; leave out --run-files to find it"
        );
    }
}
