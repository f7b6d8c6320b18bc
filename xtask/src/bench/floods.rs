//! Measures how much memory quiz uses while a guest floods it, and how much output quiz keeps.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use fs_err as fs;

use crate::sh::check;
use crate::steps::released_quiz;

/// Which quiz, and how long.
#[derive(Args)]
pub struct Floods {
    /// This program; can be repeated, to compare [default: one that is built now]
    #[arg(long, value_name = "FILE")]
    quiz: Vec<PathBuf>,
    /// The kernel (as for `quiz -k`)
    #[arg(long, short)]
    kernel: Option<String>,
    /// How long a flood may last, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Floods [default: all]
    floods: Vec<String>,
}

struct Flood {
    name: &'static str,
    /// The program to run in the guest's root.
    program: &'static [&'static str],
    /// Whether the benchmark reads the output.
    read: bool,
}

/// Takes the port from the agent, which root may do, and sends one frame repeatedly. Arguments: the
/// bytes, a byte to repeat, how often to repeat it, and how often to send all.
const PORT: &str = r#"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int agent = syscall(434, 1, 0), port = -1;
    DIR *all = opendir("/proc/1/fd");
    for (struct dirent *one; all && port < 0 && (one = readdir(all));) {
        char path[300], target[300] = "";
        snprintf(path, sizeof path, "/proc/1/fd/%s", one->d_name);
        if (readlink(path, target, sizeof target - 1) > 0 && strstr(target, "vport"))
            port = syscall(438, agent, atoi(one->d_name), 0);
    }
    if (port < 0 || argc != 5)
        return 9;
    size_t head = strlen(argv[1]) / 2, fill = atoi(argv[3]), body = head + fill;
    unsigned char *frame = malloc(4 + body);
    for (int i = 0; i < 4; i++)
        frame[i] = body >> (8 * i);
    for (size_t i = 0; i < head; i++) {
        char digits[3] = { argv[1][2 * i], argv[1][2 * i + 1] };
        frame[4 + i] = strtol(digits, 0, 16);
    }
    memset(frame + 4 + head, argv[2][0], fill);
    for (long times = atol(argv[4]); times > 0; times--)
        for (size_t sent = 0; sent < 4 + body;) {
            ssize_t n = write(port, frame + sent, 4 + body - sent);
            if (n < 0)
                return 8;
            sent += n;
        }
    sleep(3);
    return 0;
}
"#;

/// Entries of `/quiz/out` that are no regular files, each with a long name.
const NAMES: &str = r#"
import os
d = "/quiz/out/" + "/".join(["n" * 250] * 12)
os.makedirs(d)
os.chdir(d)
for pipe in range(2):
    os.mkfifo("pipe%d" % pipe)
    for i in range(40000):
        os.link("pipe%d" % pipe, "%s-%d-%d" % ("x" * 230, pipe, i))
"#;

const FLOODS: &[Flood] = &[
    Flood { name: "1 GiB of output, read", program: &["head", "-c", "1G", "/dev/zero"], read: true },
    Flood { name: "output that nobody reads", program: &["head", "-c", "1G", "/dev/zero"], read: false },
    Flood {
        name: "the console",
        program: &[
            "sh",
            "-c",
            "head -c 100M /dev/zero | tr '\\0' x > /dev/console; yes BUG: x | head -c 20M > /dev/console",
        ],
        read: true,
    },
    Flood {
        name: "the kernel's log",
        program: &[
            "python3",
            "-c",
            "f = open('/dev/kmsg', 'wb', 0)\nfor i in range(100000): f.write(b'<3>WARNING: %d ' % i + b'x' * 800)",
        ],
        read: true,
    },
    Flood { name: "names of artifacts", program: &["python3", "-c", NAMES], read: true },
    // The frames as `quiz-proto` encodes them: kind, program, stream and length of `Data`, and so
    // on. A length of 32000 is 80 fa 01, one of 4000 is a0 1f.
    Flood {
        name: "output beyond the window",
        program: &["./port", "05000180fa01", "x", "32000", "20000"],
        read: false,
    },
    Flood { name: "notes", program: &["./port", "0aa01f", "n", "4000", "100000"], read: true },
    Flood { name: "the smallest frames", program: &["./port", "04", "", "0", "10000000"], read: true },
    Flood { name: "kernel messages", program: &["./port", "0904a08d06a01f", "k", "4000", "100000"], read: true },
    Flood {
        name: "a panic after that",
        program: &["sh", "-c", "./port 0904a08d06a01f k 4000 10000; echo c > /proc/sysrq-trigger"],
        read: true,
    },
];

