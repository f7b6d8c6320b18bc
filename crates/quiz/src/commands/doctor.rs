//! `quiz doctor`: checks what this host has and lacks for quiz, and what is in the cache. Changes
//! nothing.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use quiz_arch::Arch;
use quiz_config::{AccelChoice, RootBuilder};
use quiz_host::tools::{self, Search, Sign, Tool};
use quiz_image::root::{self, Builder, Way};
use quiz_kernel::kernel;
use quiz_needs::Purpose;
use serde::Serialize;

use crate::output::{self, size};
use quiz_run::{Context, Fault};
use quiz_run::{needs, prepare};

/// What to print.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Check other architectures and the tests of quiz, too, and list all programs
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Serialize)]
struct Record {
    quiz: &'static str,
    host: String,
    /// Whether `quiz true` would work: quiz has what it needs, or can make it.
    ready: bool,
    accelerator: String,
    /// The architectures that this build of quiz has an agent for.
    agents: Vec<&'static str>,
    purposes: Vec<PurposeRecord>,
    needs: Vec<Need>,
    /// One command that installs what is missing for guests of the host's architecture.
    install: Option<String>,
    /// One command that installs everything else that is missing.
    install_rest: Option<String>,
    cache: Option<CacheRecord>,
    worktree: Option<PathBuf>,
    settings: Vec<PathBuf>,
}

/// Something that quiz does on the host.
#[derive(Debug, Serialize)]
struct PurposeRecord {
    purpose: &'static str,
    arch: &'static str,
    ready: bool,
    /// Names of the programs, headers and files that are missing.
    missing: Vec<&'static str>,
    /// How quiz does it, if not in the usual way.
    how: Option<String>,
    /// The text for people.
    #[serde(skip)]
    title: String,
    /// Whether quiz shows it without `--all`, too.
    #[serde(skip)]
    everyday: bool,
}

#[derive(Debug, Serialize)]
struct Need {
    name: &'static str,
    purpose: &'static str,
    /// What quiz cannot do without it.
    disables: String,
    found: bool,
    version: Option<String>,
    /// Whether guests or kernels of the host's own architecture need it, or only others.
    own_arch: bool,
}

#[derive(Debug, Serialize)]
struct CacheRecord {
    dir: PathBuf,
    kernels: Vec<String>,
    roots: Vec<String>,
    /// Bytes on disk by shelf.
    disk_use: Vec<(String, u64)>,
}

/// Examines the host, prints what it found, and exits 0 if a run could start.
pub fn run(args: &Doctor, ctx: &Context) -> Result<std::process::ExitCode, Fault> {
    let record = examine(ctx, args.all || ctx.json)?;
    if ctx.json {
        output::json(&record)?;
    } else {
        if args.all {
            output::table(&["NEEDED", "FOUND", "FOR"], tools_table(&record))?;
            output::text("\n")?;
        }
        output::text(&summary(&record, args.all))?;
    }
    Ok(if record.ready { std::process::ExitCode::SUCCESS } else { quiz_run::FAULT.into() })
}

