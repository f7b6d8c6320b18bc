//! The record of a run: `result.json`, and what `--json` prints.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use quiz_config::DumpForm;
use quiz_vm::{ArtifactsRecord, Outcome, Verdict};
use serde::{Deserialize, Serialize, Serializer};

use crate::assemble::PreparedRun;
use crate::context::Context;
use crate::outcome::crash::OopsRecord;

/// The number of the record's form.
const SCHEMA: u32 = 1;

/// A run and how it ended. The fields are described in SPECIFICATION.md.
#[derive(Debug, Serialize)]
pub struct Record {
    /// Of this object; another number means that a field has another meaning or is gone.
    pub schema: u32,
    pub id: String,
    /// Its directory; bytes that are not UTF-8 are replaced.
    #[serde(serialize_with = "as_text")]
    pub dir: PathBuf,
    pub verdict: Verdict,
    pub exit_code: u8,
    /// The program and its arguments; bytes that are not UTF-8 are replaced.
    pub command: Vec<String>,
    pub kernel: String,
    pub root: String,
    /// Profiles in the order in which they applied, with their options as their programs got them.
    pub profiles: Vec<ProfileRecord>,
    pub arch: &'static str,
    pub machine: &'static str,
    pub accelerator: &'static str,
    pub accelerator_why: String,
    /// What the VM started from: `standby` (a VM that waited), `template`, `bare` (a saved VM whose
    /// agent was up) or `boot`.
    pub start: &'static str,
    /// The template that it went on from, or that was made on its way.
    pub template: Option<String>,
    pub started_at: String,
    pub boot_ms: Option<u64>,
    pub ready_ms: Option<u64>,
    pub program_ms: Option<u64>,
    pub total_ms: u64,
    pub artifacts: ArtifactsRecord,
    pub notes: Vec<String>,
    /// What the guest's kernel reported, if it did.
    pub oops: Option<OopsRecord>,
    /// The form of the dump of the guest's memory in `vmcore`, if there is one: `kdump` or `elf`.
    pub dump: Option<&'static str>,
    /// How quiz was called, to do it again; none where that cannot be told in text, and for runs
    /// that no one called.
    pub call: Option<Call>,
    /// That the call is this user's own, which only they can tell.
    pub call_seal: Option<String>,
    /// By what the inputs can be told from others.
    pub inputs: BTreeMap<String, String>,
    pub quiz_version: &'static str,
}

/// A call of quiz for a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    #[serde(serialize_with = "as_text")]
    pub directory: PathBuf,
    /// The words behind quiz's own name.
    pub words: Vec<String>,
    /// The caller's variables that set something.
    pub variables: BTreeMap<String, String>,
}

impl Call {
    /// The call with these arguments. None if it is not all text.
    pub fn new(arguments: impl IntoIterator<Item = OsString>, ctx: &Context) -> Option<Call> {
        let text = |argument: &OsString| argument.to_str().map(str::to_owned);
        let words = arguments.into_iter().map(|argument| text(&argument)).collect::<Option<_>>()?;
        let mut variables = BTreeMap::new();
        for (name, value) in ctx.variables.iter().filter(|(name, _)| Call::is_setting(name)) {
            variables.insert(text(name)?, text(value)?);
        }
        ctx.cwd.to_str()?;
        Some(Call { directory: ctx.cwd.clone(), words, variables })
    }

    /// The call in a record.
    pub fn of_record(record: &serde_json::Value) -> Option<Call> {
        serde_json::from_value(record["call"].clone()).ok()
    }

    /// Whether a variable is one that a run depends on.
    pub fn is_setting(name: &OsStr) -> bool {
        name.as_encoded_bytes().starts_with(b"QUIZ_") && name != "QUIZ_CACHE"
    }
}

/// What a run has started from.
pub struct Start {
    /// `standby`, `template`, `bare` or `boot`.
    pub from: &'static str,
    /// The template that it resumed from, or that was made on its way.
    pub template: Option<String>,
}

/// A profile of a run.
#[derive(Debug, Serialize)]
pub struct ProfileRecord {
    pub name: String,
    pub options: BTreeMap<String, String>,
}

impl Record {
    /// The record of a run that is over; without the kernel's report and the call.
    pub fn new(run: &PreparedRun, start: Start, started_at: SystemTime, outcome: &Outcome) -> Record {
        let PreparedRun { spec, dir, vm, base, .. } = run;
        let started_at = jiff::Timestamp::try_from(started_at).map(|at| at.to_string());
        Record {
            schema: SCHEMA,
            id: dir.id().to_owned(),
            dir: dir.path().to_owned(),
            verdict: outcome.verdict.clone(),
            exit_code: outcome.verdict.exit_code(),
            command: spec.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            kernel: base.kernel.name().to_owned(),
            root: base.root.name().to_owned(),
            profiles: run
                .chosen
                .iter()
                .map(|one| ProfileRecord { name: one.profile.name.clone(), options: one.values.clone() })
                .collect(),
            arch: vm.arch.name,
            machine: vm.machine.name,
            accelerator: vm.accel.name(),
            accelerator_why: run.choice.why.clone(),
            start: start.from,
            template: start.template,
            started_at: started_at.unwrap_or_default(),
            boot_ms: outcome.boot.map(ms),
            ready_ms: outcome.ready.map(ms),
            program_ms: outcome.program.map(ms),
            total_ms: ms(outcome.total),
            artifacts: outcome.artifacts.clone(),
            notes: outcome.notes.clone(),
            oops: None,
            dump: outcome.dumped.then_some(match spec.dump_format {
                DumpForm::Kdump => "kdump",
                DumpForm::Elf => "elf",
            }),
            call: None,
            call_seal: None,
            inputs: run.inputs.clone(),
            quiz_version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// The program's name.
    pub fn program(&self) -> &str {
        self.command.first().map_or("the shell", String::as_str)
    }

    /// One line of JSON.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("the record is plain data")
    }
}

/// A path need not be text, and a record is.
fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
