//! Reads the layers of configuration, lowest first, into [`Settings`]: the defaults, files,
//! variables, options. Not for finding the files, nor for checking values against each other (see
//! `lower`).

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::NamedSource;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, FileProblem};
use crate::nearest::nearest;
use crate::origin::Origin;
use crate::profile::option::Written;
use crate::profile::{Catalog, Given};
use crate::settings::{KEYS, Key, Raw, Settings, key};
use crate::value::{Place, describe};

const DEFAULTS: &str = include_str!("defaults.toml");

/// Variables that begin with `QUIZ_` and do not set a key.
const OTHER_VARIABLES: [&str; 1] = ["QUIZ_CACHE"];

/// The layer that a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileLayer {
    BuiltIn,
    User,
    Worktree,
}

impl FileLayer {
    fn origin(self, file: &Path, line: usize) -> Origin {
        match self {
            FileLayer::BuiltIn => Origin::BuiltIn,
            FileLayer::User => Origin::User { file: file.to_owned(), line },
            FileLayer::Worktree => Origin::Worktree { file: file.to_owned(), line },
        }
    }
}

/// An option as it was typed: the key that it sets, its spelling, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedOption {
    /// The key's name; one of [`KEYS`].
    pub key: &'static str,
    /// The option's spelling, for messages: `--memory`.
    pub option: &'static str,
    /// The value that was typed.
    pub value: OsString,
}

/// The inputs of all layers: the paths of the files, and the contents of the other layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// The user's `config.toml`, which need not exist.
    pub user_file: Option<PathBuf>,
    /// The worktree's `quiz.toml`, which need not exist.
    pub worktree_file: Option<PathBuf>,
    /// The environment; variables other than `QUIZ_*` are ignored.
    pub variables: Vec<(OsString, OsString)>,
    /// The command line's options, in order.
    pub options: Vec<TypedOption>,
    /// The directory in which quiz was called.
    pub cwd: PathBuf,
    /// The directory that `~` stands for.
    pub home: Option<PathBuf>,
}

/// The settings, and the values whose meaning only the profiles define.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// Options of profiles that files set, the strongest last.
    pub profile_options: Vec<Given>,
    /// Variables that begin with `QUIZ_` and set no key, with their values. They are options of
    /// profiles, or mistakes.
    pub unknown_variables: Vec<(String, String)>,
}

/// The built-in default of `key`, or what happens without one, for help. Empty for an empty list.
pub fn default_text(key: &Key) -> String {
    let mut loaded = Loaded::default();
    let place = Place { dir: "/".into(), home: None };
    let read = read_text(&mut loaded, DEFAULTS, FileLayer::BuiltIn, Path::new("defaults.toml"), &place);
    debug_assert!(read.is_ok(), "a test reads the defaults");
    let effective = loaded.settings.effective().into_iter().find(|effective| effective.key == key.name);
    match effective.and_then(|effective| effective.value) {
        None => key.unset.to_owned(),
        Some(toml::Value::String(text)) => text,
        Some(toml::Value::Array(items)) => items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(", "),
        Some(value) => value.to_string(),
    }
}

/// Reads all layers.
///
/// # Errors
/// Fails if a file cannot be read, or if any value or key is invalid. All mistakes of one file are
/// reported together.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut loaded = Loaded::default();
    let place = |dir: &Path| Place { dir: dir.to_owned(), home: sources.home.clone() };
    read_text(&mut loaded, DEFAULTS, FileLayer::BuiltIn, Path::new("defaults.toml"), &place(Path::new("/")))?;
    let files = [(&sources.user_file, FileLayer::User), (&sources.worktree_file, FileLayer::Worktree)];
    for (file, layer) in files {
        let Some(file) = file else { continue };
        let text = match fs_err::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(ConfigError::Read(error)),
        };
        let dir = file.parent().unwrap_or(Path::new("/"));
        read_text(&mut loaded, &text, layer, file, &place(dir))?;
    }
    read_variables(&mut loaded, &sources.variables, &place(&sources.cwd))?;
    for typed in &sources.options {
        let key = key(typed.key).unwrap_or_else(|| unreachable!("`{}` is not a key", typed.key));
        let origin = Origin::Option(typed.option);
        let result = loaded.settings.assign(key, Raw::Option(&typed.value), &place(&sources.cwd), origin.clone());
        result.map_err(|problem| ConfigError::Value { origin, problem })?;
    }
    Ok(loaded)
}

