//! Finds the files with debug information of a kernel and of modules, and looks up frames in all of
//! them. Not for the contents of one file (`debug`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use object::{Object, ObjectSection, ReadCache};
use serde::{Deserialize, Serialize};
use walkdir::{DirEntry, WalkDir};

use crate::debug::{self, DebugError};
use crate::place::{Place, Places};
use crate::report::Frame;

/// Where to look for debug information.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    /// The kernel with its symbols, if it is known.
    pub vmlinux: Option<PathBuf>,
    /// The guest's `uname -r`: modules for another kernel are ignored.
    pub release: String,
    /// Directories with modules, the kernel's own and the user's; searched recursively.
    pub modules: Vec<PathBuf>,
    /// Prefixes to remove from the paths of source files, in addition to the kernel's own source
    /// tree.
    pub roots: Vec<PathBuf>,
    /// How to get a kernel with debug information, for a user whose kernel has none. The text
    /// follows "no debug information of the kernel: ".
    pub remedy: String,
}

/// The most different frames that are looked up. A kernel in trouble reports some hundred.
const FRAMES: usize = 10_000;

/// The places of frames in the source.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Symbols {
    places: HashMap<String, Places>,
    /// Missing debug information, one line for each kernel or module.
    pub missing: Vec<String>,
}

/// A function whose source file shows where the kernel's source tree is, and that file's path in
/// the tree.
const LANDMARK: (&str, &str) = ("start_kernel", "init/main.c");

impl Symbols {
    /// Looks up all frames in `text`.
    pub fn of(text: &str, origins: &Origins) -> Symbols {
        let mut by_owner: BTreeMap<Option<String>, Vec<Frame>> = BTreeMap::new();
        let mut seen = HashSet::new();
        let mut symbols = Symbols::default();
        for frame in text.lines().filter_map(crate::report::frame) {
            if seen.len() == FRAMES {
                symbols.missing.push(format!("no lines of source of more than {FRAMES} frames"));
                break;
            }
            let frames = by_owner.entry(frame.module.clone()).or_default();
            if seen.insert(frame.clone()) {
                frames.push(frame);
            }
        }
        let mut roots = origins.roots.clone();
        let kernel = by_owner.remove(&None).unwrap_or_default();
        if !kernel.is_empty() || !by_owner.is_empty() {
            symbols.of_kernel(&kernel, origins, &mut roots);
        }
        // Longest first: a checkout may lie in a directory that is also a root.
        roots.sort_by_key(|root| std::cmp::Reverse(root.as_os_str().len()));
        let names: Vec<&str> = by_owner.keys().flatten().map(String::as_str).collect();
        let mut files = module_files(&names, origins);
        for (module, frames) in &by_owner {
            let Some(module) = module else { continue };
            symbols.of_module(module, frames, files.remove(module.as_str()).unwrap_or_default());
        }
        for place in symbols.places.values_mut().flatten() {
            place.file = short(&place.file, &roots);
        }
        symbols
    }

    /// The places of a frame; empty if unknown.
    pub fn places(&self, frame: &Frame) -> &[Place] {
        self.places.get(&key(frame)).map_or(&[], Vec::as_slice)
    }

    fn keep(&mut self, frames: &[Frame], places: Vec<Places>) {
        self.places.extend(frames.iter().map(key).zip(places));
    }

    fn of_kernel(&mut self, frames: &[Frame], origins: &Origins, roots: &mut Vec<PathBuf>) {
        let lacks = |why: String| format!("no debug information of the kernel: {why}");
        let Some(vmlinux) = &origins.vmlinux else {
            return self.missing.push(lacks(origins.remedy.clone()));
        };
        match debug::look_up(vmlinux, &frames.iter().collect::<Vec<_>>(), Some(LANDMARK.0)) {
            Ok(found) => {
                let root = found.landmark.as_ref().and_then(|file| file.strip_suffix(LANDMARK.1));
                roots.extend(root.filter(|root| !root.is_empty()).map(PathBuf::from));
                self.keep(frames, found.places);
            }
            Err(DebugError::None(_)) => self.missing.push(lacks(origins.remedy.clone())),
            Err(error) => self.missing.push(lacks(error.to_string())),
        }
    }

    fn of_module(&mut self, module: &str, frames: &[Frame], files: Vec<PathBuf>) {
        let wanted: Vec<&Frame> = frames.iter().collect();
        let mut why =
            "no file of that name for this kernel is in the worktree, the shares or the kernel's modules".to_owned();
        for file in files {
            match debug::look_up(&file, &wanted, None) {
                Ok(found) if found.places.iter().any(|places| !places.is_empty()) => {
                    return self.keep(frames, found.places);
                }
                Ok(_) => why = format!("{} is of another build", file.display()),
                Err(DebugError::None(path)) => why = format!("{path} is stripped or was compiled without -g"),
                Err(error) => why = error.to_string(),
            }
        }
        self.missing.push(format!("no debug information of the module {module}: {why}"));
    }
}

