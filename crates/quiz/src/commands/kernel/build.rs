//! `quiz kernel build`: builds a small, fast-booting kernel from source. Not for the contents of
//! such a kernel (`quiz_kernel::build`).

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use quiz_config::BuildDefaults;
use quiz_host::{Cache, Report};
use quiz_kernel::build::{self, BuildRequest, Edit, Fragment, Mirrors, Record, Source, Trust, config};
use quiz_kernel::{Kernel, kernel, kernel::Version};
use quiz_needs::Purpose;

use crate::commands::arch::ArchArgument;
use quiz_run::{Context, Fault};
use quiz_run::{chosen, needs};

/// What is built, and how. What is not said here comes from the settings `kernel_build.*`.
///
/// The configuration is the smallest that runs and profiles need; fragments and single options come
/// on top of it, and every one that did not come out as asked is named. A build that fails leaves
/// an installed kernel of that name as it was.
///
/// A release needs a signature by a key of kernel.org or of --keyring, or its --sha256. A git
/// repository of another host needs a signed tag or the whole id of a commit. --unverified takes
/// what the server sends.
///
/// A kernel that was built from the same source, configuration and compiler is not built again,
/// also if another quiz is building it now: this one waits and takes it. --tree is always built,
/// and compiles only what has changed.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["source", "git", "tree", "all"]))]
pub struct Build {
    /// A release (6.12 is 6.12.0, 6.12.30), a candidate (6.19-rc3), a day of linux-next
    /// (next-20261120), or a distribution's source package (linux-source-6.12)
    #[arg(value_name = "VERSION|PACKAGE")]
    pub source: Option<String>,
    /// Git repository to build from
    #[arg(long, value_name = "URL")]
    pub git: Option<String>,
    /// Branch, tag or commit of the git repository
    #[arg(long = "ref", value_name = "REF", requires = "git", default_value = "HEAD")]
    pub reference: String,
    /// Your own source tree: it stays clean, and building again after a change takes seconds
    #[arg(long, value_name = "DIR")]
    pub tree: Option<PathBuf>,
    /// Rebuild every kernel that quiz has built and whose source, configuration or compiler has
    /// changed
    #[arg(long)]
    pub all: bool,
    /// Rebuild the kernel even if its inputs have not changed
    #[arg(long)]
    pub replace: bool,
    /// For which architecture.
    #[command(flatten)]
    pub arch: ArchArgument,
    /// Variant: a kernel with this fragment, beside the plain one. `-k 6.12-kasan` selects it, `-k
    /// 6.12` never does
    #[arg(long, value_name = "NAME", value_parser = variants())]
    pub variant: Option<String>,
    /// Name of the kernel [default: its version]
    #[arg(long)]
    pub name: Option<String>,
    /// Number of compilers to run at once [default: the setting `kernel_build.jobs`, else one for
    /// each CPU]
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Fragment of configuration: debug, kasan, lockdep, trace, or a file; can be repeated
    #[arg(short, long, value_name = "NAME|FILE")]
    pub fragment: Vec<String>,
    /// Profiles whose needs the kernel must meet, beside those of the setting `profiles`
    #[arg(short, long, value_name = "NAME,...", value_delimiter = ',')]
    pub profile: Vec<String>,
    /// Set an option to y; can be repeated, like the next three
    #[arg(short, long, value_name = "OPTION")]
    pub enable: Vec<String>,
    /// Set an option to n
    #[arg(short, long, value_name = "OPTION")]
    pub disable: Vec<String>,
    /// Set an option to m
    #[arg(short, long, value_name = "OPTION")]
    pub module: Vec<String>,
    /// Set an option to a value
    #[arg(short, long, value_name = "OPTION=VALUE")]
    pub set: Vec<String>,
    /// Fail if an option does not get the value that was asked for
    #[arg(long)]
    pub strict: bool,
    /// Build with Clang and LLVM's tools
    #[arg(long)]
    pub llvm: bool,
    /// Command in front of every compiler call: ccache, nice
    #[arg(long, value_name = "COMMAND")]
    pub prefix: Option<String>,
    /// Keep the source and the build directory (2 GB), so that a rebuild takes seconds
    #[arg(long)]
    pub keep: bool,
    /// Mirror to download from, instead of kernel.org or the distribution's mirror
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    /// Keyring to check the source against, instead of the keys of kernel.org or of the
    /// distribution
    #[arg(long, value_name = "FILE")]
    pub keyring: Option<PathBuf>,
    /// Expected SHA-256 of the source archive
    #[arg(long, value_name = "SUM")]
    pub sha256: Option<String>,
    /// Accept an archive or a commit that has no signature
    #[arg(long, conflicts_with = "sha256")]
    pub unverified: bool,
    /// Distribution release of a source package [default: the setting `release`]
    #[arg(short, long)]
    pub release: Option<String>,
}

