//! Runs that start from saved VMs: what they share, what they do not, and what happens when a
//! template is not what it was.

use std::path::Path;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use quiz_testing::place::{Place, make_useless, write_program};
use quiz_testing::{descendants, is_alive};

#[path = "template/standby.rs"]
mod standby;

fn place() -> Place {
    Place::new(env!("CARGO_BIN_EXE_quiz"))
}

#[test]
fn runs_start_from_one_template_and_are_different_machines() {
    let place = place();
    let script = "cat /proc/sys/kernel/random/uuid /etc/machine-id; hostid; od -An -N16 -tx1 /dev/urandom; date +%s; cat seen; echo; \
                  mount | grep -c ' / '; echo x > /etc/mark";
    let file = place.sandbox.worktree().join("seen");
    let run = |text: &str| {
        fs::write(&file, text).unwrap();
        let seconds = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let before = seconds();
        let out = place.good(&["sh", "-c", &format!("test ! -e /etc/mark && {{ {script}; }}")]);
        let lines: Vec<String> = out.lines().map(str::to_owned).collect();
        let date: u64 = lines[4].parse().unwrap();
        assert!((before..=seconds()).contains(&date), "{before} {date}");
        assert_eq!(lines[5], text);
        (lines[..4].to_vec(), place.template_of_last_run().expect("it started from a template"))
    };
    // Makes the template, so that what follows is quick, and says what time it is in a guest that
    // was saved some time ago.
    run("made");
    let (one, template) = run("first");
    let (two, same) = run("edited");
    assert_eq!(template, same);
    for (a, b) in one.iter().zip(&two) {
        assert_ne!(a, b);
    }
    assert_eq!(place.templates().len(), 1);
    // Evidence is whole: the boot is in it.
    let console = fs::read_to_string(place.sandbox.last_run().join("console.log")).unwrap();
    assert!(console.contains("Linux version"), "{console}");
}

#[test]
fn what_goes_into_a_template_makes_another() {
    let place = place();
    let mut seen = Vec::new();
    for options in [
        &[][..],
        &["-m", "512M"],
        &["--cpus", "1"],
        &["--append", "quiz.x=1"],
        &["-p", "memdev"],
        &["-p", "memdev:count=2"],
    ] {
        place.good(&[options, &["true"]].concat());
        let template = place.template_of_last_run().expect("it started from a template");
        assert!(!seen.contains(&template), "{options:?}");
        seen.push(template);
    }
    place.good(&["-p", "memdev:count=2", "true"]);
    assert_eq!(place.template_of_last_run(), seen.last().cloned());
    place.good(&["--cold", "true"]);
    assert_eq!(place.template_of_last_run(), None);
    place.good(&["--qemu-arg", "-d", "--qemu-arg", "unimp", "true"]);
    assert_eq!(place.template_of_last_run(), None, "an option by hand may be anything");
}

#[test]
fn disks_of_a_clone_are_its_own() {
    let place = place();
    let script = "test -z \"$(head -c 4096 /dev/disk/by-id/virtio-disk1 | tr -d '\\0')\" && echo used > /dev/disk/by-id/virtio-disk1; sync";
    for _ in 0..3 {
        place.good(&["--disk", "64M", "sh", "-c", script]);
    }
    assert!(place.template_of_last_run().is_some());
    // A kept disk has what the run before wrote, and the partitions that were made meanwhile.
    let disk = place.sandbox.beside("kept.img");
    let mut image = vec![0; 64 << 20];
    fs::write(&disk, &image).unwrap();
    let shown = disk.display().to_string();
    let partitions = || place.good(&["--disk", &shown, "cat", "/proc/partitions"]);
    assert!(!partitions().contains(" 8192 "));
    // One partition of 8 MiB behind the first MiB, of type Linux.
    image[446 + 4] = 0x83;
    image[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
    image[446 + 12..446 + 16].copy_from_slice(&16384u32.to_le_bytes());
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&disk, &image).unwrap();
    let out = partitions();
    assert!(place.template_of_last_run().is_some());
    assert!(out.lines().any(|line| line.trim_end().ends_with("1") && line.contains(" 8192 ")), "{out}");
}

#[test]
fn a_template_that_is_not_what_it_was_is_dropped_and_the_run_goes_on() {
    let place = place();
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("truncated state", |dir| {
            let file = fs::OpenOptions::new().write(true).open(dir.join("state")).unwrap();
            file.set_len(1000).unwrap();
        }),
        ("altered state", |dir| {
            let mut state = fs::read(dir.join("state")).unwrap();
            let middle = state.len() / 2;
            state[middle] ^= 0xff;
            fs::write(dir.join("state"), state).unwrap();
        }),
        ("truncated memory", |dir| {
            fs::OpenOptions::new().write(true).open(dir.join("ram")).unwrap().set_len(1 << 20).unwrap();
        }),
        ("lost memory", |dir| fs::remove_file(dir.join("ram")).unwrap()),
    ];
    for (what, damage) in damages {
        place.good(&["true"]);
        damage(&place.templates()[0]);
        let ran = place.quiz(&["echo", "alive"]);
        assert_eq!((ran.code, ran.out().as_str()), (0, "alive\n"), "{what}: {}", ran.stderr);
        assert_eq!(ran.stderr.matches("is dropped").count(), 1, "{what}: {}", ran.stderr);
        place.good(&["true"]);
        assert!(place.template_of_last_run().is_some(), "{what}: a new one is made");
    }
}

