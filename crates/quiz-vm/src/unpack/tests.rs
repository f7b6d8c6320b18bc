use super::*;
use cap_std::ambient_authority;
use fs_err as fs;
use proptest::prelude::*;
use std::os::unix::fs::MetadataExt;

const BOUNDS: Bounds = Bounds { bytes: 1000, entries: 50 };

/// An archive entry with this raw name, even if the tar crate would refuse it.
fn entry(archive: &mut Vec<u8>, name: &[u8], kind: EntryType, link: &[u8], content: &[u8]) {
    entry_with_mode(archive, name, kind, link, content, 0o6755);
}

fn entry_with_mode(archive: &mut Vec<u8>, name: &[u8], kind: EntryType, link: &[u8], content: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    let old = header.as_gnu_mut().unwrap();
    old.name[..name.len()].copy_from_slice(name);
    old.linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_mtime(1_000_000);
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// A directory whose subdirectory `in/` is the one to unpack into.
struct Place {
    top: tempfile::TempDir,
    done: Unpacked,
    ended: io::Result<()>,
}

impl Place {
    fn unpack(archive: &[u8], rules: &Rules) -> Place {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("in")).unwrap();
        let dir = Dir::open_ambient_dir(top.path().join("in"), ambient_authority()).unwrap();
        let mut done = Unpacked::default();
        let ended = unpack(archive, &dir, rules, &mut done);
        Place { top, done, ended }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.top.path().join("in").join(name)
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.at(dir)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode(&self, name: &str) -> u32 {
        fs::symlink_metadata(self.at(name)).unwrap().mode() & 0o7777
    }
}

/// The umask of this process, from proc(5). umask(2) cannot read it without changing it.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(umask.trim(), 8).unwrap()
}

fn plain(archive: &[u8]) -> Place {
    Place::unpack(archive, &Rules { bounds: BOUNDS, only: None, faithful: false })
}

fn faithful(archive: &[u8], only: &[&str]) -> Place {
    let only: BTreeSet<OsString> = only.iter().map(OsString::from).collect();
    Place::unpack(archive, &Rules { bounds: Bounds::NONE, only: Some(&only), faithful: true })
}

#[test]
fn files_directories_and_inner_links_arrive() {
    let mut archive = Vec::new();
    entry(&mut archive, b"d/", EntryType::Directory, b"", b"");
    entry(&mut archive, b"d/f", EntryType::Regular, b"", b"text");
    entry(&mut archive, b"d/l", EntryType::Symlink, b"../d/f", b"");
    entry(&mut archive, b"h", EntryType::Link, b"d/f", b"");
    let place = plain(&archive);
    place.ended.as_ref().unwrap();
    assert_eq!(fs::read(place.at("d/l")).unwrap(), b"text");
    assert_eq!(fs::read(place.at("h")).unwrap(), b"text");
    assert_eq!((place.done.files, place.done.bytes, place.done.refusals), (3, 4, 0));
    assert_eq!(place.mode("d/f") & 0o7000, 0, "no set-uid bits from a guest");
}

#[test]
fn nothing_lands_outside() {
    let mut archive = Vec::new();
    entry(&mut archive, b"../up", EntryType::Regular, b"", b"x");
    entry(&mut archive, b"/abs", EntryType::Regular, b"", b"x");
    entry(&mut archive, b"/abs/", EntryType::Directory, b"", b"");
    entry(&mut archive, b"a/../../up", EntryType::Regular, b"", b"x");
    entry(&mut archive, b"etc", EntryType::Symlink, b"/etc", b"");
    entry(&mut archive, b"out", EntryType::Symlink, b"..", b"");
    entry(&mut archive, b"hard", EntryType::Link, b"/etc/passwd", b"");
    entry(&mut archive, b"hard", EntryType::Link, b"../x", b"");
    entry(&mut archive, b"fifo", EntryType::Fifo, b"", b"");
    entry(&mut archive, b"dev", EntryType::Block, b"", b"");
    entry(&mut archive, b".", EntryType::Directory, b"", b"");
    entry(&mut archive, b"good", EntryType::Regular, b"", b"x");
    let before = tempfile::tempdir().unwrap();
    let place = plain(&archive);
    drop(before);
    assert_eq!(place.done.refusals, 11, "{:?}", place.done.refused);
    assert_eq!(place.done.files, 1);
    assert_eq!(place.names(""), ["good"]);
    assert_eq!(place.names(".."), ["in"]);
}

