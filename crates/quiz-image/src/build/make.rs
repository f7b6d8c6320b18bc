//! Running the kernel's own build system: with nothing but what was asked for, its output in a log, and progress counted in
//! objects. Not for deciding what to build.

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use quiz_arch::Arch;

use crate::command::{CommandError, Run};
use crate::report::Progress;

/// Why the kernel's build system did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// It could not be run.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// It found something wrong.
    #[error("cannot {doing}:\n  {}\nthe whole log is {}", lines.join("\n  "), log.display())]
    Failed {
        /// What was being done, to follow "cannot".
        doing: String,
        /// The first error in the log, with the lines that belong to it.
        lines: Vec<String>,
        /// Everything that make said.
        log: PathBuf,
    },
}

/// Variables of the caller's environment that would change what is built.
const MEANINGFUL: &[&str] = &[
    "ARCH",
    "SRCARCH",
    "CROSS_COMPILE",
    "LLVM",
    "LLVM_IAS",
    "CC",
    "LD",
    "HOSTCC",
    "HOSTLD",
    "KCFLAGS",
    "KAFLAGS",
    "KCPPFLAGS",
    "CFLAGS_KERNEL",
    "CFLAGS_MODULE",
    "EXTRA_CFLAGS",
    "HOSTCFLAGS",
    "HOSTLDFLAGS",
    "KBUILD_OUTPUT",
    "KBUILD_EXTMOD",
    "KBUILD_VERBOSE",
    "KBUILD_BUILD_TIMESTAMP",
    "KBUILD_BUILD_VERSION",
    "KCONFIG_CONFIG",
    "KCONFIG_ALLCONFIG",
    "KCONFIG_OVERWRITECONFIG",
    "KERNELRELEASE",
    "KERNELVERSION",
    "LOCALVERSION",
    "INSTALL_PATH",
    "INSTALL_MOD_PATH",
    "INSTALL_MOD_STRIP",
    "INSTALL_HDR_PATH",
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "GNUMAKEFLAGS",
    "MAKEFILES",
    "M",
    "O",
    "V",
    "C",
    "W",
];

/// Which toolchain builds a kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tools {
    /// The architecture to build for.
    pub arch: &'static Arch,
    /// The architecture needs the cross toolchain.
    pub cross: bool,
    /// Clang and LLVM's tools instead of GCC and binutils.
    pub llvm: bool,
}

impl Tools {
    /// The compiler's name.
    pub fn compiler(&self) -> String {
        match (self.llvm, self.cross) {
            (true, _) => "clang".to_owned(),
            (false, true) => format!("{}gcc", self.arch.cross),
            (false, false) => "gcc".to_owned(),
        }
    }

    /// The name of a program of the toolchain (`strip`, `nm`).
    pub fn tool(&self, name: &str) -> String {
        match (self.llvm, self.cross) {
            (true, _) => format!("llvm-{name}"),
            (false, true) => format!("{}{name}", self.arch.cross),
            (false, false) => name.to_owned(),
        }
    }
}

/// A source tree, a build directory, and the tools to get from one to the other.
#[derive(Debug, Clone)]
pub(crate) struct Make<'a> {
    /// The kernel's source; never written to.
    pub source: &'a Path,
    /// Where everything goes that is made.
    pub output: &'a Path,
    /// The architecture to build for.
    pub arch: &'static Arch,
    /// The architecture needs the cross toolchain.
    pub cross: bool,
    /// Clang and LLVM's tools instead of GCC and binutils.
    pub llvm: bool,
    /// Words before the compiler's name.
    pub prefix: &'a [String],
    /// How many jobs at once.
    pub jobs: NonZeroUsize,
    /// Where make's words go, after what is there.
    pub log: &'a Path,
}

