//! The commands and events of QMP that quiz uses (QEMU's machine protocol: one JSON object a line).
//! Not for sending and receiving them (`monitor`).
//!
//! Unknown fields and events are ignored, because they differ between versions of QEMU.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::spec::DumpFormat;

/// How many bytes of a line are kept. QEMU's own lines are far shorter.
const LINE_LIMIT: usize = 64 * 1024;
/// QEMU's name for the descriptor that a VM is saved to.
const STATE: &str = "state";

/// A command's name. It is also sent as the `id` of the command. QEMU returns the `id` with its
/// answer, so quiz can match the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommandName {
    /// Negotiate capabilities. This must be the first command.
    #[serde(rename = "qmp_capabilities")]
    Capabilities,
    /// Choose how QEMU saves and resumes.
    MigrateSetCapabilities,
    /// Resume from a saved state.
    MigrateIncoming,
    /// Take a descriptor that is sent with the command.
    #[serde(rename = "getfd")]
    GetFd,
    /// Save the state.
    Migrate,
    /// Cancel saving.
    #[serde(rename = "migrate_cancel")]
    MigrateCancel,
    /// Choose what QEMU does when the guest resets or ends.
    SetAction,
    /// Write the guest's memory to a file.
    DumpGuestMemory,
    /// Pause the machine.
    Stop,
    /// Continue a paused machine.
    Cont,
    /// Query whether the machine runs.
    QueryStatus,
    /// Send a non-maskable interrupt to the guest's CPUs.
    InjectNmi,
    /// End QEMU cleanly.
    Quit,
}

/// A message of QEMU.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// The guest ended or reset itself (`-no-reboot` turns a reset into a shutdown).
    Shutdown {
        /// QEMU's `reason`, such as `guest-reset`, `guest-shutdown`, `host-qmp-quit`.
        reason: String,
    },
    /// The guest opened or closed the agent's port.
    AgentPort {
        /// Whether it is open now.
        open: bool,
    },
    /// The guest's kernel reported a panic to the machine, as on s390x and POWER. The machine is
    /// paused, and then ends.
    Panicked,
    /// The machine is paused, and has not ended.
    Stopped,
    /// A disk failed on the host, so QEMU pauses the machine.
    DiskFailed {
        /// QEMU's name for the disk.
        node: String,
        /// `read` or `write`.
        operation: String,
        /// The host's reason.
        reason: String,
    },
    /// The state of saving or resuming: `active`, `completed`, `failed`, …
    Migration(String),
    /// The dump is complete, or has failed for this reason.
    Dumped(Option<String>),
    /// A command succeeded, with this result.
    Done(CommandName, Value),
    /// A command failed, for this reason.
    Refused(CommandName, String),
}

/// A command and its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Command {
    #[serde(rename = "execute")]
    name: CommandName,
    #[serde(skip_serializing_if = "Value::is_null")]
    arguments: Value,
    id: CommandName,
}

impl From<CommandName> for Command {
    fn from(name: CommandName) -> Command {
        Command { name, arguments: Value::Null, id: name }
    }
}

impl Command {
    fn with(name: CommandName, arguments: Value) -> Command {
        Command { arguments, ..name.into() }
    }

    /// Make saving leave out memory that is a file, and report its progress.
    pub fn migration() -> Command {
        let on = |name: &str| json!({ "capability": name, "state": true });
        Command::with(
            CommandName::MigrateSetCapabilities,
            json!({ "capabilities": [on("x-ignore-shared"), on("events")] }),
        )
    }

    /// Resume from the state at this URI.
    pub fn resume(uri: &str) -> Command {
        Command::with(CommandName::MigrateIncoming, json!({ "uri": uri }))
    }

    /// Take the descriptor that is sent with this command, for [`Command::save_to_descriptor`].
    pub fn take_descriptor() -> Command {
        Command::with(CommandName::GetFd, json!({ "fdname": STATE }))
    }

    /// Save the state of the devices to the descriptor that QEMU has taken.
    pub fn save_to_descriptor() -> Command {
        Command::with(CommandName::Migrate, json!({ "uri": format!("fd:{STATE}") }))
    }

    /// Save the state of the devices to the file at `path`.
    pub fn save_to_file(path: &str) -> Command {
        Command::with(CommandName::Migrate, json!({ "uri": format!("file:{path}") }))
    }

    /// Pause a guest that resets or ends itself, and keep its memory.
    pub fn pause_at_end() -> Command {
        Command::with(CommandName::SetAction, json!({ "reboot": "shutdown", "shutdown": "pause" }))
    }

    /// Write the guest's memory to a new file, and report when that has ended.
    pub fn dump(file: &str, format: DumpFormat) -> Command {
        let mut arguments = json!({ "protocol": format!("file:{file}"), "detach": true });
        match format {
            DumpFormat::Kdump => arguments["format"] = "kdump-zlib".into(),
            DumpFormat::Elf => {}
        }
        // An ELF dump follows the guest's page tables, so that ELF readers find what the kernel has
        // mapped.
        arguments["paging"] = (format == DumpFormat::Elf).into();
        Command::with(CommandName::DumpGuestMemory, arguments)
    }

    /// The command as one line of JSON.
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("a command is plain data");
        line.push(b'\n');
        line
    }
}

#[derive(Deserialize)]
struct Line {
    event: Option<String>,
    data: Option<Value>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Value>,
    id: Option<Value>,
}

/// Splits QEMU's output into messages.
#[derive(Debug, Default)]
pub struct Reader {
    line: Vec<u8>,
}

