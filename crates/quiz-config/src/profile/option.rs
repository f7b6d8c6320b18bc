//! The options of profiles: their types, and their values as the profiles' programs receive them.
//! Not for the options of a single profile.

use std::path::{Component, Path};

use serde::Deserialize;

use crate::size::Size;
use crate::value::Place;

/// An option, as `profile.toml` declares it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionSpec {
    /// The type of its value.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Its purpose, in one line.
    pub about: String,
    /// The value if no layer sets one.
    #[serde(default, deserialize_with = "written")]
    pub default: Option<Written>,
    /// The smallest value, for integers and sizes.
    pub min: Option<i64>,
    /// The largest value, for integers and sizes.
    pub max: Option<i64>,
    /// The values to choose from.
    #[serde(default)]
    pub values: Vec<String>,
}

/// The type of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A whole number.
    Integer,
    /// A number of bytes, written like `4G`.
    Size,
    /// true or false.
    Bool,
    /// Any text.
    String,
    /// A path; a relative one starts from the place where it is written.
    Path,
    /// A list of texts.
    List,
    /// One of a few words.
    Choice,
}

/// A value as written in any layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// A text, a number or a truth value.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl Written {
    /// Converts a value of a TOML file. Returns `None` if no option can have it.
    pub fn from_toml(value: &toml::Value) -> Option<Written> {
        let one = |value: &toml::Value| match value {
            toml::Value::String(text) => Some(text.clone()),
            toml::Value::Integer(number) => Some(number.to_string()),
            toml::Value::Boolean(value) => Some(value.to_string()),
            _ => None,
        };
        match value {
            toml::Value::Array(items) => items.iter().map(one).collect::<Option<_>>().map(Written::Many),
            value => one(value).map(Written::One),
        }
    }
}

impl std::fmt::Display for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Written::One(text) => write!(f, "`{text}`"),
            Written::Many(texts) => write!(f, "[{}]", texts.join(", ")),
        }
    }
}

fn written<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Written>, D::Error> {
    let value = toml::Value::deserialize(from)?;
    let written = Written::from_toml(&value);
    written.map(Some).ok_or_else(|| serde::de::Error::custom("a default is a text, a number, true, false or a list"))
}

impl OptionSpec {
    /// Whether the declaration itself makes sense.
    pub(super) fn check(&self) -> Result<(), String> {
        if (self.kind == Kind::Choice) == self.values.is_empty() {
            return Err("`values` is for the type choice, which needs some".to_owned());
        }
        if (self.min.is_some() || self.max.is_some()) && !matches!(self.kind, Kind::Integer | Kind::Size) {
            return Err("`min` and `max` are for the types integer and size".to_owned());
        }
        let place = Place { dir: "/".into(), home: None };
        match &self.default {
            None if matches!(self.kind, Kind::String | Kind::Path | Kind::List) => Ok(()),
            None => Err("it needs a `default`".to_owned()),
            Some(default) => match self.value(default, &place) {
                Some(_) => Ok(()),
                None => Err(format!("its default {default} is not {}", self.wanted())),
            },
        }
    }

    /// The value if no layer sets one, as the profile's programs receive it.
    pub fn default_value(&self) -> String {
        let place = Place { dir: "/".into(), home: None };
        self.default.as_ref().and_then(|default| self.value(default, &place)).unwrap_or_default()
    }

    /// The expected values, for messages.
    pub fn wanted(&self) -> String {
        let range = match (self.min, self.max) {
            (Some(min), Some(max)) => format!(" from {min} to {max}"),
            (Some(min), None) => format!(" of at least {min}"),
            (None, Some(max)) => format!(" of at most {max}"),
            (None, None) => String::new(),
        };
        match self.kind {
            Kind::Integer => format!("a whole number{range}"),
            Kind::Size => format!("a size like 4G{}", if range.is_empty() { range } else { format!("{range} bytes") }),
            Kind::Bool => "true or false".to_owned(),
            Kind::String => "one line of text".to_owned(),
            Kind::Path => "a path".to_owned(),
            Kind::List => "a list of texts of one line each".to_owned(),
            Kind::Choice => format!("one of {}", self.values.join(", ")),
        }
    }

    /// `written` as the profile's programs receive it: sizes in bytes, truth values as true or
    /// false, lists with one item on each line. `None` if it does not have this option's type.
    pub fn value(&self, written: &Written, place: &Place) -> Option<String> {
        let text = match (self.kind, written) {
            (Kind::List, Written::Many(items)) => {
                return items.iter().all(|item| is_line(item) && !item.is_empty()).then(|| items.join("\n"));
            }
            (_, Written::Many(_)) => return None,
            (_, Written::One(text)) => text,
        };
        let within = |n: &i64| self.min.is_none_or(|min| *n >= min) && self.max.is_none_or(|max| *n <= max);
        match self.kind {
            Kind::Integer => text.trim().replace('_', "").parse().ok().filter(within).map(|n: i64| n.to_string()),
            Kind::Size => {
                let size: Size = text.trim().parse().ok()?;
                i64::try_from(size.bytes()).ok().filter(within).map(|n| n.to_string())
            }
            Kind::Bool => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Some("true".to_owned()),
                "false" | "no" | "off" | "0" => Some("false".to_owned()),
                _ => None,
            },
            Kind::String => is_line(text).then(|| text.clone()),
            Kind::Path if text.is_empty() => Some(String::new()),
            Kind::Path => {
                let path = place.anchor(Path::new(text)).ok()?;
                let plain = path.components().all(|c| c != Component::ParentDir);
                path.to_str().filter(|path| is_line(path) && plain).map(str::to_owned)
            }
            Kind::List => {
                let items = text.split([',', '\n']).map(str::trim).filter(|item| !item.is_empty());
                let items: Vec<&str> = items.collect();
                items.iter().all(|item| is_line(item)).then(|| items.join("\n"))
            }
            Kind::Choice => self.values.iter().find(|value| *value == text.trim()).cloned(),
        }
    }
}

fn is_line(text: &str) -> bool {
    !text.contains(['\n', '\r', '\0'])
}
