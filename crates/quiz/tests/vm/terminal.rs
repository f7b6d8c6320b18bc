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
fn a_shell_after_the_program_keeps_the_programs_code() {
    let sandbox = sandbox();
    let mut pty = Pty::new(24, 80);
    let mut quiz = pty.start(&mut sandbox.command(["-S", "sh", "-c", "echo over; exit 4"]));
    pty.wait_for("over", LONG);
    pty.wait_for("# ", LONG);
    pty.type_keys(b"exit 0\r");
    assert_eq!(quiz.wait().unwrap().code(), Some(4));
}
