//! `quiz doctor`: what this host has and lacks for quiz, and what is in the cache. Changes nothing.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use quiz_arch::Arch;
use quiz_config::AccelChoice;
use quiz_image::host::{self, Purpose, Search, Sign, Tool};
use quiz_image::{kernel, root};
use serde::Serialize;

use crate::context::Context;
use crate::errors::Fault;
use crate::output::{self, size};
use crate::prepare;

/// Nothing to choose.
#[derive(Debug, Args)]
pub struct Doctor {}

#[derive(Debug, Serialize)]
struct Record {
    quiz: &'static str,
    host: String,
    /// Whether `quiz true` would work: what it needs is there or can be made.
    ready: bool,
    accelerator: String,
    /// The architectures that this quiz has an agent for.
    agents: Vec<&'static str>,
    needs: Vec<Need>,
    /// One command that installs what is missing for guests of the host's architecture.
    install: Option<String>,
    /// One command that installs everything else that is missing.
    install_rest: Option<String>,
    cache: Option<CacheRecord>,
    worktree: Option<PathBuf>,
    settings: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Need {
    name: &'static str,
    purpose: &'static str,
    /// What cannot be done without it.
    disables: String,
    found: bool,
    version: Option<String>,
    /// Needed for guests or kernels of the host's own architecture, or only for others.
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

/// Prints it.
pub fn run(_args: &Doctor, ctx: &Context) -> Result<std::process::ExitCode, Fault> {
    let record = examine(ctx)?;
    let text = if ctx.json { None } else { Some(render(&record)) };
    match text {
        Some((needs, rest)) => {
            output::table(&["NEEDED", "FOUND", "FOR"], needs)?;
            output::text(&rest)?;
        }
        None => output::json(&record)?,
    }
    Ok(if record.ready { std::process::ExitCode::SUCCESS } else { crate::errors::FAULT.into() })
}

fn examine(ctx: &Context) -> Result<Record, Fault> {
    let own = quiz_arch::host();
    let search = prepare::search(ctx);
    let cache = ctx.cache().ok().map(|cache| cache_record(&cache, ctx)).transpose()?;
    let mut needs: Vec<Need> = Vec::new();
    let mut missing: Vec<&Tool> = Vec::new();
    let mut missing_rest: Vec<&Tool> = Vec::new();
    for (purpose, disables, own_arch) in purposes(own) {
        for tool in host::tools(purpose, own) {
            if needs.iter().any(|need| need.name == tool.name()) {
                continue;
            }
            let found = search.has(tool.sign);
            match (found, own_arch) {
                (true, _) => {}
                (false, true) => missing.push(tool),
                (false, false) => missing_rest.push(tool),
            }
            let version = version(tool, &search);
            needs.push(Need {
                name: tool.name(),
                purpose: tool.purpose,
                disables: disables.clone(),
                found,
                version,
                own_arch,
            });
        }
    }
    needs.extend(owners_of_files(&search, ctx));
    let mut first_run = vec![Purpose::Run(own)];
    if cache.as_ref().is_none_or(|cache| cache.kernels.is_empty()) {
        first_run.push(Purpose::KernelAdd);
    }
    if cache.as_ref().is_none_or(|cache| cache.roots.is_empty()) {
        first_run.push(Purpose::RootBuild(own));
    }
    let distribution = prepare::distribution();
    let install = |tools: &[&Tool]| (!tools.is_empty()).then(|| host::install_hint(&distribution, tools));
    let settings = [ctx.paths.config_file(), ctx.worktree.as_ref().and_then(|w| w.settings.clone())];
    Ok(Record {
        quiz: env!("CARGO_PKG_VERSION"),
        ready: cache.is_some() && host::missing(&first_run, own, &|sign| search.has(sign)).is_empty(),
        accelerator: accelerator_report(own, ctx),
        agents: crate::run::agents::names().collect(),
        install: install(&missing),
        install_rest: install(&missing_rest),
        host: format!("{} on {}", distribution.name, own.name),
        needs,
        cache,
        worktree: ctx.worktree.as_ref().map(|worktree| worktree.dir.clone()),
        settings: settings.into_iter().flatten().filter(|file| file.exists()).collect(),
    })
}

/// What ordinary users need to make roots, besides the programs: one of two ways for files to have several owners.
/// The superuser needs nothing of it.
fn owners_of_files(search: &Search, ctx: &Context) -> Option<Need> {
    let uid = rustix::process::geteuid();
    let names = [ctx.variable("USER"), ctx.variable("LOGNAME")].into_iter().flatten();
    let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).chain([uid.to_string()]).collect();
    let listed = |file: &str| {
        let text = fs_err::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| line.split(':').next().is_some_and(|owner| names.iter().any(|name| name == owner)))
    };
    let has = |program| search.program(program).is_some();
    let unshares = has("newuidmap") && listed("/etc/subuid") && listed("/etc/subgid");
    (!uid.is_root()).then(|| Need {
        name: "subordinate ids, or fakechroot",
        purpose: "let an ordinary user make file systems with several owners",
        disables: "roots (usermod --add-subuids, --add-subgids)".to_owned(),
        found: unshares || (has("fakechroot") && has("fakeroot")),
        version: None,
        own_arch: true,
    })
}

