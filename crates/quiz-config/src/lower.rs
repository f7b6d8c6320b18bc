//! Turns the settings and the command line into one [`RunSpec`]: a pure function. Not for reading
//! either of them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::choices::{JsonTo, ShareSpec, Verbosity};
use crate::error::ConfigError;
use crate::item::{EnvItem, ProfileUse};
use crate::origin::Origin;
use crate::profile::Given;
use crate::profile::option::Written;
use crate::settings::{Settings, Sourced};
use crate::spec::RunSpec;
use crate::time::Limit;
use crate::value::{Keep, Name};

/// The parts of one call of quiz that have no key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Invocation {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// `--shell-after`
    pub shell_after: bool,
    /// `--cold`
    pub cold: bool,
    /// `--strict`
    pub strict: bool,
    /// `--keep`
    pub keep: bool,
    /// `--tmux`
    pub tmux: bool,
    /// `--gdb`
    pub gdb: bool,
    /// `-v`, `-q`
    pub verbosity: Verbosity,
    /// `--json`
    pub json: Option<JsonTo>,
    /// The directory in which quiz was called.
    pub cwd: PathBuf,
    /// The worktree's top directory.
    pub worktree: Option<PathBuf>,
    /// The caller's environment.
    pub variables: Vec<(OsString, OsString)>,
    /// Options of profiles that files and variables set, the strongest last.
    pub profile_options: Vec<Given>,
}

/// The defaults of `quiz kernel build`, for options that its command line does not give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildDefaults {
    /// How many compilers run at once. `None`: one for each processor.
    pub jobs: Option<u32>,
    /// A command to put before every compiler call.
    pub prefix: Option<String>,
    /// Fragments of kernel configuration: names of built-in ones, or files' absolute paths.
    pub fragments: Vec<String>,
    /// Build with Clang.
    pub llvm: bool,
    /// The mirror of release archives. `None`: kernel.org.
    pub mirror: Option<String>,
    /// The mirror of release candidate archives. `None`: kernel.org.
    pub rc_mirror: Option<String>,
    /// The git repository of linux-next. `None`: kernel.org's.
    pub next_git: Option<String>,
    /// The keyring that kernel sources are checked against.
    pub keyring: Option<PathBuf>,
}

/// The profile that `--tmux` needs.
const TMUX: &str = "tmux";

/// Longer than any VM runs, short enough for arithmetic.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// With less memory no Linux starts.
const LEAST_MEMORY_MIB: u64 = 64;

fn value<T: Clone>(slot: &Option<Sourced<T>>) -> Option<T> {
    slot.as_ref().map(|sourced| sourced.value.clone())
}

fn list<T: Clone>(slot: &Option<Sourced<Vec<T>>>) -> Vec<T> {
    value(slot).unwrap_or_default()
}

