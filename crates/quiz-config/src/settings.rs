//! All keys with their types, and the values that the layers gave them. Not for reading a layer
//! (see `layer`), nor for checking values against each other (see `lower`).

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use toml::de::DeValue;

use crate::choices::{
    AccelChoice, DiskSpec, DumpForm, DumpWhen, Escape, KernelMessages, RootBuilder, ShareSpec, WorktreeMode,
};
use crate::item::{EnvItem, Fragment, KernelWords, ProfileUse, Word};
use crate::origin::Origin;
use crate::size::Size;
use crate::time::Limit;
use crate::value::{ArchName, Count, Keep, Name, Place, Program, ShellCommand, Value, ValueError};

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// What set it: one origin, or for a list also the options that added to it.
    pub origins: Vec<Origin>,
}

impl<T> Sourced<T> {
    /// The origins as text: `quiz.toml:3 + --append`.
    pub fn from_where(&self) -> String {
        self.origins.iter().map(Origin::to_string).collect::<Vec<_>>().join(" + ")
    }
}

/// A value as the user wrote it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Raw<'a> {
    /// From a TOML file.
    Toml(&'a DeValue<'a>),
    /// From a variable.
    Variable(&'a OsStr),
    /// From an option.
    Option(&'a OsStr),
}

/// One key that the files may have.
#[derive(Debug)]
pub struct Key {
    /// Its name: `memory`, or `kernel_build.jobs` for one in a table.
    pub name: &'static str,
    /// The type of its value.
    pub wanted: &'static str,
    /// An example value, as written in a file.
    pub example: &'static str,
    /// What happens if no layer sets it; empty if the built-in layer does.
    pub unset: &'static str,
    /// Its purpose.
    pub about: &'static str,
    /// Whether it is a list: an option adds to it, and can be given several times.
    pub list: bool,
    /// The option of a run that sets it.
    pub option: Option<KeyOption>,
}

/// An option of the command line that sets a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyOption {
    /// Its spelling: `--memory`.
    pub long: &'static str,
    /// Its short spelling, a letter.
    pub short: Option<char>,
    /// The placeholder of its value in help.
    pub value: &'static str,
    /// Whether its value may begin with a dash.
    pub hyphens: bool,
    /// Whether the option is a flag of its own, which sets this key's value.
    pub by_flag: bool,
}

const fn option(long: &'static str, value: &'static str) -> Option<KeyOption> {
    Some(KeyOption { long, short: None, value, hyphens: false, by_flag: false })
}

const fn hyphens(long: &'static str, value: &'static str) -> Option<KeyOption> {
    Some(KeyOption { long, short: None, value, hyphens: true, by_flag: false })
}

const fn short(short: char, long: &'static str, value: &'static str) -> Option<KeyOption> {
    Some(KeyOption { long, short: Some(short), value, hyphens: false, by_flag: false })
}

