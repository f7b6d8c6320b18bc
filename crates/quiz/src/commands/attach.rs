//! `quiz attach`: shows the output of a VM's program here, too.

use std::process::ExitCode;

use clap::Args;
use quiz_host::Report;
use quiz_vm::client::{Ends, Heed, Parting, converse, greet};
use quiz_vm::control::Request;
use quiz_vm::{Streams, Verdict};

use crate::standard::Line;
use crate::terminal::Terminal;
use quiz_run::registry;
use quiz_run::{Context, Fault};

#[derive(Debug, Args)]
pub struct Attach {
    /// Id of the run, or its beginning or end [default: the newest run of this worktree]
    pub id: Option<String>,
}

/// Shows the output until the program or the VM ends, or the user leaves.
pub fn run(args: &Attach, ctx: &Context) -> Result<ExitCode, Fault> {
    let cache = ctx.cache()?;
    let running = registry::find(&cache, &ctx.runs_dir()?.path(), args.id.as_deref())?;
    let terminal = Terminal::of_this_process();
    let socket = running.visit(&cache)?;
    let on_terminal =
        greet(&socket).map_err(|e| Fault::new(format!("cannot attach to the VM of {}: {e}", running.id)))?;
    // Input goes to the program if there is a terminal at both ends.
    let at_terminal = on_terminal && terminal.program().size.is_some();
    let spec = ctx.default_spec()?;
    let escape = spec.escape.0.filter(|_| at_terminal);
    if at_terminal {
        terminal.tell_escape(spec.escape, ctx);
    }
    let parting = {
        let _raw = if at_terminal { terminal.raw()? } else { None };
        let (streams, mut signals) = (terminal.streams(&Line::default())?, terminal.signals()?);
        let streams = Streams { input: streams.input.filter(|_| at_terminal), ..streams };
        let mut heed = |_| Heed::Leave;
        let ends = Ends { streams, signals: &mut signals, escape, begin: &mut || {}, heed: &mut heed };
        converse(socket, &Request::Attach, ends)?
    };
    Ok(match parting {
        Parting::Over { code, message, .. } => {
            message.iter().for_each(|message| ctx.report.say(message));
            ExitCode::from(code)
        }
        Parting::Gone => return Err(Fault::new(format!("the quiz of {} is gone, and its VM with it", running.id))),
        Parting::Escaped | Parting::Interrupted(_) | Parting::Ended(_) => {
            ctx.report.say(&format!("detached; the program is still running: quiz attach {}", running.id));
            let signal = if let Parting::Interrupted(signal) = parting { signal } else { libc::SIGHUP as u8 };
            // The program's exit status is not known.
            ExitCode::from(Verdict::Interrupted { signal }.exit_code())
        }
    })
}
