//! P5 and the terminal: size, keys, signals, and everything as it was afterwards.

use std::time::Duration;

use quiz_testing::Pty;

use crate::sandbox;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_program_on_a_terminal_has_one_of_its_size_that_follows() {
    let sandbox = sandbox();
    let mut pty = Pty::new(31, 97);
    let script = "trap 'stty size' WINCH; trap 'exit 130' INT; stty size; tty; test -t 0 && test -t 1 && test -t 2 && echo all; while :; do sleep 0.1; done";
    let before = pty.modes();
    let mut quiz = pty.start(sandbox.command(["--timeout", "60s", "bash", "-c", script]).env("TERM", "xterm"));
    pty.wait_for("31 97\r\n/dev/pts/0\r\nall\r\n", LONG);
    pty.resize(40, 132);
    pty.wait_for("40 132", LONG);
    pty.type_keys(b"\x03");
    assert_eq!(quiz.wait().unwrap().code(), Some(130), "Ctrl-C goes to the program");
    assert_eq!(pty.modes().local_modes, before.local_modes);
    assert_eq!(pty.modes().input_modes, before.input_modes);
}

#[test]
fn p5_the_terminal_is_restored_on_every_way_out() {
    let sandbox = sandbox();
    let pty = Pty::new(24, 80);
    let before = pty.modes();
    for script in ["exit 3", "echo c > /proc/sysrq-trigger", "echo b > /proc/sysrq-trigger", "kill -9 $$"] {
        let mut quiz = pty.start(&mut sandbox.command(["sh", "-c", script]));
        quiz.wait().unwrap();
        assert_eq!(pty.modes().local_modes, before.local_modes, "{script}");
    }
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::HUP, rustix::process::Signal::QUIT] {
        let mut pty = Pty::new(24, 80);
        let mut quiz = pty.start(&mut sandbox.command(["sh", "-c", "trap '' TERM HUP QUIT; echo ready; sleep 1000"]));
        pty.wait_for("ready", LONG);
        rustix::process::kill_process(rustix::process::Pid::from_child(&quiz), signal).unwrap();
        assert_eq!(quiz.wait().unwrap().code(), Some(128 + signal.as_raw()));
        assert_eq!(pty.modes().local_modes, before.local_modes, "{signal:?}");
    }
    // Those that few catch, one that has no name, and one that nothing goes on after.
    for signal in [libc::SIGUSR1, libc::SIGALRM, libc::SIGXCPU, libc::SIGRTMIN() + 3, libc::SIGSEGV] {
        let mut pty = Pty::new(24, 80);
        let mut quiz = pty.start(&mut sandbox.command(["sh", "-c", "echo ready; sleep 1000"]));
        pty.wait_for("ready", LONG);
        // SAFETY: kill has no memory effects.
        assert_eq!(unsafe { libc::kill(quiz.id().cast_signed(), signal) }, 0);
        let status = quiz.wait().unwrap();
        let expected = if signal == libc::SIGSEGV { None } else { Some(128 + signal) };
        assert_eq!(status.code(), expected, "{signal}");
        assert_eq!(pty.modes().local_modes, before.local_modes, "{signal}");
    }
}

#[test]
fn a_panic_at_the_shell_leaves_a_sane_terminal_and_blames_the_crash_itself() {
    let sandbox = sandbox();
    let mut pty = Pty::new(24, 80);
    let before = pty.modes();
    let mut quiz = pty.start(&mut sandbox.command([""; 0]));
    pty.wait_for("# ", LONG);
    pty.type_keys(b"echo c >/proc/sysrq-trigger\r");
    assert_eq!(quiz.wait().unwrap().code(), Some(121));
    let after = pty.modes();
    assert_eq!(
        (after.local_modes, after.input_modes, after.output_modes),
        (before.local_modes, before.input_modes, before.output_modes)
    );
    let shown = pty.wait_for("the guest's kernel panicked", LONG);
    assert!(shown.contains("sysrq triggered crash") && shown.contains("in sysrq_handle_crash"), "{shown}");
    let record: serde_json::Value =
        serde_json::from_slice(&fs_err::read(sandbox.last_run().join("result.json")).unwrap()).unwrap();
    assert_eq!(record["oops"]["culprit"]["function"], "sysrq_handle_crash");
}