fn read_variables(loaded: &mut Loaded, variables: &[(OsString, OsString)], place: &Place) -> Result<(), ConfigError> {
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with("QUIZ_")) else { continue };
        let Some(key) = KEYS.iter().find(|key| key.variable() == name) else {
            if !OTHER_VARIABLES.contains(&name) {
                loaded.unknown_variables.push((name.to_owned(), value.to_string_lossy().into_owned()));
            }
            continue;
        };
        // By convention, an empty variable counts as not set.
        if value.is_empty() {
            continue;
        }
        let origin = Origin::Variable(name.to_owned());
        let result = loaded.settings.assign(key, Raw::Variable(value), place, origin.clone());
        result.map_err(|problem| ConfigError::Value { origin, problem })?;
    }
    Ok(())
}

/// The warning about a variable that neither a setting nor a profile of `catalog` has. It is not an
/// error: the environment is shared with programs and versions of quiz that know other variables.
pub fn unknown_variable(name: &str, catalog: &Catalog) -> String {
    let usable = catalog.all().filter_map(|(_, profile)| profile.as_ref().ok());
    let options = usable.flat_map(|profile| profile.options.keys().map(|option| profile.variable(option)));
    let known: Vec<String> =
        KEYS.iter().map(Key::variable).chain(OTHER_VARIABLES.iter().map(|v| (*v).to_owned())).chain(options).collect();
    match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("the variable {name} means nothing to quiz; did you mean {near}?"),
        None => format!("the variable {name} means nothing to quiz; `quiz config` lists the ones that do"),
    }
}

/// One file's text, and the mistakes found in it so far.
struct Reader<'a> {
    text: Arc<str>,
    path: &'a Path,
    layer: FileLayer,
    place: &'a Place,
    problems: Vec<FileProblem>,
}

fn read_text(loaded: &mut Loaded, text: &str, layer: FileLayer, path: &Path, place: &Place) -> Result<(), ConfigError> {
    let mut reader = Reader { text: text.into(), path, layer, place, problems: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        reader.problem(error.span().unwrap_or(0..0), error.message().to_owned(), None);
    }
    if errors.is_empty() {
        reader.table(loaded, "", table.get_ref());
    }
    if reader.problems.is_empty() { Ok(()) } else { Err(ConfigError::File(reader.problems)) }
}

