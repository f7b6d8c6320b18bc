//! Measures `quiz --cold true` against the bare floor and virtme-ng.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::floor::Floor;
use super::samples::{Samples, print};
use super::vng::Vng;
use crate::steps::released_quiz;

/// Measures in `rounds` turns.
pub fn run(rounds: usize, kernel: Option<&str>, with_vng: bool) -> Result<(), String> {
    let program = released_quiz()?;
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let worktree = dir.path().join("worktree");
    fs_err::create_dir_all(worktree.join(".quiz")).map_err(|e| e.to_string())?;
    let quiz = || {
        let mut command = Command::new(&program);
        command.current_dir(&worktree).args(["--cold", "-q"]);
        if let Some(kernel) = kernel {
            command.args(["-k", kernel]);
        }
        command
    };
    // The first run makes whatever is missing. Its record contains the command line for the other
    // contenders.
    let first = quiz().args(["--json", "true"]).output().map_err(|e| e.to_string())?;
    let record: Value = serde_json::from_slice(&first.stdout)
        .map_err(|e| format!("quiz gave no record ({e}): {}", String::from_utf8_lossy(&first.stderr)))?;
    let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
    let command_line = fs_err::read_to_string(PathBuf::from(text("dir")).join("command")).map_err(|e| e.to_string())?;
    let words = words(&command_line)?;
    println!("kernel {}, {} by {}, {} rounds", text("kernel"), text("machine"), text("accelerator"), rounds);
    // Without the TSC's rate a boot may hang; quiz's other kernel parameters make it faster.
    let floor = Floor::new(dir.path(), &words, &["tsc_early_khz="])?;
    let told = ["tsc_early_khz=", "tsc=", "lpj=", "no_timer_check", "nolapic_timer"];
    let told_floor = Floor::new(dir.path(), &words, &told)?;
    let vng = match with_vng {
        true => Some(Vng::new(&cache_dir()?, &image_for_vng(&words)?)?),
        false => None,
    };
    let emulated = text("accelerator") == "tcg";
    if let Some(vng) = &vng {
        vng.prove(emulated)?;
    }
    let mut floors = Samples::of("bare floor");
    let mut told_floors = Samples::of("bare floor, told time");
    let mut ours = Samples::of("quiz --cold true");
    let mut theirs = Samples::of("virtme-ng true");
    for _ in 0..rounds {
        floors.time(&mut floor.command())?;
        told_floors.time(&mut told_floor.command())?;
        ours.time(quiz().arg("true"))?;
        if let Some(vng) = &vng {
            theirs.time_if(vng.command(emulated).current_dir(&worktree), |output| output.status.code() == Some(255))?;
        }
    }
    match vng {
        Some(_) => {
            print(&[&floors, &told_floors, &ours, &theirs]);
            println!("virtme-ng / quiz: {:.1}", theirs.median() / ours.median());
        }
        None => print(&[&floors, &told_floors, &ours]),
    }
    Ok(())
}

/// The image for virtme-ng: the distribution's or the build's own image, which is beside quiz's.
pub(super) fn image_for_vng(words: &[String]) -> Result<PathBuf, String> {
    let at = words.iter().position(|word| word == "-kernel").ok_or("quiz gave QEMU no kernel")?;
    let kernel = PathBuf::from(&words[at + 1]);
    let beside = |name: &str| kernel.with_file_name(name);
    let images = [beside("bzImage"), beside("vmlinuz")];
    Ok(images.into_iter().find(|image| image.exists()).unwrap_or(kernel))
}

pub(super) fn cache_dir() -> Result<PathBuf, String> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = of("QUIZ_CACHE").or_else(|| of("HOME").map(|home| home.join(".cache/quiz")));
    let dir = cache.ok_or("HOME is not set")?.join("bench");
    fs_err::create_dir_all(&dir).map_err(|e| e.to_string())?;
    Ok(dir)
}

/// The arguments in a shell command line without expansions.
pub(super) fn words(line: &str) -> Result<Vec<String>, String> {
    let output =
        Command::new("sh").args(["-c", &format!("printf '%s\\0' {line}")]).output().map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).split('\0').map(str::to_owned).filter(|word| !word.is_empty()).collect())
}
