//! Finds the first error of a failed build in its log: the message of the compiler, linker or other
//! tool, with file and line. Leaves out the errors that follow from it. Not for running the build
//! (`command`).

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use fs_err as fs;

/// The first error in the file `log` from the byte `from` on, as [`first_error`] finds it. Also
/// empty if the file cannot be read.
pub fn in_log(log: &Path, from: u64) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(log)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    first_error(&String::from_utf8_lossy(&read().unwrap_or_default()))
}

/// The lines of the first error of a build that printed `said`, with the lines that lead to it and
/// explain it. Empty if no line looks like an error. The order of preference is:
///
/// - messages of tools with a format of their own (compilers, linkers, modpost, objtool, autotools,
///   interpreters)
/// - what a shell or a small tool printed just before make gave up
/// - anything that was printed before that
/// - make's own message, which names only the target
pub fn first_error(said: &str) -> Vec<String> {
    let plain: Vec<String> = said.split(['\n', '\r']).map(|line| without_colors(line).trim_end().to_owned()).collect();
    let lines: Vec<&str> = plain.iter().map(String::as_str).collect();
    let gave_up = lines.iter().position(|line| is_make_failing(line));
    let before = &lines[..gave_up.unwrap_or(lines.len())];
    if let Some(at) = before.iter().position(|line| is_error(line)) {
        return with_context(&lines, at);
    }
    if let Some(at) = before.iter().rposition(|line| is_complaint(line))
        && before[at..].iter().filter(|line| is_telling(line)).count() <= 6
    {
        return with_context(&lines, at);
    }
    if let Some(at) = lines.iter().position(|line| is_error(line)) {
        return with_context(&lines, at);
    }
    let Some(gave_up) = gave_up else { return Vec::new() };
    let mut told: Vec<&str> = before.iter().rev().copied().filter(|line| is_telling(line)).take(5).collect();
    told.reverse();
    told.push(lines[gave_up]);
    told.into_iter().map(str::to_owned).collect()
}

/// As [`first_error`], for a build of many parts that continues after errors. Finds the error of
/// the part whose paths contain `part`.
pub fn first_error_of(part: &str, said: &str) -> Vec<String> {
    let plain: Vec<String> = said.split(['\n', '\r']).map(|line| without_colors(line).trim_end().to_owned()).collect();
    let lines: Vec<&str> = plain.iter().map(String::as_str).collect();
    if let Some(at) = lines.iter().position(|line| line.contains(part) && is_error(line)) {
        return with_context(&lines, at);
    }
    // Some tools do not print which file they work on, but make prints its target when it gives up.
    let Some(gave_up) = lines.iter().position(|line| line.contains(part) && is_make_failing(line)) else {
        return Vec::new();
    };
    match lines[..gave_up].iter().rposition(|line| is_error(line) || is_complaint(line)) {
        Some(at) => with_context(&lines, at),
        None => vec![lines[gave_up].to_owned()],
    }
}

/// The line at `at`, with the lines that lead to it and those that explain it.
fn with_context(lines: &[&str], at: usize) -> Vec<String> {
    if is_python(lines[at]) {
        return python(&lines[at..]);
    }
    let mut start = at;
    while start > 0 && leads_to_error(lines[start - 1]) {
        start -= 1;
    }
    let explains = |line: &&&str| !is_progress(line) && !is_make_failing(line) && !leads_to_error(line);
    let following = lines[at + 1..].iter().take_while(explains).filter(|line| !line.is_empty()).take(5);
    lines[start..=at].iter().chain(following).map(|line| (*line).to_owned()).collect()
}

/// The last call of a Python traceback, and the exception.
fn python(lines: &[&str]) -> Vec<String> {
    let calls = lines.iter().skip(1).take_while(|line| line.starts_with(' ')).count();
    let end = (calls + 1).min(lines.len() - 1);
    let call = lines[..=end].iter().rposition(|line| line.starts_with("  File \"")).unwrap_or(0);
    lines[call..=end].iter().map(|line| (*line).to_owned()).collect()
}

fn is_python(line: &str) -> bool {
    line == "Traceback (most recent call last):" || line.starts_with("  File \"") && line.contains("\", line ")
}

/// Whether a compiler or linker prints this line in front of an error, to show how it got there.
fn leads_to_error(line: &str) -> bool {
    line.starts_with("In file included from")
        || line.trim_start().starts_with("from ") && line.starts_with(' ')
        || line.contains(": In function ")
        || line.contains(": in function `")
        || line.ends_with(": At top level:")
        || line.ends_with(": Assembler messages:")
}

