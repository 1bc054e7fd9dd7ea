//! Check: a property test of jobs, ready-made, for the tests of whoever writes one.
//!
//! The engine maps a text in as many parts as it likes and folds in whatever order values come, between which they cross
//! the network. A job whose result depends on any of that gives another result each time. So this does all of it, many
//! times and at random, but the same each time, and says what it was that made a difference.

use std::collections::BTreeMap;

use super::{Job, Records, Value};
use crate::logic::split::next_cut;

/// Checks that the result of `job` on `texts`, each of which is a file, depends on nothing but these.
///
/// The texts should be such that many keys come more than once, and hold whatever is unusual: empty lines, no line end at
/// the end, bytes that are not UTF-8.
///
/// ```
/// # use mapreduce::{Job, jobs::word_count::{Params, WordCount}};
/// let job = WordCount::new(Params::default()).unwrap();
/// mapreduce::check::job(&job, &["one two\ntwo\n\nthree", "two\u{2003}one"]);
/// ```
///
/// # Panics
/// With a message that says why not, if `combine` is not commutative and associative, a value is another one when it has
/// crossed the network, or it matters where the text was cut; or if the map fails.
#[track_caller]
pub fn job<J: Job>(job: &J, texts: &[impl AsRef<[u8]>]) {
    if let Err(cause) = try_job(job, texts) {
        panic!("job {}: {cause}", J::NAME);
    }
}

/// Returns the result of `job` on `texts`, each of which is a file, folded in the plainest way: keys and values as text,
/// in the order of the result.
///
/// # Panics
/// If the map or the reduce fails.
#[track_caller]
pub fn result<J: Job>(job: &J, texts: &[impl AsRef<[u8]>]) -> Vec<(String, String)> {
    match sequential(job, texts).and_then(|folded| reduced(job, folded)) {
        Ok(folded) => shown(job, &folded),
        Err(cause) => panic!("job {}: {cause}", J::NAME),
    }
}

/// Rounds of whatever is tried at random. All are over in a second on texts of some KiB.
const ROUNDS: usize = 100;

/// Keys with what is folded for them.
type Folded<V> = BTreeMap<Vec<u8>, V>;

/// What was emitted.
type Pairs<V> = Vec<(Vec<u8>, V)>;

fn try_job<J: Job>(job: &J, texts: &[impl AsRef<[u8]>]) -> Result<(), String> {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut groups: BTreeMap<Vec<u8>, Vec<J::Value>> = BTreeMap::new();
    for (number, text) in texts.iter().enumerate() {
        for (key, value) in mapped(job, number, text.as_ref(), &[])? {
            groups.entry(key).or_default().push(value);
        }
    }
    let expected = sequential(job, texts)?;
    for (key, values) in &groups {
        check_values(job, key, values, &mut random)?;
    }
    for _ in 0..ROUNDS {
        for (key, values) in groups.iter().filter(|(_, values)| values.len() > 1) {
            let folded = folded_at_random(job, values.clone(), &mut random)?;
            same(
                job,
                key,
                &expected[key],
                &folded,
                "the result depends on the order in which values are combined",
            )?;
        }
    }
    check_cuts(job, texts, &expected, &mut random)?;
    check_reduce(job, expected, &mut random)
}

/// Folds one pair after the other.
fn sequential<J: Job>(job: &J, texts: &[impl AsRef<[u8]>]) -> Result<Folded<J::Value>, String> {
    let mut folded = Folded::new();
    for (number, text) in texts.iter().enumerate() {
        fold_into(job, &mut folded, mapped(job, number, text.as_ref(), &[])?);
    }
    Ok(folded)
}

fn fold_into<J: Job>(job: &J, folded: &mut Folded<J::Value>, pairs: Pairs<J::Value>) {
    for (key, value) in pairs {
        match folded.get_mut(&key) {
            Some(into) => job.combine(into, value),
            None => _ = folded.insert(key, value),
        }
    }
}

/// Maps a text, cut at `cuts`.
fn mapped<J: Job>(job: &J, number: usize, text: &[u8], cuts: &[usize]) -> Result<Pairs<J::Value>, String> {
    let mut pairs = Vec::new();
    let file = format!("text-{number}");
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([text.len()]);
    for (start, end) in starts.zip(ends).filter(|(start, end)| start < end) {
        let records = Records::new(&text[start..end], file.as_bytes(), start as u64);
        let mut emit = |key: &[u8], value| pairs.push((key.to_vec(), value));
        let mapped = job.map_split(&mut |map| map(records), &mut emit);
        mapped.map_err(|cause| format!("text {number} cannot be mapped: {cause}"))?;
    }
    Ok(pairs)
}

