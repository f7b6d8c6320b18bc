//! Runs the kernel's own build system in a controlled environment, logs its output, and counts
//! progress in objects. Not for deciding what to build.

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use quiz_arch::Arch;

use quiz_host::command::{CommandError, Run};
use quiz_host::environment::Environment;
use quiz_host::report::Progress;

/// Why the kernel's build system failed.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// make could not be run.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// make reported an error.
    #[error("cannot {doing}:\n  {}\nthe whole log is {}", lines.join("\n  "), log.display())]
    Failed {
        /// The step that failed; the text follows "cannot".
        doing: String,
        /// The first error in the log, with the lines that belong to it.
        lines: Vec<String>,
        /// The file with make's complete output.
        log: PathBuf,
    },
}

/// The toolchain that builds a kernel.
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

/// A source tree, a build directory, and the tools to build one from the other.
#[derive(Debug, Clone)]
pub(crate) struct Make<'a> {
    /// The kernel's source; never written to.
    pub source: &'a Path,
    /// The build directory, which receives all output.
    pub output: &'a Path,
    /// The architecture to build for.
    pub arch: &'static Arch,
    /// The architecture needs the cross toolchain.
    pub cross: bool,
    /// Clang and LLVM's tools instead of GCC and binutils.
    pub llvm: bool,
    /// Arguments before the compiler's name.
    pub prefix: &'a [String],
    /// How many jobs run at once.
    pub jobs: NonZeroUsize,
    /// The part of the caller's environment that make receives.
    pub environment: &'a Environment,
    /// The file that make's output is appended to.
    pub log: &'a Path,
}

impl Make<'_> {
    fn command(&self, args: &[String]) -> Command {
        let mut command = self.environment.command("make");
        command.arg("-C").arg(self.source);
        let mut output = std::ffi::OsString::from("O=");
        output.push(self.output);
        command.arg(output).arg(format!("-j{}", self.jobs)).arg("--no-print-directory");
        command.arg(format!("ARCH={}", self.arch.kernel_arch));
        // Setting it, though empty, keeps git's state ("+", "-dirty") out of the release. That
        // state would change with every commit.
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

    /// Runs make with `args` (targets and assignments), and returns how many objects it made.
    /// `doing` follows "cannot" in an error.
    pub fn run(&self, args: &[&str], doing: &str, progress: &dyn Progress) -> Result<u64, MakeError> {
        self.run_expecting(None, args, doing, progress)
    }

    /// Like [`Make::run`], with `progress` prepared for `expected` objects. If there are more, it
    /// corrects `progress`.
    pub fn run_expecting(
        &self,
        expected: Option<u64>,
        args: &[&str],
        doing: &str,
        progress: &dyn Progress,
    ) -> Result<u64, MakeError> {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
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
            CommandError::Failed { lines, log, .. } => MakeError::Failed { doing: doing.to_owned(), lines, log },
            other => other.into(),
        })
    }
}

/// The object that a line of make's output reports.
pub fn object(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("  ")?;
    let (what, rest) = rest.split_once(' ')?;
    if !matches!(what, "CC" | "AS" | "AR" | "LD" | "HOSTCC") {
        return None;
    }
    let rest = rest.trim();
    Some(rest.strip_prefix("[M]").unwrap_or(rest).trim())
}

/// How many objects quiz's own configuration makes, for a first build without an earlier one to
/// compare with.
pub(crate) const TYPICAL_OBJECTS: u64 = 1810;

#[cfg(test)]
mod tests {
    use super::*;
    use quiz_host::report::Silent;

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
            environment: &Environment::default(),
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
