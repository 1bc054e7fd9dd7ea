//! Table: what people read: the first entries of a result, and what a run took.

use bytesize::ByteSize;
use comfy_table::{Cell, CellAlignment, Table, presets};

use super::sanitize::{sanitize, shortened};
use crate::job::Value;
use crate::runtime::report::{Phase, Report};

/// A table for people, empty but for its header; the columns of `right` are aligned to the right.
///
/// Cells given to it must be [`sanitize`]d.
pub fn table<const N: usize>(header: [&str; N], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED.with_rounded_corners());
    table.set_header(header);
    for &index in right {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The first entries of a result, with their rank.
pub struct ResultTable {
    table: Table,
    entries: u64,
    text: Vec<u8>,
}

impl ResultTable {
    pub fn new(columns: [&str; 2]) -> Self {
        Self { table: table(["#", columns[0], columns[1]], &[0, 2]), entries: 0, text: Vec::new() }
    }

    /// Adds an entry. A value that is a number is shown with separators between the thousands.
    pub fn entry<V: Value>(&mut self, key: &[u8], value: &V) {
        self.entries += 1;
        self.text.clear();
        value.render(&mut self.text);
        let text = String::from_utf8_lossy(&self.text);
        let value = match text.parse::<u64>() {
            Ok(number) => thousands(number),
            Err(_) => shortened(&text, LONGEST_CELL),
        };
        let key = shortened(&String::from_utf8_lossy(key), LONGEST_CELL);
        self.table.add_row([Cell::new(thousands(self.entries)), Cell::new(key), Cell::new(value)]);
    }

    /// Returns the table, with a line end.
    pub fn render(&self) -> String {
        format!("{}\n", self.table)
    }
}

/// Returns what a run took: a row for each phase, then the totals. `noun` says what the job emits (`word`).
pub fn phase_table(report: &Report, noun: &str) -> String {
    let mut phases = table(["Phase", "Seconds", "Share", "Bytes", "MB/s"], &[1, 2, 3, 4]);
    for phase in &report.phases {
        let share =
            if report.total_seconds > 0.0 { 100.0 * phase.seconds / report.total_seconds } else { 0.0 };
        phases.add_row([
            phase_name(phase.phase).to_owned(),
            format!("{:.3}", phase.seconds),
            format!("{share:.1} %"),
            bytes(phase.bytes),
            megabytes_per_second(phase.bytes, phase.seconds),
        ]);
    }
    phases.add_row([
        "Total".to_owned(),
        format!("{:.3}", report.total_seconds),
        "100.0 %".to_owned(),
        bytes(report.input_bytes),
        megabytes_per_second(report.input_bytes, report.total_seconds),
    ]);
    let files = counted(report.input_files as u64, "file");
    let place =
        if report.local { "this machine".to_owned() } else { counted(report.workers as u64, "worker") };
    let noun = sanitize(noun);
    format!(
        "{phases}\n{} in {files}: {}, {} distinct; {place}, {}\n{}",
        bytes(report.input_bytes),
        counted(report.pairs, &noun),
        thousands(report.distinct_keys),
        counted(report.threads as u64, "thread"),
        repairs(report).map(|line| line + "\n").unwrap_or_default(),
    )
}

/// Returns what was done because workers were lost or late; `None` where nothing was.
fn repairs(report: &Report) -> Option<String> {
    let won = match report.backups_started {
        0 => None,
        _ => Some(format!("{} won", thousands(report.backups_won))),
    };
    let some = |number: u64, noun: &str, what: &str| {
        (number > 0).then(|| format!("{} {what}", counted(number, noun)).trim_end().to_owned())
    };
    let parts = [
        some(report.losses.len() as u64, "worker", "lost"),
        some(report.reexecuted_splits, "split", "mapped again"),
        some(report.backups_started, "backup", "started"),
        won,
        some(if report.epochs > 1 { report.epochs } else { 0 }, "epoch", ""),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Returns the name of a phase, as tables show it.
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Split => "Split",
        Phase::Map => "Map",
        Phase::Shuffle => "Shuffle",
        Phase::Reduce => "Reduce",
        Phase::Merge => "Merge",
    }
}

/// Returns a number of bytes with a decimal unit, such as `786.4 MB`.
pub fn bytes(count: u64) -> String {
    ByteSize(count).display().si().to_string()
}

/// Returns a number with separators between the thousands: `26,457`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a number and what is counted: `1 word`, `2 words`.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", thousands(number))
}

