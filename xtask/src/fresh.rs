//! `cargo xtask fresh`: runs the README's quick start on a pristine Debian, without anything that
//! was installed by hand.
//!
//! mmdebstrap makes the pristine system in a directory. The commands run there with `chroot`, in a
//! separate mount namespace, so that no mount remains in any case. The system shares the host's
//! kernel, network and Rust toolchain. Its home, cache and packages are separate.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Args;
use fs_err as fs;
use quiz_debian::apt::host_connection_settings;
use quiz_host::tools::Distribution;

use crate::runner::Job;
use crate::sh::{cargo, check, target_dir, top};

/// What is proved, and where.
#[derive(Args)]
pub struct Fresh {
    /// The Debian release of the pristine system [default: the host's, else bookworm]
    #[arg(long)]
    release: Option<String>,
    /// As an ordinary user with sudo and without subordinate ids: the first command, and the same
    /// for a guest of another architecture
    #[arg(long)]
    user: bool,
    /// With the programs that are built already: set-up, doctor, a native and a foreign root, one
    /// VM. Takes minutes, not an hour
    #[arg(long, conflicts_with = "user")]
    short: bool,
    /// With `--short`: this quiz [default: one that is built now]
    #[arg(long, value_name = "FILE", requires = "short")]
    quiz: Option<PathBuf>,
    /// Run these commands in the pristine system instead of the README's; can be repeated
    #[arg(long, value_name = "COMMAND", conflicts_with = "short")]
    command: Vec<String>,
    /// Make the pristine system below this directory, and leave it there
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// The architecture of the foreign root in the short form.
const FOREIGN: &str = "s390x";
/// Mount points of the toolchain and the source in the pristine system.
const TOOLCHAIN: &str = "/usr/local/rust";
const USER: &str = "developer";

/// Makes the pristine system, runs the commands in it, and prints how long each took.
///
/// # Errors
/// Names the command that failed.
pub fn run(fresh: &Fresh) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("making and entering a pristine system needs root: run this with sudo".to_owned());
    }
    let release = fresh.release.clone().unwrap_or_else(default_release);
    let temporary = tempfile::Builder::new().prefix("quiz-fresh-").tempdir().map_err(|e| e.to_string())?;
    let dir = fresh.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    let mut steps = Steps::default();
    let system = steps.take("mmdebstrap", || System::make(&dir.join("root"), &release, fresh.user))?;
    let ended = if fresh.short { short(fresh, &system, &mut steps) } else { whole(fresh, &system, &mut steps) };
    println!("\nDebian {release}, pristine{}:\n", if fresh.user { ", as an ordinary user" } else { "" });
    println!("| step | time |\n| --- | --- |");
    for (name, seconds) in &steps.0 {
        println!("| {name} | {} |", minutes(*seconds));
    }
    ended
}

/// The short form as a job, to run beside the tests.
pub fn short_job() -> Result<Job, String> {
    let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
    command.args(["fresh", "--short", "--quiz"]).arg(target_dir().join("debug/quiz"));
    Ok(Job { name: "fresh".to_owned(), command, after: Vec::new(), guess: 300.0 })
}

/// Runs the README's commands unchanged.
fn whole(fresh: &Fresh, system: &System, steps: &mut Steps) -> Result<(), String> {
    let home = system.home();
    steps.take("copy of the source", || system.copy_source(&home.join("quiz")))?;
    let readme = fs::read_to_string(top().join("README.md")).map_err(|e| e.to_string())?;
    let mut commands = quick_start(&readme);
    if commands.len() != 2 {
        return Err(format!("the README's quick start has {} commands instead of two", commands.len()));
    }
    if fresh.user {
        commands = vec![commands.remove(0), format!("cargo xtask quiz -a {FOREIGN} uname -m")];
    }
    if !fresh.command.is_empty() {
        commands.clone_from(&fresh.command);
    }
    for command in &commands {
        steps.take(&format!("`{command}`"), || system.run(&home.join("quiz"), command))?;
    }
    Ok(())
}

