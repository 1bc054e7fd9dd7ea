//! Terminal: whatever a text, a host, a worker or a file name says, it cannot steer the terminal or forge a line.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use mapreduce::logic::tokenize::Tokens;
use mapreduce::wire::frame::{FrameError, MAX_CONTROL_BYTES, MAX_HELLO_BYTES};
use mapreduce::wire::message::{FromWorker, Greeting, Hello, ToWorker, Welcome, read_message, write_message};

use crate::deploy::Deployed;
use crate::harness::program::Invocation;
use crate::harness::{Lab, LabOptions, with_deadline};
use crate::reference;

const LIMIT: Duration = Duration::from_secs(90);

/// A word that clears the screen, forges lines in three ways, rings, colours by C1, and turns the direction; and one
/// that is not UTF-8.
const HOSTILE: &str = "\x1b[2J\x1b]0;owned\x07a\u{9b}31mb\u{202e}c\u{7f}d";
const FORGED: &str = "error:_forged";

/// Runs the program on a terminal, and returns all that it showed there.
fn on_a_terminal(dir: &Path, command: &str) -> String {
    let program = env!("CARGO_BIN_EXE_mapreduce");
    let output = Command::new("script")
        .args(["-qec", &format!("stty cols 200; '{program}' {command}"), "/dev/null"])
        .current_dir(dir)
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .expect("script, of util-linux");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Fails if `shown` has anything that steers, or a line that is not ours. Further lines of a cause are indented.
#[track_caller]
fn assert_harmless(shown: &str) {
    for part in ["\x1b[2J", "\x1b]", "\x07", "\u{9b}", "\u{202e}", "\u{7f}", "\x08"] {
        assert!(!shown.contains(part), "{part:?} in {shown:?}");
    }
    let forged = shown.split(['\n', '\r']).any(|line| line.starts_with(FORGED));
    assert!(!forged, "{shown:?}");
}

fn text_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    // U+0085 and U+2028 are white space, and end words; what stands behind them must not be a line of its own.
    let mut text = format!("{HOSTILE}\u{85}{FORGED}\u{2028}{FORGED} ").into_bytes();
    text.extend_from_slice(b"\xff\x1b[2J\x9b2J back\\slash\\t\n");
    fs::write(dir.path().join("text"), text).unwrap();
    dir
}

const WHITESPACE: &str = "run --local --tokens whitespace text";

#[test]
fn words_cannot_steer_the_terminal_in_any_form() {
    with_deadline(LIMIT, || {
        let dir = text_dir();
        for more in ["", "--format tsv", "--format csv", "--format json", "-o /dev/tty", "-o /dev/stdout"] {
            let shown = on_a_terminal(dir.path(), &format!("{WHITESPACE} {more}"));
            assert!(shown.contains("[2J") && shown.contains("owned"), "{more}: {shown:?}");
            let shown = shown.replace("error:_forged\t", "word\t").replace("\nerror:_forged,", "\nword,");
            assert_harmless(&shown);
        }
    });
}

/// What is no terminal gets the bytes as they are, the same as the reference.
#[test]
fn words_are_kept_byte_for_byte_elsewhere() {
    with_deadline(LIMIT, || {
        let dir = text_dir();
        let text = fs::read(dir.path().join("text")).unwrap();
        let args: Vec<&str> = WHITESPACE.split(' ').collect();
        let run = |more: &[&str]| {
            Invocation::new(&[&args[..], more].concat()).current_dir(dir.path()).run().expect_code(0)
        };
        let expected = reference::word_count(&[&text], Tokens::Whitespace, false);
        assert!(expected.windows(7).any(|window| window == b"\x1b]0;own"));
        assert!(run(&[]).stdout_bytes == expected);
        run(&["-o", "out.tsv"]);
        assert!(fs::read(dir.path().join("out.tsv")).unwrap() == expected);
    });
}

/// A shell puts names of files where `*` was, and those may look like flags, too.
#[test]
fn names_of_files_cannot_steer_the_terminal() {
    with_deadline(LIMIT, || {
        for name in
            [&b"\x1b[2J\x07\nerror:_forged"[..], b"--\x1b[2J\x07\nerror:_forged", b"--top=\x1b[2J\r\xff"]
        {
            let run = |more: &[&str]| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_mapreduce"));
                command.args(["run", "--local"]).arg(OsStr::from_bytes(name)).args(more);
                let output = command.stdin(Stdio::null()).output().unwrap();
                assert!(!output.status.success());
                assert!(output.stdout.is_empty());
                String::from_utf8(output.stderr).expect("text")
            };
            let said = run(&[]);
            assert!(said.contains("[2J"), "{said:?}");
            assert_harmless(&said);
        }
        // One flag's own check does not take what is shown in the place of the other.
        let bad = ["deploy", "--hosts", "\x1b[2J", "--remote-dir", "\x1b[2J\nerror:_forged"];
        let said = Invocation::new(&bad).run();
        assert!(said.code != Some(0));
        assert_harmless(&said.stderr);
    });
}

