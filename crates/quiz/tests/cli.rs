//! The program as it is called, in an environment with nothing in it. Not for runs of VMs.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::json;

/// A home directory, a worktree and nothing else.
struct Sealed {
    top: tempfile::TempDir,
}

impl Sealed {
    fn new() -> Sealed {
        let top = tempfile::tempdir().unwrap();
        for dir in ["home/.config/quiz", "tree/.git", "tree/sub", "bin"] {
            fs_err::create_dir_all(top.path().join(dir)).unwrap();
        }
        Sealed { top }
    }

    fn path(&self, name: &str) -> PathBuf {
        // quiz names directories without symbolic links.
        fs_err::canonicalize(self.top.path()).unwrap().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs_err::write(&path, text).unwrap();
        path
    }

    /// `quiz` in `tree/sub`.
    fn quiz(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quiz"));
        command.env_clear().env("HOME", self.path("home")).env("PATH", self.path("bin"));
        command.current_dir(self.path("tree/sub")).timeout(std::time::Duration::from_secs(60));
        command
    }

    fn fails(&self, args: &[&str]) -> String {
        let output = self.quiz().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
        assert_eq!(output.stdout, b"", "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn prints(&self, args: &[&str]) -> String {
        printed(self.quiz().args(args))
    }
}

fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn line_of<'a>(text: &'a str, key: &str) -> &'a str {
    let mut lines = text.lines();
    lines.find(|line| line.split_whitespace().next() == Some(key)).unwrap_or_else(|| panic!("no `{key}` in:\n{text}"))
}

#[test]
fn an_unknown_key_is_an_error_with_file_line_and_nearest_key() {
    let sealed = Sealed::new();
    let file = sealed.write("tree/quiz.toml", "cpus = 2\nmemroy = \"1G\"\n");
    let message = sealed.fails(&["config"]);
    assert!(message.starts_with(&format!("quiz: error: {}:2: unknown key `memroy`\n", file.display())), "{message}");
    assert!(message.contains("memroy = \"1G\""), "{message}");
    assert!(message.contains("did you mean `memory`?"), "{message}");
    assert_eq!(sealed.fails(&["true"]), message);
}

#[test]
fn all_mistakes_of_a_file_are_told() {
    let sealed = Sealed::new();
    let file = sealed.write("home/.config/quiz/config.toml", "memory = 512\n\n[kernel_build]\nllvm = \"yes\"\n");
    let message = sealed.fails(&["config"]);
    assert!(message.contains(&format!("{}:1: bad value of `memory`", file.display())), "{message}");
    assert!(message.contains(&format!("{}:4: bad value of `kernel_build.llvm`", file.display())), "{message}");
    assert!(message.contains("for example: memory = \"1G\""), "{message}");
}

#[test]
fn config_tells_each_value_and_where_it_comes_from() {
    let sealed = Sealed::new();
    let user = sealed.write("home/.config/quiz/config.toml", "cpus = 3\nrelease = \"trixie\"\n");
    let tree = sealed.write("tree/quiz.toml", "\nmemory = \"3G\"\ncpus = 5\nprofiles = [\"zfs\"]\n");
    let text = printed(sealed.quiz().env("QUIZ_ACCEL", "tcg").args(["-p", "memdev", "--timeout", "90s", "config"]));
    let expected = [
        ("cpus", format!("5 {}:3", tree.display())),
        ("release", format!("\"trixie\" {}:2", user.display())),
        ("memory", format!("\"3G\" {}:2", tree.display())),
        ("accel", "\"tcg\" QUIZ_ACCEL".to_owned()),
        ("timeout", "\"1m30s\" --timeout".to_owned()),
        ("machine", "\"auto\" built in".to_owned()),
        ("profiles", format!("[\"zfs\", \"memdev\"] {}:4 + --profile", tree.display())),
        ("kernel", "(the best one that is installed)".to_owned()),
    ];
    for (key, rest) in expected {
        let words: Vec<&str> = line_of(&text, key).split_whitespace().skip(1).collect();
        assert_eq!(words.join(" "), rest, "{key}");
    }
}

