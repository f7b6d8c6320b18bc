//! Kernel configuration as text: reads fragments, applies edits, and finds what an outcome lacks.
//! Not for the meaning of options (`kconfig`), nor for running the kernel's own tools (`config`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};

/// Why a fragment or an edit is invalid.
#[derive(Debug, thiserror::Error)]
pub enum FragmentError {
    /// The file cannot be read.
    #[error("cannot read the configuration fragment: {0}")]
    Read(std::io::Error),
    /// A line is neither a setting nor a comment.
    #[error(
        "{fragment}, line {number}: `{line}` is no kernel configuration: write CONFIG_NAME=VALUE or \
         # CONFIG_NAME is not set"
    )]
    Line {
        /// The fragment's name.
        fragment: String,
        /// Counted from 1.
        number: usize,
        /// The line.
        line: String,
    },
    /// The text is not the name of an option.
    #[error("`{0}` is not the name of a kernel option: it has letters, digits and underscores, like EXT4_FS")]
    Key(String),
    /// No option can have this value.
    #[error("`{value}` cannot be the value of the kernel option {key}")]
    Value {
        /// The option.
        key: String,
        /// The value.
        value: String,
    },
}

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// `n`, or not set.
    No,
    /// `m`
    Module,
    /// `y`
    Yes,
    /// A number, or a string with its quotes: the text after the `=`.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Value::No => "n",
            Value::Module => "m",
            Value::Yes => "y",
            Value::Text(text) => text,
        })
    }
}

impl Value {
    fn read(text: &str) -> Value {
        match text {
            "n" => Value::No,
            "m" => Value::Module,
            "y" => Value::Yes,
            _ => Value::Text(text.to_owned()),
        }
    }
}

/// One change to a configuration, as typed by a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edit {
    /// Build it in.
    Enable(String),
    /// Leave it out.
    Disable(String),
    /// Build it as a module.
    Module(String),
    /// Give it a value: `y`, `m`, `n`, a number, or a string. Missing quotes are added.
    Set(String, String),
}

impl Edit {
    /// Reads `NAME=VALUE`.
    pub fn set(text: &str) -> Result<Edit, FragmentError> {
        let (key, value) = text.split_once('=').ok_or_else(|| FragmentError::Key(text.to_owned()))?;
        let edit = Edit::Set(key.to_owned(), value.to_owned());
        edit.setting()?;
        Ok(edit)
    }

    /// The option, without `CONFIG_`, and its value.
    pub fn setting(&self) -> Result<(String, Value), FragmentError> {
        let (key, value) = match self {
            Edit::Enable(key) => (key, Value::Yes),
            Edit::Disable(key) => (key, Value::No),
            Edit::Module(key) => (key, Value::Module),
            Edit::Set(key, text) => {
                let number = text.strip_prefix("0x").map_or_else(
                    || text.strip_prefix('-').unwrap_or(text).parse::<u64>().is_ok(),
                    |hex| u64::from_str_radix(hex, 16).is_ok(),
                );
                let quoted = text.len() >= 2 && text.starts_with('"') && text.ends_with('"');
                let value = match Value::read(text) {
                    Value::Text(_) if text.contains(['\n', '\r', '\0']) => {
                        return Err(FragmentError::Value { key: key.clone(), value: text.clone() });
                    }
                    Value::Text(text) if number || quoted => Value::Text(text),
                    Value::Text(text) => {
                        Value::Text(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
                    }
                    value => value,
                };
                (key, value)
            }
        };
        Ok((plain(key)?, value))
    }
}

/// The name of an option without `CONFIG_`.
fn plain(key: &str) -> Result<String, FragmentError> {
    let name = key.strip_prefix("CONFIG_").unwrap_or(key);
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        Ok(name.to_owned())
    } else {
        Err(FragmentError::Key(key.to_owned()))
    }
}

/// A piece of configuration with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fragment {
    /// Its path, or the name of a built-in fragment.
    pub name: String,
    /// Its text, in the form of a `.config`.
    pub text: String,
}

impl Fragment {
    /// Reads a fragment from a file.
    pub fn file(path: &Path) -> Result<Fragment, FragmentError> {
        let text = fs::read_to_string(path).map_err(FragmentError::Read)?;
        let fragment = Fragment { name: path.display().to_string(), text };
        fragment.settings()?;
        Ok(fragment)
    }