/// Whether the line has a form that only errors have.
fn is_error(line: &str) -> bool {
    let is_about_it = is_compiler(line)
        || is_linker(line)
        || is_make_itself(line)
        || is_python(line)
        || is_script(line)
        || line.contains("No space left on device")
        || line.contains("emory exhausted");
    is_about_it && !is_consequence(line)
}

/// Whether the line only follows from an earlier error.
fn is_consequence(line: &str) -> bool {
    line.starts_with("collect2: error: ld returned")
        || line.contains("linker command failed")
        || line.starts_with("autoreconf: error:")
        || line.starts_with("autom4te: error:")
        || line.contains("warnings being treated as errors")
}

/// Whether the line is an error of a compiler, assembler, autotools, libtool, kconfig or a tool
/// with the same format: `FILE:LINE: error: ...`, `TOOL: error: ...`.
fn is_compiler(line: &str) -> bool {
    let marks = [
        ": error: ",
        ": fatal error: ",
        ": internal compiler error: ",
        ": Error: ",
        ": ERROR: ",
        ": error[",
        ":error: ",
    ];
    let by_mark = marks.iter().filter_map(|mark| line.find(mark)).min().is_some_and(|at| {
        // A place or a tool is one word: `x.y:3.1-4` of bison, `Makefile.am:5`, `clang-16`. After
        // several words the mark is part of a sentence.
        !line[..at].contains(char::is_whitespace)
    });
    let by_start =
        ["error: ", "error[", "Error: ", "ERROR: ", "FATAL: ", "FAILED", "configure: error:", "libtool: error:"];
    by_mark
        || by_start.iter().any(|start| line.starts_with(start))
        || line.starts_with("libtool:") && line.contains("  error: ")
        || line.contains("objtool: ")
            && !line.contains("warning: ")
            && (line.contains("error") || line.contains("can't"))
}

fn is_linker(line: &str) -> bool {
    if line.contains("undefined reference to ") || line.contains("multiple definition of ") {
        return true;
    }
    let speaks = ["ld", "ld.bfd", "ld.gold", "ld.lld", "mold"].iter().any(|name| {
        let tool = line.split(": ").next().unwrap_or_default();
        line.contains(": ")
            && (tool == *name || tool.ends_with(&format!("/{name}")) || tool.ends_with(&format!("-{name}")))
    });
    speaks && !["warning: ", "NOTE: ", ": in function `"].iter().any(|harmless| line.contains(harmless))
}

/// Whether make itself complains about a makefile or a target, and no other tool has explained it.
fn is_make_itself(line: &str) -> bool {
    line.find(": *** ").is_some_and(|at| {
        let said = &line[at + 6..];
        !(said.starts_with('[')
            || said.starts_with("Waiting for")
            || said.starts_with("Deleting ")
            || said.starts_with("wait:"))
    })
}

/// Whether an interpreter refuses a script.
fn is_script(line: &str) -> bool {
    let low = line.to_ascii_lowercase();
    let awk =
        ["awk: ", "gawk: ", "mawk: ", "nawk: "].iter().any(|tool| line.starts_with(tool)) && !low.contains("warning");
    let perl = line.starts_with("Can't locate ")
        || line.starts_with("syntax error at ")
        || line.contains(" had compilation errors.");
    awk || perl || low.contains(": syntax error") && line.contains(':')
}

/// Whether a shell or a small tool complains about a program or file that it cannot use. This is
/// often harmless, so it counts only if make gives up next.
fn is_complaint(line: &str) -> bool {
    let ends = [
        ": not found",
        ": command not found",
        ": No such file or directory",
        ": Permission denied",
        ": Exec format error",
    ];
    let tools = [
        "ar", "bc", "cat", "chmod", "cmp", "cp", "cpio", "depmod", "dtc", "find", "grep", "gzip", "install", "ln",
        "m4", "mkdir", "mv", "nm", "objcopy", "objdump", "openssl", "pahole", "perl", "python3", "ranlib", "readelf",
        "rm", "sed", "sh", "sort", "strip", "tar", "touch", "xargs", "xz", "zstd",
    ];
    let tool =
        line.split(": ").next().filter(|_| line.contains(": ")).map(|tool| tool.rsplit('/').next().unwrap_or(tool));
    let by_tool = tool.is_some_and(|tool| tools.contains(&tool.rsplit('-').next().unwrap_or(tool)))
        && !line.contains("warning")
        && !line.contains(": creating ");
    let perl = line
        .rsplit_once(" line ")
        .is_some_and(|(before, number)| before.contains(" at ") && number.trim_end_matches('.').parse::<u32>().is_ok());
    let died =
        ["Killed", "Segmentation fault", "Bus error", "Aborted", "(core dumped)"].iter().any(|end| line.ends_with(end));
    ends.iter().any(|end| line.ends_with(end)) || by_tool || perl && !line.starts_with("Use of uninitialized") || died
}

