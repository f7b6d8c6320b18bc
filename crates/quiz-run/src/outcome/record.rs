//! The record of a run: `result.json`, and what `--json` prints.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};

use quiz_vm::{Accel, ArtifactsRecord, DumpFormat, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::context::Context;

/// The version of the record's format.
pub const SCHEMA: u32 = 1;
/// How much of a record is read, in bytes. quiz writes less than 1 MiB.
const READ: u64 = 4 << 20;

/// A run and how it ended, as `result.json` and `--json` tell it.
///
/// A field can be added at any time. It must be one that may be absent, so that records that were
/// written before can still be read.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// 1. A new number means that a field was removed or changed; fields can be added at any time.
    pub schema: u32,
    /// The id of the run.
    pub id: String,
    /// The directory of the run. Bytes that are not UTF-8 are replaced.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub dir: PathBuf,
    /// How the run ended.
    pub verdict: Verdict,
    /// The exit code of quiz.
    pub exit_code: u8,
    /// The program and its arguments. Bytes that are not UTF-8 are replaced.
    pub command: Vec<String>,
    /// The kernel's name.
    pub kernel: String,
    /// The root's name.
    pub root: String,
    /// The profiles in the order in which they were applied.
    pub profiles: Vec<ProfileRecord>,
    /// The guest's architecture.
    pub arch: String,
    /// QEMU's name of the machine.
    pub machine: String,
    /// What executed the guest's instructions.
    pub accelerator: Accel,
    /// Why that one was chosen.
    pub accelerator_why: String,
    /// What the VM started from.
    pub start: StartedFrom,
    /// The template that the run resumed from or made.
    pub template: Option<String>,
    /// When the run began, as RFC 3339 writes it.
    pub started_at: String,
    /// Milliseconds from the start of QEMU to the agent's first message.
    pub boot_ms: Option<u64>,
    /// Milliseconds from the start of QEMU to the start of the program.
    pub ready_ms: Option<u64>,
    /// Milliseconds that the program ran.
    pub program_ms: Option<u64>,
    /// Milliseconds that QEMU ran.
    pub total_ms: u64,
    /// The files that the program left in `/quiz/out`.
    pub artifacts: ArtifactsRecord,
    /// Remarks.
    pub notes: Vec<String>,
    /// What the guest's kernel reported.
    pub oops: Option<OopsRecord>,
    /// The format of the dump of the guest's memory in `vmcore`, if there is one.
    pub dump: Option<DumpFormat>,
    /// How quiz was called, to run it again. Null where that is not UTF-8, and for runs that no
    /// one called.
    pub call: Option<Call>,
    /// A MAC of `call` with the user's own key.
    pub call_seal: Option<String>,
    /// The fingerprint of every input, by its name.
    pub inputs: BTreeMap<String, String>,
    /// The version of quiz.
    pub quiz_version: String,
}

/// What a VM started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartedFrom {
    /// A standby VM.
    Standby,
    /// A template: the program could start at once.
    Template,
    /// A snapshot of a booted guest.
    Bare,
    /// Nothing: it booted.
    Boot,
}

impl StartedFrom {
    /// Its name in the record.
    pub fn name(self) -> &'static str {
        match self {
            StartedFrom::Standby => "standby",
            StartedFrom::Template => "template",
            StartedFrom::Bare => "bare",
            StartedFrom::Boot => "boot",
        }
    }
}

/// A call of quiz for a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Call {
    /// The directory that quiz was called in.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
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

    /// Whether a variable is one that a run depends on.
    pub fn is_setting(name: &OsStr) -> bool {
        name.as_encoded_bytes().starts_with(b"QUIZ_") && name != "QUIZ_CACHE"
    }
}

/// A profile of a run.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProfileRecord {
    /// Its name.
    pub name: String,
    /// Its options, as its programs got them.
    pub options: BTreeMap<String, String>,
}

impl Record {
    /// Reads a record. None if it is not whole, or of another form.
    pub fn read(file: impl Read) -> Option<Record> {
        let record: Record = serde_json::from_reader(file.take(READ)).ok()?;
        (record.schema == SCHEMA).then_some(record)
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

/// A kernel's report, in the record.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct OopsRecord {
    /// Its first line.
    pub headline: String,
    /// Where the blame lies, as far as that can be told.
    pub culprit: Option<Culprit>,
    /// The letters of the kernel's taint.
    pub taint: Option<String>,
    /// The name of the guest's task that it happened to.
    pub task: Option<String>,
}

/// A place in the kernel or a module.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Culprit {
    pub function: String,
    /// None for the kernel proper.
    pub module: Option<String>,
    /// The source file and line, where there is debug information.
    pub file: Option<String>,
    pub line: Option<u32>,
}

/// A path need not be text, and a record is.
fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;

    #[test]
    fn the_schema_in_docs_is_that_of_the_record() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/record.schema.json");
        let schema = schemars::generate::SchemaSettings::draft2020_12().for_serialize().into_generator();
        let schema = schema.into_root_schema_for::<Record>();
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("QUIZ_WRITE_REFERENCE").is_some() {
            fs::write(file, text).unwrap();
            return;
        }
        assert!(
            fs::read_to_string(file).unwrap() == text,
            "docs/reference/record.schema.json differs from the record: run `cargo xtask reference`"
        );
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_one_of_another_form_is_not() {
        let text = include_str!("record.json");
        let read = Record::read(text.as_bytes()).unwrap();
        let again: serde_json::Value = serde_json::from_str(&read.line()).unwrap();
        let before: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(again, before);
        let change = |key: &str, value: Option<serde_json::Value>| {
            let mut record = before.clone();
            let fields = record.as_object_mut().unwrap();
            match value {
                Some(value) => fields.insert(key.to_owned(), value),
                None => fields.remove(key),
            };
            Record::read(record.to_string().as_bytes())
        };
        assert!(change("schema", Some(2.into())).is_none());
        assert!(change("verdict", None).is_none());
        assert!(change("exit_code", Some(256.into())).is_none());
        assert!(change("oops", None).is_some(), "a field that may be absent");
        assert!(change("later", Some("a field of a later version".into())).is_some());
        assert!(Record::read(&text.as_bytes()[..text.len() / 2]).is_none());
    }
}
