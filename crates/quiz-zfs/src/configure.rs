//! The arguments of OpenZFS's `configure`, and its results about a kernel, kept for the next time.
//! Not for running it.
//!
//! `configure` spends half of its time on compiling a few hundred small modules that test a
//! kernel's interfaces. OpenZFS from 2.2 on keeps the answers in variables of autoconf's cache.
//!
//! quiz takes only those answers from `config.log`, and passes them to the next `configure` as a
//! site file. It does so if their inputs are the same: the kernel's build, the compiler, the tests
//! and the arguments.
//!
//! autoconf's own cache file would not do. make would also use it when it runs `configure` again
//! because a test was edited. And answers about the host's libraries would stay after the
//! installation of a library.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fs_err as fs;
use quiz_host::Environment;
use quiz_kernel::kernel::Kernel;
use sha2::{Digest, Sha256};

use crate::cross::Cross;
use crate::record;

/// The default arguments of `configure`. They precede the user's own, which therefore override
/// them. `knows` reports whether this checkout's `configure` has an option.
pub(crate) fn defaults(kernel: &Kernel, kbuild: &Path, knows: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut args = vec![
        format!("--with-linux={}", kbuild.display()),
        format!("--with-linux-obj={}", kbuild.display()),
        // Debian's own packages use these paths, and the guest searches them.
        "--prefix=/usr".to_owned(),
        "--sysconfdir=/etc".to_owned(),
        "--localstatedir=/var".to_owned(),
    ];
    // The guest needs none of these to boot.
    for (name, arg) in [
        ("with-udevdir", "--with-udevdir=/usr/lib/udev"),
        ("enable-systemd", "--disable-systemd"),
        ("enable-sysvinit", "--disable-sysvinit"),
        ("enable-pam", "--disable-pam"),
        ("enable-pyzfs", "--disable-pyzfs"),
        // Static libraries would compile everything twice, without a benefit.
        ("enable-static", "--disable-static"),
    ] {
        if knows(name) {
            args.push(arg.to_owned());
        }
    }
    if kernel.manifest.llvm {
        args.push("KERNEL_LLVM=1".to_owned());
    }
    args
}

/// The arguments for another architecture than the host's. The user's own compilers come after
/// these and override them; they need `--sysroot` then.
pub(crate) fn for_another(cross: &Cross<'_>, llvm: bool) -> Vec<String> {
    let Cross { arch, sysroot } = cross;
    let sysroot = sysroot.display();
    let mut args = vec![
        format!("--build={}", quiz_arch::host().multiarch),
        format!("--host={}", arch.multiarch),
        format!("CC={}gcc --sysroot={sysroot}", arch.cross),
        format!("CXX={}g++ --sysroot={sysroot}", arch.cross),
        format!("KERNEL_CROSS_COMPILE={}", arch.cross),
        format!("KERNEL_ARCH={}", arch.kernel_arch),
    ];
    // Modules need the same kind of compiler as their kernel.
    if !llvm {
        args.push(format!("KERNEL_CC={}gcc", arch.cross));
    }
    args
}

/// Reports whether the text of a `configure` script has an option.
pub(crate) fn knows(script: &str) -> impl Fn(&str) -> bool + '_ {
    move |name| {
        let (kind, option) = name.split_once('-').unwrap_or((name, ""));
        script.contains(&format!("${{{kind}_{option}+")) || script.contains(&format!("--{kind}-{option}"))
    }
}

/// A command for a program of the build, in `dir`.
pub(crate) fn command(program: &str, dir: &Path, environment: &Environment) -> Command {
    let mut command = environment.command(program);
    command.current_dir(dir);
    command
}

/// The answers about one kernel.
pub(crate) struct Answers {
    store: PathBuf,
}

/// Shell code that reads the site files which `configure` would read by default.
const SITES: &str = "for site in \"$prefix/share/config.site\" \"$prefix/etc/config.site\"; do if test -r \"$site\"; then . \"$site\"; fi; done\n";

/// How many builds' answers are kept.
const KEPT: usize = 60;

impl Answers {
    /// The place below `store` for answers that are valid for this kernel, this compiler, these
    /// tests and these arguments.
    pub fn new(
        store: &Path,
        kernel: &Kernel,
        shadow: &Path,
        args: &[String],
        environment: &Environment,
    ) -> io::Result<Answers> {
        let mut sum = Sha256::new();
        let mut add = |bytes: &[u8]| {
            sum.update(bytes.len().to_le_bytes());
            sum.update(bytes);
        };
        add(kernel.identity().as_bytes());
        args.iter().for_each(|arg| add(arg.as_bytes()));
        let compilers =
            ["KERNEL_CC=", "CC="].iter().filter_map(|name| args.iter().rev().find_map(|a| a.strip_prefix(name)));
        let compilers = compilers.chain([if kernel.manifest.llvm { "clang" } else { "gcc" }, "cc"]);
        compilers.for_each(|compiler| add(&version(compiler, environment)));
        for file in tests(shadow)? {
            add(&fs::read(file)?);
        }
        let name: String = sum.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Ok(Answers { store: store.join(name) })
    }