/// Hosts that say what they like, in the middle of every step.
#[test]
fn hosts_cannot_steer_the_terminal() {
    with_deadline(LIMIT, || {
        let says = "printf '\\033[2J\\007\\nerror:_forged\\nmapreduce:failed=x\\033[2J\\rerror:_forged\\n'";
        for before in [
            format!("{says} >&2; exit 3"),
            format!("{says}; exit 3"),
            // What it claims to be.
            "PATH=$TMPDIR/../bin:$PATH".to_owned(),
        ] {
            let options = LabOptions { hosts: 1, before_command: Some(before), ..LabOptions::default() };
            let lab = Lab::with(options);
            lab.write_hosts("");
            let bin = lab.hosts[0].dir.join("bin");
            fs::create_dir(&bin).unwrap();
            fs::write(bin.join("uname"), "#!/bin/sh\nprintf 'x86_64\\033[2J\\007\\r\\nerror:_forged'\n")
                .unwrap();
            fs::set_permissions(bin.join("uname"), fs::Permissions::from_mode(0o755)).unwrap();
            let deployed = lab.deploy(&["-v"]).expect_code(1);
            assert_harmless(&deployed.stderr);
            let names = lab.names();
            fs::write(lab.client_dir().join("list"), names.join("\n")).unwrap();
            let found = lab.mapreduce(&["discover", "1", "--from", "list", "-v", "--hosts", "new.toml"]);
            assert_harmless(&found.stderr);
            let file = fs::read_to_string(lab.client_dir().join("new.toml")).unwrap_or_default();
            assert_harmless(&file);
            lab.stop();
        }
    });
}

#[test]
fn names_in_the_hosts_file_and_in_lists_cannot_steer_the_terminal() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let dir = lab.client_dir();
        for text in [
            "[[host]]\nname = \"a\\u001b[2J\\nerror:_forged\"\n",
            "[[host]]\nname = \"a\"\nuser = \"\\u001b[2J\"\n",
            "[[host]]\nname = \"a\"\n\"\\u001b[2J\\r\\nerror:_forged\" = 1\n",
            "[defaults]\nremote_dir = \"/tmp/\\u001b[2J\"\n[[host]]\nname = \"a\"\n",
            "\x1b[2J = 3\n",
        ] {
            fs::write(dir.join("hosts.toml"), text).unwrap();
            for command in ["deploy", "stop", "run"] {
                let args: &[&str] =
                    if command == "run" { &["run", "--hosts", "hosts.toml", "x"] } else { &[command] };
                let said = lab.mapreduce(args);
                assert!(command == "run" || said.code == Some(1), "{}", said.stderr);
                assert_harmless(&said.stderr);
            }
        }
        fs::write(dir.join("list"), "\x1b[2J\x07\nb\u{9b}31m\n\u{202e}c\n").unwrap();
        let found = lab.mapreduce(&["discover", "1", "--from", "list", "--hosts", "new.toml"]).expect_code(1);
        assert!(found.stderr.contains("[2J"), "{}", found.stderr);
        assert_harmless(&found.stderr);
    });
}

/// What a process at a worker's address answers to the first connection, once it was greeted.
fn answer(stream: &mut TcpStream, words: &str, how: usize) -> Result<(), FrameError> {
    let (reason, program) = (words.to_owned(), words.to_owned());
    if how == 0 {
        // Not even a frame.
        return Ok(stream.write_all(words.repeat(100).as_bytes())?);
    }
    let _: Hello = read_message(stream, MAX_HELLO_BYTES)?;
    if how == 1 {
        return write_message(stream, &Greeting::Refused { reason, program });
    }
    let jobs = vec![if how == 2 { words.to_owned() } else { "wordcount".to_owned() }];
    let packings = vec![words.to_owned()];
    let welcome = Welcome {
        program,
        jobs,
        pid: 1,
        threads: 1,
        uptime_ms: 1,
        running_jobs: 0,
        memory_bytes: 1,
        packings,
    };
    write_message(stream, &Greeting::Welcome(welcome))?;
    let _: ToWorker = read_message(stream, MAX_CONTROL_BYTES)?;
    if how == 4 {
        write_message(stream, &FromWorker::Begun)?;
        // A frame of no kind that there is, and a text for one.
        return Ok(stream.write_all(words.repeat(100).as_bytes())?);
    }
    write_message(stream, &FromWorker::Failed { cause: words.repeat(5000) })
}

/// A compromised worker says what it likes wherever it may say something.
#[test]
fn workers_cannot_steer_the_terminal() {
    with_deadline(LIMIT, || {
        let words = format!("\n{FORGED}\r{FORGED}\n{HOSTILE}\n{FORGED}\n");
        for how in 0..=4 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let said_by_worker = words.clone();
            thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    // The client hangs up when it has heard enough.
                    let _ = answer(&mut stream, &said_by_worker, how);
                }
            });
            let dir = text_dir();
            let args = ["run", "text", "--workers", &address.to_string(), "--report", "report.json"];
            let said = Invocation::new(&args).current_dir(dir.path()).run();
            assert_eq!(said.code, Some(1), "{how}: {}", said.stderr);
            assert_harmless(&said.stderr);
            assert!(said.stderr.len() < 20_000, "{how}: it floods the terminal");
            if (1..=3).contains(&how) {
                assert!(said.stderr.contains("owned"), "{how}: {}", said.stderr);
            }
        }
    });
}
