//! `quiz template list`: lists the templates in the cache, and how much disk they take.

use clap::Args;
use fs_err as fs;
use quiz_vm::template::Manifest;
use serde::Serialize;

use crate::output;
use crate::output::when;
use quiz_run::template;
use quiz_run::{Context, Fault};

/// Nothing to choose.
#[derive(Debug, Args)]
pub struct List {}

#[derive(Serialize)]
struct Row {
    name: String,
    about: String,
    /// How many bytes of the disk it takes.
    bytes: u64,
    /// When a run last resumed from it.
    used_at: Option<String>,
    /// The time from QEMU's start until the snapshot, in milliseconds.
    took_ms: u64,
    /// Whether quiz made it in this boot of the host. No run can use another one.
    usable: bool,
}

pub fn run(_args: &List, ctx: &Context) -> Result<(), Fault> {
    let shelf = template::shelf(&ctx.cache()?);
    let boot_id = quiz_host::tools::boot_id()?;
    let mut rows = Vec::new();
    let mut times = Vec::new();
    for name in shelf.names()? {
        let Some(entry) = shelf.open(&name)? else { continue };
        let Ok(manifest) = entry.manifest::<Manifest>() else { continue };
        let used = fs::metadata(entry.dir()).and_then(|m| m.modified()).ok();
        let used = used.and_then(|time| jiff::Timestamp::try_from(time).ok());
        times.push(used.map_or_else(String::new, when));
        rows.push(Row {
            name,
            bytes: template::size(entry.dir()),
            used_at: used.map(|time| time.to_string()),
            took_ms: manifest.took_ms,
            usable: manifest.boot_id == boot_id,
            about: manifest.about,
        });
    }
    if ctx.json {
        return output::json(&rows);
    }
    if rows.is_empty() {
        return output::text("no templates; the next run makes one\n");
    }
    let cells = |(row, time): (&Row, &String)| {
        let usable = if row.usable { "yes" } else { "no" }.to_owned();
        vec![row.name.clone(), row.about.clone(), output::size(row.bytes), time.clone(), usable]
    };
    output::table(&["NAME", "OF", "SIZE", "USED", "USABLE"], rows.iter().zip(&times).map(cells).collect())
}
