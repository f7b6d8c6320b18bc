//! Measures how reliably each kernel boots on each QEMU and machine, for the table in
//! `docs/machines.md`. Not for durations.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::{Args, ValueEnum};
use fs_err as fs;
use serde_json::Value;

use crate::qemu;
use crate::sh::top;
use crate::steps::released_quiz;

/// The page with the table, and the marks around the table.
const PAGE: &str = "docs/machines.md";
const BEGIN: &str = "<!-- begin: by `cargo xtask bench boots` -->\n";
const END: &str = "<!-- end -->\n";
/// The columns of the table. The first ones identify a row.
const COLUMNS: &[&str] =
    &["kernel", "QEMU", "machine", "CPUs", "memory", "host", "good / tried", "date", "what failed"];
const KEY: usize = 6;
/// Time limit of a boot, including the program and the shutdown.
const LIMIT: &str = "60s";
/// How many spinning processes make a host busy.
const SPINNING: usize = 2;

/// What is booted.
#[derive(Args)]
pub struct Boots {
    /// How often each is booted
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// A kernel (as for `quiz -k`); can be repeated [default: all installed ones of this
    /// architecture]
    #[arg(long, short)]
    kernel: Vec<String>,
    /// A Debian release whose QEMU is unpacked, or `host`; can be repeated [default: host,
    /// bookworm-backports]
    #[arg(long)]
    qemu: Vec<String>,
    /// A machine; can be repeated [default: microvm, q35]
    #[arg(long)]
    machine: Vec<String>,
    /// A part of the table; can be repeated [default: all]
    #[arg(long)]
    part: Vec<Part>,
    /// The quiz to boot with [default: the one built from this source, as released]
    #[arg(long)]
    quiz: Option<PathBuf>,
}

/// A part of the table.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Each kernel on each QEMU and machine, with 1 and 2 CPUs
    Kernels,
    /// The first kernel with sizes of memory about the limits of machines
    Memory,
    /// The first kernel with 4 CPUs
    Cpus,
    /// The first kernel with 1, 2 and 4 CPUs while other processes spin
    Busy,
}

const MEMORIES: &[&str] = &["1G", "2047M", "2G", "2049M", "3G", "4G", "5G"];

/// One row of the table.
struct Case<'a> {
    kernel: &'a str,
    qemu: &'a Qemu,
    machine: &'a str,
    cpus: u32,
    memory: &'a str,
    busy: bool,
}

struct Qemu {
    program: PathBuf,
    version: String,
}

/// Boots each case `rounds` times and writes the table after each case. Rows that are not measured
/// this time stay.
///
/// # Errors
/// Fails if a quiz or QEMU is not available, or if the page lacks the table's marks.
pub fn run(boots: &Boots) -> Result<(), String> {
    let quiz = match &boots.quiz {
        Some(quiz) => quiz.clone(),
        None => released_quiz()?,
    };
    let place = tempfile::tempdir().map_err(|e| e.to_string())?;
    fs::create_dir_all(place.path().join(".quiz")).map_err(|e| e.to_string())?;
    let or = |given: &[String], default: &[&str]| -> Vec<String> {
        if given.is_empty() { default.iter().map(|&name| name.to_owned()).collect() } else { given.to_vec() }
    };
    let kernels = if boots.kernel.is_empty() { installed(&quiz)? } else { boots.kernel.clone() };
    let machines = or(&boots.machine, &["microvm", "q35"]);
    let qemus = or(&boots.qemu, &["host", qemu::BACKPORTS]);
    let qemus = qemus.iter().map(|name| Qemu::of(name)).collect::<Result<Vec<_>, _>>()?;
    let has = |part| boots.part.is_empty() || boots.part.contains(&part);
    for case in cases(&kernels, &qemus, &machines, &has) {
        eprintln!("xtask: {}", case.key().join(", "));
        let row = case.boot(&quiz, place.path(), boots.rounds)?;
        eprintln!("xtask: {} good, {}", row[KEY], row[KEY + 2]);
        write(row)?;
    }
    Ok(())
}

fn cases<'a>(
    kernels: &'a [String],
    qemus: &'a [Qemu],
    machines: &'a [String],
    has: &dyn Fn(Part) -> bool,
) -> Vec<Case<'a>> {
    let mut cases = Vec::new();
    let mut add = |kernel: &'a String, cpus: &[u32], memories: &[&'a str], busy: bool| {
        for qemu in qemus {
            for machine in machines {
                for &cpus in cpus {
                    cases.extend(memories.iter().map(|&memory| Case { kernel, qemu, machine, cpus, memory, busy }));
                }
            }
        }
    };
    if has(Part::Kernels) {
        kernels.iter().for_each(|kernel| add(kernel, &[1, 2], &MEMORIES[..1], false));
    }
    if let Some(first) = kernels.first() {
        if has(Part::Memory) {
            add(first, &[2], &MEMORIES[1..], false);
        }
        if has(Part::Cpus) {
            add(first, &[4], &MEMORIES[..1], false);
        }
        if has(Part::Busy) {
            add(first, &[1, 2, 4], &MEMORIES[..1], true);
        }
    }
    cases
}

