//! The user's consent to what a worktree's own files do on the host. Settings that only concern the
//! guest need none.
//!
//! A worktree may have been cloned a minute ago. Its settings can name programs that quiz runs, its
//! profiles can contain some, and it can contain records of runs. `quiz allow` shows what reaches
//! the host and stores a digest of it in the user's state directory. A changed digest needs consent
//! again.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use hmac::{Hmac, KeyInit, Mac};
use quiz_config::item::EnvItem;
use quiz_config::profile::{Profile, Source};
use quiz_config::worktree::{SETTINGS_FILE, STATE_DIR};
use quiz_config::{Chosen, DiskSpec, Given, Origin, Settings, WorktreeMode};
use quiz_host::digest;
use quiz_vm::visible::visible;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use walkdir::WalkDir;

use crate::context::Context;
use crate::evidence::history::quoted;
use crate::fault::Fault;
use crate::outcome::record::Call;

/// Something in a worktree that affects the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// `quiz.toml`, `profile NAME` or `run ID`.
    pub name: String,
    /// What it does on the host, one line for each effect.
    pub lines: Vec<String>,
    /// SHA-256 of everything that the consent covers.
    digest: String,
}

/// What the user has allowed for one worktree.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Allowed {
    worktree: String,
    /// Digests by the names of items.
    items: BTreeMap<String, String>,
}

/// The prefix of the names of items that are recorded calls.
const RUN: &str = "run ";

/// A digest over texts and files. It covers their lengths, so that no two sequences are alike.
#[derive(Default)]
struct Sum(Vec<u8>);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(digest::of_bytes(bytes).as_bytes());
    }

    fn finish(self) -> String {
        digest::of_bytes(&self.0)
    }
}

/// Returns the settings of the worktree's file that affect the host, in the order of the keys: key,
/// value and place of each.
///
/// Most settings, such as the kernel, the memory and the time limits, affect only the guest. These
/// affect the host:
///
/// - programs, and arguments for QEMU
/// - sources of packages and of kernels
/// - directories outside the worktree, or that the guest may write to
/// - disks outside the worktree, or in `.git` or `.quiz`
/// - the caller's environment variables
fn reaching(settings: &Settings, of_profiles: &[Given], worktree: &Path) -> Vec<(String, String, String)> {
    let outside = |path: &Path| !fs::canonicalize(path).is_ok_and(|path| path.starts_with(worktree));
    // The guest could write git's or quiz's settings to a disk there.
    let inner =
        |path: &Path| path.components().any(|part| [".git", STATE_DIR].iter().any(|name| part.as_os_str() == *name));
    let reaches = |key: &str| match key {
        "qemu" | "qemu_args" | "watch_build" | "mirrors" | "keyring" | "special_files" => true,
        "worktree" => settings.worktree.as_ref().is_some_and(|mode| mode.value == WorktreeMode::ReadWrite),
        "shares" => {
            let shares = settings.shares.iter().flat_map(|shares| &shares.value);
            shares.into_iter().any(|share| share.writable || outside(&share.host))
        }
        "disks" => {
            let disks = settings.disks.iter().flat_map(|disks| &disks.value);
            disks.into_iter().any(|disk| matches!(disk, DiskSpec::File { path, .. } if outside(path) || inner(path)))
        }
        "env" => {
            let items = settings.env.iter().flat_map(|items| &items.value);
            items.into_iter().any(|item| matches!(item, EnvItem::Pass(_)))
        }
        key => key.starts_with("kernel_build."),
    };
    let place = |origins: &[Origin]| {
        origins.iter().find(|origin| matches!(origin, Origin::Worktree { .. })).map(ToString::to_string)
    };
    let of_settings = settings
        .effective()
        .into_iter()
        .filter(|one| reaches(one.key))
        .filter_map(|one| Some((one.key.to_owned(), one.value?.to_string(), place(&one.origins)?)));
    let of_profiles = of_profiles.iter().map(|given| {
        let key = format!("profile.{}.{}", given.profile, given.option);
        (key, format!("{:?}", given.value), given.origin.clone())
    });
    of_settings.chain(of_profiles).collect()
}

