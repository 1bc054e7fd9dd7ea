//! Ngrams: how often words stand side by side in a line.

use serde::{Deserialize, Serialize};

use super::word_count;
use crate::job::{Emit, Job, Records, Span};
use crate::logic::tokenize::Tokenizer;

/// Counts runs of `n` words within lines, with a blank between the words; most frequent first, then by their bytes.
pub struct Ngrams {
    tokenizer: Tokenizer,
    n: usize,
}

/// What to count.
#[derive(Clone, Debug, Serialize, Deserialize, clap::Args)]
// The parameters of words have the same name, and clap knows groups of flags by theirs.
#[group(skip)]
pub struct Params {
    /// How many words stand side by side
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub n: usize,

    #[command(flatten)]
    #[serde(flatten)]
    pub words: word_count::Params,
}

/// Longer runs hardly come twice in a text.
const MAX_N: usize = 100;

impl Job for Ngrams {
    const NAME: &'static str = "ngrams";
    const ABOUT: &'static str = "Count how often words stand side by side in a line";
    const COLUMNS: [&'static str; 2] = ["ngram", "count"];
    type Params = Params;
    type Value = u64;

    fn new(Params { n, words: word_count::Params { tokens, ignore_case } }: Params) -> Result<Self, String> {
        if !(1..=MAX_N).contains(&n) {
            return Err(format!("--n {n}: between 1 and {MAX_N} words can be counted together"));
        }
        Ok(Self { tokenizer: Tokenizer::new(tokens, ignore_case), n })
    }

    fn map(&self, records: Records<'_>, emit: &mut impl Emit<u64>) -> Result<(), String> {
        let mut window = Window { n: self.n, ..Window::default() };
        for line in records.lines() {
            window.line_words = 0;
            self.tokenizer.for_each_batch(line.text, |text, words| {
                for &[start, end] in words {
                    window.push(&text[start as usize..end as usize]);
                }
                if window.text.len() > WINDOW_BYTES {
                    window.emit(emit);
                }
            });
        }
        window.emit(emit);
        Ok(())
    }

    fn combine(&self, into: &mut u64, other: u64) {
        *into = into.saturating_add(other);
    }

    fn rank(&self, count: &u64) -> u64 {
        !count
    }
}

/// Words with a blank between each two, in which all runs of them stand as they are to be counted.
#[derive(Default)]
struct Window {
    n: usize,
    text: Vec<u8>,
    /// Where the last words begin: `n` of them, or more.
    starts: Vec<u32>,
    runs: Vec<Span>,
    /// Words of the line so far.
    line_words: usize,
}

/// Bytes of a window that are emitted at once. They stay in a fast cache.
const WINDOW_BYTES: usize = 32 << 10;

impl Window {
    #[inline]
    fn push(&mut self, word: &[u8]) {
        if !self.text.is_empty() {
            self.text.push(b' ');
        }
        self.starts.push(self.text.len() as u32);
        self.text.extend_from_slice(word);
        self.line_words += 1;
        if self.line_words >= self.n {
            let start = self.starts[self.starts.len() - self.n];
            self.runs.push([start, self.text.len() as u32]);
        }
    }

    /// Emits what was gathered, and keeps the words with which the next run begins.
    fn emit(&mut self, emit: &mut impl Emit<u64>) {
        emit.spans(&self.text, &self.runs, 1);
        self.runs.clear();
        let kept = self.line_words.min(self.n - 1);
        let from = match kept {
            0 => self.text.len(),
            kept => self.starts[self.starts.len() - kept] as usize,
        };
        self.text.drain(..from);
        self.starts.drain(..self.starts.len() - kept);
        self.starts.iter_mut().for_each(|start| *start -= from as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::check;
    use crate::logic::tokenize::Tokens;

    fn job(n: usize, tokens: Tokens, ignore_case: bool) -> Ngrams {
        Ngrams::new(Params { n, words: word_count::Params { tokens, ignore_case } }).expect("they are valid")
    }

    #[track_caller]
    fn assert_counted(job: &Ngrams, text: &str, expected: &str) {
        check::job(job, &[text]);
        let runs = check::result(job, &[text]).into_iter().map(|(run, count)| format!("{run}={count}"));
        assert_eq!(runs.collect::<Vec<_>>().join("|"), expected);
    }

    #[test]
    fn runs_are_counted_within_lines() {
        let text = "a b, a  b\nB a\n\na";
        assert_counted(&job(2, Tokens::Word, false), text, "a b=2|B a=1|b a=1");
        assert_counted(&job(2, Tokens::Word, true), text, "a b=2|b a=2");
        assert_counted(&job(2, Tokens::Whitespace, false), text, "B a=1|a b=1|a b,=1|b, a=1");
        assert_counted(&job(1, Tokens::Word, false), text, "a=4|b=2|B=1");
        assert_counted(&job(3, Tokens::Word, false), text, "a b a=1|b a b=1");
        assert_counted(&job(5, Tokens::Word, false), text, "");
    }

    #[test]
    fn a_long_line_is_emitted_in_parts() {
        let words: Vec<String> = (0..30_000).map(|n| format!("w{}", n % 7)).collect();
        for n in [1, 2, 3, 7] {
            let runs = check::result(&job(n, Tokens::Word, false), &[words.join(" ")]);
            assert_eq!(runs.len(), 7);
            let counted: usize = runs.iter().map(|(_, count)| count.parse::<usize>().expect("a count")).sum();
            assert_eq!(counted, words.len() + 1 - n);
            assert_eq!(runs[0].0.split(' ').count(), n);
        }
    }

    #[test]
    fn the_number_of_words_is_bounded() {
        for n in [0, MAX_N + 1] {
            let params = Params { n, words: word_count::Params::default() };
            let error = Ngrams::new(params).map(|_| ()).expect_err("it is out of bounds");
            assert_eq!(error, format!("--n {n}: between 1 and 100 words can be counted together"));
        }
    }
}