/// Examines the host. `all` adds other architectures and the versions of programs, which takes
/// longer.
fn examine(ctx: &Context, all: bool) -> Result<Record, Fault> {
    let own = quiz_arch::host();
    let search = ctx.search();
    let cache = ctx.cache().ok().map(|cache| cache_record(&cache, ctx)).transpose()?;
    let mut purposes = Vec::new();
    let mut needs: Vec<Need> = Vec::new();
    let mut missing: Vec<Tool> = Vec::new();
    let mut missing_rest: Vec<Tool> = Vec::new();
    for Row { purpose, key, arch, title, everyday } in rows(own) {
        // quiz must run programs to learn facts about other architectures.
        let is_root = matches!(purpose, Purpose::RootBuild(_)) && (all || arch == own);
        let facts = is_root.then(|| prepare::root_facts(arch, ctx));
        let purpose_set = match &facts {
            Some(facts) => prepare::root_purposes(RootBuilder::Auto, arch, facts),
            None => vec![purpose],
        };
        let how = facts.and_then(|facts| match root::way(Builder::Auto, arch, own, &facts) {
            Way::Mmdebstrap => None,
            Way::Vm(reason) => Some(format!("in a VM: {reason}")),
        });
        let mut tools: Vec<Tool> = Vec::new();
        for tool in purpose_set.into_iter().flat_map(|purpose| quiz_needs::tools(purpose, own)) {
            if !tools.contains(&tool) {
                tools.push(tool);
            }
        }
        let lacking: Vec<Tool> = tools.iter().copied().filter(|tool| !search.has(tool.sign)).collect();
        let list = if everyday { &mut missing } else { &mut missing_rest };
        list.extend(lacking.iter().copied().filter(|_| everyday || arch == own));
        for tool in tools {
            if all && !needs.iter().any(|need| need.name == tool.name()) {
                needs.push(Need {
                    name: tool.name(),
                    purpose: tool.does,
                    disables: title.clone(),
                    found: !lacking.contains(&tool),
                    version: version(&tool, &search),
                    own_arch: arch == own,
                });
            }
        }
        let missing = lacking.iter().map(|tool| tool.name()).collect::<Vec<_>>();
        purposes.push(PurposeRecord {
            purpose: key,
            arch: arch.name,
            ready: missing.is_empty(),
            missing,
            how,
            title,
            everyday,
        });
    }
    missing_rest.retain(|tool| !missing.contains(tool));
    let mut first_run = vec![Purpose::Run(own)];
    if cache.as_ref().is_none_or(|cache| cache.kernels.is_empty()) {
        first_run.push(Purpose::KernelAdd);
    }
    if cache.as_ref().is_none_or(|cache| cache.roots.is_empty()) {
        first_run.extend(prepare::root_purposes(RootBuilder::Auto, own, &prepare::root_facts(own, ctx)));
    }
    let distribution = needs::distribution();
    let install = |tools: &[Tool]| (!tools.is_empty()).then(|| tools::install_hint(&distribution, tools));
    let settings = [ctx.paths.config_file(), ctx.worktree.as_ref().and_then(|w| w.settings.clone())];
    Ok(Record {
        quiz: env!("CARGO_PKG_VERSION"),
        ready: cache.is_some() && quiz_needs::missing(&first_run, own, |sign| search.has(sign)).is_empty(),
        accelerator: accelerator_report(own, ctx),
        agents: quiz_run::agents::names().collect(),
        install: install(&missing),
        install_rest: install(&missing_rest),
        host: format!("{} on {}", distribution.name, own.name),
        purposes,
        needs,
        cache,
        worktree: ctx.worktree.as_ref().map(|worktree| worktree.dir.clone()),
        settings: settings.into_iter().flatten().filter(|file| file.exists()).collect(),
    })
}

/// A purpose, as doctor shows it.
struct Row {
    purpose: Purpose,
    /// Its name in the record.
    key: &'static str,
    arch: &'static Arch,
    title: String,
    everyday: bool,
}

