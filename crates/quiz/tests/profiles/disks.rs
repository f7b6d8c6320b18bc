//! Disks of the host and of the guest's memory, whole and in partitions; kept ones.

use std::time::{Duration, Instant};

use fs_err as fs;
use quiz_testing::{Ran, kernels};

use crate::{output, run, run_on, sandbox};

/// A boot record with one partition of 2048 sectors of 512 bytes that begins at sector 2048; the
/// kernel reads it anew.
const PARTITION: &str = r#"
    partition() {
        printf '\0\0\0\0\203\0\0\0\0\010\0\0\0\010\0\0' | dd of=/dev/$1 bs=1 seek=446 conv=notrunc 2>/dev/null
        printf '\125\252' | dd of=/dev/$1 bs=1 seek=510 conv=notrunc 2>/dev/null
        blockdev --rereadpt /dev/$1
        blockdev --getsize64 /dev/${1}p1
    }
"#;

#[test]
fn disks_have_names_sizes_sectors_and_partitions() {
    let script = format!(
        "{PARTITION} partition quizb0; partition quizm1; blockdev --getsize64 /dev/quizb1 /dev/quizm0
         blockdev --getss /dev/quizb0; test ! -e /dev/quizb2; test ! -e /dev/quizm2
         printf data >/dev/quizm1p1; dd if=/dev/quizm1 bs=512 skip=2048 count=1 2>/dev/null | head -c 4"
    );
    let profiles = "blockdev:count=2,blockdev:size=64M,memdev:count=2,memdev:size=8M";
    let ran = run(&sandbox(), profiles, &script);
    assert_eq!(output(&ran), "1048576\n1048576\n67108864\n8388608\n512\ndata", "{}", ran.stderr);
}

#[test]
fn whoever_asks_libudev_hears_that_disks_and_partitions_are_ready() {
    let script = format!(
        "{PARTITION} partition quizb0 >/dev/null; test ! -e /run/udev/control
         for device in quizb0 quizb0p1 quizm0; do
             udevadm info --query=property /dev/$device | grep -c -e DEVLINKS= -e USEC_INITIALIZED=
         done"
    );
    let ran = run(&sandbox(), "blockdev:count=1,blockdev:size=8M,memdev:count=1,memdev:size=8M", &script);
    assert_eq!(output(&ran), "2\n2\n2\n", "{}", ran.stderr);
}

#[test]
fn a_stock_kernel_has_them_too_and_its_timers_run() {
    let sandbox = sandbox();
    let kernel = kernels::stock(&sandbox);
    let script =
        format!("{PARTITION} partition quizm0; blockdev --getss /dev/quizb0; sleep 0.1; ip -br address show up");
    let ran = run_on(&sandbox, kernel, "blockdev:count=1,blockdev:sector=4096,memdev:count=1,net", &script);
    let said = output(&ran);
    assert!(said.starts_with("1048576\n4096\n") && said.contains("10.0.2.15/24"), "{said}\n{}", ran.stderr);
}

#[test]
fn kept_disks_are_there_again_and_have_one_user_at_a_time() {
    let sandbox = sandbox();
    let disks = sandbox.worktree().join(".quiz/disks/tank");
    let profiles = "blockdev:persist=tank,blockdev:count=1,blockdev:size=16M";
    let script = "echo kept >/dev/quizb0; : >/dev/quizb0; echo ready; until grep -q end end; do sleep 0.1; done";
    fs::write(sandbox.worktree().join("end"), "").unwrap();
    let mut first = sandbox.start(&mut sandbox.command(["--timeout", "1m", "-p", profiles, "sh", "-euc", script]));
    let mut said = [0; 6];
    std::io::Read::read_exact(first.stdout.as_mut().unwrap(), &mut said).unwrap();
    // The second asks for one more than there is; it is refused, and makes nothing.
    let start = Instant::now();
    let second = run(&sandbox, "blockdev:persist=tank,blockdev:count=2,blockdev:size=16M", "true");
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(second.code, 125, "{}", second.stderr);
    let locked = format!("{} is in use by quiz (pid {})", disks.join("quizb0").display(), first.id());
    assert!(second.stderr.contains(&locked), "{}", second.stderr);
    assert!(!disks.join("quizb1").exists());
    fs::write(sandbox.worktree().join("end"), "end").unwrap();
    let first: Ran = first.wait_with_output().unwrap().into();
    output(&first);
    assert_eq!(fs::metadata(disks.join("quizb0")).unwrap().len(), 16 << 20);
    // Without a size the disk keeps its own, and nothing is said about it.
    let again = run(&sandbox, "blockdev:persist=tank,blockdev:count=1", "head -n 1 /dev/quizb0");
    assert_eq!(output(&again), "kept\n");
    assert!(!again.stderr.contains("size"), "{}", again.stderr);
}

#[test]
fn of_many_at_once_one_gets_a_kept_disk() {
    let sandbox = sandbox();
    let script = "echo begun; until grep -q end end; do sleep 0.1; done";
    fs::write(sandbox.worktree().join("end"), "").unwrap();
    let profiles = "blockdev:persist=tank,blockdev:count=1,blockdev:size=16M";
    let command = || sandbox.command(["--timeout", "2m", "-p", profiles, "sh", "-euc", script]);
    let mut all: Vec<_> = (0..4).map(|_| sandbox.start(&mut command())).collect();
    // All but one end by themselves.
    let until = Instant::now() + Duration::from_secs(120);
    while all.iter_mut().filter_map(|run| run.try_wait().unwrap()).count() < 3 {
        assert!(Instant::now() < until, "more than one goes on");
        std::thread::sleep(Duration::from_millis(50));
    }
    fs::write(sandbox.worktree().join("end"), "end").unwrap();
    let pids: Vec<u32> = all.iter().map(std::process::Child::id).collect();
    let ran: Vec<Ran> = all.into_iter().map(|run| run.wait_with_output().unwrap().into()).collect();
    let winner = ran.iter().position(|ran| ran.code == 0).unwrap();
    let refused = format!("is in use by quiz (pid {})", pids[winner]);
    for (number, ran) in ran.iter().enumerate().filter(|(number, _)| *number != winner) {
        assert!(ran.code == 125 && ran.stderr.contains(&refused), "{number}: {} {}", ran.code, ran.stderr);
    }
}

#[test]
fn disks_can_only_be_kept_in_a_worktree_under_a_plain_name() {
    let sandbox = sandbox();
    let outside = sandbox.beside("outside");
    fs::create_dir(&outside).unwrap();
    let ran = sandbox.quiz_in(&outside, ["-p", "blockdev:persist=tank", "true"]);
    assert_eq!(ran.code, 125, "{}", ran.stderr);
    assert!(ran.stderr.contains("in a worktree, and there is none here"), "{}", ran.stderr);
    let ran = sandbox.quiz(["-p", "blockdev:persist=../tank", "true"]);
    assert_eq!(ran.code, 125, "{}", ran.stderr);
    assert!(ran.stderr.contains("persist = ../tank is no name"), "{}", ran.stderr);
}
