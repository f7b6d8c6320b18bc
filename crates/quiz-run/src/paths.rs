//! The locations of the user's files. Only this module reads `HOME`, `XDG_*` and `QUIZ_CACHE`. Not
//! for what is in the files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Why quiz cannot find a location.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// No variable gives the location.
    #[error("cannot find a place for {what}: HOME is not set; set it, or {instead}")]
    NoHome {
        /// What quiz looks for.
        what: &'static str,
        /// The variable that suffices alone.
        instead: &'static str,
    },
}

/// The locations, as the environment gives them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// The home directory.
    pub home: Option<PathBuf>,
    cache: Option<PathBuf>,
    config: Option<PathBuf>,
    state: Option<PathBuf>,
}

impl Paths {
    /// Reads `variables`. A relative `QUIZ_CACHE` begins at `cwd`.
    ///
    /// As the XDG rules demand, an empty variable counts as not set. So does a relative one, except
    /// for `QUIZ_CACHE`, which is quiz's own.
    pub fn new(variables: &[(OsString, OsString)], cwd: &Path) -> Paths {
        let variable = |name: &str| {
            let found = variables.iter().find(|(n, _)| n == name).map(|(_, value)| PathBuf::from(value));
            found.filter(|path| !path.as_os_str().is_empty())
        };
        let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let below = |name: &str, default: &str| {
            let base = absolute(name).or_else(|| home.as_ref().map(|home| home.join(default)));
            base.map(|base| base.join("quiz"))
        };
        Paths {
            cache: variable("QUIZ_CACHE").map(|path| cwd.join(path)).or_else(|| below("XDG_CACHE_HOME", ".cache")),
            config: below("XDG_CONFIG_HOME", ".config"),
            state: below("XDG_STATE_HOME", ".local/state"),
            home,
        }
    }

    /// Returns the directory of the cache.
    pub fn cache(&self) -> Result<PathBuf, PathsError> {
        self.cache.clone().ok_or(PathsError::NoHome { what: "the cache", instead: "QUIZ_CACHE" })
    }

    /// Returns the path of the user's settings, whether or not the file exists.
    pub fn config_file(&self) -> Option<PathBuf> {
        self.config.as_ref().map(|dir| dir.join("config.toml"))
    }

    /// Returns the directory of the user's profiles, whether or not it exists.
    pub fn profiles_dir(&self) -> Option<PathBuf> {
        self.config.as_ref().map(|dir| dir.join("profiles"))
    }

    /// Returns the user's state directory, which has the runs outside of any worktree.
    pub fn state(&self) -> Result<PathBuf, PathsError> {
        self.state.clone().ok_or(PathsError::NoHome { what: "the evidence of this run", instead: "XDG_STATE_HOME" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(pairs: &[(&str, &str)]) -> Paths {
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| (n.into(), v.into())).collect();
        Paths::new(&pairs, Path::new("/cwd"))
    }

    #[test]
    fn the_more_particular_variable_wins() {
        let cache = |pairs: &[(&str, &str)]| paths(pairs).cache().unwrap();
        assert_eq!(cache(&[("HOME", "/h")]), Path::new("/h/.cache/quiz"));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/quiz"));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "x")]), Path::new("/h/.cache/quiz"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x"), ("QUIZ_CACHE", "/q")]), Path::new("/q"));
        assert_eq!(cache(&[("QUIZ_CACHE", "q")]), Path::new("/cwd/q"));
        assert_eq!(cache(&[("QUIZ_CACHE", ""), ("HOME", "/h")]), Path::new("/h/.cache/quiz"));
        let all = paths(&[("HOME", "/h")]);
        assert_eq!(all.config_file(), Some("/h/.config/quiz/config.toml".into()));
        assert_eq!(all.state().unwrap(), Path::new("/h/.local/state/quiz"));
    }

    #[test]
    fn no_home_is_an_error_only_where_it_is_needed() {
        let homeless = paths(&[("HOME", "")]);
        assert_eq!(homeless.home, None);
        assert_eq!(homeless.config_file(), None);
        let message = homeless.cache().unwrap_err().to_string();
        assert_eq!(message, "cannot find a place for the cache: HOME is not set; set it, or QUIZ_CACHE");
        assert_eq!(paths(&[("QUIZ_CACHE", "/q")]).cache().unwrap(), Path::new("/q"));
    }
}
