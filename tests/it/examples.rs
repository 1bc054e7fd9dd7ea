//! Examples: a program built on the library has the whole command line, for its own job, and deploys itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;

use crate::deploy::{Deployed, assert_says};
use crate::harness::program::Invocation;
use crate::harness::served::{Served, await_jobs, list};
use crate::harness::{Lab, MARKER, with_deadline};
use crate::portable::{Needs, needs};

const LIMIT: Duration = Duration::from_secs(90);

const FILES: [(&str, &[u8]); 2] = [
    ("book.txt", include_bytes!("../../examples/alice.txt")),
    ("notes.txt", "The Queen of Hearts, she made some tarts; déjà vu.".as_bytes()),
];

/// The executable of an example, which `cargo test` builds beside the tests.
fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not built: plain `cargo test` builds it, before `cargo test --test it` run \
         `cargo build --example {name}`",
        path.display()
    );
    path
}

/// The example, in the client's directory of `lab`.
fn index(lab: &Lab, args: &[&str]) -> Invocation {
    Invocation::of(&example("inverted_index"), args)
        .current_dir(&lab.client_dir())
        .env(MARKER, lab.root())
        .env("HOME", lab.client_dir().join("home"))
        .env("MAPREDUCE_SSH_CONFIG", lab.ssh_config())
        .env("MAPREDUCE_KNOWN_HOSTS", lab.known_hosts())
}

/// The result, computed in the plainest way: the files of each word.
fn expected(ignore_case: bool) -> Vec<u8> {
    let word = Regex::new(r"\w+").unwrap();
    let mut files: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (file, text) in FILES {
        let text = String::from_utf8_lossy(text);
        let text = if ignore_case { text.to_lowercase() } else { text.into_owned() };
        for found in word.find_iter(&text) {
            files.entry(found.as_str().to_owned()).or_default().insert(file);
        }
    }
    let line = |(word, files): (&String, &BTreeSet<&str>)| {
        let files: Vec<&str> = files.iter().copied().collect();
        format!("{word}\t{}\n", files.join(","))
    };
    files.iter().map(line).collect::<String>().into_bytes()
}

fn lab(hosts: usize) -> Lab {
    let lab = Lab::start(hosts);
    lab.write_hosts("");
    for (file, text) in FILES {
        fs::write(lab.client_dir().join(file), text).unwrap();
    }
    lab
}

#[test]
fn example_shows_its_own_name_and_job() {
    with_deadline(LIMIT, || {
        let lab = lab(0);
        for args in [&["--help"][..], &["run", "--help"], &["deploy", "--help"], &["serve", "--help"]] {
            let help = index(&lab, args).run().expect_code(0);
            assert!(help.stdout.contains("Usage: inverted_index"), "{}", help.stdout);
            assert!(!help.stdout.contains("mapreduce "), "{}", help.stdout);
            assert_eq!(help.stderr, "");
        }
        let help = index(&lab, &["--help"]).run().expect_code(0).stdout;
        assert!(help.contains("List the files that each word is in"), "{help}");
        // Its flags are its own.
        let run = index(&lab, &["run", "--help"]).run().expect_code(0).stdout;
        assert!(run.contains("--ignore-case") && !run.contains("--pattern"), "{run}");
        index(&lab, &["run", "book.txt", "--pattern", "word"]).run().expect_code(2);
        assert_eq!(needs(&example("inverted_index")), Needs { loader: false, libraries: 0 });
    });
}

#[test]
fn example_is_exact_here_and_over_workers() {
    with_deadline(LIMIT, || {
        let lab = lab(0);
        let (plain, folded) = (expected(false), expected(true));
        assert_ne!(plain, folded);
        let local = index(&lab, &["run", "--local", "book.txt", "notes.txt"]).run().expect_code(0);
        assert!(local.stdout_bytes == plain, "not exact in-process");
        let serve = |_| Served::start(index(&lab, &["serve", "--port", "0", "--threads", "2"]));
        let workers: Vec<Served> = (0..4).map(serve).collect();
        let over = ["run", "book.txt", "notes.txt", "--workers", &list(&workers)];
        for size in ["1KiB", "100KiB"] {
            let args = [&over[..], &["--split-size", size]].concat();
            assert!(index(&lab, &args).run().expect_code(0).stdout_bytes == plain, "splits of {size}");
            let args = [&args[..], &["--ignore-case"]].concat();
            assert!(index(&lab, &args).run().expect_code(0).stdout_bytes == folded, "splits of {size}");
        }
        let done = index(&lab, &[&over[..], &["--format", "csv", "--top", "1"]].concat()).run();
        assert_says(&done, &[" words, ", "4 workers, 8 threads"]);
        let first = plain.split(|&byte| byte == b'\n').next().unwrap();
        let first = String::from_utf8_lossy(first).replace('\t', ",");
        assert_eq!(done.expect_code(0).stdout, format!("word,files\r\n{first}\r\n"));

        // Counts are not their business.
        let refused = lab.mapreduce(&over).expect_code(1);
        assert_says(
            &refused,
            &["the worker knows the job [\"inverted-index\"], not \"wordcount\": it runs another program"],
        );
        assert_says(&refused, &["error: 0 of 4 workers answer"]);
        await_jobs(&workers, 0, Duration::from_secs(5));
    });
}

#[test]
fn example_deploys_itself() {
    with_deadline(LIMIT, || {
        let lab = lab(2);
        index(&lab, &["deploy"]).run().expect_code(0);
        let done = index(&lab, &["run", "book.txt", "notes.txt"]).run().expect_code(0);
        assert!(done.stdout_bytes == expected(false));
        assert_says(&done, &["2 workers, "]);
        let refused = lab.mapreduce(&["run", "book.txt", "notes.txt"]).expect_code(1);
        assert_says(&refused, &["tp-test-01 does not answer", "it runs another program", "  try: "]);
        // Whichever program stops it.
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}
