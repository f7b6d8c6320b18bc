//! Kernels that die or hang of modules made for it: the verdict, and the line of source in the
//! evidence. The modules are built as users build theirs, and loaded from the worktree.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use quiz_testing::{Ran, Sandbox, kernels};
use serde_json::{Value, json};

/// What marks the line to blame in the sources below.
const MARK: &str = "/* here */";

/// A module whose `init` is `body`; `poke` is in it what the compiler puts into `init`.
fn source(body: &str) -> String {
    format!(
        "#include <linux/module.h>\n#include <linux/mutex.h>\n#include <linux/spinlock.h>\n\n\
         static int *nowhere;\nstatic DEFINE_SPINLOCK(spin);\nstatic DEFINE_MUTEX(mutex);\n\n\
         static inline void poke(void)\n{{\n\t*nowhere = 42; {poke}\n}}\n\n\
         static int __init bad_init(void)\n{{\n{body}\treturn 0;\n}}\n\n\
         module_init(bad_init);\nMODULE_LICENSE(\"GPL\");\n",
        poke = if body.contains(MARK) { "" } else { MARK },
    )
}

/// Makes `bad.ko` in the worktree of `source`.
fn compile(sandbox: &Sandbox, kernel: &str, source: &str) {
    let dir = sandbox.worktree();
    fs::write(dir.join("bad.c"), source).unwrap();
    fs::write(dir.join("Kbuild"), "obj-m := bad.o\n").unwrap();
    let shown = sandbox.quiz(["--json", "kernel", "show", kernel]);
    let kbuild = serde_json::from_slice::<Value>(&shown.stdout).unwrap()["kbuild"].as_str().map(PathBuf::from).unwrap();
    let made = Command::new("make").arg("-C").arg(kbuild).arg(format!("M={}", dir.display())).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A sandbox with the module `bad.ko` for `kernel`, made of `body`, and the number of the line to
/// blame.
fn sandbox_with(body: &str, kernel: fn(&Sandbox) -> &'static str) -> (Sandbox, &'static str, usize) {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let kernel = kernel(&sandbox);
    let source = source(body);
    compile(&sandbox, kernel, &source);
    let line = source.lines().position(|line| line.contains(MARK)).unwrap() + 1;
    (sandbox, kernel, line)
}

fn insmod(sandbox: &Sandbox, kernel: &str, options: &[&str]) -> (Ran, Value) {
    let module = sandbox.worktree().join("bad.ko").display().to_string();
    let ran = sandbox.quiz([&["-k", kernel][..], options, &["insmod", &module]].concat());
    let record = serde_json::from_slice(&evidence(sandbox, "result.json")).unwrap();
    (ran, record)
}

fn evidence(sandbox: &Sandbox, file: &str) -> Vec<u8> {
    fs::read(sandbox.last_run().join(file)).unwrap()
}

fn text(sandbox: &Sandbox, file: &str) -> String {
    String::from_utf8_lossy(&evidence(sandbox, file)).into_owned()
}

fn built(sandbox: &Sandbox) -> &'static str {
    kernels::built(sandbox, "memdev")
}

