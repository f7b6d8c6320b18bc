//! Whole builds of a source whose build system is a few lines of make. All steps except compiling
//! are as in a real build.

use super::archive::tests::{tar, xz};
use super::fetch::tests::{Server, quick};
use super::*;
use crate::kernel::Boot;
use crate::trusted::Trusted;
use quiz_arch::Arch;
use quiz_host::report::Silent;
use quiz_host::store::Cache;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::SystemTime;
use walkdir::WalkDir;

/// Handles the targets that quiz builds. It has neither PVH nor modules, so the image is a bzImage
/// and depmod is not needed.
const MAKEFILE: &str = r#"VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = 0
EXTRAVERSION =
ifeq ($(ARCH),x86_64)
        SRCARCH := x86
endif
allnoconfig:
	@grep -v 'PVH\|MODULES' $(KCONFIG_ALLCONFIG) > $(O)/.config
olddefconfig:
	@sed -i /CONFIG_BAD=/d $(O)/.config
vmlinux: $(O)/main.o
	@mkdir -p $(O)/include/config $(O)/include/generated $(O)/scripts $(O)/arch/x86/include/generated
	@echo "6.12.0`sed -n 's/CONFIG_LOCALVERSION="\(.*\)"/\1/p' $(O)/.config`" > $(O)/include/config/kernel.release
	@echo '  LD      vmlinux'; cp $(O)/main.o $(O)/vmlinux; echo map > $(O)/System.map
	@echo x > $(O)/Module.symvers; echo x > $(O)/include/generated/autoconf.h; echo x > $(O)/scripts/fixdep
bzImage: vmlinux
	@mkdir -p $(O)/arch/x86/boot; cp $(O)/vmlinux $(O)/arch/x86/boot/bzImage
$(O)/main.o: main.c
	@echo '  CC      main.o'
	@if [ -n "$$HOME" ]; then echo x >> "$$HOME/compiled"; while [ -e "$$HOME/hold" ]; do sleep 0.05; done; fi
	@if grep -q broken main.c; then echo "main.c:1:1: error: it is broken" >&2; exit 1; fi; cp main.c $@
"#;

fn files(main: &str) -> Vec<(&'static str, String)> {
    let mut files = vec![("Makefile", MAKEFILE.to_owned()), ("main.c", main.to_owned())];
    for empty in
        ["Kconfig", "scripts/kconfig/conf.c", "include/linux/fs.h", "arch/x86/Makefile", "arch/x86/include/asm/a.h"]
    {
        files.push((empty, String::new()));
    }
    files
}

