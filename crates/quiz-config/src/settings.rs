//! Every key there is, with its type, and the values that the layers gave them. Not for how a layer is read (see
//! `layer`), nor for what the values mean together (see `lower`).

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
    /// What set it: one origin, or for a list that options added to, those too.
    pub origins: Vec<Origin>,
}

impl<T> Sourced<T> {
    /// The origins as words: `quiz.toml:3 + --append`.
    pub fn from_where(&self) -> String {
        self.origins.iter().map(Origin::to_string).collect::<Vec<_>>().join(" + ")
    }
}

/// A value as it was written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Raw<'a> {
    /// In a TOML file.
    Toml(&'a DeValue<'a>),
    /// In a variable.
    Variable(&'a OsStr),
    /// After an option.
    Option(&'a OsStr),
}

/// One key that the files may have.
#[derive(Debug)]
pub struct Key {
    /// Its name: `memory`, or `kernel_build.jobs` for one in a table.
    pub name: &'static str,
    /// What kind of value it has.
    pub wanted: &'static str,
    /// A value as it would be written in a file.
    pub example: &'static str,
    /// What happens where no layer sets it; empty where the built-in layer does.
    pub unset: &'static str,
    /// What it is for.
    pub about: &'static str,
}

impl Key {
    /// The variable of the environment that sets it: `QUIZ_MEMORY`.
    pub fn variable(&self) -> String {
        format!("QUIZ_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }
}

/// A key with the value that is in effect.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// The key's name.
    pub key: &'static str,
    /// Its value as it would be written in a file; none where no layer sets it.
    pub value: Option<toml::Value>,
    /// Where it comes from; empty where no layer sets it.
    pub origins: Vec<Origin>,
    /// What happens where no layer sets it.
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
    ($($(#[doc = $about:literal])+ $field:ident: $type:ty = $name:literal, $example:literal, unset $unset:literal;)+) => {
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
            about: concat!($($about),+),
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
    /// The kernel to boot: a name, a release, or the beginning of a version.
    kernel: Name = "kernel", "\"6.12\"", unset "the best one that is installed";
    /// The guest's architecture.
    arch: ArchName = "arch", "\"aarch64\"", unset "the host's";
    /// The distribution release that the root is made of.
    release: Name = "release", "\"trixie\"", unset "";
    /// Packages that the root has besides the ones that quiz needs.
    packages: Vec<Word> = "packages", "[\"strace\", \"fio\"]", unset "";
    /// Where packages come from.
    mirrors: Vec<Word> = "mirrors", "[\"http://deb.debian.org/debian\"]", unset "";
    /// The keyring that the mirror is checked against.
    keyring: PathBuf = "keyring", "\"/usr/share/keyrings/debian-archive-keyring.gpg\"", unset "the distribution's own";
    /// What makes roots: auto (mmdebstrap where it works, else a VM), mmdebstrap or vm.
    root_builder: RootBuilder = "root_builder", "\"vm\"", unset "";
    /// The guest's memory.
    memory: Size = "memory", "\"1G\"", unset "";
    /// The guest's processors.
    cpus: Count = "cpus", "2", unset "";
    /// QEMU's machine, or auto.
    machine: Name = "machine", "\"q35\"", unset "";
    /// What runs the guest's instructions: auto, kvm or tcg.
    accel: AccelChoice = "accel", "\"tcg\"", unset "";
    /// The QEMU program.
    qemu: Program = "qemu", "\"/opt/qemu/bin/qemu-system-x86_64\"", unset "the architecture's, from PATH";
    /// Further words for QEMU.
    qemu_args: Vec<OsString> = "qemu_args", "[\"-d\", \"guest_errors\"]", unset "";
    /// Further words for the kernel.
    append: Vec<KernelWords> = "append", "[\"slub_debug=FZ\"]", unset "";
    /// Whether an oops ends the run.
    panic_on_oops: bool = "panic_on_oops", "true", unset "";
    /// Whether a report of the kernel's checkers (KASAN, lockdep, UBSAN, ...) or a warning is a failure.
    strict: bool = "strict", "true", unset "";
    /// Timers finer than the kernel's tick, without KVM.
    fine_timers: bool = "fine_timers", "true", unset "";
    /// Whether runs start from saved VMs where they can.
    templates: bool = "templates", "false", unset "";
    /// Whether a VM waits for the next run of the same kind.
    standby: bool = "standby", "true", unset "";
    /// What `quiz watch` runs on the host before each run: a shell command.
    watch_build: ShellCommand = "watch_build", "\"make -s -j8\"", unset "nothing";
    /// Profiles that every run includes.
    profiles: Vec<ProfileUse> = "profiles", "[\"zfs\"]", unset "";
    /// How the guest sees the worktree: ro, rw or off.
    worktree: WorktreeMode = "worktree", "\"ro\"", unset "";
    /// Further directories that the guest sees.
    shares: Vec<ShareSpec> = "shares", "[\"/srv/data:/data:rw\"]", unset "";
    /// Whether the guest may make set-uid files and devices in what it may write to.
    special_files: bool = "special_files", "true", unset "";
    /// Block devices of the guest.
    disks: Vec<DiskSpec> = "disks", "[\"1G\", \"./pool.img\"]", unset "";
    /// The program's environment.
    env: Vec<EnvItem> = "env", "[\"EDITOR\", \"LANG=C\"]", unset "";
    /// How long the program may run.
    timeout: Limit = "timeout", "\"5m\"", unset "";
    /// How long the guest may take to boot.
    boot_timeout: Limit = "boot_timeout", "\"1m\"", unset "";
    /// How long the guest may give no sign of life.
    hang_timeout: Limit = "hang_timeout", "\"1m\"", unset "";
    /// Which messages of the guest's kernel are shown while the program runs.
    kernel_messages: KernelMessages = "kernel_messages", "\"info\"", unset "";
    /// When the guest's memory is kept, in `vmcore` of the run's directory.
    dump: DumpWhen = "dump", "\"on-panic\"", unset "";
    /// How it is kept: for drgn and crash, or for gdb.
    dump_format: DumpForm = "dump_format", "\"elf\"", unset "";
    /// The key that, three times within a second, leaves a terminal.
    escape: Escape = "escape", "\"ctrl-a\"", unset "";
    /// How long a VM stays after its program (`--keep`).
    keep_time: Limit = "keep_time", "\"2h\"", unset "";
    /// How many runs' evidence is kept.
    keep_runs: Keep = "keep_runs", "50", unset "";
    /// For how many days runs' evidence is kept.
    keep_days: Keep = "keep_days", "14", unset "";
    /// How many compilers run at once.
    build_jobs: Count = "kernel_build.jobs", "8", unset "one for each processor";
    /// A command in front of every compiler call.
    build_prefix: String = "kernel_build.prefix", "\"ccache\"", unset "none";
    /// Pieces of kernel configuration: names of quiz's own, or files.
    build_fragments: Vec<Fragment> = "kernel_build.fragments", "[\"debug.config\"]", unset "";
    /// Whether kernels are built with Clang.
    build_llvm: bool = "kernel_build.llvm", "true", unset "";
    /// Where the archives of kernel releases come from.
    build_mirror: String = "kernel_build.mirror", "\"https://cdn.kernel.org/pub/linux/kernel\"", unset "kernel.org";
    /// Where the archives of release candidates come from.
    build_rc_mirror: String = "kernel_build.rc_mirror", "\"https://git.kernel.org/torvalds/t\"", unset "kernel.org";
    /// The git repository of linux-next.
    build_next_git: String = "kernel_build.next_git", "\"https://git.kernel.org/pub/scm/linux/kernel/git/next/linux-next.git\"", unset "kernel.org";
    /// The keyring that kernel sources are checked against.
    build_keyring: PathBuf = "kernel_build.keyring", "\"~/kernel-keys.gpg\"", unset "none";
}

/// The key that is called `name`.
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
