//! Where packages come from: the release, the mirrors and the keyring, from the settings and the
//! command line.

use std::path::PathBuf;

use quiz_arch::{Arch, Port};
use quiz_config::RunSpec;
use quiz_debian::apt::{self, Source};
use quiz_host::Report;
use quiz_kernel::stock;

use crate::context::Context;

/// Where packages come from, as far as a command's options name it. The settings supply the rest.
#[derive(Debug, Clone, Default)]
pub struct Packages {
    /// `--release`
    pub release: Option<String>,
    /// `--mirror`
    pub mirrors: Vec<String>,
    /// `--keyring`
    pub keyring: Option<PathBuf>,
}

/// Returns the release of the packages for `arch`, and where they come from.
pub fn source(arch: &Arch, spec: &RunSpec, asked: Packages) -> Source {
    let own = arch.port.release().filter(|_| spec.release_is_default);
    // The keyring of the settings is only for the mirrors of the settings.
    let keyring = asked.keyring.or_else(|| spec.keyring.clone().filter(|_| asked.mirrors.is_empty()));
    let mut mirrors = if asked.mirrors.is_empty() { spec.mirrors.clone() } else { asked.mirrors };
    if mirrors.is_empty() && arch.port == Port::Unofficial {
        mirrors = vec![apt::PORTS_MIRROR.to_owned()];
    }
    Source { release: asked.release.unwrap_or_else(|| own.unwrap_or(&spec.release).to_owned()), mirrors, keyring }
}

/// Reports if the packages of `source` deserve less trust than usual.
pub fn say_trust(arch: &Arch, source: &Source, ctx: &Context) {
    if source.mirrors == [apt::PORTS_MIRROR] {
        ctx.report.say(&format!(
            "Debian has no release for {}: its packages come from the archive of unofficial ports, built by volunteers and signed by that archive's own keys",
            arch.name
        ));
    }
}

pub fn wanted_kernel(spec: &RunSpec, arch: &'static Arch) -> stock::Wanted {
    stock::Wanted { source: source(arch, spec, Packages::default()), arch, package: None }
}
