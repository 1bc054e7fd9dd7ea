//! Tests of the tokenizer: by hand, and against the `regex` crate and the standard library's characters.

mod differential;

use std::str::Utf8Chunk;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use regex::bytes::Regex;

use super::*;

const BOTH: [Tokens; 2] = [Tokens::Word, Tokens::Whitespace];

/// Returns the words that all kernels find.
fn words(tokens: Tokens, ignore_case: bool, text: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Tokenizer::of_each_kernel(tokens, ignore_case)
        .map(|(name, tokenizer)| (name, words_of(text, |each| tokenizer.for_each_batch(text, each))));
    let (first_name, first) = all.next().expect("a kernel");
    for (name, words) in all {
        assert!(words == first, "{first_name} finds {first:x?}, {name} {words:x?} in {text:x?}");
    }
    first
}

/// Collects the words of the batches that `run` hands on, and checks that each has words, apart and in order.
fn words_of(text: &[u8], run: impl FnOnce(&mut dyn FnMut(&[u8], &[Span]))) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    run(&mut |part, spans| {
        assert!(!spans.is_empty(), "an empty batch: {text:x?}");
        let borders = spans.as_flattened();
        assert!(borders.is_sorted_by(|a, b| a < b), "borders out of order: {borders:?} in {text:x?}");
        words.extend(spans.iter().map(|&[start, end]| part[start as usize..end as usize].to_vec()));
    });
    words
}

/// What the words should be, without regard to speed.
fn expected(tokens: Tokens, text: &[u8]) -> Vec<Vec<u8>> {
    static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w+").expect("a valid pattern"));
    if tokens == Tokens::Word {
        return WORD.find_iter(text).map(|found| found.as_bytes().to_vec()).collect();
    }
    let mut words = vec![Vec::new()];
    for chunk in text.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char.is_whitespace() {
                words.push(Vec::new());
            } else if let Some(word) = words.last_mut() {
                word.extend(char.to_string().bytes());
            }
        }
        words.last_mut().expect("a word has begun").extend(chunk.invalid());
    }
    words.retain(|word| !word.is_empty());
    words
}

/// What `word` should be in lower case.
fn in_lower_case(word: Vec<u8>) -> Vec<u8> {
    let lower = |chunk: Utf8Chunk| {
        let valid: String = chunk.valid().chars().flat_map(char::to_lowercase).collect();
        [valid.as_bytes(), chunk.invalid()].concat()
    };
    word.utf8_chunks().flat_map(lower).collect()
}

/// Asserts that all kernels find the expected words in `text`, with and without regard to case.
fn assert_all(text: &[u8]) {
    for tokens in BOTH {
        let expected = expected(tokens, text);
        assert!(words(tokens, false, text) == expected, "{tokens:?}: {text:x?}");
        let lower: Vec<Vec<u8>> = expected.into_iter().map(in_lower_case).collect();
        assert!(words(tokens, true, text) == lower, "{tokens:?}, in lower case: {text:x?}");
    }
}

fn assert_words(tokens: Tokens, text: &str, expected: &[&str]) {
    let found = words(tokens, false, text.as_bytes());
    assert_eq!(found, expected.iter().map(|word| word.as_bytes()).collect::<Vec<_>>(), "{text:?}");
}

/// Asserts that `text` has the expected words also when it begins at another byte of a block, and whatever
/// follows.
fn assert_as_expected(text: &[u8]) {
    for tokens in BOTH {
        for shift in [0, 1, 2, 3, 61, 62, 63] {
            let mut shifted = vec![b' '; shift];
            shifted.extend_from_slice(text);
            let found = words(tokens, false, &shifted);
            assert_eq!(found, expected(tokens, text), "{tokens:?}, shift {shift}: {text:x?}");
        }
    }
}

#[test]
fn words_are_runs_of_letters_marks_digits_and_connectors() {
    let word = |text, expected: &[&str]| assert_words(Tokens::Word, text, expected);
    word("", &[]);
    word(" .,\n", &[]);
    word("one", &["one"]);
    word("don't stop--ever", &["don", "t", "stop", "ever"]);
    word("snake_case, kebab-case, 3.14", &["snake_case", "kebab", "case", "3", "14"]);
    word("e\u{301}te\u{301} Straße", &["e\u{301}te\u{301}", "Straße"]);
    word("Привет, мир!", &["Привет", "мир"]);
    word("हिन्दी में", &["हिन्दी", "में"]);
    word("العربية ١٢٣", &["العربية", "١٢٣"]);
    word("漢字、かな・カナ", &["漢字", "かな", "カナ"]);
    word("a\u{200d}b a\u{200b}b", &["a\u{200d}b", "a", "b"]);
    word("a\0b\r\nc", &["a", "b", "c"]);
    word("½ ² Ⅷ ⓐ", &["Ⅷ", "ⓐ"]);
}

#[test]
fn white_space_alone_separates_in_whitespace_mode() {
    let visible = |text, expected: &[&str]| assert_words(Tokens::Whitespace, text, expected);
    visible("", &[]);
    visible(" \t\n\u{b}\u{c}\r\u{85}\u{a0}\u{2028}\u{3000}", &[]);
    visible("don't\0stop--\u{200b}ever \u{1c}", &["don't\0stop--\u{200b}ever", "\u{1c}"]);
    visible("漢字、\u{3000}かな\u{2009}カナ", &["漢字、", "かな", "カナ"]);
}

