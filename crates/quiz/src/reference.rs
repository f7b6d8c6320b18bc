//! Makes the reference of the command line and the man pages from the definitions of the options. A
//! test compares them with those in `docs`; `cargo xtask reference` writes them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use clap::{Command, CommandFactory};
use fs_err as fs;

use crate::cli::Cli;

/// If this variable is set, the test writes the pages instead of comparing them.
const WRITE: &str = "QUIZ_WRITE_REFERENCE";

/// The width of help in the reference.
const WIDTH: usize = 100;

/// Returns every command with the names that lead to it, in the order of help.
fn commands() -> Vec<(String, Command)> {
    fn add(name: &str, command: &Command, all: &mut Vec<(String, Command)>) {
        all.push((name.to_owned(), command.clone().display_name(name).bin_name(name)));
        let below = command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
        for command in below {
            add(&format!("{name} {}", command.get_name()), command, all);
        }
    }
    let mut quiz = Cli::command().term_width(WIDTH);
    quiz.build();
    let mut all = Vec::new();
    add("quiz", &quiz, &mut all);
    all
}

/// Returns the pages by their paths below `docs`.
fn pages() -> BTreeMap<String, String> {
    let mut pages = BTreeMap::new();
    let mut reference =
        "# The command line\n\nMade from the definitions of the options by `cargo xtask reference`.\n".to_owned();
    for (name, mut command) in commands() {
        let help = command.render_long_help().to_string();
        let help: String = help.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
        write!(reference, "\n## {name}\n\n```text\n{}```\n", help.trim_end().to_owned() + "\n")
            .expect("a string grows");
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).expect("a vector grows");
        pages.insert(format!("man/{}.1", name.replace(' ', "-")), String::from_utf8(page).expect("help is text"));
    }
    pages.insert("reference/cli.md".to_owned(), reference);
    pages
}

#[test]
fn the_pages_in_docs_are_those_of_the_definitions() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let pages = pages();
    if std::env::var_os(WRITE).is_some() {
        fs::remove_dir_all(docs.join("man")).ok();
        for (path, text) in &pages {
            let path = docs.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        return;
    }
    for (path, text) in &pages {
        let there = fs::read_to_string(docs.join(path)).unwrap_or_default();
        assert!(
            there == *text,
            "docs/{path} differs from the definitions: run `cargo xtask reference` and look at the difference"
        );
    }
    let there = fs::read_dir(docs.join("man")).unwrap().count();
    assert_eq!(there, pages.len() - 1, "docs/man has pages of commands that are gone: run `cargo xtask reference`");
}
