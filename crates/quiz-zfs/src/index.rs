//! The index for modprobe (`modules.dep` and its companions), of a kernel's own modules together
//! with OpenZFS's. Not for the modules themselves.
//!
//! depmod reads every module of the kernel, which takes seconds for a distribution's kernel. Most
//! edits of a module's source do not change the index. So quiz runs depmod only when the inputs of
//! the index have changed.

use std::io;
use std::path::Path;

use fs_err as fs;
use fs_err::os::unix::fs::symlink;
use quiz_host::command::CommandError;
use quiz_kernel::kernel::Kernel;
use sha2::{Digest, Sha256};

use crate::elf::ModuleInfo;

/// The fingerprint of the index's inputs: `modules`, and the kernel's own modules.
pub(crate) fn key(kernel: &Kernel, modules: &[(String, ModuleInfo)]) -> String {
    let mut sum = Sha256::new();
    let mut add = |bytes: &[u8]| {
        sum.update(bytes.len().to_le_bytes());
        sum.update(bytes);
    };
    add(kernel.identity().as_bytes());
    for (file, info) in modules {
        add(file.as_bytes());
        info.indexed().for_each(&mut add);
    }
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the index into `dir`, the guest's `/lib/modules/<release>` with OpenZFS's modules in
/// `extra/`. `scratch` is an empty directory on the same file system that the caller removes.
pub(crate) fn write(kernel: &Kernel, dir: &Path, scratch: &Path, log: &Path) -> Result<(), CommandError> {
    let doing = "index OpenZFS's modules";
    let io = |cause| CommandError::Io { doing: doing.to_owned(), program: "depmod".to_owned(), cause };
    let release = &kernel.manifest.release;
    let all = scratch.join("lib/modules").join(release);
    let extra = all.join("extra");
    fs::create_dir_all(&extra).map_err(io)?;
    if let Some(own) = kernel.modules_dir() {
        link_own(&own, &all).map_err(io)?;
    }
    for entry in fs::read_dir(dir.join("extra")).map_err(io)? {
        let entry = entry.map_err(io)?;
        let place = extra.join(entry.file_name());
        if place.is_symlink() {
            fs::remove_file(&place).map_err(io)?;
        }
        fs::hard_link(entry.path(), place).map_err(io)?;
    }
    quiz_kernel::modules::index(scratch, release, doing, log)?;
    for entry in fs::read_dir(&all).map_err(io)? {
        let entry = entry.map_err(io)?;
        let meta = fs::symlink_metadata(entry.path()).map_err(io)?;
        if meta.is_file() && entry.file_name().to_string_lossy().starts_with("modules.") {
            fs::rename(entry.path(), dir.join(entry.file_name())).map_err(io)?;
        }
    }
    Ok(())
}

/// Links a kernel's own modules into `all`, with its build's index files.
fn link_own(own: &Path, all: &Path) -> io::Result<()> {
    for entry in fs::read_dir(own)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let text = name.to_string_lossy();
        if text == "extra" {
            for module in fs::read_dir(&path)? {
                let module = module?;
                symlink(module.path(), all.join("extra").join(module.file_name()))?;
            }
        } else if entry.file_type()?.is_dir()
            || text == "modules.order"
            || text.starts_with("modules.builtin") && !text.ends_with(".bin")
        {
            symlink(&path, all.join(&name))?;
        }
    }
    Ok(())
}
