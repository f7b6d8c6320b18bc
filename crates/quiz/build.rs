//! Builds the agent and tells the program where it is, to be embedded.
//!
//! The agent is another program than quiz: static, small, for the guest. Cargo has no stable way to say that, so it is
//! called here with a target directory of its own (the outer one is locked while we run).

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    // What include_dir! embeds; it does not say so itself.
    println!("cargo::rerun-if-changed=profiles");
    let manifest = PathBuf::from(env("CARGO_MANIFEST_DIR"));
    let crates = manifest.parent().expect("crates/quiz has a parent");
    for input in ["quiz-agent", "quiz-proto"] {
        println!("cargo::rerun-if-changed={}", crates.join(input).display());
    }
    println!("cargo::rerun-if-changed={}", crates.join("../Cargo.lock").display());
    let target = env("TARGET");
    let agent = build(crates, &target);
    println!("cargo::rustc-env=QUIZ_AGENT={}", agent.display());
}

fn build(crates: &Path, target: &str) -> PathBuf {
    let out = PathBuf::from(env("OUT_DIR"));
    // <target>/<profile>/build/quiz-<hash>/out, with a directory for the target if one was named.
    let shared = out.ancestors().find(|dir| dir.ends_with("build")).and_then(|dir| dir.parent()?.parent());
    let target_dir = shared.unwrap_or(&out).join("agent");
    let flags = ["-C", "target-feature=+crt-static", "-C", "relocation-model=static"];
    let status = Command::new(env("CARGO"))
        .args(["build", "--quiet", "--locked", "--package", "quiz-agent", "--profile", "agent", "--target", target])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(crates)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // Clippy's and others' wrappers are for the outer build.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET")
        .status()
        .expect("cargo can be run");
    assert!(status.success(), "the agent could not be built for {target}");
    target_dir.join(target).join("agent/quiz-agent")
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
