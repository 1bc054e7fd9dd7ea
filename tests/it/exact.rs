//! Exact: `run` gives what the sequential reference gives, byte for byte.
//!
//! Whatever the bytes, the size of the splits, the number of workers and of their threads. Workers serve on loopback,
//! over real connections.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use mapreduce::cmd::cli::Console;
use mapreduce::cmd::run::{RunOptions, Workers, run};
use mapreduce::edge::net::{self, Wire};
use mapreduce::edge::output::{Destination, Format};
use mapreduce::jobs::word_count::{Params, WordCount};
use mapreduce::logic::packing::Compress;
use mapreduce::logic::tokenize::Tokens;
use mapreduce::runtime::serve::WorkerOptions;
use proptest::prelude::*;

use crate::harness::with_deadline;
use crate::reference;

/// Workers of this process, with 1 to 3 threads each, for all tests of this file.
static WORKERS: LazyLock<Vec<Served>> = LazyLock::new(|| (0..8).map(|index| serve(1 + index % 3)).collect());

/// A worker that serves until this is dropped.
struct Served {
    address: String,
    _stop: Sender<()>,
}

fn serve(threads: usize) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let (stop, stopped) = bounded(1);
    let options = WorkerOptions {
        name: address.clone(),
        cluster: String::new(),
        threads,
        memory: u64::MAX,
        idle_timeout: None,
        resident_bytes: || 0,
    };
    std::thread::spawn(move || {
        net::serve::<WordCount>(listener, Wire::by_hand(), options, stopped, Box::new(|_| ()))
            .expect("threads can be started")
    });
    Served { address, _stop: stop }
}

fn workers(n: usize) -> Workers {
    match n {
        0 => Workers::Local,
        n => Workers::Named(WORKERS.iter().take(n).map(|worker| worker.address.clone()).collect()),
    }
}

struct Case<'c> {
    files: &'c [&'c [u8]],
    workers: usize,
    threads: usize,
    split_bytes: Option<u64>,
    params: Params,
    top: Option<usize>,
}

impl Case<'_> {
    fn run(&self) -> Vec<u8> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let write = |(index, bytes): (usize, &&[u8])| -> PathBuf {
            let path = directory.path().join(format!("input-{index}"));
            std::fs::File::create(&path)
                .and_then(|mut file| file.write_all(bytes))
                .expect("a temporary file");
            path
        };
        let inputs = self.files.iter().enumerate().map(write).collect();
        let output = directory.path().join("result.tsv");
        self.run_to(inputs, &output);
        std::fs::read(&output).expect("there is a result")
    }

    fn run_to(&self, inputs: Vec<PathBuf>, output: &Path) {
        let options = RunOptions {
            inputs,
            files_from: None,
            skip_bad_input: false,
            hosts: "no-such-hosts.toml".into(),
            workers: workers(self.workers),
            servers: None,
            top: self.top,
            destination: Destination::File(output.to_owned()),
            format: Format::Tsv,
            split_size: self.split_bytes,
            report: None,
            threads: Some(self.threads),
            worker_timeout: Duration::from_secs(30),
            compress: Compress::Auto,
            backups: true,
            identity: None,
            plaintext: false,
            via_ssh: false,
            ssh_rate: None,
            new_host_keys: Default::default(),
        };
        let console = Console { quiet: true, verbose: false, fancy: false };
        let ran = run::<WordCount>(&options, self.params.clone(), &console);
        ran.unwrap_or_else(|error| panic!("the run failed: {:#}", error.cause));
    }

    fn assert_exact(&self) {
        let expected = reference::word_count(self.files, self.params.tokens, self.params.ignore_case);
        let got = self.run();
        assert!(
            got == expected,
            "{} workers, splits of {:?}: {:?} is not {:?}",
            self.workers,
            self.split_bytes,
            String::from_utf8_lossy(&got[..got.len().min(400)]),
            String::from_utf8_lossy(&expected[..expected.len().min(400)])
        );
    }
}