/// Checks what must hold of the values of one key by themselves.
fn check_values<J: Job>(job: &J, key: &[u8], values: &[J::Value], random: &mut Random) -> Result<(), String> {
    let combined = |a: &J::Value, b: &J::Value| {
        let mut into = a.clone();
        job.combine(&mut into, b.clone());
        into
    };
    for value in values {
        let sent = sent(value)?;
        same(job, key, value, &sent, "a value is another one when it has crossed the network")?;
    }
    for _ in 0..values.len().min(ROUNDS) {
        let [a, b, c] = [(); 3].map(|()| &values[random.below(values.len())]);
        let (ab, ba) = (combined(a, b), combined(b, a));
        same(job, key, &ab, &ba, "combine is not commutative: a with b and b with a differ")?;
        let (left, right) = (combined(&ab, c), combined(a, &combined(b, c)));
        same(
            job,
            key,
            &left,
            &right,
            "combine is not associative: (a with b) with c and a with (b with c) differ",
        )?;
        same(job, key, &ab, &sent(&ab)?, "a value is another one when it has crossed the network")?;
    }
    Ok(())
}

/// Returns the value as it arrives on another host.
fn sent<V: Value>(value: &V) -> Result<V, String> {
    let mut wire = wire_form(value);
    let length = wire.len();
    wire.extend_from_slice(b"\x01next");
    let mut rest = wire.as_slice();
    let decoded = V::decode(&mut rest).ok_or("a value that was encoded cannot be decoded")?;
    match wire.len() - rest.len() {
        read if read == length => Ok(decoded),
        read => Err(format!("a value was encoded in {length} bytes, but decoding took {read}")),
    }
}

fn wire_form(value: &impl Value) -> Vec<u8> {
    let mut wire = Vec::new();
    value.encode(&mut wire);
    wire
}

/// Folds values in any order, in any grouping, some of them after they have crossed the network.
fn folded_at_random<J: Job>(
    job: &J,
    mut values: Vec<J::Value>,
    random: &mut Random,
) -> Result<J::Value, String> {
    loop {
        let other = values.swap_remove(random.below(values.len()));
        if values.is_empty() {
            return Ok(other);
        }
        let at = random.below(values.len());
        let other = if random.below(3) == 0 { sent(&other)? } else { other };
        job.combine(&mut values[at], other);
    }
}

/// Checks that it does not matter where the texts are cut: first at one place each, so that the place can be told.
fn check_cuts<J: Job>(
    job: &J,
    texts: &[impl AsRef<[u8]>],
    expected: &Folded<J::Value>,
    random: &mut Random,
) -> Result<(), String> {
    for (number, text) in texts.iter().enumerate() {
        let text = text.as_ref();
        let mut whole = Folded::new();
        fold_into(job, &mut whole, mapped(job, number, text, &[])?);
        let cuts = cuts(job, text);
        for _ in 0..cuts.len().min(ROUNDS) {
            let cut = cuts[random.below(cuts.len())];
            let mut folded = Folded::new();
            fold_into(job, &mut folded, mapped(job, number, text, &[cut])?);
            let what = format!("it matters that text {number} was cut at byte {cut}");
            same_result(job, &whole, &folded, &what)?;
        }
    }
    for round in 0..ROUNDS {
        let mut folded = Folded::new();
        for (number, text) in texts.iter().enumerate() {
            let mut cuts = cuts(job, text.as_ref());
            // In the first round it is cut wherever it can be.
            cuts.retain(|_| round == 0 || random.below(ROUNDS) < round);
            fold_into(job, &mut folded, mapped(job, number, text.as_ref(), &cuts)?);
        }
        same_result(job, expected, &folded, "it matters where the texts are cut")?;
    }
    Ok(())
}

/// Returns the places where a text may be cut.
fn cuts<J: Job>(job: &J, text: &[u8]) -> Vec<usize> {
    let mut from = 0;
    let next = || {
        let at = next_cut(job.cut(), text, from)?;
        from = at + 1;
        Some(at)
    };
    std::iter::from_fn(next).collect()
}

fn same_result<J: Job>(
    job: &J,
    expected: &Folded<J::Value>,
    folded: &Folded<J::Value>,
    what: &str,
) -> Result<(), String> {
    for (key, value) in expected {
        match folded.get(key) {
            Some(other) => same(job, key, value, other, what)?,
            None => return Err(format!("{what}: key {} is not there then", shown_key(job, key))),
        }
    }
    match folded.keys().find(|key| !expected.contains_key(*key)) {
        Some(key) => Err(format!("{what}: key {} is there only then", shown_key(job, key))),
        None => Ok(()),
    }
}

