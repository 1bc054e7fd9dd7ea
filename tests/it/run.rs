//! Run: the real program over workers started by hand: inputs, outputs, interruptions, and what is said.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use mapreduce::logic::tokenize::Tokens;
use rustix::process::Signal;
use serde_json::Value;

use crate::deploy::assert_says;
use crate::harness::program::{Invocation, Running};
use crate::harness::served::{Served, await_jobs, list};
use crate::harness::{Finished, Lab, entries, processes, with_deadline};
use crate::reference;

const LIMIT: Duration = Duration::from_secs(90);

/// How soon workers are free after a run that ended early.
const FREE: Duration = Duration::from_secs(5);

/// Workers on loopback, and a client with some files.
struct Bench {
    workers: Vec<Served>,
    lab: Lab,
}

impl Bench {
    fn start(workers: usize) -> Bench {
        let lab = Lab::start(0);
        let serve = |index: usize| {
            let threads = (1 + index % 2).to_string();
            Served::start(lab.invocation(&["serve", "--port", "0", "--threads", &threads]))
        };
        let workers = (0..workers).map(serve).collect();
        let bench = Bench { workers, lab };
        bench.write("book.txt", include_bytes!("../../examples/alice.txt"));
        bench.write("scripts.txt", SCRIPTS.as_bytes());
        bench.write("empty.txt", b"");
        bench.write("numbers.txt", &numbers(20_000));
        bench
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.lab.client_dir().join(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.lab.client_dir().join(name)).unwrap()
    }

    /// A `run` over all workers.
    fn invocation(&self, args: &[&str]) -> Invocation {
        let workers = list(&self.workers);
        self.lab.invocation(&[&["run", "--workers", &workers], args].concat())
    }

    fn run(&self, args: &[&str]) -> Finished {
        self.invocation(args).run()
    }

    /// What the words of `files` are, one file after the other.
    fn expected(&self, files: &[&str]) -> Vec<u8> {
        let files: Vec<Vec<u8>> = files.iter().map(|name| self.read(name)).collect();
        let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
        reference::word_count(&files, Tokens::Word, false)
    }

    /// A run that has begun on all workers and goes on for as long as the test leaves its standard input open.
    fn held_run(&self, args: &[&str]) -> Running {
        let mut running = self.invocation(&[args, &["-"]].concat()).open_stdin().spawn();
        running.stdin.as_mut().unwrap().write_all(&numbers(5000)).unwrap();
        await_jobs(&self.workers, 1, Duration::from_secs(20));
        running
    }

    /// The workers are free soon, nothing but `before` is in the client's directory, and the next run is exact.
    #[track_caller]
    fn assert_usable(&self, before: &[String]) {
        await_jobs(&self.workers, 0, FREE);
        assert_eq!(entries(&self.lab.client_dir()), before);
        let next = self.run(&["-q", "book.txt"]).expect_code(0);
        assert!(next.stdout_bytes == self.expected(&["book.txt"]), "the next run is not exact");
    }
}

const SCRIPTS: &str = "L'e\u{301}te\u{301} – Straße, \"a, b\" Съешь же\r\nहिन्दी में हिन्दी\n\
    العربية ١٢٣\t漢字、漢字\u{3000}かな\0x";

/// Some text with `n` different words that other machines' words hash apart from, each at least once.
fn numbers(n: u32) -> Vec<u8> {
    (0..n).map(|number| format!("w{number} of w{} the\n", number * 7 % n)).collect::<String>().into_bytes()
}

/// Splits a result in TSV into its entries.
fn pairs(tsv: &[u8]) -> Vec<(&str, u64)> {
    let lines = std::str::from_utf8(tsv).unwrap().split_terminator('\n');
    lines.map(|line| line.rsplit_once('\t').unwrap()).map(|(word, n)| (word, n.parse().unwrap())).collect()
}