/// Returns the names of variants: those of the built-in fragments.
fn variants() -> Vec<&'static str> {
    config::optional().into_iter().map(|(name, _)| name).collect()
}

pub fn run(args: Build, ctx: &Context) -> Result<(), Fault> {
    let settings = ctx.settings(Vec::new())?;
    let defaults = quiz_config::build_defaults(&settings);
    let jobs = args.jobs.or(defaults.jobs.and_then(|jobs| NonZeroUsize::new(jobs as usize)));
    let cache = ctx.cache()?;
    if args.all {
        return rebuild_all(&cache, jobs, args.replace, ctx);
    }
    let request = request(args, jobs, &defaults, ctx)?;
    let mut purposes = vec![Purpose::KernelBuild(request.arch)];
    if request.llvm {
        purposes.push(Purpose::Llvm);
    }
    if matches!(request.source, Source::DebianSource { .. }) {
        purposes.push(Purpose::KernelAdd);
    }
    if matches!(request.source, Source::Git { .. }) {
        purposes.push(Purpose::KernelGit);
    }
    needs::require(&purposes, ctx)?;
    let kernel = build::build(&cache, &request, &ctx.report)?;
    super::installed(&kernel, ctx)
}

fn request(
    args: Build,
    jobs: Option<NonZeroUsize>,
    defaults: &BuildDefaults,
    ctx: &Context,
) -> Result<BuildRequest, Fault> {
    let spec = ctx.run_spec(&Default::default(), Vec::new())?;
    let arch = args.arch.or_setting(&spec)?;
    let keyring = args.keyring.as_ref().map(|path| ctx.cwd.join(path));
    let mut mirrors = Mirrors::default();
    let source = match (&args.source, &args.git, &args.tree) {
        (Some(text), None, None) => {
            let release = args.release.as_deref().unwrap_or(&spec.release);
            match Source::parse(text, release)? {
                Source::DebianSource { package, release, .. } => Source::DebianSource {
                    package,
                    release,
                    mirrors: args.mirror.clone().map_or(spec.mirrors, |mirror| vec![mirror]),
                    keyring: keyring.clone().or(spec.keyring),
                },
                other => {
                    mirrors = chosen_mirrors(&args, defaults);
                    other
                }
            }
        }
        (None, Some(url), None) => Source::Git { url: repository(url, ctx), reference: args.reference.clone() },
        (None, None, Some(dir)) => Source::Tree { path: fs_err::canonicalize(ctx.cwd.join(dir))? },
        _ => return Err(Fault::new("a kernel is built of one source: a version, a package, --git or --tree")),
    };
    let given = args.variant.iter().chain(&args.fragment).map(|f| fragment(f, ctx));
    let fragments = defaults.fragments.iter().cloned().map(Ok).chain(given);
    let fragments: Vec<String> = fragments.collect::<Result<_, Fault>>()?;
    check_trust(&args, &source)?;
    // The user's own fragments come last, so that they win.
    let chosen = chosen::choose(&[&spec.profiles[..], &args.profile].concat(), &spec.profile_options, ctx)?;
    let of_profiles = chosen::kernel_fragments(&chosen).into_iter().map(|(name, text)| Ok(Fragment { name, text }));
    let named = fragments.iter().map(|fragment| config::named(fragment));
    Ok(BuildRequest {
        name: args.name.clone(),
        variant: args.variant.clone(),
        fragments: of_profiles.chain(named).collect::<Result<_, config::ConfigError>>()?,
        edits: edits(&args)?,
        strict: args.strict,
        llvm: args.llvm || defaults.llvm,
        prefix: args.prefix.as_ref().or(defaults.prefix.as_ref()).map(|p| words(p)).unwrap_or_default(),
        mirrors,
        trust: Trust {
            sha256: args.sha256.clone(),
            keyring: keyring.or_else(|| defaults.keyring.clone()),
            unverified: args.unverified,
        },
        keep: args.keep.then_some(true),
        jobs,
        replace: args.replace,
        environment: ctx.build_environment(),
        ..BuildRequest::new(arch, source)
    })
}