    /// The settings in order.
    pub fn settings(&self) -> Result<Vec<(String, Value)>, FragmentError> {
        let mut settings = Vec::new();
        for (index, line) in self.text.lines().enumerate() {
            let line = line.trim();
            let wrong =
                || FragmentError::Line { fragment: self.name.clone(), number: index + 1, line: line.to_owned() };
            if let Some(key) = unset(line) {
                settings.push((plain(key).map_err(|_| wrong())?, Value::No));
            } else if !line.is_empty() && !line.starts_with('#') {
                let (key, value) = line.split_once('=').ok_or_else(wrong)?;
                if !key.starts_with("CONFIG_") || value.is_empty() {
                    return Err(wrong());
                }
                settings.push((plain(key).map_err(|_| wrong())?, Value::read(value)));
            }
        }
        Ok(settings)
    }
}

/// The option in `# CONFIG_X is not set`: `CONFIG_X`.
fn unset(line: &str) -> Option<&str> {
    let key = line.strip_prefix('#')?.trim_start().strip_suffix(" is not set")?;
    key.starts_with("CONFIG_").then_some(key)
}

/// Requested settings: for each option its last requested value, and the name of the fragment that
/// requested it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    settings: BTreeMap<String, (Value, String)>,
}

impl Asked {
    /// Adds a fragment; its settings override earlier ones.
    pub fn fragment(&mut self, fragment: &Fragment) -> Result<(), FragmentError> {
        for (key, value) in fragment.settings()? {
            self.settings.insert(key, (value, fragment.name.clone()));
        }
        Ok(())
    }

    /// Adds an edit; it overrides earlier settings.
    pub fn edit(&mut self, edit: &Edit) -> Result<(), FragmentError> {
        let (key, value) = edit.setting()?;
        self.settings.insert(key, (value, "the command line".to_owned()));
        Ok(())
    }

    /// Adds one value; it overrides an earlier one.
    pub fn set(&mut self, key: &str, value: Value, by: &str) {
        self.settings.insert(key.to_owned(), (value, by.to_owned()));
    }

    /// Whether no setting is requested.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
    }

    /// Drops the settings that `later` overrides.
    pub fn without(mut self, later: &Asked) -> Asked {
        self.settings.retain(|key, _| !later.settings.contains_key(key));
        self
    }

    /// The settings in the form of a `.config`.
    pub fn text(&self) -> String {
        self.settings
            .iter()
            .map(|(key, (value, _))| match value {
                Value::No => format!("# CONFIG_{key} is not set\n"),
                value => format!("CONFIG_{key}={value}\n"),
            })
            .collect()
    }

    /// The text of a `.config` with these settings applied.
    pub fn over(&self, config: &str) -> String {
        let kept = config.lines().filter(|line| {
            let key = unset(line).or_else(|| line.split_once('=').map(|(key, _)| key));
            !key.and_then(|k| k.strip_prefix("CONFIG_")).is_some_and(|k| self.settings.contains_key(k))
        });
        kept.map(|line| format!("{line}\n")).collect::<String>() + &self.text()
    }

    /// The requested settings that `outcome` lacks, by name. An option requested as a module may be
    /// built in because another option needs that; it does not count as lacking.
    pub fn lost(&self, outcome: &Outcome) -> Vec<Lost> {
        self.settings
            .iter()
            .map(|(key, (asked, by))| Lost {
                key: key.clone(),
                asked: asked.clone(),
                got: outcome.value(key),
                by: by.clone(),
            })
            .filter(|lost| lost.asked != lost.got && (&lost.asked, &lost.got) != (&Value::Module, &Value::Yes))
            .collect()
    }
}

/// An option that differs from the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Its name, without `CONFIG_`.
    pub key: String,
    /// The requested value.
    pub asked: Value,
    /// The actual value.
    pub got: Value,
    /// The fragment that requested it.
    pub by: String,
}

/// A finished configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    values: HashMap<String, Value>,
}

