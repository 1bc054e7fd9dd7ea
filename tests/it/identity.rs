//! Identity: nobody speaks without encryption by mistake, and no identity is used that others may have.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use mapreduce::edge::cluster::{Cluster, Protection};

use crate::deploy::{Deployed, assert_says};
use crate::harness::{Lab, with_deadline};

const LIMIT: Duration = Duration::from_secs(120);

fn mode(lab: &Lab, file: &str) -> u32 {
    fs::metadata(lab.client_dir().join(file)).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn identity_is_made_once_for_its_user_alone() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let made = lab.mapreduce(&["identity", "lab.identity"]).expect_code(0);
        assert_says(&made, &["wrote lab.identity", "serve --bind ADDR --identity lab.identity"]);
        assert_eq!((made.stdout.as_str(), mode(&lab, "lab.identity")), ("", 0o600));
        let file = lab.client_dir().join("lab.identity");
        let first = fs::read(&file).expect("it is there");
        let again = lab.mapreduce(&["identity", "lab.identity"]).expect_code(1);
        assert_says(&again, &["creating the identity lab.identity", "try: use the one that is there"]);
        assert_eq!(fs::read(&file).expect("it is there"), first);
        for said in [&made.stderr, &again.stderr] {
            assert!(!said.contains("PRIVATE") && said.len() < 1_000, "{said}");
        }
        // Neither over a link to somewhere else.
        std::os::unix::fs::symlink("elsewhere", lab.client_dir().join("link")).expect("it is ours");
        lab.mapreduce(&["identity", "link"]).expect_code(1);
        assert!(!lab.client_dir().join("elsewhere").exists());
    });
}

#[test]
fn identity_that_others_may_read_is_used_by_nobody() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        lab.mapreduce(&["identity", "lab.identity"]).expect_code(0);
        fs::write(lab.client_dir().join("input"), "one two").expect("it is writable");
        let file = lab.client_dir().join("lab.identity");
        let serve = ["serve", "--port", "0", "--identity", "lab.identity"];
        let run = ["run", "input", "--workers", "127.0.0.1:1", "--identity", "lab.identity"];
        for permissions in [0o640, 0o604, 0o620, 0o666] {
            fs::set_permissions(&file, fs::Permissions::from_mode(permissions)).expect("it is ours");
            for command in [&serve[..], &run] {
                let refused = lab.mapreduce(command).expect_code(1);
                assert_says(&refused, &["others may read or write it: chmod 600 lab.identity"]);
            }
        }
        for (text, what) in [(&b"no identity"[..], "it is no identity"), (&[b' '; 70_000], "longer than")] {
            fs::write(&file, text).expect("it is writable");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
            for command in [&serve[..], &run] {
                let refused = lab.mapreduce(command).expect_code(1);
                assert_says(&refused, &["reading the identity lab.identity", what]);
                assert!(!refused.stderr.contains("panicked"), "{}", refused.stderr);
            }
        }
    });
}

#[test]
fn beyond_loopback_there_is_no_plaintext_by_mistake() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        fs::write(lab.client_dir().join("input"), "one two").expect("it is writable");
        for bind in ["0.0.0.0", "::", "10.1.2.3"] {
            let refused = lab.mapreduce(&["serve", "--bind", bind, "--port", "0"]).expect_code(2);
            assert_says(
                &refused,
                &["without an identity, a worker listens on loopback only", "try: `identity FILE`"],
            );
        }
        // An address for documentation, where nobody is: it is not even tried.
        for workers in ["192.0.2.1:4000", "127.0.0.1:1,192.0.2.1:4000"] {
            let refused = lab.mapreduce(&["run", "input", "--workers", workers]).expect_code(2);
            assert_says(
                &refused,
                &[
                    "192.0.2.1:4000 is not on this machine",
                    "no identity to encrypt with",
                    "try: `identity FILE`",
                ],
            );
        }
    });
}

