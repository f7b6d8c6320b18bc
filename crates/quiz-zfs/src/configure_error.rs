//! Explains why `configure` gave up: its own message, and the compiler's output before that. The
//! message does not name the file with that output. Not for running `configure`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs_err as fs;
use quiz_host::first_error::{first_error, first_error_of};

/// The lines that explain why `configure` gave up. It ran in `dir` from `began` on and printed
/// `said`. Empty if it did not report an error.
pub(crate) fn explain(dir: &Path, said: &str, began: SystemTime) -> Vec<String> {
    let mut lines = sentence(said);
    if lines.is_empty() {
        return lines;
    }
    let cause = of_kernel_test(dir, &lines, began).or_else(|| of_last_check(dir, began));
    if let Some((log, cause)) = cause {
        lines.push(format!("in {}:", log.display()));
        lines.extend(cause);
    }
    lines
}

/// `configure`'s own message.
fn sentence(said: &str) -> Vec<String> {
    let lines: Vec<&str> = said.lines().collect();
    let Some(at) = lines.iter().rposition(|line| line.starts_with("configure: error:")) else { return Vec::new() };
    lines[at..].iter().filter(|line| !line.trim().is_empty()).take(8).map(|line| (*line).to_owned()).collect()
}

/// The compiler's output for the small module that decides whether `configure` gives up with this
/// message. kbuild compiles such modules below `build`, and writes its output to files there.
fn of_kernel_test(dir: &Path, sentence: &[String], began: SystemTime) -> Option<(PathBuf, Vec<String>)> {
    let script = fs::read(dir.join("configure")).ok()?;
    let test = test_before(&String::from_utf8_lossy(&script), sentence)?;
    let part = format!("build/{test}/");
    kbuild_logs(dir, &test, began).ok()?.into_iter().find_map(|log| {
        let said = fs::read(&log).ok()?;
        let lines = first_error_of(&part, &String::from_utf8_lossy(&said));
        (!lines.is_empty()).then_some((log, lines))
    })
}

/// The name of the test whose module the script checks before it prints this message.
fn test_before(script: &str, sentence: &[String]) -> Option<String> {
    let first = sentence.iter().map(|line| line.strip_prefix("configure: error:").unwrap_or(line).trim());
    let first = first.into_iter().find(|line| line.chars().any(char::is_alphanumeric))?;
    // The message as written in the script, between double quotes of the shell.
    let quoted: String =
        first.chars().flat_map(|c| "\\\"`$".contains(c).then_some('\\').into_iter().chain([c])).collect();
    let before = &script[..script.find(&quoted)?];
    // `build/NAME/NAME.ko`
    before.rmatch_indices(".ko").find_map(|(end, _)| {
        let start = before[..end].rfind("build/")? + "build/".len();
        let (dir, file) = before[start..end].split_once('/')?;
        (dir == file && dir.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')).then(|| dir.to_owned())
    })
}

/// kbuild's output since `began`, the newest file first.
fn kbuild_logs(dir: &Path, test: &str, began: SystemTime) -> io::Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for dir in [dir.join("build").join(test), dir.join("build")] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("build.log") {
                logs.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
    }
    logs.retain(|(modified, _)| *modified >= began);
    logs.sort();
    Ok(logs.into_iter().rev().map(|(_, log)| log).collect())
}

/// How many checks are searched: the deciding one may be a few before the last.
const CHECKS: usize = 4;