fn write(dir: &Path, main: &str) {
    for (path, text) in files(main) {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn x86() -> &'static Arch {
    quiz_arch::find("x86_64").unwrap()
}

struct Here {
    dir: tempfile::TempDir,
    cache: Cache,
}

impl Here {
    fn new() -> Here {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache"));
        Here { dir, cache }
    }

    fn build(&self, request: &BuildRequest) -> Result<Kernel, BuildError> {
        build_with(&self.cache, request, &quick(), &Silent)
    }

    fn work(&self) -> usize {
        let found = fs::read_dir(self.cache.shelf("work").dir()).unwrap().flatten();
        found.filter(|f| !f.file_name().to_string_lossy().starts_with('.')).count()
    }

    fn names(&self) -> Vec<String> {
        kernel::shelf(&self.cache).names().unwrap()
    }
}

/// The suffix that a kernel for x86_64 has on this host.
fn suffix() -> String {
    BuildRequest::new(x86(), Source::Tree { path: PathBuf::new() }).suffix()
}

#[test]
fn a_release_is_fetched_built_and_cleaned_up_after() {
    let (here, server) = (Here::new(), Server::start());
    let named: Vec<(String, String)> = files("one").into_iter().map(|(p, t)| (format!("linux-6.12/{p}"), t)).collect();
    let borrowed: Vec<(&str, &str)> = named.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
    let archive = xz(&tar(&borrowed));
    let sum = quiz_host::digest::of_bytes(&archive);
    server.put("/v6.x/linux-6.12.tar.xz", &archive);
    let mut request = BuildRequest::new(x86(), Source::parse("6.12", "bookworm").unwrap());
    request.trust.sha256 = Some(sum.clone());
    request.mirrors.releases = server.url.clone();
    let kernel = here.build(&request).unwrap();
    let manifest = &kernel.manifest;
    assert_eq!(manifest.name, format!("6.12.0{}", suffix()));
    assert_eq!(manifest.release, format!("6.12.0-quiz{}", suffix()));
    assert_eq!((manifest.boot, manifest.boot_file.as_str()), (Boot::BzImage, "bzImage"));
    let url = format!("{}/v6.x/linux-6.12.tar.xz", server.url);
    assert_eq!(manifest.origin, Origin::Tarball { url, sha256: sum, trusted: Some(Trusted::Sha256) });
    for file in
        ["bzImage", "vmlinux", "System.map", "config", "build.json", "kbuild/Makefile", "kbuild/include/linux/fs.h"]
    {
        assert!(kernel.dir().join(file).is_file(), "{file}");
    }
    assert_eq!(kernel.kbuild(), Some(kernel.dir().join("kbuild")));
    assert_eq!(here.work(), 0);
    assert_eq!(Record::read(kernel.dir()).unwrap().objects, Some(2));

    // The user's name for the kernel shows in `uname -r`. With `keep`, the source stays while a
    // kernel can be rebuilt from it.
    let own = BuildRequest { name: Some("mine".to_owned()), keep: Some(true), ..request };
    let kernel = here.build(&own).unwrap();
    assert_eq!((kernel.name(), kernel.manifest.release.as_str()), ("mine", "6.12.0-quiz-mine"));
    assert_eq!((here.work(), prune_work(&here.cache, &Silent).unwrap(), here.work()), (1, 0, 1));
    drop(kernel);
    kernel::remove(&here.cache, "mine").unwrap();
    assert!(prune_work(&here.cache, &Silent).unwrap() > 0);
    assert_eq!(here.work(), 0);
}

#[test]
fn a_variant_has_a_name_and_a_release_of_its_own() {
    let here = Here::new();
    let tree = here.dir.path().join("linux");
    write(&tree, "one");
    let plain = BuildRequest::new(x86(), Source::Tree { path: tree });
    let fragments = vec![super::config::named("kasan").unwrap()];
    let variant = here.build(&BuildRequest { variant: Some("kasan".to_owned()), fragments, ..plain }).unwrap();
    assert_eq!(variant.name(), format!("tree-linux{}-kasan", suffix()));
    assert_eq!(variant.manifest.release, "6.12.0-kasan");
    assert_eq!(variant.option("KASAN").unwrap().as_deref(), Some("y"));
    assert_eq!(
        rebuild(&here.cache, &variant, None, false, Environment::default(), &Silent).unwrap().name(),
        variant.name()
    );
}

/// Collects the reported lines.
#[derive(Default)]
struct Lines(std::sync::Mutex<Vec<String>>);

impl Report for Lines {
    fn say(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
    fn start(&self, what: &str, total: Option<u64>, unit: Unit) -> Box<dyn quiz_host::report::Progress> {
        Silent.start(what, total, unit)
    }
}

impl Lines {
    fn has(&self, words: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line.contains(words))
    }
}

const ALREADY: &str = "is there already, built from the same source, configuration and compiler";

#[test]
fn the_same_inputs_are_built_once() {
    let (here, server) = (Here::new(), Server::start());
    let named: Vec<(String, String)> = files("one").into_iter().map(|(p, t)| (format!("linux-6.12/{p}"), t)).collect();
    let borrowed: Vec<(&str, &str)> = named.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
    let archive = xz(&tar(&borrowed));
    let sum = quiz_host::digest::of_bytes(&archive);
    server.put("/v6.x/linux-6.12.tar.xz", &archive);
    let mut request = BuildRequest::new(x86(), Source::parse("6.12", "bookworm").unwrap());
    request.trust.sha256 = Some(sum.clone());
    request.mirrors.releases = server.url.clone();
    // The Makefile drops this option.
    request.edits.push(Edit::Enable("BAD".to_owned()));
    let build = |request: &BuildRequest| {
        let lines = Lines::default();
        let kernel = build_with(&here.cache, request, &quick(), &lines).unwrap();
        let remark = "BAD=y (asked for by the command line) came out as n";
        assert!(lines.has(remark), "{lines:?}", lines = lines.0);
        (kernel.dir().to_owned(), lines.has(ALREADY))
    };
    let (first, already) = build(&request);
    assert!(!already);
    let asked = server.asked().len();
    // Nothing is requested from a server, and the archive is not needed.
    fs::remove_dir_all(here.cache.shelf("downloads").dir()).unwrap();
    let again = BuildRequest { jobs: NonZeroUsize::new(3), keep: Some(true), ..request.clone() };
    assert_eq!(build(&again), (first.clone(), true));
    let summed =
        BuildRequest { trust: Trust { sha256: Some(sum.to_uppercase()), ..Trust::default() }, ..request.clone() };
    assert_eq!(build(&summed), (first.clone(), true));
    assert_eq!((server.asked().len(), here.work()), (asked, 0));
    // A stricter request verifies the archive again and gets the same kernel.
    let mirror = BuildRequest {
        mirrors: Mirrors { next: "https://next.example.org".to_owned(), ..request.mirrors.clone() },
        ..request.clone()
    };
    assert_eq!(build(&mirror), (first.clone(), true));
    assert!(server.asked().len() > asked);
    assert_eq!(here.work(), 0, "nothing was unpacked");

    let (replaced, already) = build(&BuildRequest { replace: true, ..request.clone() });
    assert!(!already && replaced != first);
    let (other, already) = build(&BuildRequest {
        edits: vec![Edit::Enable("BAD".to_owned()), Edit::Enable("X".to_owned())],
        ..request.clone()
    });
    assert!(!already && other != replaced);
    // The second build has taken the name, so the first kernel no longer exists.
    assert!(!build(&request).1);
    let kernel = Kernel::from_entry(kernel::shelf(&here.cache).open(&here.names()[0]).unwrap().unwrap()).unwrap();
    let before = kernel.dir().to_owned();
    assert_eq!(rebuild(&here.cache, &kernel, None, false, Environment::default(), &Silent).unwrap().dir(), before);
    assert_ne!(rebuild(&here.cache, &kernel, None, true, Environment::default(), &Silent).unwrap().dir(), before);
    // The record of a kernel from an older quiz lacks its inputs.
    let kernel = Kernel::from_entry(kernel::shelf(&here.cache).open(&here.names()[0]).unwrap().unwrap()).unwrap();
    let record = Record { inputs: None, ..Record::read(kernel.dir()).unwrap() };
    record.write(kernel.dir()).unwrap();
    assert!(!build(&request).1);
}

/// A repository with one commit of a kernel.
fn repository(dir: &Path) -> String {
    let origin = dir.join("origin");
    write(&origin, "one");
    for args in [&["init", "-q", "--initial-branch=main"][..], &["add", "-A"], &["commit", "-q", "-m", "one"]] {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"];
        assert!(Command::new("git").args(identity).args(args).current_dir(&origin).status().unwrap().success());
    }
    format!("file://{}", origin.display())
}

/// How often the build compiled something.
fn compiled(dir: &Path) -> usize {
    fs::read_to_string(dir.join("compiled")).unwrap_or_default().lines().count()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + std::time::Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < until, "{what}: not within a minute");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Another building process: the test binary, started for the test of this name, which then only
/// builds.
struct Builder {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStderr>>,
    said: String,
}

impl Builder {
    fn start(test: &str, dir: &Path, options: &str) -> Builder {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("build::tests::{test}"), "--nocapture"]);
        command.env("QUIZ_TEST_DIR", dir).env("QUIZ_TEST_BUILD", options);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
        Builder { child, lines, said: String::new() }
    }

    /// Waits until it reports that it waits for `pid`.
    fn waits_for(&mut self, pid: u32) {
        let wanted = format!("waiting for quiz (pid {pid}), which is building kernel main of file://");
        for line in self.lines.by_ref().map_while(Result::ok) {
            self.said += &(line.clone() + "\n");
            if line.contains(&wanted) {
                return;
            }
        }
        panic!("it does not wait, but says: {}", self.said);
    }

    fn said(mut self) -> String {
        self.lines.map_while(Result::ok).for_each(|line| self.said += &(line + "\n"));
        assert!(self.child.wait().unwrap().success(), "{}", self.said);
        self.said
    }
}

