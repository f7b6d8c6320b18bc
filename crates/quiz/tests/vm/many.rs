//! P7: many runs at once, in one worktree and in two, do not disturb each other.

use std::collections::HashSet;
use std::path::PathBuf;

use fs_err as fs;
use quiz_testing::Ran;

use crate::sandbox;

#[test]
fn p7_twenty_at_once_in_two_worktrees_are_all_right() {
    let sandbox = sandbox();
    let worktrees: [PathBuf; 2] = [sandbox.worktree(), sandbox.make_worktree("other")];
    for (i, worktree) in worktrees.iter().enumerate() {
        fs::write(worktree.join("whoami"), format!("worktree {i}\n")).unwrap();
    }
    let script = "cat whoami; echo $0; echo $0 > /quiz/out/number; cat /etc/machine-id; exit $0";
    let runs: Vec<_> = (0..20)
        .map(|i| {
            let mut command = sandbox.command(["-q", "-m", "256M", "--cpus", "1", "sh", "-c", script, &i.to_string()]);
            (i, sandbox.start(command.current_dir(&worktrees[i % 2])))
        })
        .collect();
    let mut machine_ids = HashSet::new();
    for (i, run) in runs {
        let ran: Ran = run.wait_with_output().unwrap().into();
        assert_eq!(ran.code, i as i32, "run {i}: {}", ran.stderr);
        let out = ran.out();
        let machine_id = out.strip_prefix(&format!("worktree {}\n{i}\n", i % 2));
        machine_ids.insert(machine_id.unwrap_or_else(|| panic!("run {i} said {out}")).to_owned());
    }
    assert_eq!(machine_ids.len(), 20, "each guest is another machine");
    let mut numbers: Vec<u32> = worktrees
        .iter()
        .flat_map(|worktree| quiz_testing::runs_of(worktree))
        .map(|run| fs::read_to_string(run.join("artifacts/number")).unwrap().trim().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
}

#[test]
fn runs_are_pruned_by_number_and_never_one_that_goes_on() {
    let sandbox = sandbox();
    fs::write(sandbox.worktree().join("quiz.toml"), "keep_runs = 2\n").unwrap();
    let mut long = sandbox
        .start(sandbox.command(["sh", "-c", "echo ready; read x; echo end"]).stdin(std::process::Stdio::piped()));
    let mut ready = [0; 6];
    std::io::Read::read_exact(long.stdout.as_mut().unwrap(), &mut ready).unwrap();
    for _ in 0..3 {
        assert_eq!(sandbox.quiz(["true"]).code, 0);
    }
    assert_eq!(sandbox.runs().len(), 3, "two that are kept, and the one that goes on");
    drop(long.stdin.take());
    let ran: Ran = long.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.out().as_str()), (0, "end\n"), "{}", ran.stderr);
}

#[test]
fn a_run_that_is_refused_leaves_nothing() {
    let sandbox = sandbox();
    let disk = sandbox.beside("disk.img");
    let file = fs::File::create(&disk).unwrap();
    file.set_len(1 << 20).unwrap();
    file.file().lock().unwrap();
    let refused = sandbox.quiz(["--disk", &disk.display().to_string(), "true"]);
    assert_eq!(refused.code, 125, "{}", refused.stderr);
    let pid = std::process::id().to_string();
    assert!(refused.stderr.contains("disk.img is in use") && refused.stderr.contains(&pid), "{}", refused.stderr);
    assert!(sandbox.runs().is_empty());
}