fn short(fresh: &Fresh, system: &System, steps: &mut Steps) -> Result<(), String> {
    let quiz = match &fresh.quiz {
        Some(quiz) => quiz.clone(),
        None => {
            check(cargo().args(["build", "--quiet", "--locked", "--package", "quiz"]))?;
            target_dir().join("debug/quiz")
        }
    };
    let bin = system.dir.join("usr/local/bin");
    let copy = |from: &Path, name: &str| fs::copy(from, bin.join(name)).map(|_| ()).map_err(|e| e.to_string());
    copy(&quiz, "quiz")?;
    copy(&std::env::current_exe().map_err(|e| e.to_string())?, "quiz-xtask")?;
    let home = system.home();
    let mut run = |command: &str| steps.take(&format!("`{command}`"), || system.run(&home, command));
    run(&format!("quiz-xtask setup --tests --arch {FOREIGN}"))?;
    run("quiz doctor --all")?;
    let doctor = system.output(&home, "quiz doctor --json")?;
    let record: serde_json::Value = serde_json::from_str(&doctor).map_err(|e| format!("quiz doctor --json: {e}"))?;
    is_ready(&record)?;
    run("quiz root build")?;
    run(&format!("quiz root build --arch {FOREIGN}"))?;
    run("quiz uname -a")
}

/// Fails unless doctor reports the host ready for all tests and benchmarks.
fn is_ready(doctor: &serde_json::Value) -> Result<(), String> {
    let purposes =
        doctor["purposes"].as_array().filter(|list| !list.is_empty()).ok_or("quiz doctor tells no purposes")?;
    let own = quiz_arch::host().name;
    // Tests and benchmarks do not use Clang or the fuzzer.
    let others = |p: &serde_json::Value| p["purpose"] == "kernel-llvm" || p["purpose"] == "fuzz";
    let concerned = purposes.iter().filter(|p| (p["arch"] == own || p["arch"] == FOREIGN) && !others(p));
    let lacking: Vec<String> = concerned.filter(|p| p["ready"] != true).map(ToString::to_string).collect();
    if lacking.is_empty() {
        Ok(())
    } else {
        Err(format!("after set-up, doctor finds this not ready: {}", lacking.join(", ")))
    }
}

/// The steps done, with their durations in seconds.
#[derive(Default)]
struct Steps(Vec<(String, f64)>);

impl Steps {
    fn take<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        eprintln!("xtask: fresh: {name}");
        let start = Instant::now();
        let done = work();
        let failed = if done.is_err() { " (failed)" } else { "" };
        self.0.push((format!("{name}{failed}"), start.elapsed().as_secs_f64()));
        done.map_err(|e| format!("on the pristine system: {name}: {e}"))
    }
}

fn minutes(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    if whole < 60 { format!("{whole} s") } else { format!("{} min {} s", whole / 60, whole % 60) }
}

/// The commands of the README's first code block after the heading "Quick start", without comments.
fn quick_start(readme: &str) -> Vec<String> {
    let section = readme.split_once("## Quick start").map_or("", |(_, rest)| rest);
    let block = section.split("```").nth(1).unwrap_or("");
    let commands = block.lines().map(|line| line.split(" #").next().unwrap_or("").trim().to_owned());
    commands.filter(|command| !command.is_empty()).collect()
}

fn default_release() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let is_debian = Distribution::from_os_release(&text).name.starts_with("Debian");
    codename.filter(|_| is_debian).unwrap_or("bookworm").to_owned()
}

/// A pristine Debian in a directory.
struct System {
    dir: PathBuf,
    user: bool,
}

impl System {
    fn make(dir: &Path, release: &str, user: bool) -> Result<System, String> {
        // Rust needs a linker, a C library to link with, and certificates for fetching crates.
        let include = if user { "ca-certificates,gcc,libc6-dev,sudo" } else { "ca-certificates,gcc,libc6-dev" };
        let options = dir.with_extension("apt.conf");
        fs::create_dir_all(dir.parent().unwrap_or(Path::new("/"))).map_err(|e| e.to_string())?;
        fs::write(&options, host_connection_settings()).map_err(|e| e.to_string())?;
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(["--quiet", "--mode=root", "--variant=minbase", "--include", include]);
        mmdebstrap.arg("--aptopt").arg(&options).arg(release).arg(dir);
        check(mmdebstrap.stdin(Stdio::null()))?;
        let system = System { dir: dir.to_owned(), user };
        system.take_network_over().map_err(|e| format!("the network's settings: {e}"))?;
        if user {
            system.add_user().map_err(|e| format!("a user: {e}"))?;
        }
        Ok(system)
    }

    /// Copies files for the host's network: names and certificates.
    fn take_network_over(&self) -> std::io::Result<()> {
        for file in ["/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"] {
            if let Ok(contents) = fs::read(file) {
                let own = self.dir.join(&file[1..]);
                // A symbolic link would lead out of the directory.
                fs::remove_file(&own).ok();
                fs::write(own, contents)?;
            }
        }
        fs::create_dir_all(self.dir.join(&TOOLCHAIN[1..]))
    }

