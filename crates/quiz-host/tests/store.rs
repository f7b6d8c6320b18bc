//! Tries to break promise P8: a cache entry is whole or absent.

use fs_err as fs;
use quiz_host::report::{Progress, Report, Silent, Unit};
use quiz_host::store::{Cache, Shelf, StoreError};
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, StoreError>;

/// Keeps what was said.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Report for Lines {
    fn say(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
    fn start(&self, what: &str, total: Option<u64>, unit: Unit) -> Box<dyn Progress> {
        Silent.start(what, total, unit)
    }
}

fn shelf(dir: &Path) -> Shelf {
    Cache::at(dir.to_owned()).shelf("kernels")
}

/// Builds an entry of two files that must agree.
fn build(shelf: &Shelf, name: &str, text: &str, replace: bool) -> Result<quiz_host::Entry> {
    shelf.build(name, "testing", replace, &Silent, |dir| {
        fs::write(dir.join("a"), text).unwrap();
        fs::write(dir.join("b"), text).unwrap();
        Ok::<_, StoreError>(text)
    })
}

fn text(entry: &quiz_host::Entry) -> String {
    let a = fs::read_to_string(entry.dir().join("a")).unwrap();
    assert_eq!(a, fs::read_to_string(entry.dir().join("b")).unwrap());
    assert_eq!(a, entry.manifest::<String>().unwrap());
    a
}

fn directories(shelf: &Shelf, name: &str) -> usize {
    fs::read_dir(shelf.dir().join(".data").join(name)).map_or(0, Iterator::count)
}

/// Starts this same test in another process, where `QUIZ_TEST_ROLE` makes it play `role` in `dir`,
/// and waits for its first line.
fn other(test: &str, role: &str, dir: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("QUIZ_TEST_ROLE", role)
        .env("QUIZ_TEST_DIR", dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.by_ref().map_while(std::result::Result::ok).any(|l| l == "ready"), "the other process failed");
    child
}

fn role() -> Option<(String, std::path::PathBuf)> {
    Some((std::env::var("QUIZ_TEST_ROLE").ok()?, std::env::var_os("QUIZ_TEST_DIR").map(OsString::into)?))
}

fn ready_and_wait() -> ! {
    eprintln!("ready");
    std::thread::sleep(Duration::from_secs(60));
    unreachable!("should have been killed");
}

#[test]
fn an_entry_is_built_found_replaced_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    assert_eq!(shelf.names().unwrap(), [""; 0]);
    assert!(shelf.open("6.12").unwrap().is_none());
    assert!(matches!(shelf.remove("6.12"), Err(StoreError::Absent { .. })));
    drop(build(&shelf, "6.12", "one", false).unwrap());
    assert_eq!(text(&build(&shelf, "6.12", "two", false).unwrap()), "one", "it was there");
    assert_eq!(text(&build(&shelf, "6.12", "three", true).unwrap()), "three");
    let entry = shelf.open("6.12").unwrap().unwrap();
    assert_eq!((entry.name(), text(&entry).as_str()), ("6.12", "three"));
    assert_eq!(fs::canonicalize(entry.link()).unwrap(), fs::canonicalize(entry.dir()).unwrap());
    drop(entry);
    assert_eq!(shelf.names().unwrap(), ["6.12"]);
    assert_eq!(directories(&shelf, "6.12"), 1, "the replaced ones are gone");
    shelf.remove("6.12").unwrap();
    assert_eq!(shelf.names().unwrap(), [""; 0]);
    assert_eq!(directories(&shelf, "6.12"), 0);
}

#[test]
fn a_failing_builder_keeps_the_old_entry_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    let fail = |dir: &Path| {
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/half"), "half").unwrap();
        // As kernel builds leave them.
        fs::set_permissions(dir.join("sub"), std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        Err::<(), _>(StoreError::Io { doing: "write half".to_owned(), cause: full })
    };
    let error = shelf.build("x", "testing", false, &Silent, fail).unwrap_err();
    assert!(error.to_string().contains("free some space"), "{error}");
    assert!(shelf.open("x").unwrap().is_none());
    assert_eq!(directories(&shelf, "x"), 0);

    drop(build(&shelf, "x", "old", false).unwrap());
    shelf.build("x", "testing", true, &Silent, fail).unwrap_err();
    assert_eq!(text(&shelf.open("x").unwrap().unwrap()), "old");
    let panicked = std::panic::catch_unwind(|| {
        shelf.build("x", "testing", true, &Silent, |dir| -> Result<()> {
            fs::write(dir.join("a"), "half").unwrap();
            panic!("a bug in a builder");
        })
    });
    assert!(panicked.is_err());
    assert_eq!(text(&shelf.open("x").unwrap().unwrap()), "old");
    assert_eq!(directories(&shelf, "x"), 1);
}