/// Returns every purpose, the most important first.
fn rows(own: &'static Arch) -> Vec<Row> {
    let row = |purpose, key, arch: &'static Arch, title: &str, everyday| {
        let of = if arch == own { String::new() } else { format!(" ({})", arch.name) };
        Row { purpose, key, arch, title: format!("{title}{of}"), everyday }
    };
    let mut rows = vec![
        row(Purpose::Run(own), "run", own, "run programs", true),
        row(Purpose::KernelAdd, "kernel-add", own, "fetch stock kernels", true),
        row(Purpose::RootBuild(own), "root-build", own, "build roots", true),
        row(Purpose::KernelBuild(own), "kernel-build", own, "build kernels", true),
        row(Purpose::ZfsBuild, "zfs-build", own, "build OpenZFS", true),
        row(Purpose::ZfsTest, "zfs-test", own, "run the ZFS test suite", true),
        row(Purpose::Debug, "debug", own, "debug kernels", true),
        row(Purpose::KernelGit, "kernel-git", own, "build kernels from git", false),
        row(Purpose::Llvm, "kernel-llvm", own, "build kernels with Clang", false),
        row(Purpose::Test, "tests", own, "test quiz itself", false),
        row(Purpose::Bench, "benches", own, "measure quiz itself", false),
        row(Purpose::Fuzz, "fuzz", own, "fuzz quiz itself", false),
    ];
    for arch in quiz_arch::ALL.iter().filter(|arch| **arch != own) {
        rows.push(row(Purpose::Run(arch), "run", arch, "run programs", false));
        rows.push(row(Purpose::RootBuild(arch), "root-build", arch, "build roots", false));
        rows.push(row(Purpose::KernelBuild(arch), "kernel-build", arch, "build kernels", false));
        rows.push(row(Purpose::ZfsCross(arch), "zfs-build", arch, "build OpenZFS", false));
        rows.push(row(Purpose::Agent(arch), "agent", arch, "build quiz's agent", false));
    }
    rows
}

/// Returns the version that a program reports, for programs whose version matters.
fn version(tool: &Tool, search: &Search) -> Option<String> {
    let Sign::Program(name) = tool.sign else { return None };
    let tells = name.starts_with("qemu-system-") || ["mmdebstrap", "apt-get", "gcc", "clang", "make"].contains(&name);
    let program = search.program(name).filter(|_| tells)?;
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // The first word that begins with a digit: "QEMU emulator version 7.2.17 (Debian ...)",
    // "mmdebstrap 1.3.5".
    let word = text.lines().next()?.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(word.trim_end_matches([',', ')']).to_owned())
}

/// Returns what runs the guest's instructions on this host, and why.
fn accelerator_report(own: &'static Arch, ctx: &Context) -> String {
    match quiz_run::accelerator(AccelChoice::Auto, own, ctx) {
        Ok(Some(choice)) => format!("{}: {}", choice.accel.name(), choice.why),
        Ok(None) => "/dev/kvm can be opened; the first run finds out whether it runs a kernel".to_owned(),
        Err(fault) => fault.message(),
    }
}

fn cache_record(cache: &quiz_host::Cache, ctx: &Context) -> Result<CacheRecord, Fault> {
    let mut disk_use = Vec::new();
    if let Ok(shelves) = fs_err::read_dir(cache.dir()) {
        for shelf in shelves.flatten() {
            disk_use.push((shelf.file_name().to_string_lossy().into_owned(), disk_use_of(&shelf.path())));
        }
    }
    disk_use.sort();
    Ok(CacheRecord {
        dir: cache.dir().to_owned(),
        kernels: kernel::list(cache, &ctx.report)?.iter().map(|kernel| kernel.name().to_owned()).collect(),
        roots: root::list(cache, &ctx.report)?.iter().map(|root| root.name().to_owned()).collect(),
        disk_use,
    })
}

/// Returns the bytes on disk of a directory tree, as `du` counts them, except for hard links. Files
/// that vanish meanwhile do not count.
fn disk_use_of(path: &Path) -> u64 {
    let Ok(meta) = fs_err::symlink_metadata(path) else { return 0 };
    let own = meta.blocks() * 512;
    if !meta.is_dir() {
        return own;
    }
    let Ok(entries) = fs_err::read_dir(path) else { return own };
    own + entries.flatten().map(|entry| disk_use_of(&entry.path())).sum::<u64>()
}

/// Returns each tool with its version, for `--all`.
fn tools_table(record: &Record) -> Vec<Vec<String>> {
    let found = |need: &Need| match (&need.version, need.found) {
        (Some(version), true) => version.clone(),
        (_, true) => "yes".to_owned(),
        (_, false) => "missing".to_owned(),
    };
    record.needs.iter().map(|need| vec![need.name.to_owned(), found(need), need.disables.clone()]).collect()
}

