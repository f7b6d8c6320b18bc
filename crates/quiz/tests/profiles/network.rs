//! The network in user mode, both ways.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use quiz_testing::Ran;

use crate::{run, sandbox};

#[test]
fn the_guest_reaches_the_host() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"from the host\n").unwrap();
    });
    let script = format!("exec bash -c 'head -n 1 </dev/tcp/10.0.2.2/{port}; cat /etc/resolv.conf'");
    let ran = run(&sandbox(), "net", &script);
    assert_eq!((ran.code, ran.out().as_str()), (0, "from the host\nnameserver 10.0.2.3\n"), "{}", ran.stderr);
    served.join().unwrap();
}

#[test]
fn a_forwarded_port_leads_into_the_guest() {
    let sandbox = sandbox();
    // Free a moment ago; the port is only bound again by this test's own QEMU.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let profiles = format!("net:forward={port}:7000");
    // bash cannot listen; perl, which Debian's base has, can.
    let server = "use Socket; socket(S, PF_INET, SOCK_STREAM, 0) or die; \
                  bind(S, sockaddr_in(7000, INADDR_ANY)) or die; listen(S, 1) or die; print STDOUT qq(listens\\n); \
                  accept(C, S) or die; syswrite(C, qq(from the guest\\n)); close C";
    let mut quiz = sandbox.start(&mut sandbox.command([
        "--timeout",
        "1m",
        "-k",
        quiz_testing::kernels::name(&sandbox),
        "-p",
        &profiles,
        "perl",
        "-e",
        &format!("$| = 1; {server}"),
    ]));
    let mut said = [0; 8];
    quiz.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let mut answer = String::new();
    while answer.is_empty() && Instant::now() < until {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.read_to_string(&mut answer).unwrap();
    }
    let ran: Ran = quiz.wait_with_output().unwrap().into();
    assert_eq!((ran.code, answer.as_str()), (0, "from the guest\n"), "{}", ran.stderr);
}

#[test]
fn ports_that_are_none_or_taken_end_the_run_before_the_boot() {
    for (forward, complaint) in [
        ("22", "it is not two ports"),
        ("99999:22", "`99999` is no port"),
        ("0.0.0.0:22:22", "is no port"),
        ("2222:22/sctp", "sctp is not forwarded"),
    ] {
        let ran = run(&sandbox(), &format!("net:forward={forward}"), "true");
        assert_eq!(ran.code, 125, "{}", ran.stderr);
        assert!(ran.stderr.contains(complaint), "{forward}: {}", ran.stderr);
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ran = run(&sandbox(), &format!("net:forward={port}:22"), "true");
    assert_eq!(ran.code, 125, "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("127.0.0.1:{port}")), "{}", ran.stderr);
}