/// The compiler's output in the last checks of this run in `config.log`.
fn of_last_check(dir: &Path, began: SystemTime) -> Option<(PathBuf, Vec<String>)> {
    let log = dir.join("config.log");
    if fs::metadata(&log).and_then(|meta| meta.modified()).ok()? < began {
        return None;
    }
    let text = fs::read(&log).ok()?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let says = |line: &str, what: &str| {
        let rest = line.strip_prefix("configure:").and_then(|rest| rest.split_once(": "));
        rest.is_some_and(|(number, said)| number.bytes().all(|b| b.is_ascii_digit()) && said.starts_with(what))
    };
    let end = lines.iter().rposition(|line| says(line, "error:"))?;
    let mut checks: Vec<usize> = (0..end).filter(|at| says(lines[*at], "checking ")).collect();
    checks.push(end);
    let newest = checks.windows(2).rev().take(CHECKS).find_map(|pair| {
        // Neither what configure does nor the program that it tried.
        let is_tools = |line: &&&str| !line.starts_with("configure:") && !line.starts_with("| ");
        let said: Vec<&str> = lines[pair[0]..pair[1]].iter().filter(is_tools).copied().collect();
        Some(first_error(&said.join("\n"))).filter(|found| !found.is_empty())
    });
    Some((log, newest?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    const LONG_AGO: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn the_sentence_is_found() {
        let said = "checking x... no\nconfigure: error: \n\t*** Cannot build against kernel version 7.0.\n\n\t*** The maximum is 6.14.\n";
        let dir = place(&[]);
        assert_eq!(
            explain(dir.path(), said, LONG_AGO),
            ["configure: error: ", "\t*** Cannot build against kernel version 7.0.", "\t*** The maximum is 6.14."]
        );
        assert!(explain(dir.path(), "all is well", LONG_AGO).is_empty());
    }

    #[test]
    fn the_compilers_words_about_the_deciding_module_are_found() {
        let script = "if test -f build/bdev/bdev.ko\nthen :\nelse as_fn_error $? \"no \\\"bdev\\\"\"\nfi\n\
            if test -d build/config_modules\nthen if test -f build/config_modules/config_modules.ko; then :\n\
            else as_fn_error $? \"\n\t*** No \\`modules\\` here!\n\t***\n\"\nfi\nif test -f build/later/later.ko\n";
        let log = "/w/build/bdev/bdev.c:1:1: error: expected to fail\nmake[2]: *** [x: /w/build/bdev/bdev.o] Error 1\n\
            gcc: error: unrecognized command-line option '-fno'\nmake[2]: *** [x: /w/build/config_modules/config_modules.o] Error 1\n";
        let dir = place(&[("configure", script), ("build/build.log.config", log), ("build/build.log", "nothing\n")]);
        let said = "configure: error: \n\t*** No `modules` here!\n\t***\n";
        let log = dir.path().join("build/build.log.config");
        let found = explain(dir.path(), said, LONG_AGO);
        assert_eq!(
            found[3..],
            [format!("in {}:", log.display()), "gcc: error: unrecognized command-line option '-fno'".to_owned()]
        );
        assert_eq!(
            explain(dir.path(), "configure: error: no \"bdev\"\n", LONG_AGO)[2],
            "/w/build/bdev/bdev.c:1:1: error: expected to fail"
        );
        // The log is from an earlier run.
        let soon = SystemTime::now() + std::time::Duration::from_secs(60);
        assert_eq!(explain(dir.path(), said, soon).len(), 3);
    }

    #[test]
    fn the_compilers_words_in_the_last_checks_are_found() {
        let log = "configure:10: checking for x.h\nconftest.c:1:10: fatal error: x.h: No such file or directory\nconfigure:10: $? = 1\n\
            configure: failed program was:\n| #include <x.h>\n| a.c:1:1: error: not it\nconfigure:11: result: no\n\
            configure:12: checking for libx\nconfigure:12: result: no\nconfigure:13: error: \n\t*** no libx\n";
        let dir = place(&[("config.log", log), ("configure", "")]);
        let found = explain(dir.path(), "configure: error: \n\t*** no libx\n", LONG_AGO);
        assert_eq!(found[2], format!("in {}:", dir.path().join("config.log").display()));
        assert_eq!(found[3..], ["conftest.c:1:10: fatal error: x.h: No such file or directory"]);
    }
}
