//! Params: what is wrong with the parameters of a job is said before anything runs.
//!
//! And the laws of jobs hold of the examples.

use mapreduce::Job;
use mapreduce::check;
use mapreduce::jobs::grep::Grep;
use mapreduce::jobs::histogram::Histogram;
use mapreduce::jobs::ngrams::Ngrams;
use mapreduce::jobs::streaming::Streaming;
use mapreduce::jobs::word_count::{Params, WordCount};

use super::LIMIT;
use crate::harness::program::Invocation;
use crate::harness::with_deadline;

#[allow(dead_code, reason = "its `main` is for the example alone")]
#[path = "../../../examples/domains.rs"]
mod domains;
#[allow(dead_code, reason = "its `main` is for the example alone")]
#[path = "../../../examples/inverted_index.rs"]
mod inverted_index;
#[allow(dead_code, reason = "its `main` is for the example alone")]
#[path = "../../../examples/languages.rs"]
mod languages;

/// The jobs of the program, as `src/main.rs` has them.
pub type Shipped = (
    WordCount,
    Grep,
    Ngrams,
    Histogram,
    inverted_index::InvertedIndex,
    domains::Domains,
    languages::Languages,
    Streaming,
);

#[test]
fn what_is_wrong_is_said_with_the_name_of_the_job() {
    with_deadline(LIMIT, || {
        let missing = std::path::Path::new("no-such-file");
        for (args, parts) in [
            (&["grep", "--pattern", "a(b"][..], &["job grep", "--pattern \"a(b\": unclosed group"][..]),
            (&["grep", "--pattern", "[z-a]"], &["job grep", "range"]),
            (&["grep"], &["--pattern"]),
            (&["grep", "--pattern", "a", "--count", "--only-matching"], &["--only-matching", "--count"]),
            (&["ngrams", "--n", "0"], &["job ngrams", "--n 0: between 1 and 100"]),
            (&["ngrams", "--n", "two"], &["--n", "two"]),
            (&["histogram", "--bin-width", "0"], &["job histogram", "--bin-width 0: it must be above zero"]),
            (&["histogram", "--column", "0"], &["job histogram", "--column 0: the first column is 1"]),
            (&["histogram", "--column", "1", "--delimiter", "ab"], &["job histogram", "--delimiter \"ab\""]),
            (&["languages", "--min-letters", "0"], &["job languages", "--min-letters 0"]),
            (&["wordcount", "--pattern", "a"], &["--pattern"]),
            (&["sort"], &["there is no job \"sort\", only wordcount, grep"]),
        ] {
            let args = [&["run", missing.to_str().unwrap(), "--job"], args].concat();
            let refused = Invocation::new(&args).run().expect_code(2);
            for part in parts {
                assert!(refused.stderr.contains(part), "{args:?}: no {part:?} in:\n{}", refused.stderr);
            }
        }
    });
}

#[test]
fn examples_keep_the_laws() {
    with_deadline(LIMIT, || {
        let text = "one two\n\nthree two one, and this is a longer line of English words\r\n\u{e9}t\u{e9}";
        let index = inverted_index::InvertedIndex::new(Params::default()).unwrap();
        check::job(&index, &[text, "two", ""]);
        assert_eq!(check::result(&index, &["a b", "b"])[1], ("b".to_owned(), "text-0,text-1".to_owned()));
        let languages = languages::Languages::new(languages::Params { min_letters: 5 }).unwrap();
        check::job(&languages, &[text, text]);
        let record = "WARC/1.0\r\nWARC-Target-URI: http://a/\r\n\r\nWARC/1.0\nWARC/1.1\r\nbody\r\n\r\n\r\n";
        let domains = domains::Domains::new(domains::Params {}).unwrap();
        check::job(&domains, &[record.repeat(5), record.to_owned()]);
        let torn = [&record[..30], record].concat();
        check::job(&domains, &[torn]);
    });
}
