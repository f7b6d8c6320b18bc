//! Plans how to load the staged modules: in which order, and with which parameters. Not for loading
//! them: the guest's agent does that.

use std::collections::BTreeMap;
use std::io;

use crate::elf::ModuleInfo;
use crate::stage::Staged;

/// Why the modules cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A parameter does not have the form `NAME=VALUE`.
    #[error("`{0}` is no parameter of a module: write NAME=VALUE, without blanks, as in zfs_arc_max=268435456")]
    NotAParameter(String),
    /// No module has the parameter.
    #[error("none of {} has a parameter `{name}`{}", modules.join(", "), nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownParameter {
        /// The parameter.
        name: String,
        /// OpenZFS's modules.
        modules: Vec<String>,
        /// The most similar parameter.
        nearest: Option<String>,
    },
    /// Modules depend on each other.
    #[error("the modules {} need each other", .0.join(", "))]
    Cycle(Vec<String>),
    /// There is no `zfs.ko`.
    #[error("the build has no module `zfs`")]
    NoZfs,
    /// A module cannot be read.
    #[error("cannot read OpenZFS's modules: {0}")]
    Io(#[from] io::Error),
}

/// The plan for loading the modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loading {
    /// Modules of the kernel itself, by name. They are loaded first, with their dependencies.
    pub kernel: Vec<String>,
    /// The file names of OpenZFS's modules in load order, each with its parameters (`NAME=VALUE`).
    pub modules: Vec<(String, Vec<String>)>,
}

/// Plans the loading of `staged`'s modules with `parameters`, each `NAME=VALUE` or
/// `MODULE.NAME=VALUE`.
pub fn plan(staged: &Staged, parameters: &[String]) -> Result<Loading, LoadError> {
    let mut infos = BTreeMap::new();
    for path in &staged.files {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        infos.insert(stem(&file), (file, ModuleInfo::read(path)?));
    }
    let mut described = BTreeMap::new();
    for (name, (file, info)) in &infos {
        let depends = info.depends().into_iter().map(stem).collect();
        described.insert(name.clone(), Described { file, depends, parameters: info.parameters() });
    }
    order(&described, parameters)
}

/// The module's name: `znvpair.ko` is `znvpair`; `-` and `_` are the same.
fn stem(file: &str) -> String {
    file.strip_suffix(".ko").unwrap_or(file).replace('-', "_")
}

struct Described<'a> {
    file: &'a str,
    depends: Vec<String>,
    parameters: Vec<&'a str>,
}

fn order(modules: &BTreeMap<String, Described<'_>>, parameters: &[String]) -> Result<Loading, LoadError> {
    if !modules.contains_key("zfs") {
        return Err(LoadError::NoZfs);
    }
    let mut walk = Walk { modules, path: Vec::new(), order: Vec::new(), kernel: Vec::new() };
    walk.visit("zfs")?;
    let (order, kernel) = (walk.order, walk.kernel);
    let mut given: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for parameter in parameters {
        let (module, assignment) = owner(&order, modules, parameter)?;
        given.entry(module).or_default().push(assignment);
    }
    let modules = order
        .iter()
        .map(|name| (modules[name].file.to_owned(), given.remove(name.as_str()).unwrap_or_default()))
        .collect();
    Ok(Loading { kernel, modules })
}

struct Walk<'a> {
    modules: &'a BTreeMap<String, Described<'a>>,
    path: Vec<String>,
    order: Vec<String>,
    kernel: Vec<String>,
}

impl Walk<'_> {
    fn visit(&mut self, name: &str) -> Result<(), LoadError> {
        if self.path.iter().any(|n| n == name) {
            return Err(LoadError::Cycle(self.path.clone()));
        }
        let list = if self.modules.contains_key(name) { &self.order } else { &self.kernel };
        if list.iter().any(|n| n == name) {
            return Ok(());
        }
        let Some(module) = self.modules.get(name) else {
            self.kernel.push(name.to_owned());
            return Ok(());
        };
        self.path.push(name.to_owned());
        for needed in &module.depends {
            self.visit(needed)?;
        }
        self.path.pop();
        self.order.push(name.to_owned());
        Ok(())
    }
}

