//! Going into VMs that run: other programs, files, and VMs that stay behind.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use fs_err as fs;
use quiz_testing::place::write_program;
use quiz_testing::{Pty, Ran, Sandbox, descendants, is_alive};
use serde_json::Value;

use crate::sandbox;

const LONG: Duration = Duration::from_secs(60);

/// A VM that stays until it is killed: by the test, or when its time is over.
fn kept(sandbox: &Sandbox) -> String {
    let ran = sandbox.quiz(["--keep=2m", "--timeout", "1m", "true"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let (_, words) = ran.stderr.split_once("the VM is kept: quiz exec ").expect("it says how to go on");
    words.split([' ', ',']).next().unwrap().to_owned()
}

fn fed(sandbox: &Sandbox, words: &[&str], input: &[u8]) -> Ran {
    let mut command = sandbox.command(words);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap().into()
}

fn running(sandbox: &Sandbox) -> Vec<Value> {
    serde_json::from_str(&sandbox.quiz(["ps", "--json"]).out()).unwrap()
}

#[test]
fn a_program_in_a_vm_that_runs_has_its_own_streams_and_code() {
    let sandbox = sandbox();
    let id = kept(&sandbox);
    let ran = fed(&sandbox, &["exec", "sh", "-c", "cat; echo to-stderr >&2; exit 7"], b"through\0it");
    assert_eq!((ran.code, ran.stdout.as_slice(), ran.stderr.as_str()), (7, &b"through\0it"[..], "to-stderr\n"));
    for (words, code) in [
        (&["nosuch"][..], 127),
        (&["/etc/passwd"], 126),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["true"], 0),
        (&["sh", "-c", "test $(id -u) = 0 && test -d /quiz/out"], 0),
    ] {
        let ran = sandbox.quiz([&["exec"], words].concat());
        assert_eq!(ran.code, code, "{words:?}: {}", ran.stderr);
    }
    // By its id or a part of it, with and without dashes; what is no VM's id is a program.
    let tail = &id[id.len() - 6..];
    assert_eq!(sandbox.quiz(["exec", &id, "echo", "a"]).out(), "a\n");
    assert_eq!(sandbox.quiz(["exec", tail, "--", "echo", "b"]).out(), "b\n");
    assert_eq!(sandbox.quiz(["exec", "--", tail]).code, 127);
    let other = sandbox.quiz(["exec", "20200102-030405-678abc", "true"]);
    assert!(other.code == 125 && other.stderr.contains("20200102-030405-678abc"), "{}", other.stderr);
    // The environment of the run's program, and what is asked for.
    let ran = sandbox.quiz(["exec", "--env", "ASKED=for", "sh", "-c", "echo $HOME $ASKED"]);
    assert_eq!(ran.out(), "/root for\n");
    assert_eq!(sandbox.quiz(["kill"]).code, 0);
    let none = sandbox.quiz(["exec", "true"]);
    assert!(none.code == 125 && none.stderr.contains("no VM of this worktree runs"), "{}", none.stderr);
}

#[test]
fn twenty_programs_at_once_in_one_vm_do_not_mix() {
    let sandbox = sandbox();
    kept(&sandbox);
    let script = "cat; for i in 1 2 3 4 5 6 7 8; do echo $1-$i; echo $1 >&2; done; exit $1";
    let children: Vec<_> = (1..=20)
        .map(|n: u8| {
            let mut command = sandbox.command(["exec", "sh", "-c", script, "sh", &n.to_string()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            writeln!(child.stdin.take().unwrap(), "input {n}").unwrap();
            (n, child)
        })
        .collect();
    for (n, child) in children {
        let ran: Ran = child.wait_with_output().unwrap().into();
        let expected: String = (1..=8).map(|i| format!("{n}-{i}\n")).collect();
        assert_eq!((ran.code, ran.out()), (i32::from(n), format!("input {n}\n{expected}")));
        assert_eq!(ran.stderr, format!("{n}\n").repeat(8));
    }
    assert_eq!(sandbox.quiz(["kill"]).code, 0);
}

#[test]
fn a_program_whose_client_is_gone_is_hung_up_and_the_vm_stays() {
    let sandbox = sandbox();
    kept(&sandbox);
    let mut client = sandbox.command(["exec", "sh", "-c", "echo $$ > /tmp/pid; sleep 1000"]);
    let mut client = client.stdin(Stdio::null()).spawn().unwrap();
    let there = |script: &str| sandbox.quiz(["exec", "sh", "-c", script]).code == 0;
    let until = |what: &str, script: &str| {
        let limit = Instant::now() + LONG;
        while !there(script) {
            assert!(Instant::now() < limit, "{what}");
        }
    };
    until("it runs", "test -s /tmp/pid");
    client.kill().unwrap();
    client.wait().unwrap();
    until("it was hung up", "! kill -0 $(cat /tmp/pid)");
    // A client that stops reading holds up nobody else.
    let mut full = sandbox.command(["exec", "sh", "-c", "head -c 64M /dev/zero; sleep 1000"]);
    let mut full = full.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(sandbox.quiz(["exec", "sh", "-c", "head -c 4M /dev/zero"]).stdout.len(), 4 << 20);
    full.kill().unwrap();
    full.wait().unwrap();
    assert_eq!(sandbox.quiz(["kill"]).code, 0);
}

#[test]
fn the_end_of_the_vm_under_a_program_has_the_vms_code() {
    let sandbox = sandbox();
    kept(&sandbox);
    let ran = sandbox.quiz(["exec", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 100"]);
    assert!(ran.code == 121 && ran.stderr.contains("panicked"), "{} {}", ran.code, ran.stderr);
    // The keeper still has its evidence to complete.
    let limit = Instant::now() + LONG;
    let record = loop {
        let runs: Value = serde_json::from_str(&sandbox.quiz(["runs", "--json"]).out()).unwrap();
        if let Some(record) = runs.get(0) {
            break record.clone();
        }
        assert!(Instant::now() < limit, "the run is over");
    };
    assert_eq!(record["verdict"]["kind"], "panic", "{record}");
    // The program that the VM was for ends it, whatever else runs in it.
    let mut main =
        sandbox.command(["--timeout", "1m", "sh", "-c", "until test -e /tmp/go; do sleep 0.1; done; exit 5"]);
    let mut main = main.stdin(Stdio::null()).spawn().unwrap();
    let limit = Instant::now() + LONG;
    while running(&sandbox).is_empty() {
        assert!(Instant::now() < limit);
    }
    let ran = sandbox.quiz(["exec", "sh", "-c", "touch /tmp/go; sleep 100"]);
    assert!(ran.code == 122 && ran.stderr.contains("has shut down"), "{} {}", ran.code, ran.stderr);
    assert_eq!(main.wait().unwrap().code(), Some(5));
}

#[test]
fn files_go_into_a_vm_and_come_out_as_they_were() {
    let sandbox = sandbox();
    kept(&sandbox);
    let host = tempfile::tempdir().unwrap();
    let at = |name: &str| host.path().join(name);
    let word = |name: &str| at(name).display().to_string();
    fs::create_dir_all(at("tree/sub")).unwrap();
    let bytes: Vec<u8> = (0..20u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(at("tree/big"), &bytes).unwrap();
    fs::write(at("tree/sub/-dash: and blank"), "x").unwrap();
    fs::set_permissions(at("tree/sub"), std::fs::Permissions::from_mode(0o555)).unwrap();
    fs::File::open(at("tree/sub")).unwrap().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1000)).unwrap();
    std::os::unix::fs::symlink("sub/nowhere", at("tree/link")).unwrap();
    let copied = |words: &[&str]| {
        let ran = sandbox.quiz([&["cp"], words].concat());
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{words:?}");
    };
    copied(&[&word("tree"), ":/tmp"]);
    copied(&[&word("tree/big"), ":/tmp/renamed"]);
    let sum = "sha256sum < /tmp/tree/big > /tmp/a; sha256sum < /tmp/renamed | cmp - /tmp/a; stat -c %U /tmp/tree/big";
    assert_eq!(sandbox.quiz(["exec", "sh", "-c", sum]).out(), "root\n");
    copied(&[":/tmp/tree", &word("back")]);
    assert_eq!(fs::read(at("back/big")).unwrap(), bytes);
    assert_eq!(fs::read(at("back/sub/-dash: and blank")).unwrap(), b"x");
    assert_eq!(fs::read_link(at("back/link")).unwrap().to_str(), Some("sub/nowhere"));
    let sub = fs::metadata(at("back/sub")).unwrap();
    assert_eq!(sub.permissions().mode() & 0o7777, 0o555);
    assert_eq!(sub.modified().unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
    let when = |name: &str| fs::metadata(at(name)).unwrap().modified().unwrap();
    assert_eq!(when("tree/big").duration_since(when("back/big")).unwrap().as_secs(), 0);
    // What fails leaves nothing behind.
    let before = fs::read_dir(host.path()).unwrap().count();
    for words in [
        &[":/nosuch", &word("new")][..],
        &[&word("nosuch"), ":/tmp"],
        &[&word("tree"), ":/nosuch/x"],
        &["a", "b"],
        &[":/tmp/tree/big", ":/var/big", &word("")],
    ] {
        let ran = sandbox.quiz([&["cp"], words].concat());
        assert!(ran.code == 125 && !ran.stderr.is_empty(), "{words:?} {}", ran.stderr);
    }
    assert_eq!(fs::read_dir(host.path()).unwrap().count(), before);
    assert_eq!(sandbox.quiz(["kill"]).code, 0);
}

#[test]
fn a_vm_that_is_kept_ends_with_its_keeper_its_time_or_a_kill() {
    let sandbox = sandbox();
    let ran = fed(&sandbox, &["--keep", "--timeout", "1m", "sh", "-c", "cat; touch /quiz/out/made; exit 3"], b"fed");
    assert_eq!((ran.code, ran.out().as_str()), (3, "fed"), "{}", ran.stderr);
    let [one] = running(&sandbox).try_into().unwrap();
    assert_eq!(sandbox.quiz(["exec", "ls", "/quiz/out/made"]).out(), "/quiz/out/made\n");
    // There is nothing more to watch.
    let attached = sandbox.quiz(["attach"]);
    assert_eq!((attached.code, attached.out().as_str()), (3, "fed"));
    assert_eq!(sandbox.quiz(["kill"]).code, 0);
    assert!(running(&sandbox).is_empty());
    let result: Value =
        serde_json::from_slice(&fs::read(format!("{}/result.json", one["dir"].as_str().unwrap())).unwrap()).unwrap();
    assert_eq!((&result["verdict"]["code"], &result["artifacts"]["files"]), (&3.into(), &1.into()), "{result}");
    // From its first byte on all of its output comes, and what it leaves behind holds nothing up.
    let ran = sandbox.quiz(["--keep=1s", "--timeout", "1m", "head", "-c", "4M", "/dev/zero"]);
    assert_eq!((ran.code, ran.stdout.len()), (0, 4 << 20), "{}", ran.stderr);
    let ran = sandbox.quiz(["--keep=1s", "--timeout", "1m", "sh", "-c", "yes & exit 0"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    // The time that it may stay.
    let ran = sandbox.quiz(["--keep=1s", "true"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let limit = Instant::now() + LONG;
    while !running(&sandbox).is_empty() {
        assert!(Instant::now() < limit, "it is over after its time");
    }
    // P1 is its keeper's.
    kept(&sandbox);
    let [one] = running(&sandbox).try_into().unwrap();
    let keeper = i32::try_from(one["pid"].as_i64().unwrap()).unwrap();
    let vm = descendants(keeper.cast_unsigned());
    assert!(!vm.is_empty());
    let keeper = rustix::process::Pid::from_raw(keeper).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    let limit = Instant::now() + Duration::from_secs(2);
    while vm.iter().any(|pid| is_alive(*pid)) {
        assert!(Instant::now() < limit, "no VM outlives its keeper by more than 2 s");
    }
    assert!(running(&sandbox).is_empty());
    let panicked = sandbox.quiz(["--keep", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 100"]);
    assert!(panicked.code == 121 && panicked.stderr.contains("sysrq triggered crash"), "{}", panicked.stderr);
    assert_eq!(sandbox.quiz(["--keep", "nosuch"]).code, 127);
    assert!(running(&sandbox).is_empty());
}

#[test]
fn a_run_that_is_to_stay_can_be_interrupted_while_it_is_prepared() {
    let sandbox = sandbox();
    let qemu = sandbox.beside("qemu");
    let script = format!("#!/bin/sh\nsleep 5\nexec qemu-system-{} \"$@\"\n", std::env::consts::ARCH);
    write_program(&qemu, &script);
    let mut pty = Pty::new(24, 80);
    let before = pty.modes();
    let words = ["--accel", "tcg", "--qemu", qemu.to_str().unwrap(), "--keep", "sleep", "1000"];
    let mut quiz = pty.start(&mut sandbox.command(words));
    std::thread::sleep(Duration::from_secs(1));
    pty.type_keys(b"\x03");
    assert_eq!(quiz.wait().unwrap().code(), Some(130));
    assert!(running(&sandbox).is_empty());
    assert_eq!(pty.modes().local_modes, before.local_modes);
}

#[test]
fn a_program_can_be_left_on_its_terminal_and_be_come_back_to() {
    let sandbox = sandbox();
    let mut pty = Pty::new(24, 80);
    let before = pty.modes();
    let script = "trap 'stty size' WINCH; echo up; while read -r line; do echo got $line; done";
    let mut quiz = pty.start(&mut sandbox.command(["--keep", "bash", "-c", script]));
    pty.wait_for("up", LONG);
    pty.type_keys(b"one\r");
    pty.wait_for("got one", LONG);
    pty.type_keys(b"\x1d\x1d\x1d");
    pty.wait_for("the program is still running", LONG);
    assert_eq!(quiz.wait().unwrap().code(), Some(129), "how it ends is unknown");
    assert_eq!(pty.modes().local_modes, before.local_modes);
    let mut other = Pty::new(30, 100);
    let mut quiz = other.start(&mut sandbox.command(["attach"]));
    other.wait_for("got one", LONG);
    other.type_keys(b"two\r");
    other.wait_for("got two", LONG);
    other.resize(44, 111);
    other.type_keys(b"three\r");
    other.wait_for("44 111", LONG);
    other.type_keys(b"\x04");
    assert_eq!(quiz.wait().unwrap().code(), Some(0), "the program has read the end of its input");
    assert_eq!(other.modes().local_modes, before.local_modes);
    assert_eq!(sandbox.quiz(["kill"]).code, 0);
}
