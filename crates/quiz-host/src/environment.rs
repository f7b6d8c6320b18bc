//! The environment of all programs of a build. It has the variables that a program needs to run on
//! this host, and none that change the result. Options for a compiler, make or `configure` come
//! from quiz's own arguments, so a build is the same from any shell. Not for programs of the guest.

use std::ffi::{OsStr, OsString};
use std::process::Command;

/// The variables that programs of a build get. They get no others but [`KEPT_FAMILIES`].
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    // Where ccache and similar programs keep their files.
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// Prefixes of further variables that programs of a build get. They configure programs that cache
/// or distribute compilation.
const KEPT_FAMILIES: &[&str] = &["CCACHE_", "SCCACHE_", "DISTCC_", "ICECC_"];

/// The `PATH` if the caller has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    variables: Vec<(OsString, OsString)>,
}

impl Environment {
    /// The variables of the caller's environment that a build gets.
    pub fn of(variables: &[(OsString, OsString)]) -> Environment {
        let is_kept = |name: &OsStr| {
            let name = name.to_string_lossy();
            KEPT.contains(&&*name) || KEPT_FAMILIES.iter().any(|family| name.starts_with(family))
        };
        let mut kept: Vec<_> = variables.iter().filter(|(name, _)| is_kept(name)).cloned().collect();
        if !kept.iter().any(|(name, _)| name == "PATH") {
            kept.push(("PATH".into(), PATH.into()));
        }
        // quiz parses messages of programs, so they must be in English.
        kept.push(("LC_ALL".into(), "C.UTF-8".into()));
        Environment { variables: kept }
    }

    /// A command that runs `program` in this environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Default for Environment {
    /// An environment without variables of the caller.
    fn default() -> Environment {
        Environment::of(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_nothing_is_kept() {
        let given = [
            ("PATH", "/opt/bin:/usr/bin:/bin"),
            ("HOME", "/home/u"),
            ("https_proxy", "http://proxy:3128"),
            ("CCACHE_DIR", "/ccache"),
            ("LC_ALL", "de_DE.UTF-8"),
            ("CI", "true"),
            ("CC", "clang"),
            ("CFLAGS", "-O0"),
            ("MAKEFLAGS", "-k"),
            ("CONFIG_SITE", "/site"),
            ("KBUILD_OUTPUT", "/elsewhere"),
            ("O", "/elsewhere"),
            ("V", "1"),
            ("XCCACHE_DIR", "/x"),
        ]
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let seen = Environment::of(&given).command("env").output().unwrap();
        let mut seen: Vec<String> = String::from_utf8(seen.stdout).unwrap().lines().map(str::to_owned).collect();
        seen.sort();
        assert_eq!(
            seen,
            [
                "CCACHE_DIR=/ccache",
                "HOME=/home/u",
                "LC_ALL=C.UTF-8",
                "PATH=/opt/bin:/usr/bin:/bin",
                "https_proxy=http://proxy:3128"
            ]
        );
        let none = Environment::default().command("env").output().unwrap();
        assert_eq!(String::from_utf8(none.stdout).unwrap(), format!("LC_ALL=C.UTF-8\nPATH={PATH}\n"));
    }
}
