//! Builds the agent for this target, and embeds it with those for other architectures that `cargo
//! xtask agents` has made.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use quiz_agent_build::{Build, SOURCES, fingerprint, kept, shelf};

fn main() {
    // What include_dir! embeds; it does not say so itself.
    println!("cargo::rerun-if-changed=profiles");
    let manifest = PathBuf::from(env("CARGO_MANIFEST_DIR"));
    let crates = manifest.parent().expect("crates/quiz has a parent");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", crates.join(source).display());
    }
    let out = PathBuf::from(env("OUT_DIR"));
    // <target>/<profile>/build/quiz-<hash>/out, with a directory for the target if one was named.
    let profile_dir = out.ancestors().find(|dir| dir.ends_with("build")).and_then(Path::parent).unwrap_or(&out);
    let target = env("TARGET");
    let mut target_dir = profile_dir.parent().unwrap_or(&out);
    if target_dir.ends_with(&target) {
        target_dir = target_dir.parent().unwrap_or(target_dir);
    }
    let own = build(crates, &target, &target_dir.join("agent"));
    // Whatever its C library is.
    let processor = |target: &str| target.split('-').next().unwrap_or_default().to_owned();
    let own_arch = quiz_arch::ALL.iter().find(|arch| processor(arch.rust) == processor(&target));
    let own_arch = own_arch.unwrap_or_else(|| panic!("quiz knows no architecture for {target}")).name;

    let mut list = format!("&[\n    ({own_arch:?}, include_bytes!({own:?})),\n");
    let shelf = shelf(target_dir);
    // One that is not there would count as changed, always.
    fs_err::create_dir_all(&shelf).unwrap_or_else(|e| panic!("{}: {e}", shelf.display()));
    println!("cargo::rerun-if-changed={}", shelf.display());
    let sources = fingerprint(crates).expect("the agent's sources can be read");
    for arch in quiz_arch::ALL.iter().filter(|arch| arch.name != own_arch) {
        match kept(&shelf, arch.name, &sources) {
            Ok(Some(agent)) => {
                writeln!(list, "    ({:?}, include_bytes!({agent:?})),", arch.name).expect("a string grows")
            }
            Ok(None) => {}
            Err(why) => println!("cargo::warning={why} and is left out: cargo xtask agents {}", arch.name),
        }
    }
    list.push(']');
    fs_err::write(out.join("agents.rs"), list).expect("the build's own directory can be written");
}

fn build(crates: &Path, target: &str, target_dir: &Path) -> PathBuf {
    let build = Build { cargo: env("CARGO").into(), target, linker: None, compiler: None, target_dir, crates };
    let (mut cargo, agent) = build.command();
    let status = cargo.status().expect("cargo can be run");
    assert!(status.success(), "the agent could not be built for {target}");
    agent
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