#[test]
fn a_really_full_disk_leaves_nothing() {
    // /dev/full says ENOSPC like a full disk does.
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    let error = shelf
        .build("x", "testing", false, &Silent, |dir| {
            fs_err::os::unix::fs::symlink("/dev/full", dir.join("manifest.json")).unwrap();
            Ok::<_, StoreError>("text")
        })
        .unwrap_err();
    assert!(error.to_string().contains("free some space"), "{error}");
    assert!(shelf.open("x").unwrap().is_none());
    assert_eq!(directories(&shelf, "x"), 0);
}

#[test]
fn a_killed_builder_leaves_nothing_visible_and_is_swept() {
    if let Some((role, dir)) = role() {
        assert_eq!(role, "builder");
        let built = shelf(&dir).build("x", "building for ever", true, &Silent, |dir| -> Result<()> {
            fs::write(dir.join("a"), "half").unwrap();
            ready_and_wait()
        });
        panic!("built {built:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    let this = "a_killed_builder_leaves_nothing_visible_and_is_swept";
    for old in [None, Some("old")] {
        let mut builder = other(this, "builder", dir.path());
        assert!(shelf.open("x").unwrap().map(|e| text(&e)).as_deref() == old);
        // Others are not held up by it, nor is its work swept under its feet.
        drop(build(&shelf, "y", "other", true).unwrap());
        assert_eq!(directories(&shelf, "x"), 1 + usize::from(old.is_some()));
        if old.is_some() {
            assert!(matches!(shelf.remove("x"), Err(StoreError::InUse { pids, .. }) if pids == [builder.id()]));
        }
        builder.kill().unwrap();
        builder.wait().unwrap();
        assert!(shelf.open("x").unwrap().map(|e| text(&e)).as_deref() == old);
        assert_eq!(directories(&shelf, "x"), 1 + usize::from(old.is_some()));
        drop(build(&shelf, "x", "old", true).unwrap());
        assert_eq!(directories(&shelf, "x"), 1);
    }
    // Any builder cleans up, not only the next of that name.
    let mut builder = other(this, "builder", dir.path());
    builder.kill().unwrap();
    builder.wait().unwrap();
    drop(build(&shelf, "y", "other", true).unwrap());
    assert_eq!(directories(&shelf, "x"), 1);
}

#[test]
fn who_waits_says_for_whom_and_takes_what_was_made() {
    if let Some((_, dir)) = role() {
        let built = shelf(&dir).build("x", "building kernel x", false, &Silent, |dir| {
            eprintln!("ready");
            std::thread::sleep(Duration::from_millis(600));
            fs::write(dir.join("a"), "theirs").unwrap();
            fs::write(dir.join("b"), "theirs").unwrap();
            Ok::<_, StoreError>("theirs")
        });
        built.unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut builder = other("who_waits_says_for_whom_and_takes_what_was_made", "builder", dir.path());
    let lines = Lines::default();
    let entry = shelf(dir.path())
        .build("x", "testing", false, &lines, |_| -> Result<()> { panic!("must not build again") })
        .unwrap();
    assert_eq!(text(&entry), "theirs");
    let said = lines.0.into_inner().unwrap();
    assert_eq!(said, [format!("waiting for quiz (pid {}), which is building kernel x", builder.id())]);
    assert!(builder.wait().unwrap().success());
}

#[test]
fn an_entry_is_made_again_only_where_none_fits() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    let make = |wanted: &str| {
        let mut made = false;
        let fits = |entry: &quiz_host::Entry| entry.manifest::<String>().is_ok_and(|text| text == wanted);
        let entry = shelf.build_unless("x", "testing", &fits, &Silent, |dir| {
            made = true;
            fs::write(dir.join("a"), wanted).unwrap();
            fs::write(dir.join("b"), wanted).unwrap();
            Ok::<_, StoreError>(wanted)
        });
        assert_eq!(text(&entry.unwrap()), wanted);
        made
    };
    assert_eq!([make("one"), make("one"), make("two"), make("two"), make("one")], [true, false, true, false, true]);
}

#[test]
fn who_wants_a_new_one_takes_what_another_makes_meanwhile_but_not_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    drop(build(&shelf, "x", "old", true).unwrap());
    let built = AtomicUsize::new(0);
    let (begun, go) = (std::sync::Barrier::new(8), std::sync::Barrier::new(8));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let newer = shelf.newer("x");
                begun.wait();
                let entry = shelf.build_unless("x", "testing", &newer, &Silent, |dir| {
                    built.fetch_add(1, Ordering::Relaxed);
                    fs::write(dir.join("a"), "new").unwrap();
                    fs::write(dir.join("b"), "new").unwrap();
                    Ok::<_, StoreError>("new")
                });
                assert_eq!(text(&entry.unwrap()), "new");
                go.wait();
            });
        }
    });
    assert_eq!(built.load(Ordering::Relaxed), 1);
    // The next one who wants a new one gets it.
    let newer = shelf.newer("x");
    let entry = shelf.build_unless("x", "testing", &newer, &Silent, |dir| {
        built.fetch_add(1, Ordering::Relaxed);
        fs::write(dir.join("a"), "newest").unwrap();
        fs::write(dir.join("b"), "newest").unwrap();
        Ok::<_, StoreError>("newest")
    });
    assert_eq!((text(&entry.unwrap()).as_str(), built.load(Ordering::Relaxed)), ("newest", 2));
}

