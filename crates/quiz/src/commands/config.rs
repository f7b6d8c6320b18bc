//! `quiz config`: every setting with its value and where that comes from. Not for changing them.

use clap::Args;
use quiz_config::{Effective, KEYS, Key};
use serde::Serialize;

use crate::cli::RunOptions;
use crate::context::Context;
use crate::errors::Fault;
use crate::output;

/// What to show. Options of a run in front of the verb take part: `quiz -m 2G config`.
#[derive(Debug, Args)]
pub struct Config {
    /// Only these settings
    #[arg(value_name = "KEY")]
    pub keys: Vec<String>,
}

#[derive(Serialize)]
struct Record {
    key: &'static str,
    value: Option<toml::Value>,
    /// The layers' names, the weakest first.
    layers: Vec<&'static str>,
    /// The files with lines, variables and options.
    origins: Vec<String>,
    variable: String,
    about: &'static str,
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
    let settings = ctx.settings(options.typed())?;
    let shown: Vec<(Effective, &Key)> = settings
        .effective()
        .into_iter()
        .zip(KEYS)
        .filter(|(_, key)| args.keys.is_empty() || args.keys.iter().any(|wanted| wanted == key.name))
        .collect();
    if ctx.json {
        let records = shown.into_iter().map(|(effective, key)| Record {
            key: key.name,
            layers: effective.origins.iter().map(|origin| origin.layer()).collect(),
            origins: effective.origins.iter().map(ToString::to_string).collect(),
            value: effective.value,
            variable: key.variable(),
            about: key.about.trim(),
        });
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
    output::table(&["KEY", "VALUE", "FROM"], rows.collect())
}
