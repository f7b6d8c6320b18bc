//! The console: what is kept of it, what is read out of it, and what of it is shown.

use std::fs::File;

use quiz_oops::find::{Origins, Symbols};
use quiz_oops::{Report, render};
use quiz_vm::console::Console;
use quiz_vm::visible::{visible, visible_console};

/// More than a console keeps of anything: its reports, and the lines around them.
const KEPT: usize = 600 << 10;

/// The first byte says how many bytes come at a time; what follows a NUL is what the kernel has in
/// its log.
pub fn run(input: &[u8]) {
    let [piece, rest @ ..] = input else { return };
    let piece = usize::from(*piece) * 16 + 1;
    let (console, log) = match rest.iter().position(|byte| *byte == 0) {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, &[][..]),
    };
    let file = rustix::fs::memfd_create("console", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
    let file = file.unwrap_or_else(|e| panic!("memory for the console: {e}"));
    let mut reader = Console::create(file, None).unwrap_or_else(|e| panic!("{e}"));
    for piece in console.chunks(piece) {
        reader.push(piece).unwrap_or_else(|e| panic!("{e}"));
    }
    reader.log(&String::from_utf8_lossy(log));
    reader.finish().unwrap_or_else(|e| panic!("{e}"));

    let last = reader.last_lines();
    let texts = [reader.oops(), reader.asked(), &last, reader.headline().unwrap_or_default()];
    let kept: usize = texts.iter().map(|text| text.len()).sum();
    assert!(kept <= KEPT, "{kept} bytes are kept");
    assert!(reader.headline().is_some() || (reader.strict().is_none() && reader.oops().is_empty()));
    for text in texts {
        is_harmless(&visible_console(text.as_bytes()));
        let symbols = Symbols::of(text, &Origins::default());
        let _annotated = render::annotated(text, &symbols);
        let _busy = Report::of_busy_processor(text);
        if let Some(headline) = reader.headline() {
            let report = Report::read(text, headline);
            let told = render::in_short(&report, &symbols, &[]);
            is_harmless(&visible_console(told.as_bytes()));
        }
    }
    is_harmless(&visible(&String::from_utf8_lossy(rest)));
}

fn is_harmless(shown: &str) {
    let odd = shown.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert_eq!(odd, None, "in {shown:?}");
}
