//! `quiz logs`: prints the console of a VM, and follows it.

use std::io::{self, IsTerminal, Read, Write};
use std::time::Duration;

use clap::Args;
use quiz_host::held::HeldDir;
use quiz_host::stream::Patient;
use quiz_vm::visible::visible_console;

use quiz_run::{Context, Fault};
use quiz_run::{history, registry};

/// How often quiz checks a console that may grow.
const EVERY: Duration = Duration::from_millis(100);

/// Whose.
#[derive(Debug, Args)]
pub struct Logs {
    /// Id of the run, or its beginning or end [default: the newest run of this worktree]
    pub id: Option<String>,
    /// Follow the console until the run ends
    #[arg(short, long)]
    pub follow: bool,
}

pub fn run(args: &Logs, ctx: &Context) -> Result<(), Fault> {
    let cache = ctx.cache()?;
    let running = registry::find(&cache, &ctx.runs_dir()?.path(), args.id.as_deref());
    let dir = match &running {
        Ok(running) => running.dir.clone(),
        Err(_) => history::find(&ctx.runs_dirs()?, args.id.as_deref())?.dir,
    };
    let mut console = HeldDir::open(&dir)?.read("console.log")?;
    let mut goes_on = args.follow && running.is_ok();
    loop {
        if !copy(&mut console)? {
            return Ok(());
        }
        if !goes_on {
            return Ok(());
        }
        // This check comes before the last read of the console, so that quiz misses nothing.
        goes_on = registry::all(&cache).iter().any(|one| one.dir == dir);
        std::thread::sleep(EVERY);
    }
}

/// Prints what the console has now. Returns false if the reader of the output is gone.
fn copy(console: &mut impl Read) -> Result<bool, Fault> {
    let mut bytes = Vec::new();
    console.read_to_end(&mut bytes)?;
    let shown = if io::stdout().is_terminal() { visible_console(&bytes).into_bytes() } else { bytes };
    let mut stdout = Patient(io::stdout().lock());
    match stdout.write_all(&shown).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Fault::new(format!("cannot write to stdout: {e}"))),
    }
}
