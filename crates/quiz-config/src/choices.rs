//! What single settings can be: the types of their values that are more than text or a number. Not
//! for reading them (`value`, `item`).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccelChoice {
    /// KVM where it was seen to work, else TCG.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// QEMU's own translation, slower but everywhere.
    Tcg,
}

/// What makes roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RootBuilder {
    /// mmdebstrap where it works, else a VM.
    #[default]
    Auto,
    /// mmdebstrap, on the host.
    Mmdebstrap,
    /// A VM of the root's architecture.
    Vm,
}

/// How the guest sees the worktree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WorktreeMode {
    /// It can read it.
    #[default]
    ReadOnly,
    /// It can change it.
    ReadWrite,
    /// Not at all.
    Off,
}

/// A host directory that the guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareSpec {
    /// The directory on the host, absolute.
    pub host: PathBuf,
    /// Where the guest sees it, absolute.
    pub guest: PathBuf,
    /// The guest can change it.
    pub writable: bool,
}

/// A block device of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSpec {
    /// An empty one, thrown away with the run.
    Blank {
        /// Its size.
        bytes: u64,
    },
    /// A file or block device of the host, which keeps what the guest writes.
    File {
        /// Where it is, absolute.
        path: PathBuf,
        /// What is in it.
        format: ImageFormat,
    },
}

/// How the contents of a disk are in its file. The user says it, by the file's name or behind it:
/// what is in the file is the guest's to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// As they are.
    Raw,
    /// QEMU's own form.
    Qcow2,
}

impl ImageFormat {
    /// What a file's name says.
    pub fn of_name(path: &Path) -> ImageFormat {
        if path.extension().is_some_and(|extension| extension == "qcow2") {
            ImageFormat::Qcow2
        } else {
            ImageFormat::Raw
        }
    }

    /// The name of the format.
    pub fn name(self) -> &'static str {
        match self {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 => "qcow2",
        }
    }
}

/// Which messages of the guest's kernel are shown: those of a level of syslog and worse ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names are syslog's")]
pub enum KernelMessages {
    Off,
    Emerg,
    Alert,
    Crit,
    Err,
    #[default]
    Warning,
    Notice,
    Info,
    Debug,
}

impl KernelMessages {
    /// The number of the least severe level that is shown, 0 to 7.
    pub fn level(self) -> Option<u8> {
        (self as u8).checked_sub(1)
    }
}

/// When the guest's memory is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DumpWhen {
    /// Never.
    #[default]
    Off,
    /// After a panic.
    OnPanic,
    /// After whatever was not the program's own end: a panic, a hang, a reset.
    OnFailure,
}

/// The form of a dump of the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DumpForm {
    /// Compressed physical memory, for drgn and crash.
    #[default]
    Kdump,
    /// An ELF file of virtual memory, for gdb.
    Elf,
}

/// The key that, pressed three times, leaves a terminal; none if there is no such key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Escape(pub Option<u8>);

impl Escape {
    /// Ctrl-], as for systemd-nspawn.
    pub const DEFAULT: Escape = Escape(Some(0x1d));

    /// The key as it is written: `ctrl-]`.
    pub fn name(self) -> String {
        self.0.map_or_else(|| "off".to_owned(), |byte| format!("ctrl-{}", char::from(byte | 0x40).to_ascii_lowercase()))
    }

    /// The key that is written like this.
    pub fn named(text: &str) -> Option<Escape> {
        if text == "off" {
            return Some(Escape(None));
        }
        let (ctrl, key) = text.split_at_checked(5)?;
        match key.as_bytes() {
            [key] if ctrl.eq_ignore_ascii_case("ctrl-") => match key.to_ascii_uppercase() {
                // Not those that every shell needs: Ctrl-M is Enter, Ctrl-I the tabulator, Ctrl-[
                // begins each arrow key.
                b'M' | b'I' | b'J' | b'[' => None,
                key @ b'A'..=b'_' => Some(Escape(Some(key & 0x1f))),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Default for Escape {
    fn default() -> Escape {
        Escape::DEFAULT
    }
}

/// How much quiz says on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// What is being waited for, and the guest's kernel warnings.
    #[default]
    Normal,
    /// Every kernel message, and what quiz does.
    Verbose,
}

/// Where a record goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonTo {
    /// To standard output, after what the program has written there.
    Output,
    /// To a descriptor that quiz was started with.
    Descriptor(i32),
    /// To a file.
    File(PathBuf),
}

impl JsonTo {
    /// The place that `text` names: `fd:3`, or a file; relative paths are so to `cwd`.
    ///
    /// # Errors
    /// A descriptor that is no number.
    pub fn parse(text: &OsStr, cwd: &Path) -> Result<JsonTo, String> {
        match text.to_str().and_then(|text| text.strip_prefix("fd:")) {
            Some(number) => match number.parse() {
                Ok(number @ 0..) => Ok(JsonTo::Descriptor(number)),
                _ => Err(format!("`{number}` is no number of a descriptor; a file of that name is ./fd:{number}")),
            },
            None if text.is_empty() => Err("a file has a name".to_owned()),
            None => Ok(JsonTo::File(cwd.join(text))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_goes_to_a_descriptor_or_to_a_file() {
        let parse = |text: &str| JsonTo::parse(OsStr::new(text), Path::new("/here"));
        assert_eq!(parse("fd:3"), Ok(JsonTo::Descriptor(3)));
        assert_eq!(parse("a/b"), Ok(JsonTo::File("/here/a/b".into())));
        assert_eq!(parse("./fd:3"), Ok(JsonTo::File("/here/./fd:3".into())));
        assert_eq!(parse("/x"), Ok(JsonTo::File("/x".into())));
        for text in ["", "fd:", "fd:x", "fd:-1", "fd:99999999999"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
