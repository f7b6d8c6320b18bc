//! The host's programs, headers and files: whether each is installed, and which package of a
//! distribution has it. Not for running programs (`command`), nor for which work needs which of
//! them.

pub mod table;

use quiz_arch::Packages;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A family of distributions that share package names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Debian, Ubuntu and relatives.
    Debian,
    /// Fedora, RHEL and relatives.
    Fedora,
    /// Arch Linux and relatives.
    Arch,
    /// openSUSE and SLES.
    Suse,
    /// Alpine.
    Alpine,
}

/// What shows that a tool is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// A program of this name.
    Program(&'static str),
    /// A header of a library, relative to an include directory.
    Header(&'static str),
    /// A file at this path.
    File(&'static str),
    /// A module that `python3` can import.
    PythonModule(&'static str),
    /// A registration with binfmt_misc, by its name. With it, the kernel starts an emulator for
    /// programs of another architecture.
    Emulator(&'static str),
}

/// Something that must be installed on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// What shows that it is installed.
    pub sign: Sign,
    /// What it does, in a few words.
    pub does: &'static str,
    /// The packages that have it, indexed by [`Family`].
    pub packages: Packages,
}

impl Tool {
    /// The name of the package in a family's repositories, if it has one.
    pub fn package(&self, family: Family) -> Option<&'static str> {
        Some(self.packages[family as usize]).filter(|p| !p.is_empty())
    }

    /// The program's or library's name, for messages.
    pub fn name(&self) -> &'static str {
        match self.sign {
            Sign::Program(name) | Sign::Header(name) | Sign::File(name) => name,
            Sign::PythonModule(name) | Sign::Emulator(name) => name,
        }
    }
}

/// The directory in which the kernel lists its binfmt_misc registrations.
pub const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";

/// The id of the host's current boot. Files that were not flushed to the disk are valid only in the
/// same boot.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn boot_id() -> std::io::Result<String> {
    Ok(fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Those of `tools` that are missing, without duplicates. `present` returns whether a tool is
/// installed; normally it is [`Search::has`].
pub fn missing(tools: impl IntoIterator<Item = Tool>, present: impl Fn(Sign) -> bool) -> Vec<Tool> {
    let mut all = Vec::new();
    for tool in tools {
        if !present(tool.sign) && !all.contains(&tool) {
            all.push(tool);
        }
    }
    all
}

/// Looks for tools in given directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    programs: Vec<PathBuf>,
    headers: Vec<PathBuf>,
}

impl Search {
    /// `path` is a value of `$PATH`. The system's `sbin` directories, which may have `depmod` and
    /// `mke2fs`, are always searched too.
    pub fn new(path: &OsStr) -> Search {
        let mut programs: Vec<PathBuf> = std::env::split_paths(path).collect();
        programs.extend(SBIN.iter().map(PathBuf::from));
        let mut headers = vec![PathBuf::from("/usr/include"), PathBuf::from("/usr/local/include")];
        // Debian's multiarch directories (`x86_64-linux-gnu`) hold some headers.
        if let Ok(found) = fs_err::read_dir("/usr/include") {
            headers.extend(found.flatten().map(|i| i.path()).filter(|p| p.to_string_lossy().contains("-linux-gnu")));
        }
        Search { programs, headers }
    }

    /// The path of a program; `None` if it is not installed.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        self.programs.iter().map(|dir| dir.join(name)).find(|p| is_executable(p))
    }

    /// Whether a tool is installed.
    pub fn has(&self, sign: Sign) -> bool {
        match sign {
            Sign::Program(name) => self.program(name).is_some(),
            Sign::Header(name) => self.headers.iter().any(|dir| dir.join(name).exists()),
            Sign::File(path) => Path::new(path).exists(),
            Sign::Emulator(name) => Path::new(BINFMT_MISC).join(name).exists(),
            Sign::PythonModule(name) => self.program("python3").is_some_and(|python| {
                let mut import = Command::new(python);
                import.args(["-c", &format!("import {name}")]);
                let status = import.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
                status.is_ok_and(|status| status.success())
            }),
        }
    }
}

const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The path of a program that may be in an `sbin` directory. Ordinary users do not have these in
/// `$PATH`. Returns the plain name if it is in none.
pub fn in_sbin(name: &str) -> PathBuf {
    SBIN.iter().map(|dir| Path::new(dir).join(name)).find(|p| is_executable(p)).unwrap_or_else(|| name.into())
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// What `/etc/os-release` says about the user's distribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// The distribution's name ("Debian GNU/Linux 12 (bookworm)").
    pub name: String,
    /// The family whose package names it uses; `None` if unknown.
    pub family: Option<Family>,
}

impl Distribution {
    /// Reads the text of an `os-release` file.
    pub fn from_os_release(text: &str) -> Distribution {
        let field = |name: &str| {
            text.lines().find_map(|line| {
                let (key, value) = line.trim().split_once('=')?;
                (key == name).then(|| value.trim_matches(['"', '\'']).to_owned())
            })
        };
        let ids = format!("{} {}", field("ID").unwrap_or_default(), field("ID_LIKE").unwrap_or_default());
        let family = ids.split_whitespace().find_map(|id| match id {
            "debian" | "ubuntu" => Some(Family::Debian),
            "fedora" | "rhel" | "centos" => Some(Family::Fedora),
            "arch" => Some(Family::Arch),
            "suse" | "opensuse" | "sles" => Some(Family::Suse),
            id if id.starts_with("opensuse") => Some(Family::Suse),
            "alpine" => Some(Family::Alpine),
            _ => None,
        });
        Distribution {
            name: field("PRETTY_NAME").or_else(|| field("NAME")).unwrap_or_else(|| "Linux".to_owned()),
            family,
        }
    }
}

