//! Readme: what the README lets a newcomer do first, does what it should.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mapreduce::logic::tokenize::Tokens;

use crate::harness::program::Invocation;
use crate::reference;

const BOOK: &[u8] = include_bytes!("../../examples/alice.txt");

fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs `args` in a fresh clone, as far as they see of it.
fn in_a_fresh_clone(args: &[&str]) -> crate::harness::Finished {
    let clone = tempfile::tempdir().unwrap();
    fs::create_dir(clone.path().join("examples")).unwrap();
    fs::write(clone.path().join("examples/alice.txt"), BOOK).unwrap();
    fs::write(clone.path().join("hosts.toml"), repository("hosts.toml")).unwrap();
    Invocation::new(args).current_dir(clone.path()).deadline(Duration::from_secs(30)).run()
}

#[test]
fn first_command_counts_the_book() {
    let readme = repository("README.md");
    let mut lines = readme.lines().skip_while(|line| !line.starts_with("```sh")).skip(1);
    let first = lines.next().expect("a command");
    let args = first.strip_prefix("cargo run --release -- ").expect("the first command runs the program");
    let counted = in_a_fresh_clone(&args.split(' ').collect::<Vec<_>>()).expect_code(0);
    let expected = reference::word_count(&[BOOK], Tokens::Word, false);
    assert!(counted.stdout_bytes == expected, "the result differs from the reference");
    let counts = counted.stdout.lines().map(|line| line.rsplit_once('\t').unwrap().1.parse::<u64>().unwrap());
    assert_eq!((counts.sum::<u64>(), counted.stdout.lines().count()), (27_333, 2_961));
    for part in ["27,333 words", "2,961 distinct", "this machine", "in-process", "│ Map "] {
        assert!(counted.stderr.contains(part), "no {part:?} in:\n{}", counted.stderr);
    }
}

#[test]
fn entry_that_the_readme_shows_is_a_true_one() {
    let counted = in_a_fresh_clone(&["run", "-q", "examples/alice.txt", "--format", "json", "--top", "1"]);
    let line = counted.expect_code(0).stdout;
    assert!(repository("README.md").contains(line.trim_end()), "{line}");
}

/// The example of a hosts file, with nothing switched on, is one that the commands take.
#[test]
fn hosts_file_that_comes_along_is_an_example_only() {
    let deployed = in_a_fresh_clone(&["deploy"]).expect_code(1);
    assert!(
        deployed.stderr.contains("hosts.toml") && deployed.stderr.contains("discover"),
        "{}",
        deployed.stderr
    );
    let stopped = in_a_fresh_clone(&["stop"]).expect_code(0);
    assert!(stopped.stderr.contains("nothing is deployed"), "{}", stopped.stderr);
}
