//! What takes too long for every change: run by `cargo xtask test --long`, some ten minutes the
//! first time. OpenZFS with defects made on purpose, in a copy of the checkout, and the test suite
//! that must find them; 25 tests of five groups that must pass; a use after free on a kernel with
//! KASAN; a thousand runs from a template, and two hundred that are killed; a gigabyte into a VM
//! and back; pools that go between guests of both byte orders; guests of the architectures that no
//! change is tested on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use fs_err as fs;
use quiz_testing::openzfs::{self, Release};
use quiz_testing::place::{self, Place};
use quiz_testing::{Ran, Sandbox, descendants, is_alive, kernels};

/// Where blocks that are written again with the same contents are found out.
const SOURCE: &str = "module/zfs/zio.c";
const COMPARISON: &str = "if (ZIO_CHECKSUM_EQUAL(bp->blk_cksum, bp_orig->blk_cksum)) {";

/// A copy of the checkout's sources, built for `kernel`; kept from one time to the next, so that
/// only the defect is compiled.
fn copy(sandbox: &Sandbox, checkout: &Path, kernel: &str) -> PathBuf {
    let copy = quiz_testing::cache().join("checkouts/zfs-with-defects");
    if !copy.join("META").exists() {
        fs::create_dir_all(&copy).unwrap();
        let script = "tar -C \"$0\" --exclude=./.quiz -cf - . | tar -C \"$1\" -xf -";
        assert!(Command::new("sh").args(["-c", script]).arg(checkout).arg(&copy).status().unwrap().success());
    }
    fs::copy(checkout.join(SOURCE), copy.join(SOURCE)).unwrap();
    build(sandbox, &copy, kernel);
    copy
}

fn build(sandbox: &Sandbox, checkout: &Path, kernel: &str) {
    let built = sandbox.quiz_in(checkout, ["zfs", "-k", kernel]);
    assert_eq!(built.code, 0, "{}", built.stderr);
}

fn suite(sandbox: &Sandbox, checkout: &Path, kernel: &str, selectors: &[&str]) -> Ran {
    sandbox.quiz_in(checkout, [&["zfs", "test", "-k", kernel, "--timeout", "40m", "-r", "sanity"], selectors].concat())
}

fn lines<'a>(out: &'a str, result: &str) -> Vec<&'a str> {
    out.lines().filter(|line| line.split_whitespace().next() == Some(result)).collect()
}

/// What a guest is asked, in its own byte order, of the pool that another has made: the contents,
/// and a scrub that finds nothing.
const READ: &str = "zpool import -d /dev tank && cd /tank && cksum seq random | diff - sums && cd / && \
                    zpool scrub -w tank && zpool status tank && zpool export tank";
const WRITE: &str = "zpool create -O checksum=sha256 -O compression=on tank $(readlink -f /dev/disk/by-id/virtio-disk1) && cd /tank && \
                     seq 300000 > seq && head -c 9000000 /dev/urandom > random && cksum seq random > sums && cd / && zpool export tank";

/// A pool made by a big-endian guest is read by a little-endian one, and the other way round.
#[test]
fn pools_go_between_guests_of_both_byte_orders() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let checkout = openzfs::checkout(Release::BookwormBackports).unwrap();
    let here = std::env::consts::ARCH;
    kernels::stock_of(&sandbox, "s390x");
    let own = kernels::built(&sandbox, "memdev");
    let kernel_of = |arch: &str| if arch == "s390x" { kernels::stock_name(arch) } else { own };
    for arch in ["s390x", here] {
        let built = sandbox.quiz_in(&checkout, ["-a", arch, "-k", kernel_of(arch), "zfs"]);
        assert_eq!(built.code, 0, "{}", built.stderr);
    }
    for (writer, reader) in [("s390x", here), (here, "s390x")] {
        let disk = sandbox.beside(&format!("{writer}.img"));
        fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
        let disk = disk.display().to_string();
        for (arch, script) in [(writer, WRITE), (reader, READ)] {
            let words = ["-a", arch, "-k", kernel_of(arch), "-p", "zfs,memdev", "--disk", &disk, "--timeout", "5m"];
            let ran = sandbox.quiz_in(&checkout, [&words[..], &["sh", "-c", script]].concat());
            assert_eq!(ran.code, 0, "{arch} of {writer}: {}\n{}", ran.out(), ran.stderr);
            let scrubbed = ran.out().contains("with 0 errors") && ran.out().contains("No known data errors");
            assert_eq!(scrubbed, arch == reader, "{}", ran.out());
        }
    }
}

