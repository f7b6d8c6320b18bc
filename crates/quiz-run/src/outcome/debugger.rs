//! Debuggers for kernels: which one opens what, and how it learns where the symbols are. Not for
//! the evidence that needs none (`crash`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use quiz_host::held::HeldDir;
use quiz_kernel::Kernel;
use serde_json::json;

/// What gdb is told, in the run's directory.
pub const SCRIPT: &str = "gdb.py";

/// gdb's own part of it.
const KERNEL: &str = include_str!("debugger/kernel.py");

/// Writes the script that tells gdb about a kernel's modules and, where the VM runs, connects it.
pub fn write_script(dir: &HeldDir, modules: &[(String, PathBuf)], target: Option<&Path>) -> std::io::Result<()> {
    let files: serde_json::Map<_, _> =
        modules.iter().map(|(name, path)| (name.clone(), json!(path.display().to_string()))).collect();
    // A text in JSON is one in Python, too.
    let target = target.map_or_else(|| "None".to_owned(), |path| json!(path.display().to_string()).to_string());
    dir.write_whole(SCRIPT, format!("FILES = {}\nTARGET = {target}\n{KERNEL}", json!(files)).as_bytes())
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
    dir: &HeldDir,
) -> std::io::Result<Option<Vec<OsString>>> {
    let Some(vmlinux) = kernel.vmlinux() else { return Ok(None) };
    const INPUT: &str = "crash.in";
    dir.write_whole(INPUT, crash_commands(modules).as_bytes())?;
    Ok(Some(vec!["crash".into(), "-i".into(), dir.path().join(INPUT).into(), vmlinux.into(), dump.into()]))
}

/// What crash(8) is to do first: a line for each module. One with a blank or a control character in
/// its path would be other words, or a command of its own, and is left out.
fn crash_commands(modules: &[(String, PathBuf)]) -> String {
    let is_a_word = |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    let lines = modules.iter().map(|(name, path)| (name, path.display().to_string()));
    let lines = lines.filter(|(name, path)| is_a_word(name) && is_a_word(path));
    lines.map(|(name, path)| format!("mod -s {name} {path}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_is_a_command_of_crash() {
        let modules = [("zfs", "/w/zfs.ko"), ("x", "/w/x\n!id\n/x.ko"), ("y", "/w/a b/y.ko")];
        let modules = modules.map(|(name, path)| (name.to_owned(), PathBuf::from(path)));
        assert_eq!(crash_commands(&modules), "mod -s zfs /w/zfs.ko\n");
    }
}
