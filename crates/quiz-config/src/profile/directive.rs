//! Reads the output of a profile's `setup`: lines of the form `quiz::KEY=VALUE`. Not for acting on
//! them.

use std::path::PathBuf;

use crate::choices::ShareSpec;

/// One request of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directive {
    /// A disk.
    Disk(DiskDirective),
    /// A host directory for the guest.
    Share(ShareSpec),
    /// Parameters for the kernel command line.
    Append(String),
    /// One argument for QEMU.
    QemuArg(String),
    /// A variable for the program and for the profiles' `init`.
    Env(String, String),
    /// A kernel module to load, with its parameters.
    Module {
        /// Its name, or the absolute path of its file in the guest.
        name: String,
        /// `NAME=VALUE` parameters.
        parameters: Vec<String>,
    },
    /// A link in the guest's `/dev` to another device there, with links for its partitions.
    Link {
        /// The link.
        path: String,
        /// The device.
        target: String,
    },
    /// A host directory to lay over the guest's root.
    Layer(PathBuf),
    /// A network device in user mode: the text that follows `user` in QEMU's `-netdev`.
    Net(String),
    /// A message that only `-v` shows.
    Note(String),
    /// A message for the user.
    Warning(String),
    /// The reason why the run cannot start.
    Error(String),
}

/// A disk that a profile asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskDirective {
    /// Its serial number, and its name in the guest's `/dev`.
    pub name: String,
    /// Its size in bytes; `None` if the file exists and has one.
    pub bytes: Option<u64>,
    /// The size of its sectors in bytes.
    pub sector: Option<u32>,
    /// The file that keeps its contents; `None` for a disk that is discarded.
    pub file: Option<PathBuf>,
}

/// The longest serial number that virtio allows, in bytes.
const SERIAL: usize = 20;

/// Reads one line of `setup`'s output. Returns `None` if it is no directive.
///
/// # Errors
/// Describes what is wrong with the line, without the line itself.
pub fn read(line: &str) -> Option<Result<Directive, String>> {
    let (key, value) = match line.strip_prefix("quiz::")?.split_once('=') {
        Some((key, value)) => (key, value),
        None => return Some(Err("there is no `=` in it".to_owned())),
    };
    Some(directive(key, value))
}

fn directive(key: &str, value: &str) -> Result<Directive, String> {
    let text = || match value.trim().is_empty() {
        true => Err("there is nothing after `=`".to_owned()),
        false => Ok(value.to_owned()),
    };
    match key {
        "disk" => disk(value).map(Directive::Disk),
        "share" => share(value).map(Directive::Share),
        "append" => text().map(Directive::Append),
        "qemu-arg" => text().map(Directive::QemuArg),
        "env" => match value.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Directive::Env(name.to_owned(), value.to_owned())),
            _ => Err("write NAME=VALUE".to_owned()),
        },
        "module" => {
            let mut words = value.split_whitespace().map(str::to_owned);
            let name = words.next().ok_or("there is no name")?;
            Ok(Directive::Module { name, parameters: words.collect() })
        }
        "link" => match value.split_once('=') {
            Some((path, target)) if is_device(path) && is_device(target) => {
                Ok(Directive::Link { path: path.to_owned(), target: target.to_owned() })
            }
            _ => Err("write /dev/LINK=/dev/DEVICE".to_owned()),
        },
        "layer" => absolute(value).map(Directive::Layer),
        "net" => match value.strip_prefix("user") {
            Some(rest) if rest.is_empty() || rest.starts_with(',') => Ok(Directive::Net(rest.to_owned())),
            _ => Err("the only network is `user`, optionally followed by a comma and more options for QEMU".to_owned()),
        },
        "note" => text().map(Directive::Note),
        "warning" => text().map(Directive::Warning),
        "error" => text().map(Directive::Error),
        other => Err(format!(
            "`{other}` is not known; there are disk, share, append, qemu-arg, env, module, link, layer, net, note, warning and error"
        )),
    }
}

fn is_device(path: &str) -> bool {
    path.strip_prefix("/dev/").is_some_and(|name| {
        !name.is_empty() && name.split('/').all(|part| !part.is_empty() && part != ".." && part != ".")
    })
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    Some(PathBuf::from(path)).filter(|p| p.is_absolute()).ok_or_else(|| format!("`{path}` is not an absolute path"))
}