/// A guest that no change is tested on: cold and from a template.
fn runs(arch: &str, byte_order: &str) {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    kernels::stock_of(&sandbox, arch);
    let look = "import os, sys; print(os.uname().machine, sys.byteorder)";
    for options in [&["--cold"][..], &[], &[]] {
        let words = ["-a", arch, "-k", kernels::stock_name(arch), "--timeout", "5m"];
        let ran = sandbox.quiz([&words[..], options, &["python3", "-c", look]].concat());
        assert_eq!((ran.code, ran.out()), (0, format!("{arch} {byte_order}\n")), "{}", ran.stderr);
    }
    let record = fs::read_to_string(sandbox.last_run().join("result.json")).unwrap();
    assert!(record.contains("\"start\":\"template\""), "{record}");
}

#[test]
fn ppc64le_runs() {
    runs("ppc64le", "little");
}

#[test]
fn riscv64_runs() {
    runs("riscv64", "little");
}

#[test]
fn armv7l_runs() {
    runs("armv7l", "little");
}

#[test]
fn defects_of_the_module_are_found_by_the_right_tests() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let kernel = kernels::built(&sandbox, "memdev");
    let checkout = openzfs::checkout(Release::BookwormBackports).unwrap();
    let copy = copy(&sandbox, &checkout, kernel);
    let source = fs::read_to_string(copy.join(SOURCE)).unwrap();
    assert_eq!(source.matches(COMPARISON).count(), 1, "the place of the defect is not there any more");
    let selectors = ["alloc_class_011_neg", "nopwrite_sync"];

    let never_equal = source.replace(COMPARISON, &COMPARISON.replacen('(', "(B_FALSE && ", 1));
    fs::write(copy.join(SOURCE), never_equal).unwrap();
    build(&sandbox, &copy, kernel);
    let ran = suite(&sandbox, &copy, kernel, &selectors);
    assert_eq!(ran.code, 1, "{}\n{}", ran.out(), ran.stderr);
    let out = ran.out();
    assert!(lines(&out, "FAIL").iter().any(|line| line.contains("nopwrite_sync")), "{out}");
    assert!(lines(&out, "PASS").iter().any(|line| line.contains("alloc_class_011_neg")), "{out}");

    let panics = source.replace(COMPARISON, &format!("VERIFY(0);\n\t{COMPARISON}"));
    fs::write(copy.join(SOURCE), panics).unwrap();
    build(&sandbox, &copy, kernel);
    let ran = suite(&sandbox, &copy, kernel, &selectors);
    assert_eq!(ran.code, 121, "{}\n{}", ran.out(), ran.stderr);
    let told = ran.out() + &ran.stderr;
    assert!(told.contains("nopwrite_sync was running when the guest ended"), "{told}");
    assert!(lines(&told, "PASS").iter().any(|line| line.contains("alloc_class_011_neg")), "{told}");
}

#[test]
fn many_tests_of_many_groups_pass() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let kernel = kernels::built(&sandbox, "memdev");
    let checkout = openzfs::checkout(Release::BookwormBackports).unwrap();
    build(&sandbox, &checkout, kernel);
    let groups = ["hkdf", "exec", "cli_root/zpool_status", "cli_user/zpool_list", "cli_root/zpool", "cli_user/misc"];
    let ran = suite(&sandbox, &checkout, kernel, &groups);
    assert_eq!(ran.code, 0, "{}\n{}", ran.out(), ran.stderr);
    let out = ran.out();
    let passed = lines(&out, "PASS");
    let tests = passed.iter().filter(|line| !line.contains("/setup") && !line.contains("/cleanup"));
    assert!(tests.count() >= 25, "{out}");
    assert!(passed.iter().filter(|line| line.ends_with("(as tester)")).count() >= 10, "{out}");
    for group in groups {
        assert!(passed.iter().any(|line| line.contains(group)), "{group}: {out}");
    }
}