impl Make<'_> {
    fn command(&self, args: &[String]) -> Command {
        let mut command = Command::new("make");
        for name in MEANINGFUL {
            command.env_remove(name);
        }
        command.arg("-C").arg(self.source);
        let mut output = std::ffi::OsString::from("O=");
        output.push(self.output);
        command.arg(output).arg(format!("-j{}", self.jobs)).arg("--no-print-directory");
        command.arg(format!("ARCH={}", self.arch.kernel_arch));
        // Set, though empty, it keeps git's state ("+", "-dirty") out of the release, which would change with every commit.
        command.args(["LOCALVERSION=", "KBUILD_BUILD_USER=quiz", "KBUILD_BUILD_HOST=quiz"]);
        if self.cross {
            command.arg(format!("CROSS_COMPILE={}", self.arch.cross));
        }
        if self.llvm {
            command.arg("LLVM=1");
        }
        if !self.prefix.is_empty() {
            let prefix = self.prefix.join(" ");
            command.arg(format!("CC={prefix} {}", self.compiler()));
            command.arg(format!("HOSTCC={prefix} {}", if self.llvm { "clang" } else { "gcc" }));
        }
        command.args(args);
        command
    }

    fn tools(&self) -> Tools {
        Tools { arch: self.arch, cross: self.cross, llvm: self.llvm }
    }

    /// The compiler's name.
    pub fn compiler(&self) -> String {
        self.tools().compiler()
    }

    /// The name of a program of the toolchain (`strip`, `nm`).
    pub fn tool(&self, name: &str) -> String {
        self.tools().tool(name)
    }

    /// Runs make with `args` (targets and assignments) to its end, and returns how many objects were made. `doing` follows "cannot".
    pub fn run(&self, args: &[&str], doing: &str, progress: &dyn Progress) -> Result<u64, MakeError> {
        self.run_expecting(None, args, doing, progress)
    }

    /// Like [`Make::run`], where `progress` was told that `expected` objects would be made; if there are more, it is corrected.
    pub fn run_expecting(
        &self,
        expected: Option<u64>,
        args: &[&str],
        doing: &str,
        progress: &dyn Progress,
    ) -> Result<u64, MakeError> {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let before = fs::metadata(self.log).map_or(0, |m| m.len());
        let run = Run { command: self.command(&args), doing, log: self.log };
        let io = |cause| CommandError::Io { doing: doing.to_owned(), program: "make".to_owned(), cause };
        let built = run.stream(|out| {
            let mut log = fs::OpenOptions::new().append(true).create(true).open(self.log).map_err(io)?;
            let mut made = 0;
            let mut lines = BufReader::new(out);
            let mut line = Vec::new();
            while {
                line.clear();
                lines.read_until(b'\n', &mut line).map_err(io)? > 0
            } {
                log.write_all(&line).map_err(io)?;
                if let Some(object) = object(&String::from_utf8_lossy(&line)) {
                    made += 1;
                    if expected.is_some_and(|expected| made > expected) {
                        progress.total(made);
                    }
                    progress.note(object);
                    progress.at(made);
                }
            }
            Ok(made)
        });
        built.map_err(|error| match error {
            CommandError::Failed { lines, .. } => {
                let log = fs::read(self.log).unwrap_or_default();
                let said = String::from_utf8_lossy(log.get(before as usize..).unwrap_or_default()).into_owned();
                let first = first_error(&said);
                MakeError::Failed {
                    doing: doing.to_owned(),
                    lines: if first.is_empty() { lines } else { first },
                    log: self.log.to_owned(),
                }
            }
            other => other.into(),
        })
    }
}

/// The object that a line of make's output says is being made.
pub fn object(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("  ")?;
    let (what, rest) = rest.split_once(' ')?;
    if !matches!(what, "CC" | "AS" | "AR" | "LD" | "HOSTCC") {
        return None;
    }
    let rest = rest.trim();
    Some(rest.strip_prefix("[M]").unwrap_or(rest).trim())
}

/// How many objects quiz's own configuration makes, for a first build that has no earlier one to be measured by.
pub(crate) const TYPICAL_OBJECTS: u64 = 1810;