/// For each module its name and newest file that is for the guest's kernel and has debug
/// information.
pub fn all_modules(origins: &Origins) -> Vec<(String, PathBuf)> {
    let mut newest: BTreeMap<String, (SystemTime, PathBuf)> = BTreeMap::new();
    for_each_module(origins, |name, time, path| {
        if newest.get(&name).is_none_or(|(other, _)| *other < time)
            && debug::is_in(path)
            && is_for(path, &origins.release)
        {
            newest.insert(name, (time, path.to_owned()));
        }
    });
    newest.into_iter().map(|(name, (_, path))| (name, path)).collect()
}

/// The key of a frame. A return address and an instruction's address are different places.
fn key(frame: &Frame) -> String {
    format!("{}{}", frame.text(), if frame.exact { "!" } else { "" })
}

/// The files of these modules that are for the guest's kernel; for each module the newest first.
fn module_files<'a>(names: &[&'a str], origins: &Origins) -> HashMap<&'a str, Vec<PathBuf>> {
    let mut found: HashMap<&str, Vec<(SystemTime, PathBuf)>> = HashMap::new();
    if names.is_empty() {
        return HashMap::new();
    }
    for_each_module(origins, |stem, time, path| {
        let Some(name) = names.iter().find(|name| **name == stem) else { return };
        if is_for(path, &origins.release) {
            found.entry(name).or_default().push((time, path.to_owned()));
        }
    });
    let newest_first = |mut files: Vec<(SystemTime, PathBuf)>| {
        files.sort_by(|a, b| b.cmp(a));
        files.into_iter().map(|(_, path)| path).collect()
    };
    found.into_iter().map(|(name, files)| (name, newest_first(files))).collect()
}

/// Calls `take` with the name, the time and the path of each file that may be a module.
fn for_each_module(origins: &Origins, mut take: impl FnMut(String, SystemTime, &Path)) {
    for dir in &origins.modules {
        for entry in WalkDir::new(dir).into_iter().filter_entry(may_have_modules).flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|end| end == "ko") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
                let time = entry.metadata().ok().and_then(|meta| meta.modified().ok());
                take(name, time.unwrap_or(SystemTime::UNIX_EPOCH), path);
            }
        }
    }
}

/// Skips directories that are large and hold no modules that were just compiled.
fn may_have_modules(entry: &DirEntry) -> bool {
    let in_state = entry.path().parent().is_some_and(|dir| dir.ends_with(".quiz"));
    let name = entry.file_name();
    !(name == ".git" || (in_state && (name == "runs" || name == "install" || name == "disks")))
}

/// Whether a module's own data names the kernel `release`.
fn is_for(path: &Path, release: &str) -> bool {
    let Ok(file) = debug::open(path) else { return false };
    let cache = ReadCache::new(file);
    let Ok(file) = object::File::parse(&cache) else { return false };
    let Some(Ok(info)) = file.section_by_name(".modinfo").map(|section| section.uncompressed_data()) else {
        return false;
    };
    info.split(|byte| *byte == 0).any(|field| {
        let magic = field.strip_prefix(b"vermagic=").unwrap_or_default();
        magic.split(|byte| *byte == b' ').next() == Some(release.as_bytes())
    })
}

/// A path without `.` and `..`, relative to the first root that contains it.
fn short(path: &str, roots: &[PathBuf]) -> String {
    let mut plain = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some() => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    let below = roots.iter().find_map(|root| plain.strip_prefix(root).ok());
    below.unwrap_or(&plain).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_from_their_tree() {
        let roots = [PathBuf::from("/src/zfs/"), PathBuf::from("/src")];
        for (path, wanted) in [
            ("/src/zfs/.quiz/build/6.12/../../../module/zfs/./arc.c", "module/zfs/arc.c"),
            ("/src/other/a.c", "other/a.c"),
            ("/usr/include/a.h", "/usr/include/a.h"),
            ("a.c", "a.c"),
        ] {
            assert_eq!(short(path, &roots), wanted);
        }
    }

    #[test]
    fn what_is_called_like_a_module_and_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("x.ko");
        let name = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
        // SAFETY: the name is a terminated string that outlives the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("y.ko")).unwrap();
        let origins = Origins { modules: vec![dir.path().to_owned()], ..Origins::default() };
        let symbols = Symbols::of("RIP: 0010:f+0x1/0x2 [x]\n g+0x1/0x2 [y]\n", &origins);
        assert_eq!(symbols.missing.len(), 3, "{:?}", symbols.missing);
        assert!(all_modules(&origins).is_empty());
    }
}