/// Every purpose, with what cannot be done without it and whether it is about the host's own architecture. The most
/// important first.
fn purposes(own: &'static Arch) -> Vec<(Purpose, String, bool)> {
    let mut purposes = vec![
        (Purpose::Run(own), "runs".to_owned(), true),
        (Purpose::KernelAdd, "stock kernels (quiz kernel add)".to_owned(), true),
        (Purpose::RootBuild(own), "roots (quiz root build)".to_owned(), true),
        (Purpose::KernelBuild(own), "building kernels (quiz kernel build)".to_owned(), true),
        (Purpose::Llvm, "building kernels with Clang (--llvm)".to_owned(), false),
        (Purpose::ZfsBuild, "building OpenZFS (quiz zfs)".to_owned(), false),
        (Purpose::Debug, "debugging kernels (quiz debug, --gdb)".to_owned(), false),
    ];
    for arch in quiz_arch::ALL.iter().filter(|arch| **arch != own) {
        purposes.push((Purpose::Run(arch), format!("runs of {} guests", arch.name), false));
        purposes.push((Purpose::RootBuild(arch), "roots of other architectures".to_owned(), false));
        purposes.push((Purpose::KernelBuild(arch), format!("building {} kernels", arch.name), false));
    }
    purposes
}

/// The version that a program says it has, for those where it matters.
fn version(tool: &Tool, search: &Search) -> Option<String> {
    let Sign::Program(name) = tool.sign else { return None };
    let tells = name.starts_with("qemu-system-") || ["mmdebstrap", "apt-get", "gcc", "clang", "make"].contains(&name);
    let program = search.program(name).filter(|_| tells)?;
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // The first word that begins with a digit: "QEMU emulator version 7.2.17 (Debian ...)", "mmdebstrap 1.3.5".
    let word = text.lines().next()?.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(word.trim_end_matches([',', ')']).to_owned())
}

/// What runs the guest's instructions here, and why.
fn accelerator_report(own: &'static Arch, ctx: &Context) -> String {
    match crate::run::accelerator(AccelChoice::Auto, own, ctx) {
        Ok(Some(choice)) => format!("{}: {}", choice.accel.name(), choice.why),
        Ok(None) => "/dev/kvm can be opened; the first run finds out whether it runs a kernel".to_owned(),
        Err(fault) => fault.message(),
    }
}

fn cache_record(cache: &quiz_image::Cache, ctx: &Context) -> Result<CacheRecord, Fault> {
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

/// Bytes on disk of a directory tree, as `du` counts them but for hard links. What vanishes meanwhile counts nothing.
fn disk_use_of(path: &Path) -> u64 {
    let Ok(meta) = fs_err::symlink_metadata(path) else { return 0 };
    let own = meta.blocks() * 512;
    if !meta.is_dir() {
        return own;
    }
    let Ok(entries) = fs_err::read_dir(path) else { return own };
    own + entries.flatten().map(|entry| disk_use_of(&entry.path())).sum::<u64>()
}

fn render(record: &Record) -> (Vec<Vec<String>>, String) {
    let mut needs: Vec<Vec<String>> = Vec::new();
    for need in &record.needs {
        let found = match (&need.version, need.found) {
            (Some(version), true) => version.clone(),
            (_, true) => "yes".to_owned(),
            (_, false) => "missing".to_owned(),
        };
        needs.push(vec![need.name.to_owned(), found, need.disables.clone()]);
    }
    let mut text = "\n".to_owned();
    let mut line = |name: &str, value: &str| text += &format!("{name:<12} {value}\n");
    line("quiz", &format!("{} on {}", record.quiz, record.host));
    line("accelerator", &record.accelerator);
    line("guests", &record.agents.join(", "));
    match &record.cache {
        None => line("cache", "nowhere: set HOME or QUIZ_CACHE"),
        Some(cache) => {
            line("cache", &cache.dir.display().to_string());
            for (shelf, bytes) in &cache.disk_use {
                line("", &format!("{shelf:<12} {}", size(*bytes)));
            }
            let names = |names: &[String]| if names.is_empty() { "none yet".to_owned() } else { names.join(", ") };
            line("kernels", &names(&cache.kernels));
            line("roots", &names(&cache.roots));
        }
    }
    let worktree = record.worktree.as_ref().map_or("none here".to_owned(), |dir| dir.display().to_string());
    line("worktree", &worktree);
    for file in &record.settings {
        line("settings", &file.display().to_string());
    }
    if let Some(install) = &record.install {
        line("to install", install);
    }
    if let Some(install) = &record.install_rest {
        line("for the rest", install);
    }
    line("ready", if record.ready { "yes" } else { "no: a run would stop for what is missing" });
    (needs, text)
}
