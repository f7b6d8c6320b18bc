//! Fetches single packages of a Debian-like release through the host's apt, which checks
//! signatures. It works for any architecture, without privileges, and without touching the host's
//! own package state. Not for making a file system from packages (`root`).
//!
//! apt gets its own configuration, package lists and (blank) dpkg status. It takes only the proxy
//! and connection settings from the host's configuration.

use fs_err as fs;
use quiz_arch::Arch;
use quiz_host::command::{CommandError, Run};
use quiz_host::report::{Report, Unit};
use quiz_host::store::{Cache, StoreError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

pub mod install;

/// Debian's main mirror.
pub const DEBIAN_MIRROR: &str = "http://deb.debian.org/debian";
/// The mirror of Debian's unofficial ports.
pub const PORTS_MIRROR: &str = "http://deb.debian.org/debian-ports";
const DEBIAN_SECURITY: &str = "http://deb.debian.org/debian-security";
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const PORTS_KEYRING: &str = "/usr/share/keyrings/debian-ports-archive-keyring.gpg";
/// Keyrings of archives, by the last part of their mirrors' paths.
const KEYRINGS: &[(&str, &str)] = &[
    ("debian", DEBIAN_KEYRING),
    ("debian-security", DEBIAN_KEYRING),
    ("debian-ports", PORTS_KEYRING),
    ("ubuntu", "/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
    ("ubuntu-ports", "/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
];

/// Why packages could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// The cache failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// One of apt's programs failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The release, mirror or keyring cannot be used.
    #[error("{0}")]
    Source(String),
    /// The release lacks the package for that architecture.
    #[error("{release} has no package `{package}` for {arch}{hint}")]
    NoPackage {
        /// The suite.
        release: String,
        /// The package.
        package: String,
        /// Debian's name of the architecture.
        arch: String,
        /// Alternatives, as text to append to the message.
        hint: String,
    },
}

/// A release of a Debian-like distribution, and its mirrors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// The suite: `bookworm`, `trixie`, `bookworm-backports`, `sid`, `noble`, ….
    pub release: String,
    /// Mirrors: URLs, or whole `deb …` lines if other suites or components are needed. Empty:
    /// Debian's own.
    pub mirrors: Vec<String>,
    /// The keyring that may sign the release. `None`: the host's keyring for the mirror's archive
    /// (`…/debian`, `…/ubuntu`), else all keys that the host's apt trusts.
    pub keyring: Option<PathBuf>,
}

impl Source {
    /// Debian's `release` from Debian's mirrors.
    pub fn debian(release: &str) -> Source {
        Source { release: release.to_owned(), ..Source::default() }
    }

    /// The suite without `-backports`.
    pub fn base_release(&self) -> &str {
        self.release.strip_suffix("-backports").unwrap_or(&self.release)
    }

    /// The first mirror as a URL, for the record.
    pub fn mirror(&self) -> String {
        let line = self.mirrors.first().map_or(DEBIAN_MIRROR, String::as_str);
        line.split_whitespace().find(|w| w.contains(":/")).unwrap_or(line).to_owned()
    }

    /// The lines of apt's `sources.list`. Without `updates`, they cover only the original state of
    /// the release.
    pub fn lines(&self, updates: bool) -> Result<Vec<String>, AptError> {
        let plain = |text: &str| !text.is_empty() && !text.contains(['\n', '\r']);
        let word = |text: &str| plain(text) && !text.contains([' ', '\t', '[', ']']);
        if !word(&self.release) {
            return Err(AptError::Source(format!("`{}` is not the name of a release", self.release)));
        }
        self.check_keyring()?;
        for mirror in &self.mirrors {
            self.check_ports_keyring(mirror)?;
        }
        let base = self.base_release();
        let mut suites = vec![base.to_owned()];
        if base != self.release {
            suites.push(self.release.clone());
        }
        let mut lines = Vec::new();
        if self.mirrors.is_empty() {
            let rolling = ["sid", "unstable", "experimental", "rc-buggy"].contains(&base);
            if base == "experimental" || base == "rc-buggy" {
                suites.insert(0, "sid".to_owned());
            }
            if !rolling && updates {
                suites.push(format!("{base}-updates"));
                lines.push(format!("deb {}{DEBIAN_SECURITY} {base}-security main", self.options(DEBIAN_SECURITY)));
            }
            let options = self.options(DEBIAN_MIRROR);
            lines.extend(suites.iter().map(|suite| format!("deb {options}{DEBIAN_MIRROR} {suite} main")));
        }
        for mirror in &self.mirrors {
            if mirror.starts_with("deb ") && plain(mirror) {
                lines.push(mirror.clone());
            } else if word(mirror) && mirror.contains(":/") {
                let options = self.options(mirror);
                lines.extend(suites.iter().map(|suite| format!("deb {options}{mirror} {suite} main")));
            } else {
                return Err(AptError::Source(format!(
                    "`{mirror}` is not a mirror: write a URL like {DEBIAN_MIRROR}, or a line like `deb {DEBIAN_MIRROR} {base} main`"
                )));
            }
        }
        Ok(lines)
    }

    /// Whether `error` is only about the release's updates, so that the caller can retry without
    /// them. Some mirrors have updates only for some architectures, or out of step with their
    /// index.
    pub fn can_do_without_updates(&self, error: &CommandError) -> bool {
        let CommandError::Failed { lines, .. } = error else { return false };
        let errors: Vec<_> = lines.iter().filter(|l| l.starts_with("E: ") && l.contains(":/")).collect();
        let base = self.base_release();
        self.mirrors.is_empty()
            && !errors.is_empty()
            && errors
                .iter()
                .all(|l| [format!("{base}-security"), format!("{base}-updates")].iter().any(|s| l.contains(s)))
    }

    fn check_keyring(&self) -> Result<(), AptError> {
        match &self.keyring {
            Some(path) if !path.is_file() || path.to_string_lossy().contains([' ', '\t', '\n', '[', ']']) => {
                Err(AptError::Source(format!(
                    "`{}` cannot be used as a keyring: name a file (without spaces in its path) with the keys that sign {}",
                    path.display(),
                    self.release
                )))
            }
            _ => Ok(()),
        }
    }

    /// Checks for the ports' keyring: a host's apt does not trust the ports' keys by default.
    fn check_ports_keyring(&self, mirror: &str) -> Result<(), AptError> {
        let ports = Path::new(PORTS_KEYRING);
        if self.keyring.is_some() || archive(mirror) != "debian-ports" || ports.is_file() {
            return Ok(());
        }
        Err(AptError::Source(format!(
            "the packages of {mirror} are signed by keys that are not here ({}): install the package debian-ports-archive-keyring, or \
             name a keyring",
            ports.display()
        )))
    }

    /// The options of a line for `mirror`, followed by a blank.
    fn options(&self, mirror: &str) -> String {
        let archive = archive(mirror);
        let known = KEYRINGS.iter().find(|(name, _)| *name == archive).map(|(_, path)| PathBuf::from(path));
        match self.keyring.clone().or(known.filter(|path| path.is_file())) {
            Some(path) => format!("[signed-by={}] ", path.display()),
            None => String::new(),
        }
    }
}

/// The last part of a mirror's path, which is the archive's name.
fn archive(mirror: &str) -> &str {
    mirror.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// One version of a package, as described in the release's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version in Debian's format.
    pub version: String,
    /// Its architecture in Debian's name, or `all`.
    pub arch: String,
    /// The names of the packages that it depends on, without versions. Of alternatives, only the
    /// first.
    pub depends: Vec<String>,
    /// Size of its file in bytes.
    pub size: u64,
}

/// A private apt for one release and architecture, with current lists. Dropping this value deletes
/// everything that it fetched.
#[derive(Debug)]
pub struct Apt {
    dir: tempfile::TempDir,
    log: PathBuf,
    release: String,
    arch: String,
}

impl Apt {
    /// Fetches and verifies the package lists of `source` for the Debian architectures `archs`.
    /// Packages are looked up for the first one. Takes about a second with a near mirror.
    pub fn update(cache: &Cache, source: &Source, archs: &[&str], report: &dyn Report) -> Result<Apt, AptError> {
        Apt::prepare(cache, source, archs, preferred(source), report)
    }

    /// The same for whole file systems. A package has the version that apt would choose on an
    /// installed system: from backports only if the release itself lacks it.
    pub fn for_root(cache: &Cache, source: &Source, arch: &Arch, report: &dyn Report) -> Result<Apt, AptError> {
        Apt::prepare(cache, source, &[arch.debian], None, report)
    }

    fn prepare(
        cache: &Cache,
        source: &Source,
        archs: &[&str],
        preferred: Option<String>,
        report: &dyn Report,
    ) -> Result<Apt, AptError> {
        let arch = archs.first().copied().unwrap_or_default();
        let log = cache.log_file(&format!("apt-{}-{arch}", source.release));
        let preparing = || StoreError::io("prepare a place for apt");
        let parent = cache.dir().join("apt");
        fs::create_dir_all(&parent).map_err(preparing())?;
        sweep(&parent);
        let dir = tempfile::Builder::new()
            .prefix(&format!("{}.", std::process::id()))
            .tempdir_in(&parent)
            .map_err(preparing())?;
        for sub in ["lists/partial", "cache/archives/partial", "state", "empty", "debs"] {
            fs::create_dir_all(dir.path().join(sub)).map_err(preparing())?;
        }
        fs::write(dir.path().join("status"), "").map_err(preparing())?;
        fs::write(dir.path().join("apt.conf"), config(dir.path(), preferred.as_deref(), archs)).map_err(preparing())?;
        let _previous = fs::remove_file(&log);
        let apt = Apt { dir, log, release: source.release.clone(), arch: arch.to_owned() };
        let progress = report.start(&format!("fetching the package lists of {}", source.release), None, Unit::None);
        let doing = format!("fetch the package lists of {} for {arch}", source.release);
        let fetch = |updates| -> Result<(), AptError> {
            let lines = source.lines(updates)?.join("\n") + "\n";
            fs::write(apt.dir.path().join("sources.list"), lines).map_err(preparing())?;
            Ok(apt.tool("apt-get", &["update", "-o", "APT::Update::Error-Mode=any"], &doing).run(|_| {})?)
        };
        match fetch(true) {
            Err(AptError::Command(error)) if source.can_do_without_updates(&error) => {
                report.say(&without_updates(source, &error));
                fetch(false)?;
            }
            other => other?,
        }
        progress.done();
        Ok(apt)
    }

    fn tool<'a>(&'a self, program: &str, args: &[&str], doing: &'a str) -> Run<'a> {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("APT_CONFIG", self.dir.path().join("apt.conf"))
            .current_dir(self.dir.path().join("debs"));
        Run { command, doing, log: &self.log }
    }

    /// The release's version of `package` (optionally `name:arch`), if there is one.
    pub fn show(&self, package: &str) -> Result<Option<Package>, AptError> {
        let doing = format!("look up the package {package}");
        let mut text = String::new();
        let run = self.tool("apt-cache", &["show", "--no-all-versions", package], &doing);
        let shown = run.stream(|out| {
            io::Read::read_to_string(out, &mut text).map_err(|cause| CommandError::Io {
                doing: doing.clone(),
                program: "apt-cache".to_owned(),
                cause,
            })
        });
        match shown {
            Ok(_) => Ok(parse(&text)),
            // apt reports an unknown package like this.
            Err(CommandError::Failed { .. }) if text.trim().is_empty() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Like [`Apt::show`], but a missing package is an error.
    pub fn require(&self, package: &str) -> Result<Package, AptError> {
        if let Some(found) = self.show(package)? {
            return Ok(found);
        }
        // The stem `linux-image` of `linux-image-fancy` and of `linux-image-6.1.0-1-amd64`.
        let stem: Vec<&str> = package.splitn(3, '-').take(2).collect();
        let mut alike = self.names(&format!("^{}-[a-z0-9-]*$", stem.join("-"))).unwrap_or_default();
        alike.retain(|name| !name.ends_with("-dbg") && !name.ends_with("-template"));
        alike.truncate(12);
        let hint = match alike.is_empty() {
            true => String::new(),
            false => format!("; it has {}", alike.join(", ")),
        };
        Err(AptError::NoPackage {
            release: self.release.clone(),
            package: package.to_owned(),
            arch: self.arch.clone(),
            hint,
        })
    }

    /// `packages` and all dependencies of theirs whose names `follow` accepts. A name that only
    /// several other packages provide is ignored.
    pub fn with_dependencies(
        &self,
        packages: &[&str],
        follow: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Package>, AptError> {
        let mut all = packages.iter().map(|name| self.require(name)).collect::<Result<Vec<_>, _>>()?;
        let mut seen: Vec<String> = packages.iter().map(|&name| name.to_owned()).collect();
        let mut next = 0;
        while next < all.len() {
            for name in all[next].depends.clone() {
                let plain = name.split(':').next().unwrap_or_default().to_owned();
                if !follow(&plain) || seen.contains(&plain) {
                    continue;
                }
                all.extend(self.show(&plain)?);
                seen.push(plain);
            }
            next += 1;
        }
        Ok(all)
    }

    /// The names of all packages that match a regular expression.
    pub fn names(&self, pattern: &str) -> Result<Vec<String>, AptError> {
        let doing = "search the package lists";
        let mut text = String::new();
        self.tool("apt-cache", &["search", "--names-only", pattern], doing).stream(|out| {
            io::Read::read_to_string(out, &mut text).map_err(|cause| CommandError::Io {
                doing: doing.to_owned(),
                program: "apt-cache".to_owned(),
                cause,
            })
        })?;
        let mut names: Vec<String> = text.lines().filter_map(|l| l.split(' ').next()).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// Downloads packages; apt checks each against the signed lists. The files are in the given
    /// order and exist as long as `self`.
    pub fn download(&self, packages: &[Package], report: &dyn Report) -> Result<Vec<PathBuf>, AptError> {
        let total = packages.iter().map(|p| p.size).sum();
        let first = packages.first().map_or("", |p| &p.name);
        let progress = report.start(&format!("downloading {first}"), Some(total), Unit::Bytes);
        let exact: Vec<String> = packages
            .iter()
            .map(|p| match p.arch.as_str() {
                "all" => format!("{}={}", p.name, p.version),
                arch => format!("{}:{arch}={}", p.name, p.version),
            })
            .collect();
        let doing = format!("download {first} of {}", self.release);
        let mut args = vec!["download"];
        args.extend(exact.iter().map(String::as_str));
        let debs = self.dir.path().join("debs");
        self.tool("apt-get", &args, &doing).run(|_| progress.at(bytes_in(&debs)))?;
        let paths = packages
            .iter()
            .map(|p| {
                let path = debs.join(format!("{}_{}_{}.deb", p.name, p.version.replace(':', "%3a"), p.arch));
                fs::metadata(&path).map(|_| path).map_err(|e| StoreError::io(&doing)(e).into())
            })
            .collect::<Result<_, AptError>>()?;
        progress.done();
        Ok(paths)
    }

    /// The lines of this apt's `sources.list`.
    pub fn sources(&self) -> Result<String, AptError> {
        let path = self.dir.path().join("sources.list");
        Ok(fs::read_to_string(path).map_err(StoreError::io("read the sources of packages"))?)
    }

    /// The log file of apt's output.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

/// The message for the user before a retry without updates.
pub fn without_updates(source: &Source, error: &CommandError) -> String {
    let why = match error {
        CommandError::Failed { lines, .. } => lines.iter().find_map(|l| l.strip_prefix("E: ")).unwrap_or_default(),
        _ => "",
    };
    format!("continuing without the updates of {}, which the mirror does not serve properly: {why}", source.release)
}

/// The suites that apt prefers over others.
fn preferred(source: &Source) -> Option<String> {
    // A preferred version wins over any newer one, so the updates must be preferred, too.
    Some(match source.base_release() {
        base if base == source.release => format!("/^{base}(|-security|-updates)$/"),
        _ => source.release.clone(),
    })
}

fn config(dir: &Path, preferred: Option<&str>, archs: &[&str]) -> String {
    let dir = dir.display();
    let arch = archs.first().copied().unwrap_or_default();
    let list = archs.iter().map(|a| format!("\"{a}\"; ")).collect::<String>();
    let preferred = preferred.map(|release| format!("APT::Default-Release \"{release}\";\n")).unwrap_or_default();
    let host = host_connection_settings();
    format!(
        "{host}Dir::Etc::main \"/dev/null\";\n\
         Dir::Etc::parts \"{dir}/empty\";\n\
         Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
         Dir::Etc::sourceparts \"{dir}/empty\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"{dir}/empty\";\n\
         Dir::State \"{dir}/state\";\n\
         Dir::State::lists \"{dir}/lists\";\n\
         Dir::State::status \"{dir}/status\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         Dir::Cache::srcpkgcache \"\";\n\
         Dir::Log \"{dir}\";\n\
         APT::Architecture \"{arch}\";\n\
         APT::Architectures {{ {list}}};\n\
         {preferred}\
         APT::Install-Recommends \"false\";\n\
         pkgCacheGen::ForceEssential \",\";\n\
         APT::Sandbox::User \"root\";\n\
         APT::Update::Post-Invoke \"\";\n\
         Acquire::Languages \"none\";\n"
    )
}

/// The host's apt settings for proxies, connections and the freshness of mirrors, as lines for
/// another configuration. All other settings (hooks, extra indexes) must not apply here.
pub fn host_connection_settings() -> String {
    let kept = [
        "Acquire::http::",
        "Acquire::https::",
        "Acquire::Retries ",
        "Acquire::ForceIPv4 ",
        "Acquire::ForceIPv6 ",
        "Acquire::Check-Valid-Until ",
        "Acquire::Check-Date ",
    ];
    let Ok(output) = Command::new("apt-config").arg("dump").output() else { return String::new() };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| kept.iter().any(|k| line.starts_with(k)) && !line.ends_with(" \"\";"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Deletes directories that a killed quiz has left; their names contain its process id.
fn sweep(parent: &Path) {
    let Ok(found) = fs::read_dir(parent) else { return };
    for item in found.flatten() {
        let pid = item.file_name().to_str().and_then(|n| n.split('.').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _deleted = fs::remove_dir_all(item.path());
        }
    }
}

fn bytes_in(dir: &Path) -> u64 {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .flatten()
        .filter_map(|f| f.metadata().ok())
        .filter(|m| m.is_file())
        .map(|m| m.len())
        .sum()
}

/// Reads the first stanza of `apt-cache show`.
fn parse(text: &str) -> Option<Package> {
    let stanza = text.split("\n\n").next()?;
    let field = |name: &str| {
        stanza.lines().find_map(|line| line.split_once(": ").filter(|(key, _)| *key == name).map(|(_, value)| value))
    };
    let depends = ["Pre-Depends", "Depends"]
        .iter()
        .filter_map(|f| field(f))
        .flat_map(|list| list.split(','))
        .filter_map(|one| one.split(['|', '(', '[', ':']).next().map(|n| n.trim().to_owned()))
        .filter(|n| !n.is_empty())
        .collect();
    Some(Package {
        name: field("Package")?.to_owned(),
        version: field("Version")?.to_owned(),
        arch: field("Architecture")?.to_owned(),
        depends,
        size: field("Size")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_becomes_sources() {
        let lines = Source::debian("bookworm").lines(true).unwrap().join("\n");
        assert!(lines.contains("/debian bookworm main"), "{lines}");
        assert!(lines.contains("/debian bookworm-updates main"), "{lines}");
        assert!(lines.contains("/debian-security bookworm-security main"), "{lines}");
        let lines = Source::debian("bookworm-backports").lines(true).unwrap().join("\n");
        assert!(
            lines.contains("/debian bookworm main") && lines.contains("/debian bookworm-backports main"),
            "{lines}"
        );
        assert!(!lines.contains("backports-"), "{lines}");
        let lines = Source::debian("sid").lines(true).unwrap();
        assert_eq!(lines.len(), 1);
        let dir = tempfile::tempdir().unwrap();
        let keyring = dir.path().join("keys.gpg");
        fs::write(&keyring, "").unwrap();
        let own = Source {
            release: "noble".to_owned(),
            mirrors: vec!["http://localhost/mirror".to_owned(), "deb http://x/ y main universe".to_owned()],
            keyring: None,
        };
        assert_eq!(
            own.lines(true).unwrap(),
            ["deb http://localhost/mirror noble main", "deb http://x/ y main universe"]
        );
        assert_eq!(own.mirror(), "http://localhost/mirror");
        let own = Source { keyring: Some(keyring.clone()), ..own };
        let signed = format!("deb [signed-by={}] http://localhost/mirror noble main", keyring.display());
        assert_eq!(own.lines(true).unwrap()[0], signed);
    }

    #[test]
    fn updates_are_preferred_with_the_release_that_they_are_of() {
        let line = |release: &str| {
            let source = Source::debian(release);
            let text = config(Path::new("/d"), preferred(&source).as_deref(), &["s390x"]);
            text.lines().find_map(|line| line.strip_prefix("APT::Default-Release ")).unwrap().to_owned()
        };
        assert_eq!(line("bookworm"), "\"/^bookworm(|-security|-updates)$/\";");
        assert_eq!(line("bookworm-backports"), "\"bookworm-backports\";");
    }

    #[test]
    fn ports_are_checked_against_keys_of_their_own_or_refused() {
        let ports = Source { mirrors: vec![PORTS_MIRROR.to_owned()], ..Source::debian("sid") };
        match (ports.lines(true), Path::new(PORTS_KEYRING).is_file()) {
            (Ok(lines), true) => {
                assert_eq!(lines, [format!("deb [signed-by={PORTS_KEYRING}] {PORTS_MIRROR} sid main")]);
            }
            (Err(error), false) => {
                assert!(error.to_string().contains("install the package debian-ports-archive-keyring"))
            }
            (lines, there) => panic!("{lines:?} where the keyring is there: {there}"),
        }
    }

    #[test]
    fn only_updates_can_be_done_without() {
        let source = Source::debian("trixie");
        assert!(!source.lines(false).unwrap().iter().any(|l| l.contains("trixie-")));
        let failed = |lines: &[&str]| CommandError::Failed {
            doing: String::new(),
            program: "apt-get".to_owned(),
            status: std::os::unix::process::ExitStatusExt::from_raw(256),
            lines: lines.iter().map(|&l| l.to_owned()).collect(),
            log: "/log".into(),
        };
        let security = "E: Failed to fetch http://m/dists/trixie-security/main/binary-riscv64/Packages.xz  File has unexpected size";
        let updates = "E: The repository 'http://m/debian trixie-updates Release' does not have a Release file.";
        let base = "E: The repository 'http://m/debian trixie Release' does not have a Release file.";
        assert!(source.can_do_without_updates(&failed(&["W: noise", security, updates, "E: Some index files failed"])));
        assert!(!source.can_do_without_updates(&failed(&[security, base])));
        assert!(!source.can_do_without_updates(&failed(&["E: out of memory"])));
        assert!(!source.can_do_without_updates(&failed(&[])));
    }

    #[test]
    fn nothing_slips_into_the_sources() {
        for release in ["", "a b", "a\ndeb http://evil/ x main", "[trusted=yes]"] {
            assert!(Source::debian(release).lines(true).is_err(), "{release}");
        }
        for mirror in
            ["bookworm", "http://x/ y", "deb http://x/ y main\ndeb http://z/ y main", "http://x/ [trusted=yes]"]
        {
            let source = Source { mirrors: vec![mirror.to_owned()], ..Source::debian("bookworm") };
            assert!(source.lines(true).is_err(), "{mirror}");
        }
        let source = Source { keyring: Some("/nonexistent.gpg".into()), ..Source::debian("bookworm") };
        assert!(source.lines(true).unwrap_err().to_string().contains("/nonexistent.gpg"));
    }

    #[test]
    fn a_stanza_is_read() {
        let text = "Package: linux-headers-6.1.0-50-amd64\nSource: linux\nVersion: 6.1.176-1\nArchitecture: amd64\n\
             Depends: linux-headers-6.1.0-50-common (= 6.1.176-1), linux-kbuild-6.1:any (>= 6.1.176-1), gcc-12 | gcc\n\
             Size: 1688232\n\nPackage: older\nVersion: 1\n";
        let package = parse(text).unwrap();
        assert_eq!(package.name, "linux-headers-6.1.0-50-amd64");
        assert_eq!(package.depends, ["linux-headers-6.1.0-50-common", "linux-kbuild-6.1", "gcc-12"]);
        assert_eq!((package.version.as_str(), package.size), ("6.1.176-1", 1688232));
        assert_eq!(parse(""), None);
    }
}
