//! `quiz profile list`: lists every profile and where it comes from.

use clap::Args;
use quiz_config::profile::Source;
use serde::Serialize;

use crate::output;
use quiz_run::{Context, Fault};

/// Nothing to choose.
#[derive(Debug, Args)]
pub struct List {}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    source: Option<&'static str>,
    about: Option<&'a str>,
    /// Why quiz cannot use it.
    problem: Option<String>,
}

pub fn run(_args: &List, ctx: &Context) -> Result<(), Fault> {
    let rows: Vec<Row<'_>> = ctx
        .profiles()?
        .catalog
        .all()
        .map(|(name, profile)| match profile {
            Ok(p) => Row { name, source: Some(Source::name(p.source)), about: Some(&p.about), problem: None },
            Err(error) => Row { name, source: None, about: None, problem: Some(error.to_string()) },
        })
        .collect();
    if ctx.json {
        return output::json(&rows);
    }
    let first_line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let cells = |row: &Row<'_>| {
        let about = row.about.map_or_else(|| first_line(row.problem.as_deref().unwrap_or_default()), str::to_owned);
        vec![row.name.to_owned(), row.source.unwrap_or("broken").to_owned(), about]
    };
    output::table(&["NAME", "FROM", "FOR"], rows.iter().map(cells).collect())
}
