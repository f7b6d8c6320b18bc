//! Reads one value from TOML or plain text, and shows it again. Not for the list of keys (see
//! `settings`), nor for the items of lists (see `item`).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use crate::choices::{AccelChoice, DumpForm, DumpWhen, Escape, KernelMessages, RootBuilder, WorktreeMode};
use crate::size::{Size, SizeError};
use crate::time::{Limit, TimeError};

/// The place where a value was written, as far as its meaning depends on that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The absolute directory that relative paths start from: the file's directory, or the one in
    /// which quiz was called.
    pub dir: PathBuf,
    /// The directory that `~` stands for.
    pub home: Option<PathBuf>,
}

impl Place {
    /// `path` as an absolute one: `~` is the home directory, and a relative path starts from the
    /// place.
    pub(crate) fn anchor(&self, path: &Path) -> Result<PathBuf, ValueError> {
        if path.as_os_str().is_empty() {
            return Err(ValueError::Empty);
        }
        match path.strip_prefix("~") {
            Ok(below) => {
                let home = self.home.as_ref().ok_or_else(|| ValueError::NoHome(path.to_owned()))?;
                Ok(tidy(&home.join(below)))
            }
            Err(_) => Ok(tidy(&self.dir.join(path))),
        }
    }
}

/// `path` without `.` components and final slashes. `..` stays: after a symbolic link only the file
/// system knows what it means.
pub(crate) fn tidy(path: &Path) -> PathBuf {
    path.components().filter(|c| *c != std::path::Component::CurDir).collect()
}

