//! Exact: the result is that of the sequential pipe, byte for byte, in-process and on four workers.

use std::io::Write;

use super::{AWK_SUM, AWK_WORDS, BOOK, Bench, LIMIT};
use crate::harness::with_deadline;

/// Runs `test` in-process and on four workers.
fn everywhere(test: impl Fn(&Bench) + Send + 'static) {
    with_deadline(LIMIT, move || {
        for n in [0, 4] {
            let bench = Bench::start(n);
            test(&bench);
            bench.await_nothing();
        }
    });
}

#[track_caller]
fn assert_same(result: &[u8], expected: &[u8]) {
    let lines = |text: &[u8]| text.split(|byte| *byte == b'\n').count();
    assert!(result == expected, "{} lines, not the same {} lines", lines(result), lines(expected));
}

#[test]
fn a_job_in_python_gives_what_the_pipe_gives() {
    everywhere(|bench| {
        let expected = bench.pipe("./words.py", "./sum.py", BOOK);
        let ship = ["--ship", "words.py", "--ship", "sum.py"];
        let job = ["book.txt", "--map", "./words.py", "--reduce", "./sum.py", "--split-size", "20k"];
        let done = bench.run(&[&job[..], &ship].concat()).expect_code(0);
        assert_same(&done.stdout_bytes, &expected);
        // A combine changes nothing but the way.
        let combined = bench.run(&[&job[..], &ship, &["--combine", "./sum.py"]].concat()).expect_code(0);
        assert_same(&combined.stdout_bytes, &expected);
    });
}

#[test]
fn a_job_in_awk_gives_what_the_pipe_gives_however_the_input_is_packed() {
    everywhere(|bench| {
        let expected = bench.pipe(AWK_WORDS, AWK_SUM, BOOK);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(BOOK).expect("memory takes it all");
        bench.write("book.gz", &gzip.finish().expect("memory takes it all"), 0o644);
        for input in ["book.txt", "book.gz"] {
            let job = [input, "--map", AWK_WORDS, "--reduce", AWK_SUM, "--split-size", "20k"];
            assert_same(&bench.run(&job).expect_code(0).stdout_bytes, &expected);
        }
        let job = ["-", "--map", AWK_WORDS, "--reduce", AWK_SUM];
        let done = bench.invocation(&job).stdin(BOOK).run().expect_code(0);
        assert_same(&done.stdout_bytes, &expected);
    });
}

/// A command sees a split, not the input: each line of its result is that of one.
#[test]
fn wc_counts_each_split() {
    everywhere(|bench| {
        let job = ["book.txt", "--map", "wc -lwc", "--split-size", "20k"];
        let done = bench.run(&job).expect_code(0);
        let mut total = [0; 3];
        let mut splits = 0;
        for line in done.stdout.lines() {
            let counts = line.split_whitespace().map(|count| count.parse::<usize>().expect("a count"));
            total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
            splits += 1;
        }
        let whole = String::from_utf8(bench.pipe("wc -lwc", "cat", BOOK)).expect("counts");
        let whole = whole.split_whitespace().map(|count| count.parse::<usize>().expect("a count"));
        assert_eq!(whole.collect::<Vec<_>>(), total);
        assert!(splits > 3, "{splits} splits");
        // One reducer at least adds them up.
        let sum = r#"awk '{ n += $1 } END { print "lines\t" n }'"#;
        let done = bench.run(&[&job[..], &["--reduce", sum]].concat()).expect_code(0);
        let counts = done.stdout.lines().map(|line| line.strip_prefix("lines\t").expect("a count"));
        assert_eq!(counts.map(|count| count.parse::<usize>().expect("a count")).sum::<usize>(), total[0]);
    });
}

#[test]
fn without_a_reduce_the_result_is_all_that_was_mapped_sorted() {
    // All bytes but line ends, lines that are there many times, and such without a TAB, or nothing but one.
    let mut text: Vec<u8> = Vec::new();
    for n in 0..60_000u32 {
        let bytes = [n % 251, n % 7 * 37, n / 100 % 256].map(|byte| if byte == 10 { 0 } else { byte as u8 });
        text.extend_from_slice(&bytes[..n as usize % 4 % 3 + 1]);
        text.extend_from_slice([&b""[..], b"\t", b"\ta\tb", b"\t\xff\0"][n as usize % 4]);
        text.push(b'\n');
    }
    everywhere(move |bench| {
        bench.write("bytes", &text, 0o644);
        let expected = bench.pipe("cat", "cat", &text);
        let done = bench.run(&["bytes", "--map", "cat", "--split-size", "50k"]).expect_code(0);
        assert_same(&done.stdout_bytes, &expected);
        // The same through a reduce.
        let done = bench.run(&["bytes", "--map", "cat", "--reduce", "cat"]).expect_code(0);
        assert_same(&done.stdout_bytes, &expected);
        // The first different lines, each as often as it is there.
        let done = bench.run(&["bytes", "--map", "cat", "--reduce", "cat", "--top", "3"]).expect_code(0);
        let mut different = 0;
        let mut before: Option<&[u8]> = None;
        let first = expected.split_inclusive(|byte| *byte == b'\n').take_while(|line| {
            different += usize::from(before.replace(line).is_none_or(|before| before != *line));
            different <= 3
        });
        assert_same(&done.stdout_bytes, &first.collect::<Vec<_>>().concat());
    });
}

#[test]
fn what_several_reducers_write_alike_is_one_row_that_is_there_so_often() {
    everywhere(|bench| {
        // Each reducer writes the same line for each key.
        let job =
            ["book.txt", "--map", AWK_WORDS, "--reduce", "cut -f 1 | uniq | sed 's/.*/a \"word\"\\t1/'"];
        let words = bench.pipe(AWK_WORDS, "cut -f 1 | uniq", BOOK);
        let n = words.iter().filter(|byte| **byte == b'\n').count();
        let done = bench.run(&[&job[..], &["--top", "1"]].concat()).expect_code(0);
        assert_eq!((done.stdout.lines().count(), done.stdout.lines().next()), (n, Some("a \"word\"\t1")));
        let json = bench.run(&[&job[..], &["--format", "json"]].concat()).expect_code(0);
        let first = json.stdout.lines().next();
        assert_eq!((json.stdout.lines().count(), first), (n, Some(r#"{"key":"a \"word\"","value":"1"}"#)));
        let csv = bench.run(&[&job[..], &["--format", "csv"]].concat()).expect_code(0);
        let mut lines = csv.stdout.split_terminator("\r\n");
        assert_eq!((lines.next(), lines.next()), (Some("key,value"), Some(r#""a ""word""",1"#)));
        assert_eq!(lines.count(), n - 1);
    });
}

#[test]
fn commands_are_told_of_which_file_their_lines_are() {
    everywhere(|bench| {
        bench.write("a b.txt", b"1\n2\n", 0o644);
        bench.write("c.txt", b"3\n", 0o644);
        let map = r#"while read -r line; do printf '%s\t%s\n' "$line" "$mapreduce_map_input_file"; done"#;
        let done = bench.run(&["a b.txt", "c.txt", "--map", map]).expect_code(0);
        assert_eq!(done.stdout, "1\ta b.txt\n2\ta b.txt\n3\tc.txt\n");
    });
}
