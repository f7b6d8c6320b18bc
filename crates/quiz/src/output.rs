//! What verbs print on stdout: tables, text and JSON. Not for progress and errors, which go to
//! stderr.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use comfy_table::{ContentArrangement, Table, presets};
use quiz_config::JsonTo;
use quiz_host::stream::Patient;
use quiz_vm::visible::visible;
use serde::Serialize;

use quiz_run::Fault;

/// Prints `text` as it is. A reader that has gone away (`quiz config | head`) is no fault.
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
    /// None: to standard output.
    file: Option<File>,
}

impl Records {
    /// Makes sure, before the run, that its record can be written.
    ///
    /// # Errors
    /// If there is no such descriptor that can be written, or the file cannot be made.
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

    /// Writes a record as a line of its own; `behind`: on standard output something is in front of
    /// it whose line has not ended.
    ///
    /// # Errors
    /// If it cannot be written.
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

/// A descriptor that quiz was started with. Its own are all closed in programs that it starts, by
/// which they are known.
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
        // Whoever waits for its end does not wait for programs that quiz leaves behind.
        // SAFETY: F_SETFD has no memory effects.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(own.into())
}

/// Prints a table with `head` over `rows`.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) -> Result<(), Fault> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    // Names and commands of runs may be a guest's words.
    let rows = rows.into_iter().map(|row| row.iter().map(|cell| visible(cell)).collect::<Vec<_>>());
    table.set_header(head).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: String = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    text(&lines)
}

/// A time for tables: local, to the minute.
pub fn when(time: jiff::Timestamp) -> String {
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
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
