//! `quiz show`: shows one run, and where its run directory is.

use std::fmt::Write;

use clap::Args;
use fs_err as fs;
use quiz_vm::visible::visible_lines;

use crate::output;
use crate::output::when;
use quiz_run::history::{self, quoted};
use quiz_run::{Context, Fault, Record};

#[derive(Debug, Args)]
pub struct Show {
    /// Id of the run, or its beginning or end [default: the newest that has ended]
    pub run: Option<String>,
}

pub fn run(args: &Show, ctx: &Context) -> Result<(), Fault> {
    let past = history::find(&ctx.runs_dirs()?, args.run.as_deref())?;
    if ctx.json {
        return output::json(past.recorded()?);
    }
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            writeln!(text, "{name:<12}{value}").expect("a String grows");
        }
    };
    line("run", &past.id);
    line("command", &past.command());
    let message = past.record.as_ref().and_then(|record| record.verdict.message()).unwrap_or_default();
    line("verdict", [past.verdict().as_str(), message].join(" ").trim_end());
    if let Some(record) = &past.record {
        describe(record, &mut line);
    }
    line("evidence", &past.dir.display().to_string());
    let mut files: Vec<_> = fs::read_dir(&past.dir)?.flatten().collect();
    files.sort_by_key(|entry| entry.file_name());
    for entry in files {
        let name = entry.file_name();
        let size = entry.metadata().map(|meta| if meta.is_dir() { String::new() } else { output::size(meta.len()) });
        line("", &format!("{:<16}{}", name.to_string_lossy(), size.unwrap_or_default()));
    }
    output::text(&visible_lines(&text))
}

fn describe(record: &Record, line: &mut dyn FnMut(&str, &str)) {
    line("exit code", &record.exit_code.to_string());
    line("started", &record.started_at.parse::<jiff::Timestamp>().map(when).unwrap_or_default());
    line("from", &[record.start.name(), record.template.as_deref().unwrap_or_default()].join(" "));
    let times = [
        ("guest up", record.boot_ms),
        ("program started", record.ready_ms),
        ("it ran", record.program_ms),
        ("in all", Some(record.total_ms)),
    ];
    let times = times.map(|(name, ms)| match ms {
        Some(ms) => format!("{name} {ms} ms"),
        None => format!("{name} -"),
    });
    line("times", &times.join(", "));
    line("kernel", &record.kernel);
    line("root", &record.root);
    let names: Vec<&str> = record.profiles.iter().map(|profile| profile.name.as_str()).collect();
    line("profiles", &names.join(" "));
    line("machine", &[record.arch.as_str(), &record.machine, record.accelerator.name()].join(" "));
    if let Some(oops) = &record.oops {
        line("its kernel", &oops.headline);
        if let Some(culprit) = &oops.culprit {
            let number = culprit.line.map(|line| format!(":{line}")).unwrap_or_default();
            let place = culprit.file.as_ref().map(|file| format!(", {file}{number}")).unwrap_or_default();
            line("", &format!("in {}{place}", culprit.function));
        }
    }
    for note in &record.notes {
        line("note", note);
    }
    let words = record.call.iter().flat_map(|call| &call.words).map(|word| quoted(word));
    line("called as", &std::iter::once("quiz".to_owned()).chain(words).collect::<Vec<_>>().join(" "));
    line("in", &record.call.as_ref().map(|call| call.directory.display().to_string()).unwrap_or_default());
}
