//! Makes roots whose packages are configured inside a VM of their architecture, where the user is
//! root, even without privileges on the host. Not for running a VM: implementors of [`Vm`] do that.
//!
//! apt fetches and verifies the packages on the host. The VM runs on an image of the essential
//! packages and installs all packages into a file system on its disk (`configure.sh`). The result
//! comes back as a tar archive. docs/decisions/0012-roots-made-in-a-vm.md explains the design.

use super::model::{IMAGE, LEFT_OUT, PACKAGES, Root, RootError, RootManifest, SETUP, Wanted, installed};
use super::package::Package;
use super::tree::Tree;
use crate::squashfs::FORMAT;
use crate::squashfs::NEWEST_TIME;
use crate::{blank, squashfs};
use fs_err as fs;
use quiz_debian::apt::install::Step;
use quiz_debian::apt::{self, Apt};
use quiz_debian::usrmerge;
use quiz_host::command::telling_lines;
use quiz_host::report::{Progress, Report, Unit};
use quiz_host::store::{Cache, StoreError};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

const CONFIGURE: &str = include_str!("configure.sh");
/// The size of the disk on which a root is made, in bytes. It is sparse: only written blocks take
/// space.
const DISK_BYTES: u64 = 16 << 30;
/// A package that is needed before any package is configured, and is not essential.
const MOUNT: &str = "mount";

/// Runs programs in VMs of one architecture.
pub trait Vm {
    /// Boots a VM and runs the program of `task` in it as root. Returns after the program has
    /// exited with 0 and the VM has shut down cleanly.
    fn run(&self, task: Task<'_>) -> Result<(), VmError>;
}

/// The task of one VM.
pub struct Task<'a> {
    /// The root to run on.
    pub root: Root,
    /// An image of an empty ext4 file system, to attach as a writable disk.
    pub disk: &'a Path,
    /// The program, from the serial numbers of the root's disk and of `disk`.
    pub command: &'a dyn Fn(&str, &str) -> Vec<OsString>,
    /// Receives its standard output.
    pub output: std::fs::File,
    /// Receives its standard error.
    pub errors: Box<dyn Write + Send>,
    /// The run directory, for the console and other files of the VM; it need not exist.
    pub evidence: &'a Path,
}

/// Why a VM did not complete its task.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The VM or its program failed.
    #[error("{0}")]
    Failed(String),
    /// The user ended it by this signal.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
}

/// Makes the archive `tar` of the `wanted` root's files; `dir` is for temporary files.
pub(super) fn make(
    cache: &Cache,
    wanted: &Wanted,
    dir: &Path,
    tar: &Path,
    log: &Path,
    vm: &dyn Vm,
    report: &dyn Report,
) -> Result<(), RootError> {
    let name = wanted.name();
    let doing = || StoreError::io(format!("make the root {name}"));
    let debs = dir.join("debs");
    fs::create_dir(&debs).map_err(doing())?;
    let set = Set::fetch(cache, wanted, &debs, log, report)?;
    let progress = report.start(&format!("making an image of {} packages", set.all().count()), None, Unit::None);
    let image = dir.join("packages.squashfs");
    set.write_image(wanted, &image, log)?;
    fs::remove_dir_all(&debs).map_err(doing())?;
    progress.done();

    let disk = dir.join("disk");
    let blank = blank::ext4(cache, DISK_BYTES, report)?;
    copy_sparse(&blank.path(), &disk).map_err(doing())?;
    let progress = report.start(&format!("configuring {} packages in a VM", set.all().count()), None, Unit::None);
    let progress = Arc::new(Mutex::new(Some(progress)));
    let evidence = cache.log_file(&format!("root-{name}")).with_extension("vm");
    let _previous = fs::remove_dir_all(&evidence);
    let from = fs::metadata(log).map(|m| m.len()).unwrap_or(0);
    let arch = wanted.arch.debian;
    let task = Task {
        root: platform(wanted, dir, &image).map_err(doing())?,
        disk: &disk,
        command: &|root, disk| {
            ["/bin/sh", "/quiz/configure", root, disk, arch, NEWEST_TIME].map(OsString::from).to_vec()
        },
        output: fs::File::create(tar).map_err(doing())?.into_parts().0,
        errors: Box::new(Log::open(log, Arc::clone(&progress)).map_err(doing())?),
        evidence: &evidence,
    };
    let failed =
        |why: String| RootError::Vm { name: name.clone(), why, lines: telling_lines(log, from), log: log.to_owned() };
    vm.run(task).map_err(|error| match error {
        VmError::Failed(why) => failed(why),
        VmError::Interrupted(signal) => RootError::Interrupted { name: name.clone(), signal },
    })?;
    set.verify(tar, log, from).map_err(failed)?;
    for used in [&disk, &image] {
        fs::remove_file(used).map_err(doing())?;
    }
    let _unneeded = fs::remove_dir_all(&evidence);
    if let Some(progress) = progress.lock().unwrap_or_else(PoisonError::into_inner).take() {
        progress.done();
    }
    Ok(())
}