impl Outcome {
    /// Reads a `.config`.
    pub fn read(config: &str) -> Outcome {
        let values = config.lines().filter_map(|line| {
            let (key, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            Some((key.to_owned(), Value::read(value)))
        });
        Outcome { values: values.collect() }
    }

    /// The value of an option.
    pub fn value(&self, key: &str) -> Value {
        self.values.get(key).cloned().unwrap_or(Value::No)
    }

    /// Whether it is built in or a module.
    pub fn has(&self, key: &str) -> bool {
        matches!(self.value(key), Value::Yes | Value::Module)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fragment(text: &str) -> Fragment {
        Fragment { name: "test.config".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn the_last_word_counts_and_what_got_lost_is_named() {
        let mut asked = Asked::default();
        asked.fragment(&fragment("# why\nCONFIG_A=y\nCONFIG_B=m\nCONFIG_N=4\n# CONFIG_C is not set\n\n")).unwrap();
        asked.fragment(&fragment("CONFIG_D=\"a b\"\nCONFIG_A=n\nCONFIG_M=m\n")).unwrap();
        asked.edit(&Edit::Enable("CONFIG_B".to_owned())).unwrap();
        asked.edit(&Edit::set("N=8").unwrap()).unwrap();
        assert_eq!(
            asked.text(),
            "# CONFIG_A is not set\nCONFIG_B=y\n# CONFIG_C is not set\nCONFIG_D=\"a b\"\nCONFIG_M=m\nCONFIG_N=8\n"
        );
        let outcome = Outcome::read("# CONFIG_A is not set\nCONFIG_B=m\nCONFIG_C=y\nCONFIG_M=y\nCONFIG_N=8\n");
        let lost: Vec<_> =
            asked.lost(&outcome).into_iter().map(|l| format!("{} {} {} {}", l.key, l.asked, l.got, l.by)).collect();
        assert_eq!(lost, ["B y m the command line", "C n y test.config", "D \"a b\" n test.config"]);
    }

    #[test]
    fn a_setting_replaces_the_line_that_was_there() {
        let mut asked = Asked::default();
        asked.edit(&Edit::Disable("B".to_owned())).unwrap();
        asked.edit(&Edit::Module("C".to_owned())).unwrap();
        let config = "# a comment\nCONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\nCONFIG_BC=y\n";
        assert_eq!(asked.over(config), "# a comment\nCONFIG_A=y\nCONFIG_BC=y\n# CONFIG_B is not set\nCONFIG_C=m\n");
    }

    #[test]
    fn values_are_quoted_as_kconfig_wants_them() {
        for (text, value) in [
            ("A=y", "y"),
            ("A=0x1000", "0x1000"),
            ("A=-5", "-5"),
            ("A=-quiz", "\"-quiz\""),
            ("A=", "\"\""),
            ("A=\"x\"", "\"x\""),
            ("A=x\"y", "\"x\\\"y\""),
            ("CONFIG_A=b=c", "\"b=c\""),
        ] {
            assert_eq!(Edit::set(text).unwrap().setting().unwrap().1.to_string(), value, "{text}");
        }
        for text in ["A", "=y", "A B=y", "A=x\ny", "CONFIG_=y"] {
            assert!(Edit::set(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nonsense_in_a_fragment_is_refused_by_name_and_line() {
        for line in ["EXT4_FS=y", "CONFIG_EXT4_FS", "CONFIG_A-B=y", "CONFIG_A=", "# CONFIG_A B is not set"] {
            let error = fragment(&format!("CONFIG_OK=y\n{line}\n")).settings().unwrap_err().to_string();
            assert!(error.starts_with("test.config, line 2: ") && error.contains(line), "{error}");
        }
        assert!(Fragment::file(Path::new("/nonexistent/x.config")).unwrap_err().to_string().contains("/nonexistent/x"));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_without_loss(
            settings in proptest::collection::vec(("[A-Z][A-Z0-9_]{0,9}", "[ymn]|[0-9]{1,4}|[a-z -]{0,6}"), 0..20)
        ) {
            let mut asked = Asked::default();
            for (key, value) in &settings {
                asked.edit(&Edit::Set(key.clone(), value.clone())).unwrap();
            }
            let text = asked.text();
            prop_assert_eq!(asked.lost(&Outcome::read(&text)), vec![]);
            prop_assert_eq!(asked.over(&asked.over(&text)), text.clone());
            let mut again = Asked::default();
            again.fragment(&fragment(&text)).unwrap();
            prop_assert_eq!(again.text(), text);
        }
    }
}