/// The work of the other process.
fn build_here() -> bool {
    let (Some(dir), Ok(options)) = (std::env::var_os("QUIZ_TEST_DIR"), std::env::var("QUIZ_TEST_BUILD")) else {
        return false;
    };
    struct Loud;
    impl Report for Loud {
        fn say(&self, line: &str) {
            eprintln!("{line}");
        }
        fn start(&self, what: &str, total: Option<u64>, unit: Unit) -> Box<dyn quiz_host::report::Progress> {
            Silent.start(what, total, unit)
        }
    }
    let dir = PathBuf::from(dir);
    let source = Source::Git { url: format!("file://{}", dir.join("origin").display()), reference: "main".to_owned() };
    let mut request = BuildRequest::new(x86(), source);
    request.replace = options.contains("replace");
    // The build sees only this variable of the environment. It tells the Makefile where to note
    // that it compiles.
    request.environment = Environment::of(&[("HOME".into(), dir.clone().into())]);
    request.edits.extend(options.contains("edit").then(|| Edit::Enable("X".to_owned())));
    request.name = options.contains("edit").then(|| "other".to_owned());
    build_with(&Cache::at(dir.join("cache")), &request, &quick(), &Loud).unwrap();
    true
}

#[test]
fn who_waits_for_a_build_of_the_same_inputs_takes_it() {
    if build_here() {
        return;
    }
    let test = "who_waits_for_a_build_of_the_same_inputs_takes_it";
    let dir = tempfile::tempdir().unwrap();
    repository(dir.path());
    // In the second round all want a rebuild: a kernel that is built during the wait is new enough.
    for (round, options) in [(1, ""), (2, "replace")] {
        fs::write(dir.path().join("hold"), "").unwrap();
        let first = Builder::start(test, dir.path(), options);
        wait_until("the first compiles", || compiled(dir.path()) == round);
        let mut others: Vec<Builder> = (0..3).map(|_| Builder::start(test, dir.path(), options)).collect();
        others.iter_mut().for_each(|other| other.waits_for(first.child.id()));
        fs::remove_file(dir.path().join("hold")).unwrap();
        assert!(!first.said().contains(ALREADY));
        for other in others {
            let said = other.said();
            assert!(said.contains(ALREADY), "{said}");
        }
        assert_eq!(compiled(dir.path()), round);
        assert!(Builder::start(test, dir.path(), "").said().contains(ALREADY));
        fs::remove_dir_all(dir.path().join("cache/work")).unwrap();
    }
}