#[test]
fn however_texts_travel_the_result_is_the_same() {
    with_deadline(LIMIT, || {
        let bench = Bench::start(3);
        // What can be packed and what cannot, in splits of the size that is chosen for larger inputs.
        let noise: Vec<u8> = (0..3_000_000u64).map(|n| (n.wrapping_pow(3) ^ n >> 3) as u8).collect();
        bench.write("noise.txt", &noise);
        bench.write("many.txt", &numbers(200_000));
        let files = ["book.txt", "noise.txt", "many.txt", "empty.txt"];
        let expected = bench.expected(&files);
        for how in ["none", "lz4", "zstd", "auto"] {
            for size in ["10KiB", "4MiB"] {
                let args = [&files[..], &["--compress", how, "--split-size", size]].concat();
                let done = bench.run(&args).expect_code(0);
                assert!(done.stdout_bytes == expected, "--compress {how} --split-size {size} is not exact");
            }
        }
        assert_says(&bench.run(&["book.txt", "--compress", "gzip"]).expect_code(2), &["gzip", "zstd"]);
    });
}

/// Nothing in a run waits for a tick, a time-out or an answer that is delayed on purpose: a small one is done in the
/// time that its work takes. The best of some, for others may use this machine, too.
#[test]
fn small_run_waits_for_nothing() {
    with_deadline(LIMIT, || {
        let bench = Bench::start(8);
        bench.write("small.txt", &numbers(50_000));
        let times = (0..10).map(|_| bench.run(&["-q", "small.txt", "-o", "out.tsv"]).expect_code(0).elapsed);
        let best = times.min().expect("there were some");
        assert!(bench.read("out.tsv") == bench.expected(&["small.txt"]));
        assert!(best < Duration::from_millis(300), "the best of ten took {best:?}");
    });
}

#[test]
fn several_files_are_counted_in_every_format() {
    with_deadline(LIMIT, || {
        let bench = Bench::start(3);
        let files = ["book.txt", "scripts.txt", "empty.txt", "numbers.txt"];
        let expected = bench.expected(&files);
        let run = |more: &[&str]| bench.run(&[&files[..], &["--split-size", "10KiB"], more].concat());
        assert!(run(&[]).expect_code(0).stdout_bytes == expected);
        assert!(run(&["--servers", "2"]).expect_code(0).stdout_bytes == expected);

        run(&["-o", "out.tsv"]).expect_code(0);
        assert!(bench.read("out.tsv") == expected);
        run(&["-o", "out.json"]).expect_code(0);
        let mut lines = String::new();
        for (word, n) in pairs(&expected) {
            lines += &format!("{{\"word\":{},\"count\":{n}}}\n", Value::from(word));
        }
        assert!(bench.read("out.json") == lines.as_bytes());

        // With white space as the border there is something to quote.
        run(&["-o", "out.csv", "--tokens", "whitespace"]).expect_code(0);
        let texts: Vec<Vec<u8>> = files.iter().map(|name| bench.read(name)).collect();
        let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        let mut records = "word,count\r\n".to_owned();
        for (word, n) in pairs(&reference::word_count(&texts, Tokens::Whitespace, false)) {
            let quoted = format!("\"{}\"", word.replace('"', "\"\""));
            let word = if word.contains([',', '"']) { &quoted } else { word };
            records += &format!("{word},{n}\r\n");
        }
        assert!(bench.read("out.csv") == records.as_bytes());
        assert!(records.contains("\"\"\"a,\""), "nothing was quoted");
    });
}

#[test]
fn standard_input_is_a_pipe_or_a_file_from_where_it_stands() {
    with_deadline(LIMIT, || {
        let bench = Bench::start(3);
        let piped = bench.invocation(&["book.txt", "-", "scripts.txt"]).stdin(bench.read("numbers.txt"));
        let expected = bench.expected(&["book.txt", "numbers.txt", "scripts.txt"]);
        assert!(piped.run().expect_code(0).stdout_bytes == expected);

        // As after `(read line; mapreduce run -) < book.txt`: what was read before is not counted.
        let mut book = File::open(bench.lab.client_dir().join("book.txt")).unwrap();
        book.seek(SeekFrom::Start(1001)).unwrap();
        let redirected = bench.invocation(&["-", "--split-size", "1KiB"]).stdin_file(book).run();
        let rest = bench.read("book.txt").split_off(1001);
        let expected = reference::word_count(&[&rest], Tokens::Word, false);
        assert!(redirected.expect_code(0).stdout_bytes == expected);

        assert_eq!(bench.invocation(&["-"]).run().expect_code(0).stdout, "");
        let twice = bench.run(&["-", "-"]).expect_code(1);
        assert_says(&twice, &["can be read once only"]);
    });
}

