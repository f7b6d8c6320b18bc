//! `quiz root build`: makes the root image of a distribution release.

use std::path::PathBuf;

use clap::Args;
use quiz_config::RootBuilder;
use quiz_host::Report;
use quiz_image::root;

use crate::commands::arch::ArchArgument;
use crate::output;
use quiz_run::packages::{self, Packages};
use quiz_run::{Context, Fault};
use quiz_run::{chosen, needs, prepare};

/// Which root. A run takes the one that its settings name: to make another one its default, set
/// `release`, `packages`, `mirrors` and `keyring` in config.toml or quiz.toml.
#[derive(Debug, Args)]
pub struct Build {
    /// Distribution release: bookworm, trixie, ... [default: the setting `release`]
    #[arg(short, long)]
    pub release: Option<String>,
    /// For which architecture.
    #[command(flatten)]
    pub arch: ArchArgument,
    /// Package to add to those of the setting `packages`; can be repeated
    #[arg(long, value_name = "NAME")]
    pub package: Vec<String>,
    /// Profiles whose packages to add, beside those of the setting `profiles`
    #[arg(short, long, value_name = "NAME,...", value_delimiter = ',')]
    pub profile: Vec<String>,
    /// Mirror of packages: a URL or a `deb ...` line; can be repeated [default: the setting
    /// `mirrors`]
    #[arg(long, value_name = "URL")]
    pub mirror: Vec<String>,
    /// Keyring to check the mirror against [default: the setting `keyring`]
    #[arg(long, value_name = "FILE")]
    pub keyring: Option<PathBuf>,
    /// Builder: auto (mmdebstrap where it works, else a VM), mmdebstrap or vm [default: the setting
    /// `root_builder`]
    #[arg(long, value_name = "auto|mmdebstrap|vm", value_parser = builder, hide_possible_values = true)]
    pub builder: Option<RootBuilder>,
    /// Rebuild the root with the newest versions of its packages
    #[arg(long)]
    pub replace: bool,
}

pub fn run(args: Build, ctx: &Context) -> Result<(), Fault> {
    let mut spec = ctx.run_spec(&Default::default(), Vec::new())?;
    let arch = args.arch.or_setting(&spec)?;
    spec.root_builder = args.builder.unwrap_or(spec.root_builder);
    let facts = prepare::root_facts(arch, ctx);
    needs::require(&prepare::root_purposes(spec.root_builder, arch, &facts), ctx)?;
    let chosen = chosen::choose(&[&spec.profiles[..], &args.profile].concat(), &spec.profile_options, ctx)?;
    let mut packages = chosen::packages(&spec, &chosen);
    packages.extend(args.package);
    let asked =
        Packages { release: args.release, mirrors: args.mirror, keyring: args.keyring.map(|path| ctx.cwd.join(path)) };
    let wanted = root::Wanted { source: packages::source(arch, &spec, asked), arch, packages };
    packages::say_trust(arch, &wanted.source, ctx);
    let cache = ctx.cache()?;
    let there = root::find(&cache, &wanted)?.is_some_and(|root| root.name() == wanted.name());
    if !args.replace && there {
        ctx.report.say(&format!("the root {} is there already; --replace makes it again", wanted.name()));
    }
    let root = prepare::build_root(&cache, &wanted, args.replace, &spec, facts, false, ctx)?;
    if ctx.json { output::json(&root.manifest) } else { output::text(&format!("{}\n", root.name())) }
}

fn builder(text: &str) -> Result<RootBuilder, String> {
    match text {
        "auto" => Ok(RootBuilder::Auto),
        "mmdebstrap" => Ok(RootBuilder::Mmdebstrap),
        "vm" => Ok(RootBuilder::Vm),
        _ => Err("it is one of auto, mmdebstrap, vm".to_owned()),
    }
}
