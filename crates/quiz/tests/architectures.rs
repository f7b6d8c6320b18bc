//! Guests of other architectures than the host's: the ways in which runs end, from boots and from
//! templates. Those that every change is tested on; `long.rs` has the others, and OpenZFS.

use quiz_testing::{Ran, Sandbox, kernels};
use serde_json::Value;

/// What is different between architectures and can be seen by a program: its name, its byte order,
/// and that numbers arrive right.
const LOOK: &str = "import os, sys; print(os.uname().machine, sys.byteorder, 2**40 + 1)";

fn sandbox(arch: &str) -> Sandbox {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    kernels::stock_of(&sandbox, arch);
    sandbox
}

fn quiz(sandbox: &Sandbox, arch: &str, words: &[&str]) -> Ran {
    sandbox.quiz([&["-a", arch, "-k", kernels::stock_name(arch), "--timeout", "2m"][..], words].concat())
}

fn record(sandbox: &Sandbox) -> Value {
    serde_json::from_slice(&fs_err::read(sandbox.last_run().join("result.json")).unwrap()).unwrap()
}

/// Cold and from a template, with every way to end that a kernel has part in.
fn runs(arch: &str, byte_order: &str) {
    let sandbox = sandbox(arch);
    let said = format!("{arch} {byte_order} 1099511627777\n");
    for options in [&["--cold"][..], &[], &[]] {
        let ran = quiz(&sandbox, arch, &[options, &["python3", "-c", LOOK]].concat());
        assert_eq!((ran.code, ran.out()), (0, said.clone()), "{options:?}: {}", ran.stderr);
    }
    let last = record(&sandbox);
    assert_eq!((&last["arch"], &last["start"]), (&arch.into(), &"template".into()), "{last}");

    let ran = quiz(&sandbox, arch, &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.code, ran.out().as_str()), (7, "out\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("err\n"), "{}", ran.stderr);
    let ran = quiz(&sandbox, arch, &["--dump", "on-panic", "sh", "-c", "echo c > /proc/sysrq-trigger"]);
    assert_eq!(ran.code, 121, "{}", ran.stderr);
    let dump = fs_err::metadata(sandbox.last_run().join("vmcore"));
    assert!(dump.is_ok_and(|dump| dump.len() > 1 << 20), "{}", ran.stderr);
    let ran = quiz(&sandbox, arch, &["sh", "-c", "echo c > /proc/sysrq-trigger"]);
    assert_eq!(ran.code, 121, "{}", ran.stderr);
    assert!(ran.stderr.contains("sysrq triggered crash"), "{}", ran.stderr);
    let ran = quiz(&sandbox, arch, &["sh", "-c", "echo b > /proc/sysrq-trigger"]);
    assert_eq!(ran.code, 122, "{}", ran.stderr);
    let ran = sandbox.quiz(["-a", arch, "-k", kernels::stock_name(arch), "--timeout", "5s", "sleep", "60"]);
    assert_eq!(ran.code, 124, "{}", ran.stderr);

    let ran = quiz(
        &sandbox,
        arch,
        &["-p", "memdev", "sh", "-c", "dd if=/dev/zero of=/dev/disk/by-id/virtio-mem1 bs=1M count=8"],
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let ran = quiz(&sandbox, arch, &["sh", "-c", "head -c 3000000 /dev/zero > /quiz/out/file"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let artifact = sandbox.last_run().join("artifacts/file");
    assert_eq!(fs_err::metadata(artifact).unwrap().len(), 3_000_000);
}

#[test]
fn s390x() {
    runs("s390x", "big");
}

#[test]
fn aarch64() {
    runs("aarch64", "little");
}

#[test]
fn two_cpus_are_two_and_memory_is_what_was_asked_for() {
    let sandbox = sandbox("s390x");
    let script = "nproc; awk '/MemTotal/ { print ($2 > 400000 && $2 < 524288) }' /proc/meminfo";
    let ran = quiz(&sandbox, "s390x", &["--cpus", "2", "-m", "512M", "sh", "-c", script]);
    assert_eq!((ran.code, ran.out().as_str()), (0, "2\n1\n"), "{}", ran.stderr);
}

#[test]
fn an_architecture_that_there_is_none_of_is_refused_with_those_that_there_are() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let ran = sandbox.quiz(["-a", "vax", "true"]);
    assert_eq!(ran.code, 125, "{}", ran.stderr);
    assert!(ran.stderr.contains("vax") && ran.stderr.contains("s390x"), "{}", ran.stderr);
}

/// The archive of ports is never trusted for want of its keys, and what it is worth is said before
/// it is used.
#[test]
fn unofficial_ports_are_told_and_checked() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let empty = sandbox.beside("no-keys.gpg");
    fs_err::write(&empty, "").unwrap();
    let mut command = sandbox.command(["kernel", "add", "-a", "ppc64", "--keyring"]);
    command.arg(&empty).env("QUIZ_CACHE", sandbox.beside("cache"));
    let ran = Ran::from(command.output().unwrap());
    assert_eq!(ran.code, 125, "{}", ran.stderr);
    assert!(ran.stderr.contains("unofficial ports"), "{}", ran.stderr);
}