/// A link whose path stays inside, but which leads out because one of its steps is a link.
#[test]
fn links_lead_out_by_no_number_of_steps() {
    let deep = "d/d/d/d";
    let mut archive = Vec::new();
    entry(&mut archive, format!("{deep}/up").as_bytes(), EntryType::Symlink, b"../../../..", b"");
    // `..` after a link goes up from the link's target.
    entry(&mut archive, b"one", EntryType::Symlink, b"d/d/d/d/up/..", b"");
    // In a directory that is a link to another one.
    entry(&mut archive, format!("{deep}/up/two").as_bytes(), EntryType::Symlink, b"../..", b"");
    entry(&mut archive, format!("{deep}/up/three").as_bytes(), EntryType::Regular, b"", b"x");
    // A hard link to a link, in a directory from which the link would lead too far up.
    entry(&mut archive, b"four", EntryType::Link, format!("{deep}/up").as_bytes(), b"");
    entry(&mut archive, format!("{deep}/up/x").as_bytes(), EntryType::Directory, b"", b"");
    entry(&mut archive, b"good", EntryType::Symlink, b"./d/d", b"");
    let place = plain(&archive);
    assert_eq!(place.done.refusals, 5, "{:?}", place.done.refused);
    assert_eq!(place.names(""), ["d", "good"]);
    assert_eq!(place.names(deep), ["up"]);
}

#[test]
fn a_link_cannot_be_written_through_nor_a_file_replaced() {
    let mut archive = Vec::new();
    entry(&mut archive, b"a", EntryType::Regular, b"", b"first");
    entry(&mut archive, b"l", EntryType::Symlink, b"a", b"");
    entry(&mut archive, b"l", EntryType::Regular, b"", b"second");
    let place = plain(&archive);
    assert_eq!(fs::read(place.at("a")).unwrap(), b"first");
    assert_eq!(place.done.refused, ["l: it comes a second time"]);
}

#[test]
fn size_and_number_are_bounded() {
    let mut archive = Vec::new();
    entry(&mut archive, b"big", EntryType::Regular, b"", &[0; 900]);
    entry(&mut archive, b"more", EntryType::Regular, b"", &[0; 900]);
    for i in 0..100 {
        entry(&mut archive, format!("n{i}").as_bytes(), EntryType::Regular, b"", b"");
    }
    let place = plain(&archive);
    assert_eq!(place.done.bytes, 900);
    assert!(place.done.files <= BOUNDS.entries);
    assert_eq!(place.done.refusals, 2, "{:?}", place.done.refused);
}

#[test]
fn long_names_arrive_and_longer_ones_end_the_archive() {
    let long = vec!["n".repeat(250); 12].join("/");
    let with_name = |name: &str| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &b"x"[..]).unwrap();
        archive.into_inner().unwrap()
    };
    let place = plain(&with_name(&long));
    assert_eq!(fs::read(place.at(&long)).unwrap(), b"x");
    let mut archive = Vec::new();
    entry(&mut archive, b"x", EntryType::GNULongName, b"", &[b'n'; 5000]);
    entry(&mut archive, b"x", EntryType::Regular, b"", b"");
    assert!(plain(&archive).ended.unwrap_err().to_string().contains("too long"));
    // The unpacker does not read it to find that out.
    let mut header = Vec::new();
    entry(&mut header, b"x", EntryType::GNULongName, b"", b"");
    let mut claimed = tar::Header::from_byte_slice(&header[..512]).clone();
    claimed.set_size(1 << 40);
    claimed.set_cksum();
    let place = plain(&[claimed.as_bytes().as_slice(), &[b'n'; 4096]].concat());
    assert!(place.ended.unwrap_err().to_string().contains("too long"));
}

