//! Configures a kernel that quiz builds. quiz's own fragments are applied to `allnoconfig`, then
//! the user's settings are added, then the request is compared with the result. Not for the text of
//! fragments (`fragment`).
//!
//! The two steps are intentional. quiz's fragments are given to `allnoconfig`, so that everything
//! they do not name is off, in every version. The user's settings go through `olddefconfig`, so
//! that newly visible options get their author's defaults. `-e KASAN` then works without knowledge
//! of KASAN's sub-options.

use std::io;
use std::path::Path;

use fs_err as fs;
use quiz_arch::Arch;
use serde::{Deserialize, Serialize};

use super::fragment::{Asked, Edit, Fragment, FragmentError, Lost, Outcome, Value};
use super::kconfig::{self, Kconfig};
use super::make::{Make, MakeError};
use super::tree::Tree;
use quiz_host::digest;
use quiz_host::report::{Progress, Report, Unit};

/// Why a kernel could not be configured.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A fragment or an edit is invalid.
    #[error(transparent)]
    Fragment(#[from] FragmentError),
    /// The kernel's own tools failed.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// A file could not be read or written.
    #[error("cannot configure the kernel: {0}")]
    Io(#[from] io::Error),
    /// quiz has no fragment of this name.
    #[error("quiz has no configuration fragment `{name}`; it has {}, and takes files by their path", known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// The names that exist.
        known: Vec<&'static str>,
    },
    /// With `strict`: an option differs from the request.
    #[error("the kernel cannot be configured as asked:\n  {}", lines.join("\n  "))]
    Lost {
        /// One line for each option.
        lines: Vec<String>,
    },
}

/// A built-in fragment.
struct Builtin {
    name: &'static str,
    text: &'static str,
}

macro_rules! builtin {
    ($name:literal) => {
        Builtin { name: $name, text: include_str!(concat!("config/", $name, ".config")) }
    };
}

static BASE: Builtin = builtin!("base");

/// Fragments for a range of versions: from the first version up to, but not including, the second.
static VERSIONS: &[(Series, Series, Builtin)] = &[
    ((5, 1), END, builtin!("since-5.1")),
    ((5, 4), END, builtin!("since-5.4")),
    ((5, 6), END, builtin!("since-5.6")),
    ((5, 9), END, builtin!("since-5.9")),
    ((5, 16), END, builtin!("since-5.16")),
    ((0, 0), (5, 18), builtin!("before-5.18")),
    ((5, 18), END, builtin!("since-5.18")),
    ((0, 0), (6, 2), builtin!("before-6.2")),
    ((6, 2), END, builtin!("since-6.2")),
    ((6, 5), END, builtin!("since-6.5")),
    ((6, 6), END, builtin!("since-6.6")),
    ((6, 8), END, builtin!("since-6.8")),
    ((6, 10), END, builtin!("since-6.10")),
    ((0, 0), (6, 16), builtin!("before-6.16")),
];

const END: Series = (u32::MAX, 0);

/// The first two numbers of a version.
type Series = (u32, u32);

/// The fragments that a user may request by name.
static OPTIONAL: &[Builtin] = &[builtin!("debug"), builtin!("kasan"), builtin!("lockdep"), builtin!("trace")];

impl Builtin {
    fn fragment(&self) -> Fragment {
        Fragment { name: format!("quiz's {} fragment", self.name), text: self.text.to_owned() }
    }
}

/// The names of the fragments that a user may request, each with its purpose.
pub fn optional() -> Vec<(&'static str, &'static str)> {
    let about = |b: &Builtin| b.text.lines().next().unwrap_or("").trim_start_matches(['#', ' ']);
    OPTIONAL.iter().map(|b| (b.name, about(b))).collect()
}

/// The fragment that `name` stands for: a built-in one, else a file.
pub fn named(name: &str) -> Result<Fragment, ConfigError> {
    if let Some(builtin) = OPTIONAL.iter().find(|b| b.name == name) {
        return Ok(Fragment { name: builtin.name.to_owned(), text: builtin.text.to_owned() });
    }
    let path = Path::new(name);
    if !name.contains('/') && !path.exists() && path.extension().is_none() {
        return Err(ConfigError::Unknown { name: name.to_owned(), known: OPTIONAL.iter().map(|b| b.name).collect() });
    }
    Ok(Fragment::file(path)?)
}

