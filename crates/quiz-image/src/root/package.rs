//! Packages in the form that a VM installs: without compression, which is slow on an emulated
//! processor.

use fs_err as fs;
use quiz_debian::deb::DebError;
use quiz_host::command::{CommandError, Run};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

const MAGIC: &[u8] = b"!<arch>\n";
const HEADER: u64 = 60;
/// Offset of the size in a member's header, in bytes.
const SIZE_AT: u64 = 48;

/// A package whose files are not compressed.
#[derive(Debug)]
pub(super) struct Package {
    /// Its name, without the architecture.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Its control stanza.
    control: String,
    /// The offset and the length of the archive of its files, in bytes.
    data: (u64, u64),
}

impl Package {
    /// Writes the package `deb` without compression into the directory `to`.
    pub fn rewrite(deb: &Path, to: &Path, log: &Path) -> Result<Package, DebError> {
        let file = deb.file_name().unwrap_or_default();
        let path = to.join(file);
        let doing = format!("read {}", file.to_string_lossy());
        let failed = |cause: io::Error| DebError::Io { doing: doing.clone(), cause };
        let mut out = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        out.write_all(MAGIC).map_err(failed)?;
        member(&mut out, "debian-binary", |out| out.write_all(b"2.0\n").map_err(failed))?;
        let part = |option: &str, out: &mut fs::File| {
            let mut command = Command::new("dpkg-deb");
            command.arg(option).arg(deb);
            Run { command, doing: &doing, log }.stream(|stream| {
                io::copy(stream, out).map_err(failed)?;
                Ok::<_, DebError>(())
            })
        };
        let control = member(&mut out, "control.tar", |out| part("--ctrl-tarfile", out))?;
        let data = member(&mut out, "data.tar", |out| part("--fsys-tarfile", out))?;
        let control = control_stanza(&mut out, control).map_err(failed)?;
        let name = field(&control, "Package").map(str::to_owned);
        let name = name.ok_or_else(|| failed(io::Error::other("it does not name its package")))?;
        Ok(Package { name, path, control, data })
    }

    /// The file name of the package.
    pub fn file_name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Its stanza in dpkg's status file once it is installed.
    pub fn installed(&self) -> String {
        format!("{}\nStatus: install ok installed\n\n", self.control.trim_end())
    }

    /// The archive of its files.
    pub fn files(&self) -> io::Result<tar::Archive<impl Read + use<>>> {
        let mut file = fs::File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.data.0))?;
        Ok(tar::Archive::new(io::BufReader::with_capacity(1 << 18, file.take(self.data.1))))
    }
}

/// Appends a member that `write` fills, and returns its offset and length.
fn member<E: From<CommandError> + From<DebError>>(
    out: &mut fs::File,
    name: &str,
    write: impl FnOnce(&mut fs::File) -> Result<(), E>,
) -> Result<(u64, u64), E> {
    let failed = |cause: io::Error| E::from(DebError::Io { doing: format!("write {name}"), cause });
    let start = out.seek(SeekFrom::End(0)).map_err(failed)?;
    let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, 0);
    out.write_all(header.as_bytes()).map_err(failed)?;
    write(out)?;
    let end = out.stream_position().map_err(failed)?;
    let size = end - start - HEADER;
    // Members begin at even offsets.
    if size % 2 == 1 {
        out.write_all(b"\n").map_err(failed)?;
    }
    out.seek(SeekFrom::Start(start + SIZE_AT)).map_err(failed)?;
    out.write_all(format!("{size:<10}").as_bytes()).map_err(failed)?;
    Ok((start + HEADER, size))
}

fn control_stanza(file: &mut fs::File, (start, size): (u64, u64)) -> io::Result<String> {
    file.seek(SeekFrom::Start(start))?;
    let mut archive = tar::Archive::new(file.take(size));
    for item in archive.entries()? {
        let mut item = item?;
        if item.path()?.file_name().is_some_and(|name| name == "control") {
            let mut text = String::new();
            item.read_to_string(&mut text)?;
            return Ok(text);
        }
    }
    Err(io::Error::other("it has no control file"))
}

fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes the package `name` of the files that `fill` puts into a directory.
    pub fn make(dir: &Path, name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
        let tree = dir.join(format!("{name}-tree"));
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = format!("Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n more\n");
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        fill(&tree);
        let deb = dir.join(format!("{name}_1_all.deb"));
        let mut command = Command::new("dpkg-deb");
        command.args(["--root-owner-group", "-Zxz", "-b"]).arg(&tree).arg(&deb);
        Run { command, doing: "make a package", log: &dir.join("log") }.run(|_| {}).unwrap();
        deb
    }

    #[test]
    fn a_package_that_is_written_anew_is_the_same_without_compression() {
        let dir = tempfile::tempdir().unwrap();
        let deb = make(dir.path(), "plain", |tree| {
            fs::create_dir(tree.join("etc")).unwrap();
            fs::write(tree.join("etc/plain.conf"), "contents of a length that is odd!".repeat(99)).unwrap();
        });
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        let log = dir.path().join("log");
        let package = Package::rewrite(&deb, &to, &log).unwrap();
        assert_eq!((package.name.as_str(), package.file_name()), ("plain", "plain_1_all.deb"));
        assert!(package.installed().ends_with("\n more\nStatus: install ok installed\n\n"), "{}", package.installed());
        let listed = |deb: &Path| {
            let output = Command::new("dpkg-deb").arg("-c").arg(deb).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            output.stdout
        };
        assert_eq!(listed(&package.path), listed(&deb));
        let names: Vec<_> = package
            .files()
            .unwrap()
            .entries()
            .unwrap()
            .map(|item| item.unwrap().path().unwrap().into_owned())
            .collect();
        assert!(names.contains(&"./etc/plain.conf".into()), "{names:?}");
        // dpkg-deb itself names the members that it finds.
        let bytes = fs::read(&package.path).unwrap();
        assert!(bytes.windows(9).any(|window| window == b"data.tar "));

        fs::write(&deb, &fs::read(&deb).unwrap()[..300]).unwrap();
        fs::remove_file(&package.path).unwrap();
        assert!(Package::rewrite(&deb, &to, &log).is_err());
    }
}
