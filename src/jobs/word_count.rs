//! Word count: how often each word stands in the input.

use serde::{Deserialize, Serialize};

use crate::job::{AsciiSet, Cut, Emit, Job, Records};
use crate::logic::tokenize::{Tokenizer, Tokens};

/// Counts the words of a text; most frequent first, then by the bytes of the word.
pub struct WordCount {
    tokenizer: Tokenizer,
}

/// What a word is to be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, clap::Args)]
pub struct Params {
    /// What a word is: `word` is a run of letters, marks, digits and connectors (UTS #18 \w); `whitespace` is what
    /// stands between white space
    #[arg(long, value_enum, value_name = "KIND", default_value = "word")]
    pub tokens: Tokens,

    /// Count words without regard to case, in lower case
    #[arg(long)]
    pub ignore_case: bool,
}

impl clap::ValueEnum for Tokens {
    fn value_variants<'a>() -> &'a [Self] {
        &[Tokens::Word, Tokens::Whitespace]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(match self {
            Tokens::Word => clap::builder::PossibleValue::new("word"),
            Tokens::Whitespace => clap::builder::PossibleValue::new("whitespace"),
        })
    }
}

impl Job for WordCount {
    const NAME: &'static str = "wordcount";
    const ABOUT: &'static str =
        "Count how often each word stands in a text, on as many machines as you can reach";
    const COLUMNS: [&'static str; 2] = ["word", "count"];
    type Params = Params;
    type Value = u64;

    fn new(params: Params) -> Result<Self, String> {
        Ok(Self { tokenizer: Tokenizer::new(params.tokens, params.ignore_case) })
    }

    #[inline]
    fn map(&self, records: Records<'_>, emit: &mut impl Emit<u64>) -> Result<(), String> {
        self.tokenizer.for_each_batch(records.bytes(), |text, words| emit.spans(text, words, 1));
        Ok(())
    }

    /// Adds up to the largest count and no further. No text has so many words, but a count may come from a broken
    /// peer, which must neither panic nor turn a large count into a small one; and a limited sum is still commutative
    /// and associative.
    #[inline]
    fn combine(&self, into: &mut u64, other: u64) {
        *into = into.saturating_add(other);
    }

    fn cut(&self) -> Cut {
        Cut::After(AsciiSet::such(|byte| self.tokenizer.separates(byte)))
    }

    fn rank(&self, count: &u64) -> u64 {
        !count
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn job(tokens: Tokens, ignore_case: bool) -> WordCount {
        WordCount::new(Params { tokens, ignore_case }).expect("all parameters are valid")
    }

    /// Returns the result of `job` on `splits`, as text.
    fn count(job: &WordCount, splits: &[&str]) -> String {
        let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for split in splits {
            let mut fold = |word: &[u8], value| {
                job.combine(counts.entry(word.to_vec()).or_default(), value);
            };
            job.map(split.as_bytes().into(), &mut fold).expect("it cannot fail");
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by(|a, b| job.compare((&a.0, &a.1), (&b.0, &b.1)));
        let lines = counts.iter().map(|(word, n)| format!("{}={n}", String::from_utf8_lossy(word)));
        lines.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn counts_most_frequent_first_then_by_bytes() {
        let text = "b a c B a, z é";
        assert_eq!(count(&job(Tokens::Word, false), &[text]), "a=2 B=1 b=1 c=1 z=1 é=1");
        assert_eq!(count(&job(Tokens::Word, true), &[text]), "a=2 b=2 c=1 z=1 é=1");
        assert_eq!(count(&job(Tokens::Whitespace, false), &[text]), "B=1 a=1 a,=1 b=1 c=1 z=1 é=1");
    }

    #[test]
    fn a_text_without_words_counts_nothing() {
        assert_eq!(count(&job(Tokens::Word, false), &["", " \n", "--"]), "");
    }

    #[test]
    fn splits_end_where_no_word_can_stand() {
        let words = job(Tokens::Word, false);
        let visible = job(Tokens::Whitespace, false);
        let ends = |job: &WordCount| match job.cut() {
            Cut::After(ends) => ends,
            other => panic!("{other:?}"),
        };
        let (words_end, visible_end) = (ends(&words), ends(&visible));
        for byte in 0..=0xff {
            let separates = words_end.contains(byte) || !visible_end.contains(byte);
            assert!(separates, "white space separates words, too");
        }
        assert!(words_end.contains(b'-') && !visible_end.contains(b'-') && !words_end.contains(b'_'));
        assert_eq!(count(&words, &["one two-", "two\n", "one"]), count(&words, &["one two-two\none"]));
    }

    #[test]
    fn counts_never_wrap() {
        let job = job(Tokens::Word, false);
        let mut count = u64::MAX - 1;
        job.combine(&mut count, 1);
        assert_eq!(count, u64::MAX);
        job.combine(&mut count, u64::MAX);
        assert_eq!(count, u64::MAX);
    }
}