fn megabytes_per_second(bytes: u64, seconds: f64) -> String {
    if bytes == 0 || seconds < 0.000_5 {
        "-".to_owned()
    } else {
        format!("{:.1}", bytes as f64 / 1e6 / seconds)
    }
}

/// Characters of a key that are shown: half a line of a usual terminal.
const LONGEST_CELL: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::report::{LossReport, PhaseReport};

    #[test]
    fn thousands_are_separated() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (26_457, "26,457"), (1_234_567, "1,234,567")]
        {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn result_table_ranks_aligns_and_escapes() {
        let mut table = ResultTable::new(["word", "count"]);
        table.entry(b"the", &1642u64);
        table.entry(b"\x1b[31mred\n\xff", &7u64);
        table.entry("x".repeat(100).as_bytes(), &1u64);
        let text = table.render();
        assert!(!text.contains('\x1b'), "{text}");
        assert_eq!(text.lines().count(), 7, "{text}");
        assert!(text.contains("│ 1 ┆ the"), "{text}");
        assert!(text.contains(" 1,642 │\n") && text.contains("     7 │\n"), "{text}");
        assert!(text.contains(&format!("{}…", "x".repeat(48))), "{text}");
    }

    #[test]
    fn phase_table_adds_up() {
        let phase = |phase, seconds, bytes| PhaseReport { phase, seconds, bytes };
        let mut report = Report {
            job: "wordcount".into(),
            program_version: "0.1.0".into(),
            workers: 1,
            threads: 2,
            local: true,
            phases: vec![
                phase(Phase::Split, 0.0, 0),
                phase(Phase::Map, 1.5, 3_000_000),
                phase(Phase::Shuffle, 0.25, 1000),
                phase(Phase::Reduce, 0.25, 0),
                phase(Phase::Merge, 1.0, 20_000),
            ],
            total_seconds: 3.0,
            input_files: 1,
            input_bytes: 3_000_000,
            splits: 3,
            pairs: 26_457,
            distinct_keys: 2571,
            output_entries: 2571,
            output_bytes: 20_000,
            losses: Vec::new(),
            executions: 3,
            reexecuted_splits: 0,
            backups_started: 0,
            backups_won: 0,
            epochs: 1,
            bad_inputs: Vec::new(),
        };
        let text = phase_table(&report, "word");
        let row = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
        assert!(row("Split").contains("0.0 %"), "{text}");
        assert!(row("Map").contains("1.500") && row("Map").contains("50.0 %"), "{text}");
        assert!(row("Map").contains("3.0 MB") && row("Map").contains("2.0 │"), "{text}");
        assert!(row("Total").contains("100.0 %"), "{text}");
        let last = text.lines().last().unwrap();
        assert_eq!(last, "3.0 MB in 1 file: 26,457 words, 2,571 distinct; this machine, 2 threads");

        (report.backups_started, report.epochs) = (4, 1);
        let last = |report: &Report| phase_table(report, "word").lines().last().unwrap().to_owned();
        assert_eq!(last(&report), "4 backups started, 0 won");
        let loss = LossReport {
            worker: "x".into(),
            phase: Phase::Map,
            cause: "it is gone".into(),
            accuser: None,
            splits: 30,
        };
        report.losses = vec![loss.clone(), loss];
        (report.reexecuted_splits, report.backups_won, report.epochs) = (31, 3, 2);
        assert_eq!(
            last(&report),
            "2 workers lost, 31 splits mapped again, 4 backups started, 3 won, 2 epochs"
        );
    }
}
