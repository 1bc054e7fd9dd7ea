//! Texts: lines that match, words side by side, the files of words, the languages of lines.

use super::{BOOK, Bench, LIMIT};
use crate::harness::with_deadline;

const NOTES: &[u8] =
    b"The Queen of Hearts\n\nshe made some tarts,\xff\n  all on a summer's day.\nNo queen here? queen QUEEN";

fn bench() -> Bench {
    Bench::new(&[("book.txt", BOOK), ("notes", NOTES), ("empty.txt", b"")])
}

/// What `grep` prints, with a tab behind the place, and what stands for a carriage return in a table: the book has those.
#[test]
fn lines_are_found_as_grep_finds_them() {
    with_deadline(LIMIT, || {
        let bench = bench();
        let files = ["book.txt", "notes", "empty.txt"];
        let tabbed = r"sed -E 's/^([^:]*:[0-9]+):/\1\t/; s/\r$/\\r/'";
        for (pattern, flags, of_grep) in [
            ("queen", &[][..], "-e queen"),
            ("queen", &["--ignore-case"], "-ie queen"),
            ("^.*[aeiou]{3}", &[], "-Ee '^.*[aeiou]{3}'"),
            ("queen|the", &["--only-matching", "--ignore-case"], "-oiEe 'queen|the'"),
            ("[a-z]", &["--invert"], "-ve '[a-z]'"),
            ("^$", &[], "-e '^$'"),
            (r"she\s", &[], r"-Ee 'she[[:space:]]'"),
            ("nowhere to be found", &[], "-e 'nowhere to be found'"),
        ] {
            let script = format!("grep -aHb {of_grep} book.txt notes empty.txt | {tabbed} || true");
            let expected = raw(&bench, &script);
            let args = [&files[..], &["--job", "grep", "--pattern", pattern], flags].concat();
            bench.assert_result(&args, &expected);
        }
    });
}

#[test]
fn lines_are_counted_as_grep_counts_them() {
    with_deadline(LIMIT, || {
        let bench = bench();
        for (flags, of_grep) in
            [(&[][..], "-e Queen"), (&["--invert"], "-ve Queen"), (&["--ignore-case"], "-ie Queen")]
        {
            let script = format!("grep -aHc {of_grep} book.txt notes empty.txt | grep -v ':0$' | tr : '\\t'");
            let expected = bench.shell(&script);
            let args = ["book.txt", "empty.txt", "notes", "--job", "grep", "--count", "--pattern", "Queen"];
            bench.assert_result(&[&args, flags].concat(), &expected);
        }
    });
}

#[test]
fn ngrams_are_those_of_awk() {
    with_deadline(LIMIT, || {
        let bench = bench();
        let counted = r#"sort | uniq -c | sed -E 's/^ *([0-9]+) /\1\t/' | sort -t "$(printf '\t')" -k1,1nr -k2 |
            awk -F '\t' '{ print $2 "\t" $1 }'"#;
        for n in ["1", "2", "4"] {
            let run = r#"awk -v n=N '{ for (i = 1; i + n - 1 <= NF; i++) {
                run = $i; for (j = 1; j < n; j++) run = run " " $(i + j); print run } }'"#
                .replace("=N", &format!("={n}"));
            let expected = bench.shell(&format!("tr -d '\\r' < book.txt | {run} | {counted}"));
            bench.assert_result(
                &["book.txt", "--job", "ngrams", "--n", n, "--tokens", "whitespace"],
                &expected,
            );
            let words = "tr A-Z a-z < book.txt | sed 's/[^a-z0-9_]/ /g'";
            let expected = bench.shell(&format!("{words} | {run} | {counted}"));
            bench.assert_result(&["book.txt", "--job", "ngrams", "--n", n, "--ignore-case"], &expected);
        }
    });
}

#[test]
fn words_lead_to_their_files() {
    with_deadline(LIMIT, || {
        let bench =
            Bench::new(&[("a b.txt", BOOK), ("notes", b"Alice and the\nZebra\n"), ("z", b"zoo Alice")]);
        let script = r#"for file in 'a b.txt' notes z; do
                tr -cs 'A-Za-z0-9_' '\n' < "$file" | grep . | sort -u | awk -v file="$file" '{ print $0 "\t" file }'
            done | sort | awk -F '\t' '
                $1 == word { files = files "," $2; next }
                { if (files) print word "\t" files; word = $1; files = $2 }
                END { print word "\t" files }'"#;
        let expected = bench.shell(script);
        bench.assert_result(&["a b.txt", "notes", "z", "--job", "inverted-index"], &expected);
        assert!(expected.windows(18).any(|part| part == b"Alice\ta b.txt,note"), "it is a real index");
    });
}

#[test]
fn lines_are_told_apart_by_language() {
    with_deadline(LIMIT, || {
        let lines = [
            ("eng", "She generally gave herself very good advice, though she very seldom followed it.", 7),
            (
                "fra",
                "Toutes les grandes personnes ont d'abord été des enfants, mais peu s'en souviennent.",
                5,
            ),
            ("deu", "Als Gregor eines Morgens aus unruhigen Träumen erwachte, fand er sich verwandelt.", 4),
            (
                "rus",
                "В начале июля, в чрезвычайно жаркое время, под вечер, один молодой человек вышел из каморки.",
                3,
            ),
            ("unknown", "12345 67890 !? ok", 6),
            ("cmn", "人人生而自由在尊严和权利上一律平等他们赋有理性和良心并应以兄弟关系的精神相对待", 2),
        ];
        let mut text = String::new();
        for turn in 0..7 {
            let due = lines.iter().filter(|(_, _, times)| turn < *times);
            due.for_each(|(_, line, _)| text.push_str(&format!("{line}\n\n   \n")));
        }
        let mut expected: Vec<_> = lines.iter().map(|(code, _, times)| (times, code)).collect();
        expected.sort_by(|a, b| b.cmp(a));
        let expected: String = expected.iter().map(|(times, code)| format!("{code}\t{times}\n")).collect();
        let bench = Bench::new(&[("lines.txt", text.as_bytes())]);
        bench.assert_result(&["lines.txt", "--job", "languages"], expected.as_bytes());
    });
}

/// Returns what a script prints, whose bytes need not be UTF-8.
fn raw(bench: &Bench, script: &str) -> Vec<u8> {
    bench.shell(&format!("({script}) > expected.out"));
    std::fs::read(bench.lab.client_dir().join("expected.out")).unwrap()
}
