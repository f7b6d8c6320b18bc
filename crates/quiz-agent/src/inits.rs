//! Runs the `init` programs of profiles, which complete the guest before the run's own program
//! starts. Not for the run's own program (see `program`).

use std::ffi::OsStr;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use fs_err as fs;
use quiz_proto::{Init, Inits};

/// How much of a program's output is reported, in bytes, counted from its end.
const TOLD: u64 = 16 * 1024;

/// Runs each program to its end, until one fails.
pub fn run_all(inits: &Inits) -> io::Result<()> {
    inits.programs.iter().try_for_each(|init| run(init, &inits.env))
}

fn run(init: &Init, env: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    // The output goes to a file, not a pipe: a process that the program leaves running may keep it
    // open.
    fs::create_dir_all("/run/quiz")?;
    let log = format!("/run/quiz/{}.log", init.name);
    let output = fs::File::create(&log)?.into_parts().0;
    let mut command = Command::new(&init.path);
    command.env_clear().envs(env.iter().map(|(name, value)| (OsStr::from_bytes(name), OsStr::from_bytes(value))));
    command.current_dir("/").stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let status = command
        .status()
        .map_err(|e| io::Error::other(format!("the profile {}'s init cannot be run: {e}", init.name)))?;
    let said = tail(&log)?;
    if !status.success() {
        let said = if said.is_empty() { "it printed nothing".to_owned() } else { said };
        return Err(io::Error::other(format!("the profile {}'s init failed ({status}):\n{said}", init.name)));
    }
    // Print to the console, not to the host: the host would receive it only in the run that makes a
    // template.
    for line in said.lines() {
        crate::log::mention(&format!("{}: {line}", init.name));
    }
    Ok(())
}

fn tail(log: &str) -> io::Result<String> {
    let mut file = fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TOLD)))?;
    let mut bytes = Vec::new();
    file.take(TOLD).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}
