//! Saves the artifacts of a guest that died: what it had synced to its disk for them. A second
//! guest reads that disk, so that the host never parses a file system written by a broken kernel.

use std::time::Duration;

use quiz_vm::artifacts;
use quiz_vm::supervise::Job;
use quiz_vm::{Limits, Outcome, Run, Signals, Streams, Verdict, VmSpec, supervise};

use crate::assemble::PreparedRun;
use crate::assemble::disks::{ARTIFACTS, Moment};

/// The directory of the second guest, below the run directory.
const PLACE: &str = "salvage";

/// Adds the saved artifacts to `outcome`. `before` is the state of the disk for artifacts before
/// the VM started.
pub fn salvage(run: &PreparedRun, before: Option<&Moment>, outcome: &mut Outcome, signals: &mut dyn Signals) {
    let died = matches!(outcome.verdict, Verdict::Panic { .. } | Verdict::Lost { .. } | Verdict::Timeout { .. });
    let Some(ready) = outcome.ready.filter(|_| died && outcome.artifacts.files == 0) else { return };
    let Some(out) = before.and_then(|before| run.disks.written_since(before, ready)) else { return };
    let vm = VmSpec {
        disks: vec![out.clone()],
        shares: Vec::new(),
        net: None,
        ram: None,
        incoming: None,
        extra: Vec::new(),
        memory_mib: run.vm.memory_mib.min(512),
        ..run.vm.clone()
    };
    let result = run.dir.held().make_new_below(PLACE).map(|place| {
        let second = supervise(Run {
            vm: &vm,
            standby: None,
            job: Job::Salvage { out_serial: out.serial.clone() },
            snapshots: None,
            console_before: None,
            limits: Limits {
                boot: Duration::from_secs(60),
                program: None,
                hang: Some(Duration::from_secs(30)),
                strict: false,
                keep: None,
                debugged: false,
                dump: None,
                artifacts: ARTIFACTS,
            },
            dir: &place,
            streams: Streams::nowhere(),
            door: None,
            front: None,
            escape: None,
            signals,
            show: &mut |_| {},
        });
        (place, second)
    });
    match result {
        Ok((place, second)) if second.verdict == (Verdict::Exited { code: 0 }) => {
            if second.artifacts.files > 0
                && let Err(e) = place.move_dir(artifacts::DIR, run.dir.held())
            {
                outcome.notes.push(format!("the artifacts are in salvage/: {e}"));
                return;
            }
            outcome.artifacts = second.artifacts;
            run.dir.held().remove_dir_all(PLACE).ok();
        }
        Ok((_, second)) => {
            outcome.notes.push(format!("what was synced to /quiz/out could not be read: {:?}", second.verdict))
        }
        Err(e) => outcome.notes.push(format!("what was synced to /quiz/out could not be read: {e}")),
    }
}
