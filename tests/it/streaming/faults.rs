//! Faults: commands that do what they should not, and workers that die while they run them.

use std::fs;

use rustix::process::Signal;

use super::{AWK_SUM, AWK_WORDS, BOOK, Bench, LIMIT, SOON};
use crate::deploy::assert_says;
use crate::harness::processes::signal;
use crate::harness::program::Running;
use crate::harness::{wait_until, with_deadline};

impl Bench {
    /// Starts a run that does not end by itself, and waits until a command of it writes `name` into the directory.
    fn held(&self, args: &[&str], name: &str) -> Running {
        let mut running = self.invocation(args).spawn();
        wait_until(SOON, "a command to be at work", || {
            assert!(running.goes_on(), "{}", running.said());
            self.path(name).exists()
        });
        running
    }

    /// A command that tells of itself, and never ends.
    fn endless(&self) -> String {
        format!("cat; touch {}; sleep 1000 & sleep 1000", self.path("here").display())
    }
}

#[test]
fn a_command_that_dies_ends_the_job_with_what_it_said() {
    with_deadline(LIMIT, || {
        for n in [0, 4] {
            let bench = Bench::start(n);
            let map = "python3 -c 'import sys; sys.exit(\"no \\033[2Jgood\")'";
            let died = bench.run(&["book.txt", "--map", map, "-o", "out"]).expect_code(1);
            let of =
                ["job streaming", "could not map the split of book.txt, bytes ", "exited with status 1: no "];
            assert_says(&died, &of);
            assert!(!died.stderr.contains('\x1b') && !bench.path("out").exists(), "{}", died.stderr);
            let killed = bench.run(&["book.txt", "--map", "kill -s SEGV $$"]).expect_code(1);
            assert_says(&killed, &["was killed by signal 11 and wrote nothing to standard error"]);
            let absent = bench.run(&["book.txt", "--map", "./absent"]).expect_code(1);
            assert_says(&absent, &["exited with status 127", "--ship", "./absent: not found"]);
            let reduce = "cat; echo it is bad >&2; exit 7";
            let died = bench.run(&["book.txt", "--map", "cat", "--reduce", reduce]).expect_code(1);
            assert_says(
                &died,
                &["job streaming", "in reduce", "the reduce command", "exited with status 7: it is bad"],
            );
            bench.await_nothing();
        }
    });
}

/// Only some splits fail, and some partitions: every worker fails in its turn.
#[test]
fn a_record_that_no_command_takes_is_told_of() {
    with_deadline(LIMIT, || {
        let bench = Bench::start(4);
        let map = "awk '/Mock Turtle/ { print \"poison\" > \"/dev/stderr\"; exit 9 } { print }'";
        let died = bench.run(&["book.txt", "--map", map, "--split-size", "10k"]).expect_code(1);
        assert_says(
            &died,
            &["3 workers could not map the split of book.txt", "exited with status 9: poison"],
        );
        let reduce = "awk '/^Alice/ { print \"poison\" > \"/dev/stderr\"; exit 9 } { print }'";
        let died = bench.run(&["book.txt", "--map", "cat", "--reduce", reduce]).expect_code(1);
        assert_says(&died, &["workers gave up for the same reason", "exited with status 9: poison"]);
        bench.await_nothing();
    });
}

#[test]
fn one_that_never_reads_is_no_error() {
    with_deadline(LIMIT, || {
        for n in [0, 4] {
            let bench = Bench::start(n);
            let done =
                bench.run(&["book.txt", "--map", "exec <&-; echo x", "--reduce", "sort -u"]).expect_code(0);
            assert_eq!(done.stdout, "x\n");
            bench.await_nothing();
        }
    });
}