/// The packages of a root.
struct Set {
    essential: Vec<Package>,
    others: Vec<Package>,
    steps: Vec<Step>,
    merged: bool,
    /// Lines of `sources.list` with the packages' origins.
    sources: String,
}

impl Set {
    /// Fetches the packages, and writes them without compression into `debs`.
    fn fetch(cache: &Cache, wanted: &Wanted, debs: &Path, log: &Path, report: &dyn Report) -> Result<Set, RootError> {
        let apt = Apt::for_root(cache, &wanted.source, wanted.arch, report)?;
        let merged = apt.knows_merged_usr()?;
        let rewritten = |files: Vec<PathBuf>| -> Result<Vec<Package>, RootError> {
            Ok(files.iter().map(|deb| Package::rewrite(deb, debs, log)).collect::<Result<_, _>>()?)
        };
        let essential = rewritten(apt.fetch_essential(wanted.source.base_release(), merged, report)?)?;
        let status: String = essential.iter().map(Package::installed).collect();
        let packages: Vec<&str> = PACKAGES.iter().copied().chain(wanted.extra_packages()).collect();
        let (others, steps) = apt.fetch_beyond(&status, &packages, report)?;
        Ok(Set { essential, others: rewritten(others)?, steps, merged, sources: apt.sources()? })
    }

    fn all(&self) -> impl Iterator<Item = &Package> {
        self.essential.iter().chain(&self.others)
    }

    /// Makes the image for the VM.
    fn write_image(&self, wanted: &Wanted, image: &Path, log: &Path) -> Result<(), RootError> {
        let doing = format!("make an image of the packages of {}", wanted.name());
        let links = if self.merged { usrmerge::links(wanted.arch) } else { Vec::new() };
        let list =
            |packages: &[Package]| packages.iter().map(|package| package.file_name().to_owned() + "\n").collect();
        let tree = Tree {
            unpacked: self.essential.iter().chain(self.others.iter().filter(|package| package.name == MOUNT)).collect(),
            packages: self.all().collect(),
            links: &links,
            left_out: LEFT_OUT.iter().map(|pattern| pattern.trim_end_matches('*').to_owned()).collect(),
            files: vec![
                ("configure", CONFIGURE.to_owned()),
                ("setup", SETUP.to_owned()),
                ("essential", list(&self.essential)),
                ("steps", self.steps()),
                ("extended_states", self.chosen_by_apt(wanted)),
                ("sources.list", self.sources.clone()),
                ("apt.conf", apt::host_connection_settings()),
                ("dpkg.cfg", dpkg_options()),
            ],
        };
        let (reader, writer) = io::pipe().map_err(StoreError::io(&doing))?;
        std::thread::scope(|scope| {
            let written = std::thread::Builder::new()
                .spawn_scoped(scope, move || tree.write(writer))
                .map_err(StoreError::io(&doing))?;
            let made = squashfs::from_tar(std::fs::File::from(std::os::fd::OwnedFd::from(reader)), image, &doing, log);
            let written = written.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (written, made) {
                // A read error explains more than the error of a program that got half an archive.
                (Err(error), Ok(())) => Err(StoreError::io(&doing)(error).into()),
                (Err(error), _) if error.kind() != io::ErrorKind::BrokenPipe => {
                    Err(StoreError::io(&doing)(error).into())
                }
                (_, made) => made.map_err(RootError::from),
            }
        })
    }

    /// The steps in the VM's format: `unpack FILE…`, `configure NAME…`.
    fn steps(&self) -> String {
        let files: HashMap<&str, &str> =
            self.all().map(|package| (package.name.as_str(), package.file_name())).collect();
        let line = |step: &Step| match step {
            Step::Unpack(names) => {
                let names: Vec<&str> = names.iter().filter_map(|name| files.get(name.as_str()).copied()).collect();
                format!("unpack {}\n", names.join(" "))
            }
            Step::Configure(names) => format!("configure {}\n", names.join(" ")),
        };
        self.steps.iter().map(line).collect()
    }

