//! What depends on the machine, on each QEMU: booting, templates, standby VMs, panics, time limits,
//! dumps and shares.
//!
//! The host's QEMU is always run. `QUIZ_TEST_QEMUS` names directories with others, separated by
//! colons; `cargo xtask qemu` makes such.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fs_err as fs;
use quiz_testing::place::{Place, write_program};
use quiz_testing::{Ran, Sandbox, kernels};
use serde_json::Value;

/// What every x86-64-v2 has, as Linux calls it.
const V2: &[&str] = &["cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"];
/// Features, and those that make no sense without them.
const NEEDED_BY: &[(&str, &[&str])] = &[
    ("erms", &["fsrm", "fzrm", "fsrs"]),
    ("avx", &["avx2", "fma", "f16c", "vaes", "vpclmulqdq"]),
    ("xsave", &["avx", "xsaveopt", "xsavec", "xsaves", "pku"]),
    ("pcid", &["invpcid"]),
    ("sse4_2", &["popcnt"]),
];
/// Slow when emulated.
const UNWANTED: &[&str] = &["avx", "erms", "fsrm", "la57"];

/// The QEMU programs to be tested.
fn qemus() -> Vec<PathBuf> {
    let name = quiz_arch::host().qemu;
    let others = std::env::var_os("QUIZ_TEST_QEMUS").unwrap_or_default();
    let others = std::env::split_paths(&others).filter(|dir| !dir.as_os_str().is_empty());
    let others: Vec<PathBuf> = others.map(|dir| dir.join(name)).collect();
    for program in &others {
        assert!(program.exists(), "QUIZ_TEST_QEMUS: {} is not there", program.display());
    }
    [PathBuf::from(name)].into_iter().chain(others).collect()
}

fn place() -> Place {
    Place::new(env!("CARGO_BIN_EXE_quiz"))
}

/// A place where every run is on one kernel, machine and QEMU.
struct Bench<'a> {
    place: &'a Place,
    options: Vec<String>,
}

impl Bench<'_> {
    fn run(&self, options: &[&str]) -> (Ran, Value) {
        let all: Vec<&str> = self.options.iter().map(String::as_str).chain(options.iter().copied()).collect();
        let ran = self.place.quiz(&all);
        let record = fs::read(self.place.sandbox.last_run().join("result.json")).unwrap_or_default();
        (ran, serde_json::from_slice(&record).unwrap_or_default())
    }

    /// The record of a run that ends with `code`.
    fn expect(&self, code: i32, options: &[&str]) -> (Ran, Value) {
        let (ran, record) = self.run(options);
        assert_eq!(ran.code, code, "{:?} {options:?}: {}", self.options, ran.stderr);
        (ran, record)
    }
}

/// What depends on the machine, on every QEMU.
fn everything_works(machine: &str, cpus: u32) {
    let place = place();
    let stock = kernels::stock(&place.sandbox);
    fs::write(place.sandbox.worktree().join("shared"), "from the host\n").unwrap();
    for qemu in qemus() {
        let options = [
            ["-k", stock],
            ["--machine", machine],
            ["--cpus", &cpus.to_string()],
            ["--qemu", &qemu.display().to_string()],
            ["--boot-timeout", "60s"],
        ];
        let bench = Bench { place: &place, options: options.concat().iter().map(|word| word.to_string()).collect() };
        // A boot that saves a template on its way, and a share.
        let script = "cat shared; nproc; grep -m 1 ^flags /proc/cpuinfo";
        let (ran, record) = bench.expect(0, &["sh", "-c", script]);
        assert_eq!((&record["start"], &record["machine"]), (&"boot".into(), &machine.into()));
        let out = ran.out();
        let mut lines = out.lines();
        assert_eq!((lines.next(), lines.next()), (Some("from the host"), Some(cpus.to_string().as_str())));
        if record["accelerator"] == "tcg" {
            is_consistent(lines.next().unwrap_or_default());
        }
        // A clone of it.
        let (_, record) = bench.expect(0, &["sh", "-c", "exit 0"]);
        assert_eq!(record["start"], "template", "{options:?}");
        let (ran, record) = bench.expect(121, &["sh", "-c", "echo c > /proc/sysrq-trigger"]);
        assert_eq!(record["verdict"]["kind"], "panic");
        assert!(ran.stderr.contains("sysrq triggered crash"), "{}", ran.stderr);
        bench.expect(124, &["--timeout", "1s", "sleep", "100"]);
        let stacks = fs::read_to_string(place.sandbox.last_run().join("stacks.txt")).unwrap();
        assert!(stacks.contains("sleep"), "{stacks}");
        let (_, record) = bench.expect(121, &["--dump", "on-panic", "sh", "-c", "echo c > /proc/sysrq-trigger"]);
        assert_eq!(record["dump"], "kdump", "{}", record["notes"]);
        assert!(fs::metadata(place.sandbox.last_run().join("vmcore")).unwrap().len() > 1 << 20);
        leaves_a_standby_vm(&bench);
    }
}

