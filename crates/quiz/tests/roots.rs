//! Roots that are made in a VM, with a cache of their own. Of the host's own architecture only;
//! another one is untried.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use quiz_testing::place::{Place, write_program};
use quiz_testing::{Ran, Sandbox, descendants, is_alive};

/// A place whose cache has the user's kernels and no root.
fn place() -> Place {
    let place = Place::new(env!("CARGO_BIN_EXE_quiz"));
    for shelf in ["roots", "logs"] {
        // A link into the user's cache; what is made here stays here.
        fs::remove_file(place.cache.join(shelf)).ok();
    }
    place
}

fn build(place: &Place, arguments: &[&str]) -> Command {
    place.command(&[&["root", "build", "--builder", "vm"][..], arguments].concat())
}

/// What is on the shelf of roots, but for locks.
fn left(place: &Place) -> Vec<PathBuf> {
    let below = walkdir(&place.cache.join("roots"));
    below.into_iter().filter(|path| !path.components().any(|part| part.as_os_str() == ".locks")).collect()
}

fn walkdir(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = item.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(walkdir(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Starts making a root and sends `signal` to quiz as soon as packages are installed in the VM. How
/// it ended, and the VM's process.
fn interrupted(place: &Place, signal: libc::c_int) -> (std::process::ExitStatus, Vec<u32>) {
    let log = place.cache.join("logs/root-bookworm-x86_64.log");
    // Of the one before.
    fs::remove_file(&log).ok();
    let mut quiz = build(place, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = quiz.stderr.take().unwrap();
    let until = Instant::now() + Duration::from_secs(900);
    let drain = std::thread::spawn(move || {
        let mut lines = String::new();
        BufReader::new(said).read_to_string(&mut lines).ok();
        lines
    });
    loop {
        let begun = fs::read_to_string(&log).is_ok_and(|text| text.contains("\nSetting up "));
        if begun {
            break;
        }
        if let Some(status) = quiz.try_wait().unwrap() {
            panic!("it ended with {status}: {}", drain.join().unwrap());
        }
        assert!(Instant::now() < until, "no package was configured: {:?}", fs::read_to_string(&log));
        std::thread::sleep(Duration::from_millis(100));
    }
    let vms: Vec<u32> = descendants(quiz.id());
    assert!(!vms.is_empty());
    // SAFETY: the process is a child of ours that was not waited for.
    assert_eq!(unsafe { libc::kill(quiz.id() as libc::pid_t, signal) }, 0);
    let status = quiz.wait().unwrap();
    drain.join().unwrap();
    (status, vms)
}

fn all_gone(pids: &[u32]) -> bool {
    let until = Instant::now() + Duration::from_secs(10);
    while pids.iter().any(|pid| is_alive(*pid)) {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

/// A repository with one package, whose script fails.
fn repository(dir: &Path) -> String {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    let control = "Package: quiz-broken\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: fails\n";
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    write_program(&tree.join("DEBIAN/postinst"), "#!/bin/sh\necho 'error: the flux is out of balance'\nexit 3\n");
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let repository = dir.join("repository");
    fs::create_dir(&repository).unwrap();
    let deb = repository.join("quiz-broken.deb");
    run(Command::new("dpkg-deb").args(["--root-owner-group", "-b"]).arg(&tree).arg(&deb));
    let sum = run(Command::new("sha256sum").arg(&deb));
    let size = fs::metadata(&deb).unwrap().len();
    let index = format!("{control}Filename: ./quiz-broken.deb\nSize: {size}\nSHA256: {}\n", &sum[..64]);
    fs::write(repository.join("Packages"), index).unwrap();
    format!("deb [trusted=yes] file:{} ./", repository.display())
}

#[test]
fn one_that_is_interrupted_leaves_nothing_and_one_that_is_not_serves() {
    let place = place();
    let (status, vms) = interrupted(&place, libc::SIGINT);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGINT), "{status}");
    assert!(all_gone(&vms));
    assert_eq!(left(&place), Vec::<PathBuf>::new());

    let (status, vms) = interrupted(&place, libc::SIGKILL);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL), "{status}");
    assert!(all_gone(&vms));
    assert!(!place.cache.join("roots/bookworm-x86_64").exists());
    assert_eq!(
        place.quiz(&["root", "list"]).out(),
        "no roots; `quiz root build` makes one, and so does the first run\n"
    );

    // The first run makes it, and says why so.
    let mut run = place.command(&["--cold", "--timeout", "1m", "sh", "-c", CHECK]);
    let ran: Ran = run.env("QUIZ_ROOT_BUILDER", "vm").output().unwrap().into();
    assert_eq!((ran.code, ran.out().as_str()), (0, "good\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("quiz: making the root bookworm-x86_64 in a VM\n"), "{}", ran.stderr);
    // What was killed has left nothing either, by now.
    let names: Vec<PathBuf> = left(&place).iter().map(|path| path.file_name().unwrap().into()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    for name in ["bookworm-x86_64", "manifest.json", "root.squashfs", ".in-use"] {
        assert!(names.contains(&name.into()), "{name} is not among {names:?}");
    }
    let there = build(&place, &[]).output().unwrap();
    assert!(String::from_utf8_lossy(&there.stderr).contains("is there already"), "{there:?}");
}

/// Owners, set-uid programs, links and dpkg's own account are right.
const CHECK: &str = "set -e
test -z \"$(dpkg --audit)\"
test \"$(dpkg-query -f '${db:Status-Status}\\n' -W | sort -u)\" = installed
test \"$(stat -c '%U:%G %a' / /usr/bin/su /etc/shadow /usr/bin/chage | tr '\\n' ';')\" = 'root:root 755;root:root 4755;root:shadow 640;root:shadow 2755;'
test \"$(readlink /bin)\" = usr/bin
test ! -e /usr/sbin/policy-rc.d
python3 -c 'import os'
echo good";

#[test]
fn a_package_whose_script_fails_is_named_with_the_place_of_the_log() {
    let place = place();
    let line = repository(&place.sandbox.beside("packages"));
    let mirrors = ["--mirror", "http://deb.debian.org/debian", "--mirror", &line, "--package", "quiz-broken"];
    let failed: Ran = build(&place, &mirrors).output().unwrap().into();
    assert_eq!(failed.code, 125, "{}", failed.stderr);
    let told =
        failed.stderr.lines().skip_while(|line| !line.starts_with("quiz: error:")).collect::<Vec<_>>().join("\n");
    assert!(told.contains("in a VM: the programs of its packages failed"), "{told}");
    assert!(told.contains("quiz-broken") && told.contains("the flux is out of balance"), "{told}");
    let log = told.lines().find_map(|line| line.strip_prefix("the whole log is ")).expect(&told);
    assert!(fs::File::open(log).is_ok_and(|file| BufReader::new(file).lines().count() > 100), "{log}");
    assert_eq!(left(&place), Vec::<PathBuf>::new());
}

/// Quiz with an mmdebstrap that says why it cannot work, and a mirror that is not there.
fn with_mmdebstrap(sandbox: &Sandbox, says: &str, arguments: &[&str]) -> Ran {
    let bin = sandbox.beside("bin");
    fs::create_dir_all(&bin).unwrap();
    write_program(&bin.join("mmdebstrap"), &format!("#!/bin/sh\necho '{says}' >&2\nexit 25\n"));
    let mirror = ["--mirror", "file:/nonexistent/debian", "--package", "quiz-none"];
    let mut command = sandbox.command([&["root", "build"][..], &mirror, arguments].concat());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).output().unwrap().into()
}

#[test]
fn mmdebstrap_that_cannot_work_here_gives_way_and_one_that_fails_does_not() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    for says in ["E: unable to pick chroot mode automatically", "E: cannot find newuidmap", "E: install arch-test"] {
        let ran = with_mmdebstrap(&sandbox, says, &[]);
        assert_eq!(ran.code, 125, "{}", ran.stderr);
        let why = says.trim_start_matches("E: ");
        assert!(ran.stderr.contains(&format!("in a VM: mmdebstrap cannot work here: {why}\n")), "{}", ran.stderr);
        assert!(ran.stderr.contains("/nonexistent/debian"), "{}", ran.stderr);
    }
    let forced = with_mmdebstrap(&sandbox, "E: unable to pick chroot mode", &["--builder", "mmdebstrap"]);
    assert!(!forced.stderr.contains("in a VM") && forced.stderr.contains("--add-subuids"), "{}", forced.stderr);
    let failed = with_mmdebstrap(&sandbox, "E: the mirror is on fire", &[]);
    assert!(!failed.stderr.contains("in a VM") && failed.stderr.contains("on fire"), "{}", failed.stderr);
    let other = with_mmdebstrap(&sandbox, "", &["--builder", "vm"]);
    assert!(other.stderr.contains("in a VM\n") && other.stderr.contains("/nonexistent/debian"), "{}", other.stderr);
}

#[test]
fn what_makes_roots_is_one_of_three() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let refused = sandbox.quiz(["root", "build", "--builder", "debootstrap"]);
    assert_eq!(refused.code, 125, "{}", refused.stderr);
    assert!(refused.stderr.contains("auto, mmdebstrap, vm"), "{}", refused.stderr);
    let mut command = sandbox.command(["root", "build"]);
    let refused: Ran = command.env("QUIZ_ROOT_BUILDER", "debootstrap").output().unwrap().into();
    assert!(refused.stderr.contains("QUIZ_ROOT_BUILDER"), "{}", refused.stderr);
}
