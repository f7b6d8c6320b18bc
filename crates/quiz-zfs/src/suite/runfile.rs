//! Reads run files as `test-runner.py` does, with Python's `configparser`, and writes one for a
//! selection. Not for selecting (see `select`).

use std::collections::BTreeMap;
use std::fmt::Write;

/// Why a run file is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct RunFileError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// The tests of one directory that are run together, between one `setup` and one `cleanup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The section's name: the tests' directory below the suite. A `:` and a word may follow, to
    /// distinguish groups of one directory.
    pub section: String,
    /// The tests' file names, some without their `.ksh`.
    pub tests: Vec<String>,
    /// Tags to select it by.
    pub tags: Vec<String>,
    /// `pre`, `post`, `user`, `timeout` and similar settings, including those of `[DEFAULT]`.
    pub settings: BTreeMap<String, String>,
}

/// Settings of the whole run, and settings that have their own fields.
const NOT_SETTINGS: [&str; 4] = ["quiet", "outputdir", "tests", "tags"];

impl Group {
    /// The tests' directory below the suite: `tests/functional/cli_root/zpool_get`.
    pub fn dir(&self) -> &str {
        self.section.split(':').next().unwrap_or(&self.section)
    }

    /// The short name: `cli_root/zpool_get`.
    pub fn name(&self) -> &str {
        short(self.dir())
    }

    /// A setting; empty if it is not set.
    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }
}

/// The path of a group or a test without the common prefix of functional tests.
pub fn short(path: &str) -> &str {
    let path = path.strip_prefix("tests/").unwrap_or(path);
    path.strip_prefix("functional/").unwrap_or(path)
}

/// The groups of the run file `text`, in its order.
///
/// # Errors
/// Fails if it is not a run file.
pub fn parse(text: &str) -> Result<Vec<Group>, RunFileError> {
    let sections = sections(text)?;
    let mut defaults = BTreeMap::new();
    let mut groups = Vec::new();
    for section in &sections {
        if section.name == "DEFAULT" {
            defaults.extend(section.values.iter().map(|(name, (_, value))| (name.clone(), value.clone())));
        }
    }
    for section in sections.iter().filter(|section| section.name != "DEFAULT") {
        let list = |name: &str| -> Result<Option<Vec<String>>, RunFileError> {
            let Some((line, value)) = section.values.get(name) else { return Ok(None) };
            let wrong = || RunFileError { line: *line, problem: format!("`{name}` is not a list of quoted strings") };
            words(value).ok_or_else(wrong).map(Some)
        };
        let Some(tests) = list("tests")? else {
            let problem = format!("[{}] has no `tests`", section.name);
            return Err(RunFileError { line: section.line, problem });
        };
        let tags = match list("tags")? {
            Some(tags) => tags,
            None => defaults.get("tags").and_then(|value| words(value)).unwrap_or_default(),
        };
        let mut settings = defaults.clone();
        settings.extend(section.values.iter().map(|(name, (_, value))| (name.clone(), value.clone())));
        settings.retain(|name, _| !NOT_SETTINGS.contains(&name.as_str()));
        groups.push(Group { section: section.name.clone(), tests, tags, settings });
    }
    Ok(groups)
}

/// The directory of the runner's logs in the guest.
pub const LOGS: &str = "/var/tmp/test_results";

/// A run file for `groups`. Each test's time limit is multiplied by `patience`. With `name_logs`
/// the file names the log directory: runners before OpenZFS 2.2 need that, and later ones fail
/// because of it.
pub fn write(groups: &[Group], patience: u32, name_logs: bool) -> String {
    let list = |words: &[String]| format!("['{}']", words.join("', '"));
    let mut text = "[DEFAULT]\nquiet = False\n".to_owned();
    if name_logs {
        writeln!(text, "outputdir = {LOGS}").expect("a String grows");
    }
    for group in groups {
        write!(text, "\n[{}]\ntests = {}\n", group.section, list(&group.tests)).expect("a String grows");
        // zfs-tests.sh runs only groups with this tag by default.
        let always = Some("functional".to_owned()).filter(|tag| !group.tags.contains(tag));
        let tags: Vec<String> = group.tags.iter().cloned().chain(always).collect();
        writeln!(text, "tags = {}", list(&tags)).expect("a String grows");
        for (name, value) in &group.settings {
            let longer = value.trim().parse().ok().filter(|_| name == "timeout").map(|seconds: u32| {
                // 0 means no limit.
                seconds.saturating_mul(patience).to_string()
            });
            writeln!(text, "{name} = {}", longer.as_deref().unwrap_or(value)).expect("a String grows");
        }
    }
    text
}

struct Section {
    line: usize,
    name: String,
    /// By name: the line where the value begins, and its text.
    values: BTreeMap<String, (usize, String)>,
}

