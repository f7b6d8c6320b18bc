//! The types of settings that are more than text or a number. Not for reading them (`value`,
//! `item`).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The accelerator that runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccelChoice {
    /// KVM if it works, else TCG.
    #[default]
    Auto,
    /// KVM only.
    Kvm,
    /// QEMU's own translation: slower, but works everywhere.
    Tcg,
}

/// The builder of roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RootBuilder {
    /// mmdebstrap if it works, else a VM.
    #[default]
    Auto,
    /// mmdebstrap, on the host.
    Mmdebstrap,
    /// A VM of the root's architecture.
    Vm,
}

/// The guest's access to the worktree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WorktreeMode {
    /// Read-only.
    #[default]
    ReadOnly,
    /// Read and write.
    ReadWrite,
    /// None.
    Off,
}

/// A host directory that the guest mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareSpec {
    /// The directory on the host, absolute.
    pub host: PathBuf,
    /// The mount point in the guest, absolute.
    pub guest: PathBuf,
    /// The guest may write to it.
    pub writable: bool,
}

/// A block device of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSpec {
    /// An empty disk, discarded after the run.
    Blank {
        /// Its size.
        bytes: u64,
    },
    /// A file or block device of the host, which keeps the guest's writes.
    File {
        /// Its path, absolute.
        path: PathBuf,
        /// Its format.
        format: ImageFormat,
    },
}

/// The format of a disk image. The user gives it, by the file's name or after it. The file's
/// contents do not decide: the guest can write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// Raw: the disk's bytes as they are.
    Raw,
    /// QEMU's qcow2.
    Qcow2,
}

impl ImageFormat {
    /// The format that a file's name indicates.
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

/// The kernel messages to show: those of this syslog level and more severe ones.
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
    /// The number of the least severe level that is shown, 0 to 7; `None` shows no messages.
    pub fn level(self) -> Option<u8> {
        (self as u8).checked_sub(1)
    }
}

/// When to keep the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DumpWhen {
    /// Never.
    #[default]
    Off,
    /// After a panic.
    OnPanic,
    /// After every failure other than the program's own: a panic, a hang, a reset.
    OnFailure,
}

/// The format of a dump of the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DumpForm {
    /// Compressed physical memory, for drgn and crash.
    #[default]
    Kdump,
    /// An ELF file of virtual memory, for gdb.
    Elf,
}

/// The key that leaves a terminal if it is pressed three times; `None` if there is no such key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Escape(pub Option<u8>);

impl Escape {
    /// Ctrl-], as for systemd-nspawn.
    pub const DEFAULT: Escape = Escape(Some(0x1d));

    /// The key's name: `ctrl-]`.
    pub fn name(self) -> String {
        self.0.map_or_else(|| "off".to_owned(), |byte| format!("ctrl-{}", char::from(byte | 0x40).to_ascii_lowercase()))
    }

    /// The key with this name.
    pub fn named(text: &str) -> Option<Escape> {
        if text == "off" {
            return Some(Escape(None));
        }
        let (ctrl, key) = text.split_at_checked(5)?;
        match key.as_bytes() {
            [key] if ctrl.eq_ignore_ascii_case("ctrl-") => match key.to_ascii_uppercase() {
                // Not the keys that every shell needs: Ctrl-M is Enter, Ctrl-I is Tab, and Ctrl-[
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

/// How much quiz prints on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// What quiz waits for, and warnings of the guest's kernel.
    #[default]
    Normal,
    /// Every kernel message, and what quiz does.
    Verbose,
}

/// Where to write a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonTo {
    /// Standard output, after the program's output.
    Output,
    /// A file descriptor that quiz inherited.
    Descriptor(i32),
    /// A file.
    File(PathBuf),
}

impl JsonTo {
    /// The destination that `text` names: `fd:3`, or a file, relative to `cwd`.
    ///
    /// # Errors
    /// Fails if the descriptor is not a number.
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
