//! Checks the invariants of ARCHITECTURE.md that the compiler does not enforce, as tests over the
//! sources, and draws its picture of the crates. Not for style: rustfmt and clippy check that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use fs_err as fs;
use serde_json::Value;

use crate::sh::{cargo, top};

/// The marks around the picture in ARCHITECTURE.md.
const BEGIN: &str = "<!-- made by cargo xtask picture -->\n";
const END: &str = "<!-- end -->\n";

/// Writes the picture of the crates into ARCHITECTURE.md.
///
/// # Errors
/// Fails if the page cannot be read or written, or lacks the marks around the picture.
pub fn draw() -> Result<(), String> {
    let page = top().join("ARCHITECTURE.md");
    let text = fs::read_to_string(&page).map_err(|e| e.to_string())?;
    let with = with_picture(&text, &picture(&crates()?)).ok_or("ARCHITECTURE.md has no place for the picture")?;
    fs::write(&page, with).map_err(|e| e.to_string())
}

fn with_picture(page: &str, picture: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{picture}{END}{after}"))
}

/// The crates of the workspace by name, each with the workspace crates that it needs at run time.
fn crates() -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let packages = packages()?;
    let names: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let own = |package: &Value| needs(package).into_iter().filter(|name| names.contains(name.as_str())).collect();
    Ok(packages.iter().map(|package| (text(&package["name"]), own(package))).collect())
}

/// Cargo's metadata of the workspace's packages.
fn packages() -> Result<Vec<Value>, String> {
    let output = cargo().args(["metadata", "--format-version", "1", "--no-deps", "--offline"]).output();
    let output = output.map_err(|e| format!("cargo metadata: {e}"))?;
    let mut metadata: Value = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
    match metadata["packages"].take() {
        Value::Array(packages) => Ok(packages),
        _ => Err("cargo metadata names no packages".to_owned()),
    }
}

/// The names of the packages that `package` needs at run time.
fn needs(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    all.filter(|needed| needed["kind"].is_null()).map(|needed| text(&needed["name"])).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The crates in layers, each above the crates that it needs; only direct dependencies are named.
fn picture(crates: &BTreeMap<String, BTreeSet<String>>) -> String {
    let shown = |name: &str| !["quiz-fuzz", "quiz-testing", "xtask"].contains(&name);
    fn all<'a>(name: &str, crates: &'a BTreeMap<String, BTreeSet<String>>, found: &mut BTreeSet<&'a str>) {
        for needed in crates.get(name).into_iter().flatten() {
            if found.insert(needed) {
                all(needed, crates, found);
            }
        }
    }
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (name, own) in crates.iter().filter(|(name, _)| shown(name)) {
        let mut below = BTreeSet::new();
        for needed in own {
            all(needed, crates, &mut below);
        }
        let nearest: Vec<&str> = own.iter().map(String::as_str).filter(|needed| !below.contains(needed)).collect();
        lines.push((depth(name, crates), format!("{name:<17} {}", nearest.join(", ")).trim_end().to_owned()));
    }
    lines.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut text = "```text\n".to_owned();
    for (_, line) in lines {
        writeln!(text, "{line}").expect("a string grows");
    }
    text + "```\n"
}

