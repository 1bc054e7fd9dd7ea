//! Examples: a program built on the library has the whole command line, for its own job, and deploys itself.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use regex::bytes::Regex;

use crate::deploy::{Deployed, assert_says};
use crate::harness::program::Invocation;
use crate::harness::served::{Served, await_jobs, list};
use crate::harness::{Lab, MARKER, with_deadline};
use crate::portable::{Needs, needs};

const LIMIT: Duration = Duration::from_secs(90);

const BOOK: &[u8] = include_bytes!("../../examples/alice.txt");

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
fn bigrams(lab: &Lab, args: &[&str]) -> Invocation {
    Invocation::of(&example("bigrams"), args)
        .current_dir(&lab.client_dir())
        .env(MARKER, lab.root())
        .env("HOME", lab.client_dir().join("home"))
        .env("MAPREDUCE_SSH_CONFIG", lab.ssh_config())
        .env("MAPREDUCE_KNOWN_HOSTS", lab.known_hosts())
}

/// The result, computed in the plainest way: neighbours in each line.
fn expected(text: &[u8], ignore_case: bool) -> Vec<u8> {
    let word = Regex::new(r"\w+").unwrap();
    let mut counts: HashMap<String, u64> = HashMap::new();
    for line in text.split(|&byte| byte == b'\n') {
        let line = if ignore_case {
            String::from_utf8_lossy(line).to_lowercase()
        } else {
            String::from_utf8_lossy(line).into_owned()
        };
        let words: Vec<&str> = word
            .find_iter(line.as_bytes())
            .map(|found| std::str::from_utf8(found.as_bytes()).unwrap())
            .collect();
        words.windows(2).for_each(|pair| *counts.entry(pair.join(" ")).or_default() += 1);
    }
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts.iter().map(|(pair, n)| format!("{pair}\t{n}\n")).collect::<String>().into_bytes()
}

fn lab(hosts: usize) -> Lab {
    let lab = Lab::start(hosts);
    lab.write_hosts("");
    fs::write(lab.client_dir().join("book.txt"), BOOK).unwrap();
    lab
}

#[test]
fn example_shows_its_own_name_and_job() {
    with_deadline(LIMIT, || {
        let lab = lab(0);
        for args in [&["--help"][..], &["run", "--help"], &["deploy", "--help"], &["serve", "--help"]] {
            let help = bigrams(&lab, args).run().expect_code(0);
            assert!(help.stdout.contains("Usage: bigrams"), "{}", help.stdout);
            assert!(!help.stdout.contains("mapreduce "), "{}", help.stdout);
            assert_eq!(help.stderr, "");
        }
        let help = bigrams(&lab, &["--help"]).run().expect_code(0).stdout;
        assert!(help.contains("how often two words stand side by side"), "{help}");
        // Its flags are its own.
        let run = bigrams(&lab, &["run", "--help"]).run().expect_code(0).stdout;
        assert!(run.contains("--ignore-case") && !run.contains("--tokens"), "{run}");
        bigrams(&lab, &["run", "book.txt", "--tokens", "word"]).run().expect_code(2);
        assert_eq!(needs(&example("bigrams")), Needs { loader: false, libraries: 0 });
    });
}

#[test]
fn example_is_exact_here_and_over_workers() {
    with_deadline(LIMIT, || {
        let lab = lab(0);
        let (plain, folded) = (expected(BOOK, false), expected(BOOK, true));
        assert_ne!(plain, folded);
        let local = bigrams(&lab, &["run", "--local", "book.txt"]).run().expect_code(0);
        assert!(local.stdout_bytes == plain, "not exact in-process");
        let serve = |_| Served::start(bigrams(&lab, &["serve", "--port", "0", "--threads", "2"]));
        let workers: Vec<Served> = (0..4).map(serve).collect();
        let over = ["run", "book.txt", "--workers", &list(&workers)];
        for size in ["1KiB", "100KiB"] {
            let args = [&over[..], &["--split-size", size]].concat();
            assert!(bigrams(&lab, &args).run().expect_code(0).stdout_bytes == plain, "splits of {size}");
            let args = [&args[..], &["--ignore-case"]].concat();
            assert!(bigrams(&lab, &args).run().expect_code(0).stdout_bytes == folded, "splits of {size}");
        }
        let done = bigrams(&lab, &[&over[..], &["--format", "csv", "--top", "1"]].concat()).run();
        assert_says(&done, &[" bigrams, ", "4 workers, 8 threads"]);
        let first = plain.split(|&byte| byte == b'\n').next().unwrap();
        let first = String::from_utf8_lossy(first).replace('\t', ",");
        assert_eq!(done.expect_code(0).stdout, format!("bigram,count\r\n{first}\r\n"));

        // Words are not their business.
        let refused = lab.mapreduce(&over).expect_code(1);
        assert_says(
            &refused,
            &["the worker knows the job [\"bigrams\"], not \"wordcount\": it runs another program"],
        );
        assert_says(&refused, &["error: 0 of 4 workers answer"]);
        await_jobs(&workers, 0, Duration::from_secs(5));
    });
}

#[test]
fn example_deploys_itself() {
    with_deadline(LIMIT, || {
        let lab = lab(2);
        bigrams(&lab, &["deploy"]).run().expect_code(0);
        let done = bigrams(&lab, &["run", "book.txt"]).run().expect_code(0);
        assert!(done.stdout_bytes == expected(BOOK, false));
        assert_says(&done, &["2 workers, "]);
        let refused = lab.mapreduce(&["run", "book.txt"]).expect_code(1);
        assert_says(&refused, &["tp-test-01 does not answer", "it runs another program", "  try: "]);
        // Whichever program stops it.
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}
