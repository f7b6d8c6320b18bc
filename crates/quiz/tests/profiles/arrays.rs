//! Software RAID: degraded, rebuilt, kept.

use crate::{output, run, sandbox};

#[test]
fn an_array_loses_a_disk_and_is_rebuilt() {
    let script = r#"
        degraded() { quizctl md status | grep degraded; }
        blockdev --getsize64 /dev/quizd0 >/dev/null
        degraded
        dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null
        dd if=/tmp/data of=/dev/quizd0 bs=64k oflag=direct 2>/dev/null
        quizctl md rebuild; quizctl md wait; degraded
        quizctl md fail quizm0; degraded; quizctl md remove quizm0; degraded
        cmp -n 1048576 /tmp/data /dev/quizd0
        quizctl md rebuild quizm1 2>/dev/null || echo refused
        quizctl md add quizm0; quizctl md wait; degraded
        cmp -n 1048576 /tmp/data /dev/quizd0"#;
    let profiles = "memdev:count=3,memdev:size=8M,md:level=raid5,md:missing=1";
    let ran = run(&sandbox(), profiles, script);
    assert_eq!(output(&ran), "degraded 1\ndegraded 0\ndegraded 1\ndegraded 1\nrefused\ndegraded 0\n", "{}", ran.stderr);
}

#[test]
fn an_array_on_kept_disks_is_put_together_again() {
    let sandbox = sandbox();
    let profiles = "blockdev:count=2,blockdev:size=16M,blockdev:persist=raid,md";
    output(&run(&sandbox, profiles, "printf kept | dd of=/dev/quizd0 conv=sync oflag=direct 2>/dev/null"));
    let again = run(&sandbox, profiles, "head -c 4 /dev/quizd0; quizctl md status | grep degraded");
    assert_eq!(output(&again), "keptdegraded 0\n", "{}", again.stderr);
}

#[test]
fn an_array_that_cannot_be_is_refused_before_the_boot() {
    for (profiles, complaint) in [
        ("md", "include blockdev or memdev"),
        ("memdev:count=2,md:level=raid5", "raid5 takes at least 3 devices, and there are 2"),
        ("memdev:count=2,md:missing=2", "raid1 of 2 devices can miss no more than 1"),
        ("memdev:count=2,md:name=../x", "no name for a device"),
    ] {
        let ran = run(&sandbox(), profiles, "true");
        assert_eq!(ran.code, 125, "{profiles}: {}", ran.stderr);
        assert!(ran.stderr.contains(complaint), "{profiles}: {}", ran.stderr);
    }
}