#[test]
fn a_template_that_does_not_come_to_life_is_dropped_and_the_run_boots() {
    let place = place();
    place.good(&["true"]);
    make_useless(&place.templates()[0]);
    let ran = place.quiz_with_input(&["cat"], b"input is not lost");
    assert_eq!((ran.code, ran.out().as_str()), (0, "input is not lost"), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("is dropped, and the VM boots").count(), 1, "{}", ran.stderr);
    assert_eq!(place.template_of_last_run(), None);
}

#[test]
fn a_run_that_boots_after_all_has_new_disks() {
    let place = place();
    let profile = place.sandbox.worktree().join("profiles/stamped");
    fs::create_dir_all(&profile).unwrap();
    fs::write(profile.join("profile.toml"), "about = \"x\"\nearly = true\nneeds = [\"blockdev\"]\n").unwrap();
    // Fails on a disk that has been written to.
    let init = "#!/bin/sh\ntest -z \"$(head -c 512 /dev/quizb0 | tr -d '\\0')\" && echo stamp > /dev/quizb0 && sync\n";
    write_program(&profile.join("init"), init);
    let run = ["-p", "stamped,blockdev:count=1", "head", "-c", "5", "/dev/quizb0"];
    assert_eq!(place.good(&run), "stamp");
    assert_eq!(place.good(&run), "stamp");
    assert!(place.template_of_last_run().is_some());
    make_useless(&place.templates()[0]);
    assert_eq!(place.good(&run), "stamp");
    assert_eq!(place.template_of_last_run(), None);
}

#[test]
fn a_guest_that_dies_on_its_way_up_is_booted_once() {
    let place = place();
    let (qemu, boots) = place.counting_qemu();
    let ran = place.quiz(&["--accel", "tcg", "--qemu", &qemu, "--append", "rdinit=/none init=/none", "true"]);
    assert_eq!(ran.code, 121, "{}", ran.stderr);
    assert!(ran.stderr.contains("Kernel panic"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(boots).unwrap(), "x\n");
    let dir = place.sandbox.last_run();
    assert!(fs::read_to_string(dir.join("console.log")).unwrap().contains("Kernel panic"));
    assert!(dir.join("oops.txt").exists() && dir.join("result.json").exists());
    assert!(place.all_templates().is_empty());
}

#[test]
fn what_lies_over_the_root_is_changed_without_a_boot() {
    let place = place();
    let (qemu, boots) = place.counting_qemu();
    let profile = place.sandbox.worktree().join("profiles/seen");
    fs::create_dir_all(profile.join("files/opt")).unwrap();
    fs::write(profile.join("profile.toml"), "about = \"x\"\nearly = true\n").unwrap();
    let run = |text: &str, bytes: usize| {
        fs::write(profile.join("files/opt/text"), text).unwrap();
        fs::write(profile.join("files/opt/more"), vec![b'x'; bytes]).unwrap();
        write_program(&profile.join("init"), &format!("#!/bin/sh\necho {text} > /run/said\n"));
        let show = "cat /opt/text /run/said; wc -c < /opt/more";
        let out = place.good(&["--accel", "tcg", "--qemu", &qemu, "-p", "seen", "sh", "-c", show]);
        assert_eq!(out, format!("{text}{text}\n{bytes}\n"));
        assert!(place.template_of_last_run().is_some());
        (fs::read_to_string(&boots).unwrap().lines().count(), place.templates().len())
    };
    assert_eq!(run("one", 1), (1, 1));
    assert_eq!(run("two", 4 << 20), (1, 2));
    let console = fs::read_to_string(place.sandbox.last_run().join("console.log")).unwrap();
    assert_eq!(console.matches("Linux version").count(), 1, "{console}");
    // A guest cannot be told that a disk of its has grown.
    assert_eq!(run("three", 40 << 20), (2, 3));
    // One of them is of no use any more: the run says so, and boots.
    for bare in place.bare_templates() {
        make_useless(&bare);
    }
    fs::write(profile.join("files/opt/text"), "four").unwrap();
    let ran = place.quiz(&["--accel", "tcg", "--qemu", &qemu, "-p", "seen", "cat", "/opt/text"]);
    assert_eq!((ran.code, ran.out().as_str()), (0, "four"), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("is dropped").count(), 1, "{}", ran.stderr);
    assert_eq!(run("five", 2), (4, 5));
}

#[test]
fn first_runs_at_once_make_one_template() {
    let place = place();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| place.good(&["true"]));
        }
    });
    assert_eq!(place.templates().len(), 1);
}

