//! Corpus: whatever a fuzzer found once is read again by every run of the tests.

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn all_that_was_found_is_read_without_a_panic() {
    for target in targets::ALL {
        for (name, bytes) in corpus(target.name) {
            assert!(bytes.len() <= targets::LONGEST, "{}/{name} is longer than what is tried", target.name);
            // The name is seen if it panics.
            println!("{}/{name}", target.name);
            (target.read)(&bytes);
        }
    }
}

#[test]
fn seeds_are_understood() {
    for target in targets::ALL {
        for (number, seed) in (target.seeds)().iter().enumerate() {
            assert!((target.read)(seed), "{}: seed {number} is not understood", target.name);
            assert!(seed.len() <= targets::LONGEST && (target.most_allocated)(seed.len()) > seed.len());
        }
    }
}

#[test]
fn every_corpus_belongs_to_a_target() {
    let named: BTreeSet<String> = targets::ALL.iter().map(|target| target.name.to_owned()).collect();
    let there: BTreeSet<String> = fs::read_dir(root())
        .expect("the corpus is there")
        .map(|dir| dir.expect("it can be read").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(there, named);
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

/// The files of a target, with their names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = root().join(target);
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let paths = files.map(|file| file.expect("it can be read").path());
    let read = |path: std::path::PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        (name.unwrap_or_default(), fs::read(&path).expect("it can be read"))
    };
    let mut found: Vec<_> = paths.map(read).collect();
    found.sort();
    found
}