#[test]
fn invalid_bytes_separate_words_and_stay_in_whitespace_mode() {
    for invalid in
        [&b"\xff"[..], b"\x80", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f"]
    {
        let text = [b"caf\xc3\xa9", invalid, b"ol\xc3\xa9 ", invalid].concat();
        assert_eq!(words(Tokens::Word, false, &text), [b"caf\xc3\xa9", &b"ol\xc3\xa9"[..]]);
        let whole = [b"caf\xc3\xa9", invalid, b"ol\xc3\xa9"].concat();
        assert_eq!(words(Tokens::Whitespace, false, &text), [&whole, invalid]);
        assert_as_expected(&text);
    }
}

#[test]
fn lower_case_is_mapped_character_by_character() {
    let lower = |tokens, text: &str, expected: &[&str]| {
        let found = words(tokens, true, text.as_bytes());
        assert_eq!(found, expected.iter().map(|word| word.as_bytes()).collect::<Vec<_>>(), "{text:?}");
    };
    for tokens in BOTH {
        lower(tokens, "The THE the tHE9_", &["the", "the", "the", "the9_"]);
        lower(tokens, "ÜBER Straße ẞ ПРИВЕТ", &["über", "straße", "ß", "привет"]);
        lower(tokens, "ΟΔΟΣ İ ǅ", &["οδοσ", "i\u{307}", "ǆ"]);
    }
    assert_eq!(words(Tokens::Whitespace, true, b"A\xffB\xc3 \xffZ"), [&b"a\xffb\xc3"[..], b"\xffz"]);
}

#[test]
fn every_character_alone_and_between_letters() {
    // Each stands between spaces, so one text of all shows them one by one.
    let mut text = String::new();
    for scalar in '\0'..=char::MAX {
        text.extend(['a', scalar, 'b', ' ', scalar, ' ']);
    }
    assert_all(text.as_bytes());
}

#[test]
fn long_words_and_gaps_cross_any_number_of_blocks() {
    for len in [1, 63, 64, 65, 127, 128, 129, 1000] {
        for letter in ["x", "é", "字", "𐐷"] {
            let text = [letter.repeat(len), " ".repeat(len), letter.repeat(len)].concat();
            assert_as_expected(text.as_bytes());
            assert_as_expected(["·".repeat(len), text].concat().as_bytes());
        }
    }
}

#[test]
fn separators_are_the_ascii_bytes_of_no_word() {
    for tokens in BOTH {
        for byte in 0..=0xff {
            let separates = expected(tokens, &[b'a', byte, b'b']).len() == 2;
            let tokenizer = Tokenizer::new(tokens, false);
            assert_eq!(tokenizer.separates(byte), separates && byte.is_ascii(), "{tokens:?}: {byte:#x}");
        }
    }
}

/// Pieces of text in which something may go wrong.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let whole = [
        "the",
        "_",
        "x9",
        " ",
        "-",
        "\0",
        "\r\n",
        "\n",
        "\u{b}",
        "\u{85}",
        "\u{a0}",
        "\u{1680}",
        "\u{2003}",
        "\u{200b}",
        "\u{200c}",
        "\u{200d}",
        "\u{2028}",
        "\u{3000}",
        "\u{301}",
        "Straße",
        "İ",
        "ΟΔΟΣ",
        "Привет",
        "ё",
        "हिन्दी",
        "العربية",
        "١٢٣",
        "漢字",
        "かな",
        "カタカナ",
        "、",
        "·",
        "𐐷",
        "𝒳",
        "🙂",
        "\u{feff}",
        "\u{fffd}",
    ];
    let invalid: [&[u8]; 14] = [
        b"\xff",
        b"\x80",
        b"\xbf",
        b"\xc0\x80",
        b"\xc3",
        b"\xe2\x82",
        b"\xe2",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xf0\x9f\x99",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xef\xbf",
    ];
    prop_oneof![
        6 => prop::sample::select(whole.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        2 => prop::sample::select(invalid.to_vec()).prop_map(<[u8]>::to_vec),
        2 => any::<char>().prop_map(|char| char.to_string().into_bytes()),
        2 => "[ -~]{0,9}".prop_map(String::into_bytes),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ]
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(piece(), 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000, failure_persistence: None, rng_seed: RngSeed::Fixed(5), ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_have_the_words_of_the_reference(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for tokens in BOTH {
            prop_assert_eq!(words(tokens, false, &bytes), expected(tokens, &bytes));
        }
    }

    #[test]
    fn texts_in_many_scripts_have_the_words_of_the_reference(text in text()) {
        for tokens in BOTH {
            prop_assert_eq!(words(tokens, false, &text), expected(tokens, &text));
        }
    }

    #[test]
    fn ignoring_case_maps_the_words_of_the_reference(text in text()) {
        for tokens in BOTH {
            let expected: Vec<Vec<u8>> = expected(tokens, &text).into_iter().map(in_lower_case).collect();
            prop_assert_eq!(words(tokens, true, &text), expected);
        }
    }

    #[test]
    fn a_cut_after_a_separator_changes_no_word(text in text()) {
        for tokens in BOTH {
            let tokenizer = Tokenizer::new(tokens, false);
            let whole = words(tokens, false, &text);
            for cut in (1..=text.len()).filter(|&end| tokenizer.separates(text[end - 1])) {
                let (head, tail) = text.split_at(cut);
                let parts = [words(tokens, false, head), words(tokens, false, tail)].concat();
                prop_assert_eq!(&parts, &whole, "cut at {}", cut);
            }
            let pieces = text.split_inclusive(|&byte| tokenizer.separates(byte));
            let parts: Vec<Vec<u8>> = pieces.flat_map(|piece| words(tokens, false, piece)).collect();
            prop_assert_eq!(parts, whole);
        }
    }
}
