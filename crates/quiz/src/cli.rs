//! Parses the command line, and nothing else: parsing never reads a file. Not for what the
//! arguments mean (see `commands` and `quiz_config::lower`).

use std::ffi::OsString;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::commands::{
    allow, attach, completions, config, cp, debug, doctor, exec, kernel, kill, logs, profile, ps, replay, root, runs,
    show, template, zfs,
};
use crate::options::{Global, RunOptions};
use line::Line;

mod line;

const AFTER_HELP: &str = "\
Programs:
  The first argument that is not an option is the program; all arguments after
  it are the program's. To run a program with the name of a quiz command, use
  `quiz -- NAME` or `quiz run NAME`. Without a program, quiz starts a shell.

In the guest:
  All files are writable and are discarded after the run, except:
  /quiz/out           kept: quiz copies it to the artifacts of the run
  the worktree        read-only, at its path on the host (see --worktree)
  --share HOST:GUEST  read-only, or writable if it ends in :rw
  --disk FILE         writable, and kept

Exit codes:
  0 to 120, 128+N     of the program, or of signal N that ended it
  121                 the guest's kernel panicked, or reported a bug (--strict)
  122                 the guest was lost: it reset, powered off, or disappeared
  124                 a time limit was reached
  125                 an error of quiz, of the host, or of this command line
  126, 127            the program cannot be executed, or was not found
  129, 130, 143       quiz was interrupted (SIGHUP, Ctrl-C, SIGTERM)

Settings:
  Sources, the later one wins: built-in defaults, the user's config.toml, the
  worktree's quiz.toml, QUIZ_* variables, options. `quiz config` lists all. An option that is a list (-p, --share, --disk, --env,
  --append, --qemu-arg) adds to the list; an empty one (-p '') first drops what
  was there.";

/// Runs a program in a fresh tiny VM
#[derive(Debug, Parser)]
#[command(name = "quiz", version, after_help = AFTER_HELP, subcommand_help_heading = "Commands")]
#[command(
    override_usage = "quiz [OPTIONS] [PROGRAM [ARGUMENTS]...]\n       quiz [OPTIONS] -- PROGRAM [ARGUMENTS]...\n       quiz COMMAND ..."
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// Options of a run.
    #[command(flatten)]
    pub run: RunOptions,
    #[command(subcommand)]
    pub command: Option<QuizCommand>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum QuizCommand {
    /// Run a program in a fresh VM: the long form
    Run(Box<Run>),
    /// Run a program in a fresh VM each time that files of the worktree change
    Watch(Box<Watch>),
    /// Download, build, list and remove kernels
    #[command(subcommand)]
    Kernel(kernel::KernelCommand),
    /// Build, list and remove root images
    #[command(subcommand)]
    Root(root::RootCommand),
    /// List and show profiles
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
    /// Build OpenZFS for kernels, and run its test suite
    Zfs(zfs::Zfs),
    /// List running VMs
    Ps(ps::Ps),
    /// Run another program in a running VM
    Exec(exec::Exec),
    /// Attach to the program of a running VM
    Attach(attach::Attach),
    /// Copy files and directories into or out of a running VM
    Cp(cp::Cp),
    /// Shut down a running VM
    Kill(kill::Kill),
    /// Print the console of a run
    Logs(logs::Logs),
    /// List recent runs and their verdicts
    Runs(runs::Runs),
    /// Show one run and its run directory
    Show(show::Show),
    /// Debug a dump of a guest's memory, or a VM that was started with --gdb
    Debug(debug::Debug),
    /// Repeat a run, and report what has changed since
    Replay(replay::Replay),
    /// Allow settings and profiles of this worktree that affect the host
    Allow(allow::Allow),
    /// List and remove templates: saved VMs that runs resume from
    #[command(subcommand)]
    Template(template::TemplateCommand),
    /// List settings, their values and where each comes from
    Config(config::Config),
    /// Check what this host has and lacks
    Doctor(doctor::Doctor),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

/// The long form of a run.
#[derive(Debug, Args)]
#[command(override_usage = "quiz run [OPTIONS] [--] [PROGRAM [ARGUMENTS]...]")]
pub struct Run {
    /// Options of the run.
    #[command(flatten)]
    pub options: RunOptions,
}

/// A run that is done again and again.
#[derive(Debug, Args)]
#[command(override_usage = "quiz watch [OPTIONS] [--] PROGRAM [ARGUMENTS]...")]
pub struct Watch {
    /// Shell command to run first, on the host; if it fails, the program is not run [default: the
    /// setting `watch_build`]
    #[arg(long, value_name = "COMMAND")]
    pub build: Option<String>,
    /// Options of the run.
    #[command(flatten)]
    pub options: RunOptions,
}

/// A parsed command line.
#[derive(Debug)]
pub enum Typed {
    /// A run.
    Run(Global, RunOptions, Vec<OsString>),
    /// A run that quiz repeats, with the command that it runs first.
    Watch(Global, RunOptions, Option<String>, Vec<OsString>),
    /// Another program in a running VM.
    Exec(Global, exec::Exec, exec::Words),
    /// A subcommand other than `run`, with the run's options that stood before it.
    Command(Global, RunOptions, Box<QuizCommand>),
}

/// Parses the command line `words`, which begins with the program's own name.
///
/// # Errors
/// If the command line is wrong. Help and version are errors, too.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Typed, clap::Error> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let mut behind_dashes = false;
    let program = match line::split(&words, &Cli::command()) {
        Line::Run { options, program } => {
            behind_dashes = program > options;
            let program = words.split_off(program);
            words.truncate(options);
            Some(program)
        }
        Line::Command => None,
    };
    let Cli { global, run, command } = Cli::try_parse_from(words)?;
    Ok(match (command, program) {
        (None, program) => Typed::Run(global, run, program.unwrap_or_default()),
        (Some(QuizCommand::Run(long)), program) => {
            Typed::Run(global, run.then(long.options), program.unwrap_or_default())
        }
        (Some(QuizCommand::Watch(long)), program) => {
            Typed::Watch(global, run.then(long.options), long.build, program.unwrap_or_default())
        }
        (Some(QuizCommand::Exec(exec)), program) => {
            if let Some(option) = run.first_given() {
                let message = format!("{option} is an option of runs: `quiz exec` has its own options\n");
                return Err(Cli::command().error(clap::error::ErrorKind::ArgumentConflict, message));
            }
            Typed::Exec(global, exec, exec::Words { words: program.unwrap_or_default(), behind_dashes })
        }
        (Some(command), _) => Typed::Command(global, run, Box::new(command)),
    })
}