fn leaves_a_standby_vm(bench: &Bench) {
    let settings = bench.place.sandbox.worktree().join("quiz.toml");
    fs::write(&settings, "standby = true\n").unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    let mut start = Value::Null;
    while start != "standby" && Instant::now() < until {
        start = bench.expect(0, &["true"]).1["start"].take();
        // The next one is restored meanwhile.
        std::thread::sleep(Duration::from_secs(1));
    }
    fs::remove_file(&settings).unwrap();
    bench.place.quiz(&["template", "rm", "--all"]);
    assert_eq!(start, "standby", "{:?}", bench.options);
}

/// An emulated processor is one that makes sense, and has what guests need.
fn is_consistent(flags: &str) {
    let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
    if quiz_arch::host().name != "x86_64" {
        return;
    }
    for (needed, by) in NEEDED_BY {
        for name in by.iter().filter(|name| has(name)) {
            assert!(has(needed), "{name} without {needed}: {flags}");
        }
    }
    assert!(V2.iter().all(|name| has(name)), "{flags}");
    assert!(!UNWANTED.iter().any(|name| has(name)), "{flags}");
}

#[test]
fn everything_works_on_microvm_with_one_cpu() {
    everything_works("microvm", 1);
}

#[test]
fn everything_works_on_microvm_with_two_cpus() {
    everything_works("microvm", 2);
}

#[test]
fn everything_works_on_q35_with_one_cpu() {
    everything_works("q35", 1);
}

#[test]
fn everything_works_on_q35_with_two_cpus() {
    everything_works("q35", 2);
}

#[test]
fn a_kernel_that_quiz_has_built_boots_on_every_qemu() {
    let place = place();
    let kernel = quiz_testing::kernels::built(&place.sandbox, "memdev");
    for qemu in qemus() {
        for machine in ["microvm", "q35"] {
            for cpus in ["1", "2"] {
                let qemu = qemu.display().to_string();
                let options = ["-k", kernel, "--machine", machine, "--cpus", cpus, "--qemu", &qemu, "true"];
                let ran = place.quiz(&options);
                assert_eq!(ran.code, 0, "{options:?}: {}", ran.stderr);
            }
        }
    }
}

#[test]
fn a_kernel_without_a_first_process_panics_at_once() {
    let place = place();
    for qemu in qemus() {
        let began = Instant::now();
        let ran = place.quiz(&["--qemu", &qemu.display().to_string(), "--append", "rdinit=/nothing", "true"]);
        assert_eq!(ran.code, 121, "{}: {}", qemu.display(), ran.stderr);
        assert!(ran.stderr.contains("Kernel panic"), "{}", ran.stderr);
        // The limit of a boot is a minute or more.
        assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
    }
}

/// A process that spins until this value is dropped.
struct Spinning(Child);

