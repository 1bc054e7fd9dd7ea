//! Lines: milestones of a run, for logs and other places where nothing can move.

use std::io::Write;
use std::time::Duration;

use crate::edge::table::phase_name;
use crate::runtime::report::{Phase, Progress, Snapshot};

use super::text;

/// Prints a line when a phase begins, when it ends, and now and then between.
pub struct Lines<W> {
    out: W,
    /// The phase, and when it began.
    current: Option<(Phase, Duration)>,
    last_line: Duration,
    last_tenth: u32,
}

/// A tenth more is worth a line if the last one is so old: a small input is no reason for ten lines.
const SHORTEST_GAP: Duration = Duration::from_secs(1);

/// After such a time any news is worth a line.
const LONGEST_GAP: Duration = Duration::from_secs(5);

impl<W: Write> Lines<W> {
    pub fn new(out: W) -> Self {
        Self { out, current: None, last_line: Duration::ZERO, last_tenth: 0 }
    }

    fn begin(&mut self, snapshot: &Snapshot) {
        let begun = snapshot.elapsed.saturating_sub(snapshot.phase_elapsed);
        if let Some((phase, since)) = self.current.replace((snapshot.phase, begun)) {
            let seconds = begun.saturating_sub(since).as_secs_f64();
            self.line(&format!("{}: done in {seconds:.2} s", phase_name(phase)), snapshot);
        }
        let line = match snapshot.phase {
            Phase::Split | Phase::Map => {
                format!("{}: {}", phase_name(snapshot.phase), text::figures(snapshot))
            }
            _ => format!("{}: begun", phase_name(snapshot.phase)),
        };
        self.line(&line, snapshot);
        self.last_tenth = 0;
    }

    fn go_on(&mut self, snapshot: &Snapshot) {
        let share = text::share(snapshot);
        let tenth = share.map_or(0, |share| (share * 10.0) as u32);
        let gap = snapshot.elapsed.saturating_sub(self.last_line);
        let further = tenth > self.last_tenth && gap >= SHORTEST_GAP;
        if !(further || gap >= LONGEST_GAP) {
            return;
        }
        self.last_tenth = tenth;
        let percent = share.map(|share| format!("{:.0} %, ", 100.0 * share)).unwrap_or_default();
        let line = format!("{}: {percent}{}", phase_name(snapshot.phase), text::figures(snapshot));
        self.line(&line, snapshot);
    }

    fn line(&mut self, line: &str, snapshot: &Snapshot) {
        self.last_line = snapshot.elapsed;
        // Progress that nobody can read any more is no reason to stop.
        let _ = self.out.write_all(format!("{line}\n").as_bytes());
    }
}

impl<W: Write> Progress for Lines<W> {
    fn update(&mut self, snapshot: &Snapshot) {
        match self.current {
            Some((phase, _)) if phase == snapshot.phase => self.go_on(snapshot),
            _ => self.begin(snapshot),
        }
    }

    fn finish(&mut self) {
        // The phase table tells the rest.
        self.current = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::tests::snapshot;
    use super::*;

    fn lines(snapshots: &[Snapshot]) -> Vec<String> {
        let mut lines = Lines::new(Vec::new());
        snapshots.iter().for_each(|snapshot| lines.update(snapshot));
        lines.finish();
        String::from_utf8(lines.out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn phases_begin_and_end_with_a_line() {
        let said = lines(&[
            snapshot(Phase::Split, 0, 0, 4),
            snapshot(Phase::Split, 0, 200, 4),
            snapshot(Phase::Map, 250, 250, 4),
            snapshot(Phase::Shuffle, 750, 800, 4),
        ]);
        assert_eq!(
            said,
            [
                "Split: opening the input, greeting 4 workers",
                "Split: done in 0.25 s",
                "Map: 0 B of 1.0 GB",
                "Map: done in 0.50 s",
                "Shuffle: begun",
            ]
        );
    }

    #[test]
    fn map_has_a_line_per_tenth_but_not_more_than_one_a_second() {
        let mut at = Vec::new();
        for tick in 0..100u64 {
            let mut map = snapshot(Phase::Map, 0, tick * 250, 4);
            map.mapped_bytes = tick * 10_000_000;
            at.push(map);
        }
        let said = lines(&at);
        assert_eq!(said.len(), 1 + 9, "{said:#?}");
        assert_eq!(said[1], "Map: 10 %, 100.0 MB of 1.0 GB, 40.0 MB/s, 23 s left");
        at.iter_mut().for_each(|map| map.elapsed /= 10);
        assert_eq!(lines(&at).len(), 1 + 2, "{said:#?}");
    }

    #[test]
    fn silence_is_broken_every_five_seconds() {
        let at: Vec<Snapshot> = (0..60).map(|tick| snapshot(Phase::Shuffle, 0, tick * 250, 4)).collect();
        assert_eq!(
            lines(&at),
            ["Shuffle: begun", "Shuffle: 0 %, 0 of 4 workers", "Shuffle: 0 %, 0 of 4 workers"]
        );
    }
}
