//! The verbs, one file each, and the way from the command line to the one that is meant. Not for runs (see `run`).

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::cli::{self, Global, RunOptions, Typed, Verb};
use crate::context::Context;
use crate::errors::{FAULT, Fault};
use crate::run::Call;

pub mod allow;
pub mod arch;
pub mod attach;
pub mod completions;
pub mod config;
pub mod cp;
pub mod debug;
pub mod doctor;
pub mod exec;
pub mod kernel;
pub mod kill;
pub mod logs;
pub mod profile;
pub mod ps;
pub mod replay;
pub mod root;
pub mod runs;
pub mod show;
pub mod template;
pub mod watch;
pub mod zfs;

/// Does what the command line `words` says.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let typed = match cli::parse(words) {
        Ok(typed) => typed,
        Err(error) => return answer(&error),
    };
    start(typed).unwrap_or_else(|fault| {
        fault.render();
        fault.exit_code()
    })
}

/// Prints help that was asked for, or what is wrong with the command line.
fn answer(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match error.print() {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::from(FAULT),
            _ if crate::standard::is_closed(crate::standard::OUTPUT) => ExitCode::from(FAULT),
            _ => ExitCode::SUCCESS,
        };
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut fault = Fault::new(text.trim_end());
    if error.kind() == ErrorKind::InvalidSubcommand {
        fault = fault.hint("a program of the guest that is named like a verb of quiz: quiz [OPTIONS] -- NAME ...");
    }
    // A command line that is refused must not look like a program's exit code 2.
    fault.render();
    ExitCode::from(FAULT)
}

fn start(typed: Typed) -> Result<ExitCode, Fault> {
    match typed {
        Typed::Run(mut global, options, command) | Typed::Watch(mut global, options, _, command)
            if options.hold_standby.is_some() =>
        {
            // Whatever directory is among the words was taken into account before.
            global.directory = options.hold_standby.clone();
            let ctx = Context::new(&global)?;
            crate::run::standby::hold(&ctx.run_spec(&options, command)?, &ctx)?;
            Ok(ExitCode::SUCCESS)
        }
        Typed::Run(global, options, command) if options.hold_run.is_some() => {
            let ctx = Context::new(&global)?;
            let spec = ctx.run_spec(&options, command)?;
            // As it was typed, without the words that made this process the keeper.
            let call = Call::of_this_process(&ctx).map(|call| Call { words: call.words[2..].to_vec(), ..call });
            let terminal = options.hold_run.as_deref().unwrap_or_default();
            Ok(ExitCode::from(crate::run::keep::hold(&spec, call, terminal, &ctx)?.exit_code))
        }
        Typed::Run(global, options, command) if options.keep.is_some() => {
            let ctx = Context::new(&global)?;
            let spec = ctx.run_spec(&options, command)?;
            crate::run::keep::front(&spec, &ctx)
        }
        Typed::Run(global, options, command) => {
            let ctx = Context::new(&global)?;
            let spec = ctx.run_spec(&options, command)?;
            let call = Call::of_this_process(&ctx);
            Ok(ExitCode::from(crate::run::run(&spec, call, &ctx)?.exit_code))
        }
        Typed::Watch(global, options, build, command) => watch::run(&global, &options, build.as_deref(), &command),
        Typed::Verb(global, options, verb) => other_verb(&global, &options, *verb),
        Typed::Exec(global, args, words) => exec::run(&args, words, &Context::new(&global)?),
    }
}

fn other_verb(global: &Global, options: &RunOptions, mut verb: Verb) -> Result<ExitCode, Fault> {
    let is_run = matches!(&verb, Verb::Replay(_)) || matches!(&verb, Verb::Zfs(args) if args.is_test());
    if !is_run && matches!(global.json, Some(Some(_))) {
        return Err(Fault::new("--json=WHERE is for runs: this verb prints its record on standard output"));
    }
    if let Verb::Config(args) = verb {
        config::run(&args, options, &Context::new(global)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut options = options.clone();
    // A build is for a kernel and its architecture too, and `quiz -k 6.1 zfs` beside `quiz -k 6.1 -p zfs` can mean nothing else.
    if let Verb::Zfs(args) = &mut verb {
        let take = |slot: &mut Option<OsString>| slot.take().map(|word| word.to_string_lossy().into_owned());
        if args.kernel.is_none() {
            args.kernel = take(&mut options.kernel);
        }
        if args.arch.name.is_none() {
            args.arch.name = take(&mut options.arch);
        }
    }
    if let Some(option) = options.first_given() {
        let message = format!("{option} in front of this verb has no meaning: it belongs to a run");
        return Err(Fault::new(message).hint("write the verb's own options behind it; its --help lists them"));
    }
    match verb {
        Verb::Completions(args) => completions::run(&args)?,
        Verb::Allow(args) => allow::run(&args, &Context::new(global)?)?,
        Verb::Attach(args) => return attach::run(&args, &Context::new(global)?),
        Verb::Cp(args) => cp::run(&args, &Context::new(global)?)?,
        Verb::Debug(args) => debug::run(&args, &Context::new(global)?)?,
        Verb::Doctor(args) => return doctor::run(&args, &Context::new(global)?),
        Verb::Kill(args) => kill::run(&args, &Context::new(global)?)?,
        Verb::Logs(args) => logs::run(&args, &Context::new(global)?)?,
        Verb::Ps(args) => ps::run(&args, &Context::new(global)?)?,
        Verb::Kernel(verb) => kernel::run(verb, &Context::new(global)?)?,
        Verb::Profile(verb) => profile::run(verb, &Context::new(global)?)?,
        Verb::Replay(args) => return replay::run(&args, global),
        Verb::Root(verb) => root::run(verb, &Context::new(global)?)?,
        Verb::Runs(args) => runs::run(&args, &Context::new(global)?)?,
        Verb::Show(args) => show::run(&args, &Context::new(global)?)?,
        Verb::Template(verb) => template::run(verb, &Context::new(global)?)?,
        Verb::Zfs(args) => return zfs::run(args, &Context::new(global)?),
        Verb::Config(_) | Verb::Exec(_) | Verb::Run(_) | Verb::Watch(_) => unreachable!("these were handled before"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The architecture that is called `name`, or the host's.
pub fn arch(name: Option<&str>) -> Result<&'static quiz_arch::Arch, Fault> {
    let Some(name) = name else { return Ok(quiz_arch::host()) };
    quiz_arch::find(name).ok_or_else(|| {
        let known = quiz_arch::ALL.iter().map(|arch| arch.name).collect::<Vec<_>>().join(", ");
        Fault::new(format!("quiz knows no architecture `{name}`")).hint(format!("it knows {known}"))
    })
}

/// A time for tables: local, to the minute.
fn when(time: jiff::Timestamp) -> String {
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
}