#[test]
fn report_adds_up() {
    with_deadline(LIMIT, || {
        let bench = Bench::start(3);
        let files = ["book.txt", "numbers.txt"];
        let expected = bench.expected(&files);
        let words: u64 = pairs(&expected).iter().map(|(_, n)| n).sum();
        let distinct = pairs(&expected).len() as u64;
        let bytes: u64 = files.iter().map(|name| bench.read(name).len() as u64).sum();
        let began = Instant::now();
        let args = ["--report", "report.json", "-o", "out.tsv", "--split-size", "20KiB"];
        let done = bench.run(&[&files[..], &args].concat()).expect_code(0);
        let elapsed = began.elapsed().as_secs_f64();
        let report: Value = serde_json::from_slice(&bench.read("report.json")).unwrap();
        for (field, wanted) in [
            ("workers", 3),
            ("threads", 1 + 2 + 1),
            ("input_files", 2),
            ("input_bytes", bytes),
            ("pairs", words),
            ("distinct_keys", distinct),
            ("output_entries", distinct),
            ("output_bytes", expected.len() as u64),
            ("reexecuted_splits", 0),
            ("epochs", 1),
        ] {
            assert_eq!(report[field], wanted, "{field} in {report:#}");
        }
        assert_eq!((&report["local"], &report["job"]), (&false.into(), &"wordcount".into()));
        // The last of each file's splits is what is left; the others are whole lines of 20 KiB or a little more.
        let splits = report["splits"].as_u64().unwrap();
        assert!((bytes / (21 << 10)..=bytes / (20 << 10) + 2).contains(&splits), "{splits} of {bytes} bytes");
        assert_eq!(report["losses"], Value::Array(Vec::new()));
        // Each split was executed once, or twice where a worker was late.
        let n = |field: &str| report[field].as_u64().unwrap();
        assert_eq!(n("executions"), splits + n("backups_started"), "{report:#}");
        assert!(n("backups_won") <= n("backups_started"), "{report:#}");
        let phases = report["phases"].as_array().unwrap();
        let named: Vec<&str> = phases.iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
        assert_eq!(named, ["split", "map", "shuffle", "reduce", "merge"]);
        let moved: Vec<u64> = phases.iter().map(|phase| phase["bytes"].as_u64().unwrap()).collect();
        assert_eq!((moved[1], moved[4]), (bytes, expected.len() as u64));
        assert!(moved[2] > 0 && moved[2] < bytes && moved[3] > 0, "{moved:?}");
        let seconds: f64 = phases.iter().map(|phase| phase["seconds"].as_f64().unwrap()).sum();
        let total = report["total_seconds"].as_f64().unwrap();
        assert!((seconds - total).abs() < 1e-6 && total > 0.0 && total <= elapsed, "{report:#}");
        assert_eq!(words, 27_333 + 4 * 20_000);
        assert_says(&done, &["107,333 words", "in 2 files", "3 workers, 4 threads", "│ Total "]);

        // The first few are told; the totals stay those of the whole.
        let args = ["--top", "7", "--report", "report.json"];
        let top = bench.run(&[&files[..], &args].concat()).expect_code(0);
        let head: Vec<u8> =
            expected.split_inclusive(|&byte| byte == b'\n').take(7).flatten().copied().collect();
        assert!(top.stdout_bytes == head, "{}", top.stdout);
        let report: Value = serde_json::from_slice(&bench.read("report.json")).unwrap();
        assert_eq!((&report["output_entries"], &report["distinct_keys"]), (&7.into(), &distinct.into()));
        assert_eq!(report["output_bytes"], head.len() as u64);
    });
}

