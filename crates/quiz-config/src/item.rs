//! Lists, and the items that lists are made of. Not for single values (see `value`).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use toml::de::DeValue;

use crate::choices::{DiskSpec, ImageFormat, ShareSpec};
use crate::size::Size;
use crate::value::{Name, Place, Value, ValueError, describe, plain, text_of};

/// How the text of a variable separates several items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// Commas separate the items.
    Comma,
    /// White space separates the items.
    Space,
    /// The variable holds one item.
    Nothing,
}

/// The type of a list's items.
pub trait Item: Sized + Clone {
    /// The name of a list of these, for messages.
    const WANTED: &'static str;
    /// The separator in a variable.
    const VARIABLE: Separator;
    /// The separator in one option.
    const OPTION: Separator = Separator::Nothing;

    /// Reads one item.
    fn read(text: &OsStr, place: &Place) -> Result<Self, ValueError>;

    /// The item as the user would write it.
    fn show(&self) -> String;
}

fn read_all<T: Item>(text: &OsStr, separator: Separator, place: &Place) -> Result<Vec<T>, ValueError> {
    let splits = |b: &u8| match separator {
        Separator::Comma => *b == b',',
        Separator::Space => b.is_ascii_whitespace(),
        Separator::Nothing => false,
    };
    let words = text.as_bytes().split(splits).map(|word| match separator {
        Separator::Nothing => word,
        _ => word.trim_ascii(),
    });
    words.filter(|word| !word.is_empty()).map(|word| T::read(OsStr::from_bytes(word), place)).collect()
}

impl<T: Item> Value for Vec<T> {
    const WANTED: &'static str = T::WANTED;
    const LIST: bool = true;

    fn from_toml(value: &DeValue<'_>, place: &Place) -> Result<Self, ValueError> {
        let items = value.as_array().ok_or(ValueError::Type { found: describe(value), wanted: T::WANTED })?;
        items.iter().map(|item| T::read(OsStr::new(text_of(item.get_ref(), T::WANTED)?), place)).collect()
    }

    fn from_text(text: &OsStr, place: &Place) -> Result<Self, ValueError> {
        read_all(text, T::VARIABLE, place)
    }

    /// Adds to the list. An empty text empties the list instead, so that one run can do without the
    /// items from a file.
    fn from_option(before: Option<Self>, text: &OsStr, place: &Place) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let mut items = before.unwrap_or_default();
        items.extend(read_all(text, T::OPTION, place)?);
        Ok(items)
    }

    fn show(&self) -> toml::Value {
        toml::Value::Array(self.iter().map(|item| toml::Value::String(item.show())).collect())
    }
}

impl Item for Name {
    const WANTED: &'static str = "a list of names";
    const VARIABLE: Separator = Separator::Comma;
    const OPTION: Separator = Separator::Comma;

    fn read(text: &OsStr, _place: &Place) -> Result<Self, ValueError> {
        Name::read(text)
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// A profile to include, optionally with the value of one of its options: `memdev`,
/// `memdev:count=2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileUse {
    /// The profile.
    pub name: String,
    /// An option and its value.
    pub option: Option<(String, String)>,
    /// Where it was written.
    pub place: Place,
}

impl Item for ProfileUse {
    const WANTED: &'static str = "a list of names";
    const VARIABLE: Separator = Separator::Comma;
    const OPTION: Separator = Separator::Comma;

    fn read(text: &OsStr, place: &Place) -> Result<Self, ValueError> {
        let text = plain(text)?;
        let (name, option) = match text.split_once(':') {
            Some((name, option)) => (name, Some(option)),
            None => (text, None),
        };
        let Ok(Name(name)) = Name::read(OsStr::new(name)) else { return Err(ValueError::Profile(text.to_owned())) };
        let option = match option.map(|option| option.split_once('=')) {
            None => None,
            Some(Some((option, value))) if !option.is_empty() => Some((option.to_owned(), value.to_owned())),
            Some(_) => return Err(ValueError::Profile(text.to_owned())),
        };
        Ok(ProfileUse { name, option, place: place.clone() })
    }