#[test]
fn config_as_json_is_the_same_in_records() {
    let sealed = Sealed::new();
    let json = printed(sealed.quiz().env("QUIZ_MEMORY", "2G").args(["config", "memory", "kernel", "--json"]));
    let records: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(records[1]["key"], "memory");
    assert_eq!(records[1]["value"], "2G");
    assert_eq!(records[1]["layers"], serde_json::json!(["environment"]));
    assert_eq!(records[1]["origins"], serde_json::json!(["QUIZ_MEMORY"]));
    assert_eq!(records[0]["value"], serde_json::Value::Null);
}

#[test]
fn bad_values_name_the_variable_or_the_option() {
    let sealed = Sealed::new();
    let output = sealed.quiz().env("QUIZ_MEMORY", "lots").arg("true").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("quiz: error: QUIZ_MEMORY: `lots` is not a size"));
    assert!(sealed.fails(&["--timeout", "30", "true"]).starts_with("quiz: error: --timeout: `30` has no unit"));
    assert!(sealed.fails(&["-a", "vax", "true"]).contains("--arch: `vax` is not an architecture"));
    assert!(sealed.fails(&["-m", "1M", "true"]).contains("too little for a guest; the least is 64M (--memory)"));
}

#[test]
fn unknown_variables_are_warned_of_and_quiet_is_quiet() {
    let sealed = Sealed::new();
    let output = sealed.quiz().env("QUIZ_MEMROY", "1G").arg("config").output().unwrap();
    assert!(output.status.success());
    let warning = "quiz: warning: the variable QUIZ_MEMROY means nothing to quiz; did you mean QUIZ_MEMORY?\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), warning);
    let output = sealed.quiz().env("QUIZ_MEMROY", "1G").args(["-q", "config"]).output().unwrap();
    assert_eq!(output.stderr, b"");
}

#[test]
fn verbs_about_vms_say_that_none_runs() {
    let sealed = Sealed::new();
    for line in [&["exec", "true"][..], &["attach"], &["kill"], &["cp", ":/x", "."]] {
        let message = sealed.fails(line);
        assert!(message.starts_with("quiz: error: no VM of this worktree runs"), "{message}");
    }
    assert!(sealed.fails(&["-p", "zfs", "exec", "true"]).contains("option of runs"));
}

#[test]
fn a_bad_command_line_is_a_fault_and_says_what_is_wrong() {
    let sealed = Sealed::new();
    let message = sealed.fails(&["--nosuch", "true"]);
    assert!(message.starts_with("quiz: error: unexpected argument '--nosuch'"), "{message}");
    assert!(sealed.fails(&["kernel", "nosuch"]).contains("nosuch"));
    assert!(sealed.fails(&["-p", "zfs", "zfs", "list"]).contains("quiz [OPTIONS] -- NAME"));
    assert!(sealed.fails(&["-k", "6.12", "kernel", "list"]).contains("--kernel has no effect before this command"));
    assert!(sealed.fails(&["config", "memroy"]).contains("did you mean `memory`?"));
    assert!(sealed.fails(&["-C", "nowhere", "config"]).starts_with("quiz: error: --directory:"));
}

#[test]
fn help_and_completions_read_no_settings() {
    let sealed = Sealed::new();
    sealed.write("home/.config/quiz/config.toml", "this is no TOML\n");
    sealed.write("tree/quiz.toml", "neither = is = this\n");
    let help = sealed.prints(&["--help"]);
    for part in
        ["quiz -- NAME", "/quiz/out", "121 ", "122 ", "124 ", "125 ", "126, 127", "129, 130, 143", "kernel", "-S"]
    {
        assert!(help.contains(part), "{part} in:\n{help}");
    }
    for verb in ["run", "kernel", "root", "config", "doctor", "completions"] {
        assert!(sealed.prints(&[verb, "--help"]).contains("Usage: quiz"), "{verb}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = sealed.prints(&["completions", shell]);
        assert!(script.contains("quiz") && script.contains("shell-after"), "{shell}");
    }
    assert!(sealed.prints(&["--version"]).starts_with("quiz "));
}

#[test]
fn a_directory_option_moves_to_another_worktree() {
    let sealed = Sealed::new();
    fs_err::create_dir_all(sealed.path("other/.quiz")).unwrap();
    sealed.write("other/quiz.toml", "cpus = 7\n");
    assert!(line_of(&sealed.prints(&["-C", "../../other", "config"]), "cpus").contains("other/quiz.toml:1"));
    assert!(line_of(&sealed.prints(&["config"]), "cpus").ends_with("built in"));
}

#[test]
fn without_a_home_only_what_needs_one_fails() {
    let sealed = Sealed::new();
    let without_home = |args: &[&str]| sealed.quiz().env_remove("HOME").args(args).output().unwrap();
    assert!(without_home(&["config"]).status.success());
    let output = without_home(&["kernel", "list"]);
    assert_eq!(output.status.code(), Some(125));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message, "quiz: error: cannot find a place for the cache: HOME is not set; set it, or QUIZ_CACHE\n");
    let cache = sealed.path("cache");
    assert!(
        sealed
            .quiz()
            .env_remove("HOME")
            .env("QUIZ_CACHE", cache)
            .args(["kernel", "list"])
            .output()
            .unwrap()
            .status
            .success()
    );
}

