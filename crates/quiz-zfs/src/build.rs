//! Builds a checkout for a kernel: shadow, autogen, configure, make. Not for installing the
//! products.

use std::io::{self, BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use quiz_host::command::{CommandError, Run};
use quiz_host::lock::Lock;
use quiz_host::{Cache, Environment, Report, Unit};
use quiz_kernel::kernel::{self, Kernel};
use walkdir::WalkDir;

use crate::checkout::{Checkout, CheckoutError};
use crate::configure::{self, Answers};
use crate::configure_error;
use crate::cross::Cross;
use crate::generation;
use crate::record::{self, Record};
use crate::{shadow, sources};

/// Why OpenZFS could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// This checkout cannot be built for this kernel.
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    /// A program could not be run, or failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A step reported an error.
    #[error("cannot {doing}:\n  {}\nthe whole log is {}", lines.join("\n  "), log.display())]
    Failed {
        /// The failed step; the text follows "cannot".
        doing: String,
        /// The most informative lines.
        lines: Vec<String>,
        /// The file with the complete output.
        log: PathBuf,
    },
    /// The checkout has neither `configure` nor `autogen.sh`.
    #[error("cannot configure OpenZFS in {}: it has neither `configure` nor `autogen.sh`; is the checkout complete?", dir.display())]
    NoConfigure {
        /// The checkout.
        dir: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot build OpenZFS: {0}")]
    Io(#[from] io::Error),
}

/// Builds one checkout for one kernel.
#[derive(Clone, Copy)]
pub struct Builder<'a> {
    /// The checkout.
    pub checkout: &'a Checkout,
    /// The kernel. It must stay in use during the build.
    pub kernel: &'a Kernel,
    /// The cache that contains the kernel; it also keeps results of `configure`.
    pub cache: &'a Cache,
    /// Additional inputs, if the kernel is for another architecture than the host's.
    pub cross: Option<Cross<'a>>,
    /// How many compilers run at once.
    pub jobs: NonZeroUsize,
    /// The part of the caller's environment that the programs of the build receive.
    pub environment: &'a Environment,
    /// Receives progress.
    pub report: &'a dyn Report,
}

impl Builder<'_> {
    /// Updates the shadow and configures it, after autogen if needed. Without `args`, the previous
    /// arguments apply.
    pub fn configure(&self, args: Option<Vec<String>>) -> Result<(), BuildError> {
        let (_lock, record) = self.begin(args.as_deref())?;
        self.do_configure(record, args)
    }

    /// Updates the shadow and runs make with the additional arguments `args`. Configures first if
    /// that is missing, or if the kernel was rebuilt since.
    pub fn make(&self, args: &[String]) -> Result<(), BuildError> {
        let (_lock, record) = self.begin(None)?;
        let why = self.why_configure(&record);
        if let Some(why) = why {
            if !why.is_empty() {
                self.report.say(why);
            }
            self.do_configure(record, None)?;
        }
        self.do_make(args)
    }

    /// Removes everything built and installed for this kernel, and the arguments of `configure`.
    /// Returns whether there was anything.
    pub fn clean(&self) -> Result<bool, BuildError> {
        let _lock = self.lock("cleaning up")?;
        let release = &self.kernel.manifest.release;
        let build = self.checkout.build_dir(release);
        let was_built = build.exists();
        if was_built {
            fs::remove_dir_all(&build)?;
        }
        Ok(generation::remove_all(&self.checkout.install_dir(release), self.report)? || was_built)
    }

    fn dir(&self) -> PathBuf {
        self.checkout.build_dir(&self.kernel.manifest.release)
    }

    fn log(&self, name: &str) -> io::Result<PathBuf> {
        let log = self.dir().join(record::DIR).join(format!("{name}.log"));
        match fs::remove_file(&log) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(log),
        }
    }

    fn what(&self) -> String {
        format!("OpenZFS {} for {}", self.checkout.meta.version, self.kernel.manifest.release)
    }

    fn lock(&self, doing: &str) -> io::Result<Lock> {
        let locks = self.checkout.make_state_dir("build")?.join(".locks");
        let path = locks.join(&self.kernel.manifest.release);
        Ok(Lock::wait(&path, &format!("{doing} {}", self.what()), self.report)?.0)
    }

    fn begin(&self, args: Option<&[String]>) -> Result<(Lock, Record), BuildError> {
        let dir = self.dir();
        let recorded = Record::read(&dir)?;
        self.checkout.fits(self.kernel, args.unwrap_or(&recorded.args))?;
        let lock = self.lock("building")?;
        fs::create_dir_all(dir.join(record::DIR))?;
        let files = sources::list(&self.checkout.dir, self.report)?;
        let synced = shadow::sync(&self.checkout.dir, &files, &dir, &dir.join(record::DIR).join("sources"))?;
        if synced.removed > 0 && dir.join("config.status").exists() {
            self.report.say(&format!("{} source files are gone since the last build", synced.removed));
        }
        Ok((lock, Record::read(&dir)?))
    }

    /// Why `configure` has to run before make; empty if there is nothing to report.
    fn why_configure(&self, record: &Record) -> Option<&'static str> {
        let dir = self.dir();
        if !dir.join("config.status").exists() {
            return Some("");
        }
        match &record.identity {
            None => Some(""),
            Some(identity) if *identity != self.kernel.identity() => {
                Some("the kernel was built again since OpenZFS was configured for it; configuring and compiling again")
            }
            Some(_) if record.dir != dir => Some("the checkout was moved since it was configured; configuring again"),
            Some(_) => None,
        }
    }

    fn do_configure(&self, mut record: Record, args: Option<Vec<String>>) -> Result<(), BuildError> {
        let dir = self.dir();
        let is_other_kernel = record.identity.as_ref().is_some_and(|identity| *identity != self.kernel.identity());
        record.args = args.unwrap_or(record.args);
        record.identity = None;
        record.dir.clone_from(&dir);
        record.write(&dir)?;
        if self.needs_autogen(&dir)? {
            self.autogen(&dir)?;
        }
        let script = String::from_utf8_lossy(&fs::read(dir.join("configure"))?).into_owned();
        let kbuild = kernel::shelf(self.cache).dir().join(self.kernel.name()).join("kbuild");
        let mut words = configure::defaults(self.kernel, &kbuild, &configure::knows(&script));
        words.extend(self.cross.iter().flat_map(|cross| configure::for_another(cross, self.kernel.manifest.llvm)));
        words.extend(record.args.iter().cloned());
        let store = self.cache.dir().join("zfs-configure");
        let answers = Answers::new(&store, self.kernel, &dir, &words, self.environment)?;
        let before = Configured::read(&dir)?;
        let log = self.log("configure")?;
        let mut command = configure::command("./configure", &dir, self.environment);
        command.args(&words);
        self.find_libraries(&mut command);
        if let Some(site) = answers.give(&dir)? {
            command.env("CONFIG_SITE", site);
        }
        let doing = format!("configure {}", self.what());
        let progress = self.report.start(&format!("configuring {}", self.what()), None, Unit::None);
        let began = now(&dir)?;
        let ran = Run { command, doing: &doing, log: &log }.run_group(|line| progress.note(line));
        ran.map_err(|error| match error {
            CommandError::Failed { lines, .. } => {
                let said = fs::read(&log).unwrap_or_default();
                let told = configure_error::explain(&dir, &String::from_utf8_lossy(&said), began);
                BuildError::Failed { doing, lines: if told.is_empty() { lines } else { told }, log }
            }
            other => other.into(),
        })?;
        progress.done();
        answers.keep(&dir)?;
        before.keep_times(&dir)?;
        if is_other_kernel {
            // The new kernel's headers may be older than the objects; make alone would then keep
            // the objects.
            forget_objects(&dir.join("module"))?;
        }
        record.identity = Some(self.kernel.identity());
        record.write(&dir)?;
        Ok(())
    }

    /// Whether `configure` is missing, or was made by autogen from older inputs. For a `configure`
    /// in the checkout itself, make's rules apply.
    fn needs_autogen(&self, dir: &Path) -> Result<bool, BuildError> {
        let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
        let Some(made) = modified(&dir.join("configure")) else {
            return match dir.join("autogen.sh").exists() {
                true => Ok(true),
                false => Err(BuildError::NoConfigure { dir: self.checkout.dir.clone() }),
            };
        };
        if self.checkout.dir.join("configure").exists() {
            return Ok(false);
        }
        let mut inputs = vec![dir.join("configure.ac"), dir.join("META"), dir.join("autogen.sh")];
        if let Ok(entries) = fs::read_dir(dir.join("config")) {
            let macros = entries.flatten().map(|entry| entry.path());
            // autogen itself makes libtool's macros.
            inputs.extend(macros.filter(|path| path.extension().is_some_and(|e| e == "m4") && path.is_symlink()));
        }
        Ok(inputs.iter().filter_map(|path| modified(path)).any(|time| time > made))
    }

    fn autogen(&self, dir: &Path) -> Result<(), BuildError> {
        let log = self.log("autogen")?;
        let mut command = configure::command("sh", dir, self.environment);
        command.arg("./autogen.sh");
        let progress = self.report.start("making configure", None, Unit::None);
        Run { command, doing: "make OpenZFS's configure", log: &log }.run_group(|line| progress.note(line))?;
        progress.done();
        Ok(())
    }

    fn do_make(&self, args: &[String]) -> Result<(), BuildError> {
        let dir = self.dir();
        let mut record = Record::read(&dir)?;
        let log = self.log("make")?;
        let mut command = configure::command("make", &dir, self.environment);
        command.arg(format!("-j{}", self.jobs)).arg("--no-print-directory").args(args);
        // make itself runs configure again if its inputs have changed.
        self.find_libraries(&mut command);
        let is_first = record.objects.is_none() && args.is_empty();
        let total = is_first.then(|| self.expected_objects());
        self.report.say(&format!("building {}; the output of make is in {}", self.what(), log.display()));
        let progress = self.report.start(&format!("building {}", self.what()), total, Unit::Items("objects"));
        let doing = format!("build {}", self.what());
        let io = |cause| CommandError::Io { doing: doing.clone(), program: "make".to_owned(), cause };
        let built = Run { command, doing: &doing, log: &log }.stream(|out| {
            let mut copy = fs::OpenOptions::new().append(true).create(true).open(&log).map_err(io)?;
            let mut lines = BufReader::new(out);
            let (mut line, mut made) = (Vec::new(), 0);
            while {
                line.clear();
                lines.read_until(b'\n', &mut line).map_err(io)? > 0
            } {
                copy.write_all(&line).map_err(io)?;
                let text = String::from_utf8_lossy(&line);
                if let Some(object) = quiz_kernel::build::object(text.trim_end()) {
                    made += 1;
                    if total.is_some_and(|total| made > total) {
                        progress.total(made);
                    }
                    progress.note(&short(object, &dir));
                    progress.at(made);
                }
            }
            Ok(made)
        });
        let made = built.map_err(|error| match error {
            CommandError::Failed { lines, log, .. } => BuildError::Failed { doing: doing.clone(), lines, log },
            other => other.into(),
        })?;
        progress.done();
        if is_first {
            record.objects = Some(made);
            record.write(&dir)?;
        }
        Ok(())
    }

    /// Makes `pkg-config` find the guest's libraries.
    fn find_libraries(&self, command: &mut Command) {
        let Some(Cross { arch, sysroot }) = self.cross else { return };
        let libraries = sysroot.join("usr/lib").join(arch.multiarch).join("pkgconfig");
        let mut dirs = libraries.into_os_string();
        dirs.push(":");
        dirs.push(sysroot.join("usr/share/pkgconfig"));
        command.env("PKG_CONFIG_LIBDIR", dirs).env("PKG_CONFIG_SYSROOT_DIR", sysroot);
    }

    /// How many objects a full build will make: as many as a build for another kernel did.
    fn expected_objects(&self) -> u64 {
        let others = fs::read_dir(self.checkout.dir.join(".quiz/build")).into_iter().flatten().flatten();
        let known = others.filter_map(|other| Record::read(&other.path()).ok()?.objects);
        known.max().unwrap_or(TYPICAL_OBJECTS)
    }
}