/// Refuses options for checking the source that would have no effect.
fn check_trust(args: &Build, source: &Source) -> Result<(), Fault> {
    let (what, sha256, unverified, keyring) = match source {
        Source::Release { version: Version::Next(_) } | Source::Git { .. } => ("a git repository", false, true, true),
        Source::Release { .. } => ("a release", true, true, true),
        Source::DebianSource { .. } => ("a distribution's package", false, false, true),
        Source::Tree { .. } => ("your own tree", false, false, false),
    };
    let refused = [
        ("--sha256", args.sha256.is_some() && !sha256),
        ("--unverified", args.unverified && !unverified),
        ("--keyring", args.keyring.is_some() && !keyring),
    ];
    match refused.iter().find(|(_, refused)| *refused) {
        Some((option, _)) => Err(Fault::new(format!("{option} has no meaning for {what}")).hint(match *option {
            "--sha256" if unverified => "give the whole id of the commit with --ref",
            _ => "leave it out",
        })),
        None => Ok(()),
    }
}

/// Returns the mirrors. `--mirror` replaces the mirror of every archive, and the source decides
/// which one quiz uses.
fn chosen_mirrors(args: &Build, defaults: &BuildDefaults) -> Mirrors {
    let usual = Mirrors::default();
    let choose = |setting: &Option<String>, usual: String| args.mirror.clone().or(setting.clone()).unwrap_or(usual);
    Mirrors {
        releases: choose(&defaults.mirror, usual.releases),
        candidates: choose(&defaults.rc_mirror, usual.candidates),
        next: choose(&defaults.next_git, usual.next),
    }
}

/// Returns the URL of a repository. A relative path begins where the user called quiz.
fn repository(url: &str, ctx: &Context) -> String {
    let is_path = !url.contains("://") && ctx.cwd.join(url).is_dir();
    if is_path { ctx.cwd.join(url).display().to_string() } else { url.to_owned() }
}

/// Returns the name of a built-in fragment, or the absolute path of a file.
fn fragment(text: &str, ctx: &Context) -> Result<String, Fault> {
    let is_own = config::optional().iter().any(|(name, _)| *name == text);
    let path = ctx.cwd.join(text);
    if is_own || !path.exists() {
        return Ok(text.to_owned());
    }
    path.into_os_string().into_string().map_err(|path| Fault::new(format!("{} is not UTF-8", path.to_string_lossy())))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Returns the edits. Refuses two for one option, because clap does not keep the order between
/// different command-line options.
fn edits(args: &Build) -> Result<Vec<Edit>, Fault> {
    let mut edits: Vec<Edit> = Vec::new();
    edits.extend(args.enable.iter().cloned().map(Edit::Enable));
    edits.extend(args.disable.iter().cloned().map(Edit::Disable));
    edits.extend(args.module.iter().cloned().map(Edit::Module));
    for text in &args.set {
        edits.push(Edit::set(text)?);
    }
    let mut names: Vec<String> = Vec::new();
    for edit in &edits {
        let (name, _) = edit.setting()?;
        if names.contains(&name) {
            return Err(Fault::new(format!("the kernel option {name} is given twice; give it once")));
        }
        names.push(name);
    }
    Ok(edits)
}

/// Rebuilds all kernels that have changed. If one fails, quiz still builds the others.
fn rebuild_all(cache: &Cache, jobs: Option<NonZeroUsize>, replace: bool, ctx: &Context) -> Result<(), Fault> {
    let kernels = kernel::list(cache, &ctx.report)?;
    let built: Vec<(Kernel, Record)> =
        kernels.into_iter().filter_map(|kernel| Record::read(kernel.dir()).map(|record| (kernel, record))).collect();
    let mut purposes: Vec<Purpose> = Vec::new();
    for (_, record) in &built {
        purposes.push(Purpose::KernelBuild(record.request.arch));
        if record.request.llvm {
            purposes.push(Purpose::Llvm);
        }
    }
    needs::require(&purposes, ctx)?;
    let mut failed: Vec<String> = Vec::new();
    for (kernel, _) in &built {
        match build::rebuild(cache, kernel, jobs, replace, ctx.build_environment(), &ctx.report) {
            Ok(new) => super::installed(&new, ctx)?,
            Err(error) => {
                ctx.report.say(&format!("kernel {} was not built again: {error}", kernel.name()));
                failed.push(kernel.name().to_owned());
            }
        }
    }
    if built.is_empty() {
        ctx.report.say("quiz has built no kernels yet");
    }
    match failed.as_slice() {
        [] => Ok(()),
        names => {
            Err(Fault::new(format!("not built again: {}; the kernels that were there are as before", names.join(", "))))
        }
    }
}