#[test]
fn git_in_the_home_directory_makes_no_worktree_of_it() {
    let sealed = Sealed::new();
    fs_err::create_dir_all(sealed.path("home/.git")).unwrap();
    let doctor = |dir: &Path| {
        let output = sealed.quiz().current_dir(dir).args(["doctor", "--json"]).output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["worktree"].clone()
    };
    assert_eq!(doctor(&sealed.path("home")), serde_json::Value::Null);
    assert_eq!(doctor(&sealed.path("tree/sub")), sealed.path("tree").display().to_string());
}

#[test]
fn an_empty_cache_lists_nothing_and_says_how_to_begin() {
    let sealed = Sealed::new();
    assert!(sealed.prints(&["kernel", "list"]).contains("quiz kernel add"));
    assert_eq!(sealed.prints(&["kernel", "list", "--json"]), "[]\n");
    assert!(sealed.prints(&["root", "list"]).contains("quiz root build"));
    assert_eq!(sealed.prints(&["root", "list", "--json"]), "[]\n");
    assert_eq!(sealed.prints(&["kernel", "prune"]), "nothing to remove\n");
    assert!(sealed.fails(&["kernel", "rm", "6.12"]).contains("there is no kernel `6.12`"));
    assert!(sealed.fails(&["root", "rm", "x"]).contains("there is no root `x`"));
    let message = sealed.fails(&["kernel", "show", "5.15"]);
    assert!(message.contains("no kernel `5.15`") && message.contains("quiz kernel build 5.15"), "{message}");
    assert_eq!(sealed.fails(&["-k", "5.15", "true"]), message, "a run says the same");
    assert!(!sealed.path("home/.cache").exists(), "looking changes nothing");
}

#[test]
fn doctor_works_without_any_tools_and_names_them_all() {
    let sealed = Sealed::new();
    let all = |args: &[&str]| String::from_utf8(sealed.quiz().args(args).output().unwrap().stdout).unwrap();
    let text = all(&["doctor", "--all"]);
    // Programs are also looked for in the sbin directories, so only these are sure to be missing.
    for program in ["qemu-system-x86_64", "sqfstar", "apt-get", "gcc"] {
        assert!(line_of(&text, program).contains("missing"), "{text}");
    }
    let output = sealed.quiz().arg("doctor").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.lines().any(|l| l.starts_with("run programs ") && l.contains("missing: qemu-system-x86_64")),
        "{text}"
    );
    assert!(text.contains("not ready: "), "{text}");
    let json: serde_json::Value = serde_json::from_str(&all(&["doctor", "--json"])).unwrap();
    assert_eq!(json["ready"], false);
    assert!(json["needs"].as_array().unwrap().iter().any(|need| need["name"] == "sqfstar" && need["found"] == false));
    let of_run = |row: &&serde_json::Value| row["purpose"] == "run" && row["arch"] == std::env::consts::ARCH;
    let run = json["purposes"].as_array().unwrap().iter().find(of_run).unwrap();
    assert_eq!(run["ready"], false);
    assert!(run["missing"].as_array().unwrap().iter().any(|name| name == "qemu-system-x86_64"), "{run}");
}