/// Parses the arguments of a run, without the program's own name.
pub fn parse_run(arguments: Vec<OsString>) -> Option<(Global, RunOptions, Vec<OsString>)> {
    match parse(std::iter::once("quiz".into()).chain(arguments)) {
        Ok(Typed::Run(global, options, command) | Typed::Watch(global, options, _, command)) => {
            Some((global, options, command))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn typed(words: &[&str]) -> Result<Typed, clap::Error> {
        parse(std::iter::once("quiz").chain(words.iter().copied()).map(OsString::from))
    }

    fn run(line: impl IntoIterator<Item = OsString>) -> (Global, RunOptions, Vec<OsString>) {
        match parse(line).unwrap() {
            Typed::Run(global, options, program) => (global, options, program),
            other => panic!("expected a run, got {other:?}"),
        }
    }

    fn program(words: &[&str]) -> Vec<OsString> {
        run(std::iter::once("quiz").chain(words.iter().copied()).map(OsString::from)).2
    }

    fn options(words: &[&str]) -> RunOptions {
        run(std::iter::once("quiz").chain(words.iter().copied()).map(OsString::from)).1
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_stop_at_the_program() {
        assert_eq!(program(&[]), Vec::<OsString>::new());
        assert_eq!(program(&["uname", "-a"]), ["uname", "-a"]);
        assert_eq!(program(&["-p", "zfs,memdev", "zpool", "status", "-p", "x"]), ["zpool", "status", "-p", "x"]);
        assert_eq!(
            program(&["ls", "--json", "-q", "--help", "-h", "-V"]),
            ["ls", "--json", "-q", "--help", "-h", "-V"]
        );
        assert_eq!(program(&["run", "uname", "-a"]), ["uname", "-a"]);
        assert_eq!(program(&["run", "-m", "2G", "ps", "-m"]), ["ps", "-m"]);
        assert_eq!(program(&["run"]), Vec::<OsString>::new());
    }

    #[test]
    fn the_value_of_an_option_is_no_program() {
        for line in [
            &["-p", "ps", "true"][..],
            &["-pps", "true"],
            &["-Sp", "ps", "true"],
            &["-vpzfs", "true"],
            &["--profile", "kernel", "true"],
            &["--profile=kernel", "true"],
            &["--append", "-x", "true"],
            &["--qemu-arg", "--", "true"],
            &["-C", "run", "true"],
            &["-k", "6.12", "run", "-m", "1G", "true"],
        ] {
            assert_eq!(program(line), ["true"], "{line:?}");
        }
    }

    #[test]
    fn what_is_watched_is_a_program_with_words_of_its_own() {
        for line in [
            &["watch", "--build", "make -s", "-m", "2G", "ls", "-m"][..],
            &["-m", "2G", "watch", "--", "ls", "-m"],
            &["watch", "-m", "2G", "-C", "/", "ls", "-m"],
        ] {
            match typed(line).unwrap() {
                Typed::Watch(_, options, build, program) => {
                    let typed = options.typed();
                    assert_eq!((typed[0].key, typed[0].value.to_str(), typed.len()), ("memory", Some("2G"), 1));
                    assert_eq!(program, ["ls", "-m"]);
                    assert_eq!(build.is_some(), line[1] == "--build");
                }
                other => panic!("{line:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn two_dashes_are_the_programs_own_once_it_has_begun() {
        assert_eq!(program(&["--", "ps"]), ["ps"]);
        assert_eq!(program(&["--", "-x"]), ["-x"]);
        assert_eq!(program(&["--", "--", "x"]), ["--", "x"]);
        assert_eq!(program(&["sh", "-c", "echo", "--", "a"]), ["sh", "-c", "echo", "--", "a"]);
        assert_eq!(program(&["sh", "--"]), ["sh", "--"]);
        assert_eq!(program(&["--", "sh", "--", "a"]), ["sh", "--", "a"]);
        assert_eq!(program(&["run", "--", "kernel", "list"]), ["kernel", "list"]);
        assert_eq!(program(&["run", "--", "sh", "--", "a"]), ["sh", "--", "a"]);
        assert_eq!(program(&["-p", "zfs", "--", "zfs", "list"]), ["zfs", "list"]);
        assert_eq!(program(&["--"]), Vec::<OsString>::new());
    }

    #[test]
    fn verbs_behind_run_or_dashes_are_programs() {
        for command in ["run", "kernel", "root", "config", "doctor", "completions", "help", "zfs", "ps"] {
            assert_eq!(program(&["run", command, "x"]), [command, "x"]);
            assert_eq!(program(&["--", command, "x"]), [command, "x"]);
        }
    }

    #[test]
    fn arguments_arrive_byte_for_byte() {
        let odd: Vec<OsString> =
            [&b"prog"[..], b"", b" ", b"a b", b"\n", b"'\"\\$`", b"\xff\xfe", b"-", b"--", b"-\xff", b"=x"]
                .map(|bytes| OsStr::from_bytes(bytes).to_owned())
                .to_vec();
        for before in
            [&["quiz"][..], &["quiz", "--"], &["quiz", "run"], &["quiz", "run", "--"], &["quiz", "-k", "6.12"]]
        {
            let line = before.iter().map(OsString::from).chain(odd.iter().cloned());
            assert_eq!(run(line).2, odd, "{before:?}");
        }
        let empty = ["", "x"].map(OsString::from);
        let line = ["quiz", "--"].map(OsString::from).into_iter().chain(empty.clone());
        assert_eq!(run(line).2, empty);
        let not_text = OsStr::from_bytes(b"\xffprog").to_owned();
        let line = ["quiz".into(), not_text.clone()];
        assert_eq!(run(line).2, [not_text]);
    }

    #[test]
    fn options_are_recorded_as_typed() {
        let typed = |words: &[&str]| -> Vec<(&'static str, String)> {
            let list = options(words).typed().into_iter();
            list.map(|t| (t.key, t.value.to_string_lossy().into_owned())).collect()
        };
        assert_eq!(
            typed(&["-p", "a,b", "-p", "c", "--qemu-arg", "-d", "--qemu-arg=int", "--append", "-x", "true"]),
            [("qemu_args", "-d"), ("qemu_args", "int"), ("append", "-x"), ("profiles", "a,b"), ("profiles", "c")]
                .map(|(k, v)| (k, v.to_owned()))
        );
        assert_eq!(typed(&["-p", "", "true"]), [("profiles", String::new())]);
        assert_eq!(
            typed(&["-m", "1G", "-p", "a", "run", "-m", "2G", "-p", "b", "true"]),
            [("memory", "2G"), ("profiles", "a"), ("profiles", "b")].map(|(k, v)| (k, v.to_owned()))
        );
    }

    #[test]
    fn every_key_with_an_option_is_set_by_it() {
        let mut line = Vec::new();
        for option in quiz_config::KEYS.iter().filter_map(|key| key.option) {
            line.push(format!("{}=1", option.long));
        }
        let line: Vec<&str> = line.iter().map(String::as_str).chain(["true"]).collect();
        let typed = options(&line).typed();
        for key in quiz_config::KEYS {
            let found = typed.iter().find(|typed| typed.key == key.name);
            assert_eq!(found.map(|typed| typed.option), key.option.map(|option| option.long), "{}", key.name);
        }
    }

    #[test]
    fn help_has_the_default_of_each_option() {
        let command = Cli::command();
        let help = |long: &str| {
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(long)).unwrap();
            arg.get_help().unwrap().to_string()
        };
        assert!(help("memory").ends_with(" [default: 1G]"), "{}", help("memory"));
        assert!(help("kernel").ends_with(" [default: the best one that is installed]"), "{}", help("kernel"));
        assert!(!help("disk").contains("default"), "{}", help("disk"));
    }

    #[test]
    fn global_options_are_understood_on_both_sides_of_a_verb() {
        for line in [&["--json", "config"][..], &["config", "--json"], &["--json", "-p", "kernel", "config"]] {
            let typed = typed(line).unwrap();
            let Typed::Command(global, _, command) = typed else { panic!("{typed:?}") };
            assert!(global.json == Some(None) && matches!(*command, QuizCommand::Config(_)), "{command:?}");
        }
        let Typed::Run(global, _, words) = typed(&["--json=fd:3", "echo", "--json=x"]).unwrap() else { panic!() };
        assert_eq!((global.json, words), (Some(Some("fd:3".into())), vec!["echo".into(), "--json=x".into()]));
        for line in [&["-v", "run", "--", "true"][..], &["run", "-v", "--", "true"], &["-v", "true"]] {
            let Typed::Run(global, ..) = typed(line).unwrap() else { panic!("{line:?} is a run") };
            assert_eq!(global.verbosity(), quiz_config::Verbosity::Verbose);
        }
    }

    #[test]
    fn the_words_behind_exec_are_the_programs() {
        let exec = |words: &[&str]| match typed(words).unwrap() {
            Typed::Exec(_, exec, words) => (exec, words.words, words.behind_dashes),
            other => panic!("expected exec, got {other:?}"),
        };
        assert_eq!(exec(&["exec", "ls", "-l"]).1, ["ls", "-l"]);
        assert_eq!(exec(&["exec", "12ab", "--", "-x"]).1, ["12ab", "--", "-x"]);
        let (_, words, behind_dashes) = exec(&["exec", "--", "12ab"]);
        assert!(behind_dashes && words == ["12ab"]);
        assert_eq!(exec(&["-q", "exec", "--env", "A=B", "run", "--env"]).1, ["run", "--env"]);
        assert_eq!(program(&["--keep", "exec", "x"][..1]), Vec::<OsString>::new());
        assert_eq!(program(&["--keep", "sleep", "5"]), ["sleep", "5"]);
        assert_eq!(program(&["--keep=5m", "sleep", "5"]), ["sleep", "5"]);
        assert_eq!(program(&["--", "exec", "list"]), ["exec", "list"]);
        assert_eq!(program(&["run", "exec"]), ["exec"]);
        assert!(typed(&["-p", "x", "exec", "true"]).is_err());
    }

    #[test]
    fn unknown_options_are_refused() {
        for line in
            [&["--nosuch", "true"][..], &["run", "-Z", "true"], &["-v", "-q", "true"], &["-p"], &["-p", "--", "x"]]
        {
            assert!(typed(line).is_err(), "{line:?}");
        }
    }
}
