//! The initramfs that starts a guest: the agent, and only the modules that it needs to reach its
//! root. Not for the agent's work in the guest.

use cpio::newc;
use fs_err as fs;
use quiz_host::report::{Report, Unit};
use quiz_host::store::{Cache, Entry, Shelf, StoreError};
use quiz_kernel::kernel::Kernel;
use quiz_kernel::modules::{self, ModuleError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "initramfs.cpio";
/// How many are kept. Each is a few megabytes, and every new agent or set of modules makes one.
const KEPT: usize = 32;

/// Why an initramfs could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// The cache failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The modules could not be found or read.
    #[error(transparent)]
    Modules(#[from] ModuleError),
}

/// An initramfs in the cache, in use until this value is dropped.
#[derive(Debug)]
pub struct Initramfs {
    /// The file for QEMU's `-initrd`: an uncompressed newc archive.
    pub path: PathBuf,
    /// The entry that holds it.
    pub entry: Entry,
}

/// The manifest of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The kernel's entry name.
    pub kernel: String,
    /// The modules in load order, as file names below `/modules`.
    pub modules: Vec<String>,
    /// SHA-256 of the agent.
    pub agent_sha256: String,
    /// When it was made.
    pub built_at: jiff::Timestamp,
    /// The version of quiz that made it.
    pub quiz_version: String,
}

/// The shelf of initramfs images.
pub fn shelf(cache: &Cache) -> Shelf {
    cache.shelf("initramfs")
}

