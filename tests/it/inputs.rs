//! Inputs: whatever way files are named and however they are packed, the result is that of their texts.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use mapreduce::logic::tokenize::Tokens;
use mapreduce::wire::encoding::Encoding;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use serde_json::Value;

use crate::deploy::assert_says;
use crate::harness::program::Invocation;
use crate::harness::served::{Served, list};
use crate::harness::{Finished, Lab, with_deadline};
use crate::reference;

const LIMIT: Duration = Duration::from_secs(180);

/// A client with files, and workers that it may use.
struct Desk {
    workers: Vec<Served>,
    lab: Lab,
}

impl Desk {
    fn new(workers: usize) -> Desk {
        let lab = Lab::start(0);
        let serve = |_| Served::start(lab.invocation(&["serve", "--port", "0", "--threads", "2"]));
        Desk { workers: (0..workers).map(serve).collect(), lab }
    }

    fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.lab.client_dir().join(name.as_ref())
    }

    fn write(&self, name: impl AsRef<OsStr>, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A run on this machine.
    fn local(&self, args: &[&str]) -> Invocation {
        self.lab.invocation(&[&["run", "--local", "-q"], args].concat())
    }

    /// A run over `n` of the workers.
    fn over(&self, n: usize, args: &[&str]) -> Invocation {
        let workers = list(&self.workers[..n]);
        self.lab.invocation(&[&["run", "-q", "--workers", &workers], args].concat())
    }

    /// Runs it both ways.
    fn both(&self, args: &[&str]) -> [Finished; 2] {
        [self.local(args).run(), self.over(self.workers.len(), args).run()]
    }

    #[track_caller]
    fn assert_counts(&self, args: &[&str], texts: &[&[u8]]) {
        let expected = words(texts);
        for done in self.both(args) {
            let done = done.expect_code(0);
            assert!(done.stdout_bytes == expected, "{args:?}: {}\n{}", done.stdout, done.stderr);
        }
    }
}

fn words(texts: &[&[u8]]) -> Vec<u8> {
    reference::word_count(texts, Tokens::Word, false)
}

fn pack(encoding: Encoding, text: &[u8]) -> Vec<u8> {
    let packed = match encoding {
        Encoding::Plain => Ok(text.to_vec()),
        Encoding::Gzip => {
            let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            to.write_all(text).and_then(|()| to.finish())
        }
        Encoding::Bzip2 => {
            let mut to = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            to.write_all(text).and_then(|()| to.finish())
        }
        Encoding::Zstd => zstd::encode_all(text, 1),
        Encoding::Xz => {
            let options = lzma_rust2::XzOptions::with_preset(0);
            lzma_rust2::XzWriter::new(Vec::new(), options)
                .and_then(|mut to| to.write_all(text).and_then(|()| to.finish()))
        }
        Encoding::Lz4 => {
            let mut to = lz4_flex::frame::FrameEncoder::new(Vec::new());
            to.write_all(text).map(|()| to.finish().unwrap())
        }
    };
    packed.unwrap()
}

/// Text that may end in the midst of a word, and need not be UTF-8.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => "[a-c]{1,3}".prop_map(String::into_bytes),
        1 => "[éß日]{1,2}".prop_map(String::into_bytes),
        1 => Just(b"\xff\xfe".to_vec()),
    ];
    let end = prop_oneof![3 => Just(&b" "[..]), 1 => Just(&b"\n"[..]), 1 => Just(&b""[..])];
    let pieces = prop::collection::vec((word, end), 0..200);
    (pieces, 1usize..30).prop_map(|(pieces, times)| {
        let once: Vec<u8> =
            pieces.into_iter().flat_map(|(word, end)| [word, end.to_vec()].concat()).collect();
        once.repeat(times)
    })
}

/// A file: its text, how it is packed, and where one member ends and the next begins.
type Case = (Vec<u8>, Encoding, Vec<prop::sample::Index>);

fn case() -> impl Strategy<Value = Case> {
    (
        text(),
        prop::sample::select(&Encoding::ALL[..]),
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    )
}

fn packed((text, encoding, ends): &Case) -> Vec<u8> {
    let mut ends: Vec<usize> = ends.iter().map(|end| end.index(text.len() + 1)).collect();
    ends.sort_unstable();
    ends.extend([text.len()]);
    let mut start = 0;
    let members = ends.into_iter().map(|end| pack(*encoding, &text[std::mem::replace(&mut start, end)..end]));
    members.collect::<Vec<_>>().concat()
}