    /// Writes the answers as a site file for the `configure` in `shadow`. Returns the file's name
    /// relative to `shadow`, if there are answers.
    pub fn give(&self, shadow: &Path) -> io::Result<Option<String>> {
        let name = format!("{}/config.site", record::DIR);
        match fs::read(&self.store) {
            Ok(mut answers) => {
                // `configure` reads the file in CONFIG_SITE instead of the host's site files.
                answers.extend_from_slice(SITES.as_bytes());
                fs::write(shadow.join(&name), answers).map(|()| Some(name))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Keeps the answers from the `config.log` in `shadow`.
    pub fn keep(&self, shadow: &Path) -> io::Result<()> {
        let log = fs::read(shadow.join("config.log"))?;
        let answers = answers(&String::from_utf8_lossy(&log));
        if answers.is_empty() {
            return Ok(());
        }
        record::write_whole(&self.store, answers.as_bytes())?;
        let store = self.store.parent().unwrap_or(Path::new("."));
        let mut kept: Vec<_> = fs::read_dir(store)?
            .flatten()
            .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
            .collect();
        kept.sort();
        for (_, old) in kept.iter().rev().skip(KEPT) {
            fs::remove_file(old)?;
        }
        Ok(())
    }
}

/// The files that define `configure`'s tests.
fn tests(shadow: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = vec![shadow.join("configure.ac")];
    for entry in fs::read_dir(shadow.join("config"))? {
        let path = entry?.path();
        // libtool's macros depend on the host's version, and do not test kernels.
        let name = entry_name(&path);
        if name.ends_with(".m4") && !name.starts_with("libtool") && !name.starts_with("lt") {
            files.push(path);
        }
    }
    files.retain(|file| file.exists());
    files.sort();
    Ok(files)
}

fn entry_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// A compiler's version output; empty if it cannot be run.
fn version(compiler: &str, environment: &Environment) -> Vec<u8> {
    let mut words = compiler.split_whitespace();
    let Some(program) = words.next() else { return Vec::new() };
    let mut command = environment.command(program);
    let output = command.args(words).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.map(|output| output.stdout).unwrap_or_default()
}

/// The answers about the kernel in a `config.log`, as shell assignments.
fn answers(log: &str) -> String {
    let is_answer = |line: &&str| {
        line.split_once('=').is_some_and(|(name, value)| {
            name.starts_with("zfs_cv_kernel_")
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && matches!(value, "yes" | "no")
        })
    };
    log.lines().filter(is_answer).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_about_the_kernel_are_taken() {
        let log = "ac_cv_header_zlib_h=no\nzfs_cv_kernel_bdev_12345=yes\nzfs_cv_kernel_x_1=no\nzfs_cv_kernel_y=$(reboot)\n\
                   zfs_cv_kernel_z;x=yes\n  zfs_cv_kernel_w_1=yes\nzfs_cv_KERNEL_CC_ipa=yes\n";
        assert_eq!(super::answers(log), "zfs_cv_kernel_bdev_12345=yes\nzfs_cv_kernel_x_1=no\n");
    }

    #[test]
    fn another_architecture_has_compilers_and_libraries_of_its_own() {
        let arch = quiz_arch::find("s390x").unwrap();
        let cross = Cross { arch, sysroot: std::path::Path::new("/cache/sysroots/x") };
        let args = for_another(&cross, false);
        for arg in [
            "--host=s390x-linux-gnu",
            "CC=s390x-linux-gnu-gcc --sysroot=/cache/sysroots/x",
            "KERNEL_CC=s390x-linux-gnu-gcc",
            "KERNEL_CROSS_COMPILE=s390x-linux-gnu-",
            "KERNEL_ARCH=s390",
        ] {
            assert!(args.iter().any(|a| a == arg), "{arg}: {args:?}");
        }
        assert!(!for_another(&cross, true).iter().any(|arg| arg.starts_with("KERNEL_CC=")));
    }

    #[test]
    fn options_are_known_by_the_script() {
        let script = "  --disable-nls  x\n  --with-udevdir=DIR  y\nif test ${enable_static+y}\nthen\n";
        let knows = knows(script);
        assert!(knows("with-udevdir") && knows("enable-static"));
        assert!(!knows("enable-systemd"));
    }
}
