//! Reads the ELF files that a build makes: a module's information, a library's name and its search
//! paths. Not for debug information.

use std::fs::File;
use std::io;
use std::path::Path;

use fs_err as fs;
use object::elf::{DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, DT_SONAME, FileHeader32, FileHeader64};
use object::read::elf::{Dyn, FileHeader};
use object::read::{Object, ObjectSection, ReadCache};
use object::{Endianness, FileKind};

/// The information in a kernel module's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModuleInfo {
    fields: Vec<(String, String)>,
    /// The names of its exported symbols, as stored in the file.
    exports: Vec<u8>,
}

impl ModuleInfo {
    /// Reads it from a module's file, without reading debug information.
    pub fn read(path: &Path) -> io::Result<ModuleInfo> {
        let broken = |cause: String| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} is no kernel module: {cause}", path.display()))
        };
        let file: File = fs::File::open(path)?.into_parts().0;
        let cache = ReadCache::new(file);
        let object = object::File::parse(&cache).map_err(|e| broken(e.to_string()))?;
        let section = |name: &str| match object.section_by_name(name) {
            Some(section) => {
                section.uncompressed_data().map(|data| data.into_owned()).map_err(|e| broken(e.to_string()))
            }
            None => Ok(Vec::new()),
        };
        let info = section(".modinfo")?;
        if info.is_empty() {
            return Err(broken("it has no .modinfo".to_owned()));
        }
        Ok(ModuleInfo { fields: parse(&info), exports: section("__ksymtab_strings")? })
    }

    /// All values of a field.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The `uname -r` of the kernels for which it was built.
    pub fn release(&self) -> Option<&str> {
        self.all("vermagic").next()?.split_whitespace().next()
    }

    /// The names of the modules that it needs.
    pub fn depends(&self) -> Vec<&str> {
        self.all("depends").flat_map(|list| list.split(',')).filter(|name| !name.is_empty()).collect()
    }

    /// The names of its parameters.
    pub fn parameters(&self) -> Vec<&str> {
        let mut names: Vec<&str> = ["parmtype", "parm"]
            .iter()
            .flat_map(|field| self.all(field))
            .filter_map(|p| Some(p.split_once(':')?.0))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Everything that depmod's index of this module depends on.
    pub fn indexed(&self) -> impl Iterator<Item = &[u8]> {
        let fields = self
            .fields
            .iter()
            .filter(|(key, _)| matches!(key.as_str(), "name" | "alias" | "depends" | "softdep" | "weakdep"));
        fields.flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]).chain([self.exports.as_slice()])
    }
}

fn parse(info: &[u8]) -> Vec<(String, String)> {
    let fields = info.split(|b| *b == 0).filter_map(|field| {
        let text = String::from_utf8_lossy(field);
        text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
    });
    fields.collect()
}

/// The dynamic linker's information in a program or library.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Linkage {
    /// The library's name.
    pub soname: Option<String>,
    /// The libraries that it needs.
    pub needed: Vec<String>,
    /// Additional search paths (`DT_RPATH`, `DT_RUNPATH`).
    pub paths: Vec<String>,
}

/// Whether `data` begins with the ELF magic.
pub(crate) fn is_elf(data: &[u8]) -> bool {
    data.starts_with(b"\x7fELF")
}

/// The linkage of an ELF file; `None` if it is no ELF file, or not dynamically linked.
pub(crate) fn linkage(data: &[u8]) -> Option<Linkage> {
    match FileKind::parse(data).ok()? {
        FileKind::Elf64 => linkage_of::<FileHeader64<Endianness>>(data),
        FileKind::Elf32 => linkage_of::<FileHeader32<Endianness>>(data),
        _ => None,
    }
}

fn linkage_of<H: FileHeader<Endian = Endianness>>(data: &[u8]) -> Option<Linkage> {
    let header = H::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, data).ok()?;
    let (entries, strings) = sections.dynamic(endian, data).ok()??;
    let strings = sections.strings(endian, data, strings).ok()?;
    let mut linkage = Linkage::default();
    for entry in entries {
        let tag = entry.tag(endian);
        let text = || {
            let offset = u32::try_from(entry.val(endian)).ok()?;
            Some(String::from_utf8_lossy(strings.get(offset).ok()?).into_owned())
        };
        match tag {
            DT_NULL => break,
            DT_SONAME => linkage.soname = text(),
            DT_NEEDED => linkage.needed.extend(text()),
            DT_RPATH | DT_RUNPATH => linkage.paths.extend(text()),
            _ => {}
        }
    }
    Some(linkage)
}

