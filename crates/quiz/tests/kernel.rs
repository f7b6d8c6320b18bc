//! Kernels for real: a stock one, and one built from source. The first time takes minutes; then they are in the user's cache.

use quiz_testing::{Sandbox, kernels};

#[test]
fn a_kernel_from_debians_source_is_built_once_and_boots() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_quiz"));
    kernels::built(&sandbox, "memdev");
    let ran = sandbox.quiz(["-k", "6.12", "uname", "-r"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.out().starts_with("6.12."), "{}", ran.out());
    let record: serde_json::Value =
        serde_json::from_slice(&fs_err::read(sandbox.last_run().join("result.json")).unwrap()).unwrap();
    let kernel = record["kernel"].as_str().unwrap();
    let shown = sandbox.quiz(["--json", "kernel", "show", kernel]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert!(shown.out().contains("CONFIG_") || shown.out().contains(kernel), "{}", shown.out());
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
