//! Makes text from a guest safe to print: control characters could change the user's terminal.

/// `text` with its control characters, and those that change the writing direction, as escapes. All
/// other characters stay.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmless(c) { shown.push(c) } else { shown.extend(c.escape_default()) }
    }
    shown
}

/// As [`visible`], for several lines: newlines and tabs stay.
pub fn visible_lines(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmless(c) || matches!(c, '\n' | '\t') { shown.push(c) } else { shown.extend(c.escape_default()) }
    }
    shown
}

/// As [`visible_lines`], for output of a guest's console, where lines end with CR LF.
pub fn visible_console(bytes: &[u8]) -> String {
    visible_lines(&String::from_utf8_lossy(bytes).replace("\r\n", "\n"))
}

fn is_harmless(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}');
    !c.is_control() && !turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_things_to_terminals_is_shown_in_words() {
        assert_eq!(visible("plain é 日本"), "plain é 日本");
        assert_eq!(visible("\u{1b}]0;title\u{7}"), "\\u{1b}]0;title\\u{7}");
        assert_eq!(visible("a\nb\tc\r"), "a\\nb\\tc\\r");
        assert_eq!(visible("\u{9b}2J \u{202e}x"), "\\u{9b}2J \\u{202e}x");
        assert_eq!(visible_console(b"[ 1.0] a\r\n\x1b[2J\xff"), "[ 1.0] a\n\\u{1b}[2J\u{fffd}");
        assert_eq!(visible_lines("a\nb\tc\r\u{1b}"), "a\nb\tc\\r\\u{1b}");
    }
}
