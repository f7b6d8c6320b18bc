//! What commands print on standard output: tables, text and JSON. Not for progress and errors,
//! which go to standard error.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use comfy_table::{ContentArrangement, Table, presets};
use quiz_config::JsonTo;
use quiz_host::stream::Patient;
use quiz_vm::visible::visible;
use serde::Serialize;

use quiz_run::Fault;

/// Prints `text` as it is. A closed pipe (`quiz config | head`) is not an error.
pub fn text(text: &str) -> Result<(), Fault> {
    crate::standard::require_output()?;
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

/// Where the records of runs go.
pub struct Records {
    /// None for standard output.
    file: Option<File>,
}

impl Records {
    /// Opens the place for the record before the run, so that the record is not lost.
    ///
    /// # Errors
    /// If the descriptor does not exist or cannot be written, or quiz cannot make the file.
    pub fn open(place: &JsonTo) -> Result<Records, Fault> {
        let file = match place {
            JsonTo::Output => return Ok(Records { file: None }),
            JsonTo::Descriptor(number) => inherited(*number),
            JsonTo::File(path) => fs_err::File::create(path).map(|file| file.into_parts().0),
        };
        match file {
            Ok(file) => Ok(Records { file: Some(file) }),
            Err(error) => Err(Fault::new(format!("cannot write the record: {error}"))),
        }
    }

    /// Writes a record as a line of its own. `behind`: the last line on standard output has not
    /// ended.
    ///
    /// # Errors
    /// If the write fails.
    pub fn write(self, record: &str, behind: bool) -> Result<(), Fault> {
        match self.file {
            None if behind => text(&format!("\n{record}\n")),
            None => text(&format!("{record}\n")),
            Some(file) => Patient(file)
                .write_all(format!("{record}\n").as_bytes())
                .map_err(|error| Fault::new(format!("cannot write the record: {error}"))),
        }
    }
}

/// Returns a copy of a descriptor that quiz was started with. quiz's own descriptors do not count:
/// they are all close-on-exec.
fn inherited(number: i32) -> io::Result<File> {
    let none = || io::Error::other(format!("quiz was started without a descriptor {number} that can be written"));
    if (0..=2).contains(&number) && crate::standard::is_closed(number) {
        return Err(none());
    }
    // SAFETY: F_GETFD and F_GETFL have no memory effects.
    let (flags, mode) = unsafe { (libc::fcntl(number, libc::F_GETFD), libc::fcntl(number, libc::F_GETFL)) };
    let is_own = number > 2 && flags & libc::FD_CLOEXEC != 0;
    if flags < 0 || is_own || mode < 0 || mode & libc::O_ACCMODE == libc::O_RDONLY {
        return Err(none());
    }
    // SAFETY: the descriptor is open, as was just seen, and nobody here closes it.
    let own = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()?;
    if number > 2 {
        // A reader that waits for the end of the file must not wait for programs that quiz leaves
        // running.
        // SAFETY: F_SETFD has no memory effects.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(own.into())
}

/// Prints a table with `head` over `rows`.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) -> Result<(), Fault> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    // Names and commands of runs may contain text from a guest.
    let rows = rows.into_iter().map(|row| row.iter().map(|cell| visible(cell)).collect::<Vec<_>>());
    table.set_header(head).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: String = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    text(&lines)
}

/// Formats a time for tables: local, to the minute.
pub fn when(time: jiff::Timestamp) -> String {
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
}

/// Formats `bytes` for people: `1.5 GiB`.
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

/// Whether quiz may use colours on a stream (see no-color.org). `terminal`: the stream is one.
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
