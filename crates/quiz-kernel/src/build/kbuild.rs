//! Makes the tree that out-of-tree modules are built against: headers, the configuration, the
//! finished scripts and objtool. Its layout is that of a kernel source that was built in place. So
//! `make -C kbuild M=…` works from any place, without the source or the build directory. Not for
//! the modules of the kernel itself.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use walkdir::{DirEntry, WalkDir};

/// Files of the source's architecture that its Makefile uses for modules in some versions, below
/// `arch/<srcarch>/`.
const ARCH_FILES: &[&str] = &["Kbuild.platforms", "Platform", "Kbuild", "kernel/macros.s", "kernel/module.lds"];
/// The same in the build directory.
const ARCH_BUILT: &[&str] =
    &["lib/crtsavres.o", "lib/expoline.o", "lib/expoline/expoline.o", "module.lds", "kernel/macros.s"];
/// Parts of `scripts/` that no module needs.
const NOT_SCRIPTS: &[&str] = &["atomic", "dtc", "kconfig", "package", "coccinelle", "ksymoops"];
const BUILT: &[&str] = &[
    ".config",
    "Module.symvers",
    "include/config/auto.conf",
    "include/config/kernel.release",
    "include/config/tristate.conf",
    "tools/objtool/objtool",
    "tools/bpf/resolve_btfids/resolve_btfids",
];

/// Makes the tree in `to`, which must not exist. `source` is the kernel's source, `build` its
/// finished build directory, `srcarch` the architecture's name below `arch/`.
pub(crate) fn make(source: &Path, build: &Path, srcarch: &str, to: &Path) -> io::Result<()> {
    let arch = Path::new("arch").join(srcarch);
    for file in ["Makefile", "Kbuild"] {
        copy_if_there(source, Path::new(file), to)?;
    }
    for item in fs::read_dir(source.join(&arch))? {
        let name = item?.file_name();
        if name.to_string_lossy().starts_with("Makefile") {
            copy_if_there(source, &arch.join(name), to)?;
        }
    }
    for file in ARCH_FILES {
        copy_if_there(source, &arch.join(file), to)?;
    }
    // Machines of some architectures have their own headers (arch/mips/include/asm/mach-…,
    // arch/arm/mach-…/include).
    for dir in directories(&source.join(&arch), "include")? {
        copy_tree(source, &dir, to, &|_| true)?;
    }
    if source.join(&arch).join("scripts").is_dir() {
        copy_tree(source, &arch.join("scripts"), to, &|_| true)?;
    }
    let made = |entry: &DirEntry| entry.depth() == 1 && ["config", "generated"].iter().any(|n| entry.file_name() == *n);
    copy_tree(source, Path::new("include"), to, &|entry| !made(entry))?;
    let wanted = |entry: &DirEntry| {
        let name = entry.file_name().to_string_lossy();
        let object = [".o", ".a", ".s", ".cmd"].iter().any(|end| name.ends_with(end));
        !(object || entry.file_type().is_dir() && NOT_SCRIPTS.contains(&&*name))
    };
    copy_tree(source, Path::new("scripts"), to, &wanted)?;

    copy_tree(build, Path::new("scripts"), to, &wanted)?;
    let header = |entry: &DirEntry| !entry.file_name().to_string_lossy().ends_with(".cmd");
    copy_tree(build, Path::new("include/generated"), to, &header)?;
    if build.join(&arch).join("include/generated").is_dir() {
        copy_tree(build, &arch.join("include/generated"), to, &header)?;
    }
    for file in BUILT {
        copy_if_there(build, Path::new(file), to)?;
    }
    for file in ARCH_BUILT {
        copy_if_there(build, &arch.join(file), to)?;
    }
    Ok(())
}

/// The directories called `name` below `dir`, relative to its grandparent; nested ones are left
/// out.
fn directories(dir: &Path, name: &str) -> io::Result<Vec<PathBuf>> {
    let base = dir.parent().and_then(Path::parent).unwrap_or(dir);
    let mut found = Vec::new();
    let mut walk = WalkDir::new(dir).into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry?;
        if entry.file_type().is_dir() && entry.file_name() == name {
            found.push(entry.path().strip_prefix(base).map_err(io::Error::other)?.to_owned());
            walk.skip_current_dir();
        }
    }
    Ok(found)
}

