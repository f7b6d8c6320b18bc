//! A QEMU that misbehaves on demand, for faults that a real one will not produce when asked.
//!
//! `fake=NAME` among the words of `-append` says how. It speaks on the descriptors that quiz hands
//! to QEMU.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::process::exit;
use std::time::Duration;

use quiz_proto::{Decoder, MAX_MESSAGE, Nonce, ProgramId, Sent, Status, Stream, ToGuest, ToHost, WINDOW, encode};

fn main() {
    let behaviour = std::env::args()
        .flat_map(|arg| arg.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .find_map(|word| word.strip_prefix("fake=").map(str::to_owned))
        .expect("fake=NAME is given");
    // SAFETY: quiz hands these descriptors over, and nothing else here uses them.
    let [mut qmp, mut console, mut agent] = [3, 4, 5].map(|fd| unsafe { File::from_raw_fd(fd) });
    match behaviour.as_str() {
        "dies" => {
            eprintln!("qemu: something is wrong with this host");
            exit(1);
        }
        "silent" => sleep(),
        "boots-slowly" => std::thread::sleep(Duration::from_secs(5)),
        "disk-full" => {
            let data = r#"{"node-name": "disk0", "operation": "write", "action": "stop", "reason": "No space left"}"#;
            writeln!(qmp, r#"{{"event": "BLOCK_IO_ERROR", "data": {data}}}"#).unwrap();
            writeln!(qmp, r#"{{"event": "STOP"}}"#).unwrap();
            sleep();
        }
        "stops" => {
            writeln!(qmp, r#"{{"event": "STOP"}}"#).unwrap();
            sleep();
        }
        "garbage" => {
            agent.write_all(&[0xff; 4096]).unwrap();
            sleep();
        }
        "refuses-to-go-on" | "goes-on-late" => {
            let times = if behaviour == "goes-on-late" { 5 } else { usize::MAX };
            let (goes_on, paused) = std::sync::mpsc::channel();
            std::thread::spawn(move || save_and_refuse(qmp, times, &goes_on));
            say(&mut agent, &ToHost::Hello { version: quiz_proto::VERSION });
            paused.recv().unwrap();
            let nonce = hear_start(&mut agent);
            say(&mut agent, &ToHost::Started);
            say(&mut agent, &ToHost::Exited { nonce, status: Status::Code(0) });
            say(&mut agent, &ToHost::Down { nonce });
            sleep();
        }
        "refuses-other-things" => {
            for id in ["set-action", "query-status", "qmp_capabilities"] {
                writeln!(qmp, r#"{{"error": {{"class": "GenericError", "desc": "not {id}"}}, "id": "{id}"}}"#).unwrap();
            }
        }
        "version" => {
            say(&mut agent, &ToHost::Hello { version: quiz_proto::VERSION + 1 });
            wait_for_quit(&mut qmp);
            exit(0);
        }
        _ => {}
    }
    say(&mut agent, &ToHost::Hello { version: quiz_proto::VERSION });
    if behaviour == "fails-to-prepare" {
        say(&mut agent, &ToHost::Failed("no root".into()));
        wait_for_quit(&mut qmp);
        return;
    }
    let nonce = hear_start(&mut agent);
    let exited = |code| ToHost::Exited { nonce, status: Status::Code(code) };
    say(&mut agent, &ToHost::Started);
    say(&mut agent, &ToHost::Data(ProgramId::MAIN, Stream::Stdout, b"out".as_slice().into()));
    match behaviour.as_str() {
        "good" | "refuses-other-things" | "boots-slowly" => {
            say(&mut agent, &exited(0));
            say(&mut agent, &ToHost::Down { nonce });
            wait_for_quit(&mut qmp);
        }
        "other-nonce" => {
            let nonce = nonce.map(|byte| !byte);
            say(&mut agent, &ToHost::Exited { nonce, status: Status::Code(0) });
            say(&mut agent, &ToHost::Down { nonce });
            wait_for_quit(&mut qmp);
        }
        "no-down" => say(&mut agent, &exited(0)),
        "no-exited" => {
            say(&mut agent, &ToHost::Down { nonce });
            wait_for_quit(&mut qmp);
        }
        "fails-at-the-end" => {
            say(&mut agent, &exited(0));
            say(&mut agent, &ToHost::Down { nonce });
            wait_for_quit(&mut qmp);
            eprintln!("qemu: the disk is full");
            exit(1);
        }
        "killed-at-the-end" => {
            say(&mut agent, &exited(0));
            say(&mut agent, &ToHost::Down { nonce });
            std::process::abort();
        }
        "never-quits" => {
            say(&mut agent, &exited(0));
            say(&mut agent, &ToHost::Down { nonce });
            sleep();
        }
        "panic-behind-exit" => {
            say(&mut agent, &exited(0));
            write!(console, "[    1.0] Kernel panic - not syncing: at unmount\r\n").unwrap();
            writeln!(qmp, r#"{{"event": "SHUTDOWN", "data": {{"guest": true, "reason": "guest-reset"}}}}"#).unwrap();
        }
        "exits-twice" => {
            say(&mut agent, &exited(1));
            say(&mut agent, &exited(0));
            say(&mut agent, &ToHost::Down { nonce });
            wait_for_quit(&mut qmp);
        }
        "starts-twice" => {
            say(&mut agent, &ToHost::Hello { version: quiz_proto::VERSION });
            sleep();
        }
        "hangs" => sleep(),
        "only-words-of-panic" => {
            write!(console, "[    1.0] Kernel panic - not syncing: says a program\r\n").unwrap();
            for _ in 0..14 {
                std::thread::sleep(Duration::from_millis(500));
                say(&mut agent, &ToHost::Pulse);
            }
            say(&mut agent, &exited(0));
            say(&mut agent, &ToHost::Down { nonce });
            wait_for_quit(&mut qmp);
        }
        "floods" => {
            let line = [&[b'x'; 1023][..], b"\n"].concat();
            for _ in 0..100 * 1024 {
                console.write_all(&line).unwrap();
            }
            say(&mut agent, &exited(0));
            say(&mut agent, &ToHost::Down { nonce });
            wait_for_quit(&mut qmp);
        }
        // Sends without leave, in the smallest pieces.
        "overdraws" => {
            for _ in 0..WINDOW {
                say(&mut agent, &ToHost::Data(ProgramId::MAIN, Stream::Stdout, b"x"[..].into()));
            }
            say(&mut agent, &ToHost::Data(ProgramId::MAIN, Stream::Stdout, b"x"[..].into()));
            sleep();
        }
        "notes" => {
            for _ in 0..10_000 {
                say(&mut agent, &ToHost::Note("\u{1}".repeat(5000).into()));
            }
            say(&mut agent, &ToHost::Data(ProgramId::MAIN, Stream::Stdout, b""[..].into()));
            say(&mut agent, &exited(0));
            say(&mut agent, &ToHost::Down { nonce });
            wait_for_quit(&mut qmp);
        }
        // A guest that has found a way to make QEMU fail.
        "aborts-after-the-start" => std::process::abort(),
        "fails-itself-after-the-start" => exit(1),
        // A kernel that breaks its agent, or a program that has taken the agent's place.
        "fails-after-the-start" => {
            say(&mut agent, &ToHost::Failed("x".repeat(MAX_MESSAGE - 64).into()));
            sleep();
        }
        "breaks-after-the-start" => {
            say(&mut agent, &ToHost::Broken("no memory".into()));
            sleep();
        }
        "speaks-another-version-after-the-start" => {
            say(&mut agent, &ToHost::Hello { version: quiz_proto::VERSION + 1 });
            sleep();
        }
        "stops-after-the-start" => {
            writeln!(qmp, r#"{{"event": "STOP"}}"#).unwrap();
            sleep();
        }
        "cannot-go-on" => {
            eprintln!("qemu: fatal: Trying to execute code outside RAM or ROM at 0x1");
            std::process::abort();
        }
        "loses-output"
        | "spoils-artifacts"
        | "strict-log"
        | "strict-taint"
        | "strict-modules"
        | "strict-partial-line" => {
            match behaviour.as_str() {
                "spoils-artifacts" => say(&mut agent, &ToHost::Spoilt("/quiz/out/a cannot be read".into())),
                "strict-log" => say(&mut agent, &ToHost::Log("all is well\nWARNING: held lock freed!\n".into())),
                "strict-taint" => say(&mut agent, &ToHost::Tainted(1 << 9 | 1 << 12)),
                "strict-modules" => say(&mut agent, &ToHost::Tainted(1 << 12 | 1 << 13)),
                "strict-partial-line" => write!(console, "login: [    1.0] BUG: KASAN: double-free in f\r\n").unwrap(),
                _ => {}
            }
            say(&mut agent, &exited(0));
            let stdout = if behaviour == "loses-output" { 4 } else { 3 };
            say(&mut agent, &ToHost::Sent(Sent { stdout, ..Sent::default() }));
            say(&mut agent, &ToHost::Down { nonce });
            wait_for_quit(&mut qmp);
        }
        other => panic!("unknown behaviour {other}"),
    }
}

fn say(agent: &mut File, message: &ToHost) {
    let mut bytes = Vec::new();
    encode(message, &mut bytes).unwrap();
    agent.write_all(&bytes).unwrap();
}

fn hear_start(agent: &mut File) -> Nonce {
    let mut decoder = Decoder::default();
    let mut buffer = [0; 65536];
    loop {
        let n = agent.read(&mut buffer).unwrap();
        decoder.push(&buffer[..n]);
        while let Some(message) = decoder.next::<ToGuest>().unwrap() {
            match message {
                ToGuest::Prepare { .. } => say(agent, &ToHost::Ready),
                ToGuest::Start { nonce, .. } => return nonce,
                _ => {}
            }
        }
    }
}

/// Saves the machine at once, and then refuses so many times to let it go on. Ends when it is to.
fn save_and_refuse(qmp: File, times: usize, goes_on: &std::sync::mpsc::Sender<()>) {
    let mut answers = qmp.try_clone().unwrap();
    let mut refused = 0;
    for line in std::io::BufRead::lines(std::io::BufReader::new(qmp)) {
        let line = line.unwrap();
        // What it was not asked for must not count as an answer to what it was.
        let answer = match line {
            _ if line.contains(r#""execute":"migrate","#) => {
                r#"{"event": "MIGRATION", "data": {"status": "completed"}}"#
            }
            _ if line.contains(r#""execute":"cont""#) && refused < times => {
                refused += 1;
                r#"{"error": {"class": "GenericError", "desc": "Migration is not finalized yet"}, "id": "cont"}"#
            }
            _ if line.contains(r#""execute":"cont""#) => {
                goes_on.send(()).unwrap();
                r#"{"return": {}, "id": "cont"}"#
            }
            _ if line.contains(r#""execute":"quit""#) => exit(0),
            _ => r#"{"return": {}, "id": "of-nobody"}"#,
        };
        writeln!(answers, "{answer}").unwrap();
    }
}

fn wait_for_quit(qmp: &mut File) {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&heard).contains("\"quit\"") {
        match qmp.read(&mut buffer) {
            Ok(n @ 1..) => heard.extend_from_slice(&buffer[..n]),
            _ => exit(2),
        }
    }
}

fn sleep() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}