fn disk(value: &str) -> Result<DiskDirective, String> {
    let (name, mut rest) = value.split_once(',').ok_or("write NAME,size=BYTES or NAME,file=PATH")?;
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > SERIAL || !name.chars().all(good) {
        return Err(format!("`{name}` is no name for a disk: up to {SERIAL} letters, digits, - and _"));
    }
    let mut disk = DiskDirective { name: name.to_owned(), bytes: None, sector: None, file: None };
    while !rest.is_empty() {
        // A path may contain commas, so it comes last.
        if let Some(path) = rest.strip_prefix("file=") {
            disk.file = Some(absolute(path)?);
            break;
        }
        let (word, others) = rest.split_once(',').unwrap_or((rest, ""));
        rest = others;
        match word.split_once('=') {
            Some(("size", bytes)) => {
                let bytes: u64 = bytes.parse().map_err(|_| format!("`{bytes}` is not a number of bytes"))?;
                if bytes == 0 || !bytes.is_multiple_of(512) || bytes > i64::MAX as u64 {
                    return Err(format!("{bytes} bytes are no size of a disk: it is a multiple of 512"));
                }
                disk.bytes = Some(bytes);
            }
            Some(("sector", bytes)) => {
                let sector = bytes.parse().ok().filter(|n: &u32| n.is_power_of_two() && (512..=32768).contains(n));
                disk.sector = Some(sector.ok_or_else(|| format!("`{bytes}` is no size of a sector: 512 to 32768"))?);
            }
            _ => return Err(format!("`{word}` is unknown: use size, sector or file")),
        }
    }
    match (disk.bytes, &disk.file) {
        (None, None) => Err("it needs size= or file=".to_owned()),
        _ => Ok(disk),
    }
}

fn share(value: &str) -> Result<ShareSpec, String> {
    let (value, writable) = match value.strip_suffix(":rw") {
        Some(value) => (value, true),
        None => (value, false),
    };
    let (host, guest) = value.split_once(':').unwrap_or((value, value));
    Ok(ShareSpec { host: absolute(host)?, guest: absolute(guest)?, writable })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<Directive, String> {
        read(line).expect("it is a directive")
    }

    #[test]
    fn every_directive_is_read() {
        let disk = |bytes, sector, file: Option<&str>| {
            let file = file.map(PathBuf::from);
            Ok(Directive::Disk(DiskDirective { name: "quizb0".into(), bytes, sector, file }))
        };
        assert_eq!(one("quiz::disk=quizb0,size=1048576"), disk(Some(1 << 20), None, None));
        assert_eq!(
            one("quiz::disk=quizb0,size=512,sector=4096,file=/a, b/c,size=1"),
            disk(Some(512), Some(4096), Some("/a, b/c,size=1"))
        );
        assert_eq!(one("quiz::disk=quizb0,file=/x"), disk(None, None, Some("/x")));
        let share = |guest: &str, writable| {
            Ok(Directive::Share(ShareSpec { host: "/a".into(), guest: guest.into(), writable }))
        };
        assert_eq!(one("quiz::share=/a"), share("/a", false));
        assert_eq!(one("quiz::share=/a:/b:rw"), share("/b", true));
        assert_eq!(one("quiz::append=a=b c"), Ok(Directive::Append("a=b c".into())));
        assert_eq!(one("quiz::qemu-arg=-d"), Ok(Directive::QemuArg("-d".into())));
        assert_eq!(one("quiz::env=A=b=c"), Ok(Directive::Env("A".into(), "b=c".into())));
        assert_eq!(
            one("quiz::module=brd rd_nr=2 max_part=16"),
            Ok(Directive::Module { name: "brd".into(), parameters: vec!["rd_nr=2".into(), "max_part=16".into()] })
        );
        assert_eq!(
            one("quiz::link=/dev/a=/dev/b/c"),
            Ok(Directive::Link { path: "/dev/a".into(), target: "/dev/b/c".into() })
        );
        assert_eq!(one("quiz::layer=/l"), Ok(Directive::Layer("/l".into())));
        assert_eq!(one("quiz::net=user,hostfwd=x"), Ok(Directive::Net(",hostfwd=x".into())));
        assert_eq!(one("quiz::warning= w"), Ok(Directive::Warning(" w".into())));
        assert_eq!(read("just a line"), None);
        assert_eq!(read("cargo::disk=x"), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "quiz::disk",
            "quiz::disk=a",
            "quiz::disk=a b,size=512",
            "quiz::disk=a,size=511",
            "quiz::disk=a,size=-1",
            "quiz::disk=a,sector=512",
            "quiz::disk=a,size=512,colour=red",
            "quiz::disk=a,size=512,sector=1000",
            "quiz::disk=a,file=relative",
            "quiz::disk=012345678901234567890,size=512",
            "quiz::share=relative:/a",
            "quiz::append=",
            "quiz::env=x",
            "quiz::env==x",
            "quiz::module= ",
            "quiz::link=/dev/a=/etc/b",
            "quiz::link=/dev/../etc/a=/dev/b",
            "quiz::layer=x",
            "quiz::net=tap",
            "quiz::disks=a",
        ] {
            assert!(one(line).is_err(), "{line}");
        }
    }
}