/// Checks that two values are the same, to the byte, as text, and where they stand in the result.
fn same<J: Job>(job: &J, key: &[u8], one: &J::Value, other: &J::Value, what: &str) -> Result<(), String> {
    let (one_text, other_text) = (shown_value(one), shown_value(other));
    let differ = if one_text != other_text {
        format!("{one_text} is not {other_text}")
    } else if wire_form(one) != wire_form(other) {
        format!("both are shown as {one_text}, but their wire forms differ")
    } else if job.rank(one) != job.rank(other) {
        format!("both are shown as {one_text}, but their ranks differ")
    } else {
        return Ok(());
    };
    Err(format!("{what}: key {}: {differ}", shown_key(job, key)))
}

/// Checks that it does not matter which keys are reduced together.
fn check_reduce<J: Job>(job: &J, folded: Folded<J::Value>, random: &mut Random) -> Result<(), String> {
    if !J::REDUCES {
        return Ok(());
    }
    let expected = reduced(job, folded.clone())?;
    for _ in 0..ROUNDS / 10 {
        let n_parts = 1 + random.below(4);
        let mut parts = vec![Folded::new(); n_parts];
        for (key, value) in folded.clone() {
            parts[random.below(n_parts)].insert(key, value);
        }
        let mut all = Folded::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            fold_into(job, &mut all, reduced(job, part)?.into_iter().collect());
        }
        same_result(job, &expected, &all, "it matters which keys are reduced together")?;
    }
    Ok(())
}

fn reduced<J: Job>(job: &J, folded: Folded<J::Value>) -> Result<Folded<J::Value>, String> {
    if !J::REDUCES || folded.is_empty() {
        return Ok(folded);
    }
    let mut pairs = Vec::new();
    let mut groups = folded.iter().map(|(key, value)| (key.as_slice(), value.clone()));
    let mut emit = |key: &[u8], value| pairs.push((key.to_vec(), value));
    job.reduce(&mut groups, &mut emit).map_err(|cause| format!("the keys cannot be reduced: {cause}"))?;
    let mut reduced = Folded::new();
    fold_into(job, &mut reduced, pairs);
    Ok(reduced)
}

fn shown<J: Job>(job: &J, folded: &Folded<J::Value>) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = folded.iter().map(|(key, value)| (key.as_slice(), value)).collect();
    pairs.sort_by(|a, b| job.compare(*a, *b));
    pairs.into_iter().map(|(key, value)| (rendered_key(job, key), shown_value(value))).collect()
}

