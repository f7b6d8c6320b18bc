//! Reads one profile's `profile.toml` and finds the files beside it. Not for choosing among
//! profiles (see `choice`), nor for running their programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::option::OptionSpec;

/// Why the profiles cannot be used as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// A `profile.toml` cannot be read or is invalid.
    #[error("the profile `{name}` cannot be used: {}: {problem}", .file.display())]
    Definition {
        /// The profile.
        name: String,
        /// Its `profile.toml`.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// There is no profile of this name.
    #[error("there is no profile `{name}`{}{}", by(.asked_by), near(.nearest))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The profile that needs it, or the place that sets one of its options. Empty if the user
        /// named it as a profile.
        asked_by: String,
        /// A similar name.
        nearest: Option<String>,
    },
    /// A profile does not have this option.
    #[error("the profile `{profile}` has no option `{option}` ({origin}){}", near(.nearest))]
    UnknownOption {
        /// The profile.
        profile: String,
        /// The option that it does not have.
        option: String,
        /// The place that sets it.
        origin: String,
        /// A similar name.
        nearest: Option<String>,
    },
    /// An option has an invalid value.
    #[error("{origin}: the profile `{profile}` cannot have {option} = {found}: it is {wanted}")]
    Value {
        /// The profile.
        profile: String,
        /// The option.
        option: String,
        /// The place that sets it.
        origin: String,
        /// The value.
        found: String,
        /// The expected value.
        wanted: String,
    },
    /// Two profiles must each come after the other.
    #[error("the profiles {} each want to come after another of them; mend `needs` and `after` in their profile.toml", .0.join(", "))]
    Cycle(Vec<String>),
}

fn near(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

fn by(asked_by: &str) -> String {
    if asked_by.is_empty() { String::new() } else { format!(" ({asked_by})") }
}

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its name, which is also the name of its directory.
    pub name: String,
    /// The owner of the profile.
    pub source: Source,
    /// Its directory, absolute.
    pub dir: PathBuf,
    /// Its purpose, in one line.
    pub about: String,
    /// Profiles that quiz includes with it, and puts before it.
    pub needs: Vec<String>,
    /// Profiles that come before it if they are included.
    pub after: Vec<String>,
    /// Debian packages that the root must have.
    pub packages: Vec<String>,
    /// Kernel options without which it does not work.
    pub kernel_needs: Vec<KernelOption>,
    /// Kernel options that it uses if they are set.
    pub kernel_uses: Vec<KernelOption>,
    /// Whether its `init` may be part of a saved VM: it depends on nothing of the run, such as
    /// shares, kept disks and the machine's identity.
    pub early: bool,
    /// Its options, sorted by name.
    pub options: BTreeMap<String, OptionSpec>,
}

/// The owner of a profile. A later one replaces an earlier one of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// quiz's own.
    BuiltIn,
    /// The user's, beside config.toml.
    User,
    /// The worktree's.
    Worktree,
}

impl Source {
    /// The name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Source::BuiltIn => "built in",
            Source::User => "user",
            Source::Worktree => "worktree",
        }
    }
}

impl Profile {
    /// Its program on the host, if it has one.
    pub fn setup(&self) -> Option<PathBuf> {
        Some(self.dir.join("setup")).filter(|path| path.is_file())
    }

    /// Its program in the guest, if it has one.
    pub fn init(&self) -> Option<PathBuf> {
        Some(self.dir.join("init")).filter(|path| path.is_file())
    }

    /// The files to lay over the guest's root, if it has any.
    pub fn files(&self) -> Option<PathBuf> {
        Some(self.dir.join("files")).filter(|path| path.is_dir())
    }

    /// The environment variable that sets `option`, and passes it to the profile's programs.
    pub fn variable(&self, option: &str) -> String {
        variable(&self.name, option)
    }

