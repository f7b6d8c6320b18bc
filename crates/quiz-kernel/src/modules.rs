//! Kernel modules on disk: their index (`modules.dep`), their dependencies, and their contents. Not
//! for loading them, which is the agent's work.

use crate::kernel::Kernel;
use fs_err as fs;
use quiz_host::command::{CommandError, Run};
use quiz_host::tools;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why modules are not available.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// Files cannot be read.
    #[error("cannot read the modules of kernel {kernel}: {cause}; remove that kernel and make it again")]
    Io {
        /// The kernel's name.
        kernel: String,
        /// The system's error, which names the path.
        cause: io::Error,
    },
    /// The kernel has no such module, neither as a file nor built in.
    #[error(
        "kernel {kernel} has no module {}: use another kernel, or one that was built with it{}",
        names.join(", "),
        if *.any { "" } else { " (it has no modules at all)" }
    )]
    Missing {
        /// The kernel's name.
        kernel: String,
        /// The modules.
        names: Vec<String>,
        /// Whether the kernel has any module.
        any: bool,
    },
}

/// Writes `modules.dep` and its companions for the modules of `release` in `base`/lib/modules.
pub fn index(base: &Path, release: &str, doing: &str, log: &Path) -> Result<(), CommandError> {
    let depmod = || {
        let mut command = Command::new(tools::in_sbin("depmod"));
        command.arg("-b").arg(base).arg(release);
        Run { command, doing, log }.run(|_| {})
    };
    depmod()?;
    if base.join("lib/modules").join(release).join("modules.dep").exists() {
        return Ok(());
    }
    // A kmod configured for /usr/lib/modules uses that directory below the base, too.
    let io = |cause| CommandError::Io { doing: doing.to_owned(), program: "depmod".to_owned(), cause };
    let usr = base.join("usr");
    fs::create_dir(&usr).map_err(io)?;
    fs_err::os::unix::fs::symlink("../lib", usr.join("lib")).map_err(io)?;
    let result = depmod();
    fs::remove_dir_all(&usr).map_err(io)?;
    result?;
    match base.join("lib/modules").join(release).join("modules.dep").exists() {
        true => Ok(()),
        false => Err(io(io::Error::other("it wrote no modules.dep"))),
    }
}

/// The files of the modules `names` and of all their dependencies, in load order. `-` and `_` are
/// the same in names. Built-in modules are left out; soft dependencies are included if they exist.
pub fn files(kernel: &Kernel, names: &[&str]) -> Result<Vec<PathBuf>, ModuleError> {
    let name = kernel.name();
    let io = |cause| ModuleError::Io { kernel: name.to_owned(), cause };
    let Some(dir) = kernel.modules_dir() else {
        return match names.is_empty() {
            true => Ok(Vec::new()),
            // A kernel without any module may have them all built in. Only its build could tell.
            false => Err(ModuleError::Missing {
                kernel: name.to_owned(),
                names: names.iter().map(|&n| n.to_owned()).collect(),
                any: false,
            }),
        };
    };
    let optional = |file: &str| match fs::read_to_string(dir.join(file)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(io),
    };
    let (dependencies, aliases) = (optional("modules.dep")?, optional("modules.alias")?);
    let index = Index::read(&dependencies, &optional("modules.builtin")?, &optional("modules.softdep")?, &aliases);
    match index.order(names) {
        Ok(files) => Ok(files.into_iter().map(|f| dir.join(f)).collect()),
        Err(missing) => {
            Err(ModuleError::Missing { kernel: name.to_owned(), names: missing, any: !dependencies.is_empty() })
        }
    }
}

/// Whether `file` holds the module called `name`.
pub fn is_called(file: &Path, name: &str) -> bool {
    file.to_str().is_some_and(|file| stem(file) == fold(name))
}

/// The index that depmod and the kernel's build wrote about the modules of one kernel.
struct Index<'a> {
    /// By folded name: the file and the files that it needs, the deepest dependency last.
    modules: HashMap<String, (&'a str, Vec<&'a str>)>,
    builtin: HashSet<String>,
    /// By folded name: modules to load before and after it, if they exist.
    soft: HashMap<String, (Vec<String>, Vec<String>)>,
    /// By folded alias: the modules that it stands for.
    aliases: HashMap<String, Vec<&'a str>>,
}

impl<'a> Index<'a> {
    fn read(dep: &'a str, builtin: &str, softdep: &str, alias: &'a str) -> Index<'a> {
        let modules = dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, needs)| (stem(file), (file, needs.split_whitespace().collect())))
            .collect();
        let mut soft: HashMap<String, (Vec<String>, Vec<String>)> = HashMap::new();
        // `softdep ext4 pre: crc32c post: foo`
        for words in softdep.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()) {
            let ["softdep", name, rest @ ..] = &words[..] else { continue };
            let (before, after) = soft.entry(fold(name)).or_default();
            let mut list = None;
            for word in rest {
                match *word {
                    "pre:" => list = Some(&mut *before),
                    "post:" => list = Some(&mut *after),
                    other => {
                        if let Some(list) = &mut list {
                            list.push(fold(other));
                        }
                    }
                }
            }
        }
        let mut aliases: HashMap<String, Vec<&str>> = HashMap::new();
        // `alias fs-ext4 ext4`; patterns with wildcards are for devices, and no name matches them.
        for words in alias.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()) {
            if let ["alias", from, to] = words[..]
                && !from.contains(['*', '?', '['])
            {
                aliases.entry(fold(from)).or_default().push(to);
            }
        }
        Index { modules, builtin: builtin.lines().map(stem).collect(), soft, aliases }
    }

    fn order(&self, names: &[&str]) -> Result<Vec<&'a str>, Vec<String>> {
        let mut order = Order { index: self, files: Vec::new(), seen: HashSet::new() };
        let missing: Vec<String> = names.iter().filter(|n| !order.add(n)).map(|&n| n.to_owned()).collect();
        if missing.is_empty() { Ok(order.files) } else { Err(missing) }
    }
}