/// One command that installs `tools` on the distribution. If its family is unknown, a sentence that
/// lists the tools.
pub fn install_hint(distribution: &Distribution, tools: &[Tool]) -> String {
    let Some(family) = distribution.family else {
        let names: Vec<_> = tools.iter().map(|t| t.name()).collect();
        return format!("install what provides: {}", names.join(", "));
    };
    let mut packages: Vec<&str> = Vec::new();
    let mut without: Vec<&str> = Vec::new();
    for tool in tools {
        match tool.package(family) {
            Some(names) => packages.extend(names.split(' ')),
            None => without.push(tool.name()),
        }
    }
    packages.sort_unstable();
    packages.dedup();
    let install = match family {
        Family::Debian => "sudo apt-get install",
        Family::Fedora => "sudo dnf install",
        Family::Arch => "sudo pacman -S",
        Family::Suse => "sudo zypper install",
        Family::Alpine => "sudo apk add",
    };
    let mut parts = Vec::new();
    if !packages.is_empty() {
        parts.push(format!("{install} {}", packages.join(" ")));
    }
    if !without.is_empty() {
        parts.push(format!("{} has no package of: {}", distribution.name, without.join(", ")));
    }
    parts.join("; ")
}

/// For an error about a missing program: the packages that have it, to be appended to the sentence.
/// Empty if unknown.
pub(crate) fn advice(program: &str) -> String {
    // Some programs are in the package of another program of the table.
    let listed = match program {
        "apt-cache" | "apt-config" => "apt-get",
        "dpkg" => "dpkg-deb",
        "mksquashfs" => "sqfstar",
        program => program,
    };
    match table::find(listed) {
        Some(tool) => format!("; install the package that has it (Debian and Ubuntu: {})", tool.packages[0]),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(id: &str) -> Distribution {
        Distribution::from_os_release(&format!("NAME=x\n{id}\n"))
    }

    #[test]
    fn distributions_are_known_by_id_or_relatives() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nID=debian\n";
        assert_eq!(
            Distribution::from_os_release(debian),
            Distribution { name: "Debian GNU/Linux 12 (bookworm)".to_owned(), family: Some(Family::Debian) }
        );
        for (text, family) in [
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"", Some(Family::Debian)),
            ("ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"", Some(Family::Fedora)),
            ("ID=opensuse-tumbleweed\nID_LIKE='opensuse suse'", Some(Family::Suse)),
            ("ID=arch", Some(Family::Arch)),
            ("ID=alpine", Some(Family::Alpine)),
            ("ID=plan9", None),
        ] {
            assert_eq!(distribution(text).family, family, "{text}");
        }
    }

    /// Programs that every distribution's smallest system has.
    const ALWAYS: &[&str] = &["sh", "true", "cat", "id", "sleep", "touch"];

    /// A program that quiz, its tests or its benchmarks start by name and that the table lacks is
    /// missing on the next fresh machine.
    #[test]
    fn every_program_that_is_started_by_name_is_in_the_table() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let mut unknown = Vec::new();
        for dir in ["crates", "xtask"] {
            for file in sources(&top.join(dir)) {
                let text = fs_err::read_to_string(&file).unwrap();
                for start in ["Command::new(\"", "in_sbin(\""] {
                    for rest in text.split(start).skip(1) {
                        let name = rest.split('"').next().unwrap();
                        // Paths are the guest's, and these two are not to be found; set-up itself
                        // takes what it finds.
                        let exempt =
                            name.contains('/') || name.contains("no-such") || ["rustup", "sudo"].contains(&name);
                        if !exempt && !ALWAYS.contains(&name) && advice(name).is_empty() {
                            unknown.push(format!("{name} ({})", file.display()));
                        }
                    }
                }
            }
        }
        assert!(unknown.is_empty(), "not in the table of host tools: {}", unknown.join(", "));
    }

    /// The Rust sources below `dir`, the guest's agent left out.
    fn sources(dir: &Path) -> Vec<PathBuf> {
        let entries = fs_err::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        let below = dirs.iter().filter(|dir| !dir.ends_with("quiz-agent")).flat_map(|dir| sources(dir));
        files.into_iter().filter(|file| file.extension() == Some(OsStr::new("rs"))).chain(below).collect()
    }

    #[test]
    fn programs_are_found_where_the_path_says() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("flex");
        fs_err::write(&file, "").unwrap();
        let search = Search::new(dir.path().as_os_str());
        let nowhere = Search::new(OsStr::new(""));
        assert_eq!(search.program("flex"), nowhere.program("flex"), "not executable");
        fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(search.program("flex"), Some(file));
        assert!(!search.has(Sign::Program("quiz-no-such-program")));
        assert!(!search.has(Sign::File("/nonexistent")));
    }
}