impl Key {
    /// The environment variable that sets it: `QUIZ_MEMORY`.
    pub fn variable(&self) -> String {
        format!("QUIZ_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }
}

/// A key with its effective value.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// The key's name.
    pub key: &'static str,
    /// Its value as written in a file; `None` if no layer sets it.
    pub value: Option<toml::Value>,
    /// Where its value comes from; empty if no layer sets it.
    pub origins: Vec<Origin>,
    /// What happens if no layer sets it.
    pub unset: &'static str,
}

fn assign<T: Value + Clone>(
    slot: &mut Option<Sourced<T>>,
    raw: Raw<'_>,
    place: &Place,
    origin: Origin,
) -> Result<(), ValueError> {
    let (value, origins) = match raw {
        Raw::Toml(value) => (T::from_toml(value, place)?, vec![origin]),
        Raw::Variable(text) => (T::from_text(text, place)?, vec![origin]),
        Raw::Option(text) => {
            let (before, mut origins) = match slot.clone() {
                Some(sourced) => (Some(sourced.value), sourced.origins),
                None => (None, Vec::new()),
            };
            let was_list = before.as_ref().is_some_and(|b| b.show().as_array().is_some_and(|a| !a.is_empty()));
            let value = T::from_option(before, text, place)?;
            if !was_list || text.is_empty() {
                origins.clear();
            }
            if !origins.contains(&origin) {
                origins.push(origin);
            }
            (value, origins)
        }
    };
    *slot = Some(Sourced { value, origins });
    Ok(())
}

macro_rules! settings {
    ($($(#[doc = $about:literal])+ $field:ident: $type:ty = $name:literal, $example:literal, unset $unset:literal, $option:expr;)+) => {
        /// The value of every key, as far as any layer sets it.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Settings {
            $($(#[doc = $about])+ pub $field: Option<Sourced<$type>>,)+
        }

        /// Every key, in the order in which they are listed.
        pub static KEYS: &[Key] = &[$(Key {
            name: $name,
            wanted: <$type as Value>::WANTED,
            example: $example,
            unset: $unset,
            about: concat!($($about),+).trim_ascii(),
            list: <$type as Value>::LIST,
            option: $option,
        },)+];

        impl Settings {
            /// Gives `key`, which must be one of [`KEYS`], the value that is written as `raw`.
            pub(crate) fn assign(
                &mut self,
                key: &Key,
                raw: Raw<'_>,
                place: &Place,
                origin: Origin,
            ) -> Result<(), ValueError> {
                match key.name {
                    $($name => assign(&mut self.$field, raw, place, origin),)+
                    other => unreachable!("`{other}` is not in the table of keys"),
                }
            }

            /// Every key with its value and origin, in the order of [`KEYS`].
            pub fn effective(&self) -> Vec<Effective> {
                vec![$(Effective {
                    key: $name,
                    value: self.$field.as_ref().map(|sourced| sourced.value.show()),
                    origins: self.$field.as_ref().map(|sourced| sourced.origins.clone()).unwrap_or_default(),
                    unset: $unset,
                },)+]
            }
        }
    };
}

settings! {
    /// Kernel to boot: a name, a release, or the beginning of a version (6.12)
    kernel: Name = "kernel", "\"6.12\"", unset "the best one that is installed", short('k', "--kernel", "KERNEL");
    /// Architecture of the guest: x86_64, aarch64, s390x, ...
    arch: ArchName = "arch", "\"aarch64\"", unset "the host's", short('a', "--arch", "ARCH");
    /// Distribution release of the root: bookworm, trixie, ..., or the name of your own root
    release: Name = "release", "\"trixie\"", unset "", option("--release", "RELEASE");
    /// Packages of the root, beside those that quiz needs
    packages: Vec<Word> = "packages", "[\"strace\", \"fio\"]", unset "", None;
    /// Mirrors that packages come from
    mirrors: Vec<Word> = "mirrors", "[\"http://deb.debian.org/debian\"]", unset "", None;
    /// Keyring that the mirrors are checked against
    keyring: PathBuf = "keyring", "\"/usr/share/keyrings/debian-archive-keyring.gpg\"", unset "the distribution's own", None;
    /// Builder of roots: auto (mmdebstrap where it works, else a VM), mmdebstrap or vm
    root_builder: RootBuilder = "root_builder", "\"vm\"", unset "", None;
    /// Memory of the guest (512M, 4G)
    memory: Size = "memory", "\"1G\"", unset "", short('m', "--memory", "SIZE");
    /// Number of CPUs of the guest
    cpus: Count = "cpus", "2", unset "", option("--cpus", "N");
    /// Machine type of QEMU: auto, microvm, q35, virt, ...
    machine: Name = "machine", "\"q35\"", unset "", option("--machine", "MACHINE");
    /// Accelerator: auto (KVM where it works, else TCG), kvm or tcg
    accel: AccelChoice = "accel", "\"tcg\"", unset "", option("--accel", "auto|kvm|tcg");
    /// QEMU program
    qemu: Program = "qemu", "\"/opt/qemu/bin/qemu-system-x86_64\"", unset "the architecture's, from PATH", option("--qemu", "PROGRAM");
    /// Additional argument for QEMU
    qemu_args: Vec<OsString> = "qemu_args", "[\"-d\", \"guest_errors\"]", unset "", hyphens("--qemu-arg", "ARGUMENT");
    /// Additional parameters for the kernel command line
    append: Vec<KernelWords> = "append", "[\"slub_debug=FZ\"]", unset "", hyphens("--append", "PARAMETERS");
    /// Whether an oops ends the run
    panic_on_oops: bool = "panic_on_oops", "true", unset "", None;
    /// Whether a kernel warning or a report of a kernel checker (KASAN, lockdep, UBSAN, ...) fails
    /// the run
    strict: bool = "strict", "true", unset "", None;
    /// Whether timers are finer than the kernel's tick, without KVM
    fine_timers: bool = "fine_timers", "true", unset "", None;
    /// Whether runs resume from templates where they can
    templates: bool = "templates", "false", unset "", None;
    /// Whether a standby VM is kept for the next run of the same kind
    standby: bool = "standby", "true", unset "", None;
    /// Shell command that `quiz watch` runs on the host before each run
    watch_build: ShellCommand = "watch_build", "\"make -s -j8\"", unset "nothing", None;
    /// Profiles to include, perhaps with values of their options
    profiles: Vec<ProfileUse> = "profiles", "[\"zfs\"]", unset "", short('p', "--profile", "NAME[:OPTION=VALUE],...");
    /// Access of the guest to the worktree: ro, rw or off
    worktree: WorktreeMode = "worktree", "\"ro\"", unset "", option("--worktree", "ro|rw|off");
    /// Host directory to share with the guest, read-only unless it ends in :rw
    shares: Vec<ShareSpec> = "shares", "[\"/srv/data:/data:rw\"]", unset "", option("--share", "HOST[:GUEST][:rw]");
    /// Whether the guest may make set-uid files and devices in writable shares
    special_files: bool = "special_files", "true", unset "", None;
    /// Block device to add: an empty one of this size, or a disk image
    disks: Vec<DiskSpec> = "disks", "[\"1G\", \"./pool.img\"]", unset "", option("--disk", "SIZE|FILE");
    /// Environment variable for the program: NAME passes the caller's value on
    env: Vec<EnvItem> = "env", "[\"EDITOR\", \"LANG=C\"]", unset "", option("--env", "NAME[=VALUE]");
    /// Time limit for the program (30s, 5m, off)
    timeout: Limit = "timeout", "\"5m\"", unset "", option("--timeout", "TIME");
    /// Time limit for the boot, until the program starts
    boot_timeout: Limit = "boot_timeout", "\"1m\"", unset "", option("--boot-timeout", "TIME");
    /// Time limit for a guest that sends nothing, not even a heartbeat
    hang_timeout: Limit = "hang_timeout", "\"1m\"", unset "", option("--hang-timeout", "TIME");
    /// Lowest level of kernel messages that are shown: err, warning, info, ..., or off
    kernel_messages: KernelMessages = "kernel_messages", "\"info\"", unset "", option("--kernel-messages", "LEVEL");
    /// When to keep the guest's memory, for `quiz debug`
    dump: DumpWhen = "dump", "\"on-panic\"", unset "", option("--dump", "off|on-panic|on-failure");
    /// Dump format: kdump for drgn and crash, elf for gdb
    dump_format: DumpForm = "dump_format", "\"elf\"", unset "", option("--dump-format", "kdump|elf");
    /// Key that leaves a terminal if it is pressed three times within a second
    escape: Escape = "escape", "\"ctrl-a\"", unset "", None;
    /// How long the VM stays after its program with `--keep`
    keep_time: Limit = "keep_time", "\"2h\"", unset "", Some(KeyOption { long: "--keep", short: None, value: "TIME", hyphens: false, by_flag: true });
    /// How many run directories are kept
    keep_runs: Keep = "keep_runs", "50", unset "", None;
    /// For how many days run directories are kept
    keep_days: Keep = "keep_days", "14", unset "", None;
    /// How many compilers run at once
    build_jobs: Count = "kernel_build.jobs", "8", unset "one for each processor", None;
    /// Command in front of every compiler call
    build_prefix: String = "kernel_build.prefix", "\"ccache\"", unset "none", None;
    /// Fragments of kernel configuration: names of quiz's own, or files
    build_fragments: Vec<Fragment> = "kernel_build.fragments", "[\"debug.config\"]", unset "", None;
    /// Whether kernels are built with Clang
    build_llvm: bool = "kernel_build.llvm", "true", unset "", None;
    /// Mirror of kernel releases
    build_mirror: String = "kernel_build.mirror", "\"https://cdn.kernel.org/pub/linux/kernel\"", unset "kernel.org", None;
    /// Mirror of release candidates
    build_rc_mirror: String = "kernel_build.rc_mirror", "\"https://git.kernel.org/torvalds/t\"", unset "kernel.org", None;
    /// Git repository of linux-next
    build_next_git: String = "kernel_build.next_git", "\"https://git.kernel.org/pub/scm/linux/kernel/git/next/linux-next.git\"", unset "kernel.org", None;
    /// Keyring that kernel sources are checked against
    build_keyring: PathBuf = "kernel_build.keyring", "\"~/kernel-keys.gpg\"", unset "none", None;
}

/// The key with the name `name`.
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_a_value_of_its_key() {
        let place = Place { dir: "/d".into(), home: Some("/h".into()) };
        for key in KEYS {
            let text = format!("value = {}", key.example);
            let table = toml::de::DeTable::parse(&text).unwrap().into_inner();
            let value = table.values().next().unwrap().get_ref();
            let mut settings = Settings::default();
            settings.assign(key, Raw::Toml(value), &place, Origin::BuiltIn).unwrap();
            let shown = settings.effective().into_iter().find(|e| e.key == key.name).unwrap();
            assert!(shown.value.is_some(), "{}", key.name);
        }
    }

    #[test]
    fn variables_are_named_apart() {
        let mut names: Vec<String> = KEYS.iter().map(Key::variable).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
        assert_eq!(key("kernel_build.jobs").unwrap().variable(), "QUIZ_KERNEL_BUILD_JOBS");
    }
}