#[test]
fn who_waits_for_a_builder_that_is_killed_builds() {
    let this = "who_waits_for_a_builder_that_is_killed_builds";
    if let Some((_, dir)) = role() {
        let built = shelf(&dir).build("x", "building for ever", false, &Silent, |_| -> Result<()> { ready_and_wait() });
        panic!("built {built:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut builder = other(this, "builder", dir.path());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let lines = Lines::default();
            let entry = shelf(dir.path()).build("x", "testing", false, &lines, |dir| {
                fs::write(dir.join("a"), "ours").unwrap();
                fs::write(dir.join("b"), "ours").unwrap();
                Ok::<_, StoreError>("ours")
            });
            (text(&entry.unwrap()), lines.0.into_inner().unwrap())
        });
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished());
        builder.kill().unwrap();
        builder.wait().unwrap();
        let said = format!("waiting for quiz (pid {}), which is building for ever", builder.id());
        assert_eq!(waiting.join().unwrap(), ("ours".to_owned(), vec![said]));
    });
}

#[test]
fn eight_at_once_build_once() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    let built = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let entry = shelf
                    .build("x", "testing", false, &Silent, |dir| {
                        built.fetch_add(1, Ordering::Relaxed);
                        fs::write(dir.join("a"), "1").unwrap();
                        std::thread::sleep(Duration::from_millis(50));
                        fs::write(dir.join("b"), "1").unwrap();
                        Ok::<_, StoreError>("1")
                    })
                    .unwrap();
                assert_eq!(text(&entry), "1");
            });
        }
    });
    assert_eq!(built.into_inner(), 1);
}

#[test]
fn an_entry_in_use_is_not_removed_and_outlives_its_replacement() {
    if let Some((_, dir)) = role() {
        let entry = shelf(&dir).open("x").unwrap();
        assert!(entry.is_some());
        ready_and_wait();
    }
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    drop(build(&shelf, "x", "old", false).unwrap());
    let mut user = other("an_entry_in_use_is_not_removed_and_outlives_its_replacement", "user", dir.path());
    let error = shelf.remove("x").unwrap_err();
    assert!(error.to_string().contains(&format!("in use by process {}", user.id())), "{error}");

    let mine = shelf.open("x").unwrap().unwrap();
    drop(build(&shelf, "x", "new", true).unwrap());
    assert_eq!(text(&mine), "old", "under its path, although replaced");
    assert_eq!(text(&shelf.open("x").unwrap().unwrap()), "new");
    shelf.remove("x").expect("nobody uses the new one");
    assert_eq!(directories(&shelf, "x"), 1);
    drop(mine);
    user.kill().unwrap();
    user.wait().unwrap();
    drop(build(&shelf, "y", "other", false).unwrap());
    assert_eq!(directories(&shelf, "x"), 0);
}

#[test]
fn readers_see_one_or_the_other_while_entries_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    drop(build(&shelf, "x", "0", false).unwrap());
    let end = Instant::now() + Duration::from_millis(700);
    let seen = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while Instant::now() < end {
                    if let Some(entry) = shelf.open("x").unwrap() {
                        text(&entry);
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        scope.spawn(|| {
            for n in 1.. {
                if Instant::now() >= end {
                    break;
                }
                drop(build(&shelf, "x", &n.to_string(), true).unwrap());
                match shelf.remove("x") {
                    Ok(()) | Err(StoreError::InUse { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        });
    });
    assert!(seen.into_inner() > 0);
    drop(build(&shelf, "x", "last", true).unwrap());
    assert_eq!(directories(&shelf, "x"), 1);
}

#[test]
fn names_cannot_lead_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    for name in ["", ".", "..", ".data", "a/b", "../x", "a\0b", "a b", &"x".repeat(201)] {
        assert!(matches!(shelf.open(name), Err(StoreError::BadName { .. })), "{name:?}");
        assert!(matches!(build(&shelf, name, "", false), Err(StoreError::BadName { .. })), "{name:?}");
        assert!(matches!(shelf.remove(name), Err(StoreError::BadName { .. })), "{name:?}");
    }
    // A link that somebody else put there is not an entry.
    fs::create_dir_all(shelf.dir()).unwrap();
    fs_err::os::unix::fs::symlink("/etc", shelf.dir().join("etc")).unwrap();
    assert!(shelf.open("etc").unwrap().is_none());
    assert_eq!(shelf.names().unwrap(), [""; 0]);
}

#[test]
fn an_unreadable_manifest_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    let entry = build(&shelf, "x", "text", false).unwrap();
    fs::write(entry.dir().join("manifest.json"), "{").unwrap();
    let error = entry.manifest::<String>().unwrap_err().to_string();
    assert!(error.contains("manifest.json") && error.contains("remove the entry"), "{error}");
}
