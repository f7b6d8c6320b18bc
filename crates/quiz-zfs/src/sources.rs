//! Lists the source files of a checkout. Not for using them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fs_err as fs;
use quiz_host::Report;
use walkdir::WalkDir;

/// The source files of the checkout `dir`, as sorted paths relative to it. Links are not followed.
///
/// In a git checkout these are the files that git tracks, and new files that are not ignored.
/// Elsewhere they are all files. Products of an earlier build in the checkout itself are left out.
pub(crate) fn list(dir: &Path, report: &dyn Report) -> io::Result<BTreeSet<PathBuf>> {
    if dir.join(".git").exists() {
        match of_git(dir) {
            Ok(files) => return Ok(files),
            Err(error) => {
                report.say(&format!("cannot ask git which files are sources ({error}); taking all that look like one"));
            }
        }
    }
    walk(dir, dir)
}

fn of_git(dir: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let tracked = ls_files(dir, &["-c"])?;
    let new = ls_files(dir, &["-o", "--exclude-standard"])?;
    let products = Products::of(dir);
    let mut files = BTreeSet::new();
    for path in tracked {
        match fs::symlink_metadata(dir.join(&path)) {
            // A submodule.
            Ok(meta) if meta.is_dir() => files.extend(walk(dir, &dir.join(&path))?),
            Ok(_) => drop(files.insert(path)),
            // The file was deleted, but is still in git's index.
            Err(_) => {}
        }
    }
    // A path with a final slash is a nested repository, which does not belong to the checkout.
    let new = new.into_iter().filter(|path| !path.as_os_str().as_bytes().ends_with(b"/"));
    files.extend(new.filter(|path| !is_private(path) && !products.contain(path)));
    Ok(files)
}

fn is_private(path: &Path) -> bool {
    path.components().any(|c| [".quiz", ".git"].iter().any(|name| c.as_os_str() == *name))
}

fn ls_files(dir: &Path, args: &[&str]) -> io::Result<Vec<PathBuf>> {
    let mut command = Command::new("git");
    // In a git hook, these variables would select another repository.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
        command.env_remove(name);
    }
    command.env("GIT_OPTIONAL_LOCKS", "0").current_dir(dir).args(["ls-files", "-z"]).args(args);
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(said.lines().next().unwrap_or("git failed").to_owned()));
    }
    let paths = output.stdout.split(|b| *b == 0).filter(|path| !path.is_empty());
    Ok(paths.map(|path| PathBuf::from(OsString::from_vec(path.to_vec()))).collect())
}

/// All files below `from`, relative to `dir`, without products of a build.
fn walk(dir: &Path, from: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let products = Products::of(dir);
    let mut files = BTreeSet::new();
    let wanted = |entry: &walkdir::DirEntry| {
        let name = entry.file_name().as_bytes();
        !(matches!(name, b".quiz" | b".git")
            || entry.file_type().is_dir() && matches!(name, b".libs" | b".deps" | b"autom4te.cache" | b"__pycache__"))
    };
    for entry in WalkDir::new(from).min_depth(1).into_iter().filter_entry(wanted) {
        let entry = entry.map_err(io::Error::from)?;
        if entry.file_type().is_dir() {
            continue;
        }
        if let Ok(path) = entry.path().strip_prefix(dir)
            && !products.contain(path)
        {
            files.insert(path.to_owned());
        }
    }
    Ok(files)
}

/// Recognises products of a build in the checkout: by their names, and by their inputs if the
/// checkout was configured.
struct Products<'a> {
    dir: &'a Path,
    configured: bool,
}

/// Suffixes of files that compilers, libtool and kbuild make.
const ENDINGS: &[&str] = &[
    ".o",
    ".o.d",
    ".lo",
    ".la",
    ".a",
    ".ko",
    ".mod",
    ".mod.c",
    ".cmd",
    ".gcno",
    ".gcda",
    ".pyc",
    ".Plo",
    ".Po",
    ".Tpo",
    ".trs",
    ".order",
    ".symvers",
    ".ur-safe",
    ".dirstamp",
];

/// Names of files that autotools and kbuild make.
const NAMES: &[&str] = &[
    "config.status",
    "config.log",
    "config.cache",
    "config.lt",
    "confdefs.h",
    "libtool",
    "stamp-h1",
    "zfs_config.h",
    "Module.symvers",
    "modules.order",
    ".dirstamp",
    "core",
    ".version",
];