#[test]
fn who_waits_for_a_build_of_other_inputs_builds() {
    if build_here() {
        return;
    }
    let test = "who_waits_for_a_build_of_other_inputs_builds";
    let dir = tempfile::tempdir().unwrap();
    repository(dir.path());
    fs::write(dir.path().join("hold"), "").unwrap();
    let first = Builder::start(test, dir.path(), "");
    wait_until("the first compiles", || compiled(dir.path()) == 1);
    let mut other = Builder::start(test, dir.path(), "edit");
    other.waits_for(first.child.id());
    fs::remove_file(dir.path().join("hold")).unwrap();
    first.said();
    assert!(!other.said().contains(ALREADY));
    assert_eq!(compiled(dir.path()), 2);
}

#[test]
fn who_waits_for_a_build_that_is_killed_builds() {
    if build_here() {
        return;
    }
    let test = "who_waits_for_a_build_that_is_killed_builds";
    let dir = tempfile::tempdir().unwrap();
    repository(dir.path());
    fs::write(dir.path().join("hold"), "").unwrap();
    let mut first = Builder::start(test, dir.path(), "");
    wait_until("the first compiles", || compiled(dir.path()) == 1);
    let mut second = Builder::start(test, dir.path(), "");
    second.waits_for(first.child.id());
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    wait_until("the second compiles", || compiled(dir.path()) == 2);
    fs::remove_file(dir.path().join("hold")).unwrap();
    let said = second.said();
    assert!(!said.contains(ALREADY), "{said}");
    assert!(Builder::start(test, dir.path(), "").said().contains(ALREADY));
    assert_eq!(compiled(dir.path()), 2);
}

fn state(dir: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let entries = WalkDir::new(dir).into_iter().map(Result::unwrap);
    entries.map(|e| (e.path().to_owned(), e.metadata().unwrap().modified().unwrap())).collect()
}

