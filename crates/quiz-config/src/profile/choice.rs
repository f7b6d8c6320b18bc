//! Decides which profiles a run includes, in which order, with which values: a pure function of the
//! catalog and of what was asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::definition::{Profile, ProfileError, Source};
use super::option::{Kind, Written};
use crate::nearest::nearest;
use crate::value::Place;

/// All profiles.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    profiles: BTreeMap<String, Result<Profile, ProfileError>>,
}

/// An option of a profile that some layer sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The profile.
    pub profile: String,
    /// The option.
    pub option: String,
    /// The value.
    pub value: Written,
    /// The source of the value, for messages: a file and line, a variable, a command line option.
    pub origin: String,
    /// The place that relative paths in the value start from.
    pub place: Place,
    /// For lists: adds to the values of lower layers. An empty text drops those instead.
    pub adds: bool,
}

/// A profile that a run includes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub profile: Profile,
    /// The value of each of its options, as its programs receive it.
    pub values: BTreeMap<String, String>,
}

impl Catalog {
    /// Reads every profile below `places`. A place is a directory with one directory for each
    /// profile, and need not exist. A later profile replaces an earlier one of the same name.
    pub fn read(places: &[(Source, PathBuf)]) -> Catalog {
        let mut profiles = BTreeMap::new();
        for (source, place) in places {
            let Ok(found) = fs_err::read_dir(place) else { continue };
            for dir in found.flatten().map(|entry| entry.path()).filter(|path| path.join("profile.toml").is_file()) {
                let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
                profiles.insert(name.clone(), Profile::read(&name, *source, &dir));
            }
        }
        Catalog { profiles }
    }

    /// All profiles by name; an unusable one as its error.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Result<Profile, ProfileError>)> {
        self.profiles.iter().map(|(name, profile)| (name.as_str(), profile))
    }

    /// The profile `name`. `asked_by` names what needs it; empty if the user named it.
    pub fn get(&self, name: &str, asked_by: &str) -> Result<&Profile, ProfileError> {
        match self.profiles.get(name) {
            Some(Ok(profile)) => Ok(profile),
            Some(Err(error)) => Err(error.clone()),
            None => Err(ProfileError::Unknown {
                name: name.to_owned(),
                asked_by: asked_by.to_owned(),
                nearest: nearest(name, self.profiles.keys().map(String::as_str)).map(str::to_owned),
            }),
        }
    }

    /// Splits variables that are no settings into options of profiles, and unknown variables.
    pub fn variables(&self, unknown: Vec<(String, String)>, place: &Place) -> (Vec<Given>, Vec<String>) {
        let mut given = Vec::new();
        let mut rest = Vec::new();
        for (variable, value) in unknown {
            let usable = self.profiles.values().flatten();
            let mut options = usable.flat_map(|p| p.options.keys().map(move |o| (p, o)));
            match options.find(|(profile, option)| profile.variable(option) == variable) {
                Some((profile, option)) if !value.is_empty() => given.push(Given {
                    profile: profile.name.clone(),
                    option: option.clone(),
                    value: Written::One(value),
                    origin: variable,
                    place: place.clone(),
                    adds: false,
                }),
                Some(_) => {}
                None => rest.push(variable),
            }
        }
        (given, rest)
    }

    /// The profiles of a run that `asked` for these, with the profiles that they need. Each comes
    /// after those that must come first; otherwise the order of `asked` applies. `given` is in the
    /// order of the layers, the strongest last.
    pub fn choose(&self, asked: &[String], given: &[Given]) -> Result<Vec<Chosen>, ProfileError> {
        for one in given {
            let profile = self.get(&one.profile, &one.origin)?;
            if !profile.options.contains_key(&one.option) {
                return Err(ProfileError::UnknownOption {
                    profile: one.profile.clone(),
                    option: one.option.clone(),
                    origin: one.origin.clone(),
                    nearest: nearest(&one.option, profile.options.keys().map(String::as_str)).map(str::to_owned),
                });
            }
        }
        let mut included: Vec<&Profile> = Vec::new();
        for name in asked {
            self.include(name, "", &mut included)?;
        }
        let chosen = |profile: &Profile| -> Result<Chosen, ProfileError> {
            Ok(Chosen { profile: profile.clone(), values: values(profile, given)? })
        };
        in_order(included)?.into_iter().map(chosen).collect()
    }

    fn include<'a>(&'a self, name: &str, asked_by: &str, included: &mut Vec<&'a Profile>) -> Result<(), ProfileError> {
        let profile = self.get(name, asked_by)?;
        if !included.iter().any(|there| there.name == profile.name) {
            included.push(profile);
            for needed in &profile.needs {
                self.include(needed, &format!("the profile `{name}` needs it"), included)?;
            }
        }
        Ok(())
    }
}

