//! `quiz profile show`: shows all that quiz knows about one profile.

use std::fmt::Write;

use clap::Args;
use quiz_config::profile::KernelOption;
use quiz_config::profile::option::Kind;
use serde_json::json;

use crate::output;
use quiz_run::chosen;
use quiz_run::{Context, Fault};

/// Which profile.
#[derive(Debug, Args)]
pub struct Show {
    /// Name of the profile, as `quiz profile list` shows it
    pub name: String,
}

pub fn run(args: &Show, ctx: &Context) -> Result<(), Fault> {
    let spec = ctx.default_spec()?;
    let of_it: Vec<_> = spec.profile_options.into_iter().filter(|given| given.profile == args.name).collect();
    let chosen = chosen::choose(std::slice::from_ref(&args.name), &of_it, ctx)?;
    let values = &chosen.iter().find(|one| one.profile.name == args.name).expect("it was asked for").values;
    let p = ctx.profiles()?.catalog.get(&args.name, "")?;
    let kernel = |options: &[KernelOption]| options.iter().map(ToString::to_string).collect::<Vec<_>>();
    if ctx.json {
        let options: Vec<_> = p
            .options
            .iter()
            .map(|(name, o)| {
                json!({
                    "name": name, "about": o.about, "wanted": o.wanted(), "default": o.default_value(),
                    "value": values[name], "variable": p.variable(name),
                })
            })
            .collect();
        return output::json(&json!({
            "name": p.name, "source": p.source.name(), "dir": p.dir, "about": p.about, "needs": p.needs, "after": p.after,
            "packages": p.packages, "kernel_needs": kernel(&p.kernel_needs), "kernel_uses": kernel(&p.kernel_uses),
            "setup": p.setup().is_some(), "init": p.init().is_some(), "files": p.files().is_some(), "options": options,
        }));
    }
    let mut text = format!("{}: {}\n\n", p.name, p.about);
    let has = [("setup", p.setup().is_some()), ("init", p.init().is_some()), ("files", p.files().is_some())];
    let has = has.iter().filter(|(_, there)| *there).map(|(name, _)| (*name).to_owned()).collect();
    for (what, list) in [
        ("from", vec![p.source.name().to_owned()]),
        ("directory", vec![p.dir.display().to_string()]),
        ("has", has),
        ("needs", p.needs.clone()),
        ("after", p.after.clone()),
        ("packages", p.packages.clone()),
        ("kernel needs", kernel(&p.kernel_needs)),
        ("kernel uses", kernel(&p.kernel_uses)),
    ] {
        if !list.is_empty() {
            writeln!(text, "{what:<13} {}", list.join(" ")).expect("a String grows");
        }
    }
    for (name, option) in &p.options {
        let shown = |value: &str| match option.kind {
            Kind::Size => value.parse().map_or_else(|_| value.to_owned(), output::size),
            _ if value.is_empty() => "none".to_owned(),
            _ => value.replace('\n', ", "),
        };
        let (value, default) = (shown(&values[name]), shown(&option.default_value()));
        let default = if value == default { String::new() } else { format!(" (default {default})") };
        write!(
            text,
            "\n{name} = {value}{default}\n    {}\n    {}; {}\n",
            option.about,
            option.wanted(),
            p.variable(name)
        )
        .expect("a String grows");
    }
    output::text(&text)
}