#[test]
fn a_users_tree_stays_clean_and_a_failed_build_keeps_the_old_kernel() {
    let here = Here::new();
    let tree = here.dir.path().join("linux");
    write(&tree, "one");
    let before = state(&tree);
    let request = BuildRequest::new(x86(), Source::Tree { path: tree.clone() });
    let first = here.build(&request).unwrap();
    assert_eq!(state(&tree), before, "the tree was written to");
    let name = format!("tree-linux{}", suffix());
    assert_eq!((first.name(), first.manifest.release.as_str()), (name.as_str(), "6.12.0"));
    assert_eq!(first.manifest.origin, Origin::Tree { path: fs::canonicalize(&tree).unwrap() });
    assert_eq!(fs::read_to_string(first.boot()).unwrap(), "one");

    fs::write(tree.join("main.c"), "broken").unwrap();
    let error = here.build(&request).unwrap_err();
    assert!(matches!(error, BuildError::Make(_)), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("cannot build the kernel:\n  main.c:1:1: error: it is broken\n"), "{text}");
    let log = Path::new(text.rsplit("the whole log is ").next().unwrap());
    assert!(fs::read_to_string(log).unwrap().contains("CC      main.o"));
    let still = Kernel::from_entry(kernel::shelf(&here.cache).open(&name).unwrap().unwrap()).unwrap();
    assert_eq!(still.manifest, first.manifest);

    fs::write(tree.join("main.c"), "two").unwrap();
    let second = rebuild(&here.cache, &first, None, false, Environment::default(), &Silent).unwrap();
    assert_eq!(fs::read_to_string(second.boot()).unwrap(), "two");
    assert_eq!(here.names(), std::slice::from_ref(&name));
    // A second build in the same directory does not make all objects, so it does not record their
    // number.
    assert_eq!(Record::read(second.dir()).unwrap().objects, None);

    // Another path to the same tree leads to the same kernel.
    let detour = here.dir.path().join("detour");
    fs_err::os::unix::fs::symlink(&tree, &detour).unwrap();
    let again = here.build(&BuildRequest::new(x86(), Source::Tree { path: detour })).unwrap();
    assert_eq!((again.name(), here.work()), (name.as_str(), 1));

    // A tree of the same name elsewhere is another kernel.
    let other = here.dir.path().join("elsewhere/linux");
    write(&other, "three");
    let third = here.build(&BuildRequest::new(x86(), Source::Tree { path: other })).unwrap();
    assert!(third.name().starts_with(&format!("{name}-")), "{}", third.name());
    assert_eq!(fs::read_to_string(second.boot()).unwrap(), "two");

    let works = here.work();
    let nothing = BuildRequest::new(x86(), Source::Tree { path: here.dir.path().to_owned() });
    assert!(matches!(here.build(&nothing), Err(BuildError::Source(SourceError::Tree(TreeError::NotKernel { .. })))));
    assert_eq!(here.work(), works);
    fs::write(tree.join(".config"), "").unwrap();
    let error = here.build(&request).unwrap_err();
    assert!(matches!(error, BuildError::Source(SourceError::Tree(TreeError::BuiltInPlace { .. }))), "{error}");
}

#[test]
fn a_branch_is_built_commit_by_commit() {
    let here = Here::new();
    let origin = here.dir.path().join("origin");
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"];
        let output = Command::new("git").args(identity).args(args).current_dir(&origin).output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let commit = |main: &str| {
        write(&origin, main);
        git(&["add", "-A"]);
        git(&["commit", "-q", "-m", main]);
        git(&["rev-parse", "HEAD"])
    };
    fs::create_dir_all(&origin).unwrap();
    git(&["init", "-q", "--initial-branch=main"]);
    let one = commit("one");
    git(&["tag", "next-20261120"]);
    let url = format!("file://{}", origin.display());
    let request = BuildRequest::new(x86(), Source::Git { url: url.clone(), reference: "main".to_owned() });
    let first = here.build(&request).unwrap();
    assert_eq!(first.name(), format!("6.12.0-g{}{}", &one[..12], suffix()));
    assert_eq!(first.manifest.release, format!("6.12.0-g{}", &one[..12]));
    let two = commit("two");
    let second = here.build(&request).unwrap();
    let wanted =
        Origin::Git { url: url.clone(), reference: "main".to_owned(), commit: two, trusted: Some(Trusted::Local) };
    assert_eq!(second.manifest.origin, wanted);
    assert_eq!(fs::read_to_string(second.boot()).unwrap(), "two");
    assert_eq!((here.names().len(), here.work()), (2, 1));

    // An archive named as linux-next of a day must contain that version.
    let mut next = BuildRequest::new(x86(), Source::parse("next-20261120", "bookworm").unwrap());
    next.mirrors.next = url;
    let error = here.build(&next).unwrap_err();
    assert!(matches!(error, BuildError::Source(SourceError::Version { .. })), "{error}");
    fs::write(origin.join("localversion-next"), "-next-20261121\n").unwrap();
    commit("three");
    git(&["tag", "next-20261121"]);
    next.source = Source::parse("next-20261121", "bookworm").unwrap();
    let kernel = here.build(&next).unwrap();
    assert_eq!(kernel.name(), format!("next-20261121{}", suffix()));
    assert!(!kernel.manifest.version.is_stable());
}
