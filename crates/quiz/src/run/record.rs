//! The record of a run: `result.json`, and what `--json` prints.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use quiz_config::{Chosen, RunSpec};
use quiz_image::Kernel;
use quiz_image::root::Root;
use quiz_vm::accel::Choice;
use quiz_vm::{ArtifactsRecord, Outcome, Verdict, VmSpec};
use serde::Serialize;

use super::evidence::RunDir;

/// A run and how it ended. The fields are described in SPECIFICATION.md.
#[derive(Debug, Serialize)]
pub struct Record {
    pub id: String,
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
    /// What the VM started from: `standby` (a VM that waited), `template`, `bare` (a saved VM whose agent was up) or `boot`.
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
    pub quiz_version: &'static str,
}

/// A profile of a run.
#[derive(Debug, Serialize)]
pub struct ProfileRecord {
    pub name: String,
    pub options: BTreeMap<String, String>,
}

impl Record {
    /// The record of a run that is over.
    #[allow(clippy::too_many_arguments, reason = "a record is made of all parts of a run, once")]
    pub fn new(
        dir: &RunDir,
        spec: &RunSpec,
        chosen: &[Chosen],
        vm: &VmSpec,
        kernel: &Kernel,
        root: &Root,
        choice: &Choice,
        (start, template): (&'static str, Option<String>),
        started_at: SystemTime,
        outcome: &Outcome,
    ) -> Record {
        let started_at = jiff::Timestamp::try_from(started_at).map(|at| at.to_string());
        Record {
            id: dir.id().to_owned(),
            dir: dir.path().to_owned(),
            verdict: outcome.verdict.clone(),
            exit_code: outcome.verdict.exit_code(),
            command: spec.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            kernel: kernel.name().to_owned(),
            root: root.name().to_owned(),
            profiles: chosen
                .iter()
                .map(|one| ProfileRecord { name: one.profile.name.clone(), options: one.values.clone() })
                .collect(),
            arch: vm.arch.name,
            machine: vm.machine.name,
            accelerator: vm.accel.name(),
            accelerator_why: choice.why.clone(),
            start,
            template,
            started_at: started_at.unwrap_or_default(),
            boot_ms: outcome.boot.map(ms),
            ready_ms: outcome.ready.map(ms),
            program_ms: outcome.program.map(ms),
            total_ms: ms(outcome.total),
            artifacts: outcome.artifacts.clone(),
            notes: outcome.notes.clone(),
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

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
