//! A panic, a reset, a hang, a timeout and a fault are different answers, each with its evidence.

use std::time::{Duration, Instant};

use crate::sandbox;

fn record(run: &std::path::Path) -> serde_json::Value {
    serde_json::from_slice(&fs_err::read(run.join("result.json")).unwrap()).unwrap()
}

#[test]
fn a_panic_is_121_with_the_kernels_words() {
    let sandbox = sandbox();
    let ran = sandbox.quiz(["sh", "-c", "echo before; echo c > /proc/sysrq-trigger"]);
    assert_eq!((ran.code, ran.out().as_str()), (121, "before\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("sysrq triggered crash"), "{}", ran.stderr);
    let run = sandbox.last_run();
    assert!(fs_err::read_to_string(run.join("oops.txt")).unwrap().contains("Call Trace"));
    assert!(fs_err::read_to_string(run.join("console.log")).unwrap().contains("Linux version"));
    assert_eq!(record(&run)["verdict"]["kind"], "panic");
    assert_eq!(record(&run)["exit_code"], 121);
}

#[test]
fn a_panic_behind_a_line_that_has_not_ended_is_one_with_its_dump() {
    let sandbox = sandbox();
    let script = "printf 'login: ' > /dev/console; echo c > /proc/sysrq-trigger; sleep 5";
    let ran = sandbox.quiz(["--dump", "on-panic", "sh", "-c", script]);
    assert_eq!(ran.code, 121, "{}", ran.stderr);
    assert!(sandbox.last_run().join("vmcore").exists());
}

#[test]
fn a_reset_and_a_power_off_are_122() {
    let sandbox = sandbox();
    for key in ["b", "o"] {
        let ran = sandbox.quiz(["sh", "-c", &format!("echo {key} > /proc/sysrq-trigger; sleep 20; exit 0")]);
        // A microvm has no power to switch off: the kernel halts, and the program goes on sleeping.
        let halts = key == "o" && ran.code == 0;
        assert!(ran.code == 122 || halts, "{key}: {} {}", ran.code, ran.stderr);
        if ran.code == 122 {
            assert_eq!(record(&sandbox.last_run())["verdict"]["kind"], "lost");
        }
    }
}

#[test]
fn a_timeout_is_124_and_says_where_everything_stood() {
    let sandbox = sandbox();
    let before = Instant::now();
    let ran = sandbox.quiz(["--timeout", "2s", "sleep", "1000"]);
    assert_eq!(ran.code, 124, "{}", ran.stderr);
    assert!(before.elapsed() < Duration::from_secs(60));
    assert!(ran.stderr.contains("running after 2 s") && !ran.stderr.contains("hangs"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("call trace"), "nothing was busy in the kernel\n{}", ran.stderr);
    let stacks = fs_err::read_to_string(sandbox.last_run().join("stacks.txt")).unwrap();
    assert!(stacks.contains("(sleep)") && stacks.contains("nanosleep"), "{stacks}");
}

#[test]
fn a_report_of_the_kernel_is_a_failure_where_that_is_asked_for() {
    let sandbox = sandbox();
    let report = "UBSAN: shift-out-of-bounds in fs/x.c:1:2";
    let script = format!("echo '<4>{report}' > /dev/kmsg; exit 0");
    assert_eq!(sandbox.quiz(["sh", "-c", &script]).code, 0);
    for options in [&["--strict"][..], &["--strict", "--cold"]] {
        let ran = sandbox.quiz([options, &["sh", "-c", &script]].concat());
        assert_eq!(ran.code, 121, "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("the guest's kernel reported: {report}")), "{}", ran.stderr);
        assert_eq!(record(&sandbox.last_run())["verdict"]["kind"], "report");
    }
    // What is only in the kernel's log, in its taint, or behind what a program has left on the
    // console's line.
    let hide = "echo N > /sys/module/printk/parameters/ignore_loglevel; dmesg -n 1";
    for (script, report) in [
        (format!("{hide}; echo '<4>WARNING: held lock freed!' > /dev/kmsg"), "WARNING: held lock freed!"),
        ("echo 4608 > /proc/sys/kernel/tainted".to_owned(), "tainted W since the program started: kernel warned"),
        ("printf 'login: ' > /dev/console; echo '<4>[ BUG: x ]' > /dev/kmsg".to_owned(), "[ BUG: x ]"),
    ] {
        let ran = sandbox.quiz(["--strict", "sh", "-c", &script]);
        assert_eq!(ran.code, 121, "{script}: {}", ran.stderr);
        assert!(ran.stderr.contains(report), "{script}: {}", ran.stderr);
    }
    // A kernel of quiz's has nothing to report of itself.
    assert_eq!(sandbox.quiz(["--strict", "sh", "-c", "exit 4"]).code, 4);
}

#[test]
fn a_programs_own_exit_code_is_told_from_quizs() {
    let sandbox = sandbox();
    for (program, code) in [("exit 124", 124), ("exit 125", 125), ("kill -INT $$", 130)] {
        let ran = sandbox.quiz(["sh", "-c", program]);
        assert_eq!(ran.code, code);
        assert!(ran.stderr.starts_with("quiz: the program "), "{program}: {}", ran.stderr);
        let kind = record(&sandbox.last_run())["verdict"]["kind"].clone();
        assert_eq!(kind, if code == 130 { "signalled" } else { "exited" });
    }
    assert_eq!(sandbox.quiz(["-q", "sh", "-c", "exit 124"]).stderr, "");
    assert_eq!(sandbox.quiz(["sh", "-c", "exit 7"]).stderr, "");
}

#[test]
fn a_task_that_does_not_get_on_is_told_from_one_that_is_slow() {
    let sandbox = sandbox();
    let script = "echo '<3>INFO: task sh:12 blocked for more than 10 seconds.' > /dev/kmsg; sleep 60";
    let ran = sandbox.quiz(["--timeout", "1s", "sh", "-c", script]);
    assert_eq!(ran.code, 124, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("running after 1 s; the guest hangs; its kernel reported: INFO: task sh:12"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_guest_that_ignores_everything_is_ended_all_the_same() {
    let ran = sandbox().quiz(["--timeout", "1s", "sh", "-c", "trap '' INT TERM HUP; while :; do :; done"]);
    assert_eq!(ran.code, 124, "{}", ran.stderr);
}

#[test]
fn a_kernel_that_never_comes_up_is_a_timeout_of_the_boot() {
    // A guest that goes on from a template is ready sooner than that.
    let ran = sandbox().quiz(["--cold", "--boot-timeout", "200ms", "true"]);
    assert_eq!(ran.code, 124, "{}", ran.stderr);
    assert!(ran.stderr.contains("not ready within 200 ms"), "{}", ran.stderr);
}

#[test]
fn a_fault_of_the_host_is_125() {
    let sandbox = sandbox();
    let broken = sandbox.quiz(["--qemu-arg", "-no-such-option", "true"]);
    assert_eq!(broken.code, 125, "{}", broken.stderr);
    assert!(broken.stderr.contains("-no-such-option"), "{}", broken.stderr);
    let mut command = sandbox.command(["true"]);
    let missing = command.env("QUIZ_QEMU", "/nonexistent/qemu").output().unwrap();
    assert_eq!(missing.status.code(), Some(125));
    let none = sandbox.quiz(["-k", "5.99", "true"]);
    assert_eq!(none.code, 125);
    assert!(none.stderr.contains("5.99"), "{}", none.stderr);
}

#[test]
fn a_qemu_that_crashes_while_the_vm_boots_is_started_once_more() {
    let sandbox = sandbox();
    let (qemu, tries) = (sandbox.beside("qemu"), sandbox.beside("tries"));
    for (crashes, code) in [(1, 3), (9, 125)] {
        // quiz asks it what it has, too, and that is no try.
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *-kernel*) echo x >> {0}; test $(wc -l < {0}) -gt {crashes} || kill -ABRT $$;; esac\n\
             exec qemu-system-{1} \"$@\"\n",
            tries.display(),
            std::env::consts::ARCH
        );
        quiz_testing::place::write_program(&qemu, &script);
        let words = ["--cold", "--accel", "tcg", "--qemu", qemu.to_str().unwrap(), "sh", "-c", "echo once; exit 3"];
        let ran = sandbox.quiz(words);
        assert_eq!(ran.code, code, "{}", ran.stderr);
        assert!(ran.stderr.contains("QEMU crashed while the VM booted"), "{}", ran.stderr);
        assert_eq!(ran.out(), if code == 3 { "once\n" } else { "" });
        assert_eq!(fs_err::read_to_string(&tries).unwrap().lines().count(), 2, "tried twice and not more");
        fs_err::remove_file(&tries).unwrap();
    }
}

#[test]
fn an_interrupt_reaches_the_program_and_is_no_success() {
    let sandbox = sandbox();
    let script = "trap 'echo caught; exit 0' INT; echo ready; while :; do sleep 0.1; done";
    let mut quiz = sandbox.start(&mut sandbox.command(["sh", "-c", script]));
    let mut out = quiz.stdout.take().unwrap();
    let mut line = [0; 6];
    std::io::Read::read_exact(&mut out, &mut line).unwrap();
    assert_eq!(&line, b"ready\n");
    let pid = rustix::process::Pid::from_child(&quiz);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
    assert_eq!(rest, "caught\n");
    assert_eq!(quiz.wait().unwrap().code(), Some(130));
    assert_eq!(record(&sandbox.last_run())["verdict"]["kind"], "interrupted");
}

#[test]
fn the_kernels_warnings_are_shown_and_its_chatter_is_not() {
    let script = "echo '<4>a warning' > /dev/kmsg; echo '<6>chatter' > /dev/kmsg; echo 3 > /proc/sys/vm/drop_caches";
    let sandbox = sandbox();
    let ran = sandbox.quiz(["sh", "-c", script]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!ran.stderr.contains("chatter"), "{}", ran.stderr);
    let console = fs_err::read_to_string(sandbox.last_run().join("console.log")).unwrap();
    assert!(console.contains("chatter") && console.contains("a warning"));
    let verbose = sandbox.quiz(["-v", "true"]);
    assert!(verbose.stderr.contains("Linux version"), "{}", verbose.stderr);
}

#[test]
fn the_record_is_printed_on_request() {
    let sandbox = sandbox();
    let ran = sandbox.quiz(["--json", "sh", "-c", "echo hi; exit 3"]);
    assert_eq!(ran.code, 3);
    let out = ran.out();
    let (said, line) = out.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(said, "hi");
    let printed: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(printed, record(&sandbox.last_run()));
    assert_eq!(printed["verdict"], serde_json::json!({"kind": "exited", "code": 3}));
}