/// The module that a parameter belongs to, and the parameter without the module's name.
fn owner<'a>(
    order: &'a [String],
    modules: &BTreeMap<String, Described<'_>>,
    parameter: &str,
) -> Result<(&'a str, String), LoadError> {
    let not = || LoadError::NotAParameter(parameter.to_owned());
    let (key, value) = parameter.split_once('=').ok_or_else(not)?;
    if key.is_empty() || parameter.contains(char::is_whitespace) || parameter.contains('"') {
        return Err(not());
    }
    let (module, name) = match key.split_once('.') {
        Some((module, name)) => (Some(stem(module)), name),
        None => (None, key),
    };
    let candidates = order.iter().filter(|n| module.as_ref().is_none_or(|m| m == *n));
    let all = || candidates.clone().flat_map(|n| modules[n].parameters.iter().map(move |p| (n, *p)));
    if let Some((owner, known)) = all().find(|(_, known)| known.replace('-', "_") == name.replace('-', "_")) {
        return Ok((owner, format!("{known}={value}")));
    }
    let nearest = all().map(|(_, known)| (strsim::jaro_winkler(known, name), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    Err(LoadError::UnknownParameter {
        name: key.to_owned(),
        modules: order.to_vec(),
        nearest: nearest.filter(|(likeness, _)| *likeness > 0.85).map(|(_, known)| known.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules<'a>(list: &'a [(&'a str, &'a [&'a str], &'a [&'a str])]) -> BTreeMap<String, Described<'a>> {
        let one = |(file, depends, parameters): &(&'a str, &'a [&'a str], &'a [&'a str])| {
            let depends = depends.iter().map(|d| (*d).to_owned()).collect();
            (stem(file), Described { file, depends, parameters: parameters.to_vec() })
        };
        list.iter().map(one).collect()
    }

    fn list(parameters: &[&str]) -> Vec<String> {
        parameters.iter().map(|p| (*p).to_owned()).collect()
    }

    #[test]
    fn what_is_needed_comes_first_and_the_kernels_own_before_all() {
        let old = modules(&[
            ("zfs.ko", &["zcommon", "znvpair", "spl", "zlib_deflate"], &["zfs_arc_max"]),
            ("zcommon.ko", &["znvpair", "spl"], &[]),
            ("znvpair.ko", &["spl"], &[]),
            ("spl.ko", &["zlib_deflate"], &["spl_hostid"]),
            ("unrelated.ko", &[], &[]),
        ]);
        let loading = order(&old, &list(&["spl_hostid=7", "zfs_arc_max=1"])).unwrap();
        assert_eq!(loading.kernel, ["zlib_deflate"]);
        let wanted = [
            ("spl.ko", vec!["spl_hostid=7"]),
            ("znvpair.ko", vec![]),
            ("zcommon.ko", vec![]),
            ("zfs.ko", vec!["zfs_arc_max=1"]),
        ];
        let wanted: Vec<(String, Vec<String>)> = wanted.map(|(file, given)| (file.to_owned(), list(&given))).into();
        assert_eq!(loading.modules, wanted);
    }

    #[test]
    fn parameters_go_to_the_module_that_has_them() {
        let two =
            modules(&[("zfs.ko", &["spl"], &["zfs_arc_max", "debug"]), ("spl.ko", &[], &["debug", "spl_hostid"])]);
        let given = |parameter: &str| order(&two, &list(&[parameter])).map(|loading| loading.modules);
        assert_eq!(given("zfs.debug=1").unwrap()[1].1, ["debug=1"]);
        assert_eq!(given("debug=a=b").unwrap()[0].1, ["debug=a=b"], "the first that is loaded");
        assert_eq!(given("zfs-arc-max=0").unwrap()[1].1, ["zfs_arc_max=0"]);
        assert!(given("zfs_arc_mex=1").unwrap_err().to_string().contains("did you mean `zfs_arc_max`?"));
        assert!(
            given("spl.zfs_arc_max=1")
                .unwrap_err()
                .to_string()
                .starts_with("none of spl, zfs has a parameter `spl.zfs_arc_max`")
        );
        for bad in ["zfs_arc_max", "=1", "zfs_arc_max=1 2", "a\"b=1", ""] {
            assert!(matches!(given(bad), Err(LoadError::NotAParameter(_))), "{bad}");
        }
    }

    #[test]
    fn modules_without_an_order_are_refused() {
        let cycle = modules(&[("zfs.ko", &["spl"], &[]), ("spl.ko", &["zfs"], &[])]);
        assert!(matches!(order(&cycle, &[]), Err(LoadError::Cycle(_))));
        assert!(matches!(order(&modules(&[("spl.ko", &[], &[])]), &[]), Err(LoadError::NoZfs)));
    }
}
