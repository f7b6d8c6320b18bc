//! Measures `quiz true` from a template against the bare restore, a cold start and virtme-ng; and
//! the same with OpenZFS and a pool.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::cold::{cache_dir, image_for_vng, words};
use super::restore::Restore;
use super::samples::{Samples, print};
use super::vng::Vng;
use crate::steps::released_quiz;

/// Measures in `rounds` turns. `zfs` is a worktree of OpenZFS; it is built, and a pool in it is
/// measured, too.
pub fn run(rounds: usize, kernel: Option<&str>, with_vng: bool, zfs: Option<&Path>) -> Result<(), String> {
    let program = released_quiz()?;
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let worktree = dir.path().join("worktree");
    fs_err::create_dir_all(worktree.join(".quiz")).map_err(|e| e.to_string())?;
    let quiz = |dir: &Path, arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(dir).arg("-q").args(arguments);
        if let Some(kernel) = kernel {
            command.env("QUIZ_KERNEL", kernel);
        }
        command
    };
    // The first run makes the template. The record of the second has the command line for the other
    // contenders.
    let record = |dir: &Path, arguments: &[&str]| -> Result<Value, String> {
        let arguments = [&["--json"], arguments].concat();
        quiz(dir, &arguments).output().map_err(|e| e.to_string())?;
        let output = quiz(dir, &arguments).output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = said.lines().last().unwrap_or_default();
        let record: Value = serde_json::from_str(line)
            .map_err(|e| format!("quiz gave no record ({e}): {}", String::from_utf8_lossy(&output.stderr)))?;
        match record["template"].as_str() {
            Some(_) => Ok(record),
            None => Err("quiz did not start from a template; -v says why".to_owned()),
        }
    };
    let first = record(&worktree, &["true"])?;
    let text = |key: &str| first[key].as_str().unwrap_or_default().to_owned();
    let line = fs_err::read_to_string(PathBuf::from(text("dir")).join("command")).map_err(|e| e.to_string())?;
    let line = words(&line)?;
    println!("kernel {}, {} by {}, {rounds} rounds", text("kernel"), text("machine"), text("accelerator"));
    let restore = Restore::new(dir.path(), &line)?;
    let emulated = text("accelerator") == "tcg";
    let vng = match with_vng {
        true => Some(Vng::new(&cache_dir()?, &image_for_vng(&line)?)?),
        false => None,
    };
    let mut floors = Samples::of("bare restore");
    let mut warm = Samples::of("quiz true");
    let mut waiting = Samples::of("quiz true, a VM waits");
    let mut cold = Samples::of("quiz --cold true");
    let mut theirs = Samples::of("virtme-ng true");
    for _ in 0..rounds {
        floors.add(restore.time()?);
        warm.time(&mut quiz(&worktree, &["true"]))?;
        cold.time(&mut quiz(&worktree, &["--cold", "true"]))?;
        waiting.add(with_one_waiting(&|words| quiz(&worktree, &[words, &["true"]].concat()))?);
        if let Some(vng) = &vng {
            theirs.time_if(vng.command(emulated).current_dir(&worktree), |output| output.status.code() == Some(255))?;
        }
    }
    match &vng {
        Some(_) => print(&[&floors, &waiting, &warm, &cold, &theirs]),
        None => print(&[&floors, &waiting, &warm, &cold]),
    }
    for (name, ours) in [("warm", &warm), ("waiting", &waiting)] {
        println!("cold / {name}: {:.1}", cold.median() / ours.median());
        if vng.is_some() {
            println!("virtme-ng / {name}: {:.1}", theirs.median() / ours.median());
        }
    }
    let Some(zfs) = zfs else { return Ok(()) };
    let pool = ["-p", "zfs,memdev,pool", "zpool", "status"];
    record(zfs, &pool)?;
    let mut warm = Samples::of("zpool status");
    let mut waiting = Samples::of("zpool status, a VM waits");
    let mut cold = Samples::of("--cold zpool status");
    for _ in 0..rounds {
        warm.time(&mut quiz(zfs, &pool))?;
        waiting.add(with_one_waiting(&|words| quiz(zfs, &[words, &pool].concat()))?);
        cold.time(quiz(zfs, &["--cold"]).args(pool))?;
    }
    print(&[&cold, &warm, &waiting]);
    Ok(())
}

/// The time of a run that uses a standby VM, after a run that has left one.
fn with_one_waiting(quiz: &dyn Fn(&[&str]) -> Command) -> Result<Duration, String> {
    let waits = cache_dir()?.with_file_name("standby");
    let mut time = Duration::ZERO;
    for _ in 0..2 {
        let before = sockets(&waits);
        let begin = Instant::now();
        let output = quiz(&["--json"]).env("QUIZ_STANDBY", "true").output().map_err(|e| e.to_string())?;
        time = begin.elapsed();
        let record = String::from_utf8_lossy(&output.stdout).lines().last().map(str::to_owned).unwrap_or_default();
        let record: Value = serde_json::from_str(&record).map_err(|e| format!("quiz gave no record: {e}"))?;
        // The next standby VM must be ready, and no process may still be working on it.
        let limit = Instant::now() + Duration::from_secs(30);
        while sockets(&waits).iter().all(|socket| before.contains(socket)) {
            if Instant::now() > limit {
                return Err("no VM waits for the next run".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if record["start"] == "standby" {
            return Ok(time);
        }
    }
    Err(format!("the run of {} ms did not take the VM that waited", time.as_millis()))
}

/// The directories of standby VMs, with the times since when they are ready.
fn sockets(dir: &Path) -> Vec<(PathBuf, Option<SystemTime>)> {
    let found = fs_err::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let found = found.filter(|path| path.extension().is_some_and(|extension| extension == "sock"));
    found.map(|path| (path.clone(), fs_err::metadata(path).and_then(|meta| meta.modified()).ok())).collect()
}