impl Reader<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        self.text.as_bytes().iter().take(span.start).filter(|b| **b == b'\n').count() + 1
    }

    fn problem(&mut self, span: Range<usize>, message: String, help: Option<String>) {
        self.problems.push(FileProblem {
            path: self.path.to_owned(),
            line: self.line(&span),
            message,
            help,
            source_code: NamedSource::new(self.path.display().to_string(), Arc::clone(&self.text)),
            span: span.into(),
        });
    }

    /// Reads the table `prefix`: empty for the whole file, otherwise a name that ends in a dot.
    fn table(&mut self, loaded: &mut Loaded, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let full = format!("{prefix}{}", name.get_ref());
            let inner = format!("{full}.");
            if let Some(key) = key(&full) {
                self.value(&mut loaded.settings, key, name.span(), value);
            } else if full == "profile" {
                self.profiles(loaded, value);
            } else if KEYS.iter().any(|key| key.name.starts_with(&inner)) {
                match value.get_ref() {
                    DeValue::Table(table) => self.table(loaded, &inner, table),
                    other => {
                        let message = format!("`{full}` is a table: found {} in its place", describe(other));
                        self.problem(value.span(), message, Some(format!("write a line [{full}], and its keys below")));
                    }
                }
            } else {
                self.unknown(&full, prefix, name.span());
            }
        }
    }

    /// Reads `[profile.NAME]`. The names of its options are not checked here.
    fn profiles(&mut self, loaded: &mut Loaded, profiles: &Spanned<DeValue<'_>>) {
        let help = "write a line [profile.NAME], and its options below";
        let DeValue::Table(profiles) = profiles.get_ref() else {
            return self.problem(profiles.span(), "`profile` is a table of profiles".to_owned(), Some(help.to_owned()));
        };
        for (profile, options) in profiles {
            let DeValue::Table(table) = options.get_ref() else {
                let message = format!("`profile.{}` is a table of options", profile.get_ref());
                self.problem(options.span(), message, Some(help.to_owned()));
                continue;
            };
            for (option, value) in table {
                let Some(written) = written(value.get_ref()) else {
                    let message = format!("an option of a profile cannot be {}", describe(value.get_ref()));
                    self.problem(value.span(), message, None);
                    continue;
                };
                loaded.profile_options.push(Given {
                    profile: profile.get_ref().to_string(),
                    option: option.get_ref().to_string(),
                    value: written,
                    origin: self.layer.origin(self.path, self.line(&option.span())).to_string(),
                    place: self.place.clone(),
                    adds: false,
                });
            }
        }
    }

    fn value(&mut self, settings: &mut Settings, key: &Key, name: Range<usize>, value: &Spanned<DeValue<'_>>) {
        let origin = self.layer.origin(self.path, self.line(&name));
        if let Err(problem) = settings.assign(key, Raw::Toml(value.get_ref()), self.place, origin) {
            let help = format!("`{}` is {}, for example: {} = {}", key.name, key.wanted, last(key.name), key.example);
            self.problem(value.span(), format!("bad value of `{}`: {problem}", key.name), Some(help));
        }
    }

    fn unknown(&mut self, full: &str, prefix: &str, span: Range<usize>) {
        // Suggest the nearest name of the same table; otherwise the right name may be in the wrong
        // table.
        let (same, other): (Vec<&str>, Vec<&str>) =
            KEYS.iter().map(|key| key.name).partition(|name| table_of(name) == prefix);
        let near = [same, other].into_iter().find_map(|names| {
            let word = nearest(last(full), names.iter().map(|name| last(name)))?;
            names.into_iter().find(|name| last(name) == word)
        });
        let help = match near {
            Some(near) => format!("did you mean `{}`?", near.strip_prefix(prefix).unwrap_or(near)),
            None => "`quiz config` lists every key".to_owned(),
        };
        self.problem(span, format!("unknown key `{full}`"), Some(help));
    }
}

/// Converts a value to one that an option of a profile can have; `None` if it has another type.
fn written(value: &DeValue<'_>) -> Option<Written> {
    let one = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Boolean(value) => Some(value.to_string()),
        _ => None,
    };
    match value {
        DeValue::Array(items) => items.iter().map(|item| one(item.get_ref())).collect::<Option<_>>().map(Written::Many),
        value => one(value).map(Written::One),
    }
}

/// The table of a key's name, with its dot; empty for a key outside of tables.
fn table_of(name: &str) -> &str {
    &name[..name.len() - last(name).len()]
}