#[test]
fn another_qemu_at_the_same_place_does_not_resume_what_the_first_saved() {
    let place = place();
    let qemu = place.sandbox.beside("qemu");
    let run = || {
        // The same version in truth, which quiz cannot know of a file that was replaced.
        write_program(&qemu, &format!("#!/bin/sh\nexec qemu-system-{} \"$@\"\n", std::env::consts::ARCH));
        place.good(&["--qemu", &qemu.display().to_string(), "true"]);
        place.template_of_last_run().expect("it started from a template")
    };
    let first = run();
    fs::remove_file(&qemu).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_ne!(run(), first);
}

#[test]
fn without_room_for_a_template_the_run_boots() {
    let place = place();
    // Larger than any file may be.
    let mut command = std::process::Command::new("sh");
    let quiz = place.command(&["-v", "-m", "6G", "true"]);
    command.args(["-c", "ulimit -f 10000000 && exec \"$@\"", "sh"]).arg(quiz.get_program()).args(quiz.get_args());
    command.env_clear().current_dir(place.sandbox.worktree());
    for (name, value) in quiz.get_envs() {
        command.env(name, value.unwrap());
    }
    let ran: quiz_testing::Ran = command.output().unwrap().into();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(place.template_of_last_run(), None, "{}", ran.stderr);
    assert!(place.all_templates().is_empty());
}

#[test]
fn a_disk_that_is_full_while_a_vm_is_saved_costs_no_run() {
    let place = place();
    let (qemu, templates) = (place.sandbox.beside("qemu"), place.cache.join("templates"));
    fs::create_dir(&templates).unwrap();
    // There is room when the run starts, and none when QEMU does.
    let script =
        "#!/bin/sh\ncase $* in *-kernel*) head -c 1G /dev/zero > FULL/.full ;; esac\nexec qemu-system-ARCH \"$@\"\n";
    let script = script.replace("FULL", &templates.display().to_string()).replace("ARCH", std::env::consts::ARCH);
    write_program(&qemu, &script);
    let quiz =
        place.command(&["-v", "-m", "256M", "--accel", "tcg", "--qemu", qemu.to_str().unwrap(), "echo", "alive"]);
    let small = "mount -t tmpfs -o size=600M none \"$1\" && shift && exec \"$@\"";
    // A file system of its own needs a mount namespace; those who are not root get that with a user
    // namespace.
    let namespace = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let mut command = std::process::Command::new("unshare");
    command.args([namespace, "sh", "-c", small, "sh"]).arg(&templates).arg(quiz.get_program()).args(quiz.get_args());
    command.env_clear().current_dir(place.sandbox.worktree());
    for (name, value) in quiz.get_envs() {
        command.env(name, value.unwrap());
    }
    let ran: quiz_testing::Ran = command.output().unwrap().into();
    assert_eq!((ran.code, ran.out().lines().next()), (0, Some("alive")), "{}", ran.stderr);
    assert!(ran.stderr.contains("no template was made: "), "{}", ran.stderr);
    assert_eq!(place.template_of_last_run(), None);
}

#[test]
fn killed_at_any_moment_nothing_is_left_and_nothing_is_broken() {
    let place = place();
    for i in 0..24u64 {
        if i % 8 == 0 {
            // From the beginning: the template is made.
            place.good(&["template", "rm", "--all"]);
        }
        let mut child = place.sandbox.start(&mut place.command(&["sleep", "30"]));
        std::thread::sleep(Duration::from_millis(20 + 97 * i % 900));
        let below = descendants(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        let gone = SystemTime::now() + Duration::from_secs(2);
        while below.iter().any(|pid| is_alive(*pid)) {
            assert!(SystemTime::now() < gone, "{below:?} outlived their quiz");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    place.good(&["true"]);
    assert!(place.template_of_last_run().is_some());
    assert_eq!((place.templates().len(), place.bare_templates().len()), (1, 1));
    // What the killed ones had begun was swept.
    let data: Vec<_> = fs::read_dir(place.cache.join("templates/.data")).unwrap().flatten().collect();
    let made: usize = data.iter().map(|entry| fs::read_dir(entry.path()).unwrap().count()).sum();
    assert_eq!(made, 2);
}

#[test]
fn a_panic_of_a_clone_is_its_own() {
    let place = place();
    place.good(&["true"]);
    let template = place.template_of_last_run();
    let ran = place.quiz(&["sh", "-c", "echo kept > /quiz/out/x; sync; echo c > /proc/sysrq-trigger"]);
    assert_eq!(ran.code, 121, "{}", ran.stderr);
    assert_eq!(fs::read_to_string(place.sandbox.last_run().join("artifacts/x")).unwrap(), "kept\n");
    place.good(&["true"]);
    assert_eq!(place.template_of_last_run(), template);
}