    /// The packages that nobody requested, in apt's format. apt can remove them when nothing
    /// depends on them any more.
    fn chosen_by_apt(&self, wanted: &Wanted) -> String {
        let asked = |name: &str| {
            let extra = wanted.packages.iter().filter_map(|package| package.split(':').next());
            PACKAGES.iter().copied().chain(extra).any(|package| package == name)
        };
        let arch = wanted.arch.debian;
        let others = self.others.iter().map(|package| package.name.as_str()).filter(|name| !asked(name));
        others.map(|name| format!("Package: {name}\nArchitecture: {arch}\nAuto-Installed: 1\n\n")).collect()
    }

    /// Checks that the archive is complete and has every package; the error says what is wrong.
    fn verify(&self, tar: &Path, log: &Path, from: u64) -> Result<(), String> {
        let sent = sent(log, from).ok_or("it did not report how much it sent")?;
        let came = fs::metadata(tar).map_err(|e| e.to_string())?.len();
        if came != sent {
            return Err(format!("{came} of {sent} bytes of the file system came"));
        }
        let there = installed(tar).map_err(|e| e.to_string())?;
        let missing: Vec<&str> =
            self.all().map(|package| package.name.as_str()).filter(|name| !there.contains_key(*name)).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("these packages are not installed: {}", missing.join(", ")))
        }
    }
}

/// The number of bytes that tar in the VM reports as written.
fn sent(log: &Path, from: u64) -> Option<u64> {
    let bytes = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(bytes.get(from as usize..)?).into_owned();
    let line = text.lines().rev().find_map(|line| line.strip_prefix("Total bytes written: "))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Permanent options for dpkg in the root.
fn dpkg_options() -> String {
    let left_out = LEFT_OUT.iter().map(|pattern| format!("path-exclude={pattern}\n"));
    std::iter::once("force-unsafe-io\n".to_owned()).chain(left_out).collect()
}

/// The root that the VM runs on, in `dir`.
fn platform(wanted: &Wanted, dir: &Path, image: &Path) -> io::Result<Root> {
    let file = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
    debug_assert_ne!(file, IMAGE);
    let manifest = RootManifest {
        name: format!("packages-of-{}", wanted.name()),
        release: wanted.source.release.clone(),
        arch: wanted.arch.name.to_owned(),
        format: FORMAT.to_owned(),
        image: file,
        own: false,
        extra_packages: Vec::new(),
        packages: BTreeMap::new(),
        mirrors: wanted.source.mirrors.clone(),
        keyring: wanted.source.keyring.clone(),
        size: fs::metadata(image)?.len(),
        // It is used only once, so nothing compares its checksums.
        sha256: String::new(),
        archive_sha256: None,
        built_at: jiff::Timestamp::now(),
        quiz_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(Root::unfinished(manifest, dir))
}

/// Copies a sparse file without its holes.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (fs::File::open(from)?, fs::File::create_new(to)?);
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let mut at = 0;
    while let Some((start, end)) = data(&from, at, size)? {
        let mut part = vec![0; (end - start) as usize];
        std::os::unix::fs::FileExt::read_exact_at(from.file(), &mut part, start)?;
        std::os::unix::fs::FileExt::write_all_at(to.file(), &part, start)?;
        at = end;
    }
    Ok(())
}

/// The next range of a file with data, at or after `at`.
fn data(file: &fs::File, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file.file(), rustix::fs::SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let end = rustix::fs::seek(file.file(), rustix::fs::SeekFrom::Hole(start))?;
    // A file without holes is one range; limit how much is copied at once.
    Ok(Some((start, end.min(start + (4 << 20)))))
}

/// Logs the output of the programs in the VM, and shows the steps.
struct Log {
    file: fs::File,
    line: Vec<u8>,
    progress: Arc<Mutex<Option<Box<dyn Progress>>>>,
}

impl Log {
    fn open(path: &Path, progress: Arc<Mutex<Option<Box<dyn Progress>>>>) -> io::Result<Log> {
        Ok(Log { file: fs::OpenOptions::new().append(true).create(true).open(path)?, line: Vec::new(), progress })
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        for byte in bytes {
            if *byte != b'\n' {
                if self.line.len() < 1024 {
                    self.line.push(*byte);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            if let Some(step) = line.strip_prefix("I: ")
                && let Some(progress) = &*self.progress.lock().unwrap_or_else(PoisonError::into_inner)
            {
                progress.note(step);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