#[test]
fn doctor_fits_on_one_screen_and_ends_with_its_verdict_and_one_command() {
    let sealed = Sealed::new();
    let output = sealed.quiz().arg("doctor").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().count() <= 24, "{text}");
    let mut last = text.lines().rev();
    let (command, verdict) = (last.next().unwrap(), last.next().unwrap());
    assert!(verdict.starts_with("not ready: "), "{text}");
    assert!(command.contains("install"), "{text}");
    assert!(!text.contains("mips"), "other architectures are one line: {text}");
}

#[test]
fn missing_programs_are_all_named_before_anything_is_begun() {
    let sealed = Sealed::new();
    let message = sealed.fails(&["kernel", "add"]);
    assert!(message.starts_with("quiz: error: this host lacks apt-get"), "{message}");
    assert!(message.contains("dpkg-deb") && message.contains("quiz: hint: "), "{message}");
    let message = sealed.fails(&["root", "build"]);
    assert!(message.contains("apt-get") && message.contains("runs VMs"), "it can do without mmdebstrap: {message}");
    let message = sealed.fails(&["root", "build", "--builder", "mmdebstrap"]);
    assert!(message.contains("apt-get") && message.contains("mmdebstrap"), "{message}");
}

#[test]
fn a_kernel_build_that_makes_no_sense_is_refused_before_anything_is_fetched() {
    let sealed = Sealed::new();
    for (args, message) in [
        (&["kernel", "build"][..], "the following required arguments were not provided"),
        (&["kernel", "build", "6.12", "--all"], "cannot be used with"),
        (&["kernel", "build", "6.x"], "`6.x` is not a kernel version"),
        (&["kernel", "build", "6.12", "-e", "KASAN", "-d", "CONFIG_KASAN"], "KASAN is given twice"),
        (&["kernel", "build", "6.12", "-s", "NOVALUE"], "NOVALUE"),
        (&["kernel", "build", "6.12", "-f", "nosuch"], "no configuration fragment `nosuch`"),
        (&["kernel", "build", "--tree", "nowhere"], "nowhere"),
        (&["kernel", "build", "6.12", "-a", "vax"], "quiz knows no architecture `vax`"),
        // Only then are the host's programs looked for.
        (&["kernel", "build", "6.12"], "this host lacks gcc"),
    ] {
        let told = sealed.fails(args);
        assert!(told.contains(message), "{args:?}: {told}");
    }
    assert!(!sealed.path("home/.cache").exists());
}

/// A program that leaves a sign of having been run, and fails.
fn trap(sealed: &Sealed, path: &str) -> PathBuf {
    let sign = sealed.path("sign");
    let file = sealed.path(path);
    fs_err::create_dir_all(file.parent().unwrap()).unwrap();
    fs_err::write(&file, format!("#!/bin/sh\n: > {}\nexit 1\n", sign.display())).unwrap();
    fs_err::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    sign
}

#[test]
fn a_worktree_reaches_the_host_only_where_it_was_allowed() {
    let sealed = Sealed::new();
    let outside = sealed.path("home");
    for setting in [
        "qemu = \"./tools/q\"",
        "qemu_args = [\"-d\", \"guest_errors\"]",
        "watch_build = \"touch x\"",
        "worktree = \"rw\"",
        "special_files = true",
        "env = [\"GITHUB_TOKEN\"]",
        "mirrors = [\"http://localhost:1/debian\"]",
        "keyring = \"key.gpg\"",
        "shares = [\"~:/h\"]",
        "shares = [\".:/h:rw\"]",
        "disks = [\"/dev/sda\"]",
        "disks = [\"./.git/config\"]",
        "kernel_build.prefix = \"./tools/q\"",
        "kernel_build.mirror = \"http://localhost:1/\"",
        "kernel_build.fragments = [\"./x.config\"]",
        "[profile.blockdev]\npersist = \"x\"",
    ] {
        sealed.write("tree/quiz.toml", &format!("{setting}\n"));
        for args in [&["true"][..], &["kernel", "build", "6.12"]] {
            let said = sealed.fails(args);
            let key = setting.split_whitespace().next().unwrap().trim_matches(['[', ']']);
            assert!(said.contains("is not allowed yet") && said.contains(key), "{setting}: {said}");
            assert!(said.contains("quiz.toml:") && said.contains("`quiz allow` allows it"), "{setting}: {said}");
        }
    }
    // A link of the worktree's that leads out of it.
    std::os::unix::fs::symlink(&outside, sealed.path("tree/link")).unwrap();
    sealed.write("tree/quiz.toml", "shares = [\"./link:/h\"]\n");
    assert!(sealed.fails(&["true"]).contains("is not allowed yet"));
    // What concerns the guest alone needs no leave, and neither does looking.
    sealed.write("tree/quiz.toml", "qemu = \"./tools/q\"\n");
    assert!(sealed.prints(&["config"]).contains("tools/q"));
    sealed.write(
        "tree/quiz.toml",
        "memory = \"2G\"\ncpus = 2\nkernel = \"6.12\"\ntimeout = \"1m\"\nprofiles = [\"zfs\"]\ndisks = [\"1G\"]\n\
         env = [\"LANG=C\"]\nshares = [\"./sub:/sub\"]\nstandby = true\n",
    );
    let said = sealed.fails(&["true"]);
    assert!(!said.contains("allow"), "{said}");
}

