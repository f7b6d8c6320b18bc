//! A program that is run again as its worktree's files change.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use fs_err as fs;

use crate::sandbox;

/// What `quiz watch` says, line by line.
struct Said(Receiver<String>);

impl Said {
    fn by(child: &mut Child) -> Said {
        let (sender, lines) = channel();
        for stream in [
            Box::new(child.stdout.take().unwrap()) as Box<dyn std::io::Read + Send>,
            Box::new(child.stderr.take().unwrap()),
        ] {
            let sender = sender.clone();
            std::thread::spawn(move || {
                BufReader::new(stream).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
            });
        }
        Said(lines)
    }

    /// Everything up to a line with these words.
    fn until(&self, words: &str) -> String {
        let mut all = String::new();
        loop {
            let line = self.0.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|e| panic!("{words}: {e}: {all}"));
            all += &(line.clone() + "\n");
            if line.contains(words) {
                return all;
            }
        }
    }

    fn nothing(&self) {
        assert!(self.0.recv_timeout(Duration::from_millis(700)).is_err(), "nothing was to be said");
    }
}

#[test]
fn a_program_is_run_again_when_a_file_has_changed() {
    let sandbox = sandbox();
    let file = |name: &str| sandbox.worktree().join(name);
    assert!(Command::new("git").args(["init", "-q"]).current_dir(sandbox.worktree()).status().unwrap().success());
    fs::write(file(".gitignore"), "*.o\n").unwrap();
    fs::write(file("source"), "3").unwrap();
    fs::write(file("quiz.toml"), "watch_build = \"test ! -e broken && cp source made.o\"\n").unwrap();
    sandbox.allow();
    let mut command = sandbox.command(["watch", "sh", "-c", "echo run $(cat made.o); exit $(cat made.o)"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let said = Said::by(&mut child);
    let first = said.until("waiting for a change");
    assert!(first.contains("run 3\n") && first.contains("quiz: exited 3\n"), "{first}");

    fs::write(file("source"), "0").unwrap();
    let second = said.until("waiting for a change");
    assert!(second.contains("changed: source\n") && second.contains("run 0\n"), "{second}");
    assert!(second.contains("quiz: exited 0; before: exited 3\n"), "{second}");

    // What a build has made, and what is quiz's own, is no change.
    fs::write(file("other.o"), "x").unwrap();
    fs::write(file(".quiz/x"), "x").unwrap();
    said.nothing();

    fs::write(file("broken"), "").unwrap();
    let third = said.until("waiting for a change");
    assert!(third.contains("the program is not run") && !third.contains("run 0"), "{third}");
    fs::remove_file(file("broken")).unwrap();
    assert!(said.until("waiting for a change").contains("quiz: exited 0, as before\n"));

    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn without_a_program_or_a_worktree_there_is_nothing_to_watch() {
    let sandbox = sandbox();
    let none = sandbox.quiz(["watch"]);
    assert!(none.code == 125 && none.stderr.contains("no program"), "{}", none.stderr);
    let outside = sandbox.beside("nowhere");
    fs::create_dir(&outside).unwrap();
    let ran = sandbox.quiz_in(&outside, ["watch", "true"]);
    assert!(ran.code == 125 && ran.stderr.contains("is in no worktree"), "{}", ran.stderr);
}
