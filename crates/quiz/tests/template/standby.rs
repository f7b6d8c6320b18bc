//! VMs that wait for the next run.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime};

use fs_err as fs;
use quiz_testing::place::{Place, is_keeper, write_program};
use quiz_testing::{descendants, is_alive};
use serde_json::Value;

/// A place where every run leaves a VM waiting. None is left when it goes.
struct Waiting(Place);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.quiz(&["template", "rm", "--all"]);
    }
}

impl Waiting {
    fn new() -> Waiting {
        let waiting = Waiting(crate::place());
        fs::write(waiting.0.sandbox.worktree().join("quiz.toml"), "standby = true\n").unwrap();
        waiting
    }

    fn sockets(&self) -> Vec<PathBuf> {
        let found = fs::read_dir(self.0.cache.join("standby")).into_iter().flatten().flatten();
        found.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "sock")).collect()
    }

    fn until(&self, what: &str, mut reached: impl FnMut() -> bool) {
        let limit = Instant::now() + Duration::from_secs(80);
        while !reached() {
            assert!(Instant::now() < limit, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs something, so that afterwards a VM waits for the next run of the same kind.
    fn prepare(&self, options: &[&str]) {
        self.0.good(&[options, &["true"]].concat());
        self.until("a VM waits", || !self.sockets().is_empty() && self.keepers().len() == self.sockets().len());
    }

    /// The processes that keep a VM of this place.
    fn keepers(&self) -> Vec<u32> {
        let of_this = format!("QUIZ_CACHE={}", self.0.cache.display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let env = fs::read(entry.path().join("environ")).unwrap_or_default();
            if is_keeper(pid) && env.split(|byte| *byte == 0).any(|word| word == of_this.as_bytes()) {
                found.push(pid);
            }
        }
        found
    }

    fn record(&self) -> Value {
        serde_json::from_slice(&fs::read(self.0.sandbox.last_run().join("result.json")).unwrap()).unwrap()
    }

    fn start_of_last_run(&self) -> String {
        self.record()["start"].as_str().unwrap().to_owned()
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.0.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

#[test]
fn a_run_takes_the_vm_that_waits_and_is_a_machine_of_its_own() {
    let place = Waiting::new();
    let script = "cat /proc/sys/kernel/random/uuid /etc/machine-id; hostid; date +%s; cat seen; cat; echo err >&2; \
                  test ! -e /etc/mark || exit 9; echo x > /etc/mark; echo kept > /quiz/out/x; exit 7";
    let mut seen: Vec<Vec<String>> = Vec::new();
    place.prepare(&[]);
    for round in 0..3 {
        let text = format!("edited {round}");
        fs::write(place.0.sandbox.worktree().join("seen"), format!("{text}\n")).unwrap();
        let seconds = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let before = seconds();
        let mut child = place.start(&["sh", "-c", script]);
        child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
        let ran: quiz_testing::Ran = child.wait_with_output().unwrap().into();
        assert_eq!((ran.code, ran.stderr.as_str()), (7, "err\n"));
        let lines: Vec<String> = ran.out().lines().map(str::to_owned).collect();
        let date: u64 = lines[3].parse().unwrap();
        assert!((before..=seconds()).contains(&date), "{before} {date}");
        assert_eq!(lines[4..], [text, "typed".to_owned()]);
        let dir = place.0.sandbox.last_run();
        assert_eq!(fs::read_to_string(dir.join("artifacts/x")).unwrap(), "kept\n");
        assert!(fs::read_to_string(dir.join("console.log")).unwrap().contains("Linux version"));
        assert_eq!(place.start_of_last_run(), "standby");
        for other in &seen {
            assert!(other.iter().zip(&lines[..3]).all(|(a, b)| a != b), "{other:?} {lines:?}");
        }
        seen.push(lines[..3].to_vec());
        place.until("the next one waits", || !place.sockets().is_empty());
    }
}

#[test]
fn runs_that_other_verbs_call_for_leave_one_vm_and_are_not_done_once_more() {
    let place = Waiting::new();
    place.prepare(&[]);
    let runs = || fs::read_dir(place.0.sandbox.worktree().join(".quiz/runs")).unwrap().count();
    let before = runs();
    for _ in 0..2 {
        place.0.good(&["replay"]);
        assert_eq!(place.start_of_last_run(), "standby");
        place.until("the next one waits", || !place.sockets().is_empty() && place.keepers().len() == 1);
    }
    assert_eq!(runs(), before + 2);
    // One that is watched serves one that is not.
    place.0.good(&["template", "rm", "--all"]);
    let mut watch = place.start(&["watch", "--build", "true", "true"]);
    place.until("the watched one has left a VM", || place.sockets().len() == 1 && place.keepers().len() == 1);
    rustix::process::kill_process(rustix::process::Pid::from_child(&watch), rustix::process::Signal::INT).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(130));
    assert_eq!((runs(), place.0.processes()), (before + 3, 2), "a keeper and its VM are all that is left");
    place.0.good(&["true"]);
    assert_eq!(place.start_of_last_run(), "standby");
}

#[test]
fn what_is_another_vm_is_not_taken() {
    let place = Waiting::new();
    place.prepare(&[]);
    let seen = place.0.good(&["ps", "--all"]);
    assert_eq!(seen.matches("(waits) true").count(), 1, "{seen}");
    assert!(!place.0.good(&["ps"]).contains("waits"));
    for options in [&["-m", "512M"][..], &["--share", "/usr/share:/other"], &["--cold"], &["--disk", "64M"]] {
        place.0.good(&[options, &["true"]].concat());
        assert_ne!(place.start_of_last_run(), "standby", "{options:?}");
    }
    // However many kinds there were, few wait.
    place.until("keepers are done", || place.sockets().len() == place.keepers().len());
    assert!(place.sockets().len() <= 2, "{:?}", place.sockets());
    place.0.good(&["template", "rm", "--all"]);
    place.until("keepers go when they are told to", || place.keepers().is_empty());
    assert!(place.sockets().is_empty());
    assert!(place.0.templates().is_empty());
}

#[test]
fn a_disk_that_is_kept_is_never_one_that_waited() {
    let place = Waiting::new();
    place.prepare(&["--disk", "64M"]);
    let disk = place.0.sandbox.beside("kept.img");
    fs::write(&disk, vec![0; 64 << 20]).unwrap();
    let write = "echo written > /dev/disk/by-id/virtio-disk1; sync";
    place.0.good(&["--disk", disk.to_str().unwrap(), "sh", "-c", write]);
    assert!(fs::read(&disk).unwrap().starts_with(b"written\n"));
    place.0.good(&[
        "--disk",
        "64M",
        "sh",
        "-c",
        "head -c 8 /dev/disk/by-id/virtio-disk1 | tr -d '\\0' | { ! grep . ; }",
    ]);
    assert_eq!(place.start_of_last_run(), "standby");
}

#[test]
fn a_panic_of_a_vm_that_waited_has_its_evidence() {
    let place = Waiting::new();
    place.prepare(&[]);
    let ran = place.0.quiz(&["sh", "-c", "echo kept > /quiz/out/x; sync; echo c > /proc/sysrq-trigger"]);
    assert_eq!(ran.code, 121, "{}", ran.stderr);
    assert_eq!(place.start_of_last_run(), "standby");
    let dir = place.0.sandbox.last_run();
    assert_eq!(fs::read_to_string(dir.join("artifacts/x")).unwrap(), "kept\n");
    assert!(fs::read_to_string(dir.join("oops.txt")).unwrap().contains("sysrq"));
    // A panic is no reason to have the next one ready.
    place.until("nobody waits", || place.keepers().is_empty());
    place.0.good(&["true"]);
    assert_eq!(place.start_of_last_run(), "template");
}

#[test]
fn neither_a_run_nor_its_keeper_is_survived_by_the_vm() {
    let place = Waiting::new();
    place.prepare(&[]);
    let keeper = place.keepers()[0];
    let vm = descendants(keeper);
    let mut child = place.start(&["sh", "-c", "echo started; sleep 60"]);
    let mut line = [0; 8];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    place.until("the VM has ended", || !vm.iter().any(|pid| is_alive(*pid)));
    place.until("its keeper has ended", || !is_alive(keeper));

    // Now the keeper dies: that is no end of the guest's making.
    place.prepare(&[]);
    let keeper = place.keepers()[0];
    let vm = descendants(keeper);
    let mut child = place.start(&["sh", "-c", "echo started; sleep 60"]);
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    kill(keeper);
    place.until("the VM has ended", || !vm.iter().any(|pid| is_alive(*pid)));
    let ran: quiz_testing::Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.code, 125, "{}", ran.stderr);

    // One that dies while it waits is not missed.
    place.prepare(&[]);
    kill(place.keepers()[0]);
    place.until("the keeper has ended", || place.keepers().is_empty());
    place.0.good(&["true"]);
    assert_eq!(place.start_of_last_run(), "template");
    place.until("the next one waits", || !place.sockets().is_empty());
    place.0.good(&["true"]);
    assert_eq!(place.start_of_last_run(), "standby");
}

#[test]
fn a_profile_with_a_program_on_the_host_is_not_started_for_nobody() {
    let place = Waiting::new();
    let (profile, count) = (place.0.sandbox.worktree().join("profiles/counted"), place.0.sandbox.beside("count"));
    fs::create_dir_all(&profile).unwrap();
    fs::write(profile.join("profile.toml"), "about = \"x\"\n").unwrap();
    write_program(&profile.join("setup"), &format!("#!/bin/sh\necho x >> {}\n", count.display()));
    place.0.sandbox.allow();
    place.0.good(&["-p", "counted", "true"]);
    place.0.good(&["-p", "counted", "true"]);
    assert_eq!(place.start_of_last_run(), "template");
    assert!(place.keepers().is_empty() && place.sockets().is_empty());
    assert_eq!(fs::read_to_string(count).unwrap(), "x\nx\n");
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
