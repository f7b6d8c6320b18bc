//! Kernels for real: a stock one, and one built from source. The first time takes minutes; then
//! they are in the user's cache.

use quiz_testing::{Sandbox, kernels};

#[test]
fn a_kernel_from_debians_source_is_built_once_and_boots() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let name = kernels::built(&sandbox, "memdev");
    let ran = sandbox.quiz(["-k", name, "uname", "-r"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.out().starts_with("6.12."), "{}", ran.out());
    let record: serde_json::Value =
        serde_json::from_slice(&fs_err::read(sandbox.last_run().join("result.json")).unwrap()).unwrap();
    let kernel = record["kernel"].as_str().unwrap();
    let shown = sandbox.quiz(["--json", "kernel", "show", kernel]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert!(shown.out().contains("CONFIG_") || shown.out().contains(kernel), "{}", shown.out());
    // One that an older quiz has built does not say of which inputs, and is built again, once.
    kernels::build(&sandbox);
    let again = kernels::build(&sandbox);
    assert!(again.stderr.contains("is there already, built from the same source"), "{}", again.stderr);
}

/// Answers the targets that quiz asks for, without PVH and modules, so that there is nothing to
/// link and no depmod.
const MAKEFILE: &str = r#"VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = 0
EXTRAVERSION =
allnoconfig:
	@grep -v 'PVH\|MODULES' $(KCONFIG_ALLCONFIG) > $(O)/.config
olddefconfig:
	@true
vmlinux: main.c
	@echo x >> compiled; while [ -e hold ]; do sleep 0.05; done
	@mkdir -p $(O)/include/config $(O)/include/generated $(O)/scripts $(O)/arch/x86/include/generated
	@echo 6.12.0 > $(O)/include/config/kernel.release
	@cp main.c $(O)/vmlinux; echo map > $(O)/System.map
	@echo x > $(O)/Module.symvers; echo x > $(O)/include/generated/autoconf.h; echo x > $(O)/scripts/fixdep
bzImage: vmlinux
	@mkdir -p $(O)/arch/x86/boot; cp $(O)/vmlinux $(O)/arch/x86/boot/bzImage
"#;

#[test]
fn two_at_once_build_the_same_inputs_once_and_a_tree_always() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let (tree, cache) = (sandbox.beside("linux"), sandbox.beside("cache"));
    for path in ["Kconfig", "scripts/kconfig/conf.c", "include/linux/fs.h", "arch/x86/Makefile", "arch/x86/include/a.h"]
    {
        fs_err::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
        fs_err::write(tree.join(path), "").unwrap();
    }
    // What is compiled is counted in the place that both sources name.
    let makefile = MAKEFILE
        .replace(">> compiled", &format!(">> {}", sandbox.beside("compiled").display()))
        .replace("-e hold", &format!("-e {}", sandbox.beside("hold").display()))
        .replace("allnoconfig:", "ifeq ($(ARCH),x86_64)\n        SRCARCH := x86\nendif\nallnoconfig:");
    fs_err::write(tree.join("Makefile"), makefile).unwrap();
    fs_err::write(tree.join("main.c"), "one").unwrap();
    for words in [&["init", "-q", "--initial-branch=main"][..], &["add", "-A"], &["commit", "-q", "-m", "one"]] {
        let mut git = std::process::Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]).args(words);
        assert!(git.current_dir(&tree).status().unwrap().success());
    }
    let compiled = || fs_err::read_to_string(sandbox.beside("compiled")).unwrap_or_default().lines().count();
    let url = format!("file://{}", tree.display());
    let command = |more: &[&str]| {
        let mut command = sandbox.command([&["kernel", "build", "--arch", "x86_64"], more].concat());
        command.env("QUIZ_CACHE", &cache);
        command
    };
    let of_git = ["--git", url.as_str(), "--ref", "main"];
    fs_err::write(sandbox.beside("hold"), "").unwrap();
    let first = sandbox.start(&mut command(&of_git));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while compiled() == 0 {
        assert!(std::time::Instant::now() < until, "nothing is built");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let second = sandbox.start(&mut command(&of_git));
    std::thread::sleep(std::time::Duration::from_secs(1));
    fs_err::remove_file(sandbox.beside("hold")).unwrap();
    let pid = first.id();
    let [first, second]: [quiz_testing::Ran; 2] = [first, second].map(|child| child.wait_with_output().unwrap().into());
    assert_eq!((first.code, second.code), (0, 0), "{}\n{}", first.stderr, second.stderr);
    assert_eq!(first.stdout, second.stdout, "both name the kernel");
    let said = &second.stderr;
    assert!(said.contains(&format!("waiting for quiz (pid {pid}), which is building kernel main of ")), "{said}");
    assert!(said.contains("is there already, built from the same source, configuration and compiler"), "{said}");
    assert_eq!(compiled(), 1);

    let run = |more: &[&str]| -> quiz_testing::Ran { command(more).output().unwrap().into() };
    let (words, before) = ([&of_git[..], &["--replace"]].concat(), compiled());
    assert_eq!((run(&words).code, compiled()), (0, before + 1));
    assert_eq!((run(&["--all"]).code, compiled()), (0, before + 1));
    let named = tree.display().to_string();
    for number in [2, 3] {
        let ran = run(&["--tree", &named]);
        assert_eq!((ran.code, compiled()), (0, before + number), "{}", ran.stderr);
    }
}

#[test]
fn a_stock_kernel_is_added_and_boots_with_its_modules() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    kernels::stock(&sandbox);
    let ran = sandbox.quiz(["-k", "6.1", "sh", "-c", "uname -r && modprobe loop && test -d /sys/module/loop"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.out().starts_with("6.1.0-"), "{}", ran.out());
}

#[test]
fn a_build_that_cannot_be_done_leaves_no_kernel_behind() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    let tree = sandbox.beside("no-kernel-tree");
    fs_err::create_dir(&tree).unwrap();
    let refused = sandbox.quiz(["kernel", "build", "--tree", &tree.display().to_string()]);
    assert_eq!(refused.code, 125, "{}", refused.stderr);
    assert!(refused.stderr.contains("no-kernel-tree"), "{}", refused.stderr);
    assert!(!sandbox.quiz(["kernel", "list"]).out().contains("no-kernel-tree"));
}
