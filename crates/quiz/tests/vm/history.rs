//! What is told of runs that are over, and doing them again.

use fs_err as fs;
use serde_json::Value;

use crate::sandbox;

#[test]
fn a_run_is_listed_shown_and_done_again() {
    let sandbox = sandbox();
    let profile = sandbox.worktree().join("profiles/told");
    fs::create_dir_all(profile.join("files/opt")).unwrap();
    fs::write(profile.join("profile.toml"), "about = \"x\"\n").unwrap();
    fs::write(profile.join("files/opt/code"), "3").unwrap();
    let script = "echo \"it's $WORD\"; grep -c ^processor /proc/cpuinfo; exit $(cat /opt/code)";
    let mut command = sandbox.command(["-p", "told", "--env", "WORD=so", "sh", "-c", script]);
    command.env("QUIZ_CPUS", "1");
    let ran: quiz_testing::Ran = command.output().unwrap().into();
    assert_eq!((ran.code, ran.out().as_str()), (3, "it's so\n1\n"), "{}", ran.stderr);
    let id = sandbox.last_run().file_name().unwrap().to_str().unwrap().to_owned();

    let listed = sandbox.quiz(["runs"]);
    let line = listed.out().lines().nth(1).unwrap_or_default().to_owned();
    assert!(line.starts_with(&id) && line.contains("exited 3") && line.contains("sh -c"), "{}", listed.out());
    let records: Value = serde_json::from_str(&sandbox.quiz(["runs", "--json"]).out()).unwrap();
    assert_eq!((records[0]["schema"].as_u64(), records[0]["id"].as_str()), (Some(1), Some(id.as_str())));
    let shown = sandbox.quiz(["show", &id[id.len() - 6..]]);
    for word in ["exited 3", "told", "console.log", "called as"] {
        assert!(shown.out().contains(word), "{word}: {}", shown.out());
    }
    let record: Value = serde_json::from_str(&sandbox.quiz(["show", "--json"]).out()).unwrap();
    assert_eq!(record, records[0]);

    // The same words and variables, though neither is given now.
    let again = sandbox.quiz(["replay"]);
    assert_eq!((again.code, again.out().as_str()), (3, "it's so\n1\n"), "{}", again.stderr);
    assert!(again.stderr.contains("nothing of what quiz knows has changed"), "{}", again.stderr);
    assert!(again.stderr.contains("the verdict is what it was: exited 3"), "{}", again.stderr);
    fs::write(profile.join("files/opt/code"), "4").unwrap();
    let again = sandbox.quiz(["replay", &id]);
    assert_eq!(again.code, 4, "{}", again.stderr);
    assert!(again.stderr.contains("the layer profiles has other contents"), "{}", again.stderr);
    assert!(again.stderr.contains("the verdict was exited 3, and is exited 4"), "{}", again.stderr);

    let none = sandbox.quiz(["replay", "19990101"]);
    assert_eq!(none.code, 125);
    assert!(none.stderr.contains("is called 19990101"), "{}", none.stderr);
}
