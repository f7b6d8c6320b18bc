//! The profile `tmux`, on a terminal.

use std::time::Duration;

use quiz_testing::Pty;

use crate::sandbox;

const LONG: Duration = Duration::from_secs(120);

#[test]
fn the_program_and_the_kernels_log_have_windows_that_stay() {
    let sandbox = sandbox();
    let refused = sandbox.quiz(["--tmux", "true"]);
    assert!(refused.code == 125 && refused.stderr.contains("needs a terminal"), "{}", refused.stderr);
    let mut pty = Pty::new(24, 100);
    let before = pty.modes();
    let words = ["--tmux", "--timeout", "2m", "sh", "-c", "echo from the $0; exit 7", "program"];
    let mut quiz = pty.start(sandbox.command(words).env("TERM", "one-that-nobody-knows"));
    pty.wait_for("from the program", LONG);
    pty.wait_for("sh has exited with 7", LONG);
    pty.wait_for("# ", LONG);
    pty.type_keys(b"\x021");
    pty.wait_for("Run /init as init process", LONG);
    pty.type_keys(b"\x020");
    pty.wait_for("sh has exited with 7", LONG);
    pty.type_keys(b"echo it was $QUIZ_STATUS\r");
    pty.wait_for("it was 7", LONG);
    pty.type_keys(b"exit\r");
    assert_eq!(quiz.wait().unwrap().code(), Some(7));
    assert_eq!(pty.modes().local_modes, before.local_modes);
}
