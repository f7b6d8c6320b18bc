//! Runs guests of each architecture, and writes the results to the table in
//! `docs/architectures.md`.

use std::path::Path;
use std::process::Command;

use fs_err as fs;
use quiz_arch::Arch;
use serde_json::Value;

use crate::agents;
use crate::sh::top;
use crate::steps::released_quiz;

/// The page with the table, and the mark before the table.
const PAGE: &str = "docs/architectures.md";
const MARK: &str = "<!-- by `cargo xtask bench architectures`: -->\n";
/// The columns of the table.
const COLUMNS: &[&str] =
    &["guest", "date", "kernel", "machine", "QEMU", "profile", "cold, ms", "from a template, ms", "says"];
/// The command for a guest: prints its architecture, and the number that it reads from the bytes 1
/// and 0.
const LOOK: &str = "echo $(uname -m) $(printf '\\001\\000' | od -An -d)";
/// The end of a big-endian guest's answer, and of a little-endian one's.
const ORDERS: &[(&str, &str)] = &[(" 256", ", big-endian"), (" 1", ", little-endian")];

/// Runs guests of `archs` (all, if none are named) `rounds` times cold and from a template, and
/// writes the table.
///
/// A guest that cannot be run has a row with the reason.
pub fn run(rounds: usize, archs: &[String], profiles: &[String]) -> Result<(), String> {
    let mut wanted: Vec<&'static Arch> = Vec::new();
    for name in archs {
        wanted.push(quiz_arch::find(name).ok_or_else(|| format!("`{name}` is no architecture that quiz knows"))?);
    }
    if wanted.is_empty() {
        wanted = quiz_arch::ALL.to_vec();
    }
    let mut why_no_agent = Vec::new();
    for arch in &wanted {
        why_no_agent.push(agents::agents(&[arch.name.to_owned()]).err());
    }
    let program = released_quiz()?;
    let place = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut rows = vec![COLUMNS.iter().map(|&column| column.to_owned()).collect::<Vec<_>>()];
    rows.push(COLUMNS.iter().map(|_| "---".to_owned()).collect());
    for (arch, no_agent) in wanted.iter().zip(why_no_agent) {
        let none = [String::new()];
        for profile in none.iter().chain(profiles) {
            eprintln!("xtask: {} {profile}", arch.name);
            let measured = match &no_agent {
                Some(why) => Err(why.clone()),
                None => measure(&program, place.path(), arch, profile, rounds),
            };
            rows.push(measured.unwrap_or_else(|why| failed(arch, profile, &why)));
        }
    }
    let lines: Vec<String> = rows.iter().map(|row| format!("| {} |\n", row.join(" | "))).collect();
    print!("{}", lines.concat());
    write(lines, &wanted)
}

fn failed(arch: &Arch, profile: &str, why: &str) -> Vec<String> {
    // Keep only the error, without the progress before it and the hint after it.
    let line = why.lines().find_map(|line| line.split_once("error: ").map(|(_, rest)| rest));
    let told = |line: &&str| line.starts_with("quiz: ") && !line.contains("the evidence is in");
    let line = line.or_else(|| why.lines().rfind(told)).or_else(|| why.lines().next()).unwrap_or_default();
    // If another program failed, use its first message.
    let cause = why.lines().map(str::trim).find(|line| line.starts_with("E: ")).unwrap_or_default();
    // Remove the mirror's address, which changes.
    let line = format!("{line} {}", cause.split(" [IP: ").next().unwrap_or_default());
    let mut row = vec![String::new(); COLUMNS.len()];
    row[0] = arch.name.to_owned();
    row[1] = today();
    row[5] = profile.to_owned();
    row[8] = format!("not run: {}", line.trim().replace('|', "/"));
    row
}

fn measure(program: &Path, dir: &Path, arch: &Arch, profile: &str, rounds: usize) -> Result<Vec<String>, String> {
    let once = |options: &[&str]| -> Result<Value, String> {
        let mut command = Command::new(program);
        command.current_dir(dir).args(["--json", "-a", arch.name, "--timeout", "5m"]).args(options);
        if !profile.is_empty() {
            command.args(["-p", profile]);
        }
        let output = command.args(["sh", "-c", LOOK]).output().map_err(|e| e.to_string())?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(stderr.into_owned());
        }
        let stdout = String::from_utf8_lossy(&output.stdout);
        let mut record =
            stdout.lines().chain(stderr.lines()).rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
        let said = stdout.lines().next().unwrap_or_default();
        let order = ORDERS.iter().find_map(|(end, order)| Some(format!("{}{order}", said.strip_suffix(end)?)));
        let said = order.ok_or_else(|| format!("it says `{said}`"))?;
        if let Some(record) = &mut record {
            record["said"] = said.into();
        }
        record.ok_or_else(|| "quiz has printed no record".to_owned())
    };
    // First make whatever is missing, so that it does not count in the times.
    once(&["--cold"])?;
    once(&[])?;
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    let mut last = Value::Null;
    for _ in 0..rounds {
        cold.push(total(&once(&["--cold"])?));
        last = once(&[])?;
        warm.push(total(&last));
    }
    let word = |key: &str| last[key].as_str().unwrap_or_default().to_owned();
    let start = word("start");
    let warm = match start.as_str() {
        "template" => median(warm).to_string(),
        other => format!("({other})"),
    };
    let qemu = last["inputs"]["qemu"].as_str().and_then(|qemu| qemu.rsplit(' ').next()).unwrap_or_default().to_owned();
    let machine = format!("{}, {}", word("machine"), word("accelerator"));
    let row = [
        arch.name,
        &today(),
        &word("kernel"),
        &machine,
        &qemu,
        profile,
        &median(cold).to_string(),
        &warm,
        &word("said"),
    ];
    Ok(row.map(str::to_owned).to_vec())
}

fn total(record: &Value) -> u64 {
    record["total_ms"].as_u64().unwrap_or_default()
}

fn median(mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn today() -> String {
    jiff::Zoned::now().date().to_string()
}

/// Replaces the page's table, but keeps the rows of architectures that were not requested.
fn write(mut lines: Vec<String>, wanted: &[&Arch]) -> Result<(), String> {
    let page = top().join(PAGE);
    let text = fs::read_to_string(&page).map_err(|e| e.to_string())?;
    let (before, table) = text.split_once(MARK).ok_or_else(|| format!("{PAGE} has no line {MARK}"))?;
    let arch_of = |line: &str| quiz_arch::ALL.iter().position(|arch| line.starts_with(&format!("| {} |", arch.name)));
    let is_other = |line: &&str| arch_of(line).is_some_and(|i| !wanted.contains(&quiz_arch::ALL[i]));
    lines.extend(table.lines().filter(is_other).map(|line| format!("{line}\n")));
    // The heading names no architecture, and stays at the top.
    lines.sort_by_key(|line| arch_of(line).map_or(0, |i| i + 1));
    fs::write(&page, format!("{before}{MARK}\n{}", lines.concat())).map_err(|e| e.to_string())
}
