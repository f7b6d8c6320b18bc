//! Plans with apt which packages make up a file system, and in which order they are installed. Not
//! for installing them.

use super::{Apt, AptError, bytes_in};
use fs_err as fs;
use quiz_host::command::CommandError;
use quiz_host::report::{Report, Unit};
use quiz_host::store::StoreError;
use std::io::Read;
use std::path::PathBuf;

/// The package that declares the merged `/usr`.
const USR_IS_MERGED: &str = "usr-is-merged";

/// One call of dpkg, with the names of packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Unpack these, in this order.
    Unpack(Vec<String>),
    /// Configure these.
    Configure(Vec<String>),
}

/// The packages that apt would install, and the steps.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Names, versions and architectures.
    packages: Vec<(String, String, String)>,
    steps: Vec<Step>,
}

impl Apt {
    /// Downloads the essential packages of the suite `base` and their dependencies. The files exist
    /// as long as `self`.
    ///
    /// `merged` requests the package that declares the merged `/usr`, so that apt does not choose
    /// one that would do the merging.
    pub fn fetch_essential(&self, base: &str, merged: bool, report: &dyn Report) -> Result<Vec<PathBuf>, AptError> {
        let suite = format!("?or(?archive(^{base}$),?codename(^{base}$))");
        let essential = format!("?narrow({suite},?architecture({}),?essential)", self.arch);
        let mut wanted = vec![essential.as_str()];
        wanted.extend(merged.then_some(USR_IS_MERGED));
        Ok(self.fetch_to_install(&wanted, "essential packages", report)?.0)
    }

    /// Whether the release has the merged `/usr`.
    pub fn knows_merged_usr(&self) -> Result<bool, AptError> {
        Ok(self.show(USR_IS_MERGED)?.is_some())
    }

    /// Downloads `packages` and their dependencies, except for those installed according to
    /// `status`, the text of dpkg's status file. Plans their installation.
    pub fn fetch_beyond(
        &self,
        status: &str,
        packages: &[&str],
        report: &dyn Report,
    ) -> Result<(Vec<PathBuf>, Vec<Step>), AptError> {
        fs::write(self.dir.path().join("status"), status)
            .map_err(StoreError::io("write the list of installed packages for apt"))?;
        self.fetch_to_install(packages, "further packages", report)
    }

    fn fetch_to_install(
        &self,
        packages: &[&str],
        what: &str,
        report: &dyn Report,
    ) -> Result<(Vec<PathBuf>, Vec<Step>), AptError> {
        let plan = self.plan(packages)?;
        let archives = self.dir.path().join("cache/archives");
        let had = bytes_in(&archives);
        let progress = report.start(&format!("downloading {what} of {}", self.release), None, Unit::Bytes);
        let doing = format!("download {what} of {} for {}", self.release, self.arch);
        let args = [&["install", "--download-only", "--yes"], packages].concat();
        self.tool("apt-get", &args, &doing).run(|_| progress.at(bytes_in(&archives).saturating_sub(had)))?;
        let file = |(name, version, arch): &(String, String, String)| {
            format!("{name}_{}_{arch}.deb", version.replace(':', "%3a"))
        };
        // apt uses files of a mirror on this host directly, and copies them only if told to
        // download them.
        let local: Vec<_> = plan.packages.iter().filter(|package| !archives.join(file(package)).exists()).collect();
        if !local.is_empty() {
            let exact: Vec<String> = local.iter().map(|(name, version, _)| format!("{name}={version}")).collect();
            let args: Vec<&str> = std::iter::once("download").chain(exact.iter().map(String::as_str)).collect();
            self.tool("apt-get", &args, &doing).run(|_| {})?;
        }
        let debs = self.dir.path().join("debs");
        let find = |package| {
            let paths = [archives.join(file(package)), debs.join(file(package))];
            let there = paths.iter().find(|path| path.exists()).unwrap_or(&paths[0]);
            fs::canonicalize(there).map_err(|e| AptError::from(StoreError::io(&doing)(e)))
        };
        let files = plan.packages.iter().map(find).collect::<Result<_, _>>()?;
        progress.done();
        Ok((files, plan.steps))
    }

    fn plan(&self, packages: &[&str]) -> Result<Plan, AptError> {
        let doing = format!("choose packages of {} for {}", self.release, self.arch);
        let args = [&["install", "--simulate", "--yes"], packages].concat();
        let mut text = String::new();
        self.tool("apt-get", &args, &doing).stream(|out| {
            out.read_to_string(&mut text).map_err(|cause| CommandError::Io {
                doing: doing.clone(),
                program: "apt-get".to_owned(),
                cause,
            })
        })?;
        Ok(Plan::read(&text))
    }
}

impl Plan {
    /// Reads apt's plan: `Inst NAME (VERSION … [ARCH])` and `Conf NAME (…)`. Adjacent lines of one
    /// kind become one step.
    fn read(text: &str) -> Plan {
        let mut plan = Plan::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(what @ ("Inst" | "Conf")), Some(name)) = (words.next(), words.next()) else { continue };
            let name = name.split(':').next().unwrap_or(name).to_owned();
            if what == "Inst"
                && let Some((_, rest)) = line.split_once(" (")
                && let Some((inner, _)) = rest.split_once(')')
            {
                let version = inner.split(' ').next().unwrap_or_default().to_owned();
                let arch = inner.rsplit(" [").next().unwrap_or_default().trim_end_matches(']').to_owned();
                plan.packages.push((name.clone(), version, arch));
            }
            match (what, plan.steps.last_mut()) {
                ("Inst", Some(Step::Unpack(names))) | ("Conf", Some(Step::Configure(names))) => names.push(name),
                ("Inst", _) => plan.steps.push(Step::Unpack(vec![name])),
                _ => plan.steps.push(Step::Configure(vec![name])),
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apts_plan_is_read_in_its_order() {
        let text = "Reading package lists...\nThe following NEW packages will be installed:\n  a b c\n\
             Inst a (1:1.0-1 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [amd64]) []\n\
             Inst b [0] (2 Debian:12.15/oldstable [all])\nConf b (2 Debian [all])\nConf a (1 Debian [amd64])\n\
             Inst c:i386 (3~rc1+b1  [i386])\nConf c:i386 (3 Debian [i386])\n";
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let plan = Plan::read(text);
        assert_eq!(
            plan.steps,
            [
                Step::Unpack(names(&["a", "b"])),
                Step::Configure(names(&["b", "a"])),
                Step::Unpack(names(&["c"])),
                Step::Configure(names(&["c"])),
            ]
        );
        let package = |name: &str, version: &str, arch: &str| (name.to_owned(), version.to_owned(), arch.to_owned());
        assert_eq!(
            plan.packages,
            [package("a", "1:1.0-1", "amd64"), package("b", "2", "all"), package("c", "3~rc1+b1", "i386")]
        );
        assert_eq!(Plan::read("0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n"), Plan::default());
    }
}
