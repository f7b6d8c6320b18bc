//! `quiz cp`: copies files and directories into and out of a running VM. Not for the copying itself
//! (`quiz_run::transfer`).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use quiz_run::{Context, Fault, registry, transfer};

#[derive(Debug, Args)]
#[command(after_help = "\
Write a path in the guest as ID:PATH, or as :PATH for the newest run of this
worktree. quiz copies directories with their contents, and links as links. It
keeps modes and times, except set-uid bits of a guest; in the guest, root owns
all files. It does not copy links that lead out of the copied directory. If the
destination is a directory or ends in a slash, the copy is placed inside.

  quiz cp core.patch :/tmp/           into the newest VM
  quiz cp 4b2c:/var/log/ ./evidence   out of the VM whose id ends in 4b2c")]
pub struct Cp {
    /// Files and directories to copy
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<OsString>,
    /// File or directory to copy to
    #[arg(required = true, value_name = "DESTINATION")]
    pub destination: OsString,
}

/// A path on the host or in a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Host(PathBuf),
    /// In the VM with that id; without an id, in the newest.
    Guest(Option<String>, PathBuf),
}

/// Parses `ID:PATH`, `:PATH`, or a path on the host. A path on the host has a slash before the
/// colon, or no colon.
fn place(word: &OsStr) -> Place {
    let bytes = word.as_bytes();
    match bytes.iter().position(|b| matches!(b, b':' | b'/')).filter(|at| bytes[*at] == b':') {
        None => Place::Host(word.into()),
        Some(at) => {
            let id = String::from_utf8_lossy(&bytes[..at]).into_owned();
            Place::Guest(Some(id).filter(|id| !id.is_empty()), OsStr::from_bytes(&bytes[at + 1..]).into())
        }
    }
}

pub fn run(args: &Cp, ctx: &Context) -> Result<(), Fault> {
    let cache = ctx.cache()?;
    let find = |id: Option<&str>| registry::find(&cache, &ctx.runs_dir()?.path(), id);
    let sources: Vec<Place> = args.sources.iter().map(|word| place(word)).collect();
    let mut from_host = Vec::new();
    let mut from_guest = Vec::new();
    for source in sources {
        match source {
            Place::Host(path) => from_host.push(ctx.cwd.join(path)),
            Place::Guest(id, path) => from_guest.push((id, path)),
        }
    }
    match place(&args.destination) {
        Place::Guest(id, destination) if from_guest.is_empty() => {
            transfer::into_guest(&from_host, &destination, &find(id.as_deref())?, ctx)
        }
        Place::Host(destination) if from_host.is_empty() => {
            let (ids, paths): (Vec<_>, Vec<_>) = from_guest.into_iter().unzip();
            if ids.iter().any(|id| *id != ids[0]) {
                return Err(Fault::new("the sources are in several VMs").hint("copy from one after the other"));
            }
            let running = find(ids[0].as_deref())?;
            transfer::out_of_guest(&paths, &args.destination, &ctx.cwd.join(destination), &running, ctx)
        }
        _ => Err(Fault::new("one side is to be in a VM and the other on the host")
            .hint("a path in the guest is written ID:PATH, or :PATH for the newest run of this worktree")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_makes_a_path_the_guests_unless_a_slash_comes_first() {
        let at = |word: &str| place(word.as_ref());
        assert_eq!(at(":/tmp/x"), Place::Guest(None, "/tmp/x".into()));
        assert_eq!(at("4b2c:x:y"), Place::Guest(Some("4b2c".into()), "x:y".into()));
        assert_eq!(at("./a:b"), Place::Host("./a:b".into()));
        assert_eq!(at("/a:b"), Place::Host("/a:b".into()));
        assert_eq!(at("plain"), Place::Host("plain".into()));
    }
}