/// Measures each flood with each quiz.
pub fn run(floods: &Floods) -> Result<(), String> {
    let programs = if floods.quiz.is_empty() { vec![released_quiz()?] } else { floods.quiz.clone() };
    let absolute = |path: PathBuf| fs::canonicalize(path).map_err(|e| e.to_string());
    let programs = programs.into_iter().map(absolute).collect::<Result<Vec<_>, _>>()?;
    let tools = tempfile::tempdir().map_err(|e| e.to_string())?;
    let port = compile(tools.path())?;
    let wanted = |flood: &&Flood| floods.floods.is_empty() || floods.floods.iter().any(|name| name == flood.name);
    println!("| flood | quiz | peak of quiz | record | exit code | time |\n| --- | --- | --- | --- | --- | --- |");
    for flood in FLOODS.iter().filter(wanted) {
        for (number, program) in programs.iter().enumerate() {
            let place = tempfile::tempdir().map_err(|e| e.to_string())?;
            fs::create_dir(place.path().join(".quiz")).map_err(|e| e.to_string())?;
            fs::copy(&port, place.path().join("port")).map_err(|e| e.to_string())?;
            let begin = Instant::now();
            let (peak, code) = one(flood, program, floods, place.path())?;
            let seconds = begin.elapsed().as_secs_f64();
            let (name, record) = (flood.name, record_bytes(place.path()));
            println!("| {name} | {} | {} MiB | {record} bytes | {code} | {seconds:.1} s |", number + 1, peak >> 10);
        }
    }
    Ok(())
}

/// The most memory that quiz itself used, in KiB, and its exit code.
fn one(flood: &Flood, program: &Path, floods: &Floods, place: &Path) -> Result<(u64, String), String> {
    let mut command = Command::new(program);
    command.current_dir(place).args(["-q", "--hang-timeout", "off"]);
    command.arg("--timeout").arg(format!("{}s", floods.seconds));
    if let Some(kernel) = &floods.kernel {
        command.env("QUIZ_KERNEL", kernel);
    }
    command.args(flood.program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| format!("{}: {e}", program.display()))?;
    let mut output = child.stdout.take();
    let reader = output.take_if(|_| flood.read).map(|mut output| {
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while matches!(output.read(&mut buffer), Ok(1..)) {}
        })
    });
    let watched = watch(&mut child, Duration::from_secs(floods.seconds + 30));
    if let Some(reader) = reader {
        reader.join().ok();
    }
    watched
}

/// Compiles the program that floods the agent's port.
fn compile(dir: &Path) -> Result<PathBuf, String> {
    let (source, program) = (dir.join("port.c"), dir.join("port"));
    fs::write(&source, PORT).map_err(|e| e.to_string())?;
    check(Command::new("cc").args(["-O2", "-static", "-o"]).arg(&program).arg(&source))?;
    Ok(program)
}

fn watch(child: &mut Child, limit: Duration) -> Result<(u64, String), String> {
    let (begin, mut peak) = (Instant::now(), 0);
    loop {
        peak = peak_of(child.id()).unwrap_or(0).max(peak);
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            return Ok((peak, status.code().map_or_else(|| status.to_string(), |code| code.to_string())));
        }
        if begin.elapsed() > limit {
            child.kill().ok();
            child.wait().ok();
            return Ok((peak, "ended by the measurement".to_owned()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The peak resident set size of a process so far, in KiB (proc(5)).
fn peak_of(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

fn record_bytes(place: &Path) -> u64 {
    let runs = fs::read_dir(place.join(".quiz/runs")).into_iter().flatten().flatten();
    runs.filter_map(|run| fs::metadata(run.path().join("result.json")).ok()).map(|meta| meta.len()).max().unwrap_or(0)
}
