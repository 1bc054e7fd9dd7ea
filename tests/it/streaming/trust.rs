//! Trust: a worker runs commands for those only who have proven who they are, unless it is told to.

use super::{BOOK, Bench, LIMIT};
use crate::deploy::{Deployed, assert_says};
use crate::harness::served::{Served, list};
use crate::harness::{Lab, with_deadline};

#[test]
fn a_worker_that_knows_nobody_runs_no_commands_unless_it_is_told_to() {
    with_deadline(LIMIT, || {
        let bench = Bench::start(0);
        let job = ["run", "book.txt", "--map", "cat", "--reduce", "wc -l"];
        let witness = bench.path("witness");
        let harm = format!("touch {}", witness.display());
        let serve = |args: &[&str]| {
            let serve = [&["serve", "--port", "0", "--threads", "1"], args].concat();
            [Served::start(bench.lab.invocation(&serve))]
        };
        let strict = serve(&[]);
        let refused = bench.lab.mapreduce(&["run", "book.txt", "--map", &harm, "--workers", &list(&strict)]);
        assert_says(&refused.expect_code(1), &["the job streaming runs commands", "serve --allow-commands"]);
        assert!(!witness.exists());
        // Other jobs are no matter of trust.
        bench.lab.mapreduce(&["run", "book.txt", "--top", "1", "--workers", &list(&strict)]).expect_code(0);
        let lenient = serve(&["--allow-commands"]);
        let done = bench.lab.mapreduce(&[&job[..], &["--workers", &list(&lenient)]].concat()).expect_code(0);
        assert_eq!(done.stdout_bytes, bench.pipe("cat", "wc -l", BOOK));
    });
}

#[test]
fn deployed_workers_run_commands_for_their_own_client_alone() {
    with_deadline(LIMIT, || {
        for plaintext in [false, true] {
            let lab = Lab::start(1);
            lab.write_hosts("");
            std::fs::write(lab.client_dir().join("book.txt"), BOOK).expect("it is writable");
            let (deploy, run) = (["deploy", "--insecure-plaintext"], ["run", "book.txt", "--map", "cat"]);
            let deploy = if plaintext { &deploy[..] } else { &deploy[..1] };
            lab.mapreduce(deploy).expect_code(0);
            let run = lab.mapreduce(&[&run[..], if plaintext { &deploy[1..] } else { &[] }].concat());
            match plaintext {
                false => _ = run.expect_code(0),
                true => assert_says(&run.expect_code(1), &["the job streaming runs commands"]),
            }
            lab.mapreduce(&["stop"]).expect_code(0);
        }
    });
}
