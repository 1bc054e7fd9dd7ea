//! Elsewhere: input that the workers read themselves gives what it would give if it were read here.

mod fetched;
mod server;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use mapreduce::logic::tokenize::Tokens;

use crate::deploy::assert_says;
use crate::harness::served::{Served, await_jobs, list};
use crate::harness::{Lab, with_deadline};
use crate::reference::word_count;
use fetched::body;
use server::{Manner, Server};

const LIMIT: Duration = Duration::from_secs(120);

fn serve(lab: &Lab, n: usize, more: &[&str]) -> Vec<Served> {
    let args = [&["serve", "--port", "0", "--threads", "2"], more].concat();
    (0..n).map(|_| Served::start(lab.invocation(&args))).collect()
}

fn text(n: usize) -> Vec<u8> {
    (0..n).flat_map(|line| format!("word{} {} of\tline\n", line % 97, line % 7).into_bytes()).collect()
}

fn gzip(parts: &[&[u8]]) -> Vec<u8> {
    let pack = |part: &&[u8]| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(part).expect("memory");
        packer.finish().expect("memory")
    };
    parts.iter().flat_map(pack).collect()
}

/// Files in all the forms that there are; returns their texts.
fn make_files(directory: &Path) -> Vec<Vec<u8>> {
    fs::create_dir_all(directory.join("sub/empty")).expect("it is ours");
    // Its last record has no end, and one is longer than several ranges.
    let long = [text(2_000), vec![b'x'; 50_000], b"\nthe end".to_vec()].concat();
    let files: Vec<(&[u8], Vec<u8>, Vec<u8>)> = vec![
        (b"a.txt", text(9_000), text(9_000)),
        (b"sub/b file.txt", long.clone(), long),
        (b"sub/none.txt", Vec::new(), Vec::new()),
        (
            b"c.txt.gz",
            gzip(&[&text(3_000), b"more of ", b"it\n"]),
            [&text(3_000)[..], b"more of it\n"].concat(),
        ),
        (b"sub/\xff\xfe.txt", b"strange name\n".to_vec(), b"strange name\n".to_vec()),
    ];
    for (name, bytes, _) in &files {
        fs::write(directory.join(OsStr::from_bytes(name)), bytes).expect("it is ours");
    }
    std::os::unix::fs::symlink("a.txt", directory.join("link")).expect("it is ours");
    files.into_iter().map(|(.., text)| text).collect()
}

fn counted(texts: &[Vec<u8>]) -> Vec<u8> {
    let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
    word_count(&texts, Tokens::Word, false)
}

#[test]
fn what_workers_read_counts_as_what_is_read_here() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let mut texts = make_files(&lab.client_dir().join("shared"));
        fs::write(lab.client_dir().join("here.txt"), "read here\n").expect("it is ours");
        fs::write(lab.client_dir().join("pattern-1"), "one pattern\n").expect("it is ours");
        fs::write(lab.client_dir().join("pattern-2"), "another pattern\n").expect("it is ours");
        texts.extend(
            ["read here\n", "one pattern\n", "another pattern\n"].map(|text| text.as_bytes().to_vec()),
        );
        let server = Server::start(vec![
            ("/page", body(), Manner::Ranges),
            ("/packed", gzip(&[&body(), b"and more\n"]), Manner::Whole),
        ]);
        texts.extend([body(), [&body()[..], b"and more\n"].concat()]);
        let expected = counted(&texts);
        lab.mapreduce(&["identity", "lab.identity"]).expect_code(0);
        let workers = serve(&lab, 3, &["--identity", "lab.identity"]);
        let (page, packed, workers) = (server.url("/page"), server.url("/packed"), list(&workers));
        let input = ["run", "here.txt", &page, &packed, "--on-workers", "shared", "pattern-[0-9]"];
        let there = ["--workers", &workers, "--identity", "lab.identity"];
        for how in [&there[..], &["--local", "--threads", "3"]] {
            for sizes in [&["--split-size", "10000"][..], &["--readers", "2"], &[]] {
                let run = lab.mapreduce(&[&input[..], how, sizes].concat()).expect_code(0);
                assert!(run.stdout_bytes == expected, "{how:?} {sizes:?}: {}", run.stderr);
            }
        }
        let sizes: Vec<usize> = vec![1, 2, 3, 7, 50, 1000];
        for size in sizes {
            fs::write(lab.client_dir().join("small"), "a\n\nb c\n\nlong-line-of-words a b\nz")
                .expect("it is ours");
            let size = size.to_string();
            let run = ["run", "--on-workers", "small", "--split-size", &size];
            let counted = word_count(&[b"a\n\nb c\n\nlong-line-of-words a b\nz"], Tokens::Word, false);
            let local = lab.mapreduce(&[&run[..], &["--local"]].concat()).expect_code(0);
            assert!(local.stdout_bytes == counted, "{size}: {}", local.stdout);
            let far = lab.mapreduce(&[&run[..], &there].concat()).expect_code(0);
            assert!(far.stdout_bytes == counted, "{size}: {}", far.stdout);
        }
    });
}