/// The settings that quiz itself requests for a kernel of `series` on `arch`.
fn own(arch: &Arch, series: (u32, u32)) -> Result<Asked, FragmentError> {
    let mut asked = Asked::default();
    asked.fragment(&BASE.fragment())?;
    for (since, before, builtin) in VERSIONS {
        if (*since..*before).contains(&series) {
            asked.fragment(&builtin.fragment())?;
        }
    }
    asked.fragment(&Builtin { name: arch.name, text: arch.kernel_config }.fragment())?;
    Ok(asked)
}

/// All settings that quiz may request for a kernel on `arch`, for any version.
pub(crate) fn own_inputs(arch: &Arch) -> String {
    let versions = VERSIONS.iter().map(|(since, before, builtin)| format!("{since:?} {before:?} {}\n", builtin.text));
    std::iter::once(BASE.text.to_owned()).chain(versions).chain([arch.kernel_config.to_owned()]).collect()
}

/// The user's fragments and edits, combined.
pub(crate) fn user(fragments: &[Fragment], edits: &[Edit]) -> Result<Asked, FragmentError> {
    let mut user = Asked::default();
    for fragment in fragments {
        user.fragment(fragment)?;
    }
    for edit in edits {
        user.edit(edit)?;
    }
    Ok(user)
}

/// A finished configuration, with messages about options that differ from the request.
#[derive(Debug)]
pub(crate) struct Configured {
    pub outcome: Outcome,
    pub remarks: Vec<String>,
}

/// The user's request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes<'a> {
    /// In order; a later one overrides an earlier one.
    pub fragments: &'a [Fragment],
    /// Applied after the fragments.
    pub edits: &'a [Edit],
    /// Whether an option that differs from the request is an error.
    pub strict: bool,
    /// The text after the version in `uname -r`, unless the user sets it. `None` leaves it to the
    /// tree.
    pub localversion: Option<&'a str>,
}

/// Configures the kernel in `make`'s build directory, and reports the names of options that differ
/// from the request to `report`.
pub(crate) fn configure(
    make: &Make<'_>,
    tree: &Tree,
    wishes: Wishes<'_>,
    report: &dyn Report,
) -> Result<Configured, ConfigError> {
    let progress = report.start("configuring the kernel", None, Unit::None);
    let mut own = own(make.arch, tree.series)?;
    if let Some(suffix) = wishes.localversion {
        own.set("LOCALVERSION", Value::Text(format!("\"{suffix}\"")), "quiz");
    }
    let user = user(wishes.fragments, wishes.edits)?;
    let srcarch = tree.srcarch(make.arch.kernel_arch);
    let stamp = Stamp::of(make, &own, &user, wishes.strict, &kconfig::state(&tree.path, &srcarch));
    if let Some(remarks) = stamp.known(make.output) {
        remarks.iter().for_each(|line| report.say(line));
        progress.done();
        let outcome = Outcome::read(&fs::read_to_string(make.output.join(".config"))?);
        return Ok(Configured { outcome, remarks });
    }
    let (before, after) = run(make, &own, &user, progress.as_ref())?;
    progress.done();
    let remarks = compare(own, &user, &before, &after, wishes.strict, || Kconfig::scan(&tree.path, &srcarch))?;
    remarks.iter().for_each(|line| report.say(line));
    stamp.write(make.output, remarks.clone())?;
    Ok(Configured { outcome: after, remarks })
}

/// Runs both steps. Returns the configuration before and after the user's settings.
fn run(make: &Make<'_>, own: &Asked, user: &Asked, progress: &dyn Progress) -> Result<(Outcome, Outcome), ConfigError> {
    let doing = "configure the kernel";
    Stamp::remove(make.output);
    let all = make.output.join("quiz.config");
    fs::write(&all, own.text())?;
    make.run(&[&format!("KCONFIG_ALLCONFIG={}", all.display()), "allnoconfig"], doing, progress)?;
    let config = make.output.join(".config");
    let text = fs::read_to_string(&config)?;
    let before = Outcome::read(&text);
    if user.is_empty() {
        return Ok((before.clone(), before));
    }
    fs::write(&config, user.over(&text))?;
    make.run(&["olddefconfig"], doing, progress)?;
    Ok((before, Outcome::read(&fs::read_to_string(&config)?)))
}

