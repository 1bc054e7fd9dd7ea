//! Tables: lengths of lines, and numbers of columns, in bins.

use super::{BOOK, Bench, LIMIT};
use crate::harness::with_deadline;

#[test]
fn lengths_are_those_of_awk() {
    with_deadline(LIMIT, || {
        let bench = Bench::new(&[("book.txt", BOOK), ("wide", b"d\xc3\xa9j\xc3\xa0\r\n\xff\n")]);
        let counted = "| sort -n | uniq -c | awk '{ print $2 \"\\t\" $1 }'";
        let expected = bench.shell(&format!("awk '{{ print length($0) }}' book.txt wide {counted}"));
        bench.assert_result(&["book.txt", "wide", "--job", "histogram"], &expected);
        let expected =
            bench.shell(&format!("awk '{{ print 10 * int(length($0) / 10) }}' book.txt wide {counted}"));
        bench.assert_result(&["book.txt", "wide", "--job", "histogram", "--bin-width", "10"], &expected);
    });
}

#[test]
fn numbers_are_those_of_awk() {
    with_deadline(LIMIT, || {
        let mut table = "name;value\n".to_owned();
        for n in 0..4000_i64 {
            let value = (n * n * 7919) % 20_011 - 10_000;
            table.push_str(&format!(
                "row {n};{}{}.{}\n",
                if value < 0 { "-" } else { "" },
                value.abs() / 100,
                value.abs() % 8
            ));
        }
        table.push_str("no columns\nx;;\nx; 7e2 ;\n");
        let bench = Bench::new(&[("table.csv", table.as_bytes())]);
        let script = r#"awk -F ';' '
            NF < 2 { missing++; next }
            $2 !~ /^ *-?[0-9.e]*[0-9.][0-9.e]* *$/ { other++; next }
            { bin = int($2 / 0.25); if (bin * 0.25 > $2) bin--; print bin * 0.25 + 0 }
            END { print other "\tnot a number" > "other"; print missing "\tno such column" > "other" }' table.csv |
            sort -g | uniq -c | awk '{ print $2 "\t" $1 }'
            awk -F '\t' '{ print $2 "\t" $1 }' other"#;
        let expected = bench.shell(script);
        let args =
            ["table.csv", "--job", "histogram", "--column", "2", "--delimiter", ";", "--bin-width", "0.25"];
        bench.assert_result(&args, &expected);
        assert!(expected.ends_with(b"\nnot a number\t2\nno such column\t1\n"));
    });
}
