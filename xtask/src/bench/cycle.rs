//! From a touched file of OpenZFS to the printed `zpool status`: what quiz adds to `make`, against the way of scripts that
//! install, index, boot and load.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use quiz_testing::openzfs::{self, Release};
use serde_json::Value;

use super::samples::{Samples, print};
use crate::steps::{check, released_quiz};

/// What is run in the guest in the end.
const POOL: &str = "zpool create -f tank mirror /dev/quizm0 /dev/quizm1 && zpool status";

/// Measures in `rounds` turns, in `worktree` or in a checkout of OpenZFS 2.3 of its own.
pub fn run(rounds: usize, kernel: Option<&str>, worktree: Option<&Path>) -> Result<(), String> {
    let program = released_quiz()?;
    let worktree = match worktree {
        Some(worktree) => fs_err::canonicalize(worktree).map_err(|e| e.to_string())?,
        None => openzfs::checkout(Release::BookwormBackports)?,
    };
    let quiz = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(&worktree).args(arguments);
        if let Some(kernel) = kernel {
            command.env("QUIZ_KERNEL", kernel);
        }
        command
    };
    println!("building OpenZFS in {} where that is not done yet", worktree.display());
    check(&mut quiz(&["zfs"]))?;
    let output = quiz(&["-q", "--json", "-p", "zfs,memdev", "uname", "-r"]).output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (release, record) = said.split_once('\n').ok_or(String::from_utf8_lossy(&output.stderr).into_owned())?;
    let record: Value = serde_json::from_str(record).map_err(|e| format!("quiz gave no record ({e}): {said}"))?;
    let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
    println!("kernel {}, {} by {}, {rounds} rounds", text("kernel"), text("machine"), text("accelerator"));
    let build = worktree.join(".quiz/build").join(release);
    let touched = worktree.join("module/zfs/arc.c");
    let make = || -> Command {
        let mut command = Command::new("make");
        command.current_dir(&build).args(["-s", "-j2"]);
        command
    };
    let scripts = Scripts::new(release)?;
    let mut makes = Samples::of("make");
    let mut ours = Samples::of("quiz -p zfs,memdev");
    let mut installs = Samples::of("make install");
    let mut depmods = Samples::of("depmod");
    let mut boots = Samples::of("boot, modprobe, pool");
    let mut theirs = Samples::of("the scripts' way, whole");
    for _ in 0..rounds {
        touch(&touched)?;
        makes.time(&mut make())?;
        ours.time_if(&mut quiz(&["-q", "-p", "zfs,memdev", "--timeout", "5m", "sh", "-c", POOL]), online)?;
        let install = installs.time(&mut scripts.install(&build))?;
        let depmod = depmods.time(&mut scripts.depmod())?;
        let boot = boots.time_if(&mut scripts.boot(quiz(&[])), online)?;
        theirs.add(install + depmod + boot);
    }
    print(&[&theirs, &installs, &depmods, &boots, &ours, &makes]);
    println!("quiz / the scripts' way: {:.3}", ours.median() / theirs.median());
    Ok(())
}

/// Later than whatever `make` has made of it.
fn touch(file: &Path) -> Result<(), String> {
    let file = fs_err::OpenOptions::new().append(true).open(file).map_err(|e| e.to_string())?;
    file.file().set_modified(SystemTime::now()).map_err(|e| e.to_string())?;
    // A clock that ticks slowly would let `make` see what it makes next as equally old.
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}

fn online(output: &std::process::Output) -> bool {
    output.status.success() && String::from_utf8_lossy(&output.stdout).contains("state: ONLINE")
}

/// How it is done without staging: everything is installed, indexed, and loaded as it was built, from a share. The boot is
/// quiz's own, on a machine with PCI: faster than the scripts', which also wait for udev.
struct Scripts {
    dir: tempfile::TempDir,
    release: String,
}

impl Scripts {
    fn new(release: &str) -> Result<Scripts, String> {
        let dir = tempfile::Builder::new().prefix("quiz-bench-").tempdir().map_err(|e| e.to_string())?;
        Ok(Scripts { dir, release: release.to_owned() })
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("install")
    }

    fn install(&self, build: &Path) -> Command {
        let mut command = Command::new("make");
        command.current_dir(build).args(["-s", "install"]).arg(format!("DESTDIR={}", self.tree().display()));
        // They leave that to depmod, below.
        command.arg("DEPMOD=true");
        command
    }

    fn depmod(&self) -> Command {
        let mut command = Command::new("depmod");
        command.arg("-b").arg(self.tree()).arg(&self.release);
        command
    }

    fn boot(&self, mut quiz: Command) -> Command {
        let load = format!(
            "modprobe -d /install zfs && export PATH=/install/usr/sbin:/install/sbin:$PATH && \
             export LD_LIBRARY_PATH=/install/usr/lib:/install/lib && {POOL}"
        );
        quiz.args(["--cold", "-q", "--machine", "q35", "-p", "memdev", "--timeout", "5m", "--share"]);
        quiz.arg(format!("{}:/install", self.tree().display())).args(["sh", "-c", &load]);
        quiz
    }
}