/// Removes the library search paths of a program. Libraries in the usual places are found without
/// them. Returns whether it changed anything.
pub(crate) fn remove_paths(data: &mut [u8]) -> bool {
    let Ok(kind) = FileKind::parse(&*data) else { return false };
    let found = match kind {
        FileKind::Elf64 => dynamic_range::<FileHeader64<Endianness>>(data).map(|(range, endian)| (range, endian, 16)),
        FileKind::Elf32 => dynamic_range::<FileHeader32<Endianness>>(data).map(|(range, endian)| (range, endian, 8)),
        _ => None,
    };
    let Some((range, endian, size)) = found else { return false };
    let table = &mut data[range];
    let tag = |entry: &[u8]| -> i64 {
        let half = &entry[..size / 2];
        match (<[u8; 8]>::try_from(half), <[u8; 4]>::try_from(half), endian) {
            (Ok(bytes), _, Endianness::Little) => i64::from_le_bytes(bytes),
            (Ok(bytes), _, Endianness::Big) => i64::from_be_bytes(bytes),
            (_, Ok(bytes), Endianness::Little) => i32::from_le_bytes(bytes).into(),
            (_, Ok(bytes), Endianness::Big) => i32::from_be_bytes(bytes).into(),
            _ => 0,
        }
    };
    // The remaining entries move up; null entries fill the end, which terminates the table.
    let kept: Vec<u8> = table
        .chunks_exact(size)
        .filter(|entry| ![DT_RPATH.0, DT_RUNPATH.0].contains(&tag(entry)))
        .flatten()
        .copied()
        .collect();
    let removed = kept.len() < table.len() / size * size;
    table[..kept.len()].copy_from_slice(&kept);
    table[kept.len()..].fill(0);
    removed
}

fn dynamic_range<H: FileHeader<Endian = Endianness>>(data: &[u8]) -> Option<(std::ops::Range<usize>, Endianness)> {
    let header = H::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let (entries, _) = header.sections(endian, data).ok()?.dynamic(endian, data).ok()??;
    let start = entries.as_ptr() as usize - data.as_ptr() as usize;
    Some((start..start + size_of_val(entries), endian))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn info(text: &[u8]) -> ModuleInfo {
        ModuleInfo { fields: parse(text), exports: Vec::new() }
    }

    #[test]
    fn the_fields_of_a_module_are_read() {
        let zfs = info(
            b"version=2.3.2-1\0license=CDDL\0\0parm=zfs_arc_max:Max ARC size, in bytes\0parmtype=zfs_arc_max:ulong\0\
              parmtype=zio_taskq_read:charp\0depends=spl,zlib_deflate\0vermagic=6.1.0-50-amd64 SMP preempt mod_unload modversions \0broken",
        );
        assert_eq!(zfs.release(), Some("6.1.0-50-amd64"));
        assert_eq!(zfs.depends(), ["spl", "zlib_deflate"]);
        assert_eq!(zfs.parameters(), ["zfs_arc_max", "zio_taskq_read"]);
        let spl = info(b"depends=\0name=spl");
        assert_eq!((spl.depends(), spl.release()), (Vec::new(), None));
    }

    #[test]
    fn what_is_no_module_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zfs.ko");
        for bytes in [
            &b""[..],
            b"\x7fELF",
            b"text",
            b"\x7fELF\x02\x01\x01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            fs::write(&path, bytes).unwrap();
            assert!(ModuleInfo::read(&path).unwrap_err().to_string().contains("zfs.ko is no kernel module"));
        }
        assert_eq!(linkage(b"\x7fELF"), None);
        assert!(!remove_paths(&mut b"#!/bin/sh".to_vec()));
    }

    #[test]
    fn a_path_into_the_build_tree_is_taken_away_and_the_library_still_works() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("f.c"), "int f(void) { return 7; }\n").unwrap();
        fs::write(at("m.c"), "int f(void); int main(void) { return f(); }\n").unwrap();
        let gcc =
            |args: &[&str]| assert!(Command::new("gcc").current_dir(dir.path()).args(args).status().unwrap().success());
        gcc(&["-shared", "-fPIC", "-Wl,-soname,libf.so.1", "-o", "libf.so.1", "f.c"]);
        gcc(&["-o", "m", "m.c", "libf.so.1", "-Wl,-rpath,/build/.libs"]);
        assert_eq!(linkage(&fs::read(at("libf.so.1")).unwrap()).unwrap().soname.as_deref(), Some("libf.so.1"));
        let mut program = fs::read(at("m")).unwrap();
        let before = linkage(&program).unwrap();
        assert_eq!(before.paths, ["/build/.libs"]);
        assert!(before.needed.contains(&"libf.so.1".to_owned()));
        assert!(remove_paths(&mut program));
        assert!(!remove_paths(&mut program));
        assert_eq!(linkage(&program).unwrap(), Linkage { paths: Vec::new(), ..before });
        fs::write(at("m"), &program).unwrap();
        let ran = Command::new(at("m")).env("LD_LIBRARY_PATH", dir.path()).status().unwrap();
        assert_eq!(ran.code(), Some(7));
    }
}
