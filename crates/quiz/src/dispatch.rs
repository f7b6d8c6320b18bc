//! Finds the command that this process's arguments name, and its exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::ErrorKind;
use quiz_run::{Call, FAULT, Fault};

use crate::cli::{self, Cli, QuizCommand, Typed};
use crate::commands::{
    allow, attach, completions, config, cp, debug, doctor, exec, kernel, kill, logs, profile, ps, replay, root, runs,
    show, template, watch, zfs,
};
use crate::errors;
use crate::options::{Global, RunOptions};

/// Runs the command line `words`.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let typed = match cli::parse(words) {
        Ok(typed) => typed,
        Err(error) => return answer(&error),
    };
    start(typed).unwrap_or_else(|fault| errors::report(&fault))
}

/// Prints help that the user asked for, or what is wrong with the command line.
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
        fault = fault.hint("to run a guest program with the name of a subcommand: quiz [OPTIONS] -- NAME ...");
    }
    // A refused command line must not look like a program's exit code 2.
    errors::report(&fault)
}

fn start(typed: Typed) -> Result<ExitCode, Fault> {
    match typed {
        Typed::Run(mut global, options, command) | Typed::Watch(mut global, options, _, command)
            if options.hold_standby.is_some() =>
        {
            // The call already took a directory among the arguments into account.
            global.directory = options.hold_standby.clone();
            let ctx = global.context()?;
            quiz_run::hold_standby(&ctx.run_spec(&options.asked(), command)?, &ctx)?;
            Ok(ExitCode::SUCCESS)
        }
        Typed::Run(global, options, command) if options.hold_run.is_some() => {
            let ctx = global.context()?;
            let spec = ctx.run_spec(&options.asked(), command)?;
            // The call as the user typed it, without the arguments that made this process the
            // keeper.
            let call = Call::new(std::env::args_os().skip(1), &ctx)
                .map(|call| Call { words: call.words[2..].to_vec(), ..call });
            let terminal = options.hold_run.as_deref().unwrap_or_default();
            Ok(ExitCode::from(crate::keep::hold(&spec, call, terminal, &ctx)?.exit_code))
        }
        Typed::Run(global, options, command) if options.keep.is_some() => {
            let ctx = global.context()?;
            let spec = ctx.run_spec(&options.asked(), command)?;
            crate::keep::front(&spec, &ctx)
        }
        Typed::Run(global, options, command) => {
            let ctx = global.context()?;
            let spec = ctx.run_spec(&options.asked(), command)?;
            let call = Call::new(std::env::args_os().skip(1), &ctx);
            Ok(ExitCode::from(crate::run::run(&spec, call, &ctx)?.exit_code))
        }
        Typed::Watch(global, options, build, command) => watch::run(&global, &options, build.as_deref(), &command),
        Typed::Command(global, options, command) => other_command(&global, &options, *command),
        Typed::Exec(global, args, words) => exec::run(&args, words, &global.context()?),
    }
}

fn other_command(global: &Global, options: &RunOptions, mut command: QuizCommand) -> Result<ExitCode, Fault> {
    let is_run =
        matches!(&command, QuizCommand::Replay(_)) || matches!(&command, QuizCommand::Zfs(args) if args.is_test());
    if !is_run && matches!(global.json, Some(Some(_))) {
        return Err(Fault::new("--json=WHERE is for runs: this command prints its record on standard output"));
    }
    if let QuizCommand::Config(args) = command {
        config::run(&args, options, &global.context()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut options = options.clone();
    // A build is for a kernel and its architecture too, and `quiz -k 6.1 zfs` beside `quiz -k 6.1
    // -p zfs` can mean nothing else.
    if let QuizCommand::Zfs(args) = &mut command {
        args.kernel = args.kernel.take().or_else(|| options.settings.take("kernel"));
        args.arch.name = args.arch.name.take().or_else(|| options.settings.take("arch"));
    }
    if let Some(option) = options.first_given() {
        let message = format!("{option} has no effect before this command: it is an option of runs");
        return Err(Fault::new(message).hint("put the command's own options after it; its --help lists them"));
    }
    match command {
        QuizCommand::Completions(args) => completions::run(&args, &mut Cli::command())?,
        QuizCommand::Allow(args) => allow::run(&args, &global.context()?)?,
        QuizCommand::Attach(args) => return attach::run(&args, &global.context()?),
        QuizCommand::Cp(args) => cp::run(&args, &global.context()?)?,
        QuizCommand::Debug(args) => debug::run(&args, &global.context()?)?,
        QuizCommand::Doctor(args) => return doctor::run(&args, &global.context()?),
        QuizCommand::Kill(args) => kill::run(&args, &global.context()?)?,
        QuizCommand::Logs(args) => logs::run(&args, &global.context()?)?,
        QuizCommand::Ps(args) => ps::run(&args, &global.context()?)?,
        QuizCommand::Kernel(command) => kernel::run(command, &global.context()?)?,
        QuizCommand::Profile(command) => profile::run(command, &global.context()?)?,
        QuizCommand::Replay(args) => return replay::run(&args, global, &cli::parse_run),
        QuizCommand::Root(command) => root::run(command, &global.context()?)?,
        QuizCommand::Runs(args) => runs::run(&args, &global.context()?)?,
        QuizCommand::Show(args) => show::run(&args, &global.context()?)?,
        QuizCommand::Template(command) => template::run(command, &global.context()?)?,
        QuizCommand::Zfs(args) => return zfs::run(args, &global.context()?),
        QuizCommand::Config(_) | QuizCommand::Exec(_) | QuizCommand::Run(_) | QuizCommand::Watch(_) => {
            unreachable!("these were handled before")
        }
    }
    Ok(ExitCode::SUCCESS)
}