struct Order<'a, 'i> {
    index: &'i Index<'a>,
    files: Vec<&'a str>,
    seen: HashSet<String>,
}

impl Order<'_, '_> {
    /// Adds a module after its dependencies. Returns `false` if there is none of that name.
    fn add(&mut self, name: &str) -> bool {
        let key = fold(name);
        let Some((file, needs)) = self.index.modules.get(&key) else {
            if self.index.builtin.contains(&key) {
                return true;
            }
            // Soft dependencies and file systems are often named by an alias ("crypto-crc32c"),
            // which always stands for modules.
            let targets = self.index.aliases.get(&key);
            let mut any = false;
            for target in targets.into_iter().flatten().filter(|t| self.index.modules.contains_key(&fold(t))) {
                any |= self.add(target);
            }
            return any;
        };
        if !self.seen.insert(key.clone()) {
            return true;
        }
        let soft = self.index.soft.get(&key);
        for before in soft.iter().flat_map(|(before, _)| before) {
            self.add(before);
        }
        for need in needs.iter().rev() {
            self.add(&stem(need));
        }
        self.files.push(file);
        for after in soft.iter().flat_map(|(_, after)| after) {
            self.add(after);
        }
        true
    }
}

/// The folded name of a module: `nls-utf8` and `kernel/fs/nls/nls_utf8.ko.xz` are the same module.
fn stem(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    fold(file.split(".ko").next().unwrap_or(file))
}

fn fold(name: &str) -> String {
    name.replace('-', "_")
}

/// The contents of a module's file, decompressed.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("failed to unpack `{}`: {e}", path.display()));
    let raw = fs::read(path)?;
    let mut module = Vec::new();
    let unpacked = match &raw[..] {
        [0x1f, 0x8b, ..] => flate2::read::MultiGzDecoder::new(&raw[..]).read_to_end(&mut module),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => liblzma::read::XzDecoder::new(&raw[..]).read_to_end(&mut module),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::Decoder::new(&raw[..]).and_then(|mut d| d.read_to_end(&mut module)),
        _ => return Ok(raw),
    };
    unpacked.map_err(named)?;
    Ok(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/fs/overlayfs/overlay.ko:\n\
        kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz\n\
        kernel/fs/netfs/netfs.ko.xz:\n\
        kernel/net/9p/9pnet.ko.xz:\n\
        kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/drivers/virtio/virtio.ko.xz kernel/drivers/virtio/virtio_ring.ko.xz\n\
        kernel/drivers/virtio/virtio_ring.ko.xz:\n\
        kernel/drivers/virtio/virtio.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz\n\
        kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko\n\
        kernel/fs/jbd2/jbd2.ko:\n\
        kernel/crypto/crc32c_generic.ko:\n\
        kernel/arch/x86/crypto/crc32c-intel.ko:\n";
    const SOFT: &str = "# comment\nsoftdep ext4 pre: crypto-crc32c nosuch post: overlay\n";
    const ALIAS: &str =
        "alias crypto-crc32c crc32c_intel\nalias crypto-crc32c crc32c_generic\nalias fs-ext4 ext4\nalias pci:v* ext4\n";

    fn order(names: &[&str]) -> Result<Vec<String>, Vec<String>> {
        let index = Index::read(DEP, "kernel/drivers/block/virtio_blk.ko\n", SOFT, ALIAS);
        index.order(names).map(|files| files.into_iter().map(stem).collect())
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        assert_eq!(
            order(&["9pnet-virtio", "9p", "overlay"]).unwrap(),
            ["virtio_ring", "virtio", "9pnet", "9pnet_virtio", "netfs", "9p", "overlay"]
        );
    }

    #[test]
    fn soft_dependencies_and_aliases_are_followed_where_they_lead_somewhere() {
        assert_eq!(order(&["fs-ext4"]).unwrap(), ["crc32c_intel", "crc32c_generic", "jbd2", "ext4", "overlay"]);
    }

    #[test]
    fn built_in_is_no_file_and_missing_is_an_error() {
        assert_eq!(order(&["virtio-blk"]).unwrap(), [""; 0]);
        assert_eq!(order(&["9p", "erofs", "pci:v*", "zfs"]).unwrap_err(), ["erofs", "pci:v*", "zfs"]);
    }

    #[test]
    fn compressed_modules_are_unpacked_and_broken_ones_named() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let module = b"\x7fELF module".repeat(1000);
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&module).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&module).unwrap();
        for (name, data) in [
            ("a.ko", module.clone()),
            ("a.ko.xz", xz.finish().unwrap()),
            ("a.ko.gz", gzip.finish().unwrap()),
            ("a.ko.zst", zstd::encode_all(&module[..], 1).unwrap()),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, &data).unwrap();
            assert!(read(&path).unwrap() == module, "{name}");
            fs::write(&path, &data[..data.len() / 2]).unwrap();
            if name != "a.ko" {
                assert!(read(&path).unwrap_err().to_string().contains(name), "{name}");
            }
        }
    }
}