#[test]
fn a_program_that_fills_the_screen_knows_its_size_and_draws_it_anew() {
    let sandbox = sandbox();
    let mut pty = Pty::new(50, 200);
    let script = format!("stty size; tput cols; stty size </dev/tty; exec python3 -c '{DRAWS}'");
    let mut quiz = pty.start(sandbox.command(["--timeout", "60s", "sh", "-c", &script]).env("TERM", "xterm-256color"));
    pty.wait_for("50 200\r\n200\r\n50 200\r\n", LONG);
    pty.wait_for("drawn 200 50\r\n", LONG);
    pty.resize(30, 100);
    pty.wait_for("drawn 100 30\r\n", LONG);
    assert_eq!(quiz.wait().unwrap().code(), Some(0));
}

/// Draws until it has been drawn at 100 × 30. The signal is blocked but while it is waited for: a
/// handler would miss one that comes between drawing and the system call that waits.
const DRAWS: &str = r#"
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
while True:
    size = os.get_terminal_size(0)
    os.write(1, b"drawn %d %d\n" % size)
    if size == (100, 30):
        break
    signal.sigwait([signal.SIGWINCH])
"#;

#[test]
fn a_terminal_that_controls_nobody_is_a_terminal_all_the_same() {
    let sandbox = sandbox();
    let mut pty = Pty::new(31, 97);
    let mut quiz = pty.start_without_control(&mut sandbox.command(["sh", "-c", "tty; stty size; exit 3"]));
    pty.wait_for("/dev/pts/0\r\n31 97\r\n", LONG);
    assert_eq!(quiz.wait().unwrap().code(), Some(3));
}

#[test]
fn a_bare_quiz_is_a_shell() {
    let sandbox = sandbox();
    let mut pty = Pty::new(24, 80);
    let mut quiz = pty.start(&mut sandbox.command([""; 0]));
    pty.wait_for("# ", LONG);
    pty.type_keys(b"echo $((6*7)); exit 9\r");
    pty.wait_for("42", LONG);
    assert_eq!(quiz.wait().unwrap().code(), Some(9));
}

#[test]
fn a_guest_that_no_longer_listens_can_be_left_by_the_keyboard() {
    let sandbox = sandbox();
    let mut pty = Pty::new(24, 80);
    let before = pty.modes();
    let mut quiz = pty.start(&mut sandbox.command(["sh", "-c", "stty raw -isig; echo ready; sleep 1000"]));
    pty.wait_for("ready", LONG);
    pty.type_keys(b"\x1d\x1d\x1d");
    assert_eq!(quiz.wait().unwrap().code(), Some(130));
    assert_eq!(pty.modes().local_modes, before.local_modes);
}

#[test]
fn the_escape_is_told_once_and_can_be_another_key() {
    let sandbox = sandbox();
    let told = "three times within a second leaves the guest";
    let mut pty = Pty::new(24, 80);
    let script = ["sh", "-c", "stty raw -isig; echo ready; sleep 1000"];
    let mut quiz = pty.start(sandbox.command(script).env("QUIZ_ESCAPE", "ctrl-a"));
    let shown = pty.wait_for("ready", LONG);
    assert!(shown.contains("ctrl-a") && shown.contains(told), "{shown}");
    pty.type_keys(b"\x1d\x1d\x1d");
    std::thread::sleep(Duration::from_millis(300));
    assert!(quiz.try_wait().unwrap().is_none(), "that is not the key");
    pty.type_keys(b"\x01\x01\x01");
    assert_eq!(quiz.wait().unwrap().code(), Some(130));
    let mut quiz = pty.start(&mut sandbox.command(script));
    let shown = pty.wait_for("ready", LONG);
    assert!(!shown.contains(told), "{shown}");
    pty.type_keys(b"\x1d\x1d\x1d");
    assert_eq!(quiz.wait().unwrap().code(), Some(130));
}

