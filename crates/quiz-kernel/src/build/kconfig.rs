//! Reads a source's Kconfig files, to explain to a user why an option differs from the request. Not
//! a full reading of the Kconfig language: the kernel's own tools decide, and this only explains
//! afterwards.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use fs_err as fs;
use walkdir::{DirEntry, WalkDir};

use super::fragment::{Lost, Outcome, Value};
use quiz_host::digest;

/// One definition of an option.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Definition {
    prompt: bool,
    /// The option can be a module.
    tristate: bool,
    /// Expressions that must all be true.
    depends: Vec<String>,
}

/// The options of a source tree.
#[derive(Debug, Default)]
pub struct Kconfig {
    defined: HashMap<String, Vec<Definition>>,
    /// For each option, the options that select it.
    selected_by: HashMap<String, Vec<String>>,
}

impl Kconfig {
    /// Reads all Kconfig files of a source tree, of the architectures only `srcarch`. Unreadable
    /// files are skipped: a poorer explanation is better than none.
    pub fn scan(source: &Path, srcarch: &str) -> Kconfig {
        let mut kconfig = Kconfig::default();
        for path in files(source, srcarch) {
            if let Ok(text) = fs::read(path) {
                kconfig.read(&String::from_utf8_lossy(&text));
            }
        }
        kconfig
    }

    fn read(&mut self, text: &str) {
        let joined = text.replace("\\\n", " ");
        // Conditions of the enclosing `if` and `menu` blocks.
        let mut blocks: Vec<Vec<String>> = vec![Vec::new()];
        let mut option: Option<String> = None;
        let mut help: Option<usize> = None;
        for line in joined.lines() {
            let indent = line.len() - line.trim_start().len();
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // Help text is indented deeper than its keyword.
            if let Some(depth) = help {
                if indent > depth {
                    continue;
                }
                help = None;
            }
            let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            let rest = rest.trim();
            match word {
                "config" | "menuconfig" => {
                    let depends = blocks.iter().flatten().cloned().collect();
                    self.defined
                        .entry(rest.to_owned())
                        .or_default()
                        .push(Definition { depends, ..Definition::default() });
                    option = Some(rest.to_owned());
                }
                "if" | "menu" | "choice" => {
                    blocks.push(if word == "if" { vec![comment_free(rest).to_owned()] } else { Vec::new() });
                    option = None;
                }
                "endif" | "endmenu" | "endchoice" => {
                    if blocks.len() > 1 {
                        blocks.pop();
                    }
                    option = None;
                }
                "comment" | "source" | "mainmenu" => option = None,
                "help" | "---help---" => help = Some(indent),
                "depends" => {
                    let expression = comment_free(rest.strip_prefix("on").unwrap_or(rest)).to_owned();
                    match option.as_ref().and_then(|key| self.definition(key)) {
                        Some(definition) => definition.depends.push(expression),
                        None => blocks.last_mut().into_iter().for_each(|block| block.push(expression.clone())),
                    }
                }
                "bool" | "tristate" | "string" | "int" | "hex" | "prompt" => {
                    if word == "tristate"
                        && let Some(definition) = option.as_ref().and_then(|key| self.definition(key))
                    {
                        definition.tristate = true;
                    }
                    if rest.starts_with(['"', '\''])
                        && let Some(definition) = option.as_ref().and_then(|key| self.definition(key))
                    {
                        definition.prompt = true;
                        if let Some((_, condition)) = rest.rsplit_once("\" if ") {
                            definition.depends.push(comment_free(condition).to_owned());
                        }
                    }
                }
                "select" | "imply" => {
                    if let (Some(key), Some(target)) = (&option, rest.split_whitespace().next()) {
                        self.selected_by.entry(target.to_owned()).or_default().push(key.clone());
                    }
                }
                _ => {}
            }
        }
    }

    fn definition(&mut self, key: &str) -> Option<&mut Definition> {
        self.defined.get_mut(key)?.last_mut()
    }

    /// Whether the source has the option at all.
    pub fn knows(&self, key: &str) -> bool {
        self.defined.contains_key(key)
    }