#[test]
fn milestones_are_told_unless_quiet() {
    with_deadline(LIMIT, || {
        let bench = Bench::start(2);
        let said = bench.run(&["book.txt", "--top", "1"]).expect_code(0);
        assert_eq!(said.stdout, "the\t1525\n");
        let at = |part: &str| said.stderr.find(part).unwrap_or_else(|| panic!("no {part}: {}", said.stderr));
        let order = ["Split: done in ", "Map: done in ", "Shuffle: done in ", "Reduce: done in ", "│ Merge "];
        assert!(order.map(at).is_sorted(), "{}", said.stderr);
        assert!(!said.stderr.contains('\r') && !said.stderr.contains('\x1b'), "{:?}", said.stderr);
        let quiet = bench.run(&["book.txt", "--top", "1", "-q"]).expect_code(0);
        assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("the\t1525\n", ""));
    });
}

#[test]
fn interrupted_run_ends_on_all_workers() {
    with_deadline(LIMIT, || {
        let bench = Bench::start(3);
        let before = entries(&bench.lab.client_dir());
        for signal in [Signal::INT, Signal::TERM] {
            let mut running = bench.held_run(&["-o", "out.tsv"]);
            let stdin = running.stdin.take();
            let struck = Instant::now();
            processes::signal(running.pid(), signal);
            let ended = running.wait().expect_code(130);
            assert!(struck.elapsed() < FREE, "{:?}", struck.elapsed());
            assert_eq!(ended.stdout, "");
            assert_says(&ended, &["interrupted"]);
            drop(stdin);
            bench.assert_usable(&before);
        }
    });
}

#[test]
fn killed_client_is_forgotten() {
    with_deadline(LIMIT, || {
        let bench = Bench::start(3);
        let before = entries(&bench.lab.client_dir());
        let running = bench.held_run(&[]);
        processes::signal(running.pid(), Signal::KILL);
        assert_eq!(running.wait_as_it_is().code, None);
        bench.assert_usable(&before);
    });
}

/// A client whose machine sleeps: the workers wait for as long as it said, and it learns of that when it wakes.
#[test]
fn suspended_client_is_forgotten_and_learns_of_it() {
    with_deadline(LIMIT, || {
        let bench = Bench::start(2);
        let before = entries(&bench.lab.client_dir());
        let running = bench.held_run(&["-o", "out.tsv", "--worker-timeout", "2s"]);
        processes::signal(running.pid(), Signal::STOP);
        await_jobs(&bench.workers, 0, Duration::from_secs(2) + FREE);
        processes::signal(running.pid(), Signal::CONT);
        let ended = running.wait_as_it_is().expect_code(1);
        assert_says(&ended, &["error: no worker is left", "worker 127.0.0.1:", " was lost in "]);
        bench.assert_usable(
            &before.iter().filter(|name| !name.contains("out.tsv")).cloned().collect::<Vec<_>>(),
        );
    });
}

#[test]
fn named_worker_that_does_not_answer_is_told_by_name() {
    with_deadline(LIMIT, || {
        let bench = Bench::start(2);
        // Nobody; somebody who says nothing; somebody who speaks something else.
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let other_address = other.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            // Like an SSH server, it speaks first.
            let (mut stream, _) = other.accept().unwrap();
            stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        for (address, why) in [
            (nobody.to_string(), "refused"),
            (silent.local_addr().unwrap().to_string(), "no word from it"),
            (other_address, "not a mapreduce worker"),
        ] {
            let workers = format!("{},{address}", list(&bench.workers));
            let args = ["run", "book.txt", "--workers", &workers, "-o", "out.tsv", "--worker-timeout", "2s"];
            let failed = bench.lab.invocation(&args).run().expect_code(1);
            assert_says(
                &failed,
                &["error: 2 of 3 workers answer", &format!("{address} does not answer"), why],
            );
            assert_says(&failed, &["  try: start each with `serve --port PORT`"]);
            assert!(failed.elapsed < Duration::from_secs(15), "{:?}", failed.elapsed);
            assert!(!bench.lab.client_dir().join("out.tsv").exists());
        }
        await_jobs(&bench.workers, 0, FREE);
        let failed = bench.lab.mapreduce(&["run", "book.txt", "--workers", "no-such-host.invalid:1"]);
        assert_says(&failed.expect_code(1), &["cannot resolve no-such-host.invalid:1"]);
        let failed = bench.run(&["book.txt", "--servers", "3"]).expect_code(1);
        assert_says(&failed, &["3 servers were asked for, but there are 2", "try: --servers 2"]);
    });
}

