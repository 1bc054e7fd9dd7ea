//! Differential: all kernels against each other, and against plain code where blocks and batches meet.

use super::*;

/// A generator of numbers that are random enough, from a seed (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// Returns the characters next to which something changes: whether they stand in words, whether they are
/// white space, whether they have a lower case; the first and last ones of each length; and some more.
fn telling_characters() -> Vec<char> {
    let kind = |scalar: char| {
        let word = expected(Tokens::Word, scalar.encode_utf8(&mut [0; 4]).as_bytes());
        let lower = scalar.to_lowercase();
        (word.is_empty(), scalar.is_whitespace(), lower.eq([scalar]), scalar.len_utf8())
    };
    let mut telling = Vec::new();
    let mut before = ('\0', kind('\0'));
    for scalar in '\u{1}'..=char::MAX {
        let after = (scalar, kind(scalar));
        if after.1 != before.1 {
            telling.extend([before.0, scalar]);
        } else if u32::from(scalar) % 1009 == 0 {
            telling.push(scalar);
        }
        before = after;
    }
    telling.dedup();
    telling
}

/// Asserts that all kernels find `scalar` where it is, at whatever index of a block it stands.
fn assert_at_each_index(scalar: char) {
    // One byte longer than a block, so that each begins at the next index of its block.
    let mut unit = vec![b' '; BLOCK + 1];
    scalar.encode_utf8(&mut unit[1..]);
    unit[1 + scalar.len_utf8()] = b'x';
    let text = unit.repeat(BLOCK);
    for tokens in BOTH {
        let once = expected(tokens, &unit);
        assert!(words(tokens, false, &text) == vec![once.clone(); BLOCK].concat(), "{tokens:?}: {scalar:?}");
        let lower: Vec<Vec<u8>> = once.into_iter().map(in_lower_case).collect();
        assert!(
            words(tokens, true, &text) == vec![lower; BLOCK].concat(),
            "{tokens:?}, in lower case: {scalar:?}"
        );
    }
}

#[test]
fn telling_characters_at_each_index_of_a_block() {
    telling_characters().into_iter().for_each(assert_at_each_index);
}

/// `cargo test --release --lib tokenize` takes two minutes for it; without optimisation it would take half an
/// hour.
#[test]
#[cfg(not(debug_assertions))]
fn all_characters_at_each_index_of_a_block() {
    ('\0'..=char::MAX).for_each(assert_at_each_index);
}

#[test]
fn words_begin_and_end_at_each_index() {
    for (letter, gap) in [("x", " "), ("é", "\u{a0}"), ("字", "、"), ("𐐀", "\u{2003}")] {
        for len in 0..=200_usize {
            let text = [gap.repeat(len), letter.repeat(200 - len)].concat();
            for text in [text.clone(), text.chars().rev().collect()] {
                assert_all(&text.as_bytes()[..text.len().min(200)]);
            }
        }
    }
}

#[test]
fn texts_of_each_length() {
    let text = "The Cat—\u{a0}sat. ПрИвет, İΣ漢字\u{3000}カナ K ﬁ 𐐀🙂 हिन्दी; ".repeat(4);
    for start in 0..8 {
        for len in 0..=200 {
            assert_all(&text.as_bytes()[start..start + len]);
        }
    }
}

#[test]
fn characters_torn_at_each_index() {
    for whole in ["é", "\u{a0}", "字", "\u{2003}", "𐐀", "İ"] {
        for kept in 1..whole.len() {
            for index in 55..75 {
                let torn = &whole.as_bytes()[..kept];
                for behind in [&b" b"[..], b"b", b"\xff", whole.as_bytes(), torn] {
                    assert_all(&[&vec![b'a'; index], torn, behind].concat());
                    assert_all(
                        &[&vec![b' '; index], &whole.as_bytes()[whole.len() - kept..], behind].concat(),
                    );
                }
            }
        }
    }
}

#[test]
fn batches_and_chunks_meet_in_any_place() {
    // As many borders as there can be, and few; neither one nor the other fills batches evenly.
    for pattern in ["a ", " a", "ab cd, ", "a bc\u{a0}", "é ", "字。", "x", " "] {
        for len in [2047, 2048, 2049, 4095, 4096, 4097, 4159, 8191, 12345, 70_000] {
            let text: Vec<u8> = pattern.bytes().cycle().take(len).collect();
            assert_all(&text);
        }
    }
}

#[test]
fn giant_words_are_found_as_a_whole() {
    for letter in ["x", "É", "字"] {
        let word = letter.repeat((200 << 10) / letter.len());
        assert_all(format!("{word} {word},{word}").as_bytes());
    }
}

#[test]
fn indexes_counted_anew_point_at_the_same_words() {
    let long = "word".repeat(5000);
    let text = ["one, two; three ", &long, " é字 four "].concat().repeat(20);
    for (name, tokenizer) in Tokenizer::of_each_kernel(Tokens::Word, false) {
        let found = words_of(text.as_bytes(), |each| tokenizer.scan(text.as_bytes(), 4096, each));
        assert!(found == expected(Tokens::Word, text.as_bytes()), "{name}");
    }
}

/// Texts of parts that are put together at random: of one script, of many, of torn characters, of any bytes.
#[test]
fn random_texts() {
    let mut random = Random(0x5eed);
    let ascii = ["a", "Zz9_", "the", " ", "  ", ",", "\n", "\u{b}", "-", "\0", "@[`{", "/:"];
    let two = ["é", "ß", "İ", "П", "я", "Ω", "\u{a0}", "\u{85}", "·", "\u{301}", "א", "ع", "Ⱥ", " "];
    let three = [
        "字", "、", "\u{3000}", "\u{2003}", "ế", "Ⅷ", "ẞ", "हि", "한", "，", "Ａ", "\u{200b}", "K",
        "\u{2028}",
    ];
    let four = ["𐐀", "🙂", "𝒳", "𠀀", "𞤀", "\u{e0001}", "\u{10ffff}"];
    let torn: [&[u8]; 9] = [
        b"\xff",
        b"\x80",
        b"\xbf\xbf",
        b"\xc0\x80",
        b"\xc3",
        b"\xe2\x80",
        b"\xed\xa0\x80",
        b"\xf0\x9f\x99",
        b"\xf4\x90\x80\x80",
    ];
    let any: Vec<[u8; 1]> = (0..=u8::MAX).map(|byte| [byte]).collect();
    let alphabets: [Vec<&[u8]>; 6] = [
        ascii.map(str::as_bytes).to_vec(),
        two.map(str::as_bytes).to_vec(),
        three.map(str::as_bytes).to_vec(),
        four.map(str::as_bytes).to_vec(),
        torn.to_vec(),
        any.iter().map(|byte| &byte[..]).collect(),
    ];
    for _ in 0..1500 {
        // Mostly of one kind, now and then of another.
        let [main, other] = [0; 2].map(|_| &alphabets[random.below(alphabets.len())]);
        let rare = 1 + random.below(40);
        let mut text = Vec::new();
        for _ in 0..random.below(400) {
            let alphabet = if random.below(rare) == 0 { other } else { main };
            text.extend_from_slice(random.one(alphabet));
        }
        assert_all(&text);
    }
}
