//! Runs the profiles' `setup` on the host, and collects what they ask for. Not for carrying that
//! out (see `disks`, `layers`, `order`).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use quiz_config::profile::{Directive, DiskDirective, directive};
use quiz_config::{Chosen, ShareSpec, Verbosity};
use quiz_host::Report;
use quiz_kernel::Kernel;

use crate::context::Context;
use crate::fault::Fault;

/// What the profiles of a run ask for, in their order.
#[derive(Debug, Default)]
pub struct Asked {
    pub disks: Vec<DiskDirective>,
    pub shares: Vec<ShareSpec>,
    pub append: Vec<String>,
    pub qemu_args: Vec<OsString>,
    pub env: Vec<(String, String)>,
    pub modules: Vec<Module>,
    /// Pairs of a link and its device.
    pub links: Vec<(String, String)>,
    /// Later layers lie over earlier ones.
    pub layers: Vec<PathBuf>,
    pub net: Option<String>,
}

/// A module to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, or its absolute path in the guest.
    pub name: String,
    pub parameters: Vec<String>,
    /// The profile that asks for it.
    pub profile: String,
}

/// Returns every option of every profile of the run, as environment variables for the profiles'
/// programs.
pub fn options(chosen: &[Chosen]) -> Vec<(String, String)> {
    let of = |one: &Chosen| -> Vec<(String, String)> {
        one.values.iter().map(|(option, value)| (one.profile.variable(option), value.clone())).collect()
    };
    chosen.iter().flat_map(of).collect()
}

/// Runs every `setup` in order. The programs may use `scratch` until the run has ended.
pub fn run(chosen: &[Chosen], kernel: &Kernel, scratch: &Path, ctx: &Context) -> Result<Asked, Fault> {
    let mut asked = Asked::default();
    for one in chosen {
        if let Some(program) = one.profile.setup() {
            let output = answer(one, &program, chosen, kernel, scratch, ctx)?;
            take(&output, &one.profile.name, &mut asked, ctx)?;
        }
    }
    Ok(asked)
}

fn answer(
    one: &Chosen,
    program: &Path,
    all: &[Chosen],
    kernel: &Kernel,
    scratch: &Path,
    ctx: &Context,
) -> Result<String, Fault> {
    let name = &one.profile.name;
    let place = scratch.join(name);
    fs_err::create_dir_all(&place)?;
    let names: Vec<&str> = all.iter().map(|one| one.profile.name.as_str()).collect();
    let path = |path: Option<&Path>| path.map_or_else(OsString::new, |path| path.as_os_str().to_owned());
    let mut command = Command::new(program);
    command.envs(options(all)).current_dir(&ctx.cwd);
    let given: [(&str, OsString); 12] = [
        ("PROFILE_NAME", name.into()),
        ("PROFILE_DIR", path(Some(&one.profile.dir))),
        ("PROFILE_SCRATCH", path(Some(&place))),
        ("PROFILE_WORKTREE", path(ctx.worktree.as_ref().map(|worktree| worktree.dir.as_path()))),
        ("PROFILE_STATE", path(ctx.worktree.as_ref().map(|worktree| worktree.state_dir()).as_deref())),
        ("PROFILE_CACHE", path(Some(ctx.cache()?.dir()))),
        ("PROFILE_KERNEL", kernel.name().into()),
        ("PROFILE_KERNEL_RELEASE", kernel.manifest.release.clone().into()),
        ("PROFILE_KERNEL_DIR", path(Some(kernel.dir()))),
        ("PROFILE_ARCH", kernel.manifest.arch.clone().into()),
        ("PROFILE_PROFILES", names.join(" ").into()),
        ("PROFILE_QUIZ", path(ctx.program.as_deref())),
    ];
    command.envs(given.iter().map(|(name, value)| (OsStr::new(*name), value)));
    let quiet = ctx.verbosity == Verbosity::Quiet;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(if quiet { Stdio::piped() } else { Stdio::inherit() });
    // This thread lives as long as the process.
    quiz_host::process::die_with_parent(&mut command, quiz_host::process::Signal::KILL);
    let output = command
        .output()
        .map_err(|e| Fault::new(format!("the profile `{name}` cannot be set up: {}: {e}", program.display())))?;
    let text = String::from_utf8(output.stdout)
        .map_err(|_| Fault::new(format!("the profile `{name}` answers with something that is not text")))?;
    if output.status.success() {
        return Ok(text);
    }
    // The profile's own error message is better than its exit status.
    for line in text.lines() {
        if let Some(Ok(Directive::Error(why))) = directive::read(line) {
            return Err(refused(name, &why));
        }
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = if said.trim().is_empty() { String::new() } else { format!("\n{}", said.trim_end()) };
    Err(Fault::new(format!(
        "the profile `{name}` cannot be set up: {} ended with {}{said}",
        program.display(),
        output.status
    )))
}

fn refused(profile: &str, why: &str) -> Fault {
    Fault::new(format!("the profile `{profile}` cannot be set up: {why}"))
}

fn take(output: &str, profile: &str, asked: &mut Asked, ctx: &Context) -> Result<(), Fault> {
    for line in output.lines() {
        let wrong = |problem: &str| {
            let message =
                format!("the profile `{profile}` asks for something that is not understood: {line}: {problem}");
            Fault::new(message).hint("docs/profiles/README.md lists what a profile's setup may ask for")
        };
        let Some(directive) = directive::read(line) else {
            if ctx.verbosity == Verbosity::Verbose && !line.is_empty() {
                ctx.report.say(&format!("{profile}: {line}"));
            }
            continue;
        };
        match directive.map_err(|problem| wrong(&problem))? {
            Directive::Disk(disk) => {
                let reserved = ["quiz-", "disk"].iter().any(|own| disk.name.starts_with(own));
                if reserved || asked.disks.iter().any(|other| other.name == disk.name) {
                    return Err(wrong("there is another disk of that name"));
                }
                asked.disks.push(disk);
            }
            Directive::Share(share) => asked.shares.push(share),
            Directive::Append(words) => asked.append.push(words),
            Directive::QemuArg(word) => asked.qemu_args.push(word.into()),
            Directive::Env(name, value) => asked.env.push((name, value)),
            Directive::Module { name, parameters } => {
                asked.modules.push(Module { name, parameters, profile: profile.to_owned() });
            }
            Directive::Link { path, target } => asked.links.push((path, target)),
            Directive::Layer(dir) => asked.layers.push(dir),
            Directive::Net(words) => match &mut asked.net {
                None => asked.net = Some(words),
                Some(there) => there.push_str(&words),
            },
            Directive::Note(text) if ctx.verbosity == Verbosity::Verbose => {
                ctx.report.say(&format!("{profile}: {text}"))
            }
            Directive::Note(_) => {}
            Directive::Warning(text) => ctx.report.say(&format!("{profile}: warning: {text}")),
            Directive::Error(why) => return Err(refused(profile, &why)),
        }
    }
    Ok(())
}
