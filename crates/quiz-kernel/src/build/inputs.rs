//! The fingerprint of a kernel build's inputs. Two builds with the same fingerprint make the same
//! kernel, so the second is not needed. Not for the user's own tree: only make knows what has
//! changed in it.

use std::path::PathBuf;
use std::process::Command;

use super::config;
use super::fragment::FragmentError;
use super::git::is_whole_id;
use super::make::Tools;
use super::request::{BuildRequest, Record};
use super::source::Source;
use crate::kernel::{self, Kernel, KernelError, Origin};
use crate::trusted::Trusted;
use crate::version::Version;
use quiz_host::digest;
use quiz_host::report::Report;
use quiz_host::store::Cache;

/// Increase this when quiz calls make differently, or puts other files into an entry.
const FORMAT: u32 = 1;

/// The versions that the toolchain of a request reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toolchain(String);

impl Toolchain {
    /// Asks the compiler and the linker for their versions. `None` if they cannot be run; the build
    /// itself reports that.
    pub fn of(request: &BuildRequest) -> Option<Toolchain> {
        let tools = Tools { arch: request.arch, cross: request.is_cross(), llvm: request.llvm };
        let linker = if request.llvm { "ld.lld".to_owned() } else { tools.tool("ld") };
        let version = |program: &str| {
            let output = Command::new(program).arg("--version").env("LC_ALL", "C.UTF-8").output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
        };
        Some(Toolchain(version(&tools.compiler())? + &version(&linker)?))
    }
}

/// The fingerprint of a build of `origin` for `request`. `None` if the source's state has no name.
///
/// # Errors
/// Fails if a fragment or an edit is invalid.
pub(crate) fn fingerprint(
    request: &BuildRequest,
    origin: &Origin,
    toolchain: &Toolchain,
) -> Result<Option<String>, FragmentError> {
    let source = match (&request.source, origin) {
        (Source::Release { version }, Origin::Tarball { sha256, .. }) => format!("release {version} {sha256}"),
        (Source::Release { version }, Origin::Git { commit, .. }) => format!("release {version} {commit}"),
        (Source::Git { .. }, Origin::Git { commit, .. }) => format!("git {commit}"),
        (Source::DebianSource { .. }, Origin::DebianSource { package, version }) => format!("{package} {version}"),
        _ => return Ok(None),
    };
    // Destructured, so that a new field forces a decision here whether it changes the result.
    let BuildRequest { arch, name, variant, fragments, edits, strict, llvm, prefix, .. } = request;
    let BuildRequest { source: _, mirrors: _, trust: _, keep: _, jobs: _, replace: _, environment: _, .. } = request;
    let text = format!(
        "{FORMAT} {source:?} {} on {} {name:?} {variant:?} {strict} {llvm} {prefix:?}\n{}\n{}\n{}",
        arch.name,
        quiz_arch::host().name,
        toolchain.0,
        config::own_inputs(arch),
        config::user(fragments, edits)?.text(),
    );
    Ok(Some(digest::of_bytes(text.as_bytes())))
}

/// The origin of `request`, if it is known without a server. That is so for a commit named by its
/// id, and for a release that was built before. The earlier archive must have been verified as
/// strictly as this request demands.
pub(crate) fn known_origin(request: &BuildRequest, built: &[(Kernel, Record)]) -> Option<Origin> {
    match &request.source {
        Source::Release { version: Version::Next(_) } => None,
        Source::Release { .. } => {
            let serves = |kernel: &Kernel, record: &Record| {
                let Origin::Tarball { sha256, trusted: Some(trusted), .. } = &kernel.manifest.origin else {
                    return false;
                };
                let old = &record.request;
                old.source == request.source
                    && old.mirrors == request.mirrors
                    && request.trust.accepts(trusted, sha256).unwrap_or(false)
            };
            let found = built.iter().find(|(kernel, record)| serves(kernel, record));
            found.map(|(kernel, _)| kernel.manifest.origin.clone())
        }
        Source::Git { url, reference } => {
            let (url, reference) = (url.clone(), reference.clone());
            is_whole_id(&reference).then(|| Origin::Git {
                url,
                commit: reference.clone(),
                reference,
                trusted: Some(Trusted::CommitId),
            })
        }
        Source::DebianSource { .. } | Source::Tree { .. } => None,
    }
}