/// Messages about options that differ from the request.
fn compare(
    own: Asked,
    user: &Asked,
    before: &Outcome,
    after: &Outcome,
    strict: bool,
    scan: impl FnOnce() -> Kconfig,
) -> Result<Vec<String>, ConfigError> {
    let (lost, ours) = (user.lost(after), own.lost(before));
    if lost.is_empty() && ours.is_empty() && user.is_empty() {
        return Ok(Vec::new());
    }
    let kconfig = scan();
    let theirs: Vec<String> = lost.iter().map(|l| line(l, &kconfig, after)).collect();
    if strict && !theirs.is_empty() {
        return Err(ConfigError::Lost { lines: theirs });
    }
    // Vendors' trees have options of other versions than their number indicates. Options that the
    // source does not have are not reported as missing.
    let mut lines: Vec<String> =
        ours.iter().filter(|l| kconfig.knows(&l.key)).map(|l| line(l, &kconfig, before)).collect();
    lines.extend(theirs);
    let already: Vec<&str> = ours.iter().map(|l| l.key.as_str()).collect();
    let gone: Vec<String> = own
        .without(user)
        .lost(after)
        .into_iter()
        .map(|l| l.key)
        .filter(|key| !already.contains(&key.as_str()) && kconfig.knows(key))
        .collect();
    if !gone.is_empty() {
        lines.push(format!("your changes to the configuration also undo these of quiz's own: {}", gone.join(", ")));
    }
    Ok(lines)
}

/// Records the inputs of a build directory's configuration. If they are unchanged, quiz skips
/// configuring, and an edit of the source is compiled some seconds sooner.
#[derive(Debug, Serialize, Deserialize)]
struct Stamp {
    /// Digest of all inputs.
    asked: String,
    /// Digest of the resulting `.config`.
    config: String,
    /// The messages about it.
    lines: Vec<String>,
}

const STAMP: &str = "quiz.stamp";

impl Stamp {
    fn of(make: &Make<'_>, own: &Asked, user: &Asked, strict: bool, kconfig: &str) -> Stamp {
        let (own, user) = (own.text(), user.text());
        let tools = (make.source, make.arch.name, make.cross, make.llvm, make.prefix);
        let asked = digest::of_bytes(format!("{tools:?} {strict} {kconfig}\n{own}\n{user}").as_bytes());
        Stamp { asked, config: String::new(), lines: Vec::new() }
    }

    /// The messages of the last configuration, if the inputs and the resulting `.config` are
    /// unchanged.
    fn known(&self, output: &Path) -> Option<Vec<String>> {
        let old: Stamp = serde_json::from_slice(&fs::read(output.join(STAMP)).ok()?).ok()?;
        let same = old.asked == self.asked && digest::of_file(&output.join(".config")).ok()? == old.config;
        same.then_some(old.lines)
    }

    fn remove(output: &Path) {
        let _absent = fs::remove_file(output.join(STAMP));
    }

    fn write(self, output: &Path, lines: Vec<String>) -> io::Result<()> {
        let stamp = Stamp { config: digest::of_file(&output.join(".config"))?, lines, ..self };
        fs::write(output.join(STAMP), serde_json::to_vec(&stamp)?)
    }
}