    /// Why an option differs from the request, as far as that can be determined. The text follows
    /// "because".
    pub fn reason(&self, lost: &Lost, outcome: &Outcome) -> Option<String> {
        let Some(definitions) = self.defined.get(&lost.key) else {
            return Some("this source has no such option".to_owned());
        };
        if lost.got != Value::No && matches!(lost.asked, Value::No | Value::Module) {
            let mut selecting: Vec<&str> = self
                .selected_by
                .get(&lost.key)
                .into_iter()
                .flatten()
                .filter(|key| outcome.has(key))
                .map(String::as_str)
                .collect();
            selecting.sort_unstable();
            selecting.dedup();
            selecting.truncate(6);
            return (!selecting.is_empty()).then(|| format!("it is selected by {}", selecting.join(", ")));
        }
        if lost.asked == Value::Module && definitions.iter().all(|d| !d.tristate) {
            return Some("it cannot be a module, only y or n".to_owned());
        }
        if definitions.iter().all(|d| !d.prompt) {
            let mut selecting: Vec<&str> =
                self.selected_by.get(&lost.key).into_iter().flatten().map(String::as_str).collect();
            selecting.sort_unstable();
            selecting.dedup();
            selecting.truncate(6);
            return Some(match selecting[..] {
                [] => "it has no prompt: the source decides about it".to_owned(),
                _ => format!("it has no prompt: only other options select it ({})", selecting.join(", ")),
            });
        }
        let unmet = |d: &Definition| -> Vec<String> {
            let conditions = d.depends.iter().flat_map(|e| split(e, "&&"));
            conditions.filter(|c| holds(c, outcome) == Some(false)).map(str::to_owned).collect()
        };
        // Any one definition with a prompt would do; the one with the fewest unmet conditions
        // explains most.
        let mut nearest = definitions.iter().filter(|d| d.prompt).map(unmet).min_by_key(Vec::len)?;
        nearest.sort();
        nearest.dedup();
        if nearest.is_empty() {
            return None;
        }
        let values: Vec<String> = nearest.iter().map(|term| with_values(term, outcome)).collect();
        Some(format!("it needs {}", values.join(" and ")))
    }
}

/// The Kconfig files of a source tree, of the architectures only those of `srcarch`.
fn files(source: &Path, srcarch: &str) -> Vec<PathBuf> {
    let arch = source.join("arch");
    let wanted = |path: &Path, name: &str| path.parent() != Some(&arch) || name == srcarch || name == "Kconfig";
    let skipped = ["Documentation", "samples", ".git"];
    let entries = WalkDir::new(source).sort_by_file_name().into_iter().filter_entry(|entry| {
        let name = entry.file_name().to_string_lossy();
        !(entry.depth() == 1 && skipped.contains(&&*name)) && wanted(entry.path(), &name)
    });
    entries
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("Kconfig") && e.file_type().is_file())
        .map(DirEntry::into_path)
        .collect()
}

/// A text that changes when a Kconfig file of the source changes.
pub(crate) fn state(source: &Path, srcarch: &str) -> String {
    let mut all = String::new();
    for path in files(source, srcarch) {
        if let Ok(meta) = fs::metadata(&path) {
            all += &format!("{} {} {:?}\n", path.display(), meta.len(), meta.modified().ok());
        }
    }
    digest::of_bytes(all.as_bytes())
}

fn comment_free(expression: &str) -> &str {
    expression.split('#').next().unwrap_or(expression).trim()
}

/// Splits at an operator outside of parentheses, and removes parentheses around a part.
fn split<'a>(expression: &'a str, operator: &str) -> Vec<&'a str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, c) in expression.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth == 0 && at >= start && expression[at..].starts_with(operator) => {
                parts.push(expression[start..at].trim());
                start = at + operator.len();
            }
            _ => {}
        }
    }
    parts.push(expression[start..].trim());
    parts
}

