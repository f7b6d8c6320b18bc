//! `git bisect run quiz …`: exit codes mean what bisecting takes them for.

use std::process::Command;

use fs_err as fs;
use quiz_testing::Sandbox;

use crate::sandbox;

/// Git in the worktree, with nobody's settings.
fn git(sandbox: &Sandbox, words: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(sandbox.worktree()).env("HOME", sandbox.worktree()).env("GIT_CONFIG_NOSYSTEM", "1");
    command.args(["-c", "user.name=quiz", "-c", "user.email=quiz@localhost"]).args(words);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "git {words:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn bisecting_finds_the_commit_after_which_the_kernel_panics() {
    let sandbox = sandbox();
    git(&sandbox, &["init", "-q"]);
    let mut commits = Vec::new();
    for number in 1..=12 {
        let script = match number {
            // A failure of the program, a panic and a guest that is lost are all bad.
            8.. if number % 3 == 0 => "exit 1",
            8.. if number % 3 == 1 => "echo b > /proc/sysrq-trigger; sleep 20",
            8.. => "echo c > /proc/sysrq-trigger",
            _ => "exit 0",
        };
        fs::write(sandbox.worktree().join("test.sh"), format!("# {number}\n{script}\n")).unwrap();
        // What quiz itself fails on (125) is neither good nor bad.
        let settings = if [6, 9].contains(&number) { "memory = \"none\"\n" } else { "" };
        fs::write(sandbox.worktree().join("quiz.toml"), format!("# {number}\n{settings}")).unwrap();
        git(&sandbox, &["add", "test.sh", "quiz.toml"]);
        git(&sandbox, &["commit", "-q", "-m", &number.to_string()]);
        commits.push(git(&sandbox, &["rev-parse", "HEAD"]).trim().to_owned());
    }
    git(&sandbox, &["bisect", "start", "HEAD", &commits[0]]);
    let quiz = sandbox.command(["sh", "test.sh"]);
    let mut run = Command::new("git");
    run.args(["bisect", "run"]).arg(quiz.get_program()).args(quiz.get_args()).current_dir(sandbox.worktree());
    run.env_clear().envs(quiz.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = run.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(&format!("{} is the first bad commit", commits[7])), "{said}");
}