/// The number of crates on the longest path of dependencies.
fn depth(name: &str, crates: &BTreeMap<String, BTreeSet<String>>) -> usize {
    let below = crates.get(name).into_iter().flatten();
    below.map(|needed| depth(needed, crates) + 1).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// The directories of the crates' sources, by crate name.
    fn all_sources() -> Vec<(String, PathBuf)> {
        let dir = |package: &Value| Path::new(&text(&package["manifest_path"])).with_file_name("src");
        packages().unwrap().iter().map(|package| (text(&package["name"]), dir(package))).collect()
    }

    /// The Rust files below `dir`, without files that contain only tests.
    fn sources(dir: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
        let (dirs, files): (Vec<_>, Vec<_>) =
            entries.map(|entry| entry.unwrap().path()).partition(|path| path.is_dir());
        let rust = files
            .into_iter()
            .filter(|file| file.extension().is_some_and(|extension| extension == "rs") && !file.ends_with("tests.rs"));
        rust.chain(dirs.iter().flat_map(|dir| sources(dir))).collect()
    }

    /// A file without its tests and comments.
    fn code(file: &Path) -> String {
        let text = fs::read_to_string(file).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect()
    }

    /// The module path of a file: `a::b` for `src/a/b.rs`; empty for the crate's root.
    fn module(src: &Path, file: &Path) -> String {
        let path = file.strip_prefix(src).unwrap().with_extension("");
        let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).filter(|part| *part != "mod").collect();
        if parts == ["lib"] || parts == ["main"] { String::new() } else { parts.join("::") }
    }

    /// The paths in a `use` or a path expression: `a::{b, c::d}` contains two.
    fn expand(prefix: &str, text: &str, paths: &mut Vec<String>) {
        let text = text.trim();
        let Some((front, group)) = text.split_once('{') else {
            let name = text.split(" as ").next().unwrap_or_default().trim();
            return paths.push(format!("{prefix}{name}"));
        };
        let (mut depth, mut item) = (0, String::new());
        for c in group.trim_end().strip_suffix('}').unwrap_or(group).chars().chain([',']) {
            match c {
                ',' if depth == 0 => {
                    if !item.trim().is_empty() {
                        expand(&format!("{prefix}{}", front.trim()), &item, paths);
                    }
                    item.clear();
                    continue;
                }
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            item.push(c);
        }
    }

    /// The modules that `code` of the module `here` refers to by `crate::`, `super::` or as its own
    /// children.
    fn imports(code: &str, here: &str, known: &BTreeSet<String>) -> BTreeSet<String> {
        let mut paths = Vec::new();
        let mut rest = code.to_owned();
        while let Some(at) = rest.find("use ") {
            let end = rest[at..].find(';').map_or(rest.len(), |end| at + end);
            let starts = at == 0 || rest[..at].ends_with([' ', '\n']);
            if starts {
                expand("", &rest[at + 4..end].replace('\n', " "), &mut paths);
            }
            rest.replace_range(at..end, "");
        }
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        paths.extend(
            rest.split(|c| !is_name(c))
                .filter(|p| p.starts_with("crate::") || p.starts_with("super::"))
                .map(str::to_owned),
        );
        let mut found = BTreeSet::new();
        for path in paths {
            let mut parts: Vec<&str> = path.split("::").map(str::trim).collect();
            let mut base: Vec<&str> = here.split("::").filter(|part| !part.is_empty()).collect();
            match parts[0] {
                "crate" => base.clear(),
                "super" => {
                    while parts.first() == Some(&"super") {
                        base.pop();
                        parts.remove(0);
                    }
                    parts.insert(0, "");
                }
                "self" => {}
                first if known.contains(&[&base[..], &[first]].concat().join("::")) => parts.insert(0, ""),
                _ => continue,
            }
            base.extend(&parts[1..]);
            while !known.contains(&base.join("::")) {
                base.pop();
            }
            found.insert(base.join("::"));
        }
        found.remove(here);
        found
    }

    /// A cycle in `graph`, if there is one.
    fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
        fn visit(
            node: &str,
            graph: &BTreeMap<String, BTreeSet<String>>,
            way: &mut Vec<String>,
            done: &mut BTreeSet<String>,
        ) -> Option<Vec<String>> {
            if let Some(at) = way.iter().position(|known| known == node) {
                return Some(way[at..].to_vec());
            }
            if !done.contains(node) {
                way.push(node.to_owned());
                let found = graph.get(node).into_iter().flatten().find_map(|next| visit(next, graph, way, done));
                if found.is_some() {
                    return found;
                }
                way.pop();
                done.insert(node.to_owned());
            }
            None
        }
        let mut done = BTreeSet::new();
        graph.keys().find_map(|node| visit(node, graph, &mut Vec::new(), &mut done))
    }

    #[test]
    fn no_file_imports_one_that_imports_it() {
        for (name, src) in all_sources() {
            let files = sources(&src);
            let known: BTreeSet<String> = files.iter().map(|file| module(&src, file)).chain([String::new()]).collect();
            let graph = files.iter().map(|file| {
                let here = module(&src, file);
                let imports = imports(&code(file), &here, &known);
                (here, imports)
            });
            assert_eq!(circle(&graph.collect()), None, "{name}: these files import each other in a circle");
        }
    }

    #[test]
    fn circles_are_found() {
        let known: BTreeSet<String> = ["", "a", "a::b", "c"].map(str::to_owned).into();
        let code = "use super::{One, two};\nuse crate::c::{self, Three};\nlet x = crate::a::four();\n";
        let found = imports(code, "a::b", &known);
        assert_eq!(found, ["a", "c"].map(str::to_owned).into());
        assert_eq!(imports("pub use b::Five;", "a", &known), ["a::b".to_owned()].into());
        let edge = |from: &str, to: &[&str]| (from.to_owned(), to.iter().map(|to| (*to).to_owned()).collect());
        let tree = BTreeMap::from([edge("a", &["b", "c"]), edge("b", &["c"])]);
        assert_eq!(circle(&tree), None);
        let ring = BTreeMap::from([edge("a", &["b"]), edge("b", &["c"]), edge("c", &["b"])]);
        assert_eq!(circle(&ring), Some(vec!["b".to_owned(), "c".to_owned()]));
    }

    #[test]
    fn crates_need_only_what_lies_below_them() {
        let needs: BTreeMap<String, BTreeSet<String>> =
            packages().unwrap().iter().map(|package| (text(&package["name"]), needs(package))).collect();
        for (name, never) in [
            ("quiz-host", &["quiz-kernel", "quiz-image", "quiz-vm", "quiz-config", "quiz-needs", "quiz-zfs"][..]),
            ("quiz-vm", &["quiz-kernel", "quiz-image", "quiz-debian", "quiz-config"]),
            ("quiz-kernel", &["quiz-vm", "quiz-config", "quiz-image"]),
            ("quiz-image", &["quiz-vm", "quiz-config"]),
            ("quiz-debian", &["quiz-vm", "quiz-config", "quiz-kernel"]),
            ("quiz-config", &["quiz-run", "quiz-kernel", "quiz-image"]),
            ("quiz-zfs", &["quiz-vm", "quiz-config", "quiz-run"]),
            ("quiz-run", &["quiz-zfs", "quiz", "clap", "indicatif", "comfy-table", "miette"]),
        ] {
            for other in never {
                assert!(!needs[name].contains(*other), "{name} needs {other}");
            }
        }
        for (name, needed) in needs.iter().filter(|(name, _)| !["quiz", "xtask"].contains(&name.as_str())) {
            assert!(!needed.contains("clap"), "{name} needs clap, which is for the command line alone");
        }
    }

    /// The libraries get their inputs as data, and report through a parameter.
    #[test]
    fn only_programs_read_the_environment_and_write_to_standard_streams() {
        let programs = ["quiz", "quiz-agent", "quiz-agent-build", "quiz-testing", "xtask"];
        let never = [
            "std::env::var",
            "env::var_os(",
            "env::vars",
            "env::args",
            "env::current_exe",
            "env::current_dir",
            "io::stdout()",
            "io::stderr()",
            "io::stdin()",
            "println!",
            "eprintln!",
            "print!(",
        ];
        for (name, src) in all_sources() {
            if programs.contains(&name.as_str()) {
                continue;
            }
            for file in sources(&src) {
                let code = code(&file);
                for word in never {
                    assert!(!code.contains(word), "{} has {word}", file.display());
                }
            }
        }
    }

    /// An architecture is a row of quiz-arch's table: no other code checks for one by name.
    #[test]
    fn no_code_asks_which_architecture_it_has() {
        for (name, src) in all_sources() {
            // These crates name the architectures that are tested or measured.
            if ["quiz-arch", "xtask", "quiz-testing"].contains(&name.as_str()) {
                continue;
            }
            for file in sources(&src) {
                // The architecture that quiz is compiled for is not a guest's architecture.
                let code: String = code(&file).lines().filter(|line| !line.contains("target_arch")).collect();
                for arch in quiz_arch::ALL {
                    let named = format!("\"{}\"", arch.name);
                    assert!(!code.contains(&named), "{} asks for {named}", file.display());
                }
            }
        }
    }

    #[test]
    fn files_are_short_enough_to_be_read() {
        for (_, src) in all_sources() {
            for file in sources(&src) {
                let lines = fs::read_to_string(&file).unwrap().lines().count();
                assert!(lines <= 660, "{} has {lines} lines: a file has one subject", file.display());
            }
        }
    }

    /// Prose wraps at 100 columns, so that diffs of it can be read.
    #[test]
    fn comments_wrap() {
        for (_, src) in all_sources() {
            for file in sources(&src) {
                for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
                    let too_long = line.trim_start().starts_with("//") && line.chars().count() > 100;
                    assert!(!too_long || line.contains("://"), "{}:{}: {line}", file.display(), number + 1);
                }
            }
        }
    }

    #[test]
    fn every_dependency_has_its_reason() {
        let page = fs::read_to_string(top().join("docs/dependencies.md")).unwrap();
        let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
        let listed: BTreeSet<&str> = rows.filter(|name| !["crate", "---"].contains(name)).collect();
        let packages = packages().unwrap();
        let own: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
        let dependencies = packages.iter().flat_map(|package| package["dependencies"].as_array().unwrap());
        let mut needed: BTreeSet<String> = dependencies.map(|needed| text(&needed["name"])).collect();
        needed.insert("libfuzzer-sys".to_owned());
        let needed: BTreeSet<&str> = needed.difference(&own).map(String::as_str).collect();
        assert_eq!(needed, listed);
    }

    #[test]
    fn the_picture_of_the_crates_is_that_of_the_sources() {
        let page = fs::read_to_string(top().join("ARCHITECTURE.md")).unwrap();
        let with = with_picture(&page, &picture(&crates().unwrap())).expect("there is a place for it");
        assert!(page == with, "the picture in ARCHITECTURE.md is old: cargo xtask picture");
    }
}