/// Each release on the distribution's kernel, which all of them support.
fn release_passes_on_the_stock_kernel(release: Release, version: &str) {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let kernel = kernels::stock(&sandbox);
    let checkout = openzfs::checkout(release).unwrap();
    build(&sandbox, &checkout, kernel);
    let script = "zpool create -f tank mirror /dev/quizm0 /dev/quizm1 && zpool status && cat /sys/module/zfs/version";
    let ran = sandbox.quiz_in(&checkout, ["-k", kernel, "-p", "zfs,memdev", "--timeout", "5m", "sh", "-c", script]);
    assert_eq!(ran.code, 0, "{}\n{}", ran.out(), ran.stderr);
    assert!(ran.out().contains("state: ONLINE") && ran.out().contains(&format!("\n{version}")), "{}", ran.out());
    let test = ["zfs", "test", "-k", kernel, "--timeout", "40m", "hkdf", "cli_user/zpool_list"];
    // One of these variables changes what the report of some releases expects.
    let ran = Ran::from(sandbox.command_in(&checkout, test).env("CI", "true").output().unwrap());
    assert_eq!(ran.code, 0, "{}\n{}", ran.out(), ran.stderr);
    let out = ran.out();
    let passed = lines(&out, "PASS");
    assert!(passed.iter().any(|line| line.contains("hkdf_test")), "{out}");
    let as_tester = |line: &&&str| line.contains("cli_user/zpool_list/zpool_list_") && line.ends_with("(as tester)");
    assert!(passed.iter().filter(as_tester).count() >= 2, "{out}");
    assert!(!ran.stderr.contains("the guest lacks programs"), "{}", ran.stderr);
    let run = quiz_testing::runs_of(&checkout).pop().unwrap();
    let log = fs::read_to_string(run.join("suite.log")).unwrap();
    let missing = log.lines().find_map(|line| line.strip_prefix("Missing util(s):")).unwrap();
    assert!(["", "dmidecode"].contains(&missing.trim()), "{missing}");
}

#[test]
fn openzfs_2_1_passes_on_the_stock_kernel() {
    release_passes_on_the_stock_kernel(Release::Bookworm, "2.1.");
}

#[test]
fn openzfs_2_3_passes_on_the_stock_kernel() {
    release_passes_on_the_stock_kernel(Release::BookwormBackports, "2.3.");
}

#[test]
fn openzfs_2_4_passes_on_the_stock_kernel() {
    release_passes_on_the_stock_kernel(Release::TrixieBackports, "2.4.");
}

