//! Bench of the tokenizer: bytes a second, in ASCII and in other scripts.

use divan::counter::BytesCount;
use divan::{Bencher, black_box, black_box_drop};
use mapreduce::logic::tokenize::{Tokenizer, Tokens};

/// Bytes of a text: more than the first two caches hold, as a split is.
const TEXT_BYTES: usize = 4 << 20;

const SCRIPTS: [&str; 4] = ["english", "french", "russian", "chinese"];

const SENTENCES: [(&str, &str); 3] = [
    (
        "french",
        "Portez ce vieux whisky au juge blond qui fume; voilà l'élève où naît la fenêtre, déjà près. ",
    ),
    ("russian", "Съешь же ещё этих мягких французских булок, да выпей чаю; в чащах юга жил бы цитрус. "),
    ("chinese", "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。寒来暑往，秋收冬藏。闰余成岁，律吕调阳。"),
];

fn main() {
    divan::main();
}

fn text(script: &str) -> Vec<u8> {
    let book: &[u8] = include_bytes!("../examples/alice.txt");
    let sentence =
        SENTENCES.iter().find(|(name, _)| *name == script).map_or(book, |(_, text)| text.as_bytes());
    sentence.repeat(TEXT_BYTES / sentence.len())
}

fn bench(bencher: Bencher, script: &str, tokens: Tokens, ignore_case: bool) {
    let text = text(script);
    let tokenizer = Tokenizer::new(tokens, ignore_case);
    bencher.counter(BytesCount::of_slice(&text)).bench_local(|| {
        tokenizer.for_each(black_box(&text), |word| black_box_drop(word));
    });
}

#[divan::bench(args = SCRIPTS)]
fn words(bencher: Bencher, script: &str) {
    bench(bencher, script, Tokens::Word, false);
}

#[divan::bench(args = SCRIPTS)]
fn words_in_lower_case(bencher: Bencher, script: &str) {
    bench(bencher, script, Tokens::Word, true);
}

#[divan::bench(args = SCRIPTS)]
fn between_white_space(bencher: Bencher, script: &str) {
    bench(bencher, script, Tokens::Whitespace, false);
}
