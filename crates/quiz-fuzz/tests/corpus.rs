//! Every input that the fuzzer began with or has found, as a plain test.

use std::path::Path;

use quiz_fuzz::TARGETS;

#[test]
fn every_input_of_the_corpus_is_taken() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for target in TARGETS {
        let dir = corpus.join(target.name);
        let mut files: Vec<_> = fs_err::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 3, "{} has next to nothing", dir.display());
        for file in files {
            let input = fs_err::read(&file).unwrap();
            let taken = std::panic::catch_unwind(|| (target.run)(&input));
            assert!(taken.is_ok(), "the target {} panicked with {}", target.name, file.display());
        }
    }
}

#[test]
fn an_input_that_breaks_a_promise_is_noticed() {
    assert!(std::panic::catch_unwind(|| quiz_fuzz::run("no such target", b"")).is_err());
}