/// The first error in make's output, with the lines that explain it: what the compiler says, else the linker, modpost or
/// objtool, else make itself. Empty if there is none.
pub fn first_error(said: &str) -> Vec<String> {
    let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
    let compiler = |line: &str| {
        let Some(at) = line.find(": error: ").or_else(|| line.find(": fatal error: ")) else { return false };
        line[..at].contains(':') || line.starts_with("clang") || line.starts_with("cc1")
    };
    let linker = |line: &str| {
        line.contains("undefined reference to")
            || line.contains("undefined symbol: ")
            || line.starts_with("ERROR: modpost:")
            || line.starts_with("ld: ")
            || line.starts_with("ld.lld: error")
            || (line.contains("objtool: ") && line.contains("error"))
            || line.starts_with("Error: ")
            || line.contains(": Error: ")
    };
    let shell = |line: &str| {
        line.ends_with(": not found")
            || line.contains("command not found")
            || line.ends_with("No such file or directory")
    };
    // make's own words tell least: the target that failed.
    let make = |line: &str| line.starts_with("make") && line.contains("***") || line.starts_with("***");
    let kinds: [&dyn Fn(&str) -> bool; 4] = [&compiler, &linker, &shell, &make];
    let Some(first) = kinds.iter().find_map(|kind| lines.iter().position(|line| kind(line))) else {
        return Vec::new();
    };
    // How the compiler got there comes before: "In file included from …".
    let leads_to = |line: &str| {
        line.starts_with("In file included from")
            || line.contains(": In function ")
            || line.trim_start().starts_with("from ")
    };
    let mut start = first;
    while start > 0 && leads_to(lines[start - 1]) {
        start -= 1;
    }
    lines[start..]
        .iter()
        .take_while(|line| object(line).is_none())
        .filter(|line| !line.is_empty())
        .take(first - start + 6)
        .map(|line| (*line).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Silent;

    const FAILED: &str = "\
  CC      fs/stat.o
  CC      fs/open.o
../fs/old.c:3:1: warning: unused variable
In file included from ../include/linux/fs.h:5,
                 from ../fs/open.c:8:
../include/linux/bad.h: In function 'f':
../include/linux/bad.h:12:9: error: 'nope' undeclared (first use in this function)
   12 |         nope = 1;
      |         ^~~~
  CC      fs/exec.o
../fs/exec.c:1:1: error: second
make[3]: *** [../scripts/Makefile.build:229: fs/open.o] Error 1
make: *** [Makefile:224: __sub-make] Error 2
";

    #[test]
    fn the_first_compiler_error_is_found_with_its_context() {
        let lines = first_error(FAILED);
        assert_eq!(lines[0], "In file included from ../include/linux/fs.h:5,");
        assert_eq!(lines[3], "../include/linux/bad.h:12:9: error: 'nope' undeclared (first use in this function)");
        assert_eq!(lines.last().unwrap().trim(), "|         ^~~~");
        assert_eq!(first_error("  CC      a.o\n  LD      vmlinux\n"), Vec::<String>::new());
    }

    #[test]
    fn other_tools_errors_are_found_before_makes_own() {
        for (said, first) in [
            (
                "make[1]: *** [x] Error 1\nld: a.o: in function `f':\na.c:(.text+0x1): undefined reference to `g'\n",
                "ld: a.o",
            ),
            ("x\nERROR: modpost: \"zfs_f\" [fs/x.ko] undefined!\nmake: *** [y] Error 2\n", "ERROR: modpost: "),
            ("/bin/sh: 1: flex: not found\nmake[2]: *** [scripts/Makefile.host:9] Error 127\n", "/bin/sh: 1: flex"),
            ("  GEN     Makefile\n***\n*** The source tree is not clean, please run 'make mrproper'\n", "***"),
            ("noise\nmake[1]: *** No rule to make target 'x'.  Stop.\n", "make[1]: *** No rule"),
            ("ld.lld: error: undefined symbol: g\n>>> referenced by a.c\n", "ld.lld: error"),
        ] {
            let lines = first_error(said);
            assert!(lines.first().is_some_and(|l| l.starts_with(first)), "{said}: {lines:?}");
        }
    }

    #[test]
    fn objects_are_counted_and_nothing_else() {
        let made: Vec<_> = "  CC      fs/open.o\n  CC [M]  drivers/md/dm.o\n  GEN     Makefile\n  AR      built-in.a\nCC x.o\n  CALL    x.sh\n  LD      vmlinux"
            .lines()
            .filter_map(object)
            .collect();
        assert_eq!(made, ["fs/open.o", "drivers/md/dm.o", "built-in.a", "vmlinux"]);
    }

    #[test]
    fn make_gets_what_was_asked_and_its_failure_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (source, output, log) = (dir.path().join("src"), dir.path().join("out"), dir.path().join("logs/m.log"));
        fs::create_dir_all(&source).unwrap();
        fs::create_dir_all(&output).unwrap();
        let makefile = "all:\n\t@echo '  CC      a.o'; echo \"$(O) [$(ARCH)] [$(CC)] [$(LOCALVERSION)] [$(KCFLAGS)]\"\n\
                        bad:\n\t@echo '  CC      b.o'; echo 'b.c:1:2: error: broken' >&2; exit 1\n";
        fs::write(source.join("Makefile"), makefile).unwrap();
        let prefix = ["nice".to_owned(), "ccache".to_owned()];
        let make = Make {
            source: &source,
            output: &output,
            arch: quiz_arch::find("aarch64").unwrap(),
            cross: true,
            llvm: false,
            prefix: &prefix,
            jobs: NonZeroUsize::MIN,
            log: &log,
        };
        assert_eq!(make.run(&["all"], "try", &Silent).unwrap(), 1);
        let said = fs::read_to_string(&log).unwrap();
        let wanted = format!("{} [arm64] [nice ccache aarch64-linux-gnu-gcc] [] []", output.display());
        assert!(said.contains(&wanted), "{said}");
        assert_eq!(
            (make.tool("strip").as_str(), make.compiler().as_str()),
            ("aarch64-linux-gnu-strip", "aarch64-linux-gnu-gcc")
        );
        let error = make.run(&["bad"], "build the kernel", &Silent).unwrap_err().to_string();
        assert!(error.starts_with("cannot build the kernel:\n  b.c:1:2: error: broken"), "{error}");
        assert!(error.ends_with(&format!("the whole log is {}", log.display())), "{error}");
    }
}
