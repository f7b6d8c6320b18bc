//! Measures access to a running VM: another program, a large file in and out, and the cost of a
//! share for work that touches many files.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use fs_err as fs;

use super::samples::{Samples, print};
use crate::sh::check;
use crate::steps::released_quiz;

/// How many files the tree has, in directories of a hundred.
const FILES: usize = 10_000;
/// The size of the large file in bytes.
const LARGE: usize = 1 << 30;

/// How a version control system checks for changes: the state of each file.
const LOOK: &str = "find . -type f -printf '%s %T@ %i\\n' | wc -l";
/// How it searches for text: the contents of each file.
const READ: &str = "find . -type f -exec cat {} + | wc -c";
/// How it switches branches: files are made and removed.
const CHANGE: &str = "for i in $(seq 500); do echo $i > new-$i; done; rm new-*";

/// Measures in `rounds` turns.
pub fn run(rounds: usize, kernel: Option<&str>) -> Result<(), String> {
    let program = released_quiz()?;
    let place = tempfile::tempdir().map_err(|e| e.to_string())?;
    let worktree = place.path().join("worktree");
    let tree = worktree.join("tree");
    make_tree(&tree).map_err(|e| format!("the tree of files: {e}"))?;
    fs::write(worktree.join("quiz.toml"), "worktree = \"rw\"\nmemory = \"4G\"\n").map_err(|e| e.to_string())?;
    let quiz = |words: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(&worktree).arg("-q").args(words);
        if let Some(kernel) = kernel {
            command.env("QUIZ_KERNEL", kernel);
        }
        command
    };
    check(&mut quiz(&["--keep=1h", "true"]))?;
    let measured = measure(rounds, &quiz, place.path(), &tree);
    check(&mut quiz(&["kill"]))?;
    measured
}

fn measure(rounds: usize, quiz: &dyn Fn(&[&str]) -> Command, place: &Path, tree: &Path) -> Result<(), String> {
    let large = place.join("large");
    make_large(&large).map_err(|e| format!("the large file: {e}"))?;
    let (large, back) = (large.display().to_string(), place.join("back").display().to_string());
    check(&mut quiz(&["cp", &tree.display().to_string(), ":/tmp/tree"]))?;

    let mut exec = Samples::of("quiz exec true");
    let mut into = Samples::of("quiz cp of 1 GiB into the guest");
    let mut out = Samples::of("quiz cp of 1 GiB out of it");
    for _ in 0..rounds {
        exec.time(&mut quiz(&["exec", "true"]))?;
    }
    for _ in 0..rounds.min(3) {
        into.time(&mut quiz(&["cp", &large, ":/tmp/large"]))?;
        out.time(&mut quiz(&["cp", ":/tmp/large", &back]))?;
        same(&large, &back)?;
    }
    print(&[&exec, &into, &out]);

    let on_share = tree.display().to_string();
    for (name, script) in [("look at", LOOK), ("read", READ), ("make and remove 500 of", CHANGE)] {
        let mut host = Samples::of("on the host");
        let mut memory = Samples::of("in the guest's memory");
        let mut share = Samples::of("on a share (9p)");
        for _ in 0..rounds {
            host.time(Command::new("sh").args(["-c", script]).current_dir(tree))?;
            let here = |dir: &str| format!("cd '{dir}' && {script}");
            memory.time(&mut quiz(&["exec", "sh", "-c", &here("/tmp/tree")]))?;
            share.time(&mut quiz(&["exec", "sh", "-c", &here(&on_share)]))?;
        }
        println!("\n{name} {FILES} files");
        print(&[&host, &memory, &share]);
    }
    Ok(())
}

fn make_tree(tree: &Path) -> std::io::Result<()> {
    for i in 0..FILES {
        let dir = tree.join(format!("dir-{}", i / 100));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("file-{i}.c")), format!("/* file {i} */\n").repeat(100))?;
    }
    Ok(())
}

/// Writes numbers that cannot be compressed.
fn make_large(path: &Path) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..LARGE / 8 {
        // xorshift64 (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush()
}

fn same(one: &str, other: &str) -> Result<(), String> {
    check(Command::new("cmp").args([one, other]))
}