/// The names of the kernels for this host's architecture.
fn installed(quiz: &Path) -> Result<Vec<String>, String> {
    let output = Command::new(quiz).args(["--json", "kernel", "list"]).output().map_err(|e| e.to_string())?;
    let list: Value = serde_json::from_slice(&output.stdout).map_err(|e| format!("quiz kernel list: {e}"))?;
    let kernels = list.as_array().or_else(|| list["kernels"].as_array()).ok_or("quiz lists no kernels")?;
    let own = kernels.iter().filter(|kernel| kernel["arch"] == quiz_arch::host().name);
    Ok(own.filter_map(|kernel| kernel["name"].as_str()).map(str::to_owned).collect())
}

impl Qemu {
    /// The host's QEMU, or the one of a Debian release.
    fn of(name: &str) -> Result<Qemu, String> {
        let arch = quiz_arch::host();
        let program = match name {
            "host" => arch.qemu.into(),
            release => qemu::unpacked(release, &[arch])?.join(arch.qemu),
        };
        let output = Command::new(&program).arg("--version").output();
        let output = output.map_err(|e| format!("{}: {e}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let version = version.ok_or_else(|| format!("{} does not tell its version", program.display()))?;
        Ok(Qemu { program, version: version.to_owned() })
    }
}

impl Case<'_> {
    fn key(&self) -> Vec<String> {
        let host = if self.busy { "busy" } else { "as it was" };
        let words = [self.kernel, &self.qemu.version, self.machine, &self.cpus.to_string(), self.memory, host];
        words.map(str::to_owned).to_vec()
    }

    /// Boots the case `rounds` times, and returns its row.
    fn boot(&self, quiz: &Path, place: &Path, rounds: usize) -> Result<Vec<String>, String> {
        let _load = self.busy.then(Load::start).transpose()?;
        let (mut good, mut failures) = (0, Vec::<String>::new());
        for _ in 0..rounds {
            let mut command = Command::new(quiz);
            command.current_dir(place).args(["-q", "--cold", "--kernel", self.kernel, "--machine", self.machine]);
            command.args(["--cpus", &self.cpus.to_string(), "--memory", self.memory]);
            command.args(["--boot-timeout", LIMIT, "--timeout", LIMIT, "--qemu"]).arg(&self.qemu.program);
            let output = command.arg("true").stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
            if output.status.success() {
                good += 1;
                continue;
            }
            let text = String::from_utf8_lossy(&output.stderr);
            let mut lines =
                text.lines().filter(|line| line.starts_with("quiz: ") && !line.contains("the evidence is in"));
            let line = lines.next_back().unwrap_or_default().trim_start_matches("quiz: ").replace('|', "/");
            if !failures.contains(&line) {
                failures.push(line);
            }
        }
        let mut row = self.key();
        row.extend([format!("{good} / {rounds}"), jiff::Zoned::now().date().to_string(), failures.join("; ")]);
        Ok(row)
    }
}

/// Processes that spin until this value is dropped.
struct Load(Vec<Child>);

impl Load {
    fn start() -> Result<Load, String> {
        let mut load = Load(Vec::new());
        for _ in 0..SPINNING {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]);
            quiz_host::process::die_with_parent(&mut command, quiz_host::process::Signal::KILL);
            load.0.push(command.spawn().map_err(|e| e.to_string())?);
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Puts a row into the page's table, replacing the row with the same key.
fn write(row: Vec<String>) -> Result<(), String> {
    let page = top().join(PAGE);
    let text = fs::read_to_string(&page).map_err(|e| e.to_string())?;
    let marks = format!("{PAGE} has no lines {BEGIN} and {END}");
    let (before, rest) = text.split_once(BEGIN).ok_or(&marks)?;
    let (table, after) = rest.split_once(END).ok_or(&marks)?;
    fs::write(&page, format!("{before}{BEGIN}{}{END}{after}", with_row(table, row))).map_err(|e| e.to_string())
}

/// The table with this row added, sorted.
fn with_row(table: &str, row: Vec<String>) -> String {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut rows: Vec<Vec<String>> = table.lines().filter(|line| line.starts_with('|')).skip(2).map(cells).collect();
    rows.retain(|known| known.len() == COLUMNS.len() && known[..KEY] != row[..KEY]);
    rows.push(row);
    rows.sort_by(|a, b| a[..KEY].cmp(&b[..KEY]));
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let heading: Vec<String> = COLUMNS.iter().map(|&column| column.to_owned()).collect();
    let rule = vec!["---".to_owned(); COLUMNS.len()];
    [heading, rule].iter().chain(&rows).map(|cells| line(cells)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kernel: &str, good: &str) -> Vec<String> {
        [kernel, "10.0.2", "q35", "1", "1G", "as it was", good, "2026-11-27", ""].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_row_takes_the_place_of_the_one_that_it_is_about() {
        let table = with_row("", row("b", "1 / 2"));
        let table = with_row(&table, row("a", "2 / 2"));
        let table = with_row(&table, row("b", "20 / 20"));
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("| kernel | QEMU |") && lines[1].starts_with("| --- |"));
        assert!(lines[2].starts_with("| a |") && lines[2].contains("2 / 2"));
        assert_eq!(lines[3], "| b | 10.0.2 | q35 | 1 | 1G | as it was | 20 / 20 | 2026-11-27 |  |");
    }
}