fn in_order(mut waiting: Vec<&Profile>) -> Result<Vec<&Profile>, ProfileError> {
    let mut placed: Vec<&Profile> = Vec::new();
    while !waiting.is_empty() {
        let free = |profile: &&Profile| {
            let before = profile.needs.iter().chain(&profile.after);
            before
                .into_iter()
                .all(|name| !waiting.iter().any(|other| other.name == *name && other.name != profile.name))
        };
        match waiting.iter().position(free) {
            Some(next) => placed.push(waiting.remove(next)),
            None => return Err(ProfileError::Cycle(waiting.iter().map(|profile| profile.name.clone()).collect())),
        }
    }
    Ok(placed)
}

fn values(profile: &Profile, given: &[Given]) -> Result<BTreeMap<String, String>, ProfileError> {
    let mut values: BTreeMap<String, String> =
        profile.options.iter().map(|(name, spec)| (name.clone(), spec.default_value())).collect();
    for one in given.iter().filter(|one| one.profile == profile.name) {
        let spec = &profile.options[&one.option];
        let value = spec.value(&one.value, &one.place).ok_or_else(|| ProfileError::Value {
            profile: profile.name.clone(),
            option: one.option.clone(),
            origin: one.origin.clone(),
            found: one.value.to_string(),
            wanted: spec.wanted(),
        })?;
        let before = values.get(&one.option).cloned().unwrap_or_default();
        let value = match (spec.kind, one.adds) {
            (Kind::List, true) if !before.is_empty() && !value.is_empty() => format!("{before}\n{value}"),
            _ => value,
        };
        values.insert(one.option.clone(), value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(profiles: &[(&str, &str)]) -> (tempfile::TempDir, Catalog) {
        let top = tempfile::tempdir().unwrap();
        for (name, text) in profiles {
            let dir = top.path().join(name);
            fs_err::create_dir_all(&dir).unwrap();
            fs_err::write(dir.join("profile.toml"), format!("about = \"x\"\n{text}")).unwrap();
        }
        let catalog = Catalog::read(&[(Source::BuiltIn, top.path().to_owned())]);
        (top, catalog)
    }

    fn names(catalog: &Catalog, asked: &[&str]) -> Result<String, ProfileError> {
        let asked: Vec<String> = asked.iter().map(|&name| name.to_owned()).collect();
        let chosen = catalog.choose(&asked, &[])?;
        Ok(chosen.iter().map(|c| c.profile.name.as_str()).collect::<Vec<_>>().join(" "))
    }

    fn given(profile: &str, option: &str, value: &str, adds: bool) -> Given {
        Given {
            profile: profile.to_owned(),
            option: option.to_owned(),
            value: Written::One(value.to_owned()),
            origin: "-p".to_owned(),
            place: Place { dir: "/cwd".into(), home: None },
            adds,
        }
    }

    #[test]
    fn what_is_needed_comes_along_and_everything_in_its_place() {
        let (_top, catalog) = catalog(&[
            ("pool", "needs = [\"zfs\"]\nafter = [\"memdev\", \"blockdev\"]"),
            ("zfs", ""),
            ("memdev", ""),
            ("blockdev", ""),
            ("selfish", "after = [\"selfish\"]"),
        ]);
        assert_eq!(names(&catalog, &["pool"]).unwrap(), "zfs pool");
        assert_eq!(names(&catalog, &["pool", "memdev"]).unwrap(), "zfs memdev pool");
        assert_eq!(names(&catalog, &["memdev", "zfs", "blockdev", "memdev"]).unwrap(), "memdev zfs blockdev");
        assert_eq!(names(&catalog, &["selfish"]).unwrap(), "selfish");
        assert_eq!(names(&catalog, &[]).unwrap(), "");
    }

    #[test]
    fn what_cannot_be_is_named() {
        let (_top, catalog) = catalog(&[
            ("a", "needs = [\"b\"]"),
            ("b", "after = [\"a\"]"),
            ("c", "needs = [\"memdve\"]"),
            ("memdev", ""),
            ("broken", "option = 3"),
            ("Bad", ""),
        ]);
        let error = |asked: &[&str]| names(&catalog, asked).unwrap_err().to_string();
        assert!(error(&["a"]).contains("the profiles a, b each want to come after another"));
        assert_eq!(error(&["memdve"]), "there is no profile `memdve`; did you mean `memdev`?");
        assert!(error(&["c"]).contains("`memdve` (the profile `c` needs it); did you mean `memdev`?"));
        assert!(error(&["broken"]).contains("broken/profile.toml"));
        assert!(error(&["Bad"]).contains("no name for a profile"));
    }

    #[test]
    fn options_have_the_strongest_layers_value() {
        let (_top, catalog) = catalog(&[(
            "d",
            "[option.count]\ntype = \"integer\"\nabout = \"\"\ndefault = 4\nmin = 1\nmax = 8\n\
             [option.size]\ntype = \"size\"\nabout = \"\"\ndefault = \"1G\"\n\
             [option.fast]\ntype = \"bool\"\nabout = \"\"\ndefault = false\n\
             [option.file]\ntype = \"path\"\nabout = \"\"\n\
             [option.kind]\ntype = \"choice\"\nvalues = [\"a\", \"b\"]\nabout = \"\"\ndefault = \"a\"\n\
             [option.words]\ntype = \"list\"\nabout = \"\"\ndefault = [\"x y\"]\n",
        )]);
        let values = |given: &[Given]| catalog.choose(&["d".to_owned()], given).map(|c| c[0].values.clone());
        let all = values(&[]).unwrap();
        assert_eq!(all["count"], "4");
        assert_eq!(all["size"], (1u64 << 30).to_string());
        assert_eq!((all["fast"].as_str(), all["file"].as_str(), all["kind"].as_str()), ("false", "", "a"));
        let all = values(&[
            given("d", "count", "2", false),
            given("d", "count", "3", false),
            given("d", "file", "x/./y", false),
            given("d", "fast", "on", false),
            given("d", "words", "p,q", true),
            given("d", "words", "r", true),
        ])
        .unwrap();
        assert_eq!((all["count"].as_str(), all["fast"].as_str(), all["file"].as_str()), ("3", "true", "/cwd/x/y"));
        assert_eq!(all["words"], "x y\np\nq\nr");
        assert_eq!(values(&[given("d", "words", "", true)]).unwrap()["words"], "");
        for (option, value) in [("count", "9"), ("count", "two"), ("size", "1"), ("kind", "c"), ("fast", "maybe")] {
            let error = values(&[given("d", option, value, false)]).unwrap_err().to_string();
            assert!(error.starts_with("-p: the profile `d` cannot have") && error.contains(value), "{error}");
        }
        let error = values(&[given("d", "cuont", "1", false)]).unwrap_err().to_string();
        assert_eq!(error, "the profile `d` has no option `cuont` (-p); did you mean `count`?");
    }

    #[test]
    fn variables_are_found_by_the_options_that_they_set() {
        let (_top, catalog) =
            catalog(&[("my-disk", "[option.size]\ntype = \"size\"\nabout = \"\"\ndefault = \"1G\"\n")]);
        let place = Place { dir: "/".into(), home: None };
        let unknown = ["QUIZ_MY_DISK_SIZE", "QUIZ_MY_DISK_SIZES"].map(|n| (n.to_owned(), "2G".to_owned()));
        let (given, rest) = catalog.variables(unknown.to_vec(), &place);
        assert_eq!((given.len(), given[0].profile.as_str(), given[0].option.as_str()), (1, "my-disk", "size"));
        assert_eq!(rest, ["QUIZ_MY_DISK_SIZES"]);
    }

    #[test]
    fn a_definition_that_makes_no_sense_is_refused() {
        for (text, complaint) in [
            ("[option.x]\ntype = \"integer\"\nabout = \"\"\n", "needs a `default`"),
            ("[option.x]\ntype = \"integer\"\nabout = \"\"\ndefault = \"y\"\n", "is not a whole number"),
            ("[option.x]\ntype = \"choice\"\nabout = \"\"\ndefault = \"y\"\n", "`values`"),
            ("[option.x]\ntype = \"colour\"\nabout = \"\"\n", "colour"),
            ("[option.X]\ntype = \"string\"\nabout = \"\"\n", "no name for an option"),
            ("[kernel]\nneeds = [\"A B\"]\n", "no kernel option"),
            ("nedes = [\"zfs\"]\n", "nedes"),
        ] {
            let (_top, catalog) = catalog(&[("p", text)]);
            let error = names(&catalog, &["p"]).unwrap_err().to_string();
            assert!(error.contains(complaint), "{text}: {error}");
        }
        let (_top, catalog) = catalog(&[("kernel-build", "[option.jobs]\ntype = \"string\"\nabout = \"\"\n")]);
        assert!(names(&catalog, &["kernel-build"]).unwrap_err().to_string().contains("QUIZ_KERNEL_BUILD_JOBS"));
    }

    #[test]
    fn kernel_options_are_met_as_they_were_asked_for() {
        let (_top, catalog) =
            catalog(&[("p", "[kernel]\nneeds = [\"A\", \"CONFIG_B=m\", \"C=y\", \"D=n\", \"E=64\"]\n")]);
        let needs = &catalog.get("p", "").unwrap().kernel_needs;
        let met = |found: Option<&str>| needs.iter().map(|n| n.met(found)).collect::<Vec<_>>();
        assert_eq!(met(Some("y")), [true, true, true, false, false]);
        assert_eq!(met(Some("m")), [true, true, false, false, false]);
        assert_eq!(met(None), [false, false, false, true, false]);
        assert_eq!(met(Some("64")), [false, false, false, false, true]);
        let lines: String = needs.iter().map(|n| n.line()).collect();
        assert_eq!(lines, "CONFIG_A=y\nCONFIG_B=m\nCONFIG_C=y\n# CONFIG_D is not set\nCONFIG_E=64\n");
    }
}
