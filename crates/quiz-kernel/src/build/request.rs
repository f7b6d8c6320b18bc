//! The request for a kernel build, as plain data. It is stored with the kernel, so that the kernel
//! can be rebuilt. Not for building.

use std::num::NonZeroUsize;
use std::path::Path;

use fs_err as fs;
use quiz_arch::Arch;
use serde::{Deserialize, Serialize};

use super::config::{self, ConfigError};
use super::fragment::{Edit, Fragment};
use super::release::Mirrors;
use super::source::Source;
use super::trust::Trust;
use quiz_host::environment::Environment;

/// All inputs of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRequest {
    /// The architecture.
    #[serde(with = "arch_by_name")]
    pub arch: &'static Arch,
    /// The source.
    pub source: Source,
    /// The entry's name; `None`: quiz chooses one from version, architecture and compiler.
    pub name: Option<String>,
    /// The variant: the name of the built-in fragment that makes it. `None` for a plain kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The user's configuration fragments; a later one overrides an earlier one.
    pub fragments: Vec<Fragment>,
    /// Edits to apply after the fragments.
    pub edits: Vec<Edit>,
    /// Whether a user's option that differs from the request is an error; otherwise it is only
    /// reported.
    pub strict: bool,
    /// Whether to use Clang and LLVM's tools.
    pub llvm: bool,
    /// Command to put before the compiler's name: `nice`, `ccache`, `nice ccache`. It runs for
    /// every object, not for make.
    pub prefix: Vec<String>,
    /// Servers of archives.
    pub mirrors: Mirrors,
    /// How archives are verified.
    pub trust: Trust,
    /// Whether to keep source and build directory: another build then takes seconds, but they need
    /// about 2 GB. `None` keeps them for sources that change (git, the user's tree) and deletes
    /// them for others.
    pub keep: Option<bool>,
    /// How many jobs run at once; `None`: one for each CPU.
    #[serde(skip)]
    pub jobs: Option<NonZeroUsize>,
    /// Whether to build even if the same inputs were built before.
    #[serde(skip)]
    pub replace: bool,
    /// The part of the caller's environment that the build receives. It does not change the result.
    #[serde(skip)]
    pub environment: Environment,
}

impl BuildRequest {
    /// A plain build of `source` for `arch`.
    pub fn new(arch: &'static Arch, source: Source) -> BuildRequest {
        BuildRequest {
            arch,
            source,
            name: None,
            variant: None,
            fragments: Vec::new(),
            edits: Vec::new(),
            strict: false,
            llvm: false,
            prefix: Vec::new(),
            mirrors: Mirrors::default(),
            trust: Trust::default(),
            keep: None,
            jobs: None,
            replace: false,
            environment: Environment::default(),
        }
    }

    /// Whether the architecture needs a cross toolchain on this host.
    pub fn is_cross(&self) -> bool {
        self.arch != quiz_arch::host()
    }

    /// The same request with absolute paths, which stay valid from any directory at any time.
    pub(crate) fn absolute(&self) -> BuildRequest {
        let whole = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut request = self.clone();
        match &mut request.source {
            Source::Tree { path } | Source::DebianSource { keyring: Some(path), .. } => *path = whole(path),
            Source::Release { .. } | Source::Git { .. } | Source::DebianSource { keyring: None, .. } => {}
        }
        request.trust.keyring = request.trust.keyring.as_deref().map(whole);
        for fragment in &mut request.fragments {
            let is_own = config::optional().iter().any(|(name, _)| *name == fragment.name);
            if !is_own {
                fragment.name = whole(Path::new(&fragment.name)).display().to_string();
            }
        }
        request
    }

    /// The suffix in names of kernels that differ from the plain one: `-aarch64`, `-llvm`,
    /// `-kasan`.
    pub(crate) fn suffix(&self) -> String {
        let part = |name: Option<&str>| name.map_or_else(String::new, |name| format!("-{name}"));
        let arch = part(self.is_cross().then_some(self.arch.name));
        arch + &part(self.llvm.then_some("llvm")) + &part(self.variant.as_deref())
    }
}

/// The record of an entry's build, in its file `build.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The request.
    pub request: BuildRequest,
    /// How many objects were made, if it was a full build.
    pub objects: Option<u64>,
    /// How long make took, in seconds.
    pub seconds: u64,
    /// The fingerprint of its inputs, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<String>,
    /// The messages about options that differ from the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

const FILE: &str = "build.json";

impl Record {
    /// Writes the record into an entry.
    pub(crate) fn write(&self, dir: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from)?;
        fs::write(dir.join(FILE), text + "\n")
    }

    /// The record of the entry in `dir`. `None` if quiz did not build it, or if this quiz cannot
    /// read the record.
    pub fn read(dir: &Path) -> Option<Record> {
        serde_json::from_str(&fs::read_to_string(dir.join(FILE)).ok()?).ok()
    }

    /// The request to build the same kernel again. Built-in fragments have their present text. The
    /// user's fragments are read again if their files still exist; otherwise the stored text is
    /// used.
    pub(crate) fn again(&self) -> Result<BuildRequest, ConfigError> {
        let mut request = self.request.clone();
        for fragment in &mut request.fragments {
            let is_own = config::optional().iter().any(|(name, _)| *name == fragment.name);
            if is_own || Path::new(&fragment.name).is_file() {
                *fragment = config::named(&fragment.name)?;
            }
        }
        Ok(request)
    }
}

mod arch_by_name {
    use quiz_arch::Arch;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(arch: &&'static Arch, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(arch.name)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<&'static Arch, D::Error> {
        let name = String::deserialize(from)?;
        quiz_arch::find(&name).ok_or_else(|| serde::de::Error::custom(format!("unknown architecture {name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_looks_at_fragments_again() {
        let dir = tempfile::tempdir().unwrap();
        let (stays, goes) = (dir.path().join("a.config"), dir.path().join("b.config"));
        fs::write(&stays, "CONFIG_A=y\n").unwrap();
        fs::write(&goes, "CONFIG_B=y\n").unwrap();
        let arch = quiz_arch::find("s390x").unwrap();
        let mut request = BuildRequest::new(arch, Source::parse("6.12", "bookworm").unwrap());
        for name in ["debug", stays.to_str().unwrap(), goes.to_str().unwrap()] {
            request.fragments.push(config::named(name).unwrap());
        }
        request.fragments[0].text = "of an older quiz".to_owned();
        request.edits.push(Edit::set("LOCALVERSION=x").unwrap());
        let record = Record {
            request,
            objects: Some(12),
            seconds: 3,
            inputs: Some("f".to_owned()),
            remarks: vec!["r".to_owned()],
        };
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()), Some(record.clone()));

        fs::write(&stays, "CONFIG_A=m\n").unwrap();
        fs::remove_file(&goes).unwrap();
        let again = record.again().unwrap();
        let texts: Vec<&str> = again.fragments.iter().map(|f| f.text.as_str()).collect();
        assert!(texts[0].contains("CONFIG_DEBUG_LIST"));
        assert_eq!(texts[1..], ["CONFIG_A=m\n", "CONFIG_B=y\n"]);
        assert_eq!(Record::read(Path::new("/nonexistent")), None);
    }
}
