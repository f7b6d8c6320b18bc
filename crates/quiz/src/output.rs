//! What verbs print on stdout: tables, text and JSON. Not for progress and errors, which go to stderr.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use quiz_host::stream::Patient;
use serde::Serialize;

use crate::errors::Fault;

/// Prints `text` as it is. A reader that has gone away (`quiz config | head`) is no fault.
pub fn text(text: &str) -> Result<(), Fault> {
    let mut stdout = Patient(io::stdout().lock());
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Fault::new(format!("cannot write to stdout: {error}"))),
    }
}

/// Prints `value` as indented JSON.
pub fn json(value: &impl Serialize) -> Result<(), Fault> {
    let json =
        serde_json::to_string_pretty(value).map_err(|error| Fault::new(format!("cannot write JSON: {error}")))?;
    text(&(json + "\n"))
}

/// Prints a table with `head` over `rows`.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) -> Result<(), Fault> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: String = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    text(&lines)
}

/// `bytes` for people: `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 10.0 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// Whether colours may be used on a stream, which is a terminal or not (see no-color.org).
pub fn allows_colours(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_short() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (700 << 20, "700 MiB"), (3 << 29, "1.5 GiB")]
        {
            assert_eq!(super::size(bytes), text);
        }
    }
}