fn case<'c>(files: &'c [&'c [u8]], workers: usize, split_bytes: Option<u64>) -> Case<'c> {
    Case { files, workers, threads: 2, split_bytes, params: Params::default(), top: None }
}

const SCRIPTS: &str = "The quick brown fox; déjà vu, naïve e\u{301}tude. Съешь же ещё этих мягких булок, 42 раза.\r\n\
    नमस्ते दुनिया क्षत्रिय हिन्दी।\u{200d} السلام عليكم يا عالم ١٢٣ مَرْحَبًا. 你好，世界。今天天气很好。\t\
    こんにちは世界、カタカナとひらがな。ﾊﾝｶｸ don't can't under_score x\u{200c}y\u{a0}z\u{2003}w\u{85}v\n";

fn text_of(scripts: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for index in 0..scripts {
        text.extend_from_slice(SCRIPTS.as_bytes());
        text.extend_from_slice(format!("word{} word{}\0nul é", index % 17, index).as_bytes());
        // Bytes that are no UTF-8, in the midst of words.
        text.extend_from_slice(b"nul\x80\xff\xc3 bro\xffken \xe4\xbd cut\xf0\x9f\n");
    }
    text
}

#[test]
fn every_script_over_every_number_of_workers() {
    with_deadline(Duration::from_secs(120), || {
        let text = text_of(300);
        for workers in 0..=8 {
            for split_bytes in [None, Some(1), Some(97), Some(4096)] {
                // A byte a split is a message a word: enough of it with few workers.
                if split_bytes != Some(1) || workers <= 3 {
                    case(&[&text], workers, split_bytes).assert_exact();
                }
            }
        }
    });
}

#[test]
fn every_mode_of_words() {
    with_deadline(Duration::from_secs(60), || {
        let text = text_of(40);
        for tokens in [Tokens::Word, Tokens::Whitespace] {
            for ignore_case in [false, true] {
                for workers in [0, 3] {
                    let params = Params { tokens, ignore_case };
                    Case { params, ..case(&[&text], workers, Some(61)) }.assert_exact();
                }
            }
        }
    });
}

#[test]
fn ends_of_files() {
    with_deadline(Duration::from_secs(60), || {
        let lists: [&[&[u8]]; 7] = [
            &[b""],
            &[b"", b"", b""],
            &[b"one"],
            &[b"no final newline", b"joins no word", b"", b"of the next\n"],
            &[b"\n\n\n"],
            &[b"crlf\r\nends\r\n", b"\r\n"],
            &[b"\0", b"\xff\xff", b"\xe2\x80"],
        ];
        for files in lists {
            for workers in [0, 1, 4] {
                for split_bytes in [None, Some(1), Some(5)] {
                    case(files, workers, split_bytes).assert_exact();
                }
            }
        }
    });
}

/// Two lines of 50 MiB: one of many words, which can be cut, and one of a single word, which cannot.
#[test]
fn huge_lines() {
    with_deadline(Duration::from_secs(300), || {
        let many = "lorem ipsum ".repeat((50 << 20) / 12);
        let one = vec![b'x'; 50 << 20];
        for workers in [0, 2] {
            case(&[many.as_bytes(), &one], workers, None).assert_exact();
        }
    });
}

#[test]
fn the_top_is_the_head_of_the_whole() {
    with_deadline(Duration::from_secs(60), || {
        let text = text_of(100);
        let whole = case(&[&text], 0, None).run();
        let lines: Vec<_> = whole.split_inclusive(|&byte| byte == b'\n').collect();
        for workers in [0, 1, 5] {
            for top in [0, 1, 20, lines.len(), lines.len() + 1] {
                let head = Case { top: Some(top), ..case(&[&text], workers, None) }.run();
                assert!(head == lines[..top.min(lines.len())].concat(), "{workers} workers, top {top}");
            }
        }
    });
}

/// Two clients on the same workers, at the same time and one after another, never see each other's counts.
#[test]
fn clients_at_the_same_time() {
    with_deadline(Duration::from_secs(120), || {
        let texts: Vec<_> = (1..=4).map(|n| text_of(150 * n)).collect();
        std::thread::scope(|scope| {
            for text in &texts {
                scope.spawn(move || {
                    for _ in 0..3 {
                        case(&[text], 4, Some(1000)).assert_exact();
                    }
                });
            }
        });
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, rng_seed: proptest::test_runner::RngSeed::Fixed(2004),
        failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(
        files in proptest::collection::vec(proptest::collection::vec(any_byte(), 0..600), 1..4),
        workers in 0usize..=8,
        threads in 1usize..=4,
        split_bytes in 1u64..200,
        whitespace in any::<bool>(),
        ignore_case in any::<bool>(),
    ) {
        let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
        let tokens = if whitespace { Tokens::Whitespace } else { Tokens::Word };
        let params = Params { tokens, ignore_case };
        let case = Case { threads, params, ..case(&files, workers, Some(split_bytes)) };
        case.assert_exact();
    }
}

/// Bytes among which words, separators and broken characters are all frequent.
fn any_byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        Just(b' '),
        Just(b'\n'),
        b'a'..=b'e',
        any::<u8>(),
        prop::sample::select(vec![0xc3, 0xa9, 0xe2, 0x80])
    ]
}
