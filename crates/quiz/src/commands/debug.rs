//! `quiz debug`: starts the right debugger with the right symbols, for a dump of a guest's memory
//! or a VM that waits for gdb (`--gdb`).

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, ValueEnum};
use quiz_host::held::HeldDir;
use quiz_kernel::{Kernel, kernel};
use quiz_needs::Purpose;

use quiz_run::history::{self, Past};
use quiz_run::needs;
use quiz_run::{Context, Fault};
use quiz_run::{crash, debugger, registry};
use quiz_vm::DumpFormat;

#[derive(Debug, Args)]
#[command(after_help = "\
A dump is made with --dump on-panic (or on-failure); drgn and crash open it, and
with --dump-format elf gdb. Arguments after `--` are passed to the debugger:

  quiz debug -- -e 'print(prog.crashed_thread().stack_trace())'     with drgn
  quiz debug --tool gdb -- -batch -ex bt")]
pub struct Debug {
    /// Id of the run, or its beginning or end [default: a VM of this worktree that waits for gdb,
    /// else the newest run with a dump]
    pub run: Option<String>,
    /// Debugger [default: one that can open the dump, drgn before crash]
    #[arg(long)]
    pub tool: Option<Tool>,
    /// Print the command, and do not run it
    #[arg(long)]
    pub print: bool,
    /// Arguments for the debugger
    #[arg(last = true, value_name = "WORDS")]
    pub words: Vec<OsString>,
}

/// A debugger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tool {
    /// Reads both kinds of dumps.
    Drgn,
    /// Reads compressed ones.
    Crash,
    /// Reads ELF files, and VMs that wait.
    Gdb,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Drgn => "drgn",
            Tool::Crash => "crash",
            Tool::Gdb => "gdb",
        }
    }
}

/// Replaces this process with the debugger.
pub fn run(args: &Debug, ctx: &Context) -> Result<(), Fault> {
    let mut words = match waiting(args, ctx)? {
        Some(words) => words,
        None => dumped(args, ctx)?,
    };
    words.extend(args.words.iter().cloned());
    if args.print {
        let words: Vec<String> = words.iter().map(|word| history::quoted(&word.to_string_lossy())).collect();
        return crate::output::text(&(words.join(" ") + "\n"));
    }
    if words[0] == "gdb" {
        needs::require(&[Purpose::Debug], ctx)?;
    }
    let error = Command::new(&words[0]).args(&words[1..]).exec();
    Err(Fault::new(format!("cannot start {}: {error}", words[0].display())))
}

/// Returns the command line of gdb for a VM that waits for it, if the user means one.
fn waiting(args: &Debug, ctx: &Context) -> Result<Option<Vec<OsString>>, Fault> {
    let cache = ctx.cache()?;
    let Ok(running) = registry::find(&cache, &ctx.runs_dir()?.path(), args.run.as_deref()) else { return Ok(None) };
    if !running.dir.join(debugger::SCRIPT).exists() {
        let why = || Fault::new(format!("{} was not started with --gdb, and is running", running.id));
        return if args.run.is_some() { Err(why()) } else { Ok(None) };
    }
    if args.tool.is_some_and(|tool| tool != Tool::Gdb) {
        return Err(Fault::new("a VM that runs is gdb's: leave --tool out"));
    }
    let kernel = kernel_of(&running.kernel, &running.arch, ctx)?;
    Ok(Some(debugger::gdb(&kernel, &running.dir, None).ok_or_else(|| no_symbols(&kernel))?))
}

/// Returns the command line of the debugger for a dump.
fn dumped(args: &Debug, ctx: &Context) -> Result<Vec<OsString>, Fault> {
    let runs = ctx.runs_dirs()?;
    let past = match &args.run {
        Some(wanted) => history::find(&runs, Some(wanted))?,
        None => history::all(&runs).into_iter().find(|past| dump_of(past).is_some()).ok_or_else(|| {
            Fault::new(format!("no run in {} has kept its guest's memory", runs[0].path().display()))
                .hint("--dump on-panic, or `dump = \"on-panic\"` in quiz.toml, keeps it")
        })?,
    };
    let Some(dump) = dump_of(&past) else {
        return Err(Fault::new(format!("the run {} has not kept its guest's memory", past.id))
            .hint("call it again with --dump on-panic, or --dump on-failure for hangs and resets, too"));
    };
    let record = past.recorded()?;
    let kernel = kernel_of(&record.kernel, &record.arch, ctx)?;
    let was = record.inputs.get("kernel");
    if was.is_some_and(|was| *was != kernel.identity()) {
        ctx.report.warn(&format!("the kernel {} was built again since: its symbols may not fit", kernel.name()));
    }
    let elf = record.dump == Some(DumpFormat::Elf);
    let tool = match (args.tool, elf) {
        (Some(Tool::Gdb), false) => {
            return Err(
                Fault::new("gdb does not read compressed dumps").hint("--dump-format elf makes one that it reads")
            );
        }
        (Some(Tool::Crash), true) => {
            return Err(Fault::new("crash wants a compressed dump").hint("--dump-format kdump makes one"));
        }
        (Some(tool), _) => tool,
        (None, true) => Tool::Gdb,
        (None, false) => installed(&[Tool::Drgn, Tool::Crash], ctx).ok_or_else(|| {
            Fault::new("neither drgn nor crash is installed")
                .hint("install drgn (`pip install drgn`) or the package crash")
        })?,
    };
    let modules = crash::modules(&kernel, ctx);
    let without = || no_symbols(&kernel);
    match tool {
        Tool::Drgn => Ok(debugger::drgn(&kernel, &modules, &dump)),
        Tool::Crash => debugger::crash(&kernel, &modules, &dump, &HeldDir::open(&past.dir)?)?.ok_or_else(without),
        Tool::Gdb => {
            debugger::write_script(&HeldDir::open(&past.dir)?, &modules, None)?;
            debugger::gdb(&kernel, &past.dir, Some(&dump)).ok_or_else(without)
        }
    }
}

fn dump_of(past: &Past) -> Option<PathBuf> {
    let there = past.record.as_ref().is_some_and(|record| record.dump.is_some());
    Some(past.dir.join("vmcore")).filter(|file| there && file.is_file())
}

fn installed(tools: &[Tool], ctx: &Context) -> Option<Tool> {
    let search = ctx.search();
    tools.iter().copied().find(|tool| search.program(tool.name()).is_some())
}

fn kernel_of(name: &str, arch: &str, ctx: &Context) -> Result<Kernel, Fault> {
    let arch = quiz_run::arch(Some(arch))?;
    kernel::find(&ctx.cache()?, arch, Some(name), &ctx.report)?
        .filter(|kernel| kernel.name() == name)
        .ok_or_else(|| Fault::new(format!("the kernel {name} is no longer there, and its symbols with it")))
}

fn no_symbols(kernel: &Kernel) -> Fault {
    let dir: &Path = kernel.dir();
    Fault::new(format!("quiz has no vmlinux of the kernel {} (in {})", kernel.name(), dir.display()))
        .hint("kernels that `quiz kernel build` makes have one")
}