#[test]
fn what_was_allowed_is_asked_for_again_when_it_changes() {
    let sealed = Sealed::new();
    let sign = trap(&sealed, "tree/tools/q");
    sealed.write("tree/quiz.toml", "qemu = \"./tools/q\"\n");
    assert!(sealed.fails(&["true"]).contains("is not allowed yet"));
    assert!(!sign.exists());
    assert!(sealed.prints(&["allow", "--show"]).contains("tools/q"));
    assert!(sealed.fails(&["true"]).contains("is not allowed yet"), "showing allows nothing");
    assert!(sealed.prints(&["allow"]).contains("qemu = "));
    assert!(!sealed.fails(&["true"]).contains("allow"));
    // Another harmless setting changes nothing.
    sealed.write("tree/quiz.toml", "memory = \"2G\"\nqemu = \"./tools/q\"\n");
    assert!(!sealed.fails(&["true"]).contains("allow"));
    // A program of the worktree's is a part of what was allowed.
    sealed.write("tree/tools/q", "#!/bin/sh\nexit 2\n");
    assert!(sealed.fails(&["true"]).contains("has changed since you allowed it"));
    sealed.prints(&["allow"]);
    assert!(!sealed.fails(&["true"]).contains("allow"));
    sealed.write("tree/quiz.toml", "qemu = \"./tools/q\"\nqemu_args = [\"-S\"]\n");
    assert!(sealed.fails(&["true"]).contains("has changed since you allowed it"));
    // What is said on the command line is the user's own.
    let own = sealed.path("bin/none").display().to_string();
    sealed.write("tree/quiz.toml", "qemu = \"./tools/other\"\n");
    assert!(!sealed.fails(&["--qemu", &own, "true"]).contains("allow"));
    sealed.prints(&["allow", "--forget"]);
    assert!(sealed.fails(&["true"]).contains("is not allowed yet"));
    // A copy of the worktree is another one.
    assert!(sealed.path("home/.local/state/quiz/allowed").is_dir());
}

#[test]
fn a_record_that_came_with_the_worktree_is_not_replayed_unasked() {
    let sealed = Sealed::new();
    let sign = trap(&sealed, "tree/tools/q");
    let (dir, program) = (sealed.path("tree"), sealed.path("tree/tools/q"));
    let run = "tree/.quiz/runs/20260101-000000-abcdef";
    fs_err::create_dir_all(sealed.path(run)).unwrap();
    let mut record: serde_json::Value =
        serde_json::from_str(include_str!("../../quiz-run/src/outcome/record.json")).unwrap();
    record["call"] = json!({ "directory": dir, "words": ["true"], "variables": { "QUIZ_QEMU": program } });
    let record = record.to_string();
    sealed.write(&format!("{run}/result.json"), &record);
    let said = sealed.fails(&["replay"]);
    assert!(said.contains("is not allowed yet") && said.contains("QUIZ_QEMU="), "{said}");
    assert!(said.contains("`quiz allow --run 20260101-000000-abcdef`"), "{said}");
    assert!(!sign.exists());
    assert!(sealed.prints(&["allow", "--run", "abcdef"]).contains("QUIZ_QEMU="));
    assert!(!sealed.fails(&["replay"]).contains("allow"));
}