    fn add_user(&self) -> Result<(), String> {
        check(
            self.chroot("root", "/", &format!("useradd --create-home --shell /bin/bash {USER}")).stdin(Stdio::null()),
        )?;
        // As on a machine where nobody has set up subordinate ids.
        for file in ["etc/subuid", "etc/subgid"] {
            fs::write(self.dir.join(file), "").map_err(|e| e.to_string())?;
        }
        let rule = format!("{USER} ALL=(ALL) NOPASSWD: ALL\n");
        fs::write(self.dir.join("etc/sudoers.d").join(USER), rule).map_err(|e| e.to_string())
    }

    /// The home of the user that runs the commands, as a path in the system.
    fn home(&self) -> PathBuf {
        if self.user { Path::new("/home").join(USER) } else { "/root".into() }
    }

    /// Copies the present files of the source that git tracks or would add.
    fn copy_source(&self, to: &Path) -> Result<(), String> {
        let own = self.dir.join(to.strip_prefix("/").unwrap_or(to));
        fs::create_dir_all(&own).map_err(|e| e.to_string())?;
        let script = "git -C \"$0\" ls-files -z --cached --others --exclude-standard | \
                      tar -C \"$0\" --null --files-from - --ignore-failed-read -cf - | tar -C \"$1\" --no-same-owner -xf -";
        check(Command::new("sh").args(["-c", script]).arg(top()).arg(&own))?;
        if self.user {
            check(self.chroot("root", "/", &format!("chown -R {USER}: {}", to.display())).stdin(Stdio::null()))?;
        }
        Ok(())
    }

    fn run(&self, dir: &Path, command: &str) -> Result<(), String> {
        let who = if self.user { USER } else { "root" };
        let mut command = self.chroot(who, &dir.display().to_string(), command);
        let status = command.stdin(Stdio::null()).status().map_err(|e| e.to_string())?;
        if status.success() { Ok(()) } else { Err(status.to_string()) }
    }

    fn output(&self, dir: &Path, command: &str) -> Result<String, String> {
        let mut command = self.chroot("root", &dir.display().to_string(), command);
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(|e| e.to_string())?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `command` with a shell in the system. Of the host's environment it gets only what its
    /// network needs.
    fn chroot(&self, who: &str, dir: &str, command: &str) -> Command {
        let home = if who == "root" { "/root".to_owned() } else { format!("/home/{who}") };
        // Namespaces made inside the system need its directory to be a mount point.
        let script = "set -e; root=$0; who=$1; dir=$2; rust=$3; shift 4; mount --bind \"$root\" \"$root\"; \
                      mount --rbind /dev \"$root/dev\"; mount --rbind /sys \"$root/sys\"; mount -t proc proc \"$root/proc\"; \
                      mount -t tmpfs tmpfs \"$root/run\"; mount --bind -o ro \"$rust\" \"$root/usr/local/rust\"; \
                      exec chroot --userspec=\"$who:$who\" \"$root\" env -i \"$@\" sh -c 'cd \"$DIR\" && eval \"$COMMAND\"'";
        let mut entering = Command::new("unshare");
        entering.args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-c", script]);
        // If this process ends, so does the first process of the namespace, and with it all others
        // in the namespace.
        quiz_host::process::die_with_parent(&mut entering, quiz_host::process::Signal::KILL);
        entering.arg(&self.dir).args([who, dir]).arg(toolchain());
        entering.arg("--");
        entering.arg(format!("HOME={home}")).arg(format!("USER={who}")).arg(format!("DIR={dir}"));
        entering.arg(format!("COMMAND={command}")).arg("LC_ALL=C.UTF-8").arg("TERM=dumb");
        entering.arg(format!("PATH={TOOLCHAIN}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
        for name in ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
            if let Some(value) = std::env::var_os(name) {
                let mut setting = OsString::from(format!("{name}="));
                setting.push(value);
                entering.arg(setting);
            }
        }
        entering
    }
}

/// The directory of the running Rust toolchain.
fn toolchain() -> PathBuf {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "sysroot"]).output();
    output.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_a_quick_start_of_two_commands() {
        let readme = fs::read_to_string(top().join("README.md")).unwrap();
        assert_eq!(quick_start(&readme), ["cargo xtask quiz uname -a", "cargo xtask test"]);
    }

    #[test]
    fn times_are_told_in_minutes() {
        assert_eq!((minutes(59.4), minutes(61.0)), ("59 s".to_owned(), "1 min 1 s".to_owned()));
    }
}