fn rendered_key<J: Job>(job: &J, key: &[u8]) -> String {
    let mut text = Vec::new();
    job.render_key(key, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn shown_key<J: Job>(job: &J, key: &[u8]) -> String {
    format!("{:?}", rendered_key(job, key))
}

fn shown_value(value: &impl Value) -> String {
    let mut text = Vec::new();
    value.render(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// A generator (xorshift64): what is tried is the same in each run.
struct Random(u64);

impl Random {
    /// Returns a number below `n`, which must not be zero.
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Cut, Emit};

    const TEXTS: [&str; 3] = ["1 a\n2 b\n\n3 a\n7 c\n", "5 a", "9 b\n4 a\n"];

    /// A job on lines of a number and a key, which does some of it wrong.
    #[derive(Clone, Copy, Default)]
    struct Faulty {
        combine: Option<fn(&mut i64, i64)>,
        numbers_lines: bool,
        forgets_the_last: bool,
        cut: Option<Cut>,
    }

    impl Job for Faulty {
        const NAME: &'static str = "faulty";
        const ABOUT: &'static str = "Add up numbers";
        const COLUMNS: [&'static str; 2] = ["key", "sum"];
        type Params = NoParams;
        type Value = i64;

        fn new(_: NoParams) -> Result<Self, String> {
            Ok(Self::default())
        }

        fn map(&self, records: Records<'_>, emit: &mut impl Emit<i64>) -> Result<(), String> {
            let lines: Vec<_> = records.lines().collect();
            let kept = lines.len() - usize::from(self.forgets_the_last && lines.len() > 1);
            for (number, line) in lines[..kept].iter().enumerate() {
                let text = String::from_utf8_lossy(line.text);
                let Some((value, key)) = text.split_once(' ') else { continue };
                let value = value.parse().map_err(|_| format!("{value:?} is not a number"))?;
                emit.pair(key.as_bytes(), if self.numbers_lines { number as i64 } else { value });
            }
            Ok(())
        }

        fn combine(&self, into: &mut i64, other: i64) {
            match self.combine {
                Some(combine) => combine(into, other),
                None => *into = into.wrapping_add(other),
            }
        }

        fn cut(&self) -> Cut {
            self.cut.unwrap_or(Cut::LINES)
        }
    }

    #[derive(Clone, serde::Serialize, serde::Deserialize, clap::Args)]
    struct NoParams {}

    #[track_caller]
    fn assert_caught(job: Faulty, part: &str) {
        let cause = try_job(&job, &TEXTS).expect_err("it is faulty");
        assert!(cause.contains(part), "{cause}");
    }

    #[test]
    fn a_job_that_keeps_the_laws_passes() {
        job(&Faulty::default(), &TEXTS);
        job(&Faulty { cut: Some(Cut::Never), numbers_lines: true, ..Faulty::default() }, &TEXTS);
        job(&Faulty::default(), &[""]);
        let nothing: [&[u8]; 0] = [];
        job(&Faulty::default(), &nothing);
    }

    #[test]
    fn the_result_is_in_order() {
        let sums = result(&Faulty::default(), &TEXTS);
        assert_eq!(sums, [("a", "13"), ("b", "11"), ("c", "7")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn what_depends_on_the_order_is_caught() {
        let with = |combine: fn(&mut i64, i64)| Faulty { combine: Some(combine), ..Faulty::default() };
        assert_caught(with(|into, other| *into -= other), "combine is not commutative: a with b");
        assert_caught(with(|into, other| *into = other), "combine is not commutative");
        assert_caught(with(|into, other| *into = (*into + other) / 2), "combine is not associative");
        assert_caught(with(|into, other| *into = (*into + other) / 2), "key \"a\": ");
        assert_caught(with(|_, _| ()), "combine is not commutative");
    }

    #[test]
    fn what_depends_on_the_cuts_is_caught() {
        let numbered = Faulty { numbers_lines: true, ..Faulty::default() };
        assert_caught(numbered, "it matters that text 0 was cut at byte ");
        let forgetful = Faulty { forgets_the_last: true, ..Faulty::default() };
        assert_caught(forgetful, "it matters that text 0 was cut at byte ");
    }

    #[test]
    fn a_map_that_fails_is_named() {
        let cause = try_job(&Faulty::default(), &["x a"]).expect_err("it fails");
        assert_eq!(cause, "text 0 cannot be mapped: \"x\" is not a number");
    }

    #[test]
    #[should_panic(expected = "job faulty: combine is not commutative")]
    fn the_job_is_named() {
        job(&Faulty { combine: Some(|into, other| *into -= other), ..Faulty::default() }, &TEXTS);
    }

    /// A value that loses something on its way.
    #[derive(Clone, serde::Serialize)]
    struct Lossy(u64);

    impl Value for Lossy {
        fn encode(&self, out: &mut Vec<u8>) {
            out.push(self.0 as u8);
        }

        fn decode(bytes: &mut &[u8]) -> Option<Self> {
            bytes.split_off_first().map(|byte| Self(u64::from(*byte)))
        }

        fn render(&self, out: &mut Vec<u8>) {
            self.0.render(out);
        }
    }

    #[test]
    fn what_the_network_changes_is_caught() {
        assert_eq!(sent(&Lossy(300)).map(|sent| sent.0), Ok(44));
        let mut random = Random(1);
        let lossy = check_values(&Length, b"k", &[Lossy(1), Lossy(300)], &mut random);
        assert!(
            lossy.expect_err("300 has two bytes").contains("crossed the network: key \"k\": 300 is not 44")
        );
    }

    struct Length;

    impl Job for Length {
        const NAME: &'static str = "length";
        const ABOUT: &'static str = "Add up the lengths of files";
        const COLUMNS: [&'static str; 2] = ["file", "bytes"];
        type Params = NoParams;
        type Value = Lossy;

        fn new(_: NoParams) -> Result<Self, String> {
            Ok(Self)
        }

        fn map(&self, records: Records<'_>, emit: &mut impl Emit<Lossy>) -> Result<(), String> {
            emit.pair(records.file(), Lossy(records.bytes().len() as u64));
            Ok(())
        }

        fn combine(&self, into: &mut Lossy, other: Lossy) {
            into.0 += other.0;
        }
    }
}
