//! Splits one line of the kernel's log into the kernel's prefix and its message. Not for the
//! meaning of the message.

/// The kernel's part of a console line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The kernel's message, with its indentation.
    pub message: &'a str,
    /// It follows a time stamp.
    pub stamped: bool,
}

/// Reads a line of the kernel's log. The message is the line without log level (`<4>`), time stamp
/// (`[    1.234567]`) and caller (`[  T123]`, `[    C0]`), if the kernel printed these. Each is
/// removed once, and only in that order: bracketed text after them is part of the message.
///
/// A program may have written to the console without ending its line (`login: `). The message then
/// begins after the last time stamp.
pub fn read(line: &str) -> Line<'_> {
    let text = without_level(line);
    let Line { message, stamped } = without_stamp(text);
    let begins_plain = message.len() == text.len();
    let later = message.rmatch_indices('[').find_map(|(at, _)| {
        let rest = bracketed(&message[at..], if begins_plain { is_time } else { is_exact_time })?;
        let Line { message, stamped } = without_stamp(&message[at..]);
        (stamped && message.len() <= rest.len()).then_some(message)
    });
    match later {
        Some(message) => Line { message, stamped: true },
        None => Line { message, stamped },
    }
}

/// The message of [`read`].
pub fn message(line: &str) -> &str {
    read(line).message
}

/// `text` without a time stamp and a caller, if it begins with them.
fn without_stamp(text: &str) -> Line<'_> {
    let plain = Line { message: text, stamped: false };
    let timed = bracketed(text, is_time);
    let unstamped = timed.unwrap_or(text);
    let rest = bracketed(unstamped, is_caller).unwrap_or(unstamped);
    if rest.len() == text.len() {
        return plain;
    }
    match rest.strip_prefix(' ') {
        Some(message) => Line { message, stamped: timed.is_some() },
        None if rest.is_empty() => Line { message: rest, stamped: timed.is_some() },
        // The kernel prints a blank after its prefix: these brackets belong to the message.
        None => plain,
    }
}

/// `text` without a log level, if it begins with one.
fn without_level(text: &str) -> &str {
    let level = text.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    match level {
        Some((number, rest)) if (1..=3).contains(&number.len()) && is_number(number) => rest,
        _ => text,
    }
}

/// The text after the first brackets, if `text` begins with brackets and `is_it` accepts their
/// contents.
fn bracketed(text: &str, is_it: fn(&str) -> bool) -> Option<&str> {
    let (inside, rest) = text.trim_start().strip_prefix('[')?.split_once(']')?;
    // The kernel pads on the left.
    is_it(inside.trim_start_matches(' ')).then_some(rest)
}

/// Whether `text` is a time since boot: seconds and their fraction.
fn is_time(text: &str) -> bool {
    text.split_once('.').is_some_and(|(seconds, fraction)| is_number(seconds) && is_number(fraction))
}

/// Whether `text` is a time with six decimals, as the kernel prints it.
fn is_exact_time(text: &str) -> bool {
    is_time(text) && text.split_once('.').is_some_and(|(_, fraction)| fraction.len() == 6)
}

/// Whether `text` names the task or the CPU that printed the line.
fn is_caller(text: &str) -> bool {
    text.strip_prefix(['T', 'C']).is_some_and(is_number)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::{message, read};

    #[test]
    fn what_the_kernel_puts_in_front_is_taken_away() {
        for prefix in [
            "",
            "[    1.234567] ",
            "[12345.000001] ",
            "[123456.000001] ",
            "[    1.234567][  T123] ",
            "[    1.234567][    C0] ",
            "[    1.234567][T1234567] ",
            "[  T123] ",
            "[T123] ",
            "[C0] ",
            "<4>",
            "<14>[    1.234567] ",
            "<0>[    1.234567][    C1] ",
            "<6>[    T1] ",
        ] {
            for text in [
                "BUG: kernel NULL pointer dereference, address: 0000000000000000",
                " ? f+0x1/0x2 [zfs]",
                "  indented",
                "[ BUG: Invalid wait context ]",
                "[<ffffffff80002c1e>] dump+0x1c/0x24",
                "[c00000] [c0008] f+0x10/0x20 (unreliable)",
                "[3.5] volts",
                "---[ end trace 0000000000000000 ]---",
                "</TASK>",
                "",
            ] {
                // Without a prefix, text in the form of a stamp counts as a stamp.
                if text != "[3.5] volts" || prefix.contains('[') {
                    assert_eq!(message(&format!("{prefix}{text}")), text, "{prefix}");
                }
            }
        }
    }

    #[test]
    fn what_only_looks_like_a_stamp_stays() {
        for text in [
            "[ BUG: Invalid wait context ]",
            "[ 12 ] items",
            "[12] items",
            "[1/3] step",
            "[  OK  ] Started a service",
            "[192.168.0.1] up",
            "[6.12.30] is the version",
            "[1.5%] done",
            "[.5] half",
            "[1.] one",
            "[1.5]half",
            "[    1.234567]x",
            "[    1.234567",
            "[T]",
            "[C] x",
            "[T12a] x",
            "[CPU0] x",
            "[ T1 ] x",
            "[T1]x",
            "[] x",
            "[ ] x",
            "[",
            "<TASK>",
            "<NMI> x",
            "<> x",
            "<1234>x",
            "<4",
            "[zfs]",
            "é",
        ] {
            assert_eq!(message(text), text);
        }
    }

    #[test]
    fn a_line_that_was_cut_off_after_its_stamp_is_empty() {
        assert_eq!(message("[    1.234567]"), "");
        assert_eq!(message("[    1.234567][  T123]"), "");
    }

    #[test]
    fn a_message_that_follows_what_a_program_left_on_the_line_is_found() {
        for (line, wanted) in [
            ("login: [    2.000000] Kernel panic - not syncing: x", "Kernel panic - not syncing: x"),
            ("# [ 2.0] BUG: KASAN: double-free in f", "BUG: KASAN: double-free in f"),
            ("50 % [#####] [    2.123456][  T12] Oops: 0002", "Oops: 0002"),
            ("\u{1b}[1;32mok\u{1b}[0m[    2.123456] [ BUG: Invalid wait context ]", "[ BUG: Invalid wait context ]"),
            ("[    1.000000] a program: [    2.000000] BUG: x", "BUG: x"),
            ("é[    2.000000]", ""),
        ] {
            assert_eq!(message(line), wanted);
            assert!(read(line).stamped);
        }
        for line in ["login: [1.5]half", "v [1.2.3] up", "[  OK  ] in [5] s", "plain"] {
            assert_eq!((message(line), read(line).stamped), (line, false));
        }
        // In a message that has its own stamp, brackets belong to the message.
        assert_eq!(message("[    1.234567] at [3.5] volts"), "at [3.5] volts");
    }
}
