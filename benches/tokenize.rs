//! Bench of the tokenizer: bytes a second, by kernel, in ASCII and in other scripts.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use mapreduce::logic::tokenize::{Tokenizer, Tokens};

/// Bytes of a text: what the second cache holds, for it is the kernels that are measured here, not memory.
const TEXT_BYTES: usize = 512 << 10;

/// Texts; `five` is the five scripts before it, sentence by sentence, and `mixed` word by word.
const TEXTS: [&str; 10] =
    ["english", "source", "french", "russian", "greek", "arabic", "hindi", "chinese", "five", "mixed"];

const SENTENCES: [(&str, &str); 6] = [
    (
        "french",
        "Portez ce vieux whisky au juge blond qui fume ; voilà l’élève où naît la fenêtre, déjà près.\n",
    ),
    ("russian", "Съешь же ещё этих мягких французских булок, да выпей чаю — в чащах юга жил бы цитрус.\n"),
    ("greek", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία· τα πάντα ρει, μηδέποτε κατά τ' αυτό μένειν.\n"),
    ("arabic", "نص حكيم له سر قاطع وذو شأن عظيم، مكتوب على ثوب أخضر ومغلف بجلد أزرق في ١٩٨٤.\n"),
    ("hindi", "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश करने वाले विष्णुवतार भगवान श्रीराम।\n"),
    ("chinese", "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。寒来暑往，秋收冬藏。闰余成岁，律吕调阳。\n"),
];

fn main() {
    divan::main();
}

fn text(name: &str) -> Vec<u8> {
    let sentence = |name: &str| SENTENCES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    let five = || TEXTS[3..8].iter().filter_map(|name| sentence(name));
    match name {
        "english" => filled(include_bytes!("../examples/alice.txt")),
        "source" => filled(include_bytes!("../tests/it/faults.rs")),
        "five" => filled(five().map(|text| shuffled(text, 1000)).collect::<String>().as_bytes()),
        "mixed" => shuffled(&five().collect::<String>(), TEXT_BYTES).into_bytes(),
        name => shuffled(sentence(name).expect("a sentence for each text"), TEXT_BYTES).into_bytes(),
    }
}

/// Returns at least `len` bytes of the words of `text` in random order, the same each time: no processor can
/// learn it by heart.
fn shuffled(text: &str, len: usize) -> String {
    let words: Vec<&str> = text.split_inclusive([' ', '\n', '，', '。']).collect();
    let mut state = 1_u64;
    let mut shuffled = String::new();
    while shuffled.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        shuffled += words[(state >> 33) as usize % words.len()];
    }
    shuffled
}

fn filled(text: &[u8]) -> Vec<u8> {
    text.iter().copied().cycle().take(TEXT_BYTES).collect()
}

fn bench(bencher: Bencher, case: &str, tokens: Tokens, ignore_case: bool) {
    let (kernel, name) = case.split_once(' ').expect("a kernel and a text");
    let text = text(name);
    let mut all = Tokenizer::of_each_kernel(tokens, ignore_case);
    let (_, tokenizer) = all.find(|(known, _)| *known == kernel).expect("a kernel of this processor");
    bencher.counter(BytesCount::of_slice(&text)).bench_local(|| {
        tokenizer.for_each_batch(black_box(&text), |text, words| {
            black_box((text, words));
        });
    });
}

/// Each kernel that this processor can run, with each text.
fn cases() -> Vec<String> {
    let kernels = Tokenizer::of_each_kernel(Tokens::Word, false).map(|(name, _)| name);
    kernels.flat_map(|kernel| TEXTS.map(|text| format!("{kernel} {text}"))).collect()
}

#[divan::bench(args = cases())]
fn words(bencher: Bencher, case: &str) {
    bench(bencher, case, Tokens::Word, false);
}

#[divan::bench(args = cases())]
fn words_in_lower_case(bencher: Bencher, case: &str) {
    bench(bencher, case, Tokens::Word, true);
}

#[divan::bench(args = cases())]
fn between_white_space(bencher: Bencher, case: &str) {
    bench(bencher, case, Tokens::Whitespace, false);
}