#[test]
fn no_more_read_at_a_time_than_is_said() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let workers = serve(&lab, 3, &["--allow-commands"]);
        let workers = list(&workers);
        let run = |server: &Server, readers: &[&str]| {
            let url = server.url("/page");
            let run = ["run", &url, "--workers", &workers, "--split-size", "30000"];
            let run = lab.mapreduce(&[&run[..], readers].concat()).expect_code(0);
            assert!(run.stdout_bytes == counted(&[body()]), "{}", run.stderr);
            server.busiest()
        };
        let server = || Server::start(vec![("/page", body(), Manner::Slow(Duration::from_millis(80)))]);
        assert_eq!(run(&server(), &["--readers", "1"]), 1);
        assert!(run(&server(), &["--readers", "2"]) <= 2);
        assert!(run(&server(), &[]) > 2, "there is nothing to bound");
    });
}

#[test]
fn what_cannot_be_read_is_named_with_who_could_not() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let workers = serve(&lab, 2, &["--allow-commands"]);
        let first = workers[0].address.to_string();
        let workers = list(&workers);
        let server = Server::start(vec![
            ("/changes", body(), Manner::Changes { answers: 1, bytes: body() }),
            ("/vanishes", body(), Manner::Vanishes(1)),
        ]);
        let there = ["--workers", &workers];
        for how in [&there[..], &["--local"]] {
            let run = |input: &[&str]| {
                lab.mapreduce(&[&["run"], input, how, &["-o", "out"]].concat()).expect_code(1)
            };
            let missing = run(&["--on-workers", "no/such", "neither/*"]);
            let path = lab.client_dir().join("no/such").display().to_string();
            assert_says(&missing, &[&format!("cannot read {path}: No such file or directory")]);
            assert_says(&missing, &["nor can 1 other"]);
            let (changes, vanishes) = (server.url("/changes"), server.url("/vanishes"));
            // Only the first time.
            if how.len() == 2 && how[0] == "--workers" {
                assert_says(&missing, &[&format!("as worker {first} sees it")]);
                let changed = run(&[&changes]);
                assert_says(
                    &changed,
                    &[&changes, "bytes ", "it was changed while it was read", "127.0.0.1:"],
                );
                let vanished = run(&[&vanishes]);
                assert_says(&vanished, &[&vanishes, "404 Not Found", "could not map the split"]);
            }
            assert!(!lab.client_dir().join("out").exists());
        }
    });
}

