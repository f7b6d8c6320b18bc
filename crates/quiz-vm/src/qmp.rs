//! The few words of QMP that quiz speaks (QEMU's machine protocol: one JSON object a line).
//!
//! Unknown fields and events are ignored: they differ between QEMU 7.2 and 11.

use serde::Deserialize;
use serde_json::Value;

/// The most bytes of one line that are kept; QEMU's own lines are far shorter.
const LINE_LIMIT: usize = 64 * 1024;

/// What QEMU said.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// The guest ended or reset itself (`-no-reboot` turns a reset into an end).
    Shutdown {
        /// QEMU's `reason`, such as `guest-reset`, `guest-shutdown`, `host-qmp-quit`.
        reason: String,
    },
    /// The guest opened or closed the agent's port.
    AgentPort {
        /// It is open now.
        open: bool,
    },
    /// The guest's kernel told its machine that it panicked, as on s390x and POWER. The machine stops, and then ends.
    Panicked,
    /// The virtual machine stopped executing, other than by its end.
    Stopped,
    /// The answer to `query-status`.
    Status(String),
    /// How saving or resuming goes: `active`, `completed`, `failed`, …
    Migration(String),
    /// The guest's memory was written, or (with the reason) not.
    Dumped(Option<String>),
    /// A command was refused.
    Refused(String),
}

/// The commands, ready to be written.
pub mod command {
    use crate::supervise::DumpFormat;

    /// Must come first.
    pub const CAPABILITIES: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";
    /// Ends QEMU in an orderly way.
    pub const QUIT: &[u8] = b"{\"execute\":\"quit\"}\n";
    /// A non-maskable interrupt for the guest's CPUs.
    pub const NMI: &[u8] = b"{\"execute\":\"inject-nmi\"}\n";
    /// Memory that is a file is not written again when the machine is saved, and saving tells how it goes.
    pub const MIGRATION: &[u8] = b"{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":[\
        {\"capability\":\"x-ignore-shared\",\"state\":true},{\"capability\":\"events\",\"state\":true}]}}\n";

    /// Goes on from the state that this descriptor reads.
    pub fn resume(descriptor: i32) -> Vec<u8> {
        format!("{{\"execute\":\"migrate-incoming\",\"arguments\":{{\"uri\":\"fd:{descriptor}\"}}}}\n").into_bytes()
    }

    /// Saves the state of the devices to a new file. Goes through a shell, which is the one way that every QEMU knows.
    pub fn save(file: &str) -> Vec<u8> {
        let uri = format!("exec:cat > '{}'", file.replace('\'', "'\\''"));
        let command = serde_json::json!({ "execute": "migrate", "arguments": { "uri": uri } });
        format!("{command}\n").into_bytes()
    }

    /// A guest that resets or ends itself stands still instead, with its memory as it was.
    pub const STAND_STILL: &[u8] =
        b"{\"execute\":\"set-action\",\"arguments\":{\"reboot\":\"shutdown\",\"shutdown\":\"pause\"}}\n";

    /// Writes the guest's memory to a new file, and says when that is done.
    pub fn dump(file: &str, format: DumpFormat) -> Vec<u8> {
        let mut arguments = serde_json::json!({ "protocol": format!("file:{file}"), "detach": true });
        match format {
            DumpFormat::Kdump => arguments["format"] = "kdump-zlib".into(),
            DumpFormat::Elf => {}
        }
        // As the guest's page tables have it, so that what reads ELF files finds what the kernel has mapped.
        arguments["paging"] = (format == DumpFormat::Elf).into();
        let command = serde_json::json!({ "execute": "dump-guest-memory", "arguments": arguments });
        format!("{command}\n").into_bytes()
    }

    /// Gives saving up.
    pub const CANCEL: &[u8] = b"{\"execute\":\"migrate_cancel\"}\n";
    /// Has the machine stand still.
    pub const STOP: &[u8] = b"{\"execute\":\"stop\"}\n";
    /// Lets the machine go on that stands still.
    pub const CONTINUE: &[u8] = b"{\"execute\":\"cont\"}\n";
    /// Whether the machine runs.
    pub const STATUS: &[u8] = b"{\"execute\":\"query-status\"}\n";
}

#[derive(Deserialize)]
struct Line {
    event: Option<String>,
    data: Option<Value>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Value>,
}

/// Reads lines as they come.
#[derive(Debug, Default)]
pub struct Reader {
    line: Vec<u8>,
}

impl Reader {
    /// Takes bytes from QEMU and tells what they say.
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
    if let Some(error) = &line.error {
        return Some(Said::Refused(error.get("desc").and_then(Value::as_str).unwrap_or("no reason given").to_owned()));
    }
    if let Some(status) = text(&line.answer, "status") {
        return Some(Said::Status(status));
    }
    match line.event?.as_str() {
        "SHUTDOWN" => Some(Said::Shutdown { reason: text(&line.data, "reason").unwrap_or_default() }),
        "GUEST_PANICKED" => Some(Said::Panicked),
        "STOP" => Some(Said::Stopped),
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
    fn events_are_understood_in_any_division() {
        let wire = br#"{"QMP": {"version": {"qemu": {"major": 7}}}}
{"return": {}}
{"timestamp": {"seconds": 1}, "event": "VSERPORT_CHANGE", "data": {"open": true, "id": "agent", "new": 1}}
{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}
{"return": {"running": false, "status": "internal-error"}}
{"event": "MIGRATION", "data": {"status": "completed"}}
{"event": "DUMP_COMPLETED", "data": {"result": {"total": 1, "status": "completed", "completed": 1}}}
{"event": "DUMP_COMPLETED", "data": {"result": {"total": 1, "status": "failed", "completed": 0}, "error": "full"}}
{"error": {"class": "GenericError", "desc": "no"}}
not json
"#;
        for size in [1, 7, wire.len()] {
            let mut reader = Reader::default();
            let said: Vec<Said> = wire.chunks(size).flat_map(|c| reader.push(c)).collect();
            assert_eq!(
                said,
                [
                    Said::AgentPort { open: true },
                    Said::Shutdown { reason: "guest-reset".into() },
                    Said::Status("internal-error".into()),
                    Said::Migration("completed".into()),
                    Said::Dumped(None),
                    Said::Dumped(Some("full".into())),
                    Said::Refused("no".into()),
                ]
            );
        }
    }

    #[test]
    fn a_path_reaches_the_shell_as_it_is() {
        let said = String::from_utf8(command::save("/a b/it's \"x\"")).unwrap();
        let value: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(value["arguments"]["uri"], "exec:cat > '/a b/it'\\''s \"x\"'");
        serde_json::from_slice::<Value>(command::MIGRATION).unwrap();
        serde_json::from_slice::<Value>(command::STAND_STILL).unwrap();
        serde_json::from_slice::<Value>(&command::resume(6)).unwrap();
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
