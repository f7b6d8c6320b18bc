//! P2: the verdict is never wrong towards success, whatever the monitor and the guest do.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quiz_host::held::HeldDir;
use quiz_vm::DumpFormat;
use quiz_vm::proto::{Order, Personal, Program};
use quiz_vm::supervise::{Dump, Job, NoSignals, Point, SnapshotSink};
use quiz_vm::unpack::Bounds;
use quiz_vm::{Accel, Limits, Outcome, Run, Streams, Verdict, VmSpec, supervise};

/// Saves where it can, to nowhere.
struct Nowhere;

impl SnapshotSink for Nowhere {
    fn state_file(&mut self, point: Point) -> Option<PathBuf> {
        (point == Point::Booted).then(|| "/dev/null".into())
    }

    fn saved(&mut self, _: Point) {}

    fn not_saved(&mut self, _: Point, why: &str) {
        panic!("{why}");
    }
}

/// Whoever reads the program's output; or does not, for a while.
struct Reader {
    sleeps: bool,
}

impl std::io::Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if std::mem::take(&mut self.sleeps) {
            std::thread::sleep(Duration::from_secs(20));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn run_in(dir: &Path, behaviour: &str) -> Outcome {
    let saves = ["refuses-to-go-on", "goes-on-late"].contains(&behaviour);
    let mut nowhere = Nowhere;
    let arch = quiz_arch::host();
    let vm = VmSpec {
        qemu: env!("CARGO_BIN_EXE_quiz-fake-qemu").into(),
        arch,
        machine: &arch.machines[0],
        accel: Accel::Tcg,
        tsc_khz: None,
        hz: None,
        fine_timers: false,
        version: Some((10, 0)),
        vmcoreinfo: true,
        sandbox: false,
        memory_mib: 64,
        ram: None,
        incoming: None,
        cpus: 1,
        kernel: "/kernel".into(),
        initramfs: "/initramfs".into(),
        append: vec![format!("fake={behaviour}")],
        disks: Vec::new(),
        shares: Vec::new(),
        special_files: false,
        net: None,
        extra: Vec::new(),
    };
    let program = Program {
        argv: vec![b"true".to_vec()],
        env: Vec::new(),
        cwd: Vec::new(),
        terminal: None,
        separate_stderr: false,
        shell_after: false,
    };
    // Short only where it is to be hit: this box may be busy.
    let bound = |hit: &str| if behaviour == hit { Duration::from_millis(1500) } else { Duration::from_secs(30) };
    supervise(Run {
        vm: &vm,
        standby: None,
        job: Job::Program(
            Box::default(),
            Box::new(Order { personal: Personal::default(), program, messages: None, keep: false, strict: false }),
        ),
        snapshots: saves.then_some(&mut nowhere as &mut dyn SnapshotSink),
        limits: Limits {
            boot: bound("silent").min(if behaviour == "boots-slowly" { Duration::from_secs(3) } else { Duration::MAX }),
            program: None,
            hang: Some(bound("hangs")),
            strict: behaviour.starts_with("strict-"),
            keep: None,
            debugged: false,
            dump: (behaviour == "refuses-other-things")
                .then_some(Dump { of_every_failure: false, format: DumpFormat::Elf }),
            artifacts: Bounds { bytes: 1 << 20, entries: 10 },
        },
        console_before: None,
        dir: &HeldDir::open(dir).unwrap(),
        streams: Streams {
            input: None,
            output: Box::new(Reader { sleeps: behaviour == "overdraws" }),
            errors: Box::new(std::io::sink()),
        },
        door: None,
        escape: None,
        front: None,
        signals: &mut NoSignals::new().unwrap(),
        show: &mut |_| {},
    })
}

fn run(behaviour: &str) -> Verdict {
    let dir = tempfile::tempdir().unwrap();
    run_in(dir.path(), behaviour).verdict
}

#[test]
fn a_whole_record_and_a_clean_end_are_a_success() {
    assert_eq!(run("good"), Verdict::Exited { code: 0 });
}

#[test]
fn an_exit_0_without_the_rest_is_none() {
    for behaviour in ["no-down", "no-exited", "other-nonce", "starts-twice"] {
        let verdict = run(behaviour);
        assert!(matches!(verdict, Verdict::Lost { .. }), "{behaviour}: {verdict:?}");
    }
}

#[test]
fn a_monitor_that_does_not_end_cleanly_takes_the_success_with_it() {
    for behaviour in ["fails-at-the-end", "killed-at-the-end", "never-quits"] {
        let verdict = run(behaviour);
        assert!(matches!(verdict, Verdict::Fault { .. }), "{behaviour}: {verdict:?}");
    }
}

#[test]
fn a_panic_behind_the_exit_is_a_panic() {
    assert!(matches!(run("panic-behind-exit"), Verdict::Panic { .. }));
}

#[test]
fn the_words_of_a_panic_are_none_while_the_guest_goes_on() {
    assert_eq!(run("only-words-of-panic"), Verdict::Exited { code: 0 });
}

#[test]
fn the_first_exit_counts() {
    assert_eq!(run("exits-twice"), Verdict::Exited { code: 1 });
}

#[test]
fn bytes_that_are_no_frames_lose_the_guest() {
    assert!(matches!(run("garbage"), Verdict::Lost { .. }));
}

#[test]
fn faults_are_named() {
    for (behaviour, words) in [
        ("dies", "something is wrong with this host"),
        ("fails-at-the-end", "the disk is full"),
        ("never-quits", "did not end within 5 s"),
        ("version", "version"),
        ("stops", "accelerator"),
        ("disk-full", "cannot write disk0: No space left"),
        ("fails-to-prepare", "no root"),
    ] {
        let Verdict::Fault { message } = run(behaviour) else { panic!("{behaviour} is a fault") };
        assert!(message.contains(words), "{behaviour}: {message}");
    }
}

#[test]
fn nothing_that_a_guest_does_after_the_start_is_a_fault() {
    for (behaviour, words) in [
        ("fails-after-the-start", "xxxx"),
        ("breaks-after-the-start", "no memory"),
        ("speaks-another-version-after-the-start", "a second time"),
        ("stops-after-the-start", "could not continue"),
        ("cannot-go-on", "outside RAM or ROM"),
    ] {
        let Verdict::Lost { message } = run(behaviour) else { panic!("{behaviour} loses the guest") };
        assert!(message.contains(words) && message.len() < 10_000, "{behaviour}: {message}");
    }
}

#[test]
fn what_the_guest_has_lost_is_no_success() {
    for (behaviour, words) in [
        ("loses-output", "the guest sent 4 bytes of standard output, and 3 have arrived"),
        ("spoils-artifacts", "/quiz/out/a cannot be read"),
    ] {
        let Verdict::Lost { message } = run(behaviour) else { panic!("{behaviour} is no success") };
        assert!(message.contains(words), "{behaviour}: {message}");
    }
}

#[test]
fn a_strict_run_is_free_of_whatever_the_kernel_has_to_report() {
    for (behaviour, words) in [
        ("strict-log", "WARNING: held lock freed!"),
        ("strict-partial-line", "BUG: KASAN: double-free in f"),
        ("strict-taint", "tainted W since the program started: kernel warned before"),
    ] {
        let Verdict::Report { message } = run(behaviour) else { panic!("{behaviour} is no success") };
        assert_eq!(message, words);
    }
    assert_eq!(run("strict-modules"), Verdict::Exited { code: 0 });
}

#[test]
fn silence_is_a_timeout_before_and_after_the_start() {
    for (behaviour, words) in
        [("silent", "not ready within 1.5 s"), ("hangs", "the guest hangs: it sent nothing for 1.5 s")]
    {
        let before = Instant::now();
        let Verdict::Timeout { message } = run(behaviour) else { panic!("{behaviour} is a timeout") };
        assert!(message.contains(words), "{behaviour}: {message}");
        assert!(before.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn evidence_that_cannot_be_kept_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    fs_err::create_dir(dir.path().join("qemu.log")).unwrap();
    let outcome = run_in(dir.path(), "good");
    let Verdict::Fault { message } = outcome.verdict else { panic!("{:?}", outcome.verdict) };
    assert!(message.contains("evidence"), "{message}");
}

#[test]
fn p4_a_flood_on_the_console_is_bounded_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run_in(dir.path(), "floods").verdict, Verdict::Exited { code: 0 });
    let kept = fs_err::metadata(dir.path().join("console.log")).unwrap().len();
    assert!(kept < 34 << 20, "{kept} bytes of console are kept");
}

#[test]
fn a_qemu_that_fails_under_a_running_program_is_no_fault_of_the_host() {
    for behaviour in ["aborts-after-the-start", "fails-itself-after-the-start"] {
        let verdict = run(behaviour);
        assert!(matches!(verdict, Verdict::Lost { .. }), "{behaviour}: {verdict:?}");
    }
}

#[test]
fn p4_what_is_sent_without_leave_ends_the_run() {
    let Verdict::Lost { message } = run("overdraws") else { panic!("it was let through") };
    assert!(message.contains("flow-control window"), "{message}");
}

#[test]
fn p4_notes_are_bounded_in_number_and_length() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = run_in(dir.path(), "notes");
    assert_eq!(outcome.verdict, Verdict::Exited { code: 0 });
    let record = serde_json::to_string(&outcome.notes).unwrap();
    assert!(
        record.len() < 1 << 20 && outcome.notes.len() == 31,
        "{} notes, {} bytes",
        outcome.notes.len(),
        record.len()
    );
    assert_eq!(outcome.notes[30], "the guest had 9970 more notes");
}

#[test]
fn a_saved_vm_that_may_not_go_on_yet_is_asked_again_for_a_while() {
    assert_eq!(run("goes-on-late"), Verdict::Exited { code: 0 });
}

#[test]
fn an_answer_belongs_to_its_question() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = run_in(dir.path(), "refuses-other-things");
    assert_eq!(outcome.verdict, Verdict::Exited { code: 0 });
    assert_eq!(outcome.notes, ["QEMU does not keep the memory of a guest that ends by itself: not set-action"]);
}

#[test]
fn a_saved_vm_that_may_never_go_on_is_a_fault_with_qemus_reason() {
    let Verdict::Fault { message } = run("refuses-to-go-on") else { panic!("it is a fault") };
    assert!(message.contains("Migration is not finalized yet"), "{message}");
}

#[test]
fn time_in_which_quiz_was_stopped_is_not_the_guests() {
    // The guest goes on meanwhile, and nobody hears it.
    let script = "sleep 1; kill -STOP $PPID; sleep 6; kill -CONT $PPID";
    let mut stopper = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
    assert_eq!(run("boots-slowly"), Verdict::Exited { code: 0 });
    assert!(stopper.wait().unwrap().success());
}