/// The names of the profiles, each once, and the options given with them.
fn profiles(slot: &Option<Sourced<Vec<ProfileUse>>>) -> (Vec<String>, Vec<Given>) {
    let mut names = Vec::new();
    let mut options = Vec::new();
    let origin = slot.as_ref().map(Sourced::from_where).unwrap_or_default();
    for ProfileUse { name, option, place } in list(slot) {
        if let Some((option, value)) = option {
            let (profile, value, origin) = (name.clone(), Written::One(value), origin.clone());
            options.push(Given { profile, option, value, origin, place, adds: true });
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    (names, options)
}

fn limit(slot: &Option<Sourced<Limit>>) -> Option<Duration> {
    value(slot).and_then(|limit| limit.0)
}

fn wrong<T>(slot: &Option<Sourced<T>>, problem: String) -> ConfigError {
    ConfigError::Meaning { problem, set_by: slot.as_ref().map(Sourced::from_where).unwrap_or_default() }
}

/// Makes the run that `settings` and `invocation` describe.
///
/// # Errors
/// Fails if values are each valid but do not fit each other or a VM: too little memory, or a
/// machine of another architecture.
pub fn lower(settings: &Settings, invocation: Invocation) -> Result<RunSpec, ConfigError> {
    let arch = value(&settings.arch).map_or_else(quiz_arch::host, |name| {
        quiz_arch::find(name.0).unwrap_or_else(|| unreachable!("`{}` was checked when it was read", name.0))
    });
    let mut packages: Vec<String> = list(&settings.packages).into_iter().map(|word| word.0).collect();
    packages.sort();
    packages.dedup();
    let (mut names, options) = profiles(&settings.profiles);
    if invocation.tmux && !names.iter().any(|name| name == TMUX) {
        names.push(TMUX.to_owned());
    }
    let mut profile_options = invocation.profile_options;
    profile_options.extend(options);
    Ok(RunSpec {
        kernel: value(&settings.kernel).map(|name| name.0),
        arch: arch.name.to_owned(),
        release: value(&settings.release).map(|name| name.0).unwrap_or_default(),
        release_is_default: settings.release.as_ref().is_none_or(|release| release.origins == [Origin::BuiltIn]),
        packages,
        mirrors: list(&settings.mirrors).into_iter().map(|word| word.0).collect(),
        keyring: value(&settings.keyring),
        root_builder: value(&settings.root_builder).unwrap_or_default(),
        memory_mib: memory(settings)?,
        cpus: value(&settings.cpus).map_or(1, |count| count.0),
        machine: machine(settings, arch)?,
        accel: value(&settings.accel).unwrap_or_default(),
        qemu: value(&settings.qemu).map(|program| program.0),
        qemu_args: list(&settings.qemu_args),
        append: list(&settings.append).into_iter().map(|words| words.0).collect(),
        panic_on_oops: value(&settings.panic_on_oops).unwrap_or(true),
        strict: invocation.strict || value(&settings.strict).unwrap_or(false),
        fine_timers: value(&settings.fine_timers).unwrap_or(false),
        profiles: names,
        profile_options,
        worktree_mode: value(&settings.worktree).unwrap_or_default(),
        shares: shares(list(&settings.shares)),
        disks: list(&settings.disks),
        env: environment(list(&settings.env), &invocation.variables),
        // A guest that a debugger has stopped does not hang.
        timeout: limit(&settings.timeout).filter(|_| !invocation.gdb),
        boot_timeout: limit(&settings.boot_timeout).filter(|_| !invocation.gdb),
        hang_timeout: limit(&settings.hang_timeout).filter(|_| !invocation.gdb),
        kernel_messages: value(&settings.kernel_messages).unwrap_or_default(),
        dump: value(&settings.dump).unwrap_or_default(),
        dump_format: value(&settings.dump_format).unwrap_or_default(),
        escape: value(&settings.escape).unwrap_or_default(),
        keep: invocation.keep.then(|| limit(&settings.keep_time).unwrap_or(FOR_EVER)),
        keep_runs: value(&settings.keep_runs).and_then(|Keep(count)| count),
        keep_days: value(&settings.keep_days).and_then(|Keep(count)| count),
        command: invocation.command,
        shell_after: invocation.shell_after,
        tmux: invocation.tmux,
        gdb: invocation.gdb,
        cwd: invocation.cwd,
        worktree: invocation.worktree,
        cold: invocation.cold || invocation.gdb || !value(&settings.templates).unwrap_or(true),
        standby: value(&settings.standby).unwrap_or(false),
        special_files: value(&settings.special_files).unwrap_or(false),
        verbosity: invocation.verbosity,
        json: invocation.json,
    })
}

/// Takes the defaults of `quiz kernel build` from the settings.
pub fn build_defaults(settings: &Settings) -> BuildDefaults {
    BuildDefaults {
        jobs: value(&settings.build_jobs).map(|count| count.0),
        prefix: value(&settings.build_prefix),
        fragments: list(&settings.build_fragments).into_iter().map(|fragment| fragment.0).collect(),
        llvm: value(&settings.build_llvm).unwrap_or(false),
        mirror: value(&settings.build_mirror),
        rc_mirror: value(&settings.build_rc_mirror),
        next_git: value(&settings.build_next_git),
        keyring: value(&settings.build_keyring),
    }
}

fn memory(settings: &Settings) -> Result<u32, ConfigError> {
    let mib = value(&settings.memory).map_or(0, |size| size.mib());
    if mib < LEAST_MEMORY_MIB {
        let problem = format!("{mib} MiB of memory is too little for a guest; the least is {LEAST_MEMORY_MIB}M");
        return Err(wrong(&settings.memory, problem));
    }
    u32::try_from(mib).map_err(|_| wrong(&settings.memory, format!("{mib} MiB is more memory than a guest can have")))
}

fn machine(settings: &Settings, arch: &quiz_arch::Arch) -> Result<Option<String>, ConfigError> {
    let Some(Name(machine)) = value(&settings.machine) else { return Ok(None) };
    if machine == "auto" {
        return Ok(None);
    }
    if arch.machines.iter().any(|known| known.name == machine) {
        return Ok(Some(machine));
    }
    let known: Vec<&str> = arch.machines.iter().map(|known| known.name).collect();
    let problem = format!("{} has no machine `{machine}`; it has auto, {}", arch.name, known.join(", "));
    Err(wrong(&settings.machine, problem))
}

/// Keeps one share for each path in the guest: the last one given.
fn shares(asked: Vec<ShareSpec>) -> Vec<ShareSpec> {
    let mut shares: Vec<ShareSpec> = Vec::new();
    for share in asked {
        shares.retain(|earlier| earlier.guest != share.guest);
        shares.push(share);
    }
    shares
}

/// Keeps each variable once, with the value given last. A passed-on variable appears only if the
/// caller has it.
fn environment(items: Vec<EnvItem>, caller: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> = Vec::new();
    for item in items {
        let (name, value) = match item {
            EnvItem::Set(name, value) => (name, value),
            EnvItem::Pass(name) => match caller.iter().find(|(n, _)| *n == name) {
                Some((_, value)) => (name, value.clone()),
                None => continue,
            },
        };
        environment.retain(|(earlier, _)| *earlier != name);
        environment.push((name, value));
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::{
        AccelChoice, DiskSpec, DumpForm, DumpWhen, Escape, ImageFormat, KernelMessages, RootBuilder, WorktreeMode,
    };
    use crate::layer::{Sources, TypedOption, load};

    fn run(options: &[(&'static str, &str)]) -> Result<RunSpec, ConfigError> {
        let options = options.iter().map(|(key, value)| TypedOption { key, option: "--option", value: value.into() });
        let sources = Sources { options: options.collect(), cwd: "/src/tree/sub".into(), ..Sources::default() };
        let variables = [("TERM", "xterm"), ("SECRET", "s")].map(|(n, v)| (n.into(), v.into())).to_vec();
        let invocation = Invocation {
            command: vec!["uname".into(), "-a".into()],
            cwd: "/src/tree/sub".into(),
            worktree: Some("/src/tree".into()),
            variables,
            ..Invocation::default()
        };
        lower(&load(&sources)?.settings, invocation)
    }

    #[test]
    fn nothing_asked_gives_the_defaults() {
        let spec = run(&[("arch", "x86_64")]).unwrap();
        let expected = RunSpec {
            command: vec!["uname".into(), "-a".into()],
            shell_after: false,
            tmux: false,
            gdb: false,
            cwd: "/src/tree/sub".into(),
            kernel: None,
            arch: "x86_64".to_owned(),
            release: "bookworm".to_owned(),
            release_is_default: true,
            packages: vec![],
            mirrors: vec![],
            keyring: None,
            root_builder: RootBuilder::Auto,
            memory_mib: 1024,
            cpus: 2,
            machine: None,
            accel: AccelChoice::Auto,
            qemu: None,
            qemu_args: vec![],
            append: vec![],
            panic_on_oops: true,
            strict: false,
            fine_timers: false,
            profiles: vec![],
            profile_options: vec![],
            worktree: Some("/src/tree".into()),
            worktree_mode: WorktreeMode::ReadOnly,
            shares: vec![],
            disks: vec![],
            env: vec![("TERM".into(), "xterm".into())],
            timeout: None,
            boot_timeout: Some(Duration::from_secs(120)),
            hang_timeout: Some(Duration::from_secs(60)),
            kernel_messages: KernelMessages::Warning,
            dump: DumpWhen::Off,
            dump_format: DumpForm::Kdump,
            escape: Escape::DEFAULT,
            keep: None,
            cold: false,
            standby: false,
            special_files: false,
            verbosity: Verbosity::Normal,
            json: None,
            keep_runs: Some(50),
            keep_days: Some(14),
        };
        assert_eq!(spec, expected);
    }

    #[test]
    fn what_is_asked_for_arrives() {
        let spec = run(&[
            ("memory", "1500K"),
            ("memory", "512M"),
            ("profiles", "zfs,memdev"),
            ("profiles", "zfs"),
            ("profiles", "memdev:count=2"),
            ("packages", "strace,fio,strace"),
            ("shares", "/a:/x"),
            ("shares", "/b:/x:rw"),
            ("disks", "1G"),
            ("disks", "./pool"),
            ("env", "SECRET"),
            ("env", "MISSING"),
            ("env", "TERM=dumb"),
            ("timeout", "90s"),
            ("boot_timeout", "off"),
            ("arch", "arm64"),
            ("machine", "virt"),
        ])
        .unwrap();
        assert_eq!(spec.memory_mib, 512);
        assert_eq!(spec.profiles, ["zfs", "memdev"]);
        let options: Vec<_> =
            spec.profile_options.iter().map(|g| format!("{} {} {}", g.profile, g.option, g.value)).collect();
        assert_eq!(options, ["memdev count `2`"]);
        assert_eq!(spec.packages, ["fio", "strace"]);
        assert_eq!(spec.shares, [ShareSpec { host: "/b".into(), guest: "/x".into(), writable: true }]);
        let pool = DiskSpec::File { path: "/src/tree/sub/pool".into(), format: ImageFormat::Raw };
        assert_eq!(spec.disks, [DiskSpec::Blank { bytes: 1 << 30 }, pool]);
        assert_eq!(spec.env, [("SECRET", "s"), ("TERM", "dumb")].map(|(n, v)| (n.into(), v.into())));
        assert_eq!(spec.timeout, Some(Duration::from_secs(90)));
        assert_eq!(spec.boot_timeout, None);
        assert_eq!((spec.arch.as_str(), spec.machine.as_deref()), ("aarch64", Some("virt")));
    }

    #[test]
    fn values_that_do_not_fit_name_their_origin() {
        let error = |options: &[(&'static str, &str)]| run(options).unwrap_err().to_string();
        assert_eq!(
            error(&[("memory", "1M")]),
            "1 MiB of memory is too little for a guest; the least is 64M (--option)"
        );
        assert_eq!(
            error(&[("arch", "s390x"), ("machine", "q35")]),
            "s390x has no machine `q35`; it has auto, s390-ccw-virtio (--option)"
        );
        assert!(error(&[("memory", "9999T")]).contains("more memory than a guest can have"));
    }
}
