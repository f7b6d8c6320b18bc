//! Looking at VMs that run, from outside.

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use quiz_testing::{Ran, Sandbox};
use serde_json::Value;

use crate::sandbox;

/// A run that has said that it is there, and stays.
fn started(sandbox: &Sandbox, word: &str) -> Child {
    let mut command = sandbox.command(["sh", "-c", &format!("echo up; sleep 60; : {word}")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    child
}

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !reached() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn vms_that_run_are_listed_read_and_ended() {
    let (sandbox, elsewhere) = (sandbox(), sandbox());
    let listed = |sandbox: &Sandbox, all: bool| -> Vec<Value> {
        let ran = sandbox.quiz(if all { &["ps", "--all", "--json"][..] } else { &["ps", "--json"] });
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        serde_json::from_str(&ran.out()).unwrap()
    };
    assert!(listed(&sandbox, false).is_empty());
    let first = started(&sandbox, "first");
    let second = started(&sandbox, "second");
    let here = listed(&sandbox, false);
    let words: Vec<&str> = here.iter().map(|one| one["command"][2].as_str().unwrap()).collect();
    assert_eq!(words, ["echo up; sleep 60; : second", "echo up; sleep 60; : first"], "the newest first");
    assert_eq!((here[0]["memory_mib"].as_u64(), here[0]["waits"].as_bool()), (Some(1024), Some(false)));
    assert!(listed(&elsewhere, false).is_empty());
    let ids: Vec<String> = here.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.iter().all(|id| listed(&elsewhere, true).iter().any(|one| one["id"] == **id)));
    let table = sandbox.quiz(["ps"]).out();
    assert!(table.starts_with("ID") && table.contains(&ids[0]) && table.contains("1.0 GiB"), "{table}");

    // The newest, or the one that is named.
    assert!(sandbox.quiz(["logs"]).out().contains("Linux version"));
    let mut follow = sandbox.command(["logs", "-f", &ids[1]]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let ended = |child: Child| -> Ran { child.wait_with_output().unwrap().into() };
    assert_eq!(sandbox.quiz(["kill"]).code, 0);
    assert_eq!(ended(second).code, 128 + 15);
    assert!(follow.try_wait().unwrap().is_none(), "the run that is followed goes on");
    assert_eq!(elsewhere.quiz(["kill", &ids[1]]).code, 0);
    assert_eq!(ended(first).code, 128 + 15);
    let followed = ended(follow);
    assert!(followed.code == 0 && followed.out().contains("Linux version"));
    assert!(listed(&sandbox, false).is_empty());
    let none = sandbox.quiz(["kill"]);
    assert!(none.code == 125 && none.stderr.contains("no VM of this worktree runs"), "{}", none.stderr);
    // One that is over has its log still.
    assert!(sandbox.quiz(["logs", &ids[0]]).out().contains("Linux version"));

    // One that was killed is not listed any more.
    let mut third = started(&sandbox, "third");
    third.kill().unwrap();
    third.wait().unwrap();
    until("the killed one is gone from the list", || listed(&sandbox, true).iter().all(|one| one["pid"] != third.id()));
}