    /// Reads the `profile.toml` in `dir`.
    pub fn read(name: &str, source: Source, dir: &Path) -> Result<Profile, ProfileError> {
        let file = dir.join("profile.toml");
        let wrong = |problem: String| ProfileError::Definition { name: name.to_owned(), file: file.clone(), problem };
        let text = fs_err::read_to_string(&file).map_err(|e| wrong(e.to_string()))?;
        let written: Written = toml::from_str(&text).map_err(|e| wrong(e.to_string().trim_end().to_owned()))?;
        if !is_name(name, '-') {
            return Err(wrong(format!(
                "`{name}` is no name for a profile: they have small letters, digits and -, and begin with a letter"
            )));
        }
        let mut options = BTreeMap::new();
        for (option, spec) in written.option {
            if !is_name(&option, '_') {
                return Err(wrong(format!(
                    "`{option}` is no name for an option: they have small letters, digits and _, and begin with a letter"
                )));
            }
            let variable = variable(name, &option);
            if crate::settings::KEYS.iter().any(|key| key.variable() == variable) || variable == "QUIZ_CACHE" {
                return Err(wrong(format!(
                    "the option `{option}` would be set by {variable}, which means something else"
                )));
            }
            spec.check().map_err(|problem| wrong(format!("option `{option}`: {problem}")))?;
            options.insert(option, spec);
        }
        let kernel = |texts: &[String]| -> Result<Vec<KernelOption>, ProfileError> {
            texts.iter().map(|text| KernelOption::read(text).map_err(wrong)).collect()
        };
        Ok(Profile {
            name: name.to_owned(),
            source,
            dir: dir.to_owned(),
            about: written.about,
            needs: written.needs,
            after: written.after,
            packages: written.packages,
            kernel_needs: kernel(&written.kernel.needs)?,
            kernel_uses: kernel(&written.kernel.uses)?,
            early: written.early,
            options,
        })
    }
}

/// The variable that sets `option` of the profile `name`.
pub fn variable(name: &str, option: &str) -> String {
    format!("QUIZ_{}_{}", name.replace('-', "_"), option).to_ascii_uppercase()
}

fn is_name(text: &str, between: char) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == between)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    about: String,
    #[serde(default)]
    needs: Vec<String>,
    #[serde(default)]
    after: Vec<String>,
    #[serde(default)]
    packages: Vec<String>,
    #[serde(default)]
    early: bool,
    #[serde(default)]
    kernel: WrittenKernel,
    #[serde(default)]
    option: BTreeMap<String, OptionSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKernel {
    #[serde(default)]
    needs: Vec<String>,
    #[serde(default)]
    uses: Vec<String>,
}

/// A kernel option and its wanted value: `BLK_DEV_RAM=m`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelOption {
    /// Its name, with `CONFIG_`.
    pub name: String,
    /// The wanted value. `m` also accepts `y`. Without a value either is accepted, and quiz sets
    /// `y` when it builds the kernel.
    pub value: Option<String>,
}

impl KernelOption {
    fn read(text: &str) -> Result<KernelOption, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let plain = name.strip_prefix("CONFIG_").unwrap_or(name);
        let good = !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !good || value.is_some_and(|v| v.is_empty() || v.contains(['\n', '\r', '\0'])) {
            return Err(format!("`{text}` is no kernel option: write NAME, NAME=m, NAME=y or NAME=value"));
        }
        Ok(KernelOption { name: format!("CONFIG_{plain}"), value: value.map(str::to_owned) })
    }

    /// Whether a kernel whose configuration has the value `found` meets this.
    pub fn met(&self, found: Option<&str>) -> bool {
        match self.value.as_deref() {
            None | Some("m") => matches!(found, Some("y" | "m")),
            Some("n") => found.is_none(),
            Some(value) => found == Some(value),
        }
    }

    /// The option as a line of a kernel's configuration.
    pub fn line(&self) -> String {
        match self.value.as_deref() {
            Some("n") => format!("# {} is not set\n", self.name),
            value => format!("{}={}\n", self.name, value.unwrap_or("y")),
        }
    }
}

impl std::fmt::Display for KernelOption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.value {
            None => f.write_str(&self.name),
            Some(value) => write!(f, "{}={value}", self.name),
        }
    }
}
