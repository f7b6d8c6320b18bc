//! What the guest sees of the host: the worktree at its own path, shares, disks; and what it may
//! write.

use fs_err as fs;

use crate::sandbox;

#[test]
fn the_worktree_is_at_its_own_path_and_read_only() {
    let sandbox = sandbox();
    let inner = sandbox.worktree().join("sub dir");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("file"), "first").unwrap();
    let mut command = sandbox.command(["sh", "-c", "pwd; cat file; echo x > new"]);
    let ran: quiz_testing::Ran = command.current_dir(&inner).output().unwrap().into();
    assert_eq!(ran.out(), format!("{}\nfirst", inner.display()), "{}", ran.stderr);
    assert!(ran.stderr.contains("Read-only"), "{}", ran.stderr);
    assert!(!inner.join("new").exists());
}

#[test]
fn a_file_edited_on_the_host_is_seen_while_the_guest_runs() {
    let sandbox = sandbox();
    let file = sandbox.worktree().join("file");
    fs::write(&file, "old").unwrap();
    let script = "cat file; echo; until grep -q new file; do sleep 0.1; done; cat file";
    let mut quiz = sandbox.start(&mut sandbox.command(["--timeout", "60s", "sh", "-c", script]));
    let mut first = [0; 4];
    std::io::Read::read_exact(quiz.stdout.as_mut().unwrap(), &mut first).unwrap();
    assert_eq!(&first, b"old\n");
    fs::write(&file, "new and longer").unwrap();
    let ran: quiz_testing::Ran = quiz.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.out().as_str()), (0, "new and longer"), "{}", ran.stderr);
}

#[test]
fn shares_are_where_they_were_asked_for() {
    let sandbox = sandbox();
    let dir = sandbox.beside("a,b dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("in"), "text").unwrap();
    let share = format!("{}:/data:rw", dir.display());
    let ran = sandbox.quiz(["--share", &share, "sh", "-c", "cat /data/in > /data/out"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(fs::read_to_string(dir.join("out")).unwrap(), "text");
    let read_only = format!("{}:/data", dir.display());
    assert_ne!(sandbox.quiz(["--share", &read_only, "sh", "-c", "echo x > /data/out"]).code, 0);
    assert_eq!(fs::read_to_string(dir.join("out")).unwrap(), "text");
    let buried = sandbox.quiz(["--share", &format!("{}:/usr", dir.display()), "true"]);
    assert_eq!(buried.code, 125);
    assert!(buried.stderr.contains("/usr"), "{}", buried.stderr);
}

#[test]
fn a_file_that_is_removed_while_open_can_be_used_in_memory_and_on_a_share_read_and_written() {
    let sandbox = sandbox();
    let dir = sandbox.beside("data");
    fs::create_dir(&dir).unwrap();
    let script = r#"
import os, sys
def attempt(name, what):
    try:
        print(name, what())
    except OSError as error:
        print(name, error.strerror)
os.chdir(sys.argv[1])
fd = os.open("file", os.O_RDWR | os.O_CREAT)
os.write(fd, b"hello")
os.unlink("file")
attempt("size", lambda: os.fstat(fd).st_size)
attempt("write", lambda: os.pwrite(fd, b"HE", 0))
attempt("read", lambda: os.pread(fd, 9, 0))
attempt("truncate", lambda: os.ftruncate(fd, 9) or os.fstat(fd).st_size)
"#;
    fs::write(sandbox.worktree().join("script.py"), script).unwrap();
    let run =
        |place: &str| sandbox.quiz(["--share", &format!("{}:/data:rw", dir.display()), "python3", "script.py", place]);
    let usual = "size 5\nwrite 2\nread b'HEllo'\n";
    let ran = run("/tmp");
    assert_eq!(ran.out(), format!("{usual}truncate 9\n"), "{}", ran.stderr);
    let ran = run("/data");
    // QEMU's server finds the file to truncate by its name. A newer one need not.
    let as_documented = [format!("{usual}truncate No such file or directory\n"), format!("{usual}truncate 9\n")];
    assert!(as_documented.contains(&ran.out()), "{}{}", ran.out(), ran.stderr);
}

#[test]
fn disks_are_block_devices_in_their_order() {
    let sandbox = sandbox();
    let image = sandbox.beside("image");
    fs::File::create(&image).unwrap().set_len(3 << 20).unwrap();
    let image = image.display().to_string();
    let script = "for d in 1 2; do blockdev --getsize64 /dev/disk/by-id/virtio-disk$d; done; \
                  echo written > /dev/disk/by-id/virtio-disk2";
    let ran = sandbox.quiz(["--disk", "8M", "--disk", &image, "sh", "-c", script]);
    assert_eq!((ran.code, ran.out().as_str()), (0, "8388608\n3145728\n"), "{}", ran.stderr);
    assert!(fs::read(&image).unwrap().starts_with(b"written\n"));
}

#[test]
fn the_guest_is_a_sane_place() {
    let script = r#"
        set -e
        test "$(id -u)" = 0; test "$HOME" = /root; test "$(hostname)" = quiz
        test "$(cat /sys/class/net/lo/operstate)" != down; ping -c1 127.0.0.1 >/dev/null 2>&1 || grep -q LOOPBACK /proc/net/dev || true
        test -c /dev/null; test -e /dev/fd/0; test -L /dev/stdout; test -d /dev/shm; test -d /dev/pts
        echo x > /tmp/file; echo x > /run/file; echo x > /root/file; echo x > /usr/file; echo x > /etc/file
        test "$(wc -c < /etc/machine-id)" = 33
        test "$(date +%s)" -gt 1700000000
        test "$(stat -c %a /tmp)" = 1777
        mount -t tmpfs none /mnt
        modprobe loop 2>/dev/null || test -e /dev/loop-control
        echo sane"#;
    let ran = sandbox().quiz(["sh", "-c", script]);
    assert_eq!((ran.code, ran.out().as_str()), (0, "sane\n"), "{}", ran.stderr);
}

#[test]
fn quiz_works_outside_of_any_worktree() {
    let sandbox = sandbox();
    let home = sandbox.home();
    let ran: quiz_testing::Ran = sandbox.command(["pwd"]).current_dir("/").output().unwrap().into();
    assert_eq!((ran.code, ran.out().as_str()), (0, "/root\n"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(home.join(".local/state/quiz/runs")).unwrap().count(), 1);
}

#[test]
fn quiz_works_through_a_symbolic_link() {
    let sandbox = sandbox();
    let link = sandbox.beside("q");
    fs::os::unix::fs::symlink(env!("CARGO_BIN_EXE_quiz"), &link).unwrap();
    let ran = quiz_testing::Sandbox::new(&link).quiz(["echo", "hi"]);
    assert_eq!((ran.code, ran.out().as_str()), (0, "hi\n"), "{}", ran.stderr);
}