#[test]
fn a_wrong_pointer_is_told_with_its_line() {
    let (sandbox, kernel, line) = sandbox_with("\tpoke();\n", built);
    let (ran, record) = insmod(&sandbox, kernel, &["--timeout", "1m"]);
    assert_eq!(ran.code, 121, "{}", ran.stderr);
    let place = format!("poke [bad], bad.c:{line}");
    assert!(
        ran.stderr.contains("BUG: kernel NULL pointer dereference") && ran.stderr.contains(&place),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("tainted O: out-of-tree module") && ran.stderr.contains("insmod"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("RSP: "), "the registers are in oops.txt\n{}", ran.stderr);
    let culprit = json!({"function": "poke", "module": "bad", "file": "bad.c", "line": line});
    assert_eq!((&record["oops"]["culprit"], &record["oops"]["taint"]), (&culprit, &json!("O")));
    let shown = sandbox.quiz(["show"]).out();
    assert!(shown.contains("BUG: kernel NULL") && shown.contains(&format!("in poke, bad.c:{line}")), "{shown}");
    let oops = text(&sandbox, "oops.txt");
    for wanted in [
        &*format!("at poke, bad.c:{line}, inlined in"),
        "at bad_init, bad.c:",
        "at do_one_initcall, init/main.c:",
        "RSP: ",
    ] {
        assert!(oops.contains(wanted), "{wanted}\n{oops}");
    }
    let console = text(&sandbox, "console.log");
    assert!(console.contains("RSP: ") && !console.contains("bad.c:"), "{console}");
}

#[test]
fn of_a_kernel_without_debug_information_only_the_module_has_lines() {
    let (sandbox, kernel, line) = sandbox_with("\tpoke();\n", kernels::stock);
    let (ran, record) = insmod(&sandbox, kernel, &["--timeout", "1m"]);
    assert_eq!(ran.code, 121, "{}", ran.stderr);
    assert_eq!(record["oops"]["culprit"]["line"], line, "{}", ran.stderr);
    assert!(ran.stderr.contains("no debug information of the kernel: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("    do_one_initcall+0x"), "{}", ran.stderr);
}

#[test]
fn another_build_of_the_module_is_not_believed() {
    let (sandbox, kernel, _) = sandbox_with("\tpoke();\n", built);
    let module = sandbox.worktree().join("bad.ko");
    let share = sandbox.beside("share");
    fs::create_dir(&share).unwrap();
    fs::rename(&module, share.join("ran.ko")).unwrap();
    // Its `init` is larger than the one that ran.
    let longer = source(&["\tpoke();\n", &"\tprintk(\"%p\", nowhere);\n".repeat(300)].concat());
    compile(&sandbox, kernel, &longer);
    let shared = format!("{}:/mnt/share", share.display());
    let ran = sandbox.quiz(["-k", kernel, "--timeout", "1m", "--share", &shared, "insmod", "/mnt/share/ran.ko"]);
    assert_eq!(ran.code, 121, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("no debug information of the module bad: ") && !ran.stderr.contains("bad.c:"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_deadlock_with_interrupts_off_is_a_hang_with_its_line() {
    let body = format!("\tspin_lock_irq(&spin);\n\tspin_lock_irq(&spin); {MARK}\n");
    let (sandbox, kernel, line) = sandbox_with(&body, built);
    for cpus in ["1", "2"] {
        let (ran, record) = insmod(&sandbox, kernel, &["--cpus", cpus, "--timeout", "5s"]);
        assert_eq!(ran.code, 124, "{cpus} CPUs: {}", ran.stderr);
        assert!(ran.stderr.contains("the guest hangs"), "{cpus} CPUs: {}", ran.stderr);
        assert!(ran.stderr.contains(&format!("bad_init [bad], bad.c:{line}")), "{cpus} CPUs: {}", ran.stderr);
        assert_eq!(record["oops"]["culprit"]["line"], line, "{cpus} CPUs: {record}");
    }
}

#[test]
fn a_task_that_waits_for_ever_is_a_hang_with_its_line() {
    let body = format!("\tmutex_lock(&mutex);\n\tmutex_lock(&mutex); {MARK}\n");
    let (sandbox, kernel, line) = sandbox_with(&body, built);
    let soon = ["--append", "sysctl.kernel.hung_task_timeout_secs=2", "--timeout", "10s"];
    let (ran, record) = insmod(&sandbox, kernel, &soon);
    assert_eq!(ran.code, 124, "{}", ran.stderr);
    assert!(ran.stderr.contains("the guest hangs; its kernel reported: INFO: task insmod:"), "{}", ran.stderr);
    assert_eq!(
        record["oops"]["culprit"],
        json!({"function": "bad_init", "module": "bad", "file": "bad.c", "line": line})
    );
    assert!(text(&sandbox, "oops.txt").contains(&format!("at bad_init, bad.c:{line}")));
    assert!(text(&sandbox, "stacks.txt").contains(&format!("at bad_init, bad.c:{line}")));
}

/// A sandbox with a module that dies in a function proper: gdb knows no lines of a module's start.
fn sandbox_for_gdb() -> (Sandbox, &'static str, usize) {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let kernel = built(&sandbox);
    let source = format!(
        "#include <linux/module.h>\n\nint bad_counter = 17;\nstatic int *volatile nowhere;\n\n\
         static noinline void bad_poke(void)\n{{\n\tbad_counter++;\n\t*nowhere = 42; {MARK}\n}}\n\n\
         static int __init bad_init(void)\n{{\n\tbad_poke();\n\treturn 0;\n}}\n\n\
         module_init(bad_init);\nMODULE_LICENSE(\"GPL\");\n"
    );
    compile(&sandbox, kernel, &source);
    (sandbox, kernel, source.lines().position(|line| line.contains(MARK)).unwrap() + 1)
}

/// Words for gdb, each a command.
fn for_gdb<'a>(commands: &[&'a str]) -> Vec<&'a str> {
    let words = commands.iter().flat_map(|command| ["-ex", command]);
    ["debug", "--", "-batch"].into_iter().chain(words).collect()
}

#[test]
fn a_debugger_finds_the_culprit_in_the_memory_of_a_dead_kernel() {
    let (sandbox, kernel, line) = sandbox_for_gdb();
    let dump = ["--timeout", "1m", "--cpus", "2", "--dump", "on-panic", "--dump-format", "elf"];
    let (ran, record) = insmod(&sandbox, kernel, &dump);
    assert_eq!((ran.code, &record["dump"]), (121, &json!("elf")), "{}", ran.stderr);
    assert!(ran.stderr.contains("quiz debug"), "{}", ran.stderr);
    let commands = ["print $quiz_task()->comm", "bt", "print bad_counter"];
    let said = sandbox.quiz(for_gdb(&commands));
    assert_eq!(said.code, 0, "{}", said.stderr);
    let out = said.out();
    for wanted in [
        "modules with symbols: bad",
        "panicked, in the task insmod",
        "= \"insmod",
        &*format!("{}/bad.c:{line}\n", sandbox.worktree().display()),
        "$2 = 18",
    ] {
        assert!(out.contains(wanted), "{wanted}\n{out}\n{}", said.stderr);
    }
    let refused = sandbox.quiz(["debug", "--tool", "crash"]);
    assert!(refused.code == 125 && refused.stderr.contains("--dump-format kdump"), "{}", refused.stderr);

    // The other kind is small, and says where what is. Whatever is not a panic is not kept.
    let (ran, record) = insmod(&sandbox, kernel, &["--timeout", "1m", "--dump", "on-panic"]);
    assert_eq!((ran.code, &record["dump"]), (121, &json!("kdump")), "{}", ran.stderr);
    let core = evidence(&sandbox, "vmcore");
    assert!(core.len() < 200 << 20, "{} bytes", core.len());
    let has = |text: &[u8]| core.windows(text.len()).any(|window| window == text);
    assert!(has(b"KDUMP   ") && has(b"OSRELEASE=6.12.") && has(b"Linux\0\0"));
    let reset = ["-k", kernel, "--dump", "on-panic", "sh", "-c", "echo b > /proc/sysrq-trigger"];
    assert_eq!(sandbox.quiz(reset).code, 122);
    assert!(!sandbox.last_run().join("vmcore").exists());
    let reset = ["-k", kernel, "--dump", "on-failure", "sh", "-c", "echo b > /proc/sysrq-trigger"];
    let ran = sandbox.quiz(reset);
    assert!(ran.code == 122 && sandbox.last_run().join("vmcore").exists(), "{}", ran.stderr);
    let ran = sandbox.quiz(["-k", kernel, "--dump", "on-failure", "--timeout", "2s", "sleep", "100"]);
    assert!(ran.code == 124 && sandbox.last_run().join("vmcore").exists(), "{}", ran.stderr);
    let ran = sandbox.quiz(["-k", kernel, "--dump", "on-failure", "sh", "-c", "exit 3"]);
    assert!(ran.code == 3 && !sandbox.last_run().join("vmcore").exists(), "{}", ran.stderr);
}

#[test]
fn a_debugger_stops_a_kernel_in_a_module_that_is_loaded_later() {
    let (sandbox, kernel, line) = sandbox_for_gdb();
    let module = sandbox.worktree().join("bad.ko").display().to_string();
    let quiz = sandbox.command(["-k", kernel, "--gdb", "insmod", &module]).stderr(Stdio::piped()).spawn().unwrap();
    let limit = Instant::now() + Duration::from_secs(30);
    while !sandbox.quiz(["debug", "--print"]).out().contains("gdb -q") {
        assert!(Instant::now() < limit, "the VM waits for gdb");
    }
    let commands = [
        "set breakpoint pending on",
        "break bad_poke",
        "continue",
        "print $quiz_task()->comm",
        "print bad_counter",
        "next",
        "print bad_counter",
        "delete",
        "detach",
    ];
    let said = sandbox.quiz(for_gdb(&commands));
    let ran: Ran = quiz.wait_with_output().unwrap().into();
    let out = said.out();
    for wanted in [
        "= \"insmod",
        &*format!("bad_poke () at {}/bad.c:{line}\n", sandbox.worktree().display()),
        "$2 = 17",
        "$3 = 18",
    ] {
        assert!(out.contains(wanted), "{wanted}\n{out}\n{}", said.stderr);
    }
    assert!(ran.stderr.contains("the VM waits for gdb: gdb -q "), "{}", ran.stderr);
    assert!(ran.code == 121 && ran.stderr.contains(&format!("bad.c:{line}")), "{}", ran.stderr);
}