/// Returns what fits on one screen:
///
/// - a line for each everyday purpose
/// - one line for all other architectures
/// - the verdict
/// - the command that installs what is missing
fn summary(record: &Record, all: bool) -> String {
    let own = quiz_arch::host().name;
    let mut rows: Vec<(String, String)> = vec![(format!("quiz {}", record.quiz), record.host.clone())];
    rows.push(("accelerator".to_owned(), record.accelerator.clone()));
    for purpose in record.purposes.iter().filter(|purpose| purpose.everyday || (all && purpose.arch == own)) {
        let state = match (purpose.ready, &purpose.how) {
            (true, None) => "ready".to_owned(),
            (true, Some(how)) => format!("ready, {how}"),
            (false, _) => format!("missing: {}", purpose.missing.join(", ")),
        };
        rows.push((purpose.title.clone(), state));
    }
    rows.push(("other architectures".to_owned(), other_architectures(record, all)));
    match &record.cache {
        None => rows.push(("cache".to_owned(), "nowhere: set HOME or QUIZ_CACHE".to_owned())),
        Some(cache) => {
            let bytes = cache.disk_use.iter().map(|(_, bytes)| bytes).sum();
            rows.push(("cache".to_owned(), format!("{}, {}", cache.dir.display(), size(bytes))));
            if all {
                rows.extend(cache.disk_use.iter().map(|(shelf, bytes)| (format!("  {shelf}"), size(*bytes))));
            }
            let names = |names: &[String]| match names.len() {
                0 => "none yet".to_owned(),
                n if all || n <= 4 => names.join(", "),
                n => format!("{}, and {} more", names[..3].join(", "), n - 3),
            };
            rows.push(("kernels".to_owned(), names(&cache.kernels)));
            rows.push(("roots".to_owned(), names(&cache.roots)));
        }
    }
    let worktree = record.worktree.as_ref().map_or("none here".to_owned(), |dir| dir.display().to_string());
    rows.push(("worktree".to_owned(), worktree));
    rows.extend(record.settings.iter().map(|file| ("settings".to_owned(), file.display().to_string())));
    let mut text: String = rows.iter().map(|(name, value)| format!("{name:<25} {value}\n")).collect();
    text += "\n";
    text += match (record.ready, &record.install) {
        (true, None) => "ready: quiz has all that it needs for guests of this host's architecture\n",
        (true, Some(_)) => "ready: quiz can run programs, but not all else\n",
        (false, _) => "not ready: a run would stop for what is missing\n",
    };
    let mut hint =
        |install: &Option<String>| text += &install.iter().map(|line| format!("{line}\n")).collect::<String>();
    hint(&record.install);
    if all {
        hint(&record.install_rest);
    }
    text
}

/// Returns which other architectures can have guests here: those with an agent and a QEMU.
fn other_architectures(record: &Record, all: bool) -> String {
    let own = quiz_arch::host().name;
    let runs = record.purposes.iter().filter(|purpose| purpose.purpose == "run" && purpose.arch != own);
    let (ready, others): (Vec<_>, Vec<_>) = runs.partition(|p| p.ready && record.agents.contains(&p.arch));
    let ready: Vec<&str> = ready.iter().map(|purpose| purpose.arch).collect();
    let ready = if ready.is_empty() { "none ready".to_owned() } else { format!("{} ready", ready.join(", ")) };
    let lacks = |purpose: &&PurposeRecord| match purpose.ready {
        true => format!("{} (no agent)", purpose.arch),
        false => purpose.arch.to_owned(),
    };
    match others.len() {
        0 => ready,
        _ if all => format!("{ready}; not {}", others.iter().map(lacks).collect::<Vec<_>>().join(", ")),
        n => format!("{ready}, {n} not (quiz doctor --all)"),
    }
}
