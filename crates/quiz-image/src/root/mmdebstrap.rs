//! Makes roots with mmdebstrap. It is fast, but needs privileges (or subordinate ids) and a host
//! that runs the guest's programs.

use super::model::{LEFT_OUT, PACKAGES, RootError, SETUP, Wanted};
use crate::squashfs::NEWEST_TIME;
use quiz_debian::apt;
use quiz_host::command::Run;
use quiz_host::report::{Report, Unit};
use std::path::Path;
use std::process::Command;

/// A hook for the merged /usr layout without `usrmerge`, which would install all of perl.
const MERGED_USR_HOOK: &str = "/usr/share/mmdebstrap/hooks/maybe-merged-usr";

/// Makes the archive `tar` of the `wanted` root's files. Takes about twenty seconds.
///
/// # Errors
/// [`RootError::Unprivileged`] and [`RootError::Foreign`] if it cannot work on this host.
pub(super) fn make(wanted: &Wanted, tar: &Path, log: &Path, report: &dyn Report) -> Result<(), RootError> {
    let name = wanted.name();
    let progress = report.start(&format!("making the root {name}"), None, Unit::None);
    let make = |updates| -> Result<(), RootError> {
        let command = mmdebstrap(wanted, &wanted.source.lines(updates)?, tar);
        let run = Run { command, doing: &format!("make the root {name}"), log };
        let mut last = String::new();
        Ok(run.run_group(|line| {
            if let Some(step) = line.strip_prefix("I: ")
                && step != last
            {
                progress.note(step.trim_end_matches('.'));
                last = step.to_owned();
            }
        })?)
    };
    match make(true) {
        Err(RootError::Command(error)) if wanted.source.can_do_without_updates(&error) => {
            report.say(&apt::without_updates(&wanted.source, &error));
            make(false)
        }
        other => other,
    }
    .map_err(|error| explain(error, wanted))?;
    progress.done();
    Ok(())
}

fn mmdebstrap(wanted: &Wanted, lines: &[String], tar: &Path) -> Command {
    let packages: Vec<&str> = PACKAGES.iter().copied().chain(wanted.extra_packages()).collect();
    let mut command = Command::new("mmdebstrap");
    command.env("SOURCE_DATE_EPOCH", NEWEST_TIME);
    command.arg("--variant=essential").arg("--format=tar").arg(format!("--include={}", packages.join(",")));
    command.arg(format!("--architectures={}", wanted.arch.debian));
    command.arg("--dpkgopt=force-unsafe-io");
    command.args(LEFT_OUT.iter().map(|pattern| format!("--dpkgopt=path-exclude={pattern}")));
    command.args(apt::host_connection_settings().lines().map(|l| format!("--aptopt={}", l.trim_end_matches(';'))));
    if Path::new(MERGED_USR_HOOK).is_dir() {
        command.arg(format!("--hook-dir={MERGED_USR_HOOK}"));
    }
    command.arg(format!("--customize-hook={SETUP}"));
    command.arg(wanted.source.base_release()).arg(tar).args(lines);
    command
}

/// Turns the two failures that the user can fix into advice.
fn explain(error: RootError, wanted: &Wanted) -> RootError {
    let RootError::Command(error) = error else { return error };
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|w| text.contains(w));
    // Its messages about working emulation mention binfmt, too.
    if says(&["neither be executed natively", "install arch-test", "cannot find /usr/bin/qemu-"]) {
        RootError::Foreign { arch: wanted.arch.name, cause: error }
    } else if says(&["unable to pick chroot mode", "subuid", "subgid", "newuidmap", "newgidmap", "unshare"]) {
        RootError::Unprivileged { cause: error }
    } else {
        RootError::Command(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quiz_debian::apt::Source;
    use quiz_host::command::CommandError;

    #[test]
    fn failures_that_the_user_can_mend_say_how() {
        let wanted = Wanted {
            source: Source::debian("bookworm"),
            arch: quiz_arch::find("x86_64").unwrap(),
            packages: Vec::new(),
        };
        let failed = |line: &str| {
            RootError::Command(CommandError::Failed {
                doing: "make the root x".to_owned(),
                program: "mmdebstrap".to_owned(),
                status: std::os::unix::process::ExitStatusExt::from_raw(256),
                lines: vec![line.to_owned()],
                log: "/log".into(),
            })
        };
        let foreign = "E: s390x can neither be executed natively nor via qemu user emulation with binfmt_misc";
        assert!(explain(failed(foreign), &wanted).to_string().contains("qemu-user-static"));
        let mode = "E: unable to pick chroot mode automatically (use --mode for manual selection)";
        assert!(explain(failed(mode), &wanted).to_string().contains("--add-subuids"));
        assert!(matches!(explain(failed("E: no such suite"), &wanted), RootError::Command(_)));
    }
}
