//! The profiles of one run, and what they ask of its kernel and its root. Not for carrying out what
//! they ask for (`setup`).

use std::io;
use std::os::unix::fs::MetadataExt;

use quiz_config::profile::KernelOption;
use quiz_config::{Chosen, Given, RunSpec};
use quiz_kernel::kernel::{self, Kernel};
use walkdir::WalkDir;

use crate::consent;
use crate::context::Context;
use crate::fault::Fault;

/// Returns the profiles `names` and those that they need, in order.
pub fn choose(names: &[String], given: &[Given], ctx: &Context) -> Result<Vec<Chosen>, Fault> {
    if names.is_empty() && given.is_empty() {
        return Ok(Vec::new());
    }
    let chosen = ctx.profiles()?.catalog.choose(names, given)?;
    let me = rustix::process::geteuid().as_raw();
    for one in &chosen {
        // Check all files of the profile: a user who can change one of them controls the profile.
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

/// Returns the packages for the root of a run: those of the settings and of the profiles.
pub fn packages(spec: &RunSpec, chosen: &[Chosen]) -> Vec<String> {
    let mut packages = spec.packages.clone();
    packages.extend(chosen.iter().flat_map(|one| one.profile.packages.iter().cloned()));
    packages.sort();
    packages.dedup();
    packages
}

/// Returns the options that `chosen` need and `kernel` lacks, each with its profile.
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

/// Refuses a kernel that lacks what a profile needs. The hint names a kernel that has it, or the
/// command that makes one.
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
        "the kernel {} lacks what the {word} {} needs: {}",
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

/// Returns what each profile asks of a kernel that quiz builds, as text of a kernel configuration.
pub fn kernel_fragments(chosen: &[Chosen]) -> Vec<(String, String)> {
    let text = |one: &Chosen| -> String {
        let options = one.profile.kernel_needs.iter().chain(&one.profile.kernel_uses);
        options.map(KernelOption::line).collect()
    };
    let all = chosen.iter().map(|one| (format!("the profile {}", one.profile.name), text(one)));
    all.filter(|(_, text)| !text.is_empty()).collect()
}
