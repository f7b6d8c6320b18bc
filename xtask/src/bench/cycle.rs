//! Measures the time from an edited file of OpenZFS to the printed `zpool status`: what quiz adds
//! to `make`, compared with scripts that install, index, boot and load.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use quiz_testing::openzfs::{self, Release};
use serde_json::Value;

use super::samples::{Samples, print};
use crate::sh::check;
use crate::steps::released_quiz;

/// How a distribution's boot makes udev create its devices.
const UDEV: &str = "/lib/systemd/systemd-udevd --daemon && udevadm trigger --type=subsystems --action=add && \
                    udevadm trigger --type=devices --action=add && udevadm settle";
/// The command in the guest at the end.
const POOL: &str = "zpool create -f tank mirror /dev/quizm0 /dev/quizm1 && zpool status";

/// Measures in `rounds` turns, in `worktree` or in a separate checkout of OpenZFS 2.3.
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
    let edited = Edited::new(worktree.join("module/zfs/arc.c"))?;
    let make = || -> Command {
        let mut command = Command::new("make");
        command.current_dir(&build).args(["-s", "-j2"]);
        command
    };
    let scripts = Scripts::new(release)?;
    // Makes the root that has udev.
    check(quiz(&["-q", "--cold", "udevadm", "--version"]).env("QUIZ_PACKAGES", "udev"))?;
    let mut makes = Samples::of("make");
    let mut ours = Samples::of("quiz -p zfs,memdev");
    let mut installs = Samples::of("make install");
    let mut depmods = Samples::of("depmod");
    let mut boots = Samples::of("boot, udev, modprobe, pool");
    let mut theirs = Samples::of("the scripts' way, whole");
    for round in 0..rounds {
        edited.edit(round)?;
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

/// A source that is edited repeatedly, and restored at the end.
struct Edited {
    file: PathBuf,
    text: Vec<u8>,
}

impl Edited {
    fn new(file: PathBuf) -> Result<Edited, String> {
        let text = fs_err::read(&file).map_err(|e| e.to_string())?;
        Ok(Edited { file, text })
    }

    /// Edits the source so that its object differs from all earlier ones.
    fn edit(&self, round: usize) -> Result<(), String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|e| e.to_string())?;
        let line =
            format!("\nstatic const char quiz_bench[] __attribute__((__used__)) = \"{round} {}\";\n", now.as_nanos());
        fs_err::write(&self.file, [&self.text, line.as_bytes()].concat()).map_err(|e| e.to_string())?;
        // With a coarse clock, `make` could see its next product as equally old.
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    }
}

impl Drop for Edited {
    fn drop(&mut self) {
        if let Err(e) = fs_err::write(&self.file, &self.text) {
            eprintln!("{e}");
        }
    }
}

fn online(output: &std::process::Output) -> bool {
    output.status.success() && String::from_utf8_lossy(&output.stdout).contains("state: ONLINE")
}

/// The way without staging: everything is installed, indexed and loaded unstripped, from a share.
/// The boot is quiz's own, on a machine with PCI, and then waits for udev as the scripts do.
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
        // The index is made by depmod below instead.
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
            "{UDEV} && modprobe -d /install zfs && export PATH=/install/usr/sbin:/install/sbin:$PATH && \
             export LD_LIBRARY_PATH=/install/usr/lib:/install/lib && {POOL}"
        );
        quiz.env("QUIZ_PACKAGES", "udev");
        quiz.args(["--cold", "-q", "--machine", "q35", "-p", "memdev", "--timeout", "5m", "--share"]);
        quiz.arg(format!("{}:/install", self.tree().display())).args(["sh", "-c", &load]);
        quiz
    }
}