fn sections(text: &str) -> Result<Vec<Section>, RunFileError> {
    let mut sections: Vec<Section> = Vec::new();
    // The value that is being read, and the indentation of its name.
    let mut open: Option<(String, usize)> = None;
    for (number, raw) in (1..).zip(text.lines()) {
        let wrong = |problem: &str| RunFileError { line: number, problem: problem.to_owned() };
        let line = raw.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let indent = raw.len() - raw.trim_start().len();
        if let (Some((name, least)), Some(section)) = (&open, sections.last_mut())
            && indent > *least
            && let Some((_, value)) = section.values.get_mut(name)
        {
            value.push('\n');
            value.push_str(line);
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(name, _)| name) {
            sections.push(Section { line: number, name: name.to_owned(), values: BTreeMap::new() });
            open = None;
            continue;
        }
        let Some(at) = line.find(['=', ':']) else { return Err(wrong("neither a [section] nor `name = value`")) };
        let Some(section) = sections.last_mut() else { return Err(wrong("there is no [section] above it")) };
        let name = line[..at].trim().to_ascii_lowercase();
        section.values.insert(name.clone(), (number, line[at + 1..].trim().to_owned()));
        open = Some((name, indent));
    }
    Ok(sections)
}

/// The items of a list in Python's notation; `None` if it is something else.
fn words(list: &str) -> Option<Vec<String>> {
    let mut rest = list.trim().strip_prefix('[')?.strip_suffix(']')?;
    let mut words = Vec::new();
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ',');
        let Some(quote) = rest.chars().next() else { return Some(words) };
        if quote != '\'' && quote != '"' {
            return None;
        }
        let (word, after) = rest[1..].split_once(quote)?;
        words.push(word.to_owned());
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SANITY: &str = "\
# A comment.
[DEFAULT]
pre = setup
quiet = False
pre_user = root
user = root
timeout = 180
post_user = root
post = cleanup
failsafe_user = root
failsafe = callbacks/zfs_failsafe
tags = ['functional']

[tests/functional/acl/off]
tests = ['posixmode']
tags = ['functional', 'acl']

[tests/functional/alloc_class]
tests = ['alloc_class_003_pos', 'alloc_class_004_pos',
    # The next one is slow.
    'alloc_class_011_neg']

[tests/functional/cli_user/misc]
tests = [\"arc_summary_001_pos\"]
user =
timeout : 1800
tags = ['functional', 'cli_user', 'misc']

[tests/functional/acl/posix:Linux]
tests = ['posix_001_pos']
pre =
";

    #[test]
    fn a_run_file_is_read_as_python_reads_it() {
        let groups = parse(SANITY).unwrap();
        let names: Vec<&str> = groups.iter().map(Group::name).collect();
        assert_eq!(names, ["acl/off", "alloc_class", "cli_user/misc", "acl/posix"]);
        assert_eq!(groups[1].tests, ["alloc_class_003_pos", "alloc_class_004_pos", "alloc_class_011_neg"]);
        assert_eq!(groups[1].tags, ["functional"]);
        assert_eq!(groups[0].tags, ["functional", "acl"]);
        let settings =
            |group: &Group| ["pre", "user", "timeout", "failsafe", "quiet"].map(|s| group.setting(s).to_owned());
        assert_eq!(settings(&groups[0]), ["setup", "root", "180", "callbacks/zfs_failsafe", ""]);
        assert_eq!(settings(&groups[2]), ["setup", "", "1800", "callbacks/zfs_failsafe", ""]);
        assert_eq!(groups[3].section, "tests/functional/acl/posix:Linux");
        assert_eq!(groups[3].setting("pre"), "");
    }

    #[test]
    fn what_is_written_means_the_same() {
        let groups = parse(SANITY).unwrap();
        assert_eq!(parse(&write(&groups, 1, false)).unwrap(), groups);
        let patient = parse(&write(&groups, 4, true)).unwrap();
        let limits: Vec<&str> = patient.iter().map(|group| group.setting("timeout")).collect();
        assert_eq!(limits, ["720", "720", "7200", "720"]);
    }

    #[test]
    fn what_is_no_run_file_is_refused_with_its_line() {
        for (text, said) in [
            ("tests = ['x']\n", "line 1: there is no [section] above it"),
            ("[a]\nnonsense\n", "line 2: neither a [section] nor `name = value`"),
            ("[a]\npre = x\n", "line 1: [a] has no `tests`"),
            ("\n[a]\ntests = x\n", "line 3: `tests` is not a list of quoted strings"),
            ("[a]\ntests = ['x', os.system()]\n", "line 2: `tests` is not a list of quoted strings"),
            ("[a]\ntests = ['x\n", "line 2: `tests` is not a list of quoted strings"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), said);
        }
    }
}