impl Products<'_> {
    fn of(dir: &Path) -> Products<'_> {
        Products { dir, configured: dir.join("config.status").exists() }
    }

    fn contain(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let is_temporary = |part: &[u8]| matches!(part, b".libs" | b".deps" | b"autom4te.cache" | b"__pycache__");
        if path.components().any(|c| is_temporary(c.as_os_str().as_bytes()))
            || ENDINGS.iter().any(|ending| name.ends_with(ending.as_bytes()))
            || NAMES.iter().any(|product| name == product.as_bytes())
            || name.starts_with(b".tmp_")
            || name.starts_with(b"conftest")
        {
            return true;
        }
        self.configured && (self.is_substituted(path) || self.is_gathered(path) || is_linked(&self.dir.join(path)))
    }

    /// Programs are made at the top of each directory below `cmd/`. In `build/` `configure` tests
    /// kernels, and `tests/zfs-tests/bin/` holds programs that tests may call.
    fn is_gathered(&self, path: &Path) -> bool {
        if path.starts_with("build") || path.starts_with("tests/zfs-tests/bin") {
            return true;
        }
        let is_at_top = path.parent() == Some(Path::new(""));
        let is_makefile = path.file_stem().is_some_and(|stem| stem == "Makefile" || stem == ".gitignore");
        let mut input = self.dir.join("cmd").join(path).into_os_string();
        is_at_top
            && !is_makefile
            && (Path::new(&input).exists() || {
                input.push(".in");
                Path::new(&input).exists()
            })
    }

    /// `X` beside `X.in` or `X.am` is made from that file.
    fn is_substituted(&self, path: &Path) -> bool {
        let mut input = path.as_os_str().to_owned();
        input.push(".in");
        let is_automake = path.file_name().is_some_and(|name| name == "Makefile")
            && self.dir.join(path).with_file_name("Makefile.am").exists();
        is_automake || self.dir.join(input).exists()
    }
}

/// A program or library that the linker made, or libtool's wrapper around one.
fn is_linked(path: &Path) -> bool {
    let executable = |meta: &std::fs::Metadata| meta.is_file() && meta.permissions().mode() & 0o111 != 0;
    if !fs::symlink_metadata(path).is_ok_and(|meta| executable(&meta)) {
        return false;
    }
    let mut head = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(512).read_to_end(&mut head));
    read.is_ok() && (head.starts_with(b"\x7fELF") || head.windows(17).any(|w| w == b"temporary wrapper"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quiz_host::Silent;

    fn make(dir: &Path, files: &[&str]) {
        for file in files {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    fn names(files: BTreeSet<PathBuf>) -> Vec<String> {
        files.into_iter().map(|path| path.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn without_git_all_files_count_but_what_a_build_made() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path();
        let sources = [
            "META",
            "Makefile.am",
            "Makefile.in",
            "a b/c\nd.c",
            "cmd/Makefile.am",
            "cmd/arc_summary",
            "cmd/dbufstat.in",
            "configure",
            "man/x.8",
            "module/Kbuild.in",
        ];
        make(dir, &sources);
        make(
            dir,
            &[
                "module/zfs.o",
                "module/.zfs.o.cmd",
                "module/zfs.mod.c",
                "module/zfs.ko",
                "lib/.libs/x.so",
                "lib/.deps/x.Plo",
            ],
        );
        make(dir, &[".quiz/build/6.1/META", "autom4te.cache/requests", "config.log", "zfs_config.h"]);
        // Without a configured build, the origin of these files is unknown.
        make(dir, &["Makefile", "module/Kbuild"]);
        let with_makefiles = names(list(dir, &Silent).unwrap());
        assert!(with_makefiles.contains(&"Makefile".to_owned()));
        make(
            dir,
            &[
                "config.status",
                "arc_summary",
                "dbufstat",
                "build/conftest.c",
                "cmd/Makefile.am",
                "tests/zfs-tests/bin/cat",
            ],
        );
        make(dir, &["module/.zfs.o.d"]);
        fs::write(dir.join("zpool"), "#!/bin/sh\n# zpool - temporary wrapper script for .libs/zpool\n").unwrap();
        fs::set_permissions(dir.join("zpool"), std::fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.join("autogen.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(dir.join("autogen.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut wanted: Vec<String> = sources.iter().map(|s| (*s).to_owned()).collect();
        wanted.push("autogen.sh".to_owned());
        wanted.sort();
        let mut found = names(list(dir, &Silent).unwrap());
        found.sort();
        assert_eq!(found, wanted);
    }

    #[test]
    fn names_that_are_no_text_are_listed() {
        let top = tempfile::tempdir().unwrap();
        let odd = std::ffi::OsStr::from_bytes(b"tests/\xff\xfe \"x\"");
        fs::create_dir(top.path().join("tests")).unwrap();
        fs::write(top.path().join(odd), "").unwrap();
        assert_eq!(list(top.path(), &Silent).unwrap().into_iter().collect::<Vec<_>>(), [PathBuf::from(odd)]);
    }

    #[test]
    fn git_tells_tracked_new_and_deleted_files() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path();
        let git = |args: &[&str]| {
            let ran = Command::new("git").current_dir(dir).args(args).stdout(Stdio::null()).status().unwrap();
            assert!(ran.success(), "{args:?}");
        };
        make(dir, &["META", "tracked.o", "gone.c", "a\tb\n.c", ".gitignore"]);
        fs::write(dir.join(".gitignore"), "ignored*\n").unwrap();
        git(&["init", "-q"]);
        git(&["add", "-A"]);
        fs::remove_file(dir.join("gone.c")).unwrap();
        make(dir, &["new.c", "new.o", "ignored.c", ".quiz/x", "inner/.git/HEAD"]);
        let mut found = names(list(dir, &Silent).unwrap());
        found.sort();
        assert_eq!(found, [".gitignore", "META", "a\tb\n.c", "new.c", "tracked.o"]);
    }
}
