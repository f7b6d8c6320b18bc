//! Whole ways from a checkout to an install tree, on a miniature of OpenZFS.

mod fake;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use fake::{Place, edit_in, edit_of, module};
use fs_err as fs;
use quiz_host::{Environment, Silent};
use quiz_zfs::{load, stage};

fn readelf(args: &[&str], path: &Path) -> String {
    let output = Command::new("readelf").args(args).arg(path).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn builds_for_two_kernels_live_side_by_side_and_leave_the_checkout_alone() {
    let place = Place::new();
    let before = place.snapshot();
    let (old, new) = (place.kernel("6.1.5"), place.kernel("6.12.7"));
    for kernel in [&old, &new] {
        place.make(kernel);
        let staged = place.stage(kernel);
        let release = &kernel.manifest.release;
        assert!(staged.build.ends_with(format!(".quiz/build/{release}")));
        assert!(staged.modules.join("lib/modules").join(release).join("modules.dep").exists());
    }
    assert_eq!(place.snapshot(), before);
    assert_eq!(place.stage(&old).modules_changed, 0, "untouched by the other");
    // What is known about a kernel is asked once.
    let answer = |kernel: &quiz_kernel::Kernel| {
        fs::read_to_string(place.path(".quiz/build").join(&kernel.manifest.release).join("answer")).unwrap()
    };
    assert_eq!(answer(&old), "asked\n");
    place.build(&old, |b| b.configure(None)).unwrap();
    assert_eq!(answer(&old), "known\n");
    fs::write(place.path("config/kernel.m4"), "another test").unwrap();
    place.build(&old, |b| b.configure(None)).unwrap();
    assert_eq!(answer(&old), "asked\n", "a test was edited");
    assert!(place.build(&new, |b| b.clean()).unwrap());
    assert!(!place.build(&new, |b| b.clean()).unwrap());
    let error = stage(&place.checkout(), &new, &Environment::default(), &Silent).unwrap_err().to_string();
    assert!(error.contains("is not compiled for kernel 6.12.7-quiz; it is for 6.1.5-quiz in "), "{error}");
    assert!(error.contains("`quiz zfs -k 6.12.7-quiz` compiles it, and -k 6.1.5-quiz runs what there is"), "{error}");
}

#[test]
fn the_arguments_of_configure_are_kept_and_a_kernel_that_was_built_again_is_noticed() {
    let place = Place::new();
    let kernel = place.kernel("6.1.5");
    let args = || fs::read_to_string(place.path(".quiz/build/6.1.5-quiz/args")).unwrap();
    place.build(&kernel, |b| b.configure(Some(vec!["--enable-debug".to_owned(), "CFLAGS=-O0 -g".to_owned()]))).unwrap();
    assert!(args().contains("\n--enable-debug\nCFLAGS=-O0 -g\n") && args().contains("--prefix=/usr\n"), "{}", args());
    assert!(
        args().contains("--disable-static\n") && !args().contains("--disable-systemd"),
        "only what it knows: {}",
        args()
    );
    place.make(&kernel);
    let module = place.path(".quiz/build/6.1.5-quiz/module/zfs.ko");
    let compiled = fs::metadata(&module).unwrap().modified().unwrap();
    fs::write(place.path(".quiz/build/6.1.5-quiz/args"), "not run again").unwrap();
    fs::write(place.path(".quiz/build/6.1.5-quiz/module/.zfs.o.cmd"), "").unwrap();
    place.make(&kernel);
    assert_eq!(args(), "not run again");
    let rebuilt = place.kernel("6.1.5");
    assert_ne!(rebuilt.identity(), kernel.identity());
    place.make(&rebuilt);
    assert!(args().contains("\n--enable-debug\n"), "{}", args());
    assert!(!place.path(".quiz/build/6.1.5-quiz/module/.zfs.o.cmd").exists(), "kbuild compiles it again");
    assert!(fs::metadata(&module).unwrap().modified().unwrap() >= compiled);
}

#[test]
fn configuring_again_to_the_same_end_compiles_nothing_again() {
    let place = Place::new();
    let kernel = place.kernel("6.1.5");
    place.make(&kernel);
    let time = || fs::metadata(place.path(".quiz/build/6.1.5-quiz/zfs_config.h")).unwrap().modified().unwrap();
    let first = time();
    std::thread::sleep(Duration::from_millis(20));
    place.build(&kernel, |b| b.configure(None)).unwrap();
    assert_eq!(time(), first);
    place.build(&kernel, |b| b.configure(Some(vec!["CFLAGS=-O0".to_owned()]))).unwrap();
    assert!(time() > first, "objects have to be made anew, though the header is the same");
}

#[test]
fn what_cannot_be_built_is_said_before_anything_is_touched() {
    let place = Place::new();
    let kernel = place.kernel("6.18.2");
    let error = place.build(&kernel, |b| b.make(&[])).unwrap_err().to_string();
    assert!(
        error.contains(
            "OpenZFS 9.9.9 is for kernels 4.18 to 6.14, and kernel 6.18.2 is too new; `quiz zfs configure --enable"
        ),
        "{error}"
    );
    assert!(!place.path(".quiz").exists());
    place.build(&kernel, |b| b.configure(Some(vec!["--enable-linux-experimental".to_owned()]))).unwrap();
    let bare = place.kernel("6.1.9");
    fs::remove_dir_all(bare.dir().join("kbuild")).unwrap();
    let error = place.build(&bare, |b| b.configure(None)).unwrap_err().to_string();
    assert!(error.contains("has no build tree for modules"), "{error}");
    let broken = place.kernel("6.1.10");
    fs::remove_file(broken.dir().join("kbuild/release")).unwrap();
    let error = place.build(&broken, |b| b.configure(None)).unwrap_err().to_string();
    assert!(
        error
            .starts_with("cannot configure OpenZFS 9.9.9 for 6.1.10-quiz:\n  configure: error: \n  \t*** no kernel in"),
        "{error}"
    );
}

#[test]
fn a_compilers_error_is_told_first_and_the_old_build_stays() {
    let place = Place::new();
    let kernel = place.kernel("6.1.5");
    place.make(&kernel);
    place.stage(&kernel);
    place.write("module/zfs.c", "int broken(void) { return nope; }\n");
    let error = place.build(&kernel, |b| b.make(&[])).unwrap_err().to_string();
    assert!(error.starts_with("cannot build OpenZFS 9.9.9 for 6.1.5-quiz:\n  module/zfs.c: In function "), "{error}");
    assert!(error.contains("module/zfs.c:1:27: error: ") && error.contains("make.log"), "{error}");
    assert_eq!(edit_of(&place.stage(&kernel), "zfs.ko"), "0");
}

#[test]
fn only_what_was_compiled_again_is_brought_up_to_date() {
    let place = Place::new();
    let kernel = place.kernel("6.1.5");
    place.make(&kernel);
    let first = place.stage(&kernel);
    assert_eq!((first.modules_changed, first.tools_changed), (2, 5));
    let second = place.stage(&kernel);
    assert_eq!((second.modules_changed, second.tools_changed), (0, 0));
    assert_eq!((&second.modules, &second.tools), (&first.modules, &first.tools));

    // A library that is linked again, and is what it was. Nothing that an image may be made of is
    // touched.
    place.write("lib/libzfs.c", "int zfs_answer(void) { return 42; }\n");
    place.make(&kernel);
    let library = second.tools.join("usr/lib/libzfs.so.1.0.0");
    let changed = || fs::metadata(&library).unwrap().ctime_nsec();
    let before = changed();
    let relinked = place.stage(&kernel);
    assert_eq!((relinked.tools_changed, &relinked.tools, changed()), (0, &first.tools, before));

    // A plain make in the build directory.
    place.write("module/zfs.c", &module("zfs", "spl", "1"));
    place.run(".quiz/build/6.1.5-quiz", &["make"]);
    let third = place.stage(&kernel);
    assert_eq!((third.modules_changed, third.tools_changed), (1, 0));
    assert_eq!((edit_of(&third, "zfs.ko"), edit_of(&third, "spl.ko")), ("1".to_owned(), "0".to_owned()));
    assert_eq!(third.tools, first.tools);
    assert_eq!(edit_of(&first, "zfs.ko"), "0", "whoever was given the old tree still has it");

    // The index is made anew when a module needs something else.
    let dep = |staged: &quiz_zfs::Staged| {
        fs::read_to_string(staged.modules.join("lib/modules/6.1.5-quiz/modules.alias")).unwrap()
    };
    assert!(!dep(&third).contains("devname"));
    place.write("module/zfs.c", &(module("zfs", "spl", "2") + "FIELD(z, \"alias=devname:zfs\");\n"));
    place.make(&kernel);
    let fourth = place.stage(&kernel);
    assert!(dep(&fourth).contains("devname:zfs"), "{}", dep(&fourth));

    // A script is not compiled at all.
    place.write("tests/functional/atime/setup.ksh", "#!/bin/ksh\nlog_pass\n");
    let fifth = place.stage(&kernel);
    assert_eq!((fifth.modules_changed, fifth.tools_changed), (0, 1));
    let script = fifth.suite.join("usr/share/zfs/zfs-tests/functional/atime/setup.ksh");
    assert!(fs::read_to_string(script).unwrap().contains("log_pass"));

    // What the installation makes itself is made anew with what it may be made of.
    place.write("common.sh.in", "export MODE=intree NEW=1\n");
    place.make(&kernel);
    let sixth = place.stage(&kernel);
    assert_eq!(
        fs::read_to_string(sixth.suite.join("usr/share/zfs/common.sh")).unwrap(),
        "export MODE=installed NEW=1\n"
    );

    // A test that is gone is installed no more.
    fs::remove_file(place.path("tests/functional/atime/setup.ksh")).unwrap();
    place.make(&kernel);
    assert!(!place.stage(&kernel).suite.join("usr/share/zfs/zfs-tests/functional/atime/setup.ksh").exists());
}

#[test]
fn the_tree_is_what_a_guest_needs() {
    let place = Place::new();
    let kernel = place.kernel("6.1.5");
    place.make(&kernel);
    let staged = place.stage(&kernel);
    for file in &staged.files {
        assert!(!readelf(&["-S", "-W"], file).contains(".debug_info"), "{}", file.display());
    }
    assert!(readelf(&["-S", "-W"], &place.path(".quiz/build/6.1.5-quiz/module/zfs.ko")).contains(".debug_info"));
    let library = staged.tools.join("usr/lib/libzfs.so.1.0.0");
    assert!(readelf(&["-d", "-W"], &place.path(".quiz/build/6.1.5-quiz/.libs/libzfs.so.1.0.0")).contains("RUNPATH"));
    assert!(!readelf(&["-d", "-W"], &library).contains("RUNPATH"));
    assert_eq!(fs::read_link(staged.tools.join("usr/lib/libzfs.so.1")).unwrap(), Path::new("libzfs.so.1.0.0"));
    let ran =
        Command::new(staged.tools.join("usr/sbin/zpool")).env("LD_LIBRARY_PATH", staged.tools.join("usr/lib")).status();
    assert_eq!(ran.unwrap().code(), Some(42));
    assert!(!staged.tools.join("usr/include").exists() && !staged.tools.join("etc/zfs/zpool.cache").exists());
    let odd = "usr/share/zfs/zfs-tests/functional/a b\n'ü\"/se tup.ksh";
    assert_eq!(fs::read_to_string(staged.suite.join(odd)).unwrap(), "#!/bin/ksh -p\n");
    let dep = fs::read_to_string(staged.modules.join("lib/modules/6.1.5-quiz/modules.dep")).unwrap();
    assert!(dep.contains("extra/zfs.ko:") && dep.contains("extra/spl.ko:"), "{dep}");
    let loading = load::plan(&staged, &["zfs_debug=3".to_owned()]).unwrap();
    assert_eq!(loading.modules, [("spl.ko".to_owned(), vec![]), ("zfs.ko".to_owned(), vec!["zfs_debug=3".to_owned()])]);
}

#[test]
fn of_two_builds_for_a_kernel_the_one_compiled_last_counts() {
    let place = Place::new();
    let kernel = place.kernel("6.1.5");
    place.make(&kernel);
    assert_eq!(edit_of(&place.stage(&kernel), "zfs.ko"), "0");

    // The user's own build in the checkout, with autotools' usual prefix.
    let kbuild = kernel.dir().join("kbuild");
    place.write("module/zfs.c", &module("zfs", "spl", "in the checkout"));
    place.run("", &["./configure", &format!("--with-linux={}", kbuild.display())]);
    place.run("", &["make"]);
    let staged = place.stage(&kernel);
    assert_eq!(staged.build, place.path(""));
    assert_eq!(edit_of(&staged, "zfs.ko"), "in the checkout");
    assert!(staged.tools.join("usr/local/sbin/zpool").exists() && !staged.tools.join("usr/sbin/zpool").exists());
    let link = fs::read_link(staged.tools.join("usr/lib/libzfs.so.1")).unwrap();
    assert_eq!(link, Path::new("/usr/local/lib/libzfs.so.1.0.0"), "found without ldconfig");

    // None of its products gets into the shadow.
    place.write("module/zfs.c", &module("zfs", "spl", "in the shadow"));
    place.make(&kernel);
    let shadow = place.path(".quiz/build/6.1.5-quiz");
    for product in ["Makefile", "config.status", "zpool", "module/zfs.ko", ".libs/libzfs.so.1.0.0"] {
        assert!(!shadow.join(product).is_symlink() && shadow.join(product).exists(), "{product}");
    }
    let staged = place.stage(&kernel);
    assert_eq!((staged.build.as_path(), edit_of(&staged, "zfs.ko")), (shadow.as_path(), "in the shadow".to_owned()));
    assert_eq!(edit_in(&place.path("module/zfs.ko")), "in the checkout");

    // Only a tool is made again.
    place.write("lib/libzfs.c", "int zfs_answer(void) { return 43; }\n");
    place.run("", &["make", ".libs/libzfs.so.1.0.0"]);
    assert_eq!(place.stage(&kernel).build, place.path(""));
}

#[test]
fn a_build_without_tools_is_refused() {
    let place = Place::new();
    let kernel = place.kernel("6.1.5");
    place.build(&kernel, |b| b.make(&["module/zfs.ko".to_owned(), "module/spl.ko".to_owned()])).unwrap();
    let error = stage(&place.checkout(), &kernel, &Environment::default(), &Silent).unwrap_err().to_string();
    assert!(error.contains("has modules but no `zpool`"), "{error}");
}

/// Set where the test calls itself, with an environment that would break or bend every stage.
const BENT: &str = "QUIZ_ZFS_TEST_BENT";

#[test]
fn the_callers_environment_reaches_no_stage() {
    if std::env::var_os(BENT).is_none() {
        let mut bent = Command::new(std::env::current_exe().unwrap());
        bent.args(["--exact", "the_callers_environment_reaches_no_stage", "--nocapture"]).env(BENT, "1");
        for name in [
            "ACLOCAL_PATH",
            "ARCH",
            "AR",
            "AUTOCONF",
            "C",
            "CC",
            "CDPATH",
            "CFLAGS",
            "CI",
            "CONFIG_SHELL",
            "CONFIG_SITE",
            "CPATH",
            "CPPFLAGS",
            "CROSS_COMPILE",
            "CXX",
            "DESTDIR",
            "GNUMAKEFLAGS",
            "INSTALL_MOD_PATH",
            "KBUILD_EXTMOD",
            "KBUILD_OUTPUT",
            "KBUILD_VERBOSE",
            "KCFLAGS",
            "KERNEL_CC",
            "LD",
            "LDFLAGS",
            "LD_LIBRARY_PATH",
            "LIBRARY_PATH",
            "LIBS",
            "LLVM",
            "M",
            "MAKEFILES",
            "MAKEFLAGS",
            "MAKELEVEL",
            "MFLAGS",
            "O",
            "PKG_CONFIG_PATH",
            "PYTHONPATH",
            "SOURCE_DATE_EPOCH",
            "V",
            "W",
        ] {
            // A loader that finds no such directory goes on.
            bent.env(name, "/hostile");
        }
        let ran = bent.output().unwrap();
        assert!(
            ran.status.success(),
            "{}{}",
            String::from_utf8_lossy(&ran.stdout),
            String::from_utf8_lossy(&ran.stderr)
        );
        return;
    }
    let place = Place::new();
    let configure = fs::read_to_string(place.path("configure")).unwrap();
    place.write("configure.in", &configure.replacen('\n', "\nenv >env.configure\n", 1));
    fs::remove_file(place.path("configure")).unwrap();
    place.write("autogen.sh", "env >env.autogen\ncp configure.in configure\nchmod +x configure\n");
    let makefile = fs::read_to_string(place.path("Makefile.in")).unwrap();
    let seen = makefile
        .replace("common.sh.in\n", "common.sh.in\n\t@env >env.make\n")
        .replace("install: all\n", "install: all\n\t@env >env.install\n");
    place.write("Makefile.in", &seen);
    let kernel = place.kernel("6.1.5");
    let environment = Environment::of(&std::env::vars_os().collect::<Vec<_>>());
    let checkout = place.checkout();
    let builder = quiz_zfs::Builder {
        checkout: &checkout,
        kernel: &kernel,
        cache: &place.cache,
        cross: None,
        jobs: std::num::NonZeroUsize::MIN,
        environment: &environment,
        report: &Silent,
    };
    builder.make(&[]).unwrap();
    stage(&checkout, &kernel, &environment, &Silent).unwrap();
    for stage in ["autogen", "configure", "make", "install"] {
        let seen = fs::read_to_string(place.path(".quiz/build/6.1.5-quiz").join(format!("env.{stage}"))).unwrap();
        assert!(seen.contains("PATH=") && !seen.contains("hostile"), "{stage}: {seen}");
    }
}

#[test]
fn of_two_builds_at_once_one_takes_what_the_other_made() {
    let place = Place::new();
    let kernel = place.kernel("6.1.5");
    let configure = fs::read_to_string(place.path("configure")).unwrap();
    place.write("configure", &configure.replacen('\n', "\necho x >>configured\nsleep 0.3\n", 1));
    std::thread::scope(|scope| {
        let second = scope.spawn(|| place.make(&kernel));
        place.make(&kernel);
        second.join().unwrap();
    });
    let build = place.path(".quiz/build/6.1.5-quiz");
    assert_eq!(fs::read_to_string(build.join("configured")).unwrap(), "x\n");
    let last = fs::read_to_string(build.join(".quiz-build/make.log")).unwrap();
    assert!(!last.contains("CC"), "{last}");
}

#[test]
fn what_autogen_and_the_installation_say_is_told() {
    let place = Place::new();
    let kernel = place.kernel("6.1.5");
    place.make(&kernel);
    let makefile = fs::read_to_string(place.path("Makefile.in")).unwrap();
    place.write("Makefile.in", &makefile.replace("install: all\n", "install: all\n\t@cp no-such-file $(DESTDIR)\n"));
    place.build(&kernel, |b| b.configure(None)).unwrap();
    place.make(&kernel);
    let error = stage(&place.checkout(), &kernel, &Environment::default(), &Silent).unwrap_err().to_string();
    assert!(error.contains("cp: cannot stat 'no-such-file': No such file or directory"), "{error}");
    fs::remove_file(place.path("configure")).unwrap();
    place.write("autogen.sh", "echo 'configure.ac:7: error: possibly undefined macro: X' >&2; exit 1\n");
    let error = place.build(&kernel, |b| b.configure(None)).unwrap_err().to_string();
    assert!(error.contains("\n  configure.ac:7: error: possibly undefined macro: X\n"), "{error}");
    assert!(error.contains("/.quiz-build/autogen.log"), "{error}");
}

/// Set where the test calls itself, to be killed: the checkout.
const VICTIM: &str = "QUIZ_ZFS_TEST_VICTIM";

#[test]
fn an_interrupted_stage_leaves_the_old_tree_or_the_new_one() {
    let place = Place::new();
    if let Some(top) = std::env::var_os(VICTIM) {
        let cache = quiz_host::Cache::at(Path::new(&top).parent().unwrap().join("cache"));
        let entry = quiz_kernel::kernel::shelf(&cache).open("6.1.5").unwrap().unwrap();
        let kernel = quiz_kernel::Kernel::from_entry(entry).unwrap();
        stage(&quiz_zfs::Checkout::open(Path::new(&top)).unwrap(), &kernel, &Environment::default(), &Silent).unwrap();
        return;
    }
    let kernel = place.kernel("6.1.5");
    place.make(&kernel);
    let mut before = place.stage(&kernel);
    let mut edits = vec!["0".to_owned()];
    for round in 1..=12 {
        let edit = round.to_string();
        place.write("module/zfs.c", &module("zfs", "spl", &edit));
        place.write("module/spl.c", &module("spl", "", &edit));
        place.write("lib/libzfs.c", &format!("int zfs_answer(void) {{ return {round}; }}\n"));
        place.run(".quiz/build/6.1.5-quiz", &["make"]);
        edits.push(edit.clone());
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "an_interrupted_stage_leaves_the_old_tree_or_the_new_one"])
            .env(VICTIM, place.path(""))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(15 + round * 8));
        victim.kill().unwrap();
        victim.wait().unwrap();
        // Whatever has the name now is whole, and of one make.
        let tree = fs::canonicalize(place.path(".quiz/install/6.1.5-quiz/modules")).unwrap();
        let extra = tree.join("lib/modules/6.1.5-quiz/extra");
        let found = [edit_in(&extra.join("zfs.ko")), edit_in(&extra.join("spl.ko"))];
        assert_eq!(found[0], found[1]);
        assert!(edits.contains(&found[0]) && tree.join("lib/modules/6.1.5-quiz/modules.dep").exists());
        assert_eq!(edit_of(&before, "zfs.ko"), (round - 1).to_string(), "handed out before");
        before = place.stage(&kernel);
        assert_eq!(edit_of(&before, "zfs.ko"), edit);
        let ran = Command::new(before.tools.join("usr/sbin/zpool"))
            .env("LD_LIBRARY_PATH", before.tools.join("usr/lib"))
            .status();
        assert_eq!(ran.unwrap().code(), Some(round as i32));
    }
    let trees = fs::read_dir(place.path(".quiz/install/6.1.5-quiz/trees")).unwrap();
    assert!(trees.map(|e| e.unwrap().file_name()).all(|name| !name.to_string_lossy().starts_with(".new-")));
}

#[test]
fn two_at_once_get_the_same_tree() {
    let place = Place::new();
    let kernel = place.kernel("6.1.5");
    place.make(&kernel);
    for round in 1..=3 {
        place.write("module/zfs.c", &module("zfs", "spl", &round.to_string()));
        place.run(".quiz/build/6.1.5-quiz", &["make"]);
        let staged: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| place.stage(&kernel))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(staged.iter().filter(|s| s.modules_changed > 0).count(), 1);
        assert!(staged.iter().all(|s| s.modules == staged[0].modules && edit_of(s, "zfs.ko") == round.to_string()));
    }
}
