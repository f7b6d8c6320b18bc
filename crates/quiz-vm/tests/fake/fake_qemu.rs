//! A QEMU that misbehaves on demand, for faults that a real one will not produce when asked.
//!
//! `fake=NAME` among the words of `-append` says how. It speaks on the descriptors that quiz hands to QEMU.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::process::exit;
use std::time::Duration;

use quiz_proto::{Decoder, Nonce, ProgramId, Status, Stream, ToGuest, ToHost, encode};

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
        "stops" => {
            writeln!(qmp, r#"{{"event": "STOP"}}"#).unwrap();
            sleep();
        }
        "garbage" => {
            agent.write_all(&[0xff; 4096]).unwrap();
            sleep();
        }
        "version" => {
            say(&mut agent, &ToHost::Hello { version: quiz_proto::VERSION + 1 });
            wait_for_quit(&mut qmp);
            exit(0);
        }
        _ => {}
    }
    say(&mut agent, &ToHost::Hello { version: quiz_proto::VERSION });
    let nonce = hear_start(&mut agent);
    let exited = |code| ToHost::Exited { nonce, status: Status::Code(code) };
    say(&mut agent, &ToHost::Started);
    say(&mut agent, &ToHost::Data(ProgramId::MAIN, Stream::Stdout, b"out".as_slice().into()));
    match behaviour.as_str() {
        "good" => {
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
        "fails-to-prepare" => {
            say(&mut agent, &ToHost::Failed("no root".into()));
            wait_for_quit(&mut qmp);
        }
        other => panic!("unknown behaviour {other}"),
    }
}

fn say(agent: &mut File, message: &ToHost) {
    let mut bytes = Vec::new();
    encode(message, &mut bytes);
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