impl Spinning {
    fn start() -> Spinning {
        Spinning(Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Spinning {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_guest_on_a_busy_host_keeps_its_time() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let _busy = [Spinning::start(), Spinning::start()];
    let script = "sleep 30; dmesg; date +%s.%N";
    let ran = sandbox.quiz(["--cold", "--cpus", "4", "sh", "-c", script]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let out = ran.out();
    let date: f64 = out.lines().last().unwrap().parse().unwrap();
    // Between the program's last word and here is the VM's end.
    let record: Value = serde_json::from_slice(&fs::read(sandbox.last_run().join("result.json")).unwrap()).unwrap();
    let ended = record["total_ms"].as_f64().unwrap()
        - record["ready_ms"].as_f64().unwrap()
        - record["program_ms"].as_f64().unwrap();
    assert!((now - ended / 1000.0 - date).abs() < 1.5, "the guest says {date}, the host {now}, {ended} ms later");
    for words in ["soft lockup", "rcu: INFO", "clocksource: timekeeping watchdog", "Marking clocksource", "hung"] {
        assert!(!out.contains(words), "{words}: {out}");
    }
}

/// A QEMU that answers, when it is asked what it has, as `edit` (of sed) has it.
fn lacking(place: &Place, name: &str, edit: &str) -> String {
    let path = place.sandbox.beside(name);
    let qemu = quiz_arch::host().qemu;
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in\n*'-machine none'*) {qemu} \"$@\" | sed -E '{edit}' ;;\n*) exec {qemu} \"$@\" ;;\nesac\n"
    );
    write_program(&path, &script);
    path.display().to_string()
}

/// The `sed` script that has QEMU not know types of this name.
fn without_type(name: &str) -> String {
    format!(r#"/"type": "{name}/s/^.*"id": (.*)$/{{"error": {{"class": "GenericError", "desc": "no"}}, "id": \1/"#)
}

#[test]
fn a_qemu_without_9p_is_refused_by_the_devices_name_or_runs_without_shares() {
    let place = place();
    let qemu = lacking(&place, "no-9p", &without_type("virtio-9p"));
    let started = || place.sandbox.runs().iter().filter(|run| run.join("console.log").exists()).count();
    let before = started();
    let ran = place.quiz(&["--qemu", &qemu, "true"]);
    assert_eq!(ran.code, 125, "{}", ran.stderr);
    assert!(ran.stderr.contains("has no device virtio-9p-"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--worktree off"), "{}", ran.stderr);
    assert_eq!(started(), before);
    place.good(&["--qemu", &qemu, "--worktree", "off", "true"]);
}

#[test]
fn quiz_does_without_what_a_qemu_lacks_where_it_can() {
    let place = place();
    let stock = kernels::stock(&place.sandbox);
    let record = || -> Value {
        serde_json::from_slice(&fs::read(place.sandbox.last_run().join("result.json")).unwrap()).unwrap()
    };
    if quiz_arch::host().machines.iter().any(|machine| machine.name == "microvm") {
        let qemu = lacking(&place, "no-microvm", r#"s/"name": "microvm"/"name": "other"/"#);
        place.good(&["-k", stock, "--qemu", &qemu, "true"]);
        assert_eq!(record()["machine"], "q35");
        let ran = place.quiz(&["-k", stock, "--qemu", &qemu, "--machine", "microvm", "true"]);
        assert_eq!(ran.code, 125);
        assert!(ran.stderr.contains("has no machine microvm"), "{}", ran.stderr);
    }
    let qemu = lacking(&place, "no-file", &without_type("memory-backend-file"));
    for _ in 0..2 {
        place.good(&["-k", stock, "--qemu", &qemu, "true"]);
        assert_eq!(record()["start"], "boot");
    }
    let qemu = lacking(&place, "no-vmcoreinfo", &without_type("vmcoreinfo"));
    place.good(&["-k", stock, "--qemu", &qemu, "true"]);
    let command = fs::read_to_string(place.sandbox.last_run().join("command")).unwrap();
    assert!(!command.contains("-device vmcoreinfo"), "{command}");
}

/// Calls quiz where /dev/kvm is a file of the group `daemon` that it may not open. Needs root, or a
/// user namespace.
fn without_kvm(place: &Place, arguments: &[&str]) -> Ran {
    let kvm = place.sandbox.beside("kvm");
    fs::write(&kvm, "").unwrap();
    fs::set_permissions(&kvm, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let quiz = place.command(arguments);
    let mut command = Command::new("unshare");
    let script =
        "mount --bind \"$0\" /dev/kvm && exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs \"$@\"";
    let namespaces: &[&str] = if rustix::process::geteuid().is_root() { &["-m"] } else { &["-r", "-m"] };
    command.args(namespaces).args(["sh", "-c", script]).arg(&kvm).arg(quiz.get_program()).args(quiz.get_args());
    command.current_dir(quiz.get_current_dir().unwrap()).env_clear();
    for (name, value) in quiz.get_envs() {
        command.env(name, value.unwrap());
    }
    command.output().unwrap().into()
}

#[test]
fn a_kvm_that_may_not_be_opened_is_done_without_and_told_once() {
    if !Path::new("/dev/kvm").exists() || quiz_arch::host().name != "x86_64" {
        eprintln!("not run: this host has no /dev/kvm");
        return;
    }
    let place = place();
    // Facts of the host are another's by now.
    fs::remove_file(place.cache.join("facts.json")).ok();
    let first = without_kvm(&place, &["true"]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert_eq!(first.stderr.matches("you may not open /dev/kvm").count(), 1, "{}", first.stderr);
    let second = without_kvm(&place, &["true"]);
    assert_eq!((second.code, second.stderr.as_str()), (0, ""));
    let refused = without_kvm(&place, &["--accel", "kvm", "true"]);
    assert_eq!(refused.code, 125, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("members of the group `") && refused.stderr.contains("usermod"),
        "{}",
        refused.stderr
    );
}
