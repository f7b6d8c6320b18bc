//! Prints a kernel's report for people: the kernel's text with source lines added, and a summary.
//! Not for reading the report (`report`).

use std::fmt::Write;

use crate::find::Symbols;
use crate::place::telling;
use crate::report::frame;
use crate::report::{Frame, Report};
use crate::taint;

/// How many frames of a call trace the summary shows.
const FRAMES: usize = 16;

/// The most text that is added, in bytes.
const ADDED: usize = 8 << 20;

/// The kernel's text, with each frame followed by its places in the source until the limit for
/// added text is reached.
pub fn annotated(text: &str, symbols: &Symbols) -> String {
    let mut out = String::new();
    for line in text.lines() {
        out += line;
        out.push('\n');
        let Some(frame) = frame(line).filter(|_| out.len() < text.len() + ADDED) else { continue };
        let places = symbols.places(&frame);
        for (i, place) in places.iter().enumerate() {
            let inlined = if i + 1 < places.len() { ", inlined in" } else { "" };
            writeln!(out, "        at {}, {}:{}{inlined}", place.function, place.file, place.line)
                .expect("a String grows");
        }
    }
    out
}

/// A short summary of the report. `circumstances` are lines about what was going on.
pub fn in_short(report: &Report, symbols: &Symbols, circumstances: &[String]) -> String {
    let mut lines = vec![report.headline.clone()];
    if let Some(frame) = &report.culprit {
        lines.push(format!("  in {}", one_line(frame, symbols)));
    }
    lines.extend(circumstances.iter().map(|line| format!("  {line}")));
    if let Some(letters) = &report.taint {
        lines.push(format!("  tainted {letters}: {}", taint::words(letters).join(", ")));
    }
    lines.extend(symbols.missing.iter().map(|line| format!("  {line}")));
    if !report.trace.is_empty() {
        lines.push("  call trace:".to_owned());
        lines.extend(report.trace.iter().take(FRAMES).map(|frame| format!("    {}", one_line(frame, symbols))));
        if let Some(more @ 1..) = report.trace.len().checked_sub(FRAMES) {
            lines.push(format!("    … {more} more"));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// A frame and its place: `zpool_create [zfs], module/zfs/spa.c:12`.
fn one_line(frame: &Frame, symbols: &Symbols) -> String {
    match telling(symbols.places(frame)) {
        Some(place) => {
            let module = frame.module.as_ref().map_or_else(String::new, |name| format!(" [{name}]"));
            format!("{}{module}, {}:{}", place.function, place.file, place.line)
        }
        None => frame.text(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_debug_information_the_kernels_own_words_remain() {
        let text = "[ 1.0] BUG: x\n[ 1.0] Call Trace:\n[ 1.0]  f+0x1/0x2 [m]\n";
        let origins = crate::find::Origins { remedy: "quiz kernel build".to_owned(), ..Default::default() };
        let symbols = Symbols::of(text, &origins);
        assert_eq!(annotated(text, &symbols), text);
        let said = in_short(&Report::read(text, "BUG: x"), &symbols, &["while x ran".to_owned()]);
        let wanted =
            "BUG: x\n  in f+0x1/0x2 [m]\n  while x ran\n  no debug information of the kernel: quiz kernel build\n";
        assert!(said.starts_with(wanted), "{said}");
    }
}
