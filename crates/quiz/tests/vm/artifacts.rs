//! P6: what the guest leaves in `/quiz/out` comes back, after a panic too, and lands nowhere else.

use fs_err as fs;

use crate::sandbox;

#[test]
fn files_directories_and_links_come_back() {
    let sandbox = sandbox();
    let script = "cd /quiz/out && mkdir -p a/b && echo one > a/b/one && head -c 5000000 /dev/zero > zeros && \
                  ln -s a/b/one link && chmod +x a/b/one && mkfifo pipe && ln -s /etc/passwd out && : > empty";
    let ran = sandbox.quiz(["sh", "-c", script]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let artifacts = sandbox.last_run().join("artifacts");
    assert_eq!(fs::read_to_string(artifacts.join("link")).unwrap(), "one\n");
    assert_eq!(fs::metadata(artifacts.join("zeros")).unwrap().len(), 5_000_000);
    assert_eq!(fs::metadata(artifacts.join("empty")).unwrap().len(), 0);
    assert!(!artifacts.join("pipe").exists());
    assert!(fs::symlink_metadata(artifacts.join("out")).is_err(), "a link out of the directory was made");
    assert!(ran.stderr.contains("out: it is a link that leads out"), "{}", ran.stderr);
}

#[test]
fn nothing_left_is_nothing_back() {
    let sandbox = sandbox();
    assert_eq!(sandbox.quiz(["true"]).code, 0);
    let run = sandbox.last_run();
    assert!(!run.join("artifacts").exists());
    let names: Vec<_> = fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(
        names
            .iter()
            .all(|name| ["command", "console.log", "qemu.log", "result.json", "kvm-trial.log"].contains(&&**name)),
        "{names:?}"
    );
}

#[test]
fn what_was_synced_survives_a_panic_and_a_timeout() {
    let sandbox = sandbox();
    for (end, code) in [("echo c > /proc/sysrq-trigger", 121), ("echo b > /proc/sysrq-trigger", 122)] {
        let script = format!("mkdir /quiz/out/d && echo kept > /quiz/out/d/file && sync && {end}");
        let ran = sandbox.quiz(["sh", "-c", &script]);
        assert_eq!(ran.code, code, "{}", ran.stderr);
        let kept = fs::read_to_string(sandbox.last_run().join("artifacts/d/file"));
        assert_eq!(kept.unwrap(), "kept\n", "{end}: {}", ran.stderr);
    }
    let ran = sandbox.quiz(["--timeout", "1s", "sh", "-c", "echo kept > /quiz/out/file && sleep 1000"]);
    assert_eq!(ran.code, 124, "{}", ran.stderr);
    assert_eq!(fs::read_to_string(sandbox.last_run().join("artifacts/file")).unwrap(), "kept\n");
}

#[test]
fn what_cannot_be_read_is_no_success_and_the_rest_comes_back() {
    let sandbox = sandbox();
    // This can only be written, by whoever it is.
    let script =
        "cd /quiz/out; echo a > a; : > x; mount --bind /sys/bus/platform/drivers_probe x; mkdir d; echo b > d/b";
    let ran = sandbox.quiz(["sh", "-c", &format!("{script}; exit 0")]);
    assert_eq!(ran.code, 122, "{}", ran.stderr);
    assert!(ran.stderr.contains("what the program left in /quiz/out/x cannot all be read"), "{}", ran.stderr);
    let artifacts = sandbox.last_run().join("artifacts");
    assert_eq!(fs::read_to_string(artifacts.join("a")).unwrap(), "a\n");
    assert_eq!(fs::read_to_string(artifacts.join("d/b")).unwrap(), "b\n");
}
