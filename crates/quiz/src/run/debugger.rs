//! Debuggers for kernels: which one opens what, and how it learns where the symbols are. Not for the evidence that needs none (`crash`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use fs_err as fs;
use quiz_image::Kernel;
use serde_json::json;

/// What gdb is told, in the run's directory.
pub const SCRIPT: &str = "gdb.py";

/// gdb's own part of it.
const KERNEL: &str = include_str!("debugger/kernel.py");

/// Writes the script that tells gdb about a kernel's modules and, where the VM runs, connects it.
pub fn write_script(dir: &Path, modules: &[(String, PathBuf)], target: Option<&Path>) -> std::io::Result<()> {
    let files: serde_json::Map<_, _> =
        modules.iter().map(|(name, path)| (name.clone(), json!(path.display().to_string()))).collect();
    // A text in JSON is one in Python, too.
    let target = target.map_or_else(|| "None".to_owned(), |path| json!(path.display().to_string()).to_string());
    fs::write(dir.join(SCRIPT), format!("FILES = {}\nTARGET = {target}\n{KERNEL}", json!(files)))
}

/// The words that start gdb for a VM that runs, or for a dump.
pub fn gdb(kernel: &Kernel, dir: &Path, dump: Option<&Path>) -> Option<Vec<OsString>> {
    let mut words: Vec<OsString> = vec!["gdb".into(), "-q".into(), kernel.vmlinux()?.into()];
    words.extend(dump.map(OsString::from));
    words.extend(["-x".into(), dir.join(SCRIPT).into()]);
    Some(words)
}

/// The words that start drgn for a dump.
pub fn drgn(kernel: &Kernel, modules: &[(String, PathBuf)], dump: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = ["drgn", "-q", "-c"].map(OsString::from).to_vec();
    words.push(dump.into());
    for file in kernel.vmlinux().iter().chain(modules.iter().map(|(_, path)| path)) {
        words.extend(["-s".into(), file.into()]);
    }
    words
}

/// The words that start crash for a dump. It reads which modules there are from `dir`.
pub fn crash(
    kernel: &Kernel,
    modules: &[(String, PathBuf)],
    dump: &Path,
    dir: &Path,
) -> std::io::Result<Option<Vec<OsString>>> {
    let Some(vmlinux) = kernel.vmlinux() else { return Ok(None) };
    let input = dir.join("crash.in");
    let lines: String = modules.iter().map(|(name, path)| format!("mod -s {name} {}\n", path.display())).collect();
    fs::write(&input, lines)?;
    Ok(Some(vec!["crash".into(), "-i".into(), input.into(), vmlinux.into(), dump.into()]))
}
