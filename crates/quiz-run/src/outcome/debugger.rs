//! Debuggers for kernels: which one opens what, and how it finds the symbols. Not for reports that
//! need no debugger (`crash`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use quiz_host::held::HeldDir;
use quiz_kernel::Kernel;
use serde_json::json;

/// The script for gdb, in the run directory.
pub const SCRIPT: &str = "gdb.py";

/// The part of the script that is the same for all runs.
const KERNEL: &str = include_str!("debugger/kernel.py");

/// Writes the script that names a kernel's modules to gdb. If the VM runs, `target` is the socket
/// that the script connects gdb to.
pub fn write_script(dir: &HeldDir, modules: &[(String, PathBuf)], target: Option<&Path>) -> std::io::Result<()> {
    let files: serde_json::Map<_, _> =
        modules.iter().map(|(name, path)| (name.clone(), json!(path.display().to_string()))).collect();
    // A JSON string is a Python string, too.
    let target = target.map_or_else(|| "None".to_owned(), |path| json!(path.display().to_string()).to_string());
    dir.write_whole(SCRIPT, format!("FILES = {}\nTARGET = {target}\n{KERNEL}", json!(files)).as_bytes())
}

/// Returns the command line of gdb for a running VM, or for a dump. None if there is no vmlinux.
pub fn gdb(kernel: &Kernel, dir: &Path, dump: Option<&Path>) -> Option<Vec<OsString>> {
    let mut words: Vec<OsString> = vec!["gdb".into(), "-q".into(), kernel.vmlinux()?.into()];
    words.extend(dump.map(OsString::from));
    words.extend(["-x".into(), dir.join(SCRIPT).into()]);
    Some(words)
}

/// Returns the command line of drgn for a dump.
pub fn drgn(kernel: &Kernel, modules: &[(String, PathBuf)], dump: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = ["drgn", "-q", "-c"].map(OsString::from).to_vec();
    words.push(dump.into());
    for file in kernel.vmlinux().iter().chain(modules.iter().map(|(_, path)| path)) {
        words.extend(["-s".into(), file.into()]);
    }
    words
}

/// Returns the command line of crash for a dump. None if there is no vmlinux. Writes the file to
/// `dir` from which crash reads the modules.
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

/// Returns the first commands for crash(8): a line for each module. Leaves out a path with a blank
/// or a control character: crash would read several words, or another command.
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