/// Who wants it all the same is warned.
#[test]
fn plaintext_that_is_wanted_is_warned_of() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let args =
            ["serve", "--bind", "0.0.0.0", "--port", "0", "--idle-timeout", "200ms", "--insecure-plaintext"];
        let served = lab.mapreduce(&args).expect_code(0);
        let warning = ["warning", "no encryption: whoever reaches a worker can run jobs there"];
        assert_says(&served, &warning);
        // It is not to be silenced.
        assert_says(&lab.mapreduce(&[&["-q"], &args[..]].concat()).expect_code(0), &warning);
        lab.mapreduce(&["identity", "lab.identity"]).expect_code(0);
        let both = [&args[..], &["--identity", "lab.identity"]].concat();
        lab.mapreduce(&both).expect_code(2);
        // On loopback, nobody needs to be.
        let here = lab.mapreduce(&["serve", "--port", "0", "--idle-timeout", "200ms"]).expect_code(0);
        assert!(!here.stderr.contains("no encryption"), "{}", here.stderr);
    });
}

/// One side's word is not enough: the other must say so, too.
#[test]
fn plaintext_takes_the_word_of_both_sides() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(2);
        lab.write_hosts("");
        fs::write(lab.client_dir().join("input"), "one two two").expect("it is writable");
        let counted = |args: &[&str]| {
            let finished = lab.mapreduce(&[&["run", "input"], args].concat()).expect_code(0);
            assert_eq!(finished.stdout, "two\t2\none\t1\n", "{}", finished.stderr);
            finished
        };
        let deployed = lab.deploy(&["--insecure-plaintext"]).expect_code(0);
        assert_says(&deployed, &["warning", "no encryption", "`run` must say --insecure-plaintext, too"]);
        let cluster = Cluster::load(&lab.client_dir().join("hosts.toml")).expect("it is ours");
        assert_eq!(cluster.expect("it is recorded").protection, Protection::Plaintext);
        let refused = lab.mapreduce(&["run", "input"]).expect_code(2);
        assert_says(
            &refused,
            &["the cluster was deployed with --insecure-plaintext", "try: say so to `run`"],
        );
        assert_eq!(refused.stdout, "");
        assert_says(&counted(&["--insecure-plaintext"]), &["warning", "no encryption"]);
        // A worker that is used without encryption is none that was started by hand.
        let address = lab.cluster().workers[0].address.to_string();
        let by_hand = lab.mapreduce(&["run", "input", "--workers", &address]).expect_code(1);
        assert_says(&by_hand, &["another cluster"]);

        let deployed = lab.deploy(&[]).expect_code(0);
        assert!(!deployed.stderr.contains("no encryption"), "{}", deployed.stderr);
        let refused = lab.mapreduce(&["run", "input", "--insecure-plaintext"]).expect_code(2);
        assert_says(
            &refused,
            &["the cluster was deployed with encryption", "leave --insecure-plaintext out"],
        );
        assert!(!counted(&[]).stderr.contains("no encryption"));
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}

/// A worker with an identity on one side only: neither side takes the other for what it is not.
#[test]
fn one_side_with_an_identity_is_told_what_is_wrong() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        fs::write(lab.client_dir().join("input"), "one two").expect("it is writable");
        lab.mapreduce(&["identity", "lab.identity"]).expect_code(0);
        let serve = |more: &[&str]| {
            crate::harness::served::Served::start(lab.invocation(&[&["serve", "--port", "0"], more].concat()))
        };
        let (encrypted, plain) = (serve(&["--identity", "lab.identity"]), serve(&[]));
        let at = |worker: &crate::harness::served::Served| worker.address.to_string();
        let run = ["run", "input", "--workers"];
        let refused = lab.mapreduce(&[&run[..], &[&at(&encrypted)]].concat()).expect_code(1);
        assert_says(&refused, &["wants an encrypted connection"]);
        let refused = lab.mapreduce(&[&run[..], &[&at(&plain), "--identity", "lab.identity"]].concat());
        assert_says(&refused.expect_code(1), &["one without encryption"]);
        let nobody =
            TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it is bound");
        let refused =
            lab.mapreduce(&[&run[..], &[&nobody.to_string(), "--identity", "lab.identity"]].concat());
        assert_says(&refused.expect_code(1), &["cannot connect"]);
    });
}
