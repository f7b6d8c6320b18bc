//! `quiz exec`: runs another program in a running VM.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::Args;
use quiz_host::{Cache, Report};
use quiz_run::registry::{self, Running};
use quiz_run::{Asked, Context, Fault, SHELL, guest};
use quiz_vm::client::Parting;
use quiz_vm::{Verdict, control};

use crate::standard::Line;
use crate::terminal::Terminal;

#[derive(Debug, Args)]
#[command(override_usage = "quiz exec [OPTIONS] [ID] [--] [PROGRAM [ARGUMENTS]...]")]
#[command(after_help = "\
ID is the id of a running VM, or at least four characters of its beginning or
end; without it, quiz takes the newest run of this worktree. Without a program,
quiz starts a shell. The program gets the environment and the directory of the
run's program, and a terminal if quiz has one. Its exit code becomes the exit
code of quiz; 121, 122, 124 and 125 mean that the VM ended first.")]
pub struct Exec {
    /// Environment variable for the program: NAME passes the caller's value on
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,
}

/// The arguments after the options.
#[derive(Debug)]
pub struct Words {
    /// The id of the VM, if there is one, and the program.
    pub words: Vec<OsString>,
    /// Whether `--` stood before them: then all of them are the program's.
    pub behind_dashes: bool,
}

pub fn run(args: &Exec, words: Words, ctx: &Context) -> Result<ExitCode, Fault> {
    let cache = ctx.cache()?;
    let (running, command) = find(words, &cache, ctx)?;
    let spec = ctx.run_spec(&Asked::of([("env", "--env", args.env.clone())]), command)?;
    let terminal = Terminal::of_this_process();
    let bytes = |word: &OsString| word.as_bytes().to_vec();
    let argv = match spec.command.as_slice() {
        [] => SHELL.map(|word| word.as_bytes().to_vec()).to_vec(),
        command => command.iter().map(bytes).collect(),
    };
    let exec = control::Exec {
        argv,
        env: spec.env.iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
        cwd: ctx.cwd.as_os_str().as_bytes().to_vec(),
        terminal: terminal.program().size,
        separate_stderr: terminal.program().separate_stderr,
    };
    terminal.tell_escape(spec.escape, ctx);
    let socket = guest::enter(&running, &cache)?;
    let parting = {
        let _raw = terminal.raw()?;
        guest::run(socket, exec, terminal.streams(&Line::default())?, &mut terminal.signals()?, spec.escape)?
    };
    tell(parting, &running, ctx)
}

/// Finds the VM and the program that `words` name.
fn find(words: Words, cache: &Cache, ctx: &Context) -> Result<(Running, Vec<OsString>), Fault> {
    let runs = ctx.runs_dir()?.path();
    let Words { mut words, behind_dashes } = words;
    let named = words.first().and_then(|word| word.to_str()).filter(|word| !behind_dashes && may_be_id(word));
    if let Some(named) = named.map(str::to_owned) {
        let is_one = |one: &Running| one.id.starts_with(&named) || one.id.ends_with(&named);
        if is_whole_id(&named) || registry::all(cache).iter().any(is_one) {
            words.remove(0);
            if words.first().is_some_and(|word| word == "--") {
                words.remove(0);
            }
            return Ok((registry::find(cache, &runs, Some(&named))?, words));
        }
    }
    Ok((registry::find(cache, &runs, None)?, words))
}

/// Whether an argument can be a part of an id. Few programs have such a name.
fn may_be_id(word: &str) -> bool {
    word.len() >= 4
        && word.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f' | b'-'))
        && word.bytes().any(|b| b.is_ascii_digit())
}

/// Whether an argument is a whole id: `20260102-030405-678abc`.
fn is_whole_id(word: &str) -> bool {
    may_be_id(word) && word.split('-').map(str::len).eq([8, 6, 6])
}

/// Returns the exit code. Reports how it ended, unless the program has just exited.
fn tell(parting: Parting, running: &Running, ctx: &Context) -> Result<ExitCode, Fault> {
    Ok(ExitCode::from(match parting {
        Parting::Ended(status) => {
            let verdict = Verdict::from(status);
            if !matches!(verdict, Verdict::Exited { .. } | Verdict::Signalled { .. }) {
                ctx.report.say(&verdict.headline());
            }
            verdict.exit_code()
        }
        Parting::Over { code, message, .. } => {
            message.iter().for_each(|message| ctx.report.say(message));
            code
        }
        Parting::Escaped => {
            ctx.report.say("detached; the program received SIGHUP");
            Verdict::Interrupted { signal: libc::SIGHUP as u8 }.exit_code()
        }
        Parting::Interrupted(signal) => Verdict::Interrupted { signal }.exit_code(),
        Parting::Gone => {
            return Err(Fault::new(format!("the quiz of {} is gone, and its VM with it", running.id)));
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_hardly_ever_taken_for_an_id() {
        assert!(["678abc", "20260102-030405-678abc", "0304", "5-678abc"].iter().all(|word| may_be_id(word)));
        assert!(["dd", "ed", "7z", "fade", "2to3", "bc", "sh", "cafe", "zpool"].iter().all(|word| !may_be_id(word)));
        assert!(is_whole_id("20260102-030405-678abc") && !is_whole_id("030405-678abc") && !is_whole_id("678abc"));
    }
}