/// The run waits for standard input and comes to the file only after that: there is time to change it.
#[test]
fn file_that_changes_meanwhile_is_an_error() {
    with_deadline(LIMIT, || {
        let bench = Bench::start(2);
        let path = bench.lab.client_dir().join("input.txt");
        type Change = fn(&std::path::Path);
        let changes: [(Change, &str); 3] = [
            (
                |path| OpenOptions::new().append(true).open(path).unwrap().write_all(b"more\n").unwrap(),
                "changed",
            ),
            (
                |path| OpenOptions::new().write(true).open(path).unwrap().set_len(100_000).unwrap(),
                "input.txt",
            ),
            (|path| fs::write(path, numbers(20_001).split_off(12)).unwrap(), "changed"),
        ];
        for (change, why) in changes {
            fs::write(&path, numbers(20_000)).unwrap();
            let running = bench.invocation(&["-", "input.txt", "-o", "out.tsv"]).open_stdin().spawn();
            await_jobs(&bench.workers, 1, Duration::from_secs(20));
            change(&path);
            let failed = running.wait().expect_code(1);
            assert_says(&failed, &["error: the input cannot be read", "input.txt", why]);
            assert!(!bench.lab.client_dir().join("out.tsv").exists());
            await_jobs(&bench.workers, 0, FREE);
        }
        // In-process, too. Once more is read than a pipe holds, the files are open.
        fs::write(&path, numbers(20_000)).unwrap();
        let mut running = bench.lab.invocation(&["run", "--local", "-", "input.txt"]).open_stdin().spawn();
        running.stdin.as_mut().unwrap().write_all(&numbers(20_000)).unwrap();
        fs::write(&path, "short").unwrap();
        let failed = running.wait().expect_code(1);
        assert_says(&failed, &["error: could not map the split of input.txt, bytes 0 to ", "became shorter"]);
        assert!(!failed.stderr.contains("worker"), "{}", failed.stderr);
        // One that was replaced is still there for who has opened it.
        fs::write(&path, numbers(20_000)).unwrap();
        let running = bench.invocation(&["-", "input.txt", "-q"]).open_stdin().spawn();
        await_jobs(&bench.workers, 1, Duration::from_secs(20));
        let expected = bench.expected(&["input.txt"]);
        bench.write("new", b"something else\n");
        fs::rename(bench.lab.client_dir().join("new"), &path).unwrap();
        assert!(running.wait().expect_code(0).stdout_bytes == expected);
    });
}