/// Whether a condition is true; `None` if the outcome does not tell, as for preprocessor calls.
fn holds(expression: &str, outcome: &Outcome) -> Option<bool> {
    let expression = expression.trim();
    let alternatives = split(expression, "||");
    if alternatives.len() > 1 {
        let held: Vec<_> = alternatives.iter().map(|a| holds(a, outcome)).collect();
        return if held.contains(&Some(true)) {
            Some(true)
        } else {
            held.into_iter().collect::<Option<Vec<_>>>().map(|_| false)
        };
    }
    let parts = split(expression, "&&");
    if parts.len() > 1 {
        let held: Vec<_> = parts.iter().map(|p| holds(p, outcome)).collect();
        return if held.contains(&Some(false)) {
            Some(false)
        } else {
            held.into_iter().collect::<Option<Vec<_>>>().map(|_| true)
        };
    }
    if expression.contains('$') {
        return None;
    }
    if let Some(inner) = expression.strip_prefix('(').and_then(|e| e.strip_suffix(')')) {
        return holds(inner, outcome);
    }
    for (operator, equal) in [("!=", false), ("=", true)] {
        if let Some((left, right)) = expression.split_once(operator) {
            // `<` and `>` compare compiler versions, which is the preprocessor's task.
            if expression.contains(['<', '>']) {
                return None;
            }
            let value = outcome.value(left.trim()).to_string();
            let same = value.trim_matches('"') == right.trim().trim_matches('"');
            return Some(same == equal);
        }
    }
    if let Some(inner) = expression.strip_prefix('!') {
        return holds(inner, outcome).map(|held| !held);
    }
    match expression {
        "y" | "m" => Some(true),
        "n" => Some(false),
        name if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => Some(outcome.has(name)),
        _ => None,
    }
}

/// The condition, with the values of its options if they are not obvious.
fn with_values(term: &str, outcome: &Outcome) -> String {
    let mut names: Vec<&str> = term
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|w| w.len() > 1 && w.starts_with(|c: char| c.is_ascii_uppercase()))
        .collect();
    names.dedup();
    names.truncate(4);
    let now: Vec<String> = names.iter().map(|name| format!("{name}={}", outcome.value(name))).collect();
    format!("{term} (now {})", now.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
menuconfig MEDIA
	tristate "Media"
	depends on HAS_IOMEM && (PCI || \
		USB)
	help
	  config NOT_AN_OPTION
	  depends on nothing

if MEDIA

config CAMERA
	bool "Camera" if EXPERT
	depends on !SMALL	# a remark
	depends on ARCH_X = "y"
	select LENS

endif # MEDIA

config LENS
	tristate

config LONELY
	bool

config CLANGY
	bool "Clang only"
	depends on $(cc-option,-fx) && CC_IS_CLANG
"#;

    fn kconfig() -> Kconfig {
        let mut kconfig = Kconfig::default();
        kconfig.read(TEXT);
        kconfig
    }

    fn reason(key: &str, asked: Value, config: &str) -> String {
        let outcome = Outcome::read(config);
        let lost = Lost { key: key.to_owned(), asked, got: outcome.value(key), by: String::new() };
        kconfig().reason(&lost, &outcome).unwrap_or_default()
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            reason("CAMERA", Value::Yes, "CONFIG_ARCH_X=y\nCONFIG_SMALL=y\n"),
            "it needs !SMALL (now SMALL=y) and EXPERT (now EXPERT=n) and MEDIA (now MEDIA=n)"
        );
        assert_eq!(
            reason("MEDIA", Value::Yes, "CONFIG_HAS_IOMEM=y\n"),
            "it needs (PCI || USB) (now PCI=n, USB=n)".replace("PCI || USB", "PCI ||  \t\tUSB")
        );
        assert_eq!(reason("MEDIA", Value::Yes, "CONFIG_HAS_IOMEM=y\nCONFIG_USB=m\n"), "");
        assert_eq!(reason("CLANGY", Value::Yes, ""), "it needs CC_IS_CLANG (now CC_IS_CLANG=n)");
        assert_eq!(reason("CAMERA", Value::Module, ""), "it cannot be a module, only y or n");
        assert_eq!(reason("NOT_AN_OPTION", Value::Yes, ""), "this source has no such option");
    }

    #[test]
    fn selected_options_are_told_apart() {
        assert_eq!(reason("LENS", Value::No, "CONFIG_LENS=y\nCONFIG_CAMERA=y\n"), "it is selected by CAMERA");
        assert_eq!(reason("LENS", Value::Yes, ""), "it has no prompt: only other options select it (CAMERA)");
        assert_eq!(reason("LONELY", Value::Yes, ""), "it has no prompt: the source decides about it");
    }

    #[test]
    fn only_the_own_architecture_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for (path, option) in
            [("Kconfig", "TOP"), ("arch/Kconfig", "GENERIC"), ("arch/x86/Kconfig", "X"), ("arch/arm/Kconfig", "ARM")]
        {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("config {option}\n\tbool \"x\"\n")).unwrap();
        }
        let kconfig = Kconfig::scan(dir.path(), "x86");
        assert!(kconfig.knows("TOP") && kconfig.knows("GENERIC") && kconfig.knows("X") && !kconfig.knows("ARM"));
    }
}