/// The kernels that quiz has built, with the records of their builds.
///
/// # Errors
/// Fails if the cache cannot be read.
pub(crate) fn built(cache: &Cache, report: &dyn Report) -> Result<Vec<(Kernel, Record)>, KernelError> {
    let kernels = kernel::list(cache, report)?.into_iter();
    Ok(kernels.filter_map(|kernel| Record::read(kernel.dir()).map(|record| (kernel, record))).collect())
}

/// The kernel among `built` with the fingerprint `wanted`, except for kernels in the directories
/// `old`.
pub(crate) fn find(built: Vec<(Kernel, Record)>, wanted: &str, old: &[PathBuf]) -> Option<(Kernel, Record)> {
    let is_new = |kernel: &Kernel| !old.iter().any(|dir| dir == kernel.dir());
    built.into_iter().find(|(kernel, record)| record.inputs.as_deref() == Some(wanted) && is_new(kernel))
}

#[cfg(test)]
mod tests {
    use super::super::fragment::{Edit, Fragment};
    use super::*;
    use std::num::NonZeroUsize;

    fn request() -> BuildRequest {
        let mut request = BuildRequest::new(quiz_arch::find("x86_64").unwrap(), Source::parse("6.12.30", "x").unwrap());
        request.fragments.push(Fragment { name: "a".to_owned(), text: "CONFIG_A=y\n".to_owned() });
        request.edits.push(Edit::Enable("B".to_owned()));
        request
    }

    fn tarball(sha256: &str) -> Origin {
        Origin::Tarball { url: "u".to_owned(), sha256: sha256.to_owned(), trusted: None }
    }

    fn of(request: &BuildRequest, origin: &Origin, toolchain: &str) -> Option<String> {
        fingerprint(request, origin, &Toolchain(toolchain.to_owned())).unwrap()
    }

    #[test]
    fn whatever_changes_the_kernel_changes_the_fingerprint_and_nothing_else_does() {
        let (plain, origin) = (request(), tarball("1"));
        let first = of(&plain, &origin, "gcc 12").unwrap();
        let mut same = plain.clone();
        same.jobs = NonZeroUsize::new(7);
        same.keep = Some(true);
        same.replace = true;
        same.trust.sha256 = Some("1".to_owned());
        same.trust.keyring = Some(PathBuf::from("/keys"));
        same.mirrors.releases = "https://mirror.example.org".to_owned();
        // The same settings, asked for in another way.
        same.fragments[0] =
            Fragment { name: "b".to_owned(), text: "# why\nCONFIG_A=n\nCONFIG_B=y\nCONFIG_A=y\n".to_owned() };
        same.edits.clear();
        assert_eq!(of(&same, &origin, "gcc 12").unwrap(), first);

        type Change = fn(&mut BuildRequest);
        let changes: [Change; 9] = [
            |r| r.arch = quiz_arch::find("s390x").unwrap(),
            |r| r.source = Source::parse("6.12.31", "x").unwrap(),
            |r| r.name = Some("mine".to_owned()),
            |r| r.variant = Some("debug".to_owned()),
            |r| r.fragments[0].text.push_str("CONFIG_C=y\n"),
            |r| r.edits.push(Edit::Disable("D".to_owned())),
            |r| r.strict = true,
            |r| r.llvm = true,
            |r| r.prefix = vec!["ccache".to_owned()],
        ];
        let mut all = vec![first, of(&plain, &tarball("2"), "gcc 12").unwrap(), of(&plain, &origin, "gcc 13").unwrap()];
        for change in changes {
            let mut other = plain.clone();
            change(&mut other);
            all.push(of(&other, &origin, "gcc 12").unwrap());
        }
        all.sort();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
        let tree = BuildRequest { source: Source::Tree { path: "/t".into() }, ..plain };
        assert_eq!(of(&tree, &Origin::Tree { path: "/t".into() }, "gcc 12"), None);
    }

    #[test]
    fn a_commit_is_known_by_its_id_and_nothing_shorter() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let known = |reference: &str| {
            let source = Source::Git { url: "u".to_owned(), reference: reference.to_owned() };
            known_origin(&BuildRequest { source, ..request() }, &[])
        };
        assert!(matches!(known(id), Some(Origin::Git { commit, .. }) if commit == id));
        for reference in ["main", "v6.12", &id[..39], &id[..12], "0123456789ABCDEF0123456789ABCDEF01234567"] {
            assert_eq!(known(reference), None, "{reference}");
        }
    }
}