#[test]
fn what_cannot_be_read_or_written_is_named_and_nothing_begins() {
    with_deadline(LIMIT, || {
        let bench = Bench::start(1);
        fs::create_dir_all(bench.lab.client_dir().join("home/none")).unwrap();
        let before = entries(&bench.lab.client_dir());
        for (args, parts) in [
            (&["book.txt", "gone.txt", "-o", "out.tsv"][..], &["cannot open gone.txt", "No such file"][..]),
            (&["home/none", "-o", "out.tsv"], &["there is no file in home/none"]),
            (&["book.txt", "-o", "home"], &["home: is a directory"]),
            (&["book.txt", "-o", "gone/out.tsv"], &["gone/out.tsv: cannot be created"]),
            (&["book.txt", "-o", "/proc/out.tsv"], &["/proc/out.tsv: cannot be created"]),
            (&["book.txt", "-o", "out.tsv", "--report", "gone/report.json"], &["gone/report.json"]),
        ] {
            let failed = bench.run(args).expect_code(1);
            assert_says(&failed, parts);
            assert!(failed.stderr.starts_with("error: "), "{}", failed.stderr);
            assert_eq!(entries(&bench.lab.client_dir()), before, "{args:?}");
        }
        let full = bench.run(&["book.txt", "-o", "/dev/full"]).expect_code(1);
        assert_says(&full, &["error: the result cannot be written", "/dev/full", "No space left"]);
        bench.assert_usable(&before);
    });
}

/// Nobody reads the result, so that the merge stands in the middle of it: a worker that is killed then is noticed, and
/// what was written already is not written again.
#[test]
fn worker_killed_while_the_output_waits_is_told_and_survived() {
    with_deadline(LIMIT, || {
        let mut bench = Bench::start(3);
        // Each worker has more to send than what is under way.
        bench.write("many.txt", &numbers(600_000));
        let expected = bench.expected(&["many.txt"]);
        let mut running = bench.invocation(&["many.txt", "--report", "report.json"]).keep_stdout().spawn();
        let mut stdout = running.stdout.take().unwrap();
        let mut result = vec![0; 4];
        stdout.read_exact(&mut result).unwrap();
        assert_eq!(result, b"of\t6");
        let lost = bench.workers.remove(1);
        processes::signal(lost.pid(), Signal::KILL);
        stdout.read_to_end(&mut result).unwrap();
        assert!(result == expected, "the result is not exact");
        let done = running.wait().expect_code(0);
        let told = format!("worker {} lost in merge: ", lost.address);
        assert_says(
            &done,
            &[&told, "mapped again by 2 workers", "Merge: broken off after ", "1 worker lost, "],
        );
        let report: Value = serde_json::from_slice(&bench.read("report.json")).unwrap();
        assert_eq!((&report["epochs"], &report["losses"][0]["phase"]), (&2.into(), &"merge".into()));
        assert_eq!(report["losses"][0]["worker"], lost.address.to_string());
        assert_eq!(report["output_bytes"], expected.len() as u64);
        assert!(report["reexecuted_splits"].as_u64() >= report["losses"][0]["splits"].as_u64(), "{report:#}");
        await_jobs(&bench.workers, 0, FREE);
    });
}

/// The others of the workers are kept for the place of lost ones, and one that is not needed is free again after it.
#[test]
fn spare_takes_part_in_the_place_of_a_killed_worker() {
    with_deadline(LIMIT, || {
        let mut bench = Bench::start(3);
        let mut running =
            bench.invocation(&["--servers", "1", "--report", "report.json", "-"]).open_stdin().spawn();
        let mut stdin = running.stdin.take().unwrap();
        stdin.write_all(&numbers(5000)).unwrap();
        await_jobs(&bench.workers[..1], 1, Duration::from_secs(20));
        let lost = bench.workers.remove(0);
        processes::signal(lost.pid(), Signal::KILL);
        await_jobs(&bench.workers[..1], 1, Duration::from_secs(20));
        stdin.write_all(&numbers(4000)).unwrap();
        drop(stdin);
        let done = running.wait().expect_code(0);
        let text = [numbers(5000), numbers(4000)].concat();
        assert!(done.stdout_bytes == reference::word_count(&[&text], Tokens::Word, false));
        let joined = format!("worker {} joins in the place of {}", bench.workers[0].address, lost.address);
        assert_says(&done, &[&format!("worker {} lost in ", lost.address), &joined]);
        let report: Value = serde_json::from_slice(&bench.read("report.json")).unwrap();
        assert_eq!((&report["workers"], report["losses"].as_array().unwrap().len()), (&2.into(), 1));
        await_jobs(&bench.workers, 0, FREE);
    });
}
