//! The profiles that there are (quiz's own, the user's, the worktree's), and those of one run. Not for carrying out what they ask
//! for (see `run::setup`).

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use include_dir::{Dir, DirEntry, include_dir};
use quiz_config::profile::{KernelOption, Source};
use quiz_config::{Catalog, Chosen, Given, RunSpec};
use quiz_host::{Cache, Entry, Report, StoreError, digest};
use quiz_kernel::kernel::{self, Kernel};
use walkdir::WalkDir;

use crate::consent;
use crate::context::Context;
use crate::errors::Fault;

/// quiz's own. A program that the host runs has to be a file somewhere, so they are written to the cache.
static BUILT_IN: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/profiles");

/// Some versions of quiz may be in use at once.
const KEPT: usize = 4;

/// All profiles, in use until this value is dropped.
#[derive(Debug)]
pub struct Profiles {
    /// By name.
    pub catalog: Catalog,
    _built_in: Entry,
}

/// Finds all profiles.
pub fn find(ctx: &Context) -> Result<Profiles, Fault> {
    let built_in = built_in(&ctx.cache()?, &ctx.report)?;
    let mut places = vec![(Source::BuiltIn, built_in.dir().to_owned())];
    places.extend(ctx.paths.profiles_dir().map(|dir| (Source::User, dir)));
    if let Some(worktree) = &ctx.worktree {
        let of_worktree = [worktree.dir.join("profiles"), worktree.state_dir().join("profiles")];
        places.extend(of_worktree.map(|dir| (Source::Worktree, dir)));
    }
    Ok(Profiles { catalog: Catalog::read(&places), _built_in: built_in })
}

fn built_in(cache: &Cache, report: &dyn Report) -> Result<Entry, StoreError> {
    let mut files = Vec::new();
    collect(&BUILT_IN, &mut files);
    let mut text = Vec::new();
    for (path, contents) in &files {
        text.extend_from_slice(path.as_os_str().as_encoded_bytes());
        text.extend_from_slice(&(contents.len() as u64).to_le_bytes());
        text.extend_from_slice(contents);
    }
    let shelf = cache.shelf("profiles");
    let name = &digest::of_bytes(&text)[..20];
    if let Some(entry) = shelf.open(name)? {
        return Ok(entry);
    }
    let entry = shelf.build(name, "writing quiz's own profiles", false, report, |dir| {
        write_all(dir, &files).map_err(StoreError::io("write quiz's own profiles"))?;
        Ok::<_, StoreError>(serde_json::json!({ "quiz_version": env!("CARGO_PKG_VERSION") }))
    })?;
    shelf.keep_newest(KEPT)?;
    Ok(entry)
}

fn collect(dir: &Dir<'static>, files: &mut Vec<(&'static Path, &'static [u8])>) {
    for entry in dir.entries() {
        match entry {
            DirEntry::Dir(dir) => collect(dir, files),
            DirEntry::File(file) => files.push((file.path(), file.contents())),
        }
    }
}

fn write_all(dir: &Path, files: &[(&Path, &[u8])]) -> std::io::Result<()> {
    for (path, contents) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap_or(dir))?;
        // What is embedded has lost its mode; programs say by themselves that they are.
        let mode = if contents.starts_with(b"#!") { 0o755 } else { 0o644 };
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(contents)?;
    }
    Ok(())
}

/// The profiles of a run that named `names`, with what they need, in order.
pub fn choose(names: &[String], given: &[Given], ctx: &Context) -> Result<Vec<Chosen>, Fault> {
    if names.is_empty() && given.is_empty() {
        return Ok(Vec::new());
    }
    let chosen = ctx.profiles()?.catalog.choose(names, given)?;
    let me = rustix::process::geteuid().as_raw();
    for one in &chosen {
        // With all that it has: what others can change is theirs.
        for entry in WalkDir::new(&one.profile.dir) {
            let entry = entry.map_err(io::Error::from)?;
            let metadata = entry.metadata().map_err(io::Error::from)?;
            let refused = |why: String| {
                let file = entry.path().display();
                Err(Fault::new(format!("the profile `{}` is not used: {file} {why}", one.profile.name)))
            };
            let owner = metadata.uid();
            if owner != me && owner != 0 {
                return refused(format!("belongs to user {owner}, who is neither you nor root"));
            }
            if metadata.mode() & 0o002 != 0 && !metadata.is_symlink() {
                return refused("can be written to by everybody; take that right away (chmod o-w)".to_owned());
            }
        }
    }
    consent::require_profiles(&chosen, ctx)?;
    Ok(chosen)
}

/// The packages that the root of a run with these profiles has, beside those of the settings.
pub fn packages(spec: &RunSpec, chosen: &[Chosen]) -> Vec<String> {
    let mut packages = spec.packages.clone();
    packages.extend(chosen.iter().flat_map(|one| one.profile.packages.iter().cloned()));
    packages.sort();
    packages.dedup();
    packages
}

/// What `kernel` lacks of the needs of `chosen`: the profile and the option.
pub fn lacks<'a>(kernel: &Kernel, chosen: &'a [Chosen]) -> Result<Vec<(&'a str, &'a KernelOption)>, Fault> {
    let mut lacks = Vec::new();
    for one in chosen {
        for option in &one.profile.kernel_needs {
            if !option.met(kernel.option(&option.name)?.as_deref()) {
                lacks.push((one.profile.name.as_str(), option));
            }
        }
    }
    Ok(lacks)
}

/// Refuses a kernel that lacks what a profile needs, with a kernel that has it or the command that makes one.
pub fn require_kernel(kernel: &Kernel, chosen: &[Chosen], asked: &[String], ctx: &Context) -> Result<(), Fault> {
    let lacking = lacks(kernel, chosen)?;
    if lacking.is_empty() {
        return Ok(());
    }
    let mut names: Vec<&str> = lacking.iter().map(|(profile, _)| *profile).collect();
    names.dedup();
    let options: Vec<String> = lacking.iter().map(|(_, option)| option.to_string()).collect();
    let word = if names.len() == 1 { "profile" } else { "profiles" };
    let fault = Fault::new(format!(
        "the kernel {} lacks what the {word} {} cannot do without: {}",
        kernel.name(),
        names.join(", "),
        options.join(", ")
    ));
    let mut others = Vec::new();
    for other in kernel::list(&ctx.cache()?, &ctx.report)? {
        if other.manifest.arch == kernel.manifest.arch && lacks(&other, chosen)?.is_empty() {
            others.push(format!("-k {}", other.name()));
        }
    }
    let build = format!("quiz kernel build -p {} 6.12", asked.join(","));
    Err(fault.hint(match others.as_slice() {
        [] => format!("`{build}` makes a kernel that has it (or another version, or a source package)"),
        others => format!("these have it: {}; `{build}` makes another", others.join(", ")),
    }))
}

/// What the profiles ask of a kernel that quiz builds, as text of a kernel's configuration, by profile.
pub fn kernel_fragments(chosen: &[Chosen]) -> Vec<(String, String)> {
    let text = |one: &Chosen| -> String {
        let options = one.profile.kernel_needs.iter().chain(&one.profile.kernel_uses);
        options.map(KernelOption::line).collect()
    };
    let all = chosen.iter().map(|one| (format!("the profile {}", one.profile.name), text(one)));
    all.filter(|(_, text)| !text.is_empty()).collect()
}