/// Any list of files, however packed, counts as their texts do, one after the other with a line break between.
#[test]
fn however_files_are_packed_and_named_they_count_as_their_texts() {
    with_deadline(LIMIT, || {
        let desk = Desk::new(4);
        let config =
            Config { cases: 24, failure_persistence: None, rng_seed: RngSeed::Fixed(6), ..Config::default() };
        let strategy = (prop::collection::vec(case(), 1..8), 0u8..3, 2usize..5, 1u32..4000);
        let ran = TestRunner::new(config).run(&strategy, |(files, way, n_workers, split)| {
            let _ = fs::remove_dir_all(desk.path("files"));
            let names: Vec<String> = (0..files.len()).map(|index| format!("files/a file {index}")).collect();
            for (name, file) in names.iter().zip(&files) {
                desk.write(name, &packed(file));
            }
            desk.write("list", names.join("\0").as_bytes());
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let named = match way {
                0 => names,
                1 => vec!["files"],
                _ => vec!["--files-from", "list"],
            };
            let split = split.to_string();
            let args = [&named[..], &["--split-size", &split]].concat();
            let texts: Vec<&[u8]> = files.iter().map(|(text, ..)| text.as_slice()).collect();
            let joined = words(&[&texts.join(&b'\n')]);
            for done in [desk.local(&args).run(), desk.over(n_workers, &args).run()] {
                prop_assert_eq!(done.code, Some(0), "{}", done.stderr);
                prop_assert!(done.stdout_bytes == joined, "{:?}", args);
            }
            Ok(())
        });
        ran.unwrap();
    });
}

/// Many packed files at once, in-process and over workers.
#[test]
fn two_hundred_packed_files_count_as_the_same_plain() {
    with_deadline(LIMIT, || {
        let desk = Desk::new(4);
        let texts: Vec<Vec<u8>> = (0..200u32)
            .map(|file| {
                (0..2000).flat_map(|n| format!("w{} of {file}\n", n * file % 997).into_bytes()).collect()
            })
            .collect();
        for (index, text) in texts.iter().enumerate() {
            desk.write(format!("packed/{index}.gz"), &pack(Encoding::Gzip, text));
        }
        let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        desk.assert_counts(&["packed"], &texts);
        desk.assert_counts(&["packed/*.gz"], &texts);
    });
}

#[test]
fn names_are_what_a_shell_makes_of_them() {
    with_deadline(LIMIT, || {
        let desk = Desk::new(1);
        desk.write("a file", b"one");
        desk.write("-q", b"two");
        desk.write("star*", b"three");
        desk.write("star and more", b"four");
        let odd = OsString::from_vec(b"odd \xff".to_vec());
        desk.write(&odd, b"five");
        desk.assert_counts(&["a file"], &[b"one"]);
        desk.assert_counts(&["--", "-q", "a file"], &[b"one", b"two"]);
        desk.assert_counts(&["star*"], &[b"three"]);
        desk.assert_counts(&["st[a]r*"], &[b"three", b"four"]);
        desk.assert_counts(&["odd*"], &[b"five"]);
        desk.write("list", b"odd \xff\n-q\nstar*\n");
        desk.assert_counts(&["--files-from", "list", "a file"], &[b"one", b"two", b"three", b"five"]);
        let listed = desk.local(&["--files-from", "-"]).stdin("a file\nstar*\n").run().expect_code(0);
        assert_eq!(listed.stdout_bytes, words(&[b"one", b"three"]));
        for (args, parts) in [
            (&["no*"][..], &["nothing matches no*"][..]),
            (&["--files-from", "-"], &["the list of files standard input names none"]),
            (&["--files-from", "none"], &["the list of files none", "No such file"]),
            (&["-", "--files-from", "-"], &["once only"]),
        ] {
            assert_says(&desk.local(args).run().expect_code(1), parts);
        }
        desk.local(&[]).run().expect_code(2);
    });
}

#[test]
fn standard_input_is_unpacked_too() {
    with_deadline(LIMIT, || {
        let desk = Desk::new(2);
        let text = b"some words and more\n".repeat(20_000);
        for encoding in Encoding::ALL {
            let packed = pack(encoding, &text);
            desk.write("input", &packed);
            for invocation in [desk.local(&["-"]), desk.over(2, &["-"])] {
                let done = invocation.stdin(packed.clone()).run().expect_code(0);
                assert!(done.stdout_bytes == words(&[&text]), "{encoding:?} from a pipe");
            }
            for invocation in [desk.local(&["-"]), desk.over(2, &["-"])] {
                let file = fs::File::open(desk.path("input")).unwrap();
                let done = invocation.stdin_file(file).run().expect_code(0);
                assert!(done.stdout_bytes == words(&[&text]), "{encoding:?} from a file");
            }
        }
    });
}

