//! Secrets: none is on a command line or in an environment, at no moment of a deployment.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::Value;

use super::{LIMIT, proc};
use crate::deploy::Deployed;
use crate::harness::{Lab, LabOptions, with_deadline};

/// How a private key of a curve P-256 begins in base64, in each of the usual forms, and how one is announced in text.
const KEY_BEGINNINGS: [&str; 4] = ["MIGHAgEAMBMG", "MIGTAgEAMBMG", "MHcCAQEE", "PRIVATE KEY"];

/// Shorter texts are no secrets.
const SHORTEST: usize = 32;

/// What nobody but the user and the workers may know of a deployment.
pub struct Secrets(Vec<String>);

impl Secrets {
    /// What the record of the lab's cluster holds by the name of `key`, where hosts are logged in to aside.
    pub fn of(lab: &Lab) -> Secrets {
        let text = fs::read_to_string(lab.client_dir().join(".mapreduce/hosts.toml.json")).expect("a record");
        let mut record: Value = serde_json::from_str(&text).expect("a record is JSON");
        record.as_object_mut().expect("an object").remove("places");
        let mut found = Vec::new();
        collect(&record, &mut found);
        assert!(
            !found.is_empty(),
            "the record holds no secret: {:?}",
            record.as_object().map(|map| map.keys())
        );
        found.extend(KEY_BEGINNINGS.map(str::to_owned));
        Secrets(found)
    }

    /// # Panics
    /// If `text` has one of the secrets, which is not repeated.
    #[track_caller]
    pub fn assert_none_in(&self, text: &[u8], what: &str) {
        assert!(!self.are_in(text), "a secret is in {what}");
    }

    fn are_in(&self, text: &[u8]) -> bool {
        self.0.iter().any(|secret| contains(text, secret.as_bytes()))
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value.as_str() {
                    Some(text) if name == "key" && text.len() >= SHORTEST => found.push(text.to_owned()),
                    _ => collect(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

/// Looks at the command lines and environments of all processes of the machine, over and over.
struct Watch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<HashSet<Vec<u8>>>,
}

impl Watch {
    fn begin() -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        let thread = thread::spawn(move || {
            let mut seen = HashSet::new();
            while !is_over.load(Ordering::Relaxed) {
                look(&mut seen);
            }
            seen
        });
        Watch { over, thread }
    }

    /// All that was seen, each text once.
    fn end(self) -> HashSet<Vec<u8>> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it only looks")
    }
}

fn look(seen: &mut HashSet<Vec<u8>>) {
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        for file in ["cmdline", "environ"] {
            // It may have ended.
            seen.extend(fs::read(proc(pid, file)).ok().filter(|text| !text.is_empty()));
        }
    }
}

/// Two processes that last for a moment, one with `word` on its command line, one with `other` in its environment.
fn reveal(word: &str, other: &str) {
    for mut command in [Command::new("sh"), Command::new("sh")] {
        command.args(["-c", "sleep 0.3", word]).status().expect("sh runs");
        command.env("REVEALED", other).status().expect("sh runs");
    }
}

/// The workers' processes, and all others of the machine, at all moments that can be looked at.
#[test]
fn no_process_shows_a_secret_while_workers_start() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(4);
        lab.write_hosts("");
        let watch = Watch::begin();
        lab.deploy(&[]).expect_code(0);
        fs::write(lab.client_dir().join("input"), "one two\n").unwrap();
        lab.mapreduce(&["run", "input"]).expect_code(0);
        lab.mapreduce(&["status"]).expect_code(0);
        let (word, other) =
            (format!("revealed-{}", std::process::id()), format!("hinted-{}", std::process::id()));
        reveal(&word, &other);
        let secrets = Secrets::of(&lab);
        lab.stop().expect_code(0);
        let seen = watch.end();
        // What is shown for a moment is seen, or this would prove nothing.
        for shown in [word.as_bytes(), other.as_bytes(), b"--detach", b"umask 077; t="] {
            assert!(seen.iter().any(|text| contains(text, shown)), "{}", String::from_utf8_lossy(shown));
        }
        for text in &seen {
            let what = String::from_utf8_lossy(&text[..text.len().min(40)]).into_owned();
            secrets.assert_none_in(text, &what);
        }
        let control = Secrets(vec![word]);
        assert!(seen.iter().any(|text| control.are_in(text)));
        lab.assert_nothing_left();
    });
}

/// The tools that scripts start on a host, which live too shortly to be looked at. `orders` is what the script calls
/// what it must not give to anybody.
const TOOLS: [&str; 17] = [
    "id", "uname", "getconf", "stat", "mkdir", "rm", "rmdir", "chmod", "df", "readlink", "grep", "tr", "sed",
    "sleep", "openssl", "wc", "mv",
];

/// Puts in the place of each tool one that writes down what it is given.
fn write_tools(bin: &Path, kept: &Path) {
    fs::create_dir(bin).unwrap();
    for tool in TOOLS {
        let path = bin.join(tool);
        let keep = format!("{{ echo \"$0 $*\"; /usr/bin/env; }} >>'{}'", kept.display());
        let text = format!("#!/bin/sh\n{keep}\nPATH=/usr/bin:/bin:/usr/sbin:/sbin exec {tool} \"$@\"\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Not even where the login's environment has variables of the names that the scripts use.
#[test]
fn no_tool_that_starts_a_worker_is_given_a_secret() {
    with_deadline(LIMIT, || {
        let before = "export orders=a program=b new=c configured=; PATH=$TMPDIR/../bin:$PATH".to_owned();
        let lab = Lab::with(LabOptions { hosts: 1, before_command: Some(before), ..LabOptions::default() });
        lab.write_hosts("");
        let kept = lab.root().join("kept");
        write_tools(&lab.hosts[0].dir.join("bin"), &kept);
        lab.deploy(&[]).expect_code(0);
        // The second one finds a worker to stop.
        lab.deploy(&[]).expect_code(0);
        let secrets = Secrets::of(&lab);
        let text = fs::read(&kept).unwrap();
        for tool in ["id -u", "stat -c", "grep -lzF"] {
            assert!(contains(&text, format!("/{tool}").as_bytes()), "{tool} was not seen");
        }
        assert!(contains(&text, b"TMPDIR="));
        secrets.assert_none_in(&text, "what tools are given");
        assert!(!contains(&text, b"orders={"), "the orders are in the environment");
        let worker = &lab.cluster().workers[0];
        for file in ["cmdline", "environ"] {
            secrets.assert_none_in(&fs::read(proc(worker.pid, file)).unwrap(), file);
        }
        lab.stop().expect_code(0);
        lab.assert_nothing_left();
    });
}
