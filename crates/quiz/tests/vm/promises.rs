//! The promises of SPECIFICATION.md that need a real VM to be broken.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use quiz_testing::{descendants, is_alive};

use crate::sandbox;

#[test]
fn p1_no_vm_outlives_its_quiz_even_after_sigkill() {
    let sandbox = sandbox();
    // From before QEMU is started to well into the program.
    for wait in [0, 30, 80, 150, 300, 600, 1000, 1600, 2500, 4000] {
        let mut quiz = sandbox.start(&mut sandbox.command(["sleep", "1000"]));
        std::thread::sleep(Duration::from_millis(wait));
        let family = descendants(quiz.id());
        quiz.kill().unwrap();
        quiz.wait().unwrap();
        let until = Instant::now() + Duration::from_secs(2);
        while family.iter().any(|pid| is_alive(*pid)) {
            assert!(Instant::now() < until, "killed after {wait} ms, {family:?} live on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert_eq!(sandbox.quiz(["echo", "next"]).out(), "next\n");
}

#[test]
fn p4_gigabytes_of_output_do_not_grow_quiz() {
    const BYTES: u64 = 1 << 30;
    let sandbox = sandbox();
    let mut quiz = sandbox.start(&mut sandbox.command(["head", "-c", &BYTES.to_string(), "/dev/zero"]));
    let status = format!("/proc/{}/status", quiz.id());
    let mut out = quiz.stdout.take().unwrap();
    let mut buffer = vec![0; 1 << 20];
    let (mut total, mut largest) = (0, 0);
    loop {
        let n = out.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        total += n as u64;
        largest = largest.max(resident_kib(&fs_err::read_to_string(&status).unwrap_or_default()));
    }
    assert_eq!((total, quiz.wait().unwrap().code()), (BYTES, Some(0)));
    assert!((1024..64 * 1024).contains(&largest), "quiz grew to {largest} KiB");
}

#[test]
fn p4_a_reader_that_stops_holds_the_guest_and_not_the_host() {
    let sandbox = sandbox();
    let mut command = sandbox.command(["--timeout", "4s", "sh", "-c", "yes >&2 & yes"]);
    let quiz = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(8));
    let kib = resident_kib(&fs_err::read_to_string(format!("/proc/{}/status", quiz.id())).unwrap());
    assert!((1024..64 * 1024).contains(&kib), "quiz grew to {kib} KiB");
    // The bound on the program holds although nobody reads.
    assert_eq!(quiz.wait_with_output().unwrap().status.code(), Some(124));
}

#[test]
fn p4_debug_information_does_not_grow_quiz() {
    let sandbox = sandbox();
    let mut quiz = sandbox.start(&mut sandbox.command(["sh", "-c", "echo c > /proc/sysrq-trigger"]));
    let status = format!("/proc/{}/status", quiz.id());
    let mut highest = 0;
    let code = loop {
        highest = highest.max(kib("VmHWM:", &fs_err::read_to_string(&status).unwrap_or_default()));
        if let Some(status) = quiz.try_wait().unwrap() {
            break status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(code, Some(121));
    assert!((1024..64 * 1024).contains(&highest), "quiz grew to {highest} KiB");
    let oops = fs_err::read_to_string(sandbox.last_run().join("oops.txt")).unwrap();
    assert!(oops.contains("drivers/tty/sysrq.c:"), "{oops}");
}

fn resident_kib(status: &str) -> u64 {
    kib("VmRSS:", status)
}

fn kib(name: &str, status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_kvm_that_cannot_run_a_kernel_is_told_once_and_remembered() {
    let sandbox = sandbox();
    // A host on which KVM works, or is not there, has nothing to fall back from: then both runs are
    // silent.
    let first = sandbox.command(["true"]).output().unwrap();
    let second = sandbox.command(["-v", "true"]).output().unwrap();
    assert_eq!((first.status.code(), second.status.code()), (Some(0), Some(0)));
    let second = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.contains("accelerator tcg: ") || second.contains("accelerator kvm: "), "{second}");
    assert!(!second.contains("remembered until"), "{second}");
}