/// The results of `configure` that affect objects.
#[derive(Debug, PartialEq, Eq)]
struct Configured {
    /// All results that go into makefiles and the header.
    status: Option<Vec<u8>>,
    header: Option<Vec<u8>>,
    modified: Option<std::time::SystemTime>,
}

const HEADER: &str = "zfs_config.h";

impl Configured {
    fn read(dir: &Path) -> io::Result<Configured> {
        let read = |name: &str| match fs::read(dir.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        let modified = fs::metadata(dir.join(HEADER)).and_then(|meta| meta.modified()).ok();
        Ok(Configured { status: read("config.status")?, header: read(HEADER)?, modified })
    }

    /// If the results are the same as before, gives the header its old time, so that make does not
    /// recompile everything. OpenZFS's `configure` writes the header each time.
    fn keep_times(&self, dir: &Path) -> io::Result<()> {
        let now = Configured::read(dir)?;
        if let Some(modified) = self.modified
            && now.status == self.status
            && now.header == self.header
        {
            fs::OpenOptions::new().append(true).open(dir.join(HEADER))?.into_parts().0.set_modified(modified)?;
        }
        Ok(())
    }
}

/// How many objects OpenZFS 2.3 has, for a first build without an earlier one to compare with.
const TYPICAL_OBJECTS: u64 = 720;

/// An object's name below the build directory.
fn short(object: &str, dir: &Path) -> String {
    object.strip_prefix(&format!("{}/", dir.display())).unwrap_or(object).to_owned()
}

/// The time in the resolution of `dir`'s file system, which may be coarser than the clock's.
fn now(dir: &Path) -> io::Result<std::time::SystemTime> {
    let mark = dir.join(record::DIR).join("began");
    fs::write(&mark, "")?;
    fs::metadata(&mark)?.modified()
}

/// Makes kbuild recompile all modules: it remakes an object whose command line is missing.
fn forget_objects(module: &Path) -> io::Result<()> {
    for entry in WalkDir::new(module) {
        let entry = entry.map_err(io::Error::from)?;
        let name = entry.file_name().to_string_lossy();
        if entry.file_type().is_file() && name.starts_with('.') && name.ends_with(".cmd") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_told_below_the_build_directory() {
        assert_eq!(short("/w/.quiz/build/6.1/module/zfs/arc.o", Path::new("/w/.quiz/build/6.1")), "module/zfs/arc.o");
        assert_eq!(short("lib/x.lo", Path::new("/w")), "lib/x.lo");
    }
}
