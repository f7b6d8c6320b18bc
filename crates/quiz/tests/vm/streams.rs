//! Arguments, streams and exit codes reach the user exactly.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use crate::sandbox;

/// Bytes that no text tool would leave alone, the same in every run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(length)
    .collect()
}

#[test]
fn the_streams_are_separate_and_the_code_is_the_programs() {
    let ran = sandbox().quiz(["-q", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.out().as_str(), ran.stderr.as_str(), ran.code), ("out\n", "err\n", 7));
}

#[test]
fn arguments_arrive_exactly() {
    let words: [&[u8]; 9] = [
        b"a b",
        b"",
        b"it's",
        b"\"quoted\" $HOME `x`",
        b"line\nbreak",
        b"--",
        b"-v",
        b"\xff\xfe",
        "é\u{1f980}".as_bytes(),
    ];
    let mut arguments: Vec<&OsStr> = [b"printf".as_slice(), b"%s\\0"].map(OsStr::from_bytes).to_vec();
    arguments.extend(words.iter().map(|word| OsStr::from_bytes(word)));
    let expected: Vec<u8> = words.iter().flat_map(|word| word.iter().copied().chain([0])).collect();
    let sandbox = sandbox();
    assert_eq!(sandbox.quiz(&arguments).stdout, expected);
    let mut long = vec![OsStr::new("run"), OsStr::new("--")];
    long.extend(&arguments);
    assert_eq!(sandbox.quiz(&long).stdout, expected);
}

#[test]
fn a_program_named_like_a_verb_runs_behind_two_dashes() {
    let ran = sandbox().quiz(["--", "config"]);
    assert_eq!(ran.code, 127, "{}", ran.stderr);
    assert!(ran.stderr.contains("config: not found in the guest"), "{}", ran.stderr);
}

#[test]
fn input_and_output_are_binary_and_end() {
    let noise = noise(20 << 20);
    let ran = sandbox().quiz_with_input(["cat"], &noise);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout == noise, "{} bytes came back of {}", ran.stdout.len(), noise.len());
}

#[test]
fn a_program_that_reads_only_the_beginning_ends() {
    let ran = sandbox().quiz_with_input(["head", "-c", "3"], &noise(8 << 20));
    assert_eq!((ran.code, ran.stdout.len()), (0, 3), "{}", ran.stderr);
}

#[test]
fn no_input_is_an_empty_one() {
    let ran = sandbox().quiz(["wc", "-c"]);
    assert_eq!((ran.out().trim(), ran.code), ("0", 0));
}

#[test]
fn a_reader_that_goes_away_ends_the_program_as_in_any_pipe() {
    let sandbox = sandbox();
    let mut command = std::process::Command::new("bash");
    let quiz = sandbox.command([""; 0]);
    command.arg("-c").arg("\"$0\" yes | head -c 100000 | wc -c; echo ${PIPESTATUS[0]}").arg(quiz.get_program());
    command.current_dir(sandbox.worktree()).env_clear();
    command.envs(quiz.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let said = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "100000\n141\n", "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn a_full_disk_for_the_output_is_a_fault_and_no_success() {
    let sandbox = sandbox();
    let full = fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = sandbox.command(["echo", "lost"]);
    let ran = command.stdout(full.into_parts().0).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let ran = ran.wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("standard output"));
}