#[test]
fn a_thousand_runs_and_two_hundred_that_are_killed_leave_nothing_and_tell_no_lies() {
    let place = Place::new(env!("CARGO_BIN_EXE_quiz"));
    for i in 0..1000u32 {
        let (text, code) = (format!("{i}\n"), i32::try_from(i % 7).unwrap());
        let ran = place.quiz(&["sh", "-c", &format!("echo {i}; exit {code}")]);
        assert_eq!((ran.code, ran.out()), (code, text), "run {i}: {}", ran.stderr);
        assert!(place.template_of_last_run().is_some(), "run {i} did not start from a template");
    }
    // Moments that are other ones each time, and can be had again.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut random = u64::from(now.subsec_nanos()) | 1;
    println!("the moments begin with {random}");
    for i in 0..200 {
        if i % 20 == 0 {
            place.good(&["template", "rm", "--all"]);
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut command = place.command(&["sh", "-c", "echo started; sleep 1"]);
        command.env("QUIZ_STANDBY", if i % 40 < 20 { "false" } else { "true" });
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis((random >> 33) % 1500));
        let mut below = descendants(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        // A run that is over may be seen starting a keeper, which is to outlive it.
        for keeper in below.clone().into_iter().filter(|pid| place::is_keeper(*pid)) {
            let its = descendants(keeper);
            below.retain(|pid| *pid != keeper && !its.contains(pid));
        }
        let limit = Instant::now() + Duration::from_secs(2);
        while below.iter().any(|pid| is_alive(*pid)) {
            assert!(Instant::now() < limit, "run {i}: {below:?} outlived their quiz");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    assert_eq!(place.good(&["echo", "alive"]), "alive\n");
    place.good(&["template", "rm", "--all"]);
    place.good(&["true"]);
    let mut data: Vec<_> = fs::read_dir(place.cache.join("templates/.data")).unwrap().flatten().collect();
    data.retain(|entry| fs::read_dir(entry.path()).is_ok_and(|mut made| made.next().is_some()));
    assert_eq!((place.templates().len(), place.bare_templates().len(), data.len()), (1, 1, 2));
    let limit = Instant::now() + Duration::from_secs(10);
    while place.processes() > 0 {
        assert!(Instant::now() < limit, "{} processes are left", place.processes());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_module_that_was_just_compiled_is_the_one_that_is_loaded() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let kernel = kernels::built(&sandbox, "memdev");
    let copy = copy(&sandbox, &openzfs::checkout(Release::BookwormBackports).unwrap(), kernel);
    let source = fs::read_to_string(copy.join(SOURCE)).unwrap();
    let run = || -> (String, String) {
        let show = "od -An -v -tx1 /sys/module/zfs/notes/.note.gnu.build-id | tr -d ' \\n'";
        let ran = sandbox.quiz_in(&copy, ["-k", kernel, "-p", "zfs", "--json", "sh", "-c", &format!("{show}; echo")]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let out = ran.out();
        let (id, record) = out.split_once('\n').unwrap();
        let record: serde_json::Value = serde_json::from_str(record).unwrap();
        (id.to_owned(), record["start"].as_str().unwrap().to_owned())
    };
    let mut seen = vec![run().0];
    assert_eq!(run(), (seen[0].clone(), "template".to_owned()), "nothing was compiled");
    for round in 0..2 {
        let mark = format!(
            "\nstatic const char quiz_mark[] __attribute__((__used__)) = \"{round} {:?}\";\n",
            SystemTime::now()
        );
        fs::write(copy.join(SOURCE), source.clone() + &mark).unwrap();
        build(&sandbox, &copy, kernel);
        let (id, start) = run();
        assert_eq!(start, "bare", "an edit costs no boot");
        assert!(!seen.contains(&id), "{id} was loaded before: {seen:?}");
        seen.push(id);
    }
    fs::write(copy.join(SOURCE), source).unwrap();
}

#[test]
fn kasan_finds_a_use_after_free_and_the_line_is_told() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let kernel = kernels::variant(&sandbox, "kasan");
    let source = "#include <linux/module.h>\n#include <linux/slab.h>\n\nstatic int __init late_init(void)\n{\n\
        \tchar *memory = kmalloc(100, GFP_KERNEL);\n\n\tif (!memory)\n\t\treturn -ENOMEM;\n\tkfree(memory);\n\
        \tWRITE_ONCE(memory[7], 1);\n\treturn 0;\n}\n\nmodule_init(late_init);\nMODULE_LICENSE(\"GPL\");\n";
    let line = source.lines().position(|line| line.contains("WRITE_ONCE")).unwrap() + 1;
    let dir = sandbox.worktree();
    fs::write(dir.join("late.c"), source).unwrap();
    fs::write(dir.join("Kbuild"), "obj-m := late.o\n").unwrap();
    let shown = sandbox.quiz(["--json", "kernel", "show", &kernel]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let of_dir = format!("M={}", dir.display());
    let made = Command::new("make").args(["-s", "-C", shown["kbuild"].as_str().unwrap(), &of_dir]).status().unwrap();
    assert!(made.success());
    let module = dir.join("late.ko").display().to_string();
    let ran = sandbox.quiz(["-k", &kernel, "--strict", "-m", "2G", "--timeout", "5m", "insmod", &module]);
    assert_eq!(ran.code, 121, "{}", ran.stderr);
    assert!(ran.stderr.contains("the guest's kernel reported: BUG: KASAN: slab-use-after-free in "), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("in late_init [late], late.c:{line}\n")), "{}", ran.stderr);
    assert!(fs::read_to_string(sandbox.last_run().join("oops.txt")).unwrap().contains("Allocated by task"));
}

#[test]
fn a_gigabyte_goes_into_a_vm_and_comes_back_as_it_was() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let (large, back) = (sandbox.beside("large"), sandbox.beside("back"));
    let made = Command::new("sh").args(["-c", "head -c 1G /dev/urandom > \"$0\""]).arg(&large).status().unwrap();
    assert!(made.success());
    let good = |words: &[&str]| {
        let ran = sandbox.quiz(words);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.out()
    };
    good(&["--keep=20m", "-m", "3G", "true"]);
    good(&["cp", large.to_str().unwrap(), ":/tmp/"]);
    let there = good(&["exec", "sha256sum", "/tmp/large"]);
    let here = Command::new("sha256sum").arg(&large).output().unwrap();
    let sum = |line: &str| line.split(' ').next().unwrap().to_owned();
    assert_eq!(sum(&there), sum(&String::from_utf8_lossy(&here.stdout)));
    good(&["cp", ":/tmp/large", back.to_str().unwrap()]);
    assert!(Command::new("cmp").args([&large, &back]).status().unwrap().success());
    good(&["kill"]);
}