/// Makes the initramfs for `kernel`, or takes it from the cache. It has `agent` as the first
/// process, and `modules` with their dependencies, except for built-in ones.
///
/// It contains:
///
/// - `/init`, the agent
/// - empty `/dev`, `/proc`, `/sys`, `/run`, `/root`, and the device `/dev/console`
/// - the modules, decompressed, as `/modules/NN-name.ko`
/// - their file names in load order, one per line, in `/modules/order`
pub fn make(
    cache: &Cache,
    kernel: &Kernel,
    agent: &[u8],
    modules: &[&str],
    report: &dyn Report,
) -> Result<Initramfs, InitramfsError> {
    let shelf = shelf(cache);
    let agent_sha256 = quiz_host::digest::of_bytes(agent);
    let name = format!("{}-{}", kernel.name(), &key(kernel, &agent_sha256, modules)[..16]);
    if let Some(entry) = shelf.open(&name)? {
        entry.touch();
        return Ok(Initramfs { path: entry.dir().join(FILE), entry });
    }
    let files = modules::files(kernel, modules)?;
    let what = format!("making the initramfs for {}", kernel.name());
    let entry = shelf.build(&name, &what, false, report, |dir| {
        let progress = report.start(&what, None, Unit::None);
        let named = write(&dir.join(FILE), agent, &files)
            .map_err(StoreError::io(format!("make the initramfs for {}", kernel.name())))?;
        progress.done();
        Ok::<_, InitramfsError>(Manifest {
            kernel: kernel.name().to_owned(),
            modules: named,
            agent_sha256,
            built_at: jiff::Timestamp::now(),
            quiz_version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    })?;
    shelf.keep_newest(KEPT)?;
    Ok(Initramfs { path: entry.dir().join(FILE), entry })
}

fn key(kernel: &Kernel, agent_sha256: &str, modules: &[&str]) -> String {
    let mut sum = Sha256::new();
    // The format of the image; increase it when the format changes.
    sum.update(b"2\0");
    for part in [agent_sha256, &kernel.identity()].iter().chain(modules) {
        sum.update(part.as_bytes());
        sum.update([0]);
    }
    quiz_host::digest::hex(&sum.finalize())
}

/// Writes the archive and returns the names of the modules' files in load order.
fn write(path: &Path, agent: &[u8], modules: &[PathBuf]) -> io::Result<Vec<String>> {
    let mut archive = Archive { out: BufWriter::with_capacity(1 << 20, fs::File::create(path)?), inode: 0 };
    for dir in ["dev", "proc", "sys", "run", "root", "modules"] {
        archive.add(dir, newc::Builder::new(dir).mode(0o040_755).nlink(2), &[])?;
    }
    let console = newc::Builder::new("dev/console").mode(0o020_600).rdev_major(5).rdev_minor(1);
    archive.add("dev/console", console, &[])?;
    archive.add("init", newc::Builder::new("init").mode(0o100_755), agent)?;
    let mut names = Vec::new();
    for (index, file) in modules.iter().enumerate() {
        let stem = file.file_name().and_then(|n| n.to_str()).and_then(|n| n.split(".ko").next()).unwrap_or("module");
        let name = format!("{index:02}-{stem}.ko");
        let path = format!("modules/{name}");
        archive.add(&path, newc::Builder::new(&path).mode(0o100_644), &modules::read(file)?)?;
        names.push(name);
    }
    let order: String = names.iter().map(|n| format!("{n}\n")).collect();
    archive.add("modules/order", newc::Builder::new("modules/order").mode(0o100_644), order.as_bytes())?;
    let mut out = newc::trailer(archive.out)?;
    out.flush()?;
    let file = out.get_ref();
    file.set_len(padded(file.metadata()?.len()))?;
    Ok(names)
}

/// The next size that leaves all but four bytes of the guest's last page free. The kernel ignores
/// the zeros.
///
/// QEMU puts the initramfs at the highest page boundary in memory where it fits. A microvm's
/// firmware puts the ACPI tables, some 1.5 KiB, at the top of that memory, unless they fit below 1
/// MiB. It then loads the initramfs over them, if that reaches so far. Guests of QEMU 10 lose their
/// devices that way.
fn padded(bytes: u64) -> u64 {
    const PAGE: u64 = 4096;
    const LAST: u64 = 4;
    bytes.saturating_sub(LAST).next_multiple_of(PAGE) + LAST
}

struct Archive {
    out: BufWriter<fs::File>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, header: newc::Builder, data: &[u8]) -> io::Result<()> {
        let size = u32::try_from(data.len()).map_err(|_| {
            io::Error::new(io::ErrorKind::FileTooLarge, format!("{name} is too large for an initramfs"))
        })?;
        self.inode += 1;
        let mut file = header.ino(self.inode).write(&mut self.out, size);
        file.write_all(data)?;
        file.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quiz_host::report::Silent;
    use quiz_kernel::kernel::{Boot, KernelManifest, Origin};
    use std::collections::BTreeMap;
    use std::io::Read;

    fn kernel(cache: &Cache) -> Kernel {
        let entry = quiz_kernel::kernel::shelf(cache)
            .build("6.1.0-1-test", "testing", true, &Silent, |dir| {
                let modules = dir.join("lib/modules/6.1.0-1-test/kernel");
                fs::create_dir_all(&modules).unwrap();
                fs::write(modules.join("overlay.ko"), "overlay").unwrap();
                let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
                xz.write_all(b"9p-net").unwrap();
                fs::write(modules.join("9pnet.ko.xz"), xz.finish().unwrap()).unwrap();
                fs::write(modules.join("9p.ko.zst"), zstd::encode_all(&b"9p"[..], 1).unwrap()).unwrap();
                let dep = "kernel/overlay.ko:\nkernel/9p.ko.zst: kernel/9pnet.ko.xz\nkernel/9pnet.ko.xz:\n";
                fs::write(dir.join("lib/modules/6.1.0-1-test/modules.dep"), dep).unwrap();
                fs::write(dir.join("lib/modules/6.1.0-1-test/modules.builtin"), "kernel/virtio_blk.ko\n").unwrap();
                Ok::<_, StoreError>(KernelManifest {
                    name: "6.1.0-1-test".to_owned(),
                    release: "6.1.0-1-test".to_owned(),
                    version: "6.1".parse().unwrap(),
                    arch: "x86_64".to_owned(),
                    origin: Origin::Tree { path: "/src".into() },
                    boot: Boot::BzImage,
                    boot_file: "bzImage".to_owned(),
                    vmlinux_file: None,
                    compiler: None,
                    llvm: false,
                    variant: None,
                    built_at: jiff::Timestamp::now(),
                    quiz_version: "0".to_owned(),
                    sha256: BTreeMap::new(),
                })
            })
            .unwrap();
        Kernel::from_entry(entry).unwrap()
    }

    /// Path, mode, device and contents.
    type Item = (String, u32, (u32, u32), Vec<u8>);

    /// Everything in an archive.
    fn contents(path: &Path) -> Vec<Item> {
        let mut file: Box<dyn Read> = Box::new(fs::File::open(path).unwrap());
        let mut all = Vec::new();
        loop {
            let mut reader = newc::Reader::new(file).unwrap();
            let e = reader.entry();
            if e.is_trailer() {
                return all;
            }
            let (name, mode, device) = (e.name().to_owned(), e.mode(), (e.rdev_major(), e.rdev_minor()));
            let mut data = Vec::new();
            reader.read_to_end(&mut data).unwrap();
            all.push((name, mode, device, data));
            file = Box::new(reader.finish().unwrap());
        }
    }

    #[test]
    fn the_archive_holds_the_agent_and_the_modules_in_load_order() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned());
        let made = make(&cache, &kernel(&cache), b"agent", &["9p", "virtio-blk", "overlay"], &Silent).unwrap();
        let all = contents(&made.path);
        let get = |name: &str| all.iter().find(|(n, ..)| n == name).unwrap_or_else(|| panic!("no {name} in {all:?}"));
        assert_eq!((get("init").1, &get("init").3[..]), (0o100_755, &b"agent"[..]));
        assert_eq!((get("dev/console").1, get("dev/console").2), (0o020_600, (5, 1)));
        for dir in ["dev", "proc", "sys", "run", "root"] {
            assert_eq!(get(dir).1, 0o040_755);
        }
        assert_eq!(get("modules/order").3, b"00-9pnet.ko\n01-9p.ko\n02-overlay.ko\n");
        assert_eq!(get("modules/00-9pnet.ko").3, b"9p-net");
        assert_eq!(get("modules/01-9p.ko").3, b"9p");
        assert_eq!(get("modules/02-overlay.ko").3, b"overlay");
    }

    #[test]
    fn it_is_made_once_for_the_same_things() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned());
        let first = kernel(&cache);
        let path = |kernel: &Kernel, agent: &[u8], modules: &[&str]| {
            make(&cache, kernel, agent, modules, &Silent).unwrap().path
        };
        let original = path(&first, b"agent", &["9p"]);
        assert_eq!(path(&first, b"agent", &["9p"]), original);
        assert_ne!(path(&first, b"other", &["9p"]), original);
        assert_ne!(path(&first, b"agent", &["overlay"]), original);
        assert_ne!(path(&kernel(&cache), b"agent", &["9p"]), original, "the kernel was rebuilt under its name");
    }

    #[test]
    fn a_missing_module_is_named_with_its_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned());
        let error = make(&cache, &kernel(&cache), b"agent", &["9p", "zfs"], &Silent).unwrap_err().to_string();
        assert!(error.contains("6.1.0-1-test") && error.contains("zfs") && !error.contains("9p,"), "{error}");
    }

    #[test]
    fn old_ones_go_unless_they_are_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned());
        let kernel = kernel(&cache);
        let oldest = make(&cache, &kernel, b"0", &[], &Silent).unwrap();
        for n in 1..6 {
            make(&cache, &kernel, &[n], &[], &Silent).unwrap();
        }
        shelf(&cache).keep_newest(3).unwrap();
        let names = shelf(&cache).names().unwrap();
        assert_eq!(names.len(), 4);
        assert!(names.iter().any(|n| n == oldest.entry.name()));
    }

    #[test]
    fn the_last_page_is_free_but_for_four_bytes() {
        for (bytes, size) in [(4, 4), (5, 4100), (4096, 4100), (4100, 4100), (4101, 8196), (1_381_948, 1_384_452)] {
            assert_eq!(padded(bytes), size);
        }
    }
}