fn line(lost: &Lost, kconfig: &Kconfig, outcome: &Outcome) -> String {
    let reason = kconfig.reason(lost, outcome).map_or_else(String::new, |reason| format!(", because {reason}"));
    format!("kernel option {}={} (asked for by {}) came out as {}{reason}", lost.key, lost.asked, lost.by, lost.got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Version;
    use quiz_host::report::Silent;
    use std::num::NonZeroUsize;
    use std::sync::Mutex;

    #[test]
    fn every_fragment_can_be_read() {
        let of_arch: Vec<_> =
            quiz_arch::ALL.iter().map(|arch| Builtin { name: arch.name, text: arch.kernel_config }).collect();
        let versions = VERSIONS.iter().map(|(.., builtin)| builtin);
        for builtin in [&BASE].into_iter().chain(&of_arch).chain(OPTIONAL).chain(versions) {
            assert!(!builtin.fragment().settings().unwrap().is_empty(), "{}", builtin.name);
        }
    }

    #[test]
    fn versions_get_what_they_have() {
        let x86 = quiz_arch::find("x86_64").unwrap();
        let has = |series, line: &str| own(x86, series).unwrap().text().lines().any(|l| l == line);
        let erofs = "CONFIG_EROFS_FS=y";
        assert!(!has((4, 18), erofs) && !has((5, 3), erofs) && has((5, 4), erofs) && has((7, 1), erofs));
        let old = "CONFIG_CRYPTO_MANAGER_DISABLE_TESTS=y";
        assert!(has((4, 18), old) && has((6, 15), old) && !has((6, 16), old) && !has((7, 0), old));
        let decompressors = "CONFIG_SQUASHFS_COMPILE_DECOMP_MULTI_PERCPU=y";
        assert!(!has((6, 1), decompressors) && has((6, 2), decompressors));
        let (switch, choice) = ("CONFIG_DEBUG_INFO=y", "CONFIG_DEBUG_INFO_DWARF5=y");
        assert!(has((5, 17), switch) && !has((5, 17), choice) && !has((5, 18), switch) && has((5, 18), choice));
    }

    #[test]
    fn what_openzfs_cannot_do_without_is_there() {
        for arch in quiz_arch::ALL {
            let text = own(arch, (6, 12)).unwrap().text();
            for option in
                ["MODULES", "BLOCK", "KALLSYMS", "CRYPTO_DEFLATE", "EFI_PARTITION", "MISC_FILESYSTEMS", "FILE_LOCKING"]
            {
                assert!(text.contains(&format!("CONFIG_{option}=y\n")), "{}: {option}", arch.name);
            }
        }
    }

    #[test]
    fn fragments_are_found_by_name_or_path() {
        assert!(named("debug").unwrap().text.contains("CONFIG_DEBUG_LIST"));
        let error = named("nosuch").unwrap_err().to_string();
        assert!(error.contains("`nosuch`") && error.contains("kasan"), "{error}");
        assert!(matches!(named("./nosuch.config"), Err(ConfigError::Fragment(FragmentError::Read(_)))));
        assert!(optional().iter().all(|(_, about)| !about.is_empty()));
    }

    #[derive(Default)]
    struct Said(Mutex<Vec<String>>);

    impl Report for Said {
        fn say(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
        fn start(&self, _what: &str, _total: Option<u64>, _unit: Unit) -> Box<dyn Progress> {
            Box::new(Silent)
        }
    }

    /// A source whose configuration tool knows EXT4_FS, which needs BLOCK, and drops all options
    /// that are not in a list.
    fn source(dir: &Path) -> Tree {
        let makefile = "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\n\
            KEEP = grep -vE 'EXT2|BAD' | { if grep -q '^CONFIG_BLOCK=y' $(1); then cat; else grep -v EXT4_FS; fi; }\n\
            allnoconfig:\n\tcp $(KCONFIG_ALLCONFIG) $(O)/in; cat $(O)/in | $(call KEEP,$(O)/in) > $(O)/.config\n\
            olddefconfig:\n\tcp $(O)/.config $(O)/in; cat $(O)/in | $(call KEEP,$(O)/in) > $(O)/.config\n";
        super::super::tree::tests::fake(dir, makefile);
        let kconfig: String = own(quiz_arch::find("x86_64").unwrap(), (6, 12))
            .unwrap()
            .text()
            .lines()
            .filter_map(|l| l.strip_prefix("CONFIG_")?.split('=').next())
            .map(|key| {
                format!("config {key}\n\tbool \"x\"\n{}", if key == "EXT4_FS" { "\tdepends on BLOCK\n" } else { "" })
            })
            .collect();
        fs::write(dir.join("Kconfig"), kconfig).unwrap();
        Tree::open(dir).unwrap()
    }

    fn configured(edits: &[&str], strict: bool) -> (Result<Outcome, ConfigError>, Vec<String>) {
        configured_in(tempfile::tempdir().unwrap().path(), edits, strict)
    }

    fn configured_in(dir: &Path, edits: &[&str], strict: bool) -> (Result<Outcome, ConfigError>, Vec<String>) {
        let (source_dir, output) = (dir.join("src"), dir.join("out"));
        fs::create_dir_all(&output).unwrap();
        let tree = if source_dir.exists() { Tree::open(&source_dir).unwrap() } else { source(&source_dir) };
        assert_eq!(tree.version, "6.12.1".parse::<Version>().unwrap());
        let make = Make {
            source: &tree.path,
            output: &output,
            arch: quiz_arch::find("x86_64").unwrap(),
            cross: false,
            llvm: false,
            prefix: &[],
            jobs: NonZeroUsize::MIN,
            environment: &quiz_host::Environment::default(),
            log: &dir.join("log"),
        };
        let edits: Vec<Edit> = edits.iter().map(|e| Edit::set(e).unwrap()).collect();
        let said = Said::default();
        let wishes = Wishes { fragments: &[], edits: &edits, strict, localversion: Some("-quiz") };
        let configured = configure(&make, &tree, wishes, &said);
        let said = said.0.into_inner().unwrap();
        if let Ok(configured) = &configured {
            assert_eq!(configured.remarks, said);
        }
        (configured.map(|configured| configured.outcome), said)
    }

    #[test]
    fn what_came_out_otherwise_is_told_once_and_by_name() {
        // The fake tool drops one of quiz's own options. That is quiz's fault, and reported even
        // without a request.
        let (outcome, said) = configured(&[], false);
        assert_eq!(outcome.unwrap().value("LOCALVERSION").to_string(), "\"-quiz\"");
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with("kernel option EXT4_USE_FOR_EXT2=y (asked for by quiz's base fragment)"),
            "{said:?}"
        );

        let (outcome, said) = configured(&["BAD=y", "BLOCK=n", "LOCALVERSION=-mine"], false);
        assert_eq!(outcome.unwrap().value("LOCALVERSION").to_string(), "\"-mine\"");
        assert_eq!(said.len(), 3, "{said:?}");
        assert_eq!(
            said[1],
            "kernel option BAD=y (asked for by the command line) came out as n, because this source has no such option"
        );
        assert!(
            said[2].starts_with("your changes") && said[2].contains("EXT4_FS") && !said[2].contains("EXT2"),
            "{said:?}"
        );

        let error = configured(&["BAD=y"], true).0.unwrap_err().to_string();
        assert!(error.contains("BAD=y"), "{error}");
        assert!(configured(&["BLOCK=y"], true).0.is_ok());
    }

    #[test]
    fn nothing_is_configured_again_until_something_changes() {
        let dir = tempfile::tempdir().unwrap();
        let made = || fs::metadata(dir.path().join("out/in")).unwrap().modified().unwrap();
        let (first, said) = configured_in(dir.path(), &["BAD=y"], false);
        let time = made();
        let (second, again) = configured_in(dir.path(), &["BAD=y"], false);
        assert_eq!((first.unwrap(), said), (second.unwrap(), again));
        assert_eq!(made(), time);
        for (edit, strict) in [("BLOCK=n", false), ("BLOCK=y", true)] {
            let time = made();
            configured_in(dir.path(), &[edit], strict).0.unwrap();
            assert!(made() > time, "{edit}");
        }
        let time = made();
        fs::write(dir.path().join("out/.config"), "").unwrap();
        configured_in(dir.path(), &["BLOCK=y"], true).0.unwrap();
        assert!(made() > time);
        let time = made();
        fs::write(dir.path().join("src/Kconfig"), "config OTHER\n\tbool \"x\"\n").unwrap();
        configured_in(dir.path(), &["BLOCK=y"], true).0.unwrap();
        assert!(made() > time);
    }
}
