//! Profiles that users make.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use quiz_testing::Sandbox;

use crate::{output, run, sandbox};

/// Writes a profile's files; what begins with `#!` can be run.
fn profile(dir: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(path).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    }
}

/// With a directive, an init, a file, a package and a kernel option.
fn complete(sandbox: &Sandbox) {
    let toml = r#"
        about = "Everything that a profile can have"
        after = ["memdev"]
        packages = ["dmsetup"]
        [kernel]
        needs = ["BLK_DEV_NULL_BLK=m"]
        [option.greeting]
        type = "string"
        default = "hello"
        about = "What init says"
    "#;
    let setup = "#!/bin/sh\nset -eu\ntest -d \"$PROFILE_SCRATCH\"\n\
                 echo \"quiz::env=FROM_SETUP=$QUIZ_MINE_GREETING $PROFILE_PROFILES\"\n\
                 echo quiz::disk=mine,size=1048576\n\
                 echo quiz::module=null_blk nr_devices=1\n\
                 echo quiz::warning=be careful\necho only with -v\n";
    let init = "#!/bin/sh\nset -eu\ntest -b /dev/ram0\nprintf '%s' \"$QUIZ_MINE_GREETING\" >/dev/mine\n";
    let files = [
        ("profile.toml", toml),
        ("setup", setup),
        ("init", init),
        ("files/usr/local/bin/mine", "#!/bin/sh\necho \"$FROM_SETUP\"\n"),
        ("files/etc/mine.conf", "configured\n"),
    ];
    profile(&sandbox.worktree().join("profiles/mine"), &files);
}

