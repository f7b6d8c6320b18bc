//! One line of the kernel's log: what the kernel puts in front of its message, and the message. Not for what the message says.

/// The message in a line of the kernel's log, without the log level (`<4>`), the time stamp (`[    1.234567]`) and the caller
/// (`[  T123]`, `[    C0]`) that the kernel may have printed in front of it. Each is taken away once, and only in that order: text in
/// brackets that follows is part of the message. Indentation stays.
pub fn message(line: &str) -> &str {
    let text = without_level(line);
    let unstamped = bracketed(text, is_time).unwrap_or(text);
    let rest = bracketed(unstamped, is_caller).unwrap_or(unstamped);
    if rest.len() == text.len() {
        return text;
    }
    match rest.strip_prefix(' ') {
        Some(message) => message,
        None if rest.is_empty() => rest,
        // The kernel leaves a blank after what it puts in front: these brackets are the message's own.
        None => text,
    }
}

/// `text` without a log level, if there is one at its beginning.
fn without_level(text: &str) -> &str {
    let level = text.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    match level {
        Some((number, rest)) if (1..=3).contains(&number.len()) && is_number(number) => rest,
        _ => text,
    }
}

/// What follows the first brackets of `text`, if it begins with brackets and `is_it` holds for what is in them.
fn bracketed(text: &str, is_it: fn(&str) -> bool) -> Option<&str> {
    let (inside, rest) = text.trim_start().strip_prefix('[')?.split_once(']')?;
    // The kernel pads on the left.
    is_it(inside.trim_start_matches(' ')).then_some(rest)
}

/// Seconds since boot and their fraction.
fn is_time(text: &str) -> bool {
    text.split_once('.').is_some_and(|(seconds, fraction)| is_number(seconds) && is_number(fraction))
}

/// The task or the CPU that printed the line.
fn is_caller(text: &str) -> bool {
    text.strip_prefix(['T', 'C']).is_some_and(is_number)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::message;

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
                // Without anything in front, a text that has the form of a stamp is one.
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
}
