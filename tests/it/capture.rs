//! Capture: what somebody who listens on the network gets of a job: with an identity nothing that it could read.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::DeflateEncoder;

use crate::harness::recorder::{Recorded, Recorder};
use crate::harness::with_deadline;
use crate::hostile::stage::Stage;

const LIMIT: Duration = Duration::from_secs(120);

const BOOK: &[u8] = include_bytes!("../../examples/alice.txt");

/// The name of the input's file.
const FILE: &str = "secret-manuscript.txt";

/// Shorter words may be there by chance.
const TELLING: usize = 5;

/// By how much noise may shrink when it is packed.
const SHRINKS: f64 = 0.01;

/// The words of `text` that are long enough to tell something.
fn telling_words(text: &[u8]) -> BTreeSet<Vec<u8>> {
    let words = text.split(|byte| !byte.is_ascii_alphanumeric());
    words.filter(|word| word.len() >= TELLING).map(<[u8]>::to_vec).collect()
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// The part of its own size to which `bytes` are packed.
fn packed(bytes: &[u8]) -> f64 {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("a vector takes all");
    encoder.finish().expect("a vector takes all").len() as f64 / bytes.len() as f64
}

/// Counts the book's words over two workers, and returns what was recorded of the links of each: the client's first.
/// The result is exact.
fn job(stage: &Stage) -> Vec<Recorded> {
    let recorders: Vec<Recorder> =
        stage.workers.iter().map(|worker| Recorder::before(worker.address)).collect();
    let addresses: Vec<String> = recorders.iter().map(|recorder| recorder.address.to_string()).collect();
    let file = stage.directory.path().join(FILE);
    fs::write(&file, BOOK).expect("it is writable");
    let counted = stage.run_about(&file, &addresses, &["--compress", "none"]).run().expect_code(0);
    let expected = crate::reference::word_count(&[BOOK], mapreduce::logic::tokenize::Tokens::Word, false);
    assert!(counted.stdout_bytes == expected, "{}", counted.stderr);
    let links: Vec<Recorded> = recorders.iter().flat_map(Recorder::recorded).collect();
    // The client's two, and one from each worker to the other.
    assert_eq!(links.len(), 4);
    links
}

#[test]
fn nothing_of_an_encrypted_job_can_be_read() {
    with_deadline(LIMIT, || {
        let stage = Stage::encrypted(2);
        let links = job(&stage);
        let words = telling_words(BOOK);
        assert!(words.len() > 1_000, "{} words", words.len());
        for link in &links {
            for bytes in [&link.to_worker, &link.from_worker] {
                assert!(!bytes.is_empty());
                for what in
                    [FILE.as_bytes(), b"secret", b"{\"begin", b"word_count", b"word-count", b"\"magic"]
                {
                    assert!(!contains(bytes, what), "{:?} is there", String::from_utf8_lossy(what));
                }
            }
        }
        let mut spoken = spoken(&links, &words);
        if !spoken.is_empty() {
            // In so much noise, some five given letters stand by chance once in a thousand jobs; not the same in two.
            spoken = &spoken & &self::spoken(&job(&stage), &words);
        }
        assert_eq!(spoken, BTreeSet::new());
        let all = everything(&links);
        let ratio = packed(&all);
        println!("{} words in {} bytes of 4 links, which pack to {ratio:.4}", words.len(), all.len());
        assert!(all.len() > BOOK.len(), "less than the input is recorded");
        assert!(ratio > 1.0 - SHRINKS, "what was recorded packs to {ratio:.4}");
        for link in &links {
            for bytes in [&link.to_worker, &link.from_worker].into_iter().filter(|bytes| bytes.len() > 20_000)
            {
                assert!(packed(bytes) > 1.0 - SHRINKS, "{}", packed(bytes));
            }
        }
    });
}

/// The control: without an identity, the same ears hear the words, on links of both kinds.
#[test]
fn words_of_a_plaintext_job_can_be_read() {
    with_deadline(LIMIT, || {
        let stage = Stage::plaintext(2);
        let links = job(&stage);
        let words = telling_words(BOOK);
        let of_client =
            |link: &&Recorded| contains(&link.to_worker[..400.min(link.to_worker.len())], b"client");
        let (clients, peers): (Vec<&Recorded>, Vec<&Recorded>) = links.iter().partition(of_client);
        assert_eq!((clients.len(), peers.len()), (2, 2));
        for kind in [clients, peers] {
            let kind: Vec<Recorded> = kind.into_iter().cloned().collect();
            let (heard, spoken) = (everything(&kind), spoken(&kind, &words).len());
            println!("{spoken} of {} words in {} bytes", words.len(), heard.len());
            assert!(spoken > words.len() / 3, "{spoken} of {} words", words.len());
            assert!(packed(&heard) < 0.7, "{}", packed(&heard));
        }
    });
}

fn everything(links: &[Recorded]) -> Vec<u8> {
    links.iter().flat_map(|link| [&link.to_worker[..], &link.from_worker].concat()).collect()
}

/// Those of `words` that are in what was recorded.
fn spoken(links: &[Recorded], words: &BTreeSet<Vec<u8>>) -> BTreeSet<Vec<u8>> {
    let everything = everything(links);
    let pieces: BTreeSet<&[u8]> = everything.windows(TELLING).collect();
    let begins = words.iter().filter(|word| pieces.contains(&word[..TELLING]));
    begins.filter(|word| contains(&everything, word)).cloned().collect()
}
