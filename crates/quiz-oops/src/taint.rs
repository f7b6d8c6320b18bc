//! Translates the letters of the kernel's taint flags
//! (`Documentation/admin-guide/tainted-kernels.rst`).

/// The letters and their meanings.
const LETTERS: &[(char, &str)] = &[
    ('P', "proprietary module"),
    ('F', "module was force loaded"),
    ('S', "CPU out of specification"),
    ('R', "module was force unloaded"),
    ('M', "processor reported a machine check"),
    ('B', "bad page"),
    ('U', "tainted by userspace"),
    ('D', "kernel died recently (oops or BUG)"),
    ('A', "ACPI table overridden"),
    ('W', "kernel warned before"),
    ('C', "staging driver"),
    ('I', "workaround for a firmware bug"),
    ('O', "out-of-tree module"),
    ('E', "unsigned module"),
    ('L', "soft lockup before"),
    ('K', "live patched"),
    ('X', "auxiliary taint of the distribution"),
    ('T', "built with the struct randomization plugin"),
    ('N', "test of the kernel"),
    ('J', "fwctl's mutating debug interface was used"),
];

/// The taint letters in a line of the kernel's log, such as `CPU: 0 PID: 7 Comm: sh Tainted: P
/// O 6.12.1 #1`. `G` only means that all modules are free, and is left out.
pub fn letters(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("Tainted: ")?;
    let known = |word: &&str| word.chars().all(|c| c == 'G' || LETTERS.iter().any(|(letter, _)| *letter == c));
    let letters: String = rest.split_whitespace().take_while(known).collect();
    Some(letters.replace('G', "")).filter(|letters| !letters.is_empty())
}

/// The meanings of letters, in the order of the letters.
pub fn words(letters: &str) -> Vec<&'static str> {
    letters.chars().filter_map(|c| LETTERS.iter().find(|(letter, _)| *letter == c)).map(|(_, words)| *words).collect()
}

/// The taint bits that mean a problem in the kernel itself, and their letters. The other bits
/// record what was loaded or done to it, such as modules of all kinds. `S`, a processor outside its
/// specification, is due to the machine or a program.
const TROUBLE: &[(u32, char)] = &[(4, 'M'), (5, 'B'), (7, 'D'), (9, 'W'), (14, 'L')];

/// The letters of those bits of `/proc/sys/kernel/tainted` that mean a problem in the kernel
/// itself.
pub fn of_trouble(bits: u64) -> String {
    TROUBLE.iter().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, letter)| *letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_told_from_the_release() {
        let line = "CPU: 0 UID: 0 PID: 71 Comm: zpool Tainted: P           O       6.12.117-quiz #1";
        assert_eq!(letters(line).as_deref(), Some("PO"));
        assert_eq!(words("PO"), ["proprietary module", "out-of-tree module"]);
        assert_eq!(letters("CPU: 0 PID: 71 Comm: sh Not tainted 6.12.117-quiz #1"), None);
        assert_eq!(letters("CPU: 0 PID: 71 Comm: sh Tainted: G        W          6.1.0 #1").as_deref(), Some("W"));
        assert_eq!(letters("Tainted: [P]=PROPRIETARY_MODULE, [O]=OOT_MODULE"), None);
    }

    #[test]
    fn bits_of_modules_are_no_trouble() {
        let modules = 1 | 2 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 15;
        assert_eq!(of_trouble(modules), "");
        assert_eq!(of_trouble(modules | 512 | 128 | 16384 | 32 | 16), "MBDWL");
        assert_eq!(words(&of_trouble(512 | 32)), ["bad page", "kernel warned before"]);
    }
}
