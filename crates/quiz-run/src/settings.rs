//! Reads the settings of a call, from all their layers, and the run that they ask for. Not for what
//! single settings mean (`quiz_config`).

use std::ffi::OsString;

use quiz_config::layer::unknown_variable;
use quiz_config::value::Place;
use quiz_config::{Catalog, Given, Invocation, Loaded, RunSpec, Settings, TypedOption};
use quiz_host::Report;

use crate::consent;
use crate::context::Context;
use crate::fault::Fault;

/// What the command line asks of a run.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The options that are settings, as the user typed them.
    pub options: Vec<TypedOption>,
    /// Whether a shell follows the program.
    pub shell_after: bool,
    /// Whether the VM boots, even if there is a template.
    pub cold: bool,
    /// Whether a report of the guest's kernel fails the run.
    pub strict: bool,
    /// Whether the VM stays after the program has ended.
    pub keep: bool,
    /// Whether the program runs in a session of tmux.
    pub tmux: bool,
    /// Whether the VM waits for gdb.
    pub gdb: bool,
}

impl Asked {
    /// Asks for these options only: the key, the spelling and the values of each.
    pub fn of(options: impl IntoIterator<Item = (&'static str, &'static str, Vec<OsString>)>) -> Asked {
        let typed = options
            .into_iter()
            .flat_map(|(key, option, values)| values.into_iter().map(move |value| TypedOption { key, option, value }));
        Asked { options: typed.collect(), ..Asked::default() }
    }
}

impl Context {
    /// Reads the layers of settings, with `options` as the uppermost.
    pub fn settings(&self, options: Vec<TypedOption>) -> Result<Settings, Fault> {
        Ok(self.settings_and_options(options)?.0)
    }

    /// Reads the settings, and the profile options that files and variables set. Refuses settings
    /// of the worktree that affect the host, unless the user has allowed them.
    pub fn settings_and_options(&self, options: Vec<TypedOption>) -> Result<(Settings, Vec<Given>), Fault> {
        let (settings, profile_options) = self.settings_to_show(options)?;
        consent::require_settings(&settings, &profile_options, self)?;
        Ok((settings, profile_options))
    }

    /// Like [`Context::settings_and_options`], but needs no consent: the settings are only for
    /// display.
    pub fn settings_to_show(&self, options: Vec<TypedOption>) -> Result<(Settings, Vec<Given>), Fault> {
        let Loaded { settings, mut profile_options, unknown_variables } = quiz_config::load(&self.sources(options))?;
        if !unknown_variables.is_empty() {
            let place = Place { dir: self.cwd.clone(), home: self.paths.home.clone() };
            // Commands that need the cache report that it is not usable. Here, quiz only cannot
            // tell what a variable means.
            let none = Catalog::default();
            let catalog = self.profiles().map_or(&none, |profiles| &profiles.catalog);
            let (given, unknown) = catalog.variables(unknown_variables, &place);
            profile_options.extend(given);
            for name in &unknown {
                self.report.warn(&unknown_variable(name, catalog));
            }
        }
        Ok((settings, profile_options))
    }

    /// Returns the run that the settings alone ask for, for commands without options of a run.
    pub fn default_spec(&self) -> Result<RunSpec, Fault> {
        self.run_spec(&Asked::default(), Vec::new())
    }

    /// Returns the run of `command` that the settings and the command line ask for.
    pub fn run_spec(&self, asked: &Asked, command: Vec<OsString>) -> Result<RunSpec, Fault> {
        let (settings, profile_options) = self.settings_and_options(asked.options.clone())?;
        self.lower(&settings, profile_options, asked, command)
    }

    /// Like [`Context::run_spec`], with settings that the caller has read before.
    pub fn lower(
        &self,
        settings: &Settings,
        profile_options: Vec<Given>,
        asked: &Asked,
        command: Vec<OsString>,
    ) -> Result<RunSpec, Fault> {
        let invocation = Invocation {
            command,
            shell_after: asked.shell_after,
            cold: asked.cold,
            strict: asked.strict,
            keep: asked.keep,
            tmux: asked.tmux,
            gdb: asked.gdb,
            verbosity: self.verbosity,
            json: self.json_to.clone(),
            cwd: self.cwd.clone(),
            worktree: self.worktree.as_ref().map(|worktree| worktree.dir.clone()),
            variables: self.variables.clone(),
            profile_options,
        };
        Ok(quiz_config::lower(settings, invocation)?)
    }
}