#[test]
fn what_is_torn_fails_the_run_and_is_named() {
    with_deadline(LIMIT, || {
        let desk = Desk::new(4);
        for encoding in &Encoding::ALL[1..] {
            let mut torn = pack(*encoding, &b"some words and more\n".repeat(10_000));
            torn.truncate(torn.len() - 3);
            desk.write("torn", &torn);
            let end = format!("torn, bytes 0 to {}", torn.len());
            let [here, there] = desk.both(&["torn", "-o", "out.tsv"]);
            assert_says(
                &here.expect_code(1),
                &["could not map the split of", &end, "cannot be unpacked at byte"],
            );
            assert_says(
                &there.expect_code(1),
                &["3 workers could not map", &end, "cannot be unpacked at byte"],
            );
            assert!(!desk.path("out.tsv").exists());
            let piped = desk.local(&["-"]).stdin(torn).run().expect_code(1);
            assert_says(&piped, &["cannot unpack standard input", encoding.name()]);
        }
    });
}

/// Everything that can be bad is: what is not there, what is torn, what goes while the run waits; all else counts.
#[test]
fn bad_input_is_left_out_and_listed_where_that_is_wanted() {
    with_deadline(LIMIT, || {
        let desk = Desk::new(3);
        let text = b"some words and more\n".repeat(3_000);
        let mut torn = pack(Encoding::Gzip, &text);
        torn.truncate(torn.len() - 1);
        desk.write("good.gz", &pack(Encoding::Gzip, &text));
        for index in 0..30 {
            desk.write(format!("torn/{index:02}.gz"), &torn);
        }
        let flags = ["--skip-bad-input", "--report", "report.json"];
        let args = [&["gone", "torn", "good.gz", "-"][..], &flags].concat();
        let runs = [desk.local(&args), desk.over(3, &args), desk.over(1, &args)];
        for invocation in runs {
            let done = invocation.stdin("standard input\n").run().expect_code(0);
            assert!(done.stdout_bytes == words(&[&text, b"standard input\n"]), "{}", done.stdout);
            let parts =
                ["left out gone: cannot open gone", "left out torn/00.gz, bytes 0 to", "left out 11 more"];
            assert_says(&done, &parts);
            let report: Value = serde_json::from_slice(&fs::read(desk.path("report.json")).unwrap()).unwrap();
            let bad = report["bad_inputs"].as_array().unwrap();
            assert_eq!(bad.len(), 31);
            assert!(bad.iter().filter(|bad| bad["bytes"] == torn.len()).count() == 30, "{bad:?}");
            assert_eq!(report["losses"].as_array().unwrap().len(), 0);
        }
        // Without bad input nothing is said.
        let good = desk.over(3, &["good.gz", "--skip-bad-input"]).run().expect_code(0);
        assert_eq!((good.stderr.as_str(), good.stdout_bytes == words(&[&text])), ("", true));
    });
}

/// More files than stay open: one that goes, or changes, is noticed when it is come to.
#[test]
fn files_that_go_or_change_are_named_or_left_out() {
    with_deadline(LIMIT, || {
        let desk = Desk::new(2);
        let texts: Vec<Vec<u8>> = (0..200).map(|n| format!("word{n} the\n").into_bytes()).collect();
        for (skip, local) in [(false, true), (false, false), (true, true), (true, false)] {
            for (index, text) in texts.iter().enumerate() {
                desk.write(format!("many/{index:03}"), text);
            }
            let flags = if skip { &["--skip-bad-input"][..] } else { &[] };
            let args = [&["-", "many"][..], flags].concat();
            let invocation = if local { desk.local(&args) } else { desk.over(2, &args) };
            let mut running = invocation.open_stdin().spawn();
            // Once more is read than a pipe holds, all files have been looked at.
            let first = b"first\n".repeat(20_000);
            running.stdin.as_mut().unwrap().write_all(&first).unwrap();
            fs::remove_file(desk.path("many/050")).unwrap();
            fs::write(desk.path("many/051"), "short").unwrap();
            let done = running.wait();
            if skip {
                let mut left: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
                left.drain(50..52);
                left.push(&first);
                let done = done.expect_code(0);
                assert!(done.stdout_bytes == words(&left));
                assert_says(
                    &done,
                    &["left out many/050", "No such file", "left out many/051", "became shorter"],
                );
            } else {
                assert_says(&done.expect_code(1), &["the input cannot be read", "many/050", "byte 0"]);
            }
        }
    });
}