/// Returns what in the worktree's settings file affects the host, whatever the other layers set.
fn settings_item(ctx: &Context) -> Result<Option<Item>, Fault> {
    let Some(worktree) = &ctx.worktree else { return Ok(None) };
    let sources = quiz_config::Sources {
        worktree_file: worktree.settings.clone(),
        cwd: worktree.dir.clone(),
        home: ctx.paths.home.clone(),
        ..Default::default()
    };
    let loaded = quiz_config::load(&sources)?;
    let found = reaching(&loaded.settings, &loaded.profile_options, &worktree.dir);
    if found.is_empty() {
        return Ok(None);
    }
    let mut sum = Sum::default();
    for (key, value, _) in &found {
        sum.add(key.as_bytes());
        sum.add(value.as_bytes());
    }
    // The consent covers the worktree's own programs and files, too.
    let settings = &loaded.settings;
    let named = [
        settings.qemu.as_ref().map(|program| program.value.0.clone()),
        settings.keyring.as_ref().map(|file| file.value.clone()),
        settings.build_keyring.as_ref().map(|file| file.value.clone()),
    ];
    let fragments = settings.build_fragments.iter().flat_map(|files| &files.value).map(|file| PathBuf::from(&file.0));
    for file in named.into_iter().flatten().chain(fragments).filter(|file| file.starts_with(&worktree.dir)) {
        sum.add(&fs::read(&file).unwrap_or_default());
    }
    let lines = found.iter().map(|(key, value, place)| visible(&format!("{key} = {value}  ({place})"))).collect();
    Ok(Some(Item { name: SETTINGS_FILE.to_owned(), lines, digest: sum.finish() }))
}

/// Returns the item for a profile of the worktree that has a program for the host.
fn profile_item(profile: &Profile) -> Result<Option<Item>, Fault> {
    let Some(setup) = profile.setup().filter(|_| profile.source == Source::Worktree) else { return Ok(None) };
    let mut sum = Sum::default();
    for entry in WalkDir::new(&profile.dir).sort_by_file_name() {
        let entry = entry.map_err(|e| Fault::new(format!("cannot read the profile {}: {e}", profile.name)))?;
        let path = entry.path();
        sum.add(path.strip_prefix(&profile.dir).unwrap_or(path).as_os_str().as_bytes());
        if entry.file_type().is_symlink() {
            sum.add(fs::read_link(path)?.as_os_str().as_bytes());
        }
        // The consent covers what a link leads to, too, because the host would run that.
        if fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
            sum.add(&fs::read(path)?);
        }
    }
    let lines = vec![visible(&format!("its setup runs on this host before each run: {}", setup.display()))];
    Ok(Some(Item { name: format!("profile {}", profile.name), lines, digest: sum.finish() }))
}

/// Returns everything in the worktree that affects the host now.
pub fn items(ctx: &Context) -> Result<Vec<Item>, Fault> {
    let mut items: Vec<Item> = settings_item(ctx)?.into_iter().collect();
    for (_, profile) in ctx.profiles()?.catalog.all() {
        if let Ok(profile) = profile {
            items.extend(profile_item(profile)?);
        }
    }
    Ok(items)
}

/// Returns the item for a call in a record that someone else has written.
pub fn call_item(id: &str, call: &Call) -> Item {
    let text = serde_json::to_string(call).unwrap_or_default();
    let words = call.words.iter().map(|word| quoted(word));
    let variables = call.variables.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
    let mut line: Vec<String> = variables.collect();
    line.push("quiz".to_owned());
    line.extend(words);
    let lines = vec![visible(&line.join(" ")), visible(&format!("in {}", call.directory.display()))];
    Item { name: format!("{RUN}{id}"), lines, digest: digest::of_bytes(text.as_bytes()) }
}

/// Refuses settings of the worktree that affect the host and are in effect, unless the user has
/// allowed them.
pub fn require_settings(settings: &Settings, of_profiles: &[Given], ctx: &Context) -> Result<(), Fault> {
    let Some(worktree) = &ctx.worktree else { return Ok(()) };
    let Some(file) = &worktree.settings else { return Ok(()) };
    let from_file = format!("{}:", file.display());
    let of_worktree: Vec<Given> =
        of_profiles.iter().filter(|given| given.origin.starts_with(&from_file)).cloned().collect();
    if reaching(settings, &of_worktree, &worktree.dir).is_empty() {
        return Ok(());
    }
    settings_item(ctx)?.map_or(Ok(()), |item| require(&item, ctx))
}

