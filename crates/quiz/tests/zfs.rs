//! OpenZFS for real: Debian's releases, built by quiz in the user's cache the first time (minutes),
//! and then run.

use std::path::PathBuf;

use quiz_testing::openzfs::{self, Release};
use quiz_testing::{Ran, Sandbox, kernels};

const POOL: &str =
    "zpool create -f tank mirror /dev/quizm0 /dev/quizm1 && zpool status && cat /sys/module/zfs/version && uname -r";

/// A checkout of a release, built for the kernel that `-k` takes.
fn built(sandbox: &Sandbox, release: Release, kernel: &str) -> PathBuf {
    let checkout = openzfs::checkout(release).unwrap();
    let built = sandbox.quiz_in(&checkout, ["zfs", "-k", kernel]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    checkout
}

fn good(ran: Ran) -> String {
    assert_eq!(ran.code, 0, "{}\n{}", ran.out(), ran.stderr);
    ran.out()
}

#[test]
fn two_worktrees_run_their_own_openzfs_at_the_same_time() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let new = built(&sandbox, Release::BookwormBackports, kernels::built(&sandbox, "memdev"));
    let old = built(&sandbox, Release::Bookworm, kernels::stock(&sandbox));
    let run = |dir: &PathBuf, kernel: &str| {
        good(sandbox.quiz_in(dir, ["-k", kernel, "-p", "zfs,memdev", "--timeout", "3m", "sh", "-c", POOL]))
    };
    let (of_new, of_old) = std::thread::scope(|scope| {
        let of_new = scope.spawn(|| run(&new, kernels::name(&sandbox)));
        (run(&old, "6.1"), of_new.join().unwrap())
    });
    // Nothing of that needs the user's consent.
    let asks = sandbox.quiz_in(&new, ["allow", "--show"]);
    assert!(asks.stderr.contains("no settings or profiles that reach the host"), "{}", asks.stderr);
    let (of_old, of_new) = (of_new, of_old);
    for (out, version, kernel) in [(&of_new, "2.3.", "6.12."), (&of_old, "2.1.", "6.1.0-")] {
        assert!(out.contains("state: ONLINE") && out.contains("quizm1"), "{out}");
        let mut last = out.lines().rev();
        assert!(last.next().unwrap().starts_with(kernel), "{out}");
        assert!(last.next().unwrap().starts_with(version), "{out}");
    }
}

#[test]
fn a_kernel_without_a_build_is_refused_with_the_ways_out() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let checkout = openzfs::checkout(Release::Bookworm).unwrap();
    let refused = sandbox.quiz_in(&checkout, ["-k", kernels::built(&sandbox, "memdev"), "-p", "zfs", "true"]);
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("is not compiled for kernel 6.12"), "{}", refused.stderr);
    // And building it there cannot be: that release is for kernels up to 6.2.
    let refused = sandbox.quiz_in(&checkout, ["zfs", "-k", kernels::name(&sandbox)]);
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("6.2"), "{}", refused.stderr);
}

#[test]
fn a_fault_shows_in_the_pool_and_goes_away() {
    // What the faulty disk missed is mended first, by resilvering or the first scrub, and counts as
    // errors of its own; the second scrub finds nothing unless the disk fails still.
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let kernel = kernels::built(&sandbox, "memdev,error");
    let checkout = built(&sandbox, Release::BookwormBackports, kernel);
    let script = "zpool create -f tank mirror /dev/quizm0 /dev/quizm1 && dd if=/dev/urandom of=/tank/f bs=1M count=16 2>/dev/null && \
        zpool sync && quizctl error on quizm1 && (zpool scrub -w tank; zpool status tank) && \
        quizctl error off quizm1 && zpool clear tank && \
        mended() { until zpool scrub -w tank; do zpool wait -t resilver tank; done; } && \
        mended && zpool clear tank && mended && echo ==== && zpool status -x && zpool status tank";
    let out = good(
        sandbox.quiz_in(&checkout, ["-k", kernel, "-p", "zfs,memdev,error", "--timeout", "3m", "sh", "-c", script]),
    );
    let (faulty, mended) = out.split_once("====\n").unwrap();
    let line = faulty.lines().find(|line| line.contains("quizm1")).unwrap();
    assert!(line.split_whitespace().skip(1).ne(["ONLINE", "0", "0", "0"]), "{out}");
    let line = mended.lines().rev().find(|line| line.contains("quizm1")).unwrap();
    assert!(line.split_whitespace().skip(1).take(4).eq(["ONLINE", "0", "0", "0"]), "{out}");
    assert!(mended.contains("with 0 errors"), "{out}");
}