#[test]
fn streams_that_do_not_block_lose_nothing() {
    let sandbox = sandbox();
    // As Node.js and ssh leave them: sockets, and no terminal anywhere.
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let end = || std::os::fd::OwnedFd::from(theirs.try_clone().unwrap());
    let mut command = std::process::Command::new("setsid");
    let quiz = sandbox.command([
        "sh",
        "-c",
        "read x; echo got $x; head -c 3000000 /dev/zero; echo end; echo words >&2; exit 5",
    ]);
    command.arg("--wait").arg(quiz.get_program()).args(quiz.get_args()).current_dir(sandbox.worktree()).env_clear();
    command.envs(quiz.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut quiz = command.stdin(end()).stdout(end()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop((command, theirs));
    // Nothing is there to be read when the program starts, and nobody reads when it writes.
    std::thread::sleep(std::time::Duration::from_secs(3));
    (&ours).write_all(b"late words\n").unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let mut got = Vec::new();
    (&ours).read_to_end(&mut got).unwrap();
    let mut said = String::new();
    quiz.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(quiz.wait().unwrap().code(), Some(5), "{said}");
    assert!(got.starts_with(b"got late words\n") && got.ends_with(b"\0end\n"), "{} bytes", got.len());
    assert_eq!((got.len(), said.as_str()), (15 + 3_000_000 + 4, "words\n"));
}

#[test]
fn an_input_that_is_closed_is_empty_and_one_that_cannot_be_read_is_a_fault() {
    let sandbox = sandbox();
    let run = |redirection: &str| {
        let quiz = sandbox.command([""; 0]);
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(format!("exec setsid --wait \"$0\" sh -c 'wc -c; echo o; echo e >&2' {redirection}"));
        shell.arg(quiz.get_program()).current_dir(sandbox.worktree()).env_clear();
        shell.envs(quiz.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ran: quiz_testing::Ran = shell.output().unwrap().into();
        ran
    };
    // The third is what nohup gives.
    for empty in ["</dev/null", "<&-", "0>/dev/null"] {
        let ran = run(empty);
        assert_eq!((ran.code, ran.out().as_str(), ran.stderr.as_str()), (0, "0\no\n", "e\n"), "{empty}");
    }
    let ran = run("</");
    assert_eq!(ran.code, 125, "{}", ran.stderr);
    assert!(ran.stderr.contains("quiz: error: cannot read standard input: Is a directory"), "{}", ran.stderr);
}

#[test]
fn death_by_signal_and_what_cannot_run_have_their_codes() {
    let sandbox = sandbox();
    assert_eq!(sandbox.quiz(["sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(sandbox.quiz(["sh", "-c", "kill -TERM $$"]).code, 143);
    let missing = sandbox.quiz(["nosuch"]);
    assert_eq!(missing.code, 127);
    assert!(missing.stderr.contains("nosuch: not found"), "{}", missing.stderr);
    let refused = sandbox.quiz(["/etc/passwd"]);
    assert_eq!(refused.code, 126);
    assert!(refused.stderr.contains("Permission denied"), "{}", refused.stderr);
}

#[test]
fn a_shell_reads_its_commands_from_a_pipe() {
    let ran = sandbox().quiz_with_input([""; 0], b"echo from the shell\nexit 5\n");
    assert_eq!((ran.out().as_str(), ran.code), ("from the shell\n", 5), "{}", ran.stderr);
}

#[test]
fn what_a_program_leaves_behind_does_not_hold_the_run() {
    let ran = sandbox().quiz(["sh", "-c", "sleep 1000 & setsid sleep 1000 & echo done"]);
    assert_eq!((ran.out().as_str(), ran.code), ("done\n", 0), "{}", ran.stderr);
}

/// quiz called by a shell with these redirections, which can close streams.
fn redirected(sandbox: &quiz_testing::Sandbox, args: &str, redirections: &str) -> quiz_testing::Ran {
    let quiz = sandbox.command([""; 0]);
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(format!("exec \"$0\" {args} {redirections}")).arg(quiz.get_program());
    shell.env_clear().envs(quiz.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.current_dir(sandbox.worktree()).output().unwrap().into()
}

#[test]
fn an_output_that_is_closed_is_a_failure_and_an_input_that_is_closed_is_empty() {
    let sandbox = sandbox();
    for (args, redirections, code) in [
        ("echo x", ">&-", 125),
        ("sh -c 'echo x >&2'", "2>&-", 125),
        ("true", "2>&-", 0),
        ("echo x", ">/dev/null", 0),
        ("echo x", "1<>/dev/null", 0),
        ("cat", "<&-", 0),
        ("config", ">&-", 125),
    ] {
        let ran = redirected(&sandbox, args, redirections);
        assert_eq!(ran.code, code, "{args} {redirections}: {}", ran.stderr);
    }
}

#[test]
fn the_record_has_a_line_of_its_own_and_goes_where_it_is_to() {
    let sandbox = sandbox();
    let is_record = |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok_and(|r| r["schema"] == 1);
    let both = redirected(&sandbox, "--json sh -c 'printf out; printf err >&2; exit 3'", "2>&1").out();
    let lines: Vec<&str> = both.lines().collect();
    assert!(lines.len() == 2 && lines[0].len() == 6 && is_record(lines[1]), "{both}");
    let ended = redirected(&sandbox, "--json echo '{\"exit_code\":0}'", "").out();
    let lines: Vec<&str> = ended.lines().collect();
    assert!(lines.len() == 2 && is_record(lines[1]), "{ended}");
    for (option, redirection) in [("--json=record", ""), ("--json=fd:3", "3>record")] {
        let ran = redirected(&sandbox, &format!("{option} echo hi"), redirection);
        assert_eq!((ran.code, ran.out().as_str()), (0, "hi\n"), "{}", ran.stderr);
        let record = fs_err::read_to_string(sandbox.worktree().join("record")).unwrap();
        assert!(is_record(&record) && record.ends_with("}\n"), "{record}");
    }
    for (option, redirection) in [("fd:3", ""), ("fd:3", "3</dev/null"), ("no/such/directory", ""), ("fd:x", "")] {
        let ran = redirected(&sandbox, &format!("--json={option} echo hi"), redirection);
        assert_eq!((ran.code, ran.out().as_str()), (125, ""), "{option}: {}", ran.stderr);
    }
}

#[test]
fn a_worktree_whose_path_is_no_text_has_its_record() {
    use std::os::unix::ffi::OsStrExt;
    let sandbox = sandbox();
    let dir = sandbox.beside("x").with_file_name(std::ffi::OsStr::from_bytes(b"tree\xff"));
    fs_err::create_dir_all(dir.join(".quiz")).unwrap();
    let ran = sandbox.quiz_in(&dir, ["--json", "true"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let record: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
    assert!(record["dir"].as_str().unwrap().contains("tree\u{fffd}"));
}