fn copy_tree(from: &Path, dir: &Path, to: &Path, wanted: &dyn Fn(&DirEntry) -> bool) -> io::Result<()> {
    for entry in WalkDir::new(from.join(dir)).into_iter().filter_entry(|e| wanted(e)) {
        let entry = entry?;
        let path = entry.path().strip_prefix(from).map_err(io::Error::other)?;
        if entry.file_type().is_dir() {
            fs::create_dir_all(to.join(path))?;
        } else {
            copy(from, path, to)?;
        }
    }
    Ok(())
}

fn copy_if_there(from: &Path, path: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(from.join(path)).is_err() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(to.join(parent))?;
    }
    copy(from, path, to)
}

/// Copies one file with its mode and time. A kernel rebuild must not make modules rebuild because
/// of an unchanged header.
fn copy(from: &Path, path: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (from.join(path), to.join(path));
    let meta = fs::symlink_metadata(&from)?;
    if meta.is_symlink() {
        let _previous = fs::remove_file(&to);
        return fs_err::os::unix::fs::symlink(fs::read_link(&from)?, &to);
    }
    if !meta.is_file() {
        return Ok(());
    }
    fs::copy(&from, &to)?;
    fs::File::options().write(true).open(&to).and_then(|file| file.file().set_modified(meta.modified()?)).or_else(|e| {
        // A file without write permission gets the time of copying.
        if e.kind() == io::ErrorKind::PermissionDenied { Ok(()) } else { Err(e) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, path: &str) {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    #[test]
    fn what_modules_need_is_there_and_nothing_points_outside() {
        let dir = tempfile::tempdir().unwrap();
        let (source, build, to) = (dir.path().join("src"), dir.path().join("obj"), dir.path().join("entry/kbuild"));
        for path in [
            "Makefile",
            "arch/x86/Makefile",
            "arch/x86/Makefile.um",
            "arch/x86/include/asm/a.h",
            "arch/arm/include/asm/no.h",
            "arch/x86/mach-x/include/mach/m.h",
            "include/linux/fs.h",
            "scripts/Makefile.build",
            "scripts/kconfig/conf.c",
            "scripts/mod/modpost.c",
            "fs/open.c",
            "include/config/stale",
        ] {
            put(&source, path);
        }
        for path in [
            ".config",
            "Module.symvers",
            "include/config/auto.conf",
            "include/config/auto.conf.cmd",
            "include/generated/autoconf.h",
            "include/generated/utsrelease.h",
            "arch/x86/include/generated/asm/g.h",
            "scripts/mod/modpost",
            "scripts/mod/modpost.o",
            "scripts/mod/.modpost.cmd",
            "scripts/mod/devicetable-offsets.s",
            "scripts/module.lds",
            "tools/objtool/objtool",
            "tools/objtool/check.o",
            "vmlinux",
        ] {
            put(&build, path);
        }
        fs_err::os::unix::fs::symlink(&source, build.join("source")).unwrap();
        make(&source, &build, "x86", &to).unwrap();
        let mut found: Vec<String> = WalkDir::new(&to)
            .into_iter()
            .map(Result::unwrap)
            .filter(|e| !e.file_type().is_dir())
            .map(|e| e.path().strip_prefix(&to).unwrap().display().to_string())
            .collect();
        found.sort();
        let mut wanted = [
            ".config",
            "Makefile",
            "Module.symvers",
            "arch/x86/Makefile",
            "arch/x86/Makefile.um",
            "arch/x86/include/asm/a.h",
            "arch/x86/include/generated/asm/g.h",
            "arch/x86/mach-x/include/mach/m.h",
            "include/config/auto.conf",
            "include/generated/autoconf.h",
            "include/generated/utsrelease.h",
            "include/linux/fs.h",
            "scripts/Makefile.build",
            "scripts/mod/modpost",
            "scripts/mod/modpost.c",
            "scripts/module.lds",
            "tools/objtool/objtool",
        ];
        wanted.sort_unstable();
        assert_eq!(found, wanted);
        let time = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(time(to.join("include/linux/fs.h")), time(source.join("include/linux/fs.h")));
    }
}