/// Why a value is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// It has the wrong type.
    #[error("found {found} where {wanted} is expected")]
    Type {
        /// What it is.
        found: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// It is not a size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// It is not a length of time.
    #[error(transparent)]
    Time(#[from] TimeError),
    /// It is not one of the allowed words.
    #[error("`{found}` is not one of {choices}")]
    Choice {
        /// What it is.
        found: String,
        /// What it could be.
        choices: String,
    },
    /// It is not a number, or outside of the range.
    #[error("`{found}` is not {wanted}")]
    Number {
        /// What it is.
        found: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// It is empty.
    #[error("the value is empty")]
    Empty,
    /// It is not UTF-8, or has a NUL byte, where a name or a number is expected.
    #[error("`{0}` is not plain text")]
    NotText(String),
    /// It has characters that a name must not have.
    #[error("`{0}` is not a name; names have letters, digits and any of . _ + ~ -, and begin with a letter or digit")]
    Name(String),
    /// The program that receives it would read it as an option.
    #[error("`{0}` begins with `-`, which the program that it is for would take for an option")]
    Dash(String),
    /// It is below `~`, and there is no home directory.
    #[error("`{}` is below the home directory, and HOME is not set", .0.display())]
    NoHome(PathBuf),
    /// There is no architecture of this name.
    #[error("`{found}` is not an architecture that quiz knows; it knows {known}")]
    Arch {
        /// What was written.
        found: String,
        /// All names.
        known: String,
    },
    /// It is not a share.
    #[error("`{text}` is not a share: {reason}; write HOST, HOST:GUEST or either with :rw at the end")]
    Share {
        /// What was written.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It is not a disk.
    #[error("`{text}` is not a disk: {reason}; write a size like 1G, or a file with a `/` in its path (./{text})")]
    Disk {
        /// What was written.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It is not a profile.
    #[error("`{0}` is not a profile; write NAME or NAME:OPTION=VALUE, with a comma between several")]
    Profile(String),
    /// The variable has no name.
    #[error("`{0}` is not a variable; write NAME to pass on the caller's, or NAME=VALUE")]
    Variable(String),
}

/// The type of a key's value.
pub trait Value: Sized {
    /// The expected type, for messages: "a size", "true or false".
    const WANTED: &'static str;
    /// Whether this is a list, to which an option adds.
    const LIST: bool = false;

    /// Reads a value from a TOML file.
    fn from_toml(value: &DeValue<'_>, place: &Place) -> Result<Self, ValueError>;

    /// Reads a value from the text of a variable.
    fn from_text(text: &OsStr, place: &Place) -> Result<Self, ValueError>;

    /// Reads a value from the text of an option, given the value of the layers below. A list grows;
    /// any other value is replaced.
    fn from_option(_before: Option<Self>, text: &OsStr, place: &Place) -> Result<Self, ValueError> {
        Self::from_text(text, place)
    }

    /// The value as the user would write it in a file.
    fn show(&self) -> toml::Value;
}

/// The type of `value`, for messages.
pub(crate) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text \"{text}\""),
        DeValue::Integer(number) => format!("the number {}", number.as_str()),
        DeValue::Float(number) => format!("the number {}", number.as_str()),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(date) => format!("the date {date}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// The text in `value`, or an error if it has another type.
pub(crate) fn text_of<'a>(value: &'a DeValue<'_>, wanted: &'static str) -> Result<&'a str, ValueError> {
    value.as_str().ok_or_else(|| ValueError::Type { found: describe(value), wanted })
}

/// `text` as UTF-8 without NUL bytes, which no command line can contain.
pub(crate) fn plain(text: &OsStr) -> Result<&str, ValueError> {
    match text.to_str() {
        Some(plain) if !plain.contains('\0') => Ok(plain),
        _ => Err(ValueError::NotText(text.to_string_lossy().into_owned())),
    }
}

/// A value that is one word of text in TOML too.
macro_rules! text_value {
    ($type:ty, $wanted:literal, |$text:ident, $place:ident| $read:expr, |$self:ident| $show:expr) => {
        impl Value for $type {
            const WANTED: &'static str = $wanted;

            fn from_toml(value: &DeValue<'_>, place: &Place) -> Result<Self, ValueError> {
                Self::from_text(OsStr::new(text_of(value, $wanted)?), place)
            }

            fn from_text($text: &OsStr, $place: &Place) -> Result<Self, ValueError> {
                $read
            }

            fn show(&self) -> toml::Value {
                let $self = self;
                toml::Value::String($show)
            }
        }
    };
}

text_value!(Size, "a size", |text, _place| Ok(plain(text)?.parse()?), |size| size.to_string());
text_value!(Limit, "a length of time", |text, _place| Ok(plain(text)?.parse()?), |limit| limit.to_string());
text_value!(PathBuf, "a path", |text, place| place.anchor(Path::new(text)), |path| path.display().to_string());
text_value!(
    String,
    "text",
    |text, _place| Some(plain(text)?.to_owned()).filter(|t| !t.is_empty()).ok_or(ValueError::Empty),
    |text| text.clone()
);

/// A name that is safe as a part of a path and as an argument.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(pub String);

impl Name {
    pub(crate) fn read(text: &OsStr) -> Result<Name, ValueError> {
        let text = plain(text)?;
        let good = |c: char| c.is_ascii_alphanumeric() || "._+~-".contains(c);
        if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(good) {
            Ok(Name(text.to_owned()))
        } else {
            Err(ValueError::Name(text.to_owned()))
        }
    }
}

text_value!(Name, "a name", |text, _place| Name::read(text), |name| name.0.clone());

/// A command for the host's shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShellCommand(pub String);

text_value!(ShellCommand, "a shell command", |text, _place| Ok(ShellCommand(plain(text)?.to_owned())), |command| {
    command.0.clone()
});

/// The name of an architecture that quiz knows, in quiz's own spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchName(pub &'static str);

text_value!(
    ArchName,
    "an architecture",
    |text, _place| {
        let name = plain(text)?;
        quiz_arch::find(name).map(|arch| ArchName(arch.name)).ok_or_else(|| ValueError::Arch {
            found: name.to_owned(),
            known: quiz_arch::ALL.iter().map(|arch| arch.name).collect::<Vec<_>>().join(", "),
        })
    },
    |arch| arch.0.to_owned()
);

/// A program: a bare name to look up in `PATH`, or an absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(pub PathBuf);

text_value!(
    Program,
    "a program",
    |text, place| {
        let path = Path::new(text);
        if path.components().count() == 1 && !text.as_encoded_bytes().contains(&b'/') && path != Path::new("~") {
            Ok(Program(path.to_owned()))
        } else {
            Ok(Program(place.anchor(path)?))
        }
    },
    |program| program.0.display().to_string()
);

/// A number, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub u32);

impl Count {
    fn read(text: &str) -> Result<Count, ValueError> {
        let number = text.trim().replace('_', "").parse().ok().filter(|n| *n >= 1).map(Count);
        number.ok_or_else(|| ValueError::Number { found: text.to_owned(), wanted: Count::WANTED })
    }
}

impl Value for Count {
    const WANTED: &'static str = "a whole number of 1 or more";

    fn from_toml(value: &DeValue<'_>, _place: &Place) -> Result<Self, ValueError> {
        match value {
            DeValue::Integer(number) if number.radix() == 10 => Count::read(number.as_str()),
            other => Err(ValueError::Type { found: describe(other), wanted: Count::WANTED }),
        }
    }

    fn from_text(text: &OsStr, _place: &Place) -> Result<Self, ValueError> {
        Count::read(plain(text)?)
    }

    fn show(&self) -> toml::Value {
        toml::Value::Integer(self.0.into())
    }
}

/// How many of something to keep; `None` keeps all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep(pub Option<u32>);

impl Value for Keep {
    const WANTED: &'static str = "a whole number of 1 or more, or \"all\"";

    fn from_toml(value: &DeValue<'_>, place: &Place) -> Result<Self, ValueError> {
        match value {
            DeValue::String(text) => Keep::from_text(OsStr::new(text.as_ref()), place),
            other => match Count::from_toml(other, place) {
                Ok(count) => Ok(Keep(Some(count.0))),
                Err(_) => Err(ValueError::Type { found: describe(other), wanted: Keep::WANTED }),
            },
        }
    }

    fn from_text(text: &OsStr, _place: &Place) -> Result<Self, ValueError> {
        match plain(text)? {
            "all" => Ok(Keep(None)),
            text => match Count::read(text) {
                Ok(count) => Ok(Keep(Some(count.0))),
                Err(_) => Err(ValueError::Number { found: text.to_owned(), wanted: Keep::WANTED }),
            },
        }
    }

    fn show(&self) -> toml::Value {
        match self.0 {
            Some(count) => toml::Value::Integer(count.into()),
            None => toml::Value::String("all".to_owned()),
        }
    }
}

impl Value for bool {
    const WANTED: &'static str = "true or false";

    fn from_toml(value: &DeValue<'_>, _place: &Place) -> Result<Self, ValueError> {
        value.as_bool().ok_or_else(|| ValueError::Type { found: describe(value), wanted: Self::WANTED })
    }

    fn from_text(text: &OsStr, _place: &Place) -> Result<Self, ValueError> {
        match plain(text)?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            other => Err(ValueError::Choice { found: other.to_owned(), choices: "true, false".to_owned() }),
        }
    }

    fn show(&self) -> toml::Value {
        toml::Value::Boolean(*self)
    }
}

/// A value that is one of a few words.
macro_rules! choice_value {
    ($type:ty, $wanted:literal, $($word:literal => $value:path),+) => {
        text_value!(
            $type,
            $wanted,
            |text, _place| match plain(text)? {
                $($word => Ok($value),)+
                other => Err(ValueError::Choice { found: other.to_owned(), choices: [$($word),+].join(", ") }),
            },
            |choice| match choice { $($value => $word,)+ }.to_owned()
        );
    };
}

choice_value!(AccelChoice, "auto, kvm or tcg",
    "auto" => AccelChoice::Auto, "kvm" => AccelChoice::Kvm, "tcg" => AccelChoice::Tcg);
choice_value!(RootBuilder, "auto, mmdebstrap or vm",
    "auto" => RootBuilder::Auto, "mmdebstrap" => RootBuilder::Mmdebstrap, "vm" => RootBuilder::Vm);
choice_value!(WorktreeMode, "ro, rw or off",
    "ro" => WorktreeMode::ReadOnly, "rw" => WorktreeMode::ReadWrite, "off" => WorktreeMode::Off);

choice_value!(DumpWhen, "off, on-panic or on-failure",
    "off" => DumpWhen::Off, "on-panic" => DumpWhen::OnPanic, "on-failure" => DumpWhen::OnFailure);
choice_value!(DumpForm, "kdump or elf", "kdump" => DumpForm::Kdump, "elf" => DumpForm::Elf);
choice_value!(KernelMessages, "off or a level: emerg, alert, crit, err, warning, notice, info, debug",
    "off" => KernelMessages::Off, "emerg" => KernelMessages::Emerg, "alert" => KernelMessages::Alert,
    "crit" => KernelMessages::Crit, "err" => KernelMessages::Err, "warning" => KernelMessages::Warning,
    "notice" => KernelMessages::Notice, "info" => KernelMessages::Info, "debug" => KernelMessages::Debug);
text_value!(
    Escape,
    "a key such as ctrl-], or off",
    |text, _place| {
        let text = plain(text)?;
        Escape::named(text).ok_or_else(|| ValueError::Choice {
            found: text.to_owned(),
            choices: "off, ctrl-], ctrl-a and so on (not ctrl-m, ctrl-i, ctrl-j, ctrl-[)".to_owned(),
        })
    },
    |escape| escape.name()
);

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { dir: "/src".into(), home: Some("/home/me".into()) }
    }

    fn read<V: Value>(text: &str) -> Result<V, ValueError> {
        V::from_text(OsStr::new(text), &place())
    }

    #[test]
    fn paths_are_anchored_where_they_were_written() {
        for (text, path) in [("a", "/src/a"), ("/a/", "/a"), ("~/k", "/home/me/k"), ("./a/../b", "/src/a/../b")] {
            assert_eq!(read::<PathBuf>(text), Ok(PathBuf::from(path)), "{text}");
        }
        assert_eq!(read::<PathBuf>(""), Err(ValueError::Empty));
        let homeless = Place { dir: "/src".into(), home: None };
        assert_eq!(
            PathBuf::from_text(OsStr::new("~/k"), &homeless).unwrap_err().to_string(),
            "`~/k` is below the home directory, and HOME is not set"
        );
    }

    #[test]
    fn a_program_is_a_bare_name_or_a_path() {
        assert_eq!(read("qemu-system-x86_64"), Ok(Program("qemu-system-x86_64".into())));
        assert_eq!(read("./qemu"), Ok(Program("/src/qemu".into())));
        assert_eq!(read("~/bin/qemu"), Ok(Program("/home/me/bin/qemu".into())));
    }

    #[test]
    fn names_cannot_leave_their_directory_or_become_options() {
        for bad in ["", "..", "../x", "a/b", "-rf", ".hidden", "a b", "a\0"] {
            assert!(read::<Name>(bad).is_err(), "{bad}");
        }
        assert_eq!(read("6.1.0-56-amd64"), Ok(Name("6.1.0-56-amd64".to_owned())));
    }

    #[test]
    fn architectures_go_by_any_of_their_names() {
        assert_eq!(read("arm64"), Ok(ArchName("aarch64")));
        assert!(read::<ArchName>("vax").unwrap_err().to_string().contains("it knows x86_64, aarch64"));
    }

    #[test]
    fn counts_begin_at_one() {
        assert_eq!(read("4"), Ok(Count(4)));
        for bad in ["0", "-1", "many", "", "99999999999"] {
            assert!(read::<Count>(bad).is_err(), "{bad}");
        }
        assert_eq!(read("all"), Ok(Keep(None)));
        assert_eq!(read("20"), Ok(Keep(Some(20))));
        assert!(read::<Keep>("0").is_err());
    }

    #[test]
    fn choices_are_read_back_as_shown() {
        for mode in [WorktreeMode::ReadOnly, WorktreeMode::ReadWrite, WorktreeMode::Off] {
            assert_eq!(read(mode.show().as_str().expect("choices are text")), Ok(mode));
        }
        for (text, key) in [("ctrl-]", Some(0x1d)), ("Ctrl-A", Some(1)), ("ctrl-\\", Some(0x1c)), ("off", None)] {
            assert_eq!(read::<Escape>(text).unwrap().0, key, "{text}");
        }
        for text in ["ctrl-m", "ctrl-", "]", "ctrl-é", "alt-x", "ctrl-1"] {
            assert!(read::<Escape>(text).is_err(), "{text}");
        }
        assert_eq!(Escape::DEFAULT.name(), "ctrl-]");
        assert_eq!(read::<KernelMessages>("err").unwrap().level(), Some(3));
        assert_eq!(read::<KernelMessages>("off").unwrap().level(), None);
        assert_eq!(read::<AccelChoice>("hvf").unwrap_err().to_string(), "`hvf` is not one of auto, kvm, tcg");
    }
}
