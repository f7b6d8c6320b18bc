//! Reports the stack of every task in the guest, for a run that has timed out.

use std::fmt::Write as _;

use fs_err as fs;
use quiz_proto::{CHUNK, ToHost};

use crate::link::Link;

/// The most text that is sent, in bytes: a guest with thousands of stuck tasks must not delay the
/// verdict.
const LIMIT: usize = 1024 * 1024;

/// Sends the stacks, and makes the kernel print those of busy CPUs and blocked tasks on the
/// console.
pub fn send(link: &Link) {
    let text = collect();
    for piece in pieces(&text) {
        link.send(&ToHost::Stacks(piece.into()));
    }
    for key in ["l", "w"] {
        // A kernel without sysrq still has the stacks above.
        fs::write("/proc/sysrq-trigger", key).ok();
    }
    link.send(&ToHost::StacksEnd);
}

fn collect() -> String {
    let mut text = String::new();
    let Ok(processes) = fs::read_dir("/proc") else { return text };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        // Kernel threads have no memory map; idle ones are left out as noise.
        let is_kernel = fs::read_to_string(format!("/proc/{pid}/statm")).is_ok_and(|m| m.starts_with("0 "));
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let dir = task.path();
            let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
            let state = state_of(&read("stat"));
            if pid == 1 || (is_kernel && state != "D" && state != "R") {
                continue;
            }
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments: Vec<_> = arguments.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
            let _ = writeln!(
                text,
                "task {} of process {pid} ({}), state {state}, in {}: {}",
                task.file_name().to_string_lossy(),
                read("comm").trim_end(),
                read("wchan"),
                arguments.join(" ").trim_end(),
            );
            for line in read("stack").lines() {
                writeln!(text, "    {line}").ok();
            }
            if text.len() > LIMIT {
                text.push_str("… more tasks are not shown\n");
                return text;
            }
        }
    }
    text
}

/// The state letter of `/proc/<pid>/stat`, whose second field may contain blanks and parentheses.
fn state_of(stat: &str) -> String {
    stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or("?").to_owned()
}

fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cut = (0..=CHUNK.min(rest.len())).rev().find(|i| rest.is_char_boundary(*i))?;
        let (piece, later) = rest.split_at(cut);
        rest = later;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_found_behind_any_name() {
        assert_eq!(state_of("12 (a) b (c)) D 1 1"), "D");
        assert_eq!(state_of(""), "?");
    }

    #[test]
    fn pieces_lose_nothing_and_split_no_character() {
        let text = "é".repeat(CHUNK);
        assert_eq!(pieces(&text).collect::<String>(), text);
        assert!(pieces(&text).all(|p| p.len() <= CHUNK));
    }
}