#[test]
fn the_shell_has_job_control_and_the_right_size_at_any_moment() {
    let sandbox = sandbox();
    let mut pty = Pty::new(24, 80);
    let before = pty.modes();
    let mut quiz = pty.start(sandbox.command([""; 0]).env("TERM", "xterm-256color"));
    pty.wait_for("# ", LONG);
    // It says when it is in the foreground: keys that come before would be the shell's. And it
    // starts nothing, for a shell that is stopped while it does (vfork) never stops.
    pty.type_keys(b"bash -c 'trap \"echo is back\" CONT; echo is there; while :; do read -t 0.1; done'\r");
    pty.wait_for("\ris there", LONG);
    pty.type_keys(b"\x1a");
    pty.wait_for("Stopped", LONG);
    pty.wait_for("# ", LONG);
    pty.type_keys(b"fg\r");
    pty.wait_for("\nis back", LONG);
    pty.type_keys(b"\x03");
    pty.wait_for("# ", LONG);
    pty.type_keys(b"echo $TERM $?\r");
    pty.wait_for("xterm-256color 130", LONG);
    for i in 0..200 {
        pty.resize(20 + i % 30, 60 + i);
    }
    pty.resize(47, 111);
    pty.type_keys(b"stty size\r");
    pty.wait_for("47 111", LONG);
    pty.type_keys(b"exit 5\r");
    assert_eq!(quiz.wait().unwrap().code(), Some(5));
    assert_eq!(pty.modes().local_modes, before.local_modes);
    assert_eq!(pty.modes().output_modes, before.output_modes);
}

#[test]
fn a_terminal_that_hangs_up_takes_its_run_along() {
    let sandbox = sandbox();
    let mut pty = Pty::new(24, 80);
    let mut quiz = pty.start(&mut sandbox.command(["sh", "-c", "echo ready; sleep 1000"]));
    pty.wait_for("ready", LONG);
    let vm = quiz_testing::descendants(quiz.id());
    drop(pty);
    assert_eq!(quiz.wait().unwrap().code(), Some(129));
    assert!(!vm.is_empty() && vm.iter().all(|pid| !quiz_testing::is_alive(*pid)));
}

#[test]
fn another_program_has_a_terminal_of_its_own() {
    let sandbox = sandbox();
    assert_eq!(sandbox.quiz(["--keep=2m", "true"]).code, 0);
    let mut pty = Pty::new(31, 97);
    let before = pty.modes();
    let mut quiz = pty.start(sandbox.command(["exec"]).env("TERM", "xterm"));
    pty.wait_for("# ", LONG);
    pty.type_keys(b"stty size; tty; echo $TERM\r");
    pty.wait_for("31 97\r\n/dev/pts/", LONG);
    pty.wait_for("# ", LONG);
    pty.resize(40, 132);
    // It starts nothing itself: a key that comes while the shell does is anybody's.
    pty.type_keys(b"bash -c 'echo is there; while :; do read -t 0.1; done'\r");
    pty.wait_for("\ris there", LONG);
    pty.type_keys(b"\x03");
    pty.wait_for("# ", LONG);
    pty.type_keys(b"stty size\r");
    pty.wait_for("40 132", LONG);
    pty.type_keys(b"exit 6\r");
    assert_eq!(quiz.wait().unwrap().code(), Some(6));
    // Left by the escape it is hung up, and the VM stays.
    let mut quiz =
        pty.start(&mut sandbox.command(["exec", "sh", "-c", "echo $$ > /tmp/pid; stty raw; echo ready; sleep 1000"]));
    pty.wait_for("ready", LONG);
    pty.type_keys(b"\x1d\x1d\x1d");
    assert_eq!(quiz.wait().unwrap().code(), Some(129));
    assert_eq!(pty.modes().local_modes, before.local_modes);
    let gone = "for i in 1 2 3 4 5 6 7 8 9; do kill -0 $(cat /tmp/pid) || exit 0; sleep 0.5; done; exit 1";
    assert_eq!(sandbox.quiz(["exec", "sh", "-c", gone]).code, 0);
    assert_eq!(sandbox.quiz(["kill"]).code, 0);
}

#[test]
fn a_shell_after_the_program_keeps_the_programs_code() {
    let sandbox = sandbox();
    let mut pty = Pty::new(24, 80);
    let mut quiz = pty.start(&mut sandbox.command(["-S", "sh", "-c", "echo over; exit 4"]));
    pty.wait_for("over", LONG);
    pty.wait_for("# ", LONG);
    pty.type_keys(b"echo it was $QUIZ_STATUS\r");
    pty.wait_for("it was 4", LONG);
    pty.type_keys(b"exit 0\r");
    assert_eq!(quiz.wait().unwrap().code(), Some(4));
}
