//! Reads a kernel's last messages. Makes `oops.txt` and `stacks.txt` with lines of source, a
//! summary for the user, and a part of the record. Not for the verdict, which does not depend on
//! any of it.

use std::io::{self, Read};
use std::path::PathBuf;

use fs_err as fs;
use quiz_config::{RunSpec, ShareSpec};
use quiz_host::held::HeldDir;
use quiz_kernel::Kernel;
use quiz_kernel::kernel::Origin;
use quiz_oops::{Origins, Report, Symbols, find, render, telling};
use quiz_vm::{Outcome, Signals, Verdict};

use crate::assemble::PreparedRun;
use crate::context::Context;
use crate::outcome::record::{Culprit, OopsRecord};
use crate::outcome::symbols;

/// The agent's report about tasks.
const STACKS: &str = "stacks.txt";
/// How many bytes of it quiz reads.
const STACKS_READ: u64 = 4 << 20;
/// How a kernel panics when an interrupt asks it where it is.
const ASKED: &str = "Kernel panic - not syncing: NMI";

/// A kernel's last messages, as quiz has read them.
pub struct Crash {
    pub record: OopsRecord,
    /// What happened, in a few lines.
    pub short: String,
}

/// Reads what the kernel of a run that has ended printed, and adds lines of source to the run
/// directory. None if the kernel printed nothing. `doing` is what the guest was doing, if that is
/// more than the run's program.
pub fn read(
    outcome: &mut Outcome,
    run: &PreparedRun,
    doing: Option<String>,
    signals: &mut dyn Signals,
    ctx: &Context,
) -> Option<Crash> {
    let PreparedRun { spec, dir, base, .. } = run;
    let dir = dir.held();
    let time_was_over = matches!(outcome.verdict, Verdict::Timeout { .. });
    let asked = if time_was_over { outcome.asked.as_str() } else { "" };
    let stacks = if time_was_over { read_bounded(dir, STACKS).unwrap_or_default() } else { String::new() };
    let all = [&outcome.oops, asked, &stacks].map(String::from).concat();
    if all.is_empty() {
        return None;
    }
    let symbols = symbols::look_up(all, origins(&spec.shares, &base.kernel, ctx), signals);
    let mut notes = Vec::new();
    let mut keep =
        |written: io::Result<()>| notes.extend(written.err().map(|e| format!("evidence is incomplete: {e}")));
    if !asked.is_empty() || !stacks.is_empty() {
        let said = match asked {
            "" => String::new(),
            _ => format!(
                "\nWhat the kernel printed about CPUs and blocked tasks:\n\n{}",
                render::annotated(asked, &symbols)
            ),
        };
        keep(dir.write_whole(STACKS, (render::annotated(&stacks, &symbols) + &said).as_bytes()));
    }
    let report = report(outcome, asked);
    let crash = report.map(|report| {
        let mut circumstances = vec![format!("while {} ran", doing.unwrap_or_else(|| program(spec)))];
        circumstances.extend(report.task.as_ref().map(|task| format!("in the task {task}")));
        let short = render::in_short(&report, &symbols, &circumstances);
        if !outcome.oops.is_empty() {
            let text = format!("{short}\nWhat the kernel printed:\n\n{}", render::annotated(&outcome.oops, &symbols));
            keep(dir.write_whole("oops.txt", text.as_bytes()));
        }
        Crash { record: record(report, &symbols), short }
    });
    outcome.notes.append(&mut notes);
    crash
}

fn read_bounded(dir: &HeldDir, name: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    dir.read(name)?.take(STACKS_READ).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the most informative report. A guest that timed out was asked where its CPUs are, and
/// may panic of that. Such a panic is not its report: where the CPUs were is.
fn report(outcome: &Outcome, asked: &str) -> Option<Report> {
    let said = outcome.headline.as_deref().map(|headline| Report::read(&outcome.oops, headline));
    if !matches!(outcome.verdict, Verdict::Timeout { .. }) {
        return said;
    }
    let busy = || Report::of_busy_processor(&outcome.oops).or_else(|| Report::of_busy_processor(asked));
    said.filter(|report| report.culprit.is_some() && !report.headline.starts_with(ASKED)).or_else(busy)
}

fn record(report: Report, symbols: &Symbols) -> OopsRecord {
    let culprit = report.culprit.map(|frame| {
        let place = telling(symbols.places(&frame));
        Culprit {
            function: place.map_or_else(|| frame.function.clone(), |place| place.function.clone()),
            file: place.map(|place| place.file.clone()),
            line: place.map(|place| place.line),
            module: frame.module,
        }
    });
    OopsRecord { headline: report.headline, culprit, taint: report.taint, task: report.task }
}

/// Returns the program of a run as the user typed it, in one line.
fn program(spec: &RunSpec) -> String {
    let words: Vec<String> = spec.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let text = words.join(" ").replace('\n', " ");
    match text.char_indices().nth(100) {
        _ if text.is_empty() => "the shell".to_owned(),
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

/// Returns the modules for `kernel` that have debug information, by their names: the kernel's own
/// and those in the worktree.
pub fn modules(kernel: &Kernel, ctx: &Context) -> Vec<(String, PathBuf)> {
    find::all_modules(&origins(&[], kernel, ctx))
}

/// Returns where debug information can be. That of the kernel is in its entry. That of modules is
/// there, or in anything that the guest could see.
fn origins(shares: &[ShareSpec], kernel: &Kernel, ctx: &Context) -> Origins {
    let remedy = match &kernel.manifest.origin {
        Origin::DebianPackage { .. } => {
            "the distribution's kernels have none; `quiz kernel build` makes one that has it"
        }
        _ => "it was built without; `quiz kernel build --all` builds it again with what this quiz gives it",
    };
    let worktree = ctx.worktree.as_ref().map_or(&ctx.cwd, |worktree| &worktree.dir);
    let shared = shares.iter().map(|share| share.host.clone());
    let places: Vec<_> = std::iter::once(worktree.clone()).chain(shared).collect();
    // A build of OpenZFS there consists of links to the sources.
    let release = &kernel.manifest.release;
    let build = ctx.worktree.as_ref().map(|worktree| worktree.state_dir().join("build").join(release));
    let own = ["debug", "lib"].map(|part| kernel.dir().join(part));
    let own = own.into_iter().find(|dir| dir.is_dir());
    let kbuild = kernel.dir().join("kbuild");
    // The compiler's call may have named the entry's path, or the path that it leads to.
    let resolved = fs::canonicalize(&kbuild);
    Origins {
        vmlinux: kernel.vmlinux(),
        release: release.clone(),
        modules: own.into_iter().chain(places.iter().cloned()).collect(),
        roots: places.into_iter().chain([kbuild]).chain(resolved).chain(build).collect(),
        remedy: remedy.to_owned(),
    }
}