#[test]
fn a_profile_has_a_directive_an_init_a_file_a_package_and_a_kernel_option() {
    let sandbox = sandbox();
    complete(&sandbox);
    fs::write(sandbox.worktree().join("quiz.toml"), "[profile.mine]\ngreeting = \"good day\"\n").unwrap();
    sandbox.allow();
    let script =
        "mine; cat /etc/mine.conf; head -c 8 /dev/mine; echo; command -v dmsetup >/dev/null; test -b /dev/nullb0";
    let ran = run(&sandbox, "mine,memdev:count=1", script);
    assert_eq!(output(&ran), "good day memdev mine\nconfigured\ngood day\n", "{}", ran.stderr);
    assert!(ran.stderr.contains("mine: warning: be careful"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("only with -v"), "{}", ran.stderr);
    // The command line is stronger than the variable, which is stronger than the file.
    for (profiles, greeting) in [("mine,memdev:count=1", "from far"), ("mine:greeting=hi,memdev:count=1", "hi")] {
        let kernel = quiz_testing::kernels::name(&sandbox);
        let arguments = ["-k", kernel, "--timeout", "1m", "-p", profiles, "mine"];
        let mut command = sandbox.command(arguments);
        let said: quiz_testing::Ran = command.env("QUIZ_MINE_GREETING", "from far").output().unwrap().into();
        assert_eq!(output(&said), format!("{greeting} memdev mine\n"), "{}", said.stderr);
    }
}

#[test]
fn what_kernel_and_root_lack_is_said_before_the_boot_with_the_command() {
    let sandbox = sandbox();
    let dir = sandbox.worktree().join("profiles/needy");
    profile(&dir, &[("profile.toml", "about = \"x\"\n[kernel]\nneeds = [\"NO_SUCH_OPTION=m\"]\n")]);
    let ran = run(&sandbox, "needy", "true");
    assert_eq!(ran.code, 125, "{}", ran.stderr);
    assert!(ran.stderr.contains("lacks what the profile needy needs: CONFIG_NO_SUCH_OPTION=m"));
    assert!(ran.stderr.contains("`quiz kernel build -p needy"), "{}", ran.stderr);
    profile(&dir, &[("profile.toml", "about = \"x\"\npackages = [\"no-such-package-in-debian\"]\n")]);
    let ran = run(&sandbox, "needy", "true");
    assert_eq!(ran.code, 125, "{}", ran.stderr);
    assert!(ran.stderr.contains("what the profiles need: no-such-package-in-debian"), "{}", ran.stderr);
    assert!(ran.stderr.contains("`quiz root build -p needy`"), "{}", ran.stderr);
    assert!(ran.stderr.contains("Unable to locate package no-such-package-in-debian"), "{}", ran.stderr);
}

#[test]
fn the_users_profile_replaces_quizs_and_the_worktrees_both() {
    let sandbox = sandbox();
    let says = |what: &str| format!("#!/bin/sh\necho quiz::env=WHOSE={what}\n");
    let toml = ("profile.toml", "about = \"Not quiz's\"\n");
    let user = sandbox.home().join(".config/quiz/profiles/memdev");
    profile(&user, &[toml, ("setup", &says("user"))]);
    let script = "echo $WHOSE; test ! -e /dev/quizm0";
    assert_eq!(output(&run(&sandbox, "memdev", script)), "user\n");
    profile(&sandbox.worktree().join(".quiz/profiles/memdev"), &[toml, ("setup", &says("worktree"))]);
    sandbox.allow();
    assert_eq!(output(&run(&sandbox, "memdev", script)), "worktree\n");
}

#[test]
fn a_profile_that_fails_ends_the_run_with_its_words() {
    let sandbox = sandbox();
    let dir = sandbox.worktree().join("profiles/broken");
    let toml = ("profile.toml", "about = \"x\"\n");
    for (setup, complaint) in [
        ("#!/bin/sh\necho 'quiz::error=the moon is full'\n", "`broken` cannot be set up: the moon is full"),
        ("#!/bin/sh\necho why not >&2\nexit 3\n", "why not"),
        ("#!/bin/sh\necho quiz::disc=a\n", "`disc` is not known"),
        ("#!/no/such/shell\n", "`broken` cannot be set up"),
    ] {
        profile(&dir, &[toml, ("setup", setup)]);
        sandbox.allow();
        let ran = run(&sandbox, "broken", "echo started");
        assert_eq!((ran.code, ran.out().as_str()), (125, ""), "{}", ran.stderr);
        assert!(ran.stderr.contains(complaint), "{setup}: {}", ran.stderr);
    }
    profile(&dir, &[toml, ("setup", "#!/bin/sh\n"), ("init", "#!/bin/sh\necho no luck here\nexit 4\n")]);
    sandbox.allow();
    let ran = run(&sandbox, "broken", "echo started");
    assert_eq!((ran.code, ran.out().as_str()), (125, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("broken's init failed") && ran.stderr.contains("no luck here"), "{}", ran.stderr);
}

#[test]
fn what_is_not_known_is_named_with_what_may_have_been_meant() {
    for (profiles, complaint) in [
        ("memdve", "there is no profile `memdve`; did you mean `memdev`?"),
        ("memdev:cuont=2", "has no option `cuont`"),
        ("memdev:count=many", "it is a whole number from 1 to 64"),
        ("blockdev:sector=1000", "one of 512, 4096"),
    ] {
        let ran = run(&sandbox(), profiles, "true");
        assert_eq!(ran.code, 125, "{}", ran.stderr);
        assert!(ran.stderr.contains(complaint), "{profiles}: {}", ran.stderr);
    }
}

#[test]
fn a_program_for_the_host_runs_only_as_it_was_allowed() {
    let sandbox = sandbox();
    let sign = sandbox.beside("sign");
    for place in ["profiles/x", ".quiz/profiles/x"] {
        let setup = |more: &str| format!("#!/bin/sh\n# {place}\n: > {}\n{more}echo quiz::error=seen\n", sign.display());
        let dir = sandbox.worktree().join(place);
        profile(&dir, &[("profile.toml", "about = \"x\"\n"), ("setup", &setup(""))]);
        let refused = |why: &str| {
            let ran = run(&sandbox, "x", "true");
            assert_eq!(ran.code, 125, "{}", ran.stderr);
            assert!(ran.stderr.contains(why) && ran.stderr.contains("`quiz allow`"), "{}", ran.stderr);
            assert!(!sign.exists(), "{place}");
        };
        refused("cannot use profile x of this worktree: it reaches your host and ");
        sandbox.allow();
        assert!(run(&sandbox, "x", "true").stderr.contains("seen"));
        fs::remove_file(&sign).unwrap();
        profile(&dir, &[("setup", &setup("true\n"))]);
        refused("has changed since you allowed it");
        profile(&dir, &[("setup", &setup("")), ("more", "x")]);
        refused("has changed since you allowed it");
        fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn a_profile_that_others_can_change_is_not_used() {
    let sandbox = sandbox();
    let dir = sandbox.worktree().join("profiles/x");
    profile(&dir, &[("profile.toml", "about = \"x\"\n"), ("init", "#!/bin/sh\n"), ("files/etc/x", "x")]);
    for (file, mode) in [("files/etc/x", 0o646), ("init", 0o757), ("files/etc", 0o777)] {
        let file = dir.join(file);
        let before = fs::metadata(&file).unwrap().permissions();
        fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        let ran = run(&sandbox, "x", "true");
        assert_eq!(ran.code, 125, "{}", ran.stderr);
        let wanted = format!("{} can be written to by everybody", file.display());
        assert!(ran.stderr.contains(&wanted), "{}", ran.stderr);
        fs::set_permissions(&file, before).unwrap();
    }
}
