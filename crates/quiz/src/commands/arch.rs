//! The argument `--arch` of the commands that are about kernels, roots and builds. Not for that of
//! a run, which is a setting itself.

use clap::Args;
use quiz_arch::Arch;
use quiz_config::RunSpec;

use quiz_run::Fault;

// clap would use a doc comment here as the help of the command.
#[allow(missing_docs)]
#[derive(Debug, Clone, Default, Args)]
pub struct ArchArgument {
    /// Architecture of the guest: s390x, aarch64, ... [default: the setting `arch`]
    #[arg(id = "arch", short = 'a', long = "arch", value_name = "ARCH")]
    pub name: Option<String>,
}

impl ArchArgument {
    /// Returns the architecture that the user named, else that of the settings.
    ///
    /// # Errors
    /// If quiz knows no architecture of that name.
    pub fn or_setting(&self, spec: &RunSpec) -> Result<&'static Arch, Fault> {
        quiz_run::arch(Some(self.name.as_deref().unwrap_or(&spec.arch)))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use crate::cli::Cli;

    /// Collects every command below `command`, including itself, with its name.
    fn all(command: &clap::Command, name: &str, found: &mut Vec<(String, clap::Command)>) {
        found.push((name.to_owned(), command.clone()));
        for sub in command.get_subcommands() {
            all(sub, &format!("{name} {}", sub.get_name()), found);
        }
    }

    #[test]
    fn an_option_that_has_a_setting_names_it_as_its_default() {
        let mut commands = Vec::new();
        all(&Cli::command(), "quiz", &mut commands);
        let mut with_arch = Vec::new();
        for (name, command) in &commands {
            for arg in command.get_arguments() {
                let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
                let Some((_, default)) = help.rsplit_once("[default: ") else { continue };
                let long = arg.get_long().unwrap_or_default();
                // An option of a run is a setting itself, and its help has quiz's own default.
                let key = quiz_config::KEYS.iter().find(|key| arg.get_id() == key.name);
                if key.is_some_and(|key| default.trim_end_matches(']') == quiz_config::default_text(key)) {
                    continue;
                }
                if default.contains("the host") && long == "arch" {
                    panic!("{name} --{long}: the setting comes before the host's own: {help}");
                }
                if ["arch", "release", "keyring"].contains(&long) {
                    assert!(default.starts_with(&format!("the setting `{long}`")), "{name} --{long}: {help}");
                }
                for setting in default.split("the setting `").skip(1) {
                    let key = setting.split('`').next().unwrap_or_default();
                    assert!(quiz_config::KEYS.iter().any(|known| known.name == key), "{name} --{long}: {help}");
                }
                if long == "arch" {
                    with_arch.push((name.clone(), help));
                }
            }
        }
        let names: Vec<&str> = with_arch.iter().map(|(name, _)| name.as_str()).collect();
        for wanted in ["kernel add", "kernel build", "kernel show", "root add", "root build", "zfs"] {
            assert!(names.contains(&format!("quiz {wanted}").as_str()), "{wanted}: {names:?}");
        }
        assert!(with_arch.iter().all(|(_, help)| *help == with_arch[0].1), "{with_arch:?}");
    }
}