/// Refuses profiles of the worktree with programs for the host, unless the user has allowed them.
pub fn require_profiles(chosen: &[Chosen], ctx: &Context) -> Result<(), Fault> {
    for one in chosen {
        if let Some(item) = profile_item(&one.profile)? {
            require(&item, ctx)?;
        }
    }
    Ok(())
}

/// Refuses `item` unless the user has allowed it as it is now.
pub fn require(item: &Item, ctx: &Context) -> Result<(), Fault> {
    let allowed = read(ctx);
    if allowed.items.get(&item.name) == Some(&item.digest) {
        return Ok(());
    }
    let what =
        if allowed.items.contains_key(&item.name) { "has changed since you allowed it" } else { "is not allowed yet" };
    let lines: String = item.lines.iter().map(|line| format!("\n  {line}")).collect();
    let command = match item.name.strip_prefix(RUN) {
        Some(id) => format!("quiz allow --run {id}"),
        None => "quiz allow".to_owned(),
    };
    Err(Fault::new(format!("cannot use {} of this worktree: it reaches your host and {what}:{lines}", item.name))
        .hint(format!("if you trust it, `{command}` allows it as it is now")))
}

/// Stores that the user allows `items` of the worktree. If `instead` is true, they replace what was
/// allowed before, except recorded calls.
pub fn allow(items: &[Item], instead: bool, ctx: &Context) -> Result<(), Fault> {
    let Some(file) = file(ctx)? else { return Err(no_worktree()) };
    let mut allowed = read(ctx);
    if instead {
        allowed.items.retain(|name, _| name.starts_with(RUN));
    }
    allowed.worktree = ctx.worktree.as_ref().map(|worktree| worktree.dir.display().to_string()).unwrap_or_default();
    allowed.items.extend(items.iter().map(|item| (item.name.clone(), item.digest.clone())));
    let dir = file.parent().unwrap_or(Path::new("/"));
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        let mut new = tempfile::NamedTempFile::new_in(dir)?;
        new.write_all(serde_json::to_string_pretty(&allowed)?.as_bytes())?;
        new.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
        new.persist(&file)?;
        Ok(())
    };
    write().map_err(|e| Fault::new(format!("cannot note what you allow in {}: {e}", file.display())))
}

/// Revokes all that the user has allowed for the worktree. Returns whether there was anything.
pub fn forget(ctx: &Context) -> Result<bool, Fault> {
    let Some(file) = file(ctx)? else { return Err(no_worktree()) };
    match fs::remove_file(&file) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn no_worktree() -> Fault {
    Fault::new("this is no worktree: there is nothing to allow")
}

/// Returns the file that stores the consent. It is below the user's own directory, where nothing
/// comes from the worktree.
fn file(ctx: &Context) -> Result<Option<PathBuf>, Fault> {
    let Some(worktree) = &ctx.worktree else { return Ok(None) };
    let name = &digest::of_bytes(worktree.dir.as_os_str().as_bytes())[..20];
    Ok(Some(ctx.paths.state()?.join("allowed").join(format!("{name}.json"))))
}

fn read(ctx: &Context) -> Allowed {
    let text = file(ctx).ok().flatten().and_then(|file| fs::read(file).ok());
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Returns a seal that marks `call` as this user's own: only this user has the key.
pub fn seal(call: &Call, ctx: &Context) -> Option<String> {
    let text = serde_json::to_vec(call).ok()?;
    let mac = Hmac::<Sha256>::new_from_slice(&key(ctx).ok()?).ok()?.chain_update(&text).finalize();
    Some(mac.into_bytes().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether `seal` is the seal of `call`.
pub fn is_sealed(call: &Call, seal: Option<&str>, ctx: &Context) -> bool {
    seal.is_some() && self::seal(call, ctx).as_deref() == seal
}

/// Returns the user's key. Makes it if there is none.
fn key(ctx: &Context) -> Result<Vec<u8>, Fault> {
    const BYTES: usize = 32;
    let file = ctx.paths.state()?.join("key");
    match fs::read(&file) {
        Ok(key) if key.len() == BYTES => return Ok(key),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let dir = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let mut key = vec![0; BYTES];
    let filled = rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())?;
    key.truncate(filled);
    // Only the user can read a temporary file.
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    new.write_all(&key)?;
    match new.persist_noclobber(&file) {
        Ok(_) => Ok(key),
        // Another quiz process was first, or the file has another length and seals nothing.
        Err(_) => Ok(fs::read(&file)?),
    }
}
