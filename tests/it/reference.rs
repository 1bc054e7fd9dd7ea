//! Reference: the word count as a plain sequential program, which every result is compared with, byte for byte.

use std::collections::HashMap;

use mapreduce::logic::tokenize::Tokens;
use regex::bytes::Regex;

/// Counts the words of `files`, one file after the other, and renders the whole result as TSV.
pub fn word_count(files: &[&[u8]], tokens: Tokens, ignore_case: bool) -> Vec<u8> {
    let word = Regex::new(r"\w+").expect("a valid pattern");
    let space = Regex::new(r"\s+").expect("a valid pattern");
    let mut counts: HashMap<Vec<u8>, u64> = HashMap::new();
    for file in files {
        let words: Vec<&[u8]> = match tokens {
            Tokens::Word => word.find_iter(file).map(|found| found.as_bytes()).collect(),
            Tokens::Whitespace => space.split(file).filter(|word| !word.is_empty()).collect(),
        };
        for word in words {
            *counts.entry(if ignore_case { lower_case(word) } else { word.to_vec() }).or_default() += 1;
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let lines = counts.into_iter().map(|(word, n)| [&word, format!("\t{n}\n").as_bytes()].concat());
    lines.collect::<Vec<_>>().concat()
}

/// Maps each character by itself; bytes that are not UTF-8 stay.
fn lower_case(word: &[u8]) -> Vec<u8> {
    let chunks = word.utf8_chunks().map(|chunk| {
        let lower: String = chunk.valid().chars().flat_map(char::to_lowercase).collect();
        [lower.as_bytes(), chunk.invalid()].concat()
    });
    chunks.collect::<Vec<_>>().concat()
}