/// The workers have listed a file, which goes before it is read.
/// A list may name addresses, and what is not to be had anywhere is left out where that is wanted, and told.
#[test]
fn lists_may_name_addresses_and_what_is_missed_elsewhere_is_left_out() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let workers = serve(&lab, 2, &["--allow-commands"]);
        let workers = list(&workers);
        let server = Server::start(vec![("/page", body(), Manner::Ranges)]);
        let here = lab.client_dir().join("here.txt");
        fs::write(&here, "read here\n").expect("it is ours");
        fs::create_dir(lab.client_dir().join("empty")).expect("it is ours");
        let names = [server.url("/page"), here.display().to_string(), server.url("/gone")];
        fs::write(lab.client_dir().join("list"), names.join("\n")).expect("it is ours");
        let expected = counted(&[body(), b"read here\n".to_vec()]);
        for how in [&["--workers", workers.as_str()][..], &["--local"]] {
            let input = ["run", "--files-from", "list"];
            let refused = lab.mapreduce(&[&input[..], how, &["-o", "out"]].concat()).expect_code(1);
            assert_says(&refused, &["/gone: the server answered 404"]);
            assert!(!lab.client_dir().join("out").exists());
            let more = ["--on-workers", "no/such", "empty", "--skip-bad-input", "--report", "report"];
            let run = lab.mapreduce(&[&input[..], how, &more].concat()).expect_code(0);
            assert!(run.stdout_bytes == expected, "{how:?}: {}", run.stderr);
            let report = fs::read_to_string(lab.client_dir().join("report")).expect("it is written");
            for missed in ["/gone", "no/such", "there is no file in"] {
                assert!(run.stderr.contains(missed), "no {missed:?} in:\n{}", run.stderr);
                assert!(report.contains(missed), "no {missed:?} in:\n{report}");
            }
        }
    });
}

#[test]
fn a_file_that_vanishes_is_named_with_its_place() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let workers = serve(&lab, 2, &["--allow-commands"]);
        let file = lab.client_dir().join("file");
        fs::write(&file, text(100)).expect("it is ours");
        let args = ["run", "-", "--on-workers", "file", "--workers", &list(&workers), "-o", "out"];
        let mut run = lab.invocation(&args).open_stdin().spawn();
        await_jobs(&workers, 1, Duration::from_secs(20));
        fs::remove_file(&file).expect("it is ours");
        let mut input = run.stdin.take().expect("it is open");
        input.write_all(b"some text\n").expect("it reads");
        drop(input);
        let ended = run.wait().expect_code(1);
        let place = format!("{}, bytes 0 to ", file.display());
        assert_says(&ended, &[&place, "cannot be opened: No such file or directory", "127.0.0.1:"]);
        assert!(!lab.client_dir().join("out").exists());
    });
}

#[test]
fn a_worker_reads_nothing_for_those_who_prove_nothing() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let workers = serve(&lab, 2, &[]);
        fs::write(lab.client_dir().join("file"), "some text\n").expect("it is ours");
        let workers = list(&workers);
        for input in [&["--on-workers", "file"][..], &["http://127.0.0.1:1/"]] {
            let refused = lab.mapreduce(&[&["run", "--workers", &workers], input].concat()).expect_code(1);
            assert_says(&refused, &["refused", "clients that prove who they are", "serve --allow-commands"]);
            assert_says(&refused, &["try: ", "--identity"]);
        }
        // What is read here they take.
        lab.mapreduce(&["run", "--workers", &workers, "file"]).expect_code(0);
    });
}

#[test]
fn flags_that_cannot_be_meant_are_refused() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        fs::write(lab.client_dir().join("file"), "some text\n").expect("it is ours");
        for (args, what) in [
            (&["run", "file", "--readers", "2", "--local"][..], "nothing that workers read themselves"),
            (&["run", "--on-workers", "-", "--local"], "workers have no standard input"),
            (&["run", "--on-workers", "", "--local"], "a value is required"),
            (&["run", "--local"], "FILE"),
            (&["run", "--on-workers", "file", "--readers", "0", "--local"], "must not be zero"),
        ] {
            assert_says(&lab.mapreduce(args).expect_code(2), &[what]);
        }
    });
}
