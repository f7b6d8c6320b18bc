//! Faults of disks, switched while the guest runs.

use crate::{output, run, sandbox};

/// Says after each switch whether the first 16 KiB can be read and written.
const TRY: &str = r#"
    try() {
        dd if=/dev/quizm1 of=/dev/null bs=4k count=4 iflag=direct 2>/dev/null && r=reads || r=-
        dd if=/dev/zero of=/dev/quizm1 bs=4k count=4 oflag=direct 2>/dev/null && w=writes || w=-
        echo "$1: $r $w"
    }
"#;

#[test]
fn faults_come_and_go_while_the_disk_is_open() {
    let script = format!(
        r#"{TRY}
        exec 5<>/dev/quizm1
        try first
        for mode in all read write 'flakey=0/1' 'read 4K+4K' 'bad 4K+4K'; do
            quizctl error on quizm1 $mode
            try "$mode"
            try "$mode"
            quizctl error off quizm1
        done
        try off
        printf before | dd of=/dev/quizm1 conv=sync,notrunc oflag=direct 2>/dev/null
        quizctl error on quizm1 drop
        printf after | dd of=/dev/quizm1 conv=sync,notrunc oflag=direct 2>/dev/null
        quizctl error on quizm1 corrupt=2/65
        quizctl error list
        dd if=/dev/quizm1 bs=512 count=1 iflag=direct 2>/dev/null | head -c 6
        quizctl error off"#
    );
    let ran = run(&sandbox(), "memdev:count=2,memdev:size=8M,error", &script);
    let expected = "first: reads writes\n\
        all: - -\nall: - -\n\
        read: - writes\nread: - writes\n\
        write: reads -\nwrite: reads -\n\
        flakey=0/1: - -\nflakey=0/1: - -\n\
        read 4K+4K: - writes\nread 4K+4K: - writes\n\
        bad 4K+4K: - writes\nbad 4K+4K: reads writes\n\
        off: reads writes\n\
        quizm0       off\nquizm1       corrupt=2/65\n\
        bAfore";
    assert_eq!(output(&ran), expected, "{}", ran.stderr);
}

#[test]
fn faults_keep_to_the_sectors_of_the_disk() {
    let script = "! quizctl error on quizb0 read 1M+512
        quizctl error on quizb0 read 4K+4K
        for block in 0 1 2; do
            dd if=/dev/quizb0 of=/dev/null bs=4k count=1 skip=$block iflag=direct 2>/dev/null && echo good || echo bad
        done
        dd if=/dev/quiz-raw/quizb0 of=/dev/null bs=4k count=3 iflag=direct 2>/dev/null && echo all good below";
    let ran = run(&sandbox(), "blockdev:count=1,blockdev:size=8M,blockdev:sector=4096,error", script);
    assert_eq!(output(&ran), "good\nbad\ngood\nall good below\n", "{}", ran.stderr);
    assert!(ran.stderr.contains("the sectors of quizb0 have 4096 bytes"), "{}", ran.stderr);
}

#[test]
fn faults_can_be_there_from_the_start_and_only_on_some_disks() {
    let script = format!(
        "{TRY} try start; quizctl error list; blockdev --getsz /dev/quizm1; test ! -e /dev/quiz-raw/quizm0
         ! quizctl error on quizm0; ! quizctl error on quizm1 read 8M+512; ! quizctl error on quizm1 raed
         quizctl error on quizm1 delay=200; a=$(date +%s%N); try delay; b=$(date +%s%N); echo $(((b - a) / 400000000))"
    );
    let profiles = "memdev:count=2,memdev:size=8M,error:devices=quizm1,error:on=quizm1 write 8K+512";
    let ran = run(&sandbox(), profiles, &script);
    let said = output(&ran);
    assert!(said.starts_with("start: reads -\nquizm1       write 8K+512\n16384\ndelay: reads writes\n"), "{said}");
    assert!(!said.ends_with("\n0\n"), "nothing was slow: {said}");
    for complaint in ["no disk quizm0 here", "quizm1 ends at 8388608 bytes", "no mode `raed`"] {
        assert!(ran.stderr.contains(complaint), "{complaint}: {}", ran.stderr);
    }
    let ran = run(&sandbox(), "error", "true");
    assert_eq!(ran.code, 125);
    assert!(ran.stderr.contains("include blockdev or memdev"), "{}", ran.stderr);
}