impl Reader {
    /// Adds bytes from QEMU, and returns the messages that are complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Said> {
        let mut said = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                said.extend(parse(&self.line));
                self.line.clear();
            } else if self.line.len() < LINE_LIMIT {
                self.line.push(*byte);
            }
        }
        said
    }
}

fn parse(line: &[u8]) -> Option<Said> {
    let line: Line = serde_json::from_slice(line).ok()?;
    let text = |value: &Option<Value>, key: &str| {
        value.as_ref().and_then(|v| v.get(key)).and_then(Value::as_str).map(str::to_owned)
    };
    // An answer without a known `id` is ignored.
    let name = line.id.as_ref().and_then(|id| CommandName::deserialize(id).ok());
    if line.error.is_some() {
        let why = text(&line.error, "desc").unwrap_or_else(|| "QEMU gave no reason".to_owned());
        return Some(Said::Refused(name?, why));
    }
    if let Some(answer) = line.answer {
        return Some(Said::Done(name?, answer));
    }
    match line.event?.as_str() {
        "SHUTDOWN" => Some(Said::Shutdown { reason: text(&line.data, "reason").unwrap_or_default() }),
        "GUEST_PANICKED" => Some(Said::Panicked),
        "STOP" => Some(Said::Stopped),
        "BLOCK_IO_ERROR" if text(&line.data, "action").as_deref() == Some("stop") => {
            let word = |key: &str| text(&line.data, key).filter(|word| !word.is_empty());
            Some(Said::DiskFailed {
                node: word("node-name").unwrap_or_default(),
                operation: word("operation").unwrap_or_else(|| "use".to_owned()),
                reason: word("reason").unwrap_or_else(|| "QEMU gave no reason".to_owned()),
            })
        }
        "DUMP_COMPLETED" => {
            let result = line.data.as_ref().and_then(|data| data.get("result")).cloned();
            let good = text(&result, "status").as_deref() == Some("completed");
            let why = || text(&line.data, "error").unwrap_or_else(|| "QEMU gave no reason".to_owned());
            Some(Said::Dumped((!good).then(why)))
        }
        "MIGRATION" => Some(Said::Migration(text(&line.data, "status")?)),
        "VSERPORT_CHANGE" if text(&line.data, "id").as_deref() == Some("agent") => {
            Some(Said::AgentPort { open: line.data?.get("open")?.as_bool()? })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_answers_are_understood_in_any_division() {
        let wire = br#"{"QMP": {"version": {"qemu": {"major": 7}}}}
{"return": {}, "id": "qmp_capabilities"}
{"timestamp": {"seconds": 1}, "event": "VSERPORT_CHANGE", "data": {"open": true, "id": "agent", "new": 1}}
{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}
{"return": {"running": false}, "id": "query-status"}
{"event": "BLOCK_IO_ERROR", "data": {"node-name": "disk1", "operation": "read", "action": "report", "reason": "no"}}
{"event": "BLOCK_IO_ERROR", "data": {"node-name": "disk1", "operation": "write", "action": "stop", "reason": "full"}}
{"event": "MIGRATION", "data": {"status": "completed"}}
{"event": "DUMP_COMPLETED", "data": {"result": {"total": 1, "status": "completed", "completed": 1}}}
{"event": "DUMP_COMPLETED", "data": {"result": {"total": 1, "status": "failed", "completed": 0}, "error": "full"}}
{"error": {"class": "GenericError", "desc": "no"}, "id": "cont"}
{"error": {"class": "GenericError", "desc": "to no question"}}
{"error": {"class": "GenericError", "desc": "to another's question"}, "id": 7}
not json
"#;
        for size in [1, 7, wire.len()] {
            let mut reader = Reader::default();
            let said: Vec<Said> = wire.chunks(size).flat_map(|c| reader.push(c)).collect();
            assert_eq!(
                said,
                [
                    Said::Done(CommandName::Capabilities, json!({})),
                    Said::AgentPort { open: true },
                    Said::Shutdown { reason: "guest-reset".into() },
                    Said::Done(CommandName::QueryStatus, json!({ "running": false })),
                    Said::DiskFailed { node: "disk1".into(), operation: "write".into(), reason: "full".into() },
                    Said::Migration("completed".into()),
                    Said::Dumped(None),
                    Said::Dumped(Some("full".into())),
                    Said::Refused(CommandName::Cont, "no".into()),
                ]
            );
        }
    }

    #[test]
    fn a_command_carries_its_own_name_as_its_id() {
        let line = |command: Command| String::from_utf8(command.line()).unwrap();
        assert_eq!(line(CommandName::Cont.into()), "{\"execute\":\"cont\",\"id\":\"cont\"}\n");
        let resume: Value = serde_json::from_str(&line(Command::resume("fd:6"))).unwrap();
        assert_eq!(
            resume,
            json!({ "execute": "migrate-incoming", "id": "migrate-incoming", "arguments": { "uri": "fd:6" } })
        );
        assert!(line(CommandName::MigrateCancel.into()).contains("\"execute\":\"migrate_cancel\""));
    }

    #[test]
    fn the_state_is_saved_to_the_file_that_was_taken() {
        let take = serde_json::to_value(Command::take_descriptor()).unwrap();
        let save = serde_json::to_value(Command::save_to_descriptor()).unwrap();
        assert_eq!(take["execute"], "getfd");
        let name = take["arguments"]["fdname"].as_str().unwrap();
        assert_eq!(save["arguments"]["uri"], format!("fd:{name}"));
    }

    #[test]
    fn an_endless_line_does_not_grow() {
        let mut reader = Reader::default();
        for _ in 0..100 {
            reader.push(&[b'x'; 4096]);
        }
        assert!(reader.line.len() <= LINE_LIMIT);
    }
}