    fn show(&self) -> String {
        match &self.option {
            None => self.name.clone(),
            Some((option, value)) => format!("{}:{option}={value}", self.name),
        }
    }
}

/// An argument for a program that also takes options, so it does not begin with a dash: a package,
/// a mirror.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Word(pub String);

impl Item for Word {
    const WANTED: &'static str = "a list of texts";
    const VARIABLE: Separator = Separator::Comma;
    const OPTION: Separator = Separator::Comma;

    fn read(text: &OsStr, _place: &Place) -> Result<Self, ValueError> {
        let text = plain(text)?.trim();
        match text {
            "" => Err(ValueError::Empty),
            _ if text.starts_with('-') => Err(ValueError::Dash(text.to_owned())),
            _ => Ok(Word(text.to_owned())),
        }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// One or more parameters of the kernel command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelWords(pub String);

impl Item for KernelWords {
    const WANTED: &'static str = "a list of kernel parameters";
    const VARIABLE: Separator = Separator::Nothing;

    fn read(text: &OsStr, _place: &Place) -> Result<Self, ValueError> {
        let text = plain(text)?.trim();
        if text.is_empty() { Err(ValueError::Empty) } else { Ok(KernelWords(text.to_owned())) }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Item for OsString {
    const WANTED: &'static str = "a list of texts";
    const VARIABLE: Separator = Separator::Space;

    fn read(text: &OsStr, _place: &Place) -> Result<Self, ValueError> {
        if text.as_bytes().contains(&0) {
            return Err(ValueError::NotText(text.to_string_lossy().into_owned()));
        }
        Ok(text.to_owned())
    }

    fn show(&self) -> String {
        self.to_string_lossy().into_owned()
    }
}

/// A fragment of kernel configuration: the name of a built-in one, or a file's absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment(pub String);

impl Item for Fragment {
    const WANTED: &'static str = "a list of names or files";
    const VARIABLE: Separator = Separator::Comma;

    /// A name contains neither `/` nor `.`.
    fn read(text: &OsStr, place: &Place) -> Result<Self, ValueError> {
        let text = plain(text)?;
        if !text.is_empty() && !text.contains(['/', '.']) {
            return Ok(Fragment(text.to_owned()));
        }
        let path = place.anchor(Path::new(text))?.into_os_string();
        let path = path.into_string().map_err(|path| ValueError::NotText(path.to_string_lossy().into_owned()))?;
        Ok(Fragment(path))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Item for ShareSpec {
    const WANTED: &'static str = "a list of shares";
    const VARIABLE: Separator = Separator::Comma;

    /// Reads `HOST[:GUEST][:rw]`.
    fn read(text: &OsStr, place: &Place) -> Result<Self, ValueError> {
        let wrong = |reason| ValueError::Share { text: text.to_string_lossy().into_owned(), reason };
        let mut parts: Vec<&[u8]> = text.as_bytes().split(|b| *b == b':').collect();
        let writable = match parts.last() {
            Some(&b"rw") if parts.len() > 1 => parts.pop().is_some(),
            Some(&b"ro") if parts.len() > 1 => parts.pop().is_none(),
            _ => false,
        };
        let (host, guest) = match parts[..] {
            [host] => (host, None),
            [host, guest] => (host, Some(guest)),
            _ => return Err(wrong("it has too many parts")),
        };
        if host.is_empty() {
            return Err(wrong("it names no directory of the host"));
        }
        let host = place.anchor(Path::new(OsStr::from_bytes(host)))?;
        let guest = match guest {
            None => flat(&host),
            Some(guest) => PathBuf::from(OsStr::from_bytes(guest)),
        };
        if !guest.is_absolute() {
            return Err(wrong("the guest's path is not an absolute one"));
        }
        if guest.components().any(|c| c == Component::ParentDir) {
            return Err(wrong("the guest's path has `..` in it"));
        }
        let guest: PathBuf = guest.components().collect();
        if guest == Path::new("/") {
            return Err(wrong("it would hide the guest's whole root"));
        }
        Ok(ShareSpec { host, guest, writable })
    }

    fn show(&self) -> String {
        let guest = if self.guest == self.host { String::new() } else { format!(":{}", self.guest.display()) };
        format!("{}{guest}{}", self.host.display(), if self.writable { ":rw" } else { "" })
    }
}

/// `path` with `..` resolved by name only, for a path in the guest.
fn flat(path: &Path) -> PathBuf {
    let mut flat = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(flat.pop()),
            other => flat.push(other),
        }
    }
    flat
}

impl Item for DiskSpec {
    const WANTED: &'static str = "a list of disks";
    const VARIABLE: Separator = Separator::Comma;

    /// Reads a size, or a file with an optional format `:raw` or `:qcow2`. Text that begins with a
    /// digit and has no `/` is a size, so that a mistyped size never becomes a file's name.
    fn read(text: &OsStr, place: &Place) -> Result<Self, ValueError> {
        let bytes = text.as_bytes();
        if bytes.contains(&b'/') || !bytes.first().is_some_and(u8::is_ascii_digit) {
            let formats = [ImageFormat::Raw, ImageFormat::Qcow2];
            let said = formats.into_iter().find_map(|format| {
                let file = bytes.strip_suffix(format!(":{}", format.name()).as_bytes())?;
                Some((OsStr::from_bytes(file), Some(format)))
            });
            let (file, format) = said.unwrap_or((text, None));
            let path = place.anchor(Path::new(file))?;
            let format = format.unwrap_or_else(|| ImageFormat::of_name(&path));
            return Ok(DiskSpec::File { path, format });
        }
        let wrong = |reason| ValueError::Disk { text: text.to_string_lossy().into_owned(), reason };
        match plain(text)?.parse::<Size>() {
            Ok(size) if size.bytes() == 0 => Err(wrong("it is empty".to_owned())),
            Ok(size) if size.bytes() % 512 != 0 => {
                Err(wrong("it is not a whole number of 512-byte sectors".to_owned()))
            }
            Ok(size) => Ok(DiskSpec::Blank { bytes: size.bytes() }),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    fn show(&self) -> String {
        match self {
            DiskSpec::Blank { bytes } => Size::from_bytes(*bytes).to_string(),
            DiskSpec::File { path, format } if *format == ImageFormat::of_name(path) => path.display().to_string(),
            DiskSpec::File { path, format } => format!("{}:{}", path.display(), format.name()),
        }
    }
}

/// A variable of the program's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvItem {
    /// The caller's value, if the caller has the variable.
    Pass(OsString),
    /// This value.
    Set(OsString, OsString),
}

impl Item for EnvItem {
    const WANTED: &'static str = "a list of variables";
    const VARIABLE: Separator = Separator::Comma;

    fn read(text: &OsStr, _place: &Place) -> Result<Self, ValueError> {
        let bytes = text.as_bytes();
        let (name, value) = match bytes.iter().position(|b| *b == b'=') {
            None => (bytes, None),
            Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        };
        if name.is_empty() || bytes.contains(&0) {
            return Err(ValueError::Variable(text.to_string_lossy().into_owned()));
        }
        let name = OsString::from_vec(name.to_vec());
        Ok(match value {
            None => EnvItem::Pass(name),
            Some(value) => EnvItem::Set(name, OsString::from_vec(value.to_vec())),
        })
    }

    fn show(&self) -> String {
        match self {
            EnvItem::Pass(name) => name.to_string_lossy().into_owned(),
            EnvItem::Set(name, value) => format!("{}={}", name.to_string_lossy(), value.to_string_lossy()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { dir: "/src".into(), home: Some("/home/me".into()) }
    }

    fn share(text: &str) -> Result<ShareSpec, ValueError> {
        ShareSpec::read(OsStr::new(text), &place())
    }

    #[test]
    fn shares_have_three_parts() {
        let spec =
            |host: &str, guest: &str, writable| Ok(ShareSpec { host: host.into(), guest: guest.into(), writable });
        assert_eq!(share("data"), spec("/src/data", "/src/data", false));
        assert_eq!(share("/a/:/b/:rw"), spec("/a", "/b", true));
        assert_eq!(share("/a:rw"), spec("/a", "/a", true));
        assert_eq!(share("/a:ro"), spec("/a", "/a", false));
        assert_eq!(share("~/x:/x"), spec("/home/me/x", "/x", false));
        assert_eq!(share("../up"), spec("/src/../up", "/up", false));
        assert_eq!(share("rw"), spec("/src/rw", "/src/rw", false));
    }

    #[test]
    fn shares_that_are_none_say_why() {
        for (text, reason) in [
            (":/b", "names no directory"),
            ("/a:b", "not an absolute one"),
            ("/a:", "not an absolute one"),
            ("/a:/b:/c", "too many parts"),
            ("/a:/b/../c", "`..` in it"),
            ("/", "whole root"),
            ("/a:/", "whole root"),
        ] {
            let message = share(text).unwrap_err().to_string();
            assert!(message.contains(reason), "{text}: {message}");
        }
    }

    #[test]
    fn a_disk_is_a_size_or_a_file() {
        let disk = |text: &str| DiskSpec::read(OsStr::new(text), &place());
        assert_eq!(disk("1G"), Ok(DiskSpec::Blank { bytes: 1 << 30 }));
        let file = |path: &str, format| Ok(DiskSpec::File { path: path.into(), format });
        assert_eq!(disk("./1G"), file("/src/1G", ImageFormat::Raw));
        assert_eq!(disk("pool.img"), file("/src/pool.img", ImageFormat::Raw));
        assert_eq!(disk("pool.qcow2"), file("/src/pool.qcow2", ImageFormat::Qcow2));
        for text in ["/pool.img:qcow2", "/pool.qcow2:raw", "/pool.qcow2", "/a:b"] {
            assert_eq!(disk(text).unwrap().show(), text);
        }
        assert_eq!(disk("./a:qcow2"), file("/src/a", ImageFormat::Qcow2));
        assert_eq!(disk("./a:qcow2:raw"), file("/src/a:qcow2", ImageFormat::Raw));
        for bad in ["10GB", "10", "0", "100B", "9.img"] {
            let message = disk(bad).unwrap_err().to_string();
            assert!(message.contains(&format!("./{bad}")), "{message}");
        }
    }

    #[test]
    fn a_fragment_is_a_name_or_a_file() {
        let fragment = |text: &str| Fragment::read(OsStr::new(text), &place());
        assert_eq!(fragment("debug"), Ok(Fragment("debug".to_owned())));
        assert_eq!(fragment("debug.config"), Ok(Fragment("/src/debug.config".to_owned())));
        assert_eq!(fragment("~/k/debug"), Ok(Fragment("/home/me/k/debug".to_owned())));
        assert!(fragment("").is_err());
    }

    #[test]
    fn variables_are_passed_on_or_set() {
        let item = |text: &[u8]| EnvItem::read(OsStr::from_bytes(text), &place());
        assert_eq!(item(b"EDITOR"), Ok(EnvItem::Pass("EDITOR".into())));
        assert_eq!(item(b"A=b=c"), Ok(EnvItem::Set("A".into(), "b=c".into())));
        assert_eq!(item(b"A="), Ok(EnvItem::Set("A".into(), "".into())));
        assert_eq!(item(b"A=\xff"), Ok(EnvItem::Set("A".into(), OsString::from_vec(vec![0xff]))));
        assert!(item(b"=x").is_err());
        assert!(item(b"").is_err());
    }

    #[test]
    fn options_add_to_a_list_and_an_empty_one_drops_it() {
        let add = |before: Vec<Name>, text: &str| Vec::from_option(Some(before), OsStr::new(text), &place()).unwrap();
        let names = |text: &str| text.split(' ').map(|n| Name(n.to_owned())).collect::<Vec<_>>();
        assert_eq!(add(names("zfs"), "memdev,ztest"), names("zfs memdev ztest"));
        assert_eq!(add(names("zfs"), ""), Vec::new());
    }

    #[test]
    fn variables_hold_several_items() {
        let words = Vec::<OsString>::from_text(OsStr::new("-device  foo,id=a\t-s"), &place()).unwrap();
        assert_eq!(words, ["-device", "foo,id=a", "-s"].map(OsString::from));
        let kernel = Vec::<KernelWords>::from_text(OsStr::new("quiet dyndbg=\"file a +p\""), &place()).unwrap();
        assert_eq!(kernel, [KernelWords("quiet dyndbg=\"file a +p\"".to_owned())]);
    }
}
