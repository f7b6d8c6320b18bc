//! Prevents a guest with a writable share from creating set-uid files and devices on the host. Not
//! for restricting its other writes.
//!
//! In a share, QEMU does what the guest asks, as the user that QEMU runs as. A seccomp filter makes
//! the kernel refuse those system calls to QEMU.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// System calls with a mode: the index of the mode's argument, and the index of the flags that say
/// whether the mode is used.
const MODES: &[(i64, u8, Option<u8>)] = &[
    (libc::SYS_fchmod, 1, None),
    (libc::SYS_fchmodat, 2, None),
    (FCHMODAT2, 2, None),
    (libc::SYS_mknodat, 2, None),
    (libc::SYS_openat, 3, Some(2)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1, None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1, None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1, None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 2, Some(1)),
];
/// The number is the same on all architectures, and newer than the C library's table.
const FCHMODAT2: i64 = 452;

/// Makes the kernel refuse (EPERM) two things to the child of `command`: to set a set-uid or
/// set-gid bit, and to create a device.
///
/// # Errors
/// If there is no filter for the host's architecture.
pub fn refuse_special_files(command: &mut Command) -> io::Result<()> {
    let program = filter().map_err(io::Error::other)?;
    // SAFETY: two system calls with a program that is complete.
    unsafe {
        command.pre_exec(move || seccompiler::apply_filter(&program).map_err(|_| io::Error::last_os_error()));
    }
    Ok(())
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let has = |argument: u8, mask: u64, value: u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
    };
    let mut rules = std::collections::BTreeMap::new();
    for &(call, mode, flags) in MODES {
        let mut of_call = Vec::new();
        for bit in [libc::S_ISUID, libc::S_ISGID].map(u64::from) {
            match flags {
                None => of_call.push(SeccompRule::new(vec![has(mode, bit, bit)?])?),
                // If no file is created, the mode argument has no meaning.
                Some(flags) => {
                    for making in [libc::O_CREAT, libc::O_TMPFILE & !libc::O_DIRECTORY].map(|flag| flag as u64) {
                        of_call.push(SeccompRule::new(vec![has(mode, bit, bit)?, has(flags, making, making)?])?);
                    }
                }
            }
        }
        let makes_nodes = call == libc::SYS_mknodat || mode_is_of_a_node(call);
        for kind in [libc::S_IFBLK, libc::S_IFCHR].map(u64::from).into_iter().filter(|_| makes_nodes) {
            of_call.push(SeccompRule::new(vec![has(mode, libc::S_IFMT.into(), kind)?])?);
        }
        rules.insert(call, of_call);
    }
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refused, std::env::consts::ARCH.try_into()?)?.try_into()
}

#[cfg(target_arch = "x86_64")]
fn mode_is_of_a_node(call: i64) -> bool {
    call == libc::SYS_mknod
}

#[cfg(not(target_arch = "x86_64"))]
fn mode_is_of_a_node(_: i64) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    #[test]
    fn special_files_are_refused_and_others_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        let script = "umask 0; touch plain; chmod 755 plain; mkdir dir; mkfifo fifo; touch a b; \
                      chmod 4755 a 2> /dev/null; chmod 2755 b 2> /dev/null; mknod node b 7 0 2> /dev/null; \
                      python3 -c 'import os; os.open(\"c\", os.O_CREAT | os.O_RDWR, 0o4755)' 2> /dev/null; true";
        command.args(["-c", script]).current_dir(dir.path());
        refuse_special_files(&mut command).unwrap();
        assert!(command.status().unwrap().success());
        let meta = |name: &str| fs::symlink_metadata(dir.path().join(name));
        let mode = |name: &str| meta(name).unwrap().permissions().mode() & 0o7777;
        assert_eq!([mode("plain"), mode("a") & 0o7000, mode("b") & 0o7000], [0o755, 0, 0]);
        assert!(meta("fifo").unwrap().file_type().is_fifo() && meta("dir").unwrap().is_dir());
        assert!(meta("node").is_err() && meta("c").is_err());
    }
}