/// The part of a key's name after its table.
fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::WorktreeMode;
    use crate::value::Count;

    fn check(text: &str) -> Result<Settings, ConfigError> {
        let mut loaded = Loaded::default();
        let place = Place { dir: "/p".into(), home: None };
        read_text(&mut loaded, text, FileLayer::User, Path::new("/p/config.toml"), &place)?;
        Ok(loaded.settings)
    }

    fn problems(text: &str) -> Vec<(usize, String, String)> {
        match check(text) {
            Err(ConfigError::File(problems)) => {
                problems.into_iter().map(|p| (p.line, p.message, p.help.unwrap_or_default())).collect()
            }
            other => panic!("expected mistakes, got {other:?}"),
        }
    }

    fn one(line: usize, message: &str, help: &str) -> Vec<(usize, String, String)> {
        vec![(line, message.to_owned(), help.to_owned())]
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn an_unknown_key_names_the_nearest_one() {
        assert_eq!(problems("cpus = 1\nmemroy = \"1G\"\n"), one(2, "unknown key `memroy`", "did you mean `memory`?"));
        let help = "did you mean `jobs`?";
        assert_eq!(problems("[kernel_build]\njbos = 1\n"), one(2, "unknown key `kernel_build.jbos`", help));
        assert_eq!(problems("jobs = 1\n"), one(1, "unknown key `jobs`", "did you mean `kernel_build.jobs`?"));
        assert_eq!(problems("[kernel_build]\nmemory = \"1G\"\n")[0].2, "did you mean `memory`?");
        assert_eq!(problems("xyzzy = 1\n")[0].2, "`quiz config` lists every key");
    }

    #[test]
    fn a_wrong_type_says_what_was_found_and_shows_an_example() {
        assert_eq!(
            problems("memory = 512"),
            one(
                1,
                "bad value of `memory`: found the number 512 where a size is expected",
                "`memory` is a size, for example: memory = \"1G\""
            )
        );
        assert_eq!(
            problems("\ncpus = \"two\""),
            one(
                2,
                "bad value of `cpus`: found the text \"two\" where a whole number of 1 or more is expected",
                "`cpus` is a whole number of 1 or more, for example: cpus = 2"
            )
        );
        assert!(problems("profiles = \"zfs\"")[0].1.contains("where a list of names is expected"));
        assert!(problems("packages = [1]")[0].1.contains("found the number 1"));
        assert!(problems("timeout = \"30\"")[0].1.contains("has no unit; write 30s or 30m"));
        assert!(problems("kernel_build = 3")[0].2.contains("write a line [kernel_build]"));
    }

    #[test]
    fn all_mistakes_of_a_file_are_reported() {
        let found = problems("memroy = \"1G\"\ncpus = 0\n[kernel_build]\nllvm = \"yes\"\n");
        assert_eq!(found.iter().map(|(line, ..)| *line).collect::<Vec<_>>(), [1, 2, 4]);
    }

    #[test]
    fn a_file_that_is_no_toml_is_refused_with_the_line() {
        assert_eq!(problems("cpus = 2\nmemory = \n")[0].0, 2);
        assert!(check("cpus = 1\ncpus = 2\n").is_err());
    }

    #[test]
    fn the_built_in_defaults_are_right_and_set_what_has_no_other_meaning() {
        let loaded = load(&Sources::default()).unwrap();
        for effective in loaded.settings.effective() {
            assert_eq!(effective.value.is_some(), effective.unset.is_empty(), "{}", effective.key);
        }
    }

    #[test]
    fn later_layers_win_and_say_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let user_file = dir.path().join("config.toml");
        let worktree_file = dir.path().join("quiz.toml");
        fs_err::write(&user_file, "cpus = 3\nmemory = \"2G\"\nworktree = \"rw\"\nprofiles = [\"a\"]\n").unwrap();
        fs_err::write(&worktree_file, "\nmemory = \"3G\"\nprofiles = [\"zfs\"]\nshares = [\"data\"]\n").unwrap();
        let sources = Sources {
            user_file: Some(user_file.clone()),
            worktree_file: Some(worktree_file.clone()),
            variables: pairs(&[("QUIZ_CPUS", "4"), ("QUIZ_KERNEL", ""), ("HOME", "/x")]),
            options: vec![
                TypedOption { key: "profiles", option: "--profile", value: "memdev".into() },
                TypedOption { key: "profiles", option: "--profile", value: "ztest".into() },
            ],
            cwd: "/cwd".into(),
            home: None,
        };
        let settings = load(&sources).unwrap().settings;
        let memory = settings.memory.unwrap();
        assert_eq!(memory.value.to_string(), "3G");
        assert_eq!(memory.origins, [Origin::Worktree { file: worktree_file.clone(), line: 2 }]);
        let cpus = settings.cpus.unwrap();
        assert_eq!((cpus.value, cpus.from_where().as_str()), (Count(4), "QUIZ_CPUS"));
        let worktree = settings.worktree.unwrap();
        assert_eq!(worktree.value, WorktreeMode::ReadWrite);
        assert_eq!(worktree.origins, [Origin::User { file: user_file, line: 3 }]);
        let profiles = settings.profiles.unwrap();
        assert_eq!(profiles.value.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["zfs", "memdev", "ztest"]);
        assert_eq!(profiles.from_where(), format!("{}:3 + --profile", worktree_file.display()));
        assert_eq!(settings.shares.unwrap().value[0].host, dir.path().join("data"));
        assert_eq!(settings.kernel, None);
        assert_eq!(settings.release.unwrap().from_where(), "built in");
    }

    #[test]
    fn an_empty_list_option_drops_what_the_files_ask_for() {
        let option = |value: &str| TypedOption { key: "profiles", option: "--profile", value: value.into() };
        let sources = Sources {
            variables: pairs(&[("QUIZ_PROFILES", "zfs")]),
            options: vec![option(""), option("memdev")],
            ..Sources::default()
        };
        let profiles = load(&sources).unwrap().settings.profiles.unwrap();
        assert_eq!(profiles.value.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["memdev"]);
        assert_eq!(profiles.from_where(), "--profile");
    }

    #[test]
    fn variables_and_options_with_bad_values_are_errors_by_name() {
        let sources = Sources { variables: pairs(&[("QUIZ_MEMORY", "lots")]), ..Sources::default() };
        let message = load(&sources).unwrap_err().to_string();
        assert_eq!(message, "QUIZ_MEMORY: `lots` is not a size; write a number and a unit, like 512M or 4G");
        let options = vec![TypedOption { key: "timeout", option: "--timeout", value: "30".into() }];
        let message = load(&Sources { options, ..Sources::default() }).unwrap_err().to_string();
        assert_eq!(message, "--timeout: `30` has no unit; write 30s or 30m");
    }

    #[test]
    fn unknown_variables_are_warned_of() {
        let variables = pairs(&[("QUIZ_MEMROY", "1G"), ("QUIZ_CACHE", "/c"), ("QUIZ_ZZZ", "1"), ("OTHER", "1")]);
        let unknown = load(&Sources { variables, ..Sources::default() }).unwrap().unknown_variables;
        let warnings: Vec<String> =
            unknown.iter().map(|(name, _)| unknown_variable(name, &Catalog::default())).collect();
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].contains("QUIZ_MEMROY means nothing to quiz; did you mean QUIZ_MEMORY?"));
        assert!(warnings[1].contains("QUIZ_ZZZ"));
    }

    #[test]
    fn options_of_profiles_are_kept_with_their_place() {
        let mut loaded = Loaded::default();
        let place = Place { dir: "/p".into(), home: None };
        let text = "[profile.disk]\nsize = \"1G\"\ncount = 2\nfast = true\nwords = [\"a\", 1]\n";
        read_text(&mut loaded, text, FileLayer::Worktree, Path::new("/p/quiz.toml"), &place).unwrap();
        let told: Vec<String> = loaded
            .profile_options
            .iter()
            .map(|g| format!("{} {} {} {}", g.origin, g.profile, g.option, g.value))
            .collect();
        assert_eq!(
            told,
            [
                "/p/quiz.toml:2 disk size `1G`",
                "/p/quiz.toml:3 disk count `2`",
                "/p/quiz.toml:4 disk fast `true`",
                "/p/quiz.toml:5 disk words [a, 1]",
            ]
        );
        for (text, line) in [("profile = 1", 1), ("[profile]\nx = 1", 2), ("[profile.x]\ny = 1.5", 2)] {
            assert_eq!(problems(text)[0].0, line, "{text}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_and_a_missing_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let sources = |file: PathBuf| Sources { user_file: Some(file), ..Sources::default() };
        assert!(load(&sources(dir.path().join("none.toml"))).is_ok());
        assert!(matches!(load(&sources(dir.path().to_owned())), Err(ConfigError::Read(_))));
    }
}