/// Whether make has given up a target.
fn is_make_failing(line: &str) -> bool {
    line.starts_with("make") && line.contains(": *** [")
        || line.starts_with("gmake") && line.contains(": *** [")
        || line.starts_with("ninja: build stopped")
}

/// Whether make or kbuild prints what it does.
fn is_progress(line: &str) -> bool {
    let of_kbuild = line.strip_prefix("  ").is_some_and(|rest| {
        let word = rest.split(' ').next().unwrap_or_default();
        word.len() >= 2
            && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
            && rest.len() > word.len()
    });
    let of_make = line.starts_with("make") && (line.contains("ing directory ") || line.contains("Nothing to be done"));
    of_kbuild || of_make || line.starts_with("Making ") || line.starts_with("libtool: ") && !line.contains("error")
}

fn is_telling(line: &str) -> bool {
    let is_command = ["depbase=", "/bin/sh ", "/bin/bash ", "mv -f ", "gcc ", "cc ", "rm -f ", "echo ", "if "];
    !line.is_empty()
        && !is_progress(line)
        && !line.contains("warning: ")
        && !is_command.iter().any(|start| line.starts_with(start))
}

/// The line without color escape sequences.
fn without_colors(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        rest = rest.strip_prefix(['m', 'K']).unwrap_or(rest);
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Real logs of builds that were broken on purpose, each with what has to be shown of it.
    const LOGS: &[(&str, &str, &[&str])] = &[
        (
            "a header, while another job fails too",
            include_str!("first_error/header.log"),
            &[
                "/tmp/demo/header/n.c:2:2: error: #error \"a second one\"",
                "    2 | #error \"a second one\"",
                "      |  ^~~~~",
            ],
        ),
        (
            "a header that is not there",
            include_str!("first_error/include.log"),
            &[
                "/tmp/demo/include/m.c:2:10: fatal error: no_such_header.h: No such file or directory",
                "    2 | #include \"no_such_header.h\"",
                "      |          ^~~~~~~~~~~~~~~~~~",
                "compilation terminated.",
            ],
        ),
        (
            "an option that the compiler does not know",
            include_str!("first_error/flag.log"),
            &["gcc: error: unrecognized command-line option ‘-fno-such-flag’; did you mean ‘-fno-mudflap’?"],
        ),
        (
            "the assembler",
            include_str!("first_error/assembler.log"),
            &["a.S: Assembler messages:", "a.S:1: Error: no such instruction: `nonsense %rax'"],
        ),
        (
            "the linker, a function",
            include_str!("first_error/link.log"),
            &[
                "/usr/bin/ld: a.o: in function `main':",
                "a.c:(.text+0x5): undefined reference to `missing'",
                "collect2: error: ld returned 1 exit status",
            ],
        ),
        (
            "the linker, a library",
            include_str!("first_error/library.log"),
            &[
                "/usr/bin/ld: cannot find -lquizmissing: No such file or directory",
                "collect2: error: ld returned 1 exit status",
            ],
        ),
        (
            "the linker, one name for two things",
            include_str!("first_error/twice.log"),
            &[
                "/usr/bin/ld: /tmp/ccSNNqtI.o:(.data+0x0): multiple definition of `x'; /tmp/ccBVrTpF.o:(.data+0x0): first defined here",
                "collect2: error: ld returned 1 exit status",
            ],
        ),
        (
            "modpost, a symbol",
            include_str!("first_error/modpost.log"),
            &["ERROR: modpost: \"quiz_missing\" [/tmp/demo/modpost/m.ko] undefined!"],
        ),
        (
            "modpost, a namespace",
            include_str!("first_error/namespace.log"),
            &[
                "ERROR: modpost: module m uses symbol crypto_cipher_setkey from namespace CRYPTO_INTERNAL, but does not import it.",
            ],
        ),
        (
            "modpost, a license",
            include_str!("first_error/license.log"),
            &["ERROR: modpost: GPL-incompatible module m.ko uses GPL-only symbol '__class_create'"],
        ),
        (
            "objtool is not there",
            include_str!("first_error/objtool.log"),
            &["/bin/sh: 1: ./tools/objtool/objtool: not found"],
        ),
        (
            "a source that is not there",
            include_str!("first_error/target.log"),
            &[
                "make[1]: *** No rule to make target '/tmp/demo/target/gone.o', needed by '/tmp/demo/target/m.o'.  Stop.",
            ],
        ),
        ("a makefile", include_str!("first_error/makefile.log"), &["Makefile:2: *** missing separator.  Stop."]),
        (
            "autoconf",
            include_str!("first_error/autoconf.log"),
            &[
                "configure.ac:7: error: possibly undefined macro: AM_NO_SUCH_THING",
                "      If this token and others are legitimate, please use m4_pattern_allow.",
                "      See the Autoconf documentation.",
                "autoreconf: error: /usr/bin/autoconf failed with exit status: 1",
            ],
        ),
        (
            "automake",
            include_str!("first_error/automake.log"),
            &["Makefile.am:2: error: Libtool library used but 'LIBTOOL' is undefined"],
        ),
        (
            "Python",
            include_str!("first_error/python.log"),
            &[
                "  File \"/tmp/demo/script/gen.py\", line 4, in work",
                "    return {}[\"key\"]",
                "           ~~^^^^^^^",
                "KeyError: 'key'",
            ],
        ),
        (
            "Python's grammar",
            include_str!("first_error/python-syntax.log"),
            &[
                "  File \"/tmp/demo/pysyntax/gen.py\", line 1",
                "    def work(:",
                "             ^",
                "SyntaxError: invalid syntax",
            ],
        ),
        ("awk", include_str!("first_error/awk.log"), &["awk: gen.awk: line 3: missing } near end of file"]),
        ("Perl", include_str!("first_error/perl.log"), &["Can't locate No/Such/Module.pm in @INC"]),
        (
            "a shell script",
            include_str!("first_error/shell.log"),
            &["gen.sh: 4: Syntax error: \"done\" unexpected (expecting \"fi\")"],
        ),
        (
            "a tool that is not there, after harmless words",
            include_str!("first_error/tool.log"),
            &["make: quiz-no-such-tool: No such file or directory"],
        ),
        (
            "libtool is not there",
            include_str!("first_error/libtool.log"),
            &["make: libtool: No such file or directory"],
        ),
        (
            "a tool that nobody knows",
            include_str!("first_error/other.log"),
            &["the frobnicator is out of tune", "make: *** [Makefile:4: a] Error 3"],
        ),
    ];

    #[test]
    fn the_first_error_of_every_kind_is_found() {
        for (what, log, wanted) in LOGS {
            let found = first_error(log);
            assert!(found.len() >= wanted.len(), "{what}: {found:#?}");
            for (found, wanted) in found.iter().zip(*wanted) {
                assert!(found.starts_with(wanted), "{what}: {found}");
            }
        }
    }

    #[test]
    fn how_the_compiler_got_there_comes_along() {
        let log = include_str!("first_error/header.log");
        let of_the_header = log
            .lines()
            .filter(|line| !line.contains("n.c:") && !line.contains("a second one"))
            .collect::<Vec<_>>()
            .join("\n");
        let found = first_error(&of_the_header);
        assert_eq!(found[0], "In file included from /tmp/demo/header/m.c:2:");
        assert!(found[2].starts_with("/tmp/demo/header/include/bad.h:5:16: error: ‘nope’ undeclared"), "{found:#?}");
    }

    #[test]
    fn of_many_parts_one_is_asked_about() {
        let said = "  CC [M]  /w/build/a/a.o\n/w/build/a/a.c:1:2: error: expected\nmake[2]: *** [x: /w/build/a/a.o] Error 1\n\
            /bin/sh: 1: objtool: not found\nmake[2]: *** [x: /w/build/b/b.o] Error 127\n  CC [M]  /w/build/c/c.o\n";
        assert_eq!(first_error_of("/build/a/", said), ["/w/build/a/a.c:1:2: error: expected"]);
        assert_eq!(first_error_of("/build/b/", said), ["/bin/sh: 1: objtool: not found"]);
        assert_eq!(first_error_of("/build/c/", said), Vec::<String>::new());
    }

    #[test]
    fn a_build_that_went_well_has_none() {
        let said = "configure: WARNING: no such thing\n  CC      fs/open.o\nchecking for error: no... no\n\
            fatal: not a git repository\n/usr/bin/ld: warning: a.o: missing .note.GNU-stack section\n\
            a.c:1:2: warning: an error: it is none [-Wx]\nvmlinux.o: warning: objtool: f+0x1: unreachable instruction\n\
            make[1]: Nothing to be done for 'all'.\nmake: [Makefile:2: x] Error 1 (ignored)\n";
        assert_eq!(first_error(said), Vec::<String>::new());
        assert_eq!(first_error(""), Vec::<String>::new());
    }

    #[test]
    fn forms_that_this_host_has_not_made_are_known_too() {
        for (said, first) in [
            ("  LD [M]  x.ko\nERROR: \"zfs_f\" [/w/x.ko] undefined!\nmake: *** [y] Error 1\n", "ERROR: \"zfs_f\""),
            ("ERROR: modpost: missing MODULE_LICENSE() in x.o\nmake: *** [y] Error 1\n", "ERROR: modpost: missing"),
            (
                "vmlinux.o: error: objtool: f+0x1: return with modified stack frame\nmake: *** [y] Error 255\n",
                "vmlinux.o: error: objtool",
            ),
            ("x.o: objtool: can't find starting instruction\nmake: *** [y] Error 255\n", "x.o: objtool: can't"),
            (
                "ld.lld: error: undefined symbol: g\n>>> referenced by a.c\nmake: *** [y] Error 1\n",
                "ld.lld: error: undefined",
            ),
            (
                "\u{1b}[1ma.c:1:2: \u{1b}[0m\u{1b}[0;1;31merror: \u{1b}[0mno\nmake: *** [y] Error 1\n",
                "a.c:1:2: error: no",
            ),
            (
                "x86_64-linux-gnu-ld: final link failed: bad value\nmake: *** [y] Error 1\n",
                "x86_64-linux-gnu-ld: final",
            ),
            ("libtool:   error: cannot find the library 'x.la'\nmake: *** [y] Error 1\n", "libtool:   error"),
            ("gcc: fatal error: Killed signal terminated program cc1\nmake: *** [y] Error 1\n", "gcc: fatal error"),
            ("a.c:1:1: internal compiler error: Segmentation fault\nmake: *** [y] Error 1\n", "a.c:1:1: internal"),
            ("error[E0425]: cannot find value `x`\n --> a.rs:3:5\nmake: *** [y] Error 1\n", "error[E0425]"),
            (
                "BTF: .tmp_vmlinux.btf: pahole (pahole) is not available\nFailed to generate BTF for vmlinux\nTry to disable CONFIG_DEBUG_INFO_BTF\nmake[2]: *** [vmlinux] Error 1\n",
                "BTF: .tmp",
            ),
            (
                "***\n*** The source tree is not clean, please run 'make mrproper'\n*** in /w\n***\nmake[1]: *** [Makefile:580: outputmakefile] Error 1\n",
                "***",
            ),
            (
                "cp: cannot stat 'x': No such file or directory\nmake[1]: *** [Makefile:580: y] Error 1\n",
                "cp: cannot stat",
            ),
            ("fs/f.c:9: x\nobjcopy: 'a.o': No such file\n  CC      b.o\nmake[1]: *** [a] Error 1\n", "objcopy: 'a.o'"),
            ("tmp/x: write error: No space left on device\nmake[1]: *** [a] Error 1\n", "tmp/x: write"),
            ("init/Kconfig:12: syntax error\nmake[1]: *** [a] Error 1\n", "init/Kconfig:12"),
            ("configure: error: no acceptable C compiler\n", "configure: error"),
            ("make: *** [y] Terminated\n", "make: *** [y] Terminated"),
            // If output and errors go different ways, the error can come after make's message.
            ("make: *** [Makefile:3: all] Error 1\na.c:1:2: error: late\n", "a.c:1:2: error: late"),
        ] {
            let lines = first_error(said);
            assert!(lines.first().is_some_and(|line| line.starts_with(first)), "{said}: {lines:?}");
        }
    }
}
