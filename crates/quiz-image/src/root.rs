//! Root images: one read-only file system per distribution release, architecture and set of
//! packages. Not for the layers that a run puts over it.
//!
//! The image is squashfs; docs/decisions/0001-root-image-format.md explains why. `mmdebstrap` or
//! `inside` makes it, and `way` decides which of them.

use crate::squashfs::{self, FORMAT};
use fs_err as fs;
use quiz_arch::Arch;
use quiz_host::digest;
use quiz_host::report::{Report, Unit};
use quiz_host::store::{Cache, Entry, Shelf, StoreError};
use std::io::{self, Read};
use std::path::Path;

mod inside;
mod mmdebstrap;
mod model;
mod package;
mod tree;
mod way;

pub use inside::{Task, Vm, VmError};
use model::{IMAGE, installed};
pub use model::{PACKAGES, Root, RootError, RootManifest, Wanted};
pub use way::{Builder, Facts, Reason, Way, way};

/// The shelf of roots.
pub fn shelf(cache: &Cache) -> Shelf {
    cache.shelf("roots")
}

/// All roots, sorted by name. Roots whose manifest this quiz cannot read are left out and reported
/// to `report`.
pub fn list(cache: &Cache, report: &dyn Report) -> Result<Vec<Root>, RootError> {
    let shelf = shelf(cache);
    let mut roots = Vec::new();
    for name in shelf.names()? {
        match shelf.open(&name).and_then(|entry| entry.map(Root::from_entry).transpose()) {
            Ok(root) => roots.extend(root),
            Err(error @ StoreError::Manifest { .. }) => report.say(&format!("leaving out root {name}: {error}")),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(roots)
}

/// The root that is exactly `wanted`, if it exists; otherwise the smallest root that has everything
/// wanted and more.
pub fn find(cache: &Cache, wanted: &Wanted) -> Result<Option<Root>, RootError> {
    let shelf = shelf(cache);
    // A root from an older quiz may lack packages that every root has now.
    if let Some(entry) = shelf.open(&wanted.name())?
        && let root = Root::from_entry(entry)?
        && root.manifest.serves(wanted)
    {
        return Ok(Some(root));
    }
    let mut holding: Option<Root> = None;
    for name in shelf.names()? {
        // Skip roots that cannot be read or are from another version of quiz; `list` reports them.
        let Ok(Some(root)) = shelf.open(&name).and_then(|entry| entry.map(Root::from_entry).transpose()) else {
            continue;
        };
        let smaller = holding.as_ref().is_none_or(|best| root.manifest.size < best.manifest.size);
        if smaller && root.manifest.serves(wanted) {
            holding = Some(root);
        }
    }
    Ok(holding)
}

/// The root of that exact name, if an older quiz made it and it lacks only packages that every root
/// has now. It is useful if a new root cannot be made.
pub fn outdated(cache: &Cache, wanted: &Wanted) -> Result<Option<Root>, RootError> {
    let root = shelf(cache).open(&wanted.name())?.map(Root::from_entry).transpose()?;
    Ok(root.filter(|root| root.manifest.is_outdated_for(wanted)))
}

/// Removes a root by its exact name.
pub fn remove(cache: &Cache, name: &str) -> Result<(), RootError> {
    Ok(shelf(cache).remove(name)?)
}

/// The ways to make roots.
pub struct Builders<'a> {
    /// The user's choice.
    pub asked: Builder,
    /// What this host offers for the root's architecture.
    pub facts: Facts,
    /// Runs VMs of the root's architecture.
    pub vm: &'a dyn Vm,
}

/// Makes the `wanted` root, or takes it from the cache unless `replace`. Takes twenty seconds to a
/// few minutes.
pub fn build(
    cache: &Cache,
    wanted: &Wanted,
    replace: bool,
    builders: &Builders<'_>,
    report: &dyn Report,
) -> Result<Root, RootError> {
    for package in &wanted.packages {
        if !package.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !package.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:".contains(c))
        {
            return Err(RootError::PackageName(package.clone()));
        }
    }
    wanted.source.lines(true)?;
    let name = wanted.name();
    let what = format!("making the root {name}");
    if let Some(root) = find(cache, wanted)?
        && root.manifest.own
    {
        return Err(RootError::Own(root.name().to_owned()));
    }
    let shelf = shelf(cache);
    let newer = shelf.newer(&name);
    // A root that cannot be read is not replaced: a newer quiz may have made it.
    let is_outdated = |entry: &Entry| entry.manifest::<RootManifest>().is_ok_and(|there| there.is_outdated_for(wanted));
    let fits = |entry: &Entry| !is_outdated(entry) && (!replace || newer(entry));
    let entry = shelf.build_unless(&name, &what, &fits, report, |dir| {
        let log = cache.log_file(&format!("root-{name}"));
        let _previous = fs::remove_file(&log);
        let tar = dir.join("root.tar");
        make(cache, wanted, dir, &tar, &log, builders, report)?;
        let progress = report.start(&format!("making the image of the root {name}"), None, Unit::None);
        let doing = || StoreError::io(format!("make the root {name}"));
        let packages = installed(&tar).map_err(doing())?;
        let image = dir.join(IMAGE);
        let input = fs::File::open(&tar).map_err(doing())?.into_parts().0;
        squashfs::from_tar(input, &image, &format!("make the image of the root {name}"), &log)?;
        fs::remove_file(&tar).map_err(doing())?;
        let manifest = RootManifest {
            name: name.clone(),
            release: wanted.source.release.clone(),
            arch: wanted.arch.name.to_owned(),
            format: FORMAT.to_owned(),
            image: IMAGE.to_owned(),
            own: false,
            archive_sha256: None,
            extra_packages: wanted.extra_packages().into_iter().map(str::to_owned).collect(),
            packages,
            mirrors: wanted.source.mirrors.clone(),
            keyring: wanted.source.keyring.clone(),
            size: fs::metadata(&image).map_err(doing())?.len(),
            sha256: digest::of_file(&image).map_err(doing())?,
            built_at: jiff::Timestamp::now(),
            quiz_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        progress.done();
        Ok::<_, RootError>(manifest)
    })?;
    Ok(Root::from_entry(entry)?)
}

/// Makes the archive `tar` of the root's files, in whatever way works.
fn make(
    cache: &Cache,
    wanted: &Wanted,
    dir: &Path,
    tar: &Path,
    log: &Path,
    builders: &Builders<'_>,
    report: &dyn Report,
) -> Result<(), RootError> {
    let name = wanted.name();
    let why = match way(builders.asked, wanted.arch, quiz_arch::host(), &builders.facts) {
        Way::Vm(why) => why,
        Way::Mmdebstrap => match mmdebstrap::make(wanted, tar, log, report) {
            Err(RootError::Unprivileged { cause } | RootError::Foreign { cause, .. })
                if builders.asked == Builder::Auto =>
            {
                Reason::Failed(cause.reason())
            }
            other => return other,
        },
    };
    if why == Reason::Asked {
        report.say(&format!("making the root {name} in a VM"));
    } else {
        report.say(&format!("making the root {name} in a VM: {why}"));
    }
    inside::make(cache, wanted, dir, tar, log, builders.vm, report)
}

/// Makes a root from the user's `archive`: a tar archive of a whole file system, plain or
/// compressed by gzip, xz or zstd. Runs use it for the release `name` and the architecture `arch`.
pub fn add(
    cache: &Cache,
    name: &str,
    arch: &'static Arch,
    archive: &Path,
    replace: bool,
    report: &dyn Report,
) -> Result<Root, RootError> {
    let entry_name = format!("{name}-{}", arch.name);
    let what = format!("making the root {entry_name} of {}", archive.display());
    let wrong = |why: String| RootError::Archive { archive: archive.to_owned(), why };
    let sum = digest::of_file(archive).map_err(|e| wrong(e.to_string()))?;
    let shelf = shelf(cache);
    let newer = shelf.newer(&entry_name);
    let is_of_this =
        |entry: &Entry| entry.manifest::<RootManifest>().is_ok_and(|there| there.archive_sha256.as_ref() == Some(&sum));
    if !replace && shelf.open(&entry_name)?.is_some_and(|entry| !is_of_this(&entry)) {
        return Err(RootError::Taken(entry_name));
    }
    let fits = |entry: &Entry| is_of_this(entry) && (!replace || newer(entry));
    let mut input = io::BufReader::new(fs::File::open(archive).map_err(|e| wrong(e.to_string()))?);
    let start = io::BufRead::fill_buf(&mut input).map_err(|e| wrong(e.to_string()))?;
    let mut plain: Box<dyn Read> = match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(input)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(liblzma::read::XzDecoder::new_multi_decoder(input)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(input).map_err(|e| wrong(e.to_string()))?),
        _ => Box::new(input),
    };
    let entry = shelf.build_unless(&entry_name, &what, &fits, report, |dir| {
        let progress = report.start(&what, None, Unit::None);
        let doing = || StoreError::io(format!("make the root {entry_name}"));
        let tar = dir.join("root.tar");
        let mut copy = fs::File::create(&tar).map_err(doing())?;
        io::copy(&mut plain, &mut copy).map_err(|e| wrong(format!("it cannot be read: {e}")))?;
        has_programs(&tar).map_err(wrong)?;
        let log = cache.log_file(&format!("root-{entry_name}"));
        let _previous = fs::remove_file(&log);
        let image = dir.join(IMAGE);
        let input = fs::File::open(&tar).map_err(doing())?.into_parts().0;
        squashfs::from_tar(input, &image, &format!("make the image of the root {entry_name}"), &log)?;
        let packages = installed(&tar).unwrap_or_default();
        fs::remove_file(&tar).map_err(doing())?;
        progress.done();
        Ok::<_, RootError>(RootManifest {
            name: entry_name.clone(),
            release: name.to_owned(),
            arch: arch.name.to_owned(),
            format: FORMAT.to_owned(),
            image: IMAGE.to_owned(),
            own: true,
            archive_sha256: Some(sum.clone()),
            extra_packages: Vec::new(),
            packages,
            mirrors: vec![archive.display().to_string()],
            keyring: None,
            size: fs::metadata(&image).map_err(doing())?.len(),
            sha256: digest::of_file(&image).map_err(doing())?,
            built_at: jiff::Timestamp::now(),
            quiz_version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    })?;
    Ok(Root::from_entry(entry)?)
}

/// Checks that the archive contains a file system with programs; the error says why not.
fn has_programs(tar: &Path) -> Result<(), String> {
    let not_tar = |e: io::Error| format!("it is no tar archive: {e}");
    let mut archive = tar::Archive::new(fs::File::open(tar).map_err(not_tar)?);
    for item in archive.entries_with_seek().map_err(not_tar)? {
        let item = item.map_err(not_tar)?;
        let path = item.path().map_err(not_tar)?;
        let path = path.strip_prefix("./").unwrap_or(&path);
        if ["bin", "sbin", "usr/bin", "usr/sbin"].iter().any(|dir| path.starts_with(dir)) {
            return Ok(());
        }
    }
    Err("it has neither bin nor usr/bin; it must be the archive of a file system's top directory".to_owned())
}

#[cfg(test)]
mod tests {
    use super::model::packages;
    use super::*;
    use quiz_debian::apt::Source;

    fn wanted(packages: &[&str]) -> Wanted {
        Wanted {
            source: Source::debian("bookworm"),
            arch: quiz_arch::find("x86_64").unwrap(),
            packages: packages.iter().map(|&p| p.to_owned()).collect(),
        }
    }

    /// Builders that cannot make a root.
    fn builders() -> Builders<'static> {
        struct None;
        impl Vm for None {
            fn run(&self, _task: Task<'_>) -> Result<(), VmError> {
                Err(VmError::Failed("there is no VM".to_owned()))
            }
        }
        let host = quiz_arch::host();
        let facts = Facts::gather(host, host, &quiz_host::tools::Search::new("".as_ref()));
        Builders { asked: Builder::Vm, facts, vm: &None }
    }

    #[test]
    fn a_file_system_of_ones_own_is_a_root() {
        let top = tempfile::tempdir().unwrap();
        let cache = Cache::at(top.path().join("cache"));
        let mut builder = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o755);
        builder.append_data(&mut header, "./usr/bin/x", &b"hi"[..]).unwrap();
        let archive = top.path().join("root.tar.zst");
        fs::write(&archive, builder.into_inner().unwrap().finish().unwrap()).unwrap();
        let arch = quiz_arch::find("ppc64").unwrap();
        let silent = quiz_host::report::Silent;
        let made = add(&cache, "mine", arch, &archive, false, &silent).unwrap();
        assert_eq!((made.name(), made.manifest.own), ("mine-ppc64", true));
        let mine = Wanted { source: Source::debian("mine"), arch, packages: vec!["fio".to_owned()] };
        assert_eq!(find(&cache, &mine).unwrap().unwrap().name(), "mine-ppc64");
        assert!(build(&cache, &mine, true, &builders(), &silent).unwrap_err().to_string().contains("of your own"));
        let other = Wanted { arch: quiz_arch::find("s390x").unwrap(), ..mine };
        assert!(find(&cache, &other).unwrap().is_none());
        for (text, why) in [
            (&b"no archive at all, but long enough for one header".repeat(20)[..], "no tar archive"),
            (&[0; 1024], "neither bin"),
        ] {
            fs::write(&archive, text).unwrap();
            let error = add(&cache, "bad", arch, &archive, false, &silent).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("root.tar.zst"), "{error}");
        }
        assert_eq!(list(&cache, &silent).unwrap().len(), 1);
    }

    fn manifest(packages: &[&str]) -> RootManifest {
        RootManifest {
            name: "x".to_owned(),
            release: "bookworm".to_owned(),
            arch: "x86_64".to_owned(),
            format: FORMAT.to_owned(),
            image: IMAGE.to_owned(),
            own: false,
            archive_sha256: None,
            extra_packages: vec![],
            packages: PACKAGES.iter().chain(packages).map(|&p| (p.to_owned(), "1".to_owned())).collect(),
            mirrors: vec![],
            keyring: None,
            size: 1,
            sha256: String::new(),
            built_at: jiff::Timestamp::UNIX_EPOCH,
            quiz_version: String::new(),
        }
    }

    #[test]
    fn a_root_of_an_older_quiz_is_made_anew_and_meanwhile_does() {
        let top = tempfile::tempdir().unwrap();
        let cache = Cache::at(top.path().to_owned());
        let wanted = wanted(&["fio"]);
        let put = |packages: &[&str]| {
            let manifest = RootManifest {
                name: wanted.name(),
                packages: packages.iter().map(|&name| (name.to_owned(), "1".to_owned())).collect(),
                ..manifest(&[])
            };
            let made = |_: &Path| Ok::<_, StoreError>(manifest);
            drop(shelf(&cache).build(&wanted.name(), "testing", true, &quiz_host::report::Silent, made).unwrap());
            (find(&cache, &wanted).unwrap().is_some(), outdated(&cache, &wanted).unwrap().is_some())
        };
        assert_eq!(put(&["mount", "fio"]), (false, true));
        assert_eq!(put(&["mount"]), (false, false));
        assert_eq!(put(&[PACKAGES, &["fio"]].concat()), (true, false));
    }

    #[test]
    fn the_name_says_what_was_chosen() {
        assert_eq!(wanted(&[]).name(), "bookworm-x86_64");
        assert_eq!(wanted(&["kmod"]).name(), "bookworm-x86_64", "that is there anyway");
        let gdb = wanted(&["gdb", "strace"]).name();
        assert_eq!(gdb.len(), "bookworm-x86_64-".len() + 8);
        assert_eq!(wanted(&["strace", "gdb", "strace"]).name(), gdb);
        assert_ne!(wanted(&["gdb"]).name(), gdb);
        let mut mirror = wanted(&[]);
        mirror.source.mirrors = vec!["http://localhost/debian".to_owned()];
        assert_ne!(mirror.name(), "bookworm-x86_64");
    }

    #[test]
    fn a_root_with_more_serves_those_who_want_less() {
        assert!(manifest(&["gdb", "fio"]).serves(&wanted(&["gdb"])));
        assert!(manifest(&["gdb"]).serves(&wanted(&["gdb:amd64"])));
        assert!(!manifest(&["gdb"]).serves(&wanted(&["gdb", "fio"])));
        let mut other = wanted(&[]);
        other.source.release = "trixie".to_owned();
        assert!(!manifest(&[]).serves(&other));
        let mut mirror = wanted(&[]);
        mirror.source.mirrors = vec!["http://localhost/debian".to_owned()];
        assert!(!manifest(&[]).serves(&mirror));
    }

    #[test]
    fn a_package_cannot_be_an_option_or_a_script() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned());
        for bad in ["", "--mode=root", "a b", "a,b", "a;b", "$(x)"] {
            let error = build(&cache, &wanted(&[bad]), false, &builders(), &quiz_host::report::Silent).unwrap_err();
            assert!(matches!(error, RootError::PackageName(_)), "{bad}: {error}");
        }
    }

    #[test]
    fn installed_packages_are_read_from_dpkgs_list() {
        let status = "Package: bash\nStatus: install ok installed\nVersion: 5.2\n\n\
             Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: dash\nStatus: install ok installed\nVersion: 0.5\n";
        let found = packages(status);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["bash", "dash"]);
        assert_eq!(found["bash"], "5.2");
    }
}