#[test]
fn one_that_writes_without_end_is_stopped_where_memory_ends() {
    with_deadline(LIMIT, || {
        let bench = Bench::with(2, &["--memory", "40MB"]);
        let stopped = bench.run(&["book.txt", "--map", "seq 1 99999999999"]).expect_code(1);
        let of =
            ["the map command", "was stopped: the map tables need", "more than the 40.0 MB", "(--memory)"];
        assert_says(&stopped, &of);
        let long_line = bench.run(&["book.txt", "--map", "tr '\\0' x < /dev/zero"]).expect_code(1);
        assert_says(&long_line, &["was stopped: ", "(--memory)"]);
        let gathered = bench.run(&["book.txt", "--map", "yes", "--combine", "cat"]).expect_code(1);
        assert_says(&gathered, &["was stopped: ", "(--memory)"]);
        let reduce = ["--map", "head -n 1", "--reduce", "seq 1 99999999999"];
        let reduced = bench.run(&[&["book.txt"], &reduce[..]].concat()).expect_code(1);
        assert_says(&reduced, &["was stopped: the reduce needs", "more than the 40.0 MB", "(--memory)"]);
        // Bytes that values own elsewhere count, too.
        let values = r#"awk 'BEGIN { for (;;) print "key\t" n++ }'"#;
        assert_says(&bench.run(&["book.txt", "--map", values]).expect_code(1), &["(--memory)"]);
        bench.await_nothing();
    });
}

#[test]
fn one_that_never_ends_can_be_interrupted() {
    with_deadline(LIMIT, || {
        for n in [0, 2] {
            for phase in ["--map", "--reduce"] {
                let bench = Bench::start(n);
                let endless = bench.endless();
                let commands = match phase {
                    "--map" => vec!["--map", &endless],
                    _ => vec!["--map", "cat", "--reduce", &endless],
                };
                let running = bench.held(&[&["book.txt", "-o", "out"], &commands[..]].concat(), "here");
                signal(running.pid(), Signal::INT);
                let ended = running.wait().expect_code(130);
                assert!(ended.elapsed < LIMIT / 4 && !bench.path("out").exists());
                bench.await_nothing();
            }
        }
    });
}

#[test]
fn nothing_survives_a_client_or_a_worker_that_is_killed() {
    with_deadline(LIMIT, || {
        for n in [0, 2] {
            let bench = Bench::start(n);
            let running = bench.held(&["book.txt", "--map", &bench.endless()], "here");
            signal(running.pid(), Signal::KILL);
            bench.await_nothing();
        }
        let mut bench = Bench::start(2);
        let running = bench.held(&["book.txt", "--map", &bench.endless()], "here");
        bench.workers.iter().for_each(|worker| signal(worker.pid(), Signal::KILL));
        running.wait().expect_code(1);
        bench.workers.clear();
        bench.await_nothing();
    });
}

/// The result is exact although a worker dies in the middle of its commands.
#[test]
fn a_worker_that_dies_changes_nothing() {
    with_deadline(LIMIT, || {
        for phase in ["map", "reduce"] {
            let bench = Bench::start(3);
            let text: Vec<u8> = BOOK.repeat(4);
            bench.write("text", &text, 0o644);
            let expected = bench.pipe(AWK_WORDS, AWK_SUM, &text);
            // What is at work tells of its worker, and waits until that is dead.
            let (here, dead) = (bench.path("here"), bench.path("dead"));
            let told = format!(
                "if mkdir {here} 2>/dev/null; then cut -d ' ' -f 4 /proc/$PPID/stat > {here}/worker; fi; \
                 while [ ! -e {dead} ]; do sleep 0.05; done",
                here = here.display(),
                dead = dead.display()
            );
            let held = |command: &str, is_held: bool| match is_held {
                true => format!("({told}); {command}"),
                false => command.to_owned(),
            };
            let (map, reduce) = (held(AWK_WORDS, phase == "map"), held(AWK_SUM, phase == "reduce"));
            let job = ["text", "--map", &map, "--reduce", &reduce, "--split-size", "30k"];
            let running = bench.held(&job, "here/worker");
            let worker = bench.workers[1].pid();
            signal(worker, Signal::KILL);
            fs::write(&dead, b"").expect("the client's directory is ours");
            let done = running.wait().expect_code(0);
            assert!(done.stdout_bytes == expected, "not exact: {}", done.stderr);
            assert_says(&done, &["1 worker lost"]);
            bench.await_nothing();
        }
    });
}
