//! A miniature of an OpenZFS checkout, and kernels to build it for: a `configure` and a Makefile
//! that do in a second what the real ones do in minutes, with real ELF files.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fs_err as fs;
use quiz_host::{Cache, Environment, Silent};
use quiz_kernel::kernel::{self, Boot, Kernel, KernelManifest, Origin};
use quiz_zfs::{Builder, Checkout, Staged};

const CONFIGURE: &str = r#"#!/bin/sh
# --with-udevdir=DIR --enable-static
prefix=/usr/local
for arg; do
	case $arg in
	--with-linux=*) linux=${arg#*=} ;;
	--prefix=*) prefix=${arg#*=} ;;
	esac
done
printf '%s\n' "$@" >args
echo "checking $linux"
answer=asked
[ -z "$CONFIG_SITE" ] || . "./$CONFIG_SITE"
[ -z "$zfs_cv_kernel_page_size_77" ] || answer=known
echo "$answer" >answer
echo zfs_cv_kernel_page_size_77=yes >config.log
[ -r "$linux/release" ] || { echo "configure: error: "; echo "	*** no kernel in $linux"; exit 1; }
sed -e "s|@RELEASE@|$(cat "$linux/release")|g" -e "s|@PREFIX@|$prefix|g" Makefile.in >Makefile
printf '%s\n' "$@" "$CFLAGS" >config.status
echo "int have_it;" >zfs_config.h
"#;

const MAKEFILE: &str = r#"
all: module/spl.ko module/zfs.ko .libs/libzfs.so.1.0.0 zpool common.sh
module/%.ko: module/%.c module/common.h
	@echo "  CC [M]  $@"
	@gcc -g -c -DRELEASE='"@RELEASE@"' -o $@.new $< && mv $@.new $@
.libs/libzfs.so.1.0.0: lib/libzfs.c
	@mkdir -p .libs; echo "  CC       libzfs.lo"
	@gcc -g -shared -fPIC -Wl,-soname,libzfs.so.1 -Wl,-rpath,$(CURDIR)/.libs -o $@ $<
	@ln -sf libzfs.so.1.0.0 .libs/libzfs.so
zpool: cmd/zpool.c .libs/libzfs.so.1.0.0
	@gcc -g -o .libs/zpool $< -L.libs -lzfs
	@printf '#!/bin/sh\n# zpool - temporary wrapper script for .libs/zpool\n' >$@; chmod +x $@
common.sh: common.sh.in
	@cp $< $@
install: all
	@mkdir -p $(DESTDIR)@PREFIX@/sbin $(DESTDIR)@PREFIX@/lib $(DESTDIR)@PREFIX@/include $(DESTDIR)/etc/zfs
	@mkdir -p $(DESTDIR)/lib/modules/@RELEASE@/extra $(DESTDIR)@PREFIX@/share/zfs/zfs-tests
	@cp module/*.ko $(DESTDIR)/lib/modules/@RELEASE@/extra
	@gcc -g -shared -fPIC -Wl,-soname,libzfs.so.1 -o .libs/libzfs.so.1.0.0T lib/libzfs.c
	@cp .libs/libzfs.so.1.0.0T $(DESTDIR)@PREFIX@/lib/libzfs.so.1.0.0
	@ln -s libzfs.so.1.0.0 $(DESTDIR)@PREFIX@/lib/libzfs.so.1
	@cp .libs/zpool $(DESTDIR)@PREFIX@/sbin
	@cp module/common.h $(DESTDIR)@PREFIX@/include
	@cp -rL tests/. $(DESTDIR)@PREFIX@/share/zfs/zfs-tests
	@sed s/intree/installed/ common.sh.in >$(DESTDIR)@PREFIX@/share/zfs/common.sh
	@touch $(DESTDIR)/etc/zfs/zpool.cache
"#;

/// What the fake modules say about themselves; `edit` makes another one of it.
pub fn module(name: &str, depends: &str, edit: &str) -> String {
    format!(
        "#include \"common.h\"\nFIELD(a, \"vermagic=\" RELEASE \" SMP preempt\");\nFIELD(b, \"name={name}\");\nFIELD(c, \"depends={depends}\");\n\
         FIELD(d, \"parmtype={name}_debug:int\");\nconst char edit[] = \"edit {edit}.\";\nint {name}_f(void) {{ return 1; }}\n"
    )
}

/// A place with a cache and a checkout.
pub struct Place {
    top: tempfile::TempDir,
    /// The cache.
    pub cache: Cache,
}

impl Place {
    /// One with a pristine checkout.
    pub fn new() -> Place {
        let top = tempfile::tempdir().unwrap();
        let cache = Cache::at(top.path().join("cache"));
        let place = Place { top, cache };
        for (file, text) in [
            ("META", "Name: zfs\nVersion: 9.9.9\nLinux-Minimum: 4.18\nLinux-Maximum: 6.14\n"),
            ("configure.ac", ""),
            ("configure", CONFIGURE),
            ("Makefile.in", MAKEFILE),
            ("config/kernel.m4", "AC_ARG_ENABLE([linux-experimental])\n"),
            ("module/common.h", "#define FIELD(n, t) const char n[] __attribute__((section(\".modinfo\"))) = t\n"),
            ("lib/libzfs.c", "int zfs_answer(void) { return 42; }\n"),
            ("cmd/zpool.c", "int zfs_answer(void);\nint main(void) { return zfs_answer(); }\n"),
            ("common.sh.in", "export MODE=intree\n"),
            ("tests/functional/atime/setup.ksh", "#!/bin/ksh\n"),
            ("tests/functional/a b\n'ü\"/se tup.ksh", "#!/bin/ksh -p\n"),
        ] {
            place.write(file, text);
        }
        place.write("module/spl.c", &module("spl", "", "0"));
        place.write("module/zfs.c", &module("zfs", "spl", "0"));
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(place.path("configure"), std::fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    /// A path in the checkout.
    pub fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        self.top.path().join("zfs").join(file)
    }

    /// Writes a file of the checkout, newer than all that was made before.
    pub fn write(&self, file: &str, text: &str) {
        std::thread::sleep(Duration::from_millis(12));
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        std::thread::sleep(Duration::from_millis(12));
    }

    /// The checkout.
    pub fn checkout(&self) -> Checkout {
        Checkout::open(&self.path("")).unwrap()
    }

    /// Adds a kernel, or builds it again.
    pub fn kernel(&self, name: &str) -> Kernel {
        let release = format!("{name}-quiz");
        let entry = kernel::shelf(&self.cache).build(name, "testing", true, &Silent, |dir| {
            fs::create_dir_all(dir.join("kbuild")).unwrap();
            fs::create_dir_all(dir.join("lib/modules").join(&release).join("kernel")).unwrap();
            fs::write(dir.join("lib/modules").join(&release).join("modules.order"), "").unwrap();
            fs::write(dir.join("lib/modules").join(&release).join("modules.builtin"), "").unwrap();
            fs::write(dir.join("kbuild/release"), &release).unwrap();
            Ok::<_, quiz_host::StoreError>(KernelManifest {
                name: name.to_owned(),
                release: release.clone(),
                version: name.parse().unwrap(),
                arch: quiz_arch::host().name.to_owned(),
                origin: Origin::Tree { path: "/src/linux".into() },
                boot: Boot::Image,
                boot_file: "kernel".to_owned(),
                vmlinux_file: None,
                compiler: None,
                llvm: false,
                variant: None,
                built_at: jiff::Timestamp::now(),
                quiz_version: "0".to_owned(),
                sha256: BTreeMap::new(),
            })
        });
        Kernel::from_entry(entry.unwrap()).unwrap()
    }

    /// Does something with the builds for `kernel`.
    pub fn build<T>(&self, kernel: &Kernel, work: impl FnOnce(&Builder<'_>) -> T) -> T {
        let checkout = self.checkout();
        let jobs = NonZeroUsize::new(2).unwrap();
        let environment = &Environment::default();
        work(&Builder {
            checkout: &checkout,
            kernel,
            cache: &self.cache,
            cross: None,
            jobs,
            environment,
            report: &Silent,
        })
    }

    /// What `quiz zfs make` does.
    pub fn make(&self, kernel: &Kernel) {
        self.build(kernel, |builder| builder.make(&[])).unwrap();
    }

    /// Brings the install tree up to date.
    pub fn stage(&self, kernel: &Kernel) -> Staged {
        quiz_zfs::stage(&self.checkout(), kernel, &Environment::default(), &Silent).unwrap()
    }

    /// Runs a program in a directory of the checkout, as the user would.
    pub fn run(&self, dir: impl AsRef<Path>, words: &[&str]) {
        std::thread::sleep(Duration::from_millis(12));
        let ran = Command::new(words[0]).args(&words[1..]).current_dir(self.path(dir)).output().unwrap();
        assert!(ran.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    /// All files of the checkout but for those of quiz, with their contents.
    pub fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = walkdir::WalkDir::new(self.path("")).into_iter().filter_entry(|e| e.file_name() != ".quiz");
        let files = entries.map(Result::unwrap).filter(|e| e.file_type().is_file());
        files.map(|e| (e.path().to_owned(), fs::read(e.path()).unwrap())).collect()
    }
}

/// Which edit of a module a staged tree has.
pub fn edit_of(staged: &Staged, module: &str) -> String {
    let path = staged.files.iter().find(|path| path.ends_with(module)).unwrap();
    edit_in(path)
}

/// Which edit of a module is in a file.
pub fn edit_in(path: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    let start = text.find("edit ").unwrap() + 5;
    text[start..].split('.').next().unwrap().to_owned()
}