#[test]
fn a_pool_on_persistent_disks_is_there_in_the_next_run() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let kernel = kernels::built(&sandbox, "memdev");
    let checkout = built(&sandbox, Release::BookwormBackports, kernel);
    // The disks are the checkout's; nobody else's.
    let name = format!("test-{}", std::process::id());
    let profiles = format!("zfs,pool,blockdev:count=2,blockdev:size=256M,blockdev:persist={name}");
    let run = |program: &str| {
        sandbox.quiz_in(&checkout, ["-k", kernel, "-p", &profiles, "--timeout", "3m", "sh", "-c", program])
    };
    good(run("echo remembered > /tank/file"));
    let second = good(run("cat /tank/file; zpool list -H -o health tank"));
    fs_err::remove_dir_all(checkout.join(".quiz/disks").join(&name)).unwrap();
    assert_eq!(second, "remembered\nONLINE\n");
}

#[test]
fn the_memory_of_a_dead_guest_tells_of_its_pools() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let kernel = kernels::built(&sandbox, "memdev");
    let checkout = built(&sandbox, Release::BookwormBackports, kernel);
    let words = ["-k", kernel, "-p", "zfs,memdev", "--timeout", "3m", "--dump", "on-panic", "--dump-format", "elf"];
    let script = "zpool create -f tank mirror quizm0 quizm1 && exec sh -c 'echo c > /proc/sysrq-trigger'";
    let ran = sandbox.quiz_in(&checkout, [&words[..], &["sh", "-c", script]].concat());
    assert_eq!(ran.code, 121, "{}", ran.stderr);
    let first = "print ((spa_t *)((char *)spa_namespace_avl.avl_root - spa_namespace_avl.avl_offset))->spa_name";
    let gdb = ["debug", "--", "-batch", "-ex", "print spa_namespace_avl.avl_numnodes", "-ex", first];
    let out = good(sandbox.quiz_in(&checkout, gdb));
    assert!(out.contains("in the task sh") && out.contains("$1 = 1\n"), "{out}");
    assert!(out.contains("$2 = \"tank\""), "{out}");
}

#[test]
fn a_piece_of_the_test_suite_passes_and_some_of_it_not_as_root() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let kernel = kernels::built(&sandbox, "memdev");
    let checkout = built(&sandbox, Release::BookwormBackports, kernel);
    let selection = ["hkdf", "exec_001_pos", "cli_user/zpool_list", "zpool_get_001_pos"];
    let out =
        good(sandbox.quiz_in(&checkout, [&["zfs", "test", "-k", kernel, "--timeout", "15m"], &selection[..]].concat()));
    for name in ["hkdf_test", "exec_001_pos", "zpool_list_001_pos", "zpool_get_001_pos"] {
        assert!(out.lines().any(|line| line.starts_with("PASS") && line.contains(name)), "{name}: {out}");
    }
    let unprivileged = out.lines().find(|line| line.contains("zpool_list_001_pos")).unwrap();
    assert!(unprivileged.ends_with("(as tester)"), "{out}");
    // A word that means nothing is said before anything is booted.
    let refused = sandbox.quiz_in(&checkout, ["zfs", "test", "-k", kernel, "zpool_gte_001_pos"]);
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("zpool_get_001_pos"), "{}", refused.stderr);
}