#[test]
fn names_of_posix_archives_are_understood() {
    let mut archive = Vec::new();
    let record = |key: &str, value: &str| {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 2).to_string().len() + rest;
        format!("{length} {key}={value}\n")
    };
    let text = record("path", "d/real") + &record("mtime", "1.5");
    entry(&mut archive, b"pax", EntryType::XHeader, b"", text.as_bytes());
    entry(&mut archive, b"wrong", EntryType::Regular, b"", b"x");
    let place = plain(&archive);
    place.ended.as_ref().unwrap();
    assert_eq!(place.names("d"), ["real"]);
}

#[test]
fn only_what_was_asked_for_is_taken() {
    let mut archive = Vec::new();
    for name in [&b"./dmesg"[..], b"./.bashrc", b".git/hooks/post-checkout", b"dmesg2"] {
        entry(&mut archive, name, EntryType::Regular, b"", b"x");
    }
    entry(&mut archive, b".", EntryType::Directory, b"", b"");
    entry(&mut archive, b"dmesg/x", EntryType::Regular, b"", b"x");
    let place = faithful(&archive, &["dmesg"]);
    assert_eq!(place.names(""), ["dmesg"]);
    assert_eq!(place.done.refusals, 5, "{:?}", place.done.refused);
}

#[test]
fn modes_and_times_are_those_of_the_archive_less_what_is_special() {
    let mut archive = Vec::new();
    entry_with_mode(&mut archive, b"d", EntryType::Directory, b"", b"", 0o2555);
    entry_with_mode(&mut archive, b"d/e", EntryType::Directory, b"", b"", 0o700);
    entry_with_mode(&mut archive, b"d/e/f", EntryType::Regular, b"", b"x", 0o4755);
    entry_with_mode(&mut archive, b"d/g", EntryType::Regular, b"", b"x", 0o400);
    let place = faithful(&archive, &["d"]);
    place.ended.as_ref().unwrap();
    assert_eq!(place.done.refusals, 0, "{:?}", place.done.refused);
    let allowed = [0o555, 0o700, 0o755, 0o400].map(|mode| mode & !umask());
    assert_eq!(["d", "d/e", "d/e/f", "d/g"].map(|name| place.mode(name)), allowed);
    for name in ["d", "d/e", "d/e/f", "d/g"] {
        let time = fs::metadata(place.at(name)).unwrap().mtime();
        assert_eq!(time, 1_000_000, "{name}");
    }
}

#[test]
fn names_are_told_without_what_terminals_obey() {
    let mut archive = Vec::new();
    entry(&mut archive, b"\x1b]0;x\x07", EntryType::Fifo, b"", b"");
    let place = plain(&archive);
    assert_eq!(place.done.refused, ["\\u{1b}]0;x\\u{7}: it is no file, directory or link"]);
}

proptest! {
    #[test]
    fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let place = plain(&bytes);
        prop_assert_eq!(place.names(".."), ["in"]);
    }

    #[test]
    fn no_name_escapes(name in "[a./]{1,12}", link in "[a./]{1,12}", second in "[a./]{1,12}") {
        let mut archive = Vec::new();
        entry(&mut archive, name.as_bytes(), EntryType::Symlink, link.as_bytes(), b"");
        entry(&mut archive, format!("{name}/x").as_bytes(), EntryType::Regular, b"", b"y");
        entry(&mut archive, second.as_bytes(), EntryType::Link, name.as_bytes(), b"");
        entry(&mut archive, format!("{second}/l").as_bytes(), EntryType::Symlink, link.as_bytes(), b"");
        let place = plain(&archive);
        prop_assert_eq!(place.names(".."), ["in"]);
        let inside = fs::canonicalize(place.at("")).unwrap();
        for found in walkdir::WalkDir::new(place.at("")) {
            if let Ok(real) = fs::canonicalize(found.unwrap().path()) {
                prop_assert!(real.starts_with(&inside), "{}", real.display());
            }
        }
    }
}
