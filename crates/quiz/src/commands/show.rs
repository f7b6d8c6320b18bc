//! `quiz show`: one run, and where its evidence lies.

use std::fmt::Write;

use clap::Args;
use fs_err as fs;
use quiz_vm::visible::visible_lines;
use serde_json::Value;

use crate::output;
use crate::output::when;
use quiz_run::history::{self, quoted};
use quiz_run::{Context, Fault};

#[derive(Debug, Args)]
pub struct Show {
    /// Id of the run, or its beginning or end [default: the newest that has ended]
    pub run: Option<String>,
}

pub fn run(args: &Show, ctx: &Context) -> Result<(), Fault> {
    let past = history::find(&ctx.runs_dirs()?, args.run.as_deref())?;
    if ctx.json {
        return match &past.record {
            Some(record) => output::json(record),
            None => Err(Fault::new(format!("the run {} has no record: it {}", past.id, past.verdict()))),
        };
    }
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            writeln!(text, "{name:<12}{value}").expect("a String grows");
        }
    };
    line("run", &past.id);
    line("command", &past.command());
    let message = past.record.as_ref().map_or(&Value::Null, |record| &record["verdict"]);
    let message = message["message"].as_str().or(message["reason"].as_str()).unwrap_or_default();
    line("verdict", [past.verdict().as_str(), message].join(" ").trim_end());
    if let Some(record) = &past.record {
        line("exit code", &record["exit_code"].to_string());
        line("started", &past.text("started_at").parse::<jiff::Timestamp>().map(when).unwrap_or_default());
        line("from", &[past.text("start"), past.text("template")].join(" "));
        let ms = |key: &str| record[key].as_u64().map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        let times = [
            ("guest up", "boot_ms"),
            ("program started", "ready_ms"),
            ("it ran", "program_ms"),
            ("in all", "total_ms"),
        ];
        line("times", &times.map(|(name, key)| format!("{name} {}", ms(key))).join(", "));
        line("kernel", past.text("kernel"));
        line("root", past.text("root"));
        let profiles = record["profiles"].as_array().into_iter().flatten();
        let names: Vec<&str> = profiles.filter_map(|profile| profile["name"].as_str()).collect();
        line("profiles", &names.join(" "));
        line("machine", &["arch", "machine", "accelerator"].map(|key| past.text(key)).join(" "));
        let said = &record["oops"];
        line("its kernel", said["headline"].as_str().unwrap_or_default());
        if let Some(function) = said["culprit"]["function"].as_str() {
            let place = said["culprit"]["file"].as_str().map(|file| format!(", {file}:{}", said["culprit"]["line"]));
            line("", &format!("in {function}{}", place.unwrap_or_default()));
        }
        for note in record["notes"].as_array().into_iter().flatten() {
            line("note", note.as_str().unwrap_or_default());
        }
        let words = record["call"]["words"].as_array().into_iter().flatten();
        let words: Vec<String> = words.filter_map(|word| word.as_str().map(quoted)).collect();
        line("called as", &["quiz".to_owned(), words.join(" ")].join(" "));
        line("in", record["call"]["directory"].as_str().unwrap_or_default());
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
