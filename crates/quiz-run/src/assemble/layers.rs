//! The layers of a run's root, and the modules that the guest loads from them. Not for making an
//! image (`quiz_image::layer`).

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::{self, ScopedJoinHandle};

use quiz_config::Chosen;
use quiz_host::{Cache, Report, digest};
use quiz_image::layer::{self, Layer, Source};
use quiz_kernel::{Kernel, modules};
use quiz_vm::proto;
use quiz_vm::{Disk, DiskFormat};

use crate::assemble::setup::Asked;
use crate::fault::Fault;

/// Returns the path of a profile's `init` in the guest.
pub fn init_path(profile: &str) -> String {
    format!("/quiz/profiles/{profile}/init")
}

/// Makes the layers over the root, the uppermost first.
pub fn make(
    chosen: &[Chosen],
    asked: &Asked,
    kernel: &Kernel,
    cache: &Cache,
    report: &dyn Report,
) -> Result<Vec<Layer>, Fault> {
    let own = of_profiles(chosen);
    // The program that makes a layer mostly waits for the file system. Several at once hardly take
    // longer than one.
    thread::scope(|scope| {
        let mut layers: Vec<ScopedJoinHandle<Result<Option<Layer>, Fault>>> = Vec::new();
        if !own.is_empty() {
            layers.push(thread::Builder::new().spawn_scoped(scope, || {
                let key = layer::fingerprint(&own)?;
                Ok(Some(layer::make(cache, "profiles", "the profiles' files", &key, &own, report)?))
            })?);
        }
        for dir in asked.layers.iter().rev() {
            layers.push(thread::Builder::new().spawn_scoped(scope, || of_directory(dir, cache, report).map(Some))?);
        }
        layers.push(thread::Builder::new().spawn_scoped(scope, || Ok(layer::of_modules(cache, kernel, report)?))?);
        layers.into_iter().filter_map(|layer| layer.join().unwrap_or_else(|e| resume_unwind(e)).transpose()).collect()
    })
}

fn of_directory(dir: &Path, cache: &Cache, report: &dyn Report) -> Result<Layer, Fault> {
    if !dir.is_dir() {
        let fault = format!("{} cannot be laid over the guest's root: it is not a directory", dir.display());
        return Err(Fault::new(fault));
    }
    let sources = [Source { host: dir.to_owned(), guest: "/".into() }];
    let key = layer::fingerprint(&sources)?;
    // The label names the directory, so that a user of the cache sees which layer is whose.
    let label = format!("dir-{}", &digest::of_bytes(dir.as_os_str().as_encoded_bytes())[..8]);
    Ok(layer::make(cache, &label, &dir.display().to_string(), &key, &sources, report)?)
}

/// Returns the profiles' files and programs for the guest. Of two at one place, the later profile's
/// wins.
fn of_profiles(chosen: &[Chosen]) -> Vec<Source> {
    let mut sources = Vec::new();
    for one in chosen {
        sources.extend(one.profile.files().map(|host| Source { host, guest: "/".into() }));
        let guest = PathBuf::from(init_path(&one.profile.name));
        sources.extend(one.profile.init().map(|host| Source { host, guest }));
    }
    sources
}

/// Returns the disk of a layer, the `i`th one.
pub fn disk(i: usize, layer: &Layer) -> Disk {
    Disk {
        serial: format!("quiz-layer{i}"),
        file: layer.image.clone(),
        format: DiskFormat::Raw,
        read_only: true,
        sector: None,
    }
}

/// Returns the modules that the guest loads, in order and with their dependencies. Also returns
/// arguments of the kernel command line, for modules that are built in.
pub fn modules(asked: &Asked, kernel: &Kernel) -> Result<(Vec<proto::Module>, Vec<String>), Fault> {
    let mut load: Vec<proto::Module> = Vec::new();
    let mut append = Vec::new();
    let guest_dir = Path::new("/lib/modules").join(&kernel.manifest.release);
    for module in &asked.modules {
        let parameters = module.parameters.join(" ");
        if module.name.starts_with('/') {
            load.push(proto::Module { path: module.name.clone(), parameters });
            continue;
        }
        let wrong = |e: modules::ModuleError| Fault::new(format!("the profile `{}`: {e}", module.profile));
        let files = modules::files(kernel, &[&module.name]).map_err(wrong)?;
        let mut loadable = false;
        for file in &files {
            let below = kernel.modules_dir().and_then(|dir| file.strip_prefix(dir).ok().map(Path::to_owned));
            let path = guest_dir.join(below.unwrap_or_default()).display().to_string();
            let is_it = modules::is_called(file, &module.name);
            loadable |= is_it;
            let parameters = if is_it { parameters.clone() } else { String::new() };
            match load.iter_mut().find(|other| other.path == path) {
                Some(other) if is_it && other.parameters.is_empty() => other.parameters = parameters,
                Some(_) => {}
                None => load.push(proto::Module { path, parameters }),
            }
        }
        if !loadable {
            append.extend(module.parameters.iter().map(|parameter| format!("{}.{parameter}", module.name)));
        }
    }
    Ok((load, append))
}
