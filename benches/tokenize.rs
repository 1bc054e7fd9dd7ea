//! Bench of the tokenizer: bytes a second, by kernel, in ASCII and in other scripts.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use mapreduce::logic::tokenize::{Tokenizer, Tokens};

/// Bytes of a text: what the second cache holds, for it is the kernels that are measured here, not memory.
const TEXT_BYTES: usize = 512 << 10;

/// Texts; `five` is the five scripts before it, sentence by sentence.
const TEXTS: [&str; 9] =
    ["english", "source", "french", "russian", "greek", "arabic", "hindi", "chinese", "five"];

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
    let sentence = |name| SENTENCES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    let text = match name {
        "english" => include_str!("../examples/alice.txt").to_string(),
        "source" => include_str!("tokenize.rs").to_string(),
        "five" => TEXTS[3..8].iter().filter_map(|name| sentence(name)).collect(),
        _ => sentence(name).expect("a sentence for each text that is no file").to_string(),
    };
    text.as_bytes().iter().copied().cycle().take(TEXT_BYTES).collect()
}

/// Runs all kernels, which their names tell apart.
fn bench(bencher: Bencher, (kernel, name): (&str, &str), tokens: Tokens, ignore_case: bool) {
    let text = text(name);
    let mut all = Tokenizer::of_each_kernel(tokens, ignore_case);
    let (_, tokenizer) = all.find(|(known, _)| *known == kernel).expect("a kernel of this processor");
    bencher.counter(BytesCount::of_slice(&text)).bench_local(|| {
        tokenizer.for_each_batch(black_box(&text), |text, words| {
            black_box((text, words));
        });
    });
}

fn cases() -> Vec<(&'static str, &'static str)> {
    let kernels = Tokenizer::of_each_kernel(Tokens::Word, false).map(|(name, _)| name);
    kernels.flat_map(|kernel| TEXTS.map(|text| (kernel, text))).collect()
}

#[divan::bench(args = cases())]
fn words(bencher: Bencher, case: (&str, &str)) {
    bench(bencher, case, Tokens::Word, false);
}

#[divan::bench(args = cases())]
fn words_in_lower_case(bencher: Bencher, case: (&str, &str)) {
    bench(bencher, case, Tokens::Word, true);
}

#[divan::bench(args = cases())]
fn between_white_space(bencher: Bencher, case: (&str, &str)) {
    bench(bencher, case, Tokens::Whitespace, false);
}
