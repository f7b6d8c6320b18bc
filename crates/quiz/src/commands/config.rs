//! `quiz config`: prints every setting with its value and where that comes from. Not for changing
//! them.

use clap::Args;
use quiz_config::profile::definition::variable;
use quiz_config::profile::option::Written;
use quiz_config::{Effective, Given, KEYS, Key};
use serde::Serialize;

use crate::options::RunOptions;
use crate::output;
use quiz_run::{Context, Fault};

/// What to show. Options of a run in front of the verb take part: `quiz -m 2G config`.
#[derive(Debug, Args)]
pub struct Config {
    /// Settings to list [default: all]
    #[arg(value_name = "KEY")]
    pub keys: Vec<String>,
}

#[derive(Serialize)]
struct Record {
    key: String,
    value: Option<toml::Value>,
    /// The names of the layers, the weakest first.
    layers: Vec<&'static str>,
    /// The files with lines, the variables and the options that set it.
    origins: Vec<String>,
    variable: String,
    about: String,
}

/// Prints the settings.
pub fn run(args: &Config, options: &RunOptions, ctx: &Context) -> Result<(), Fault> {
    for wanted in &args.keys {
        if !KEYS.iter().any(|key| key.name == wanted) {
            let near = quiz_config::nearest(wanted, KEYS.iter().map(|key| key.name));
            let fault = Fault::new(format!("there is no setting `{wanted}`"));
            return Err(fault.hint(
                near.map_or_else(
                    || "`quiz config` lists them all".to_owned(),
                    |near| format!("did you mean `{near}`?"),
                ),
            ));
        }
    }
    let (settings, of_profiles) = ctx.settings_to_show(options.typed())?;
    let shown: Vec<(Effective, &Key)> = settings
        .effective()
        .into_iter()
        .zip(KEYS)
        .filter(|(_, key)| args.keys.is_empty() || args.keys.iter().any(|wanted| wanted == key.name))
        .collect();
    if ctx.json {
        let records = shown.into_iter().map(|(effective, key)| Record {
            key: key.name.to_owned(),
            layers: effective.origins.iter().map(|origin| origin.layer()).collect(),
            origins: effective.origins.iter().map(ToString::to_string).collect(),
            value: effective.value,
            variable: key.variable(),
            about: key.about.trim().to_owned(),
        });
        let records = records.chain(of_profiles.iter().filter(|_| args.keys.is_empty()).map(of_profile));
        return output::json(&records.collect::<Vec<_>>());
    }
    let rows = shown.into_iter().map(|(effective, key)| {
        let (value, origin) = match &effective.value {
            Some(value) => {
                let origins: Vec<String> = effective.origins.iter().map(ToString::to_string).collect();
                (value.to_string(), origins.join(" + "))
            }
            None => (format!("({})", effective.unset), String::new()),
        };
        vec![key.name.to_owned(), value, origin]
    });
    let of_profiles = of_profiles.iter().filter(|_| args.keys.is_empty());
    let of_profiles = of_profiles.map(|given| vec![name(given), value(given).to_string(), given.origin.clone()]);
    output::table(&["KEY", "VALUE", "FROM"], rows.chain(of_profiles).collect())
}

/// Returns the name of a profile's option, as the key of a settings file.
fn name(given: &Given) -> String {
    format!("profile.{}.{}", given.profile, given.option)
}

fn value(given: &Given) -> toml::Value {
    match &given.value {
        Written::One(text) => toml::Value::String(text.clone()),
        Written::Many(texts) => toml::Value::Array(texts.iter().cloned().map(toml::Value::String).collect()),
    }
}

fn of_profile(given: &Given) -> Record {
    Record {
        key: name(given),
        value: Some(value(given)),
        layers: Vec::new(),
        origins: vec![given.origin.clone()],
        variable: variable(&given.profile, &given.option),
        about: format!("an option of the profile {}", given.profile),
    }
}
