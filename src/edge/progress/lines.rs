//! Lines: milestones of a run, for logs and other places where nothing can move.

use std::io::Write;
use std::time::Duration;

use crate::edge::sanitize::one_line;
use crate::edge::table::phase_name;
use crate::runtime::report::{Phase, Progress, Snapshot};

use super::text;

/// Prints a line once a phase has lasted long enough to be noticed, now and then while it goes on, and at its end.
pub struct Lines<W> {
    out: W,
    /// The phase, and when it began.
    current: Option<(Phase, Duration)>,
    /// When the last line was printed; `None` while the phase has none.
    last_line: Option<Duration>,
    last_tenth: u32,
}

/// A phase that is over sooner has a line at its end only: a small input is done in milliseconds.
const NOTICED: Duration = Duration::from_millis(500);

/// A tenth more is worth a line if the last one is so old.
const SHORTEST_GAP: Duration = Duration::from_secs(1);

/// After such a time any news is worth a line.
const LONGEST_GAP: Duration = Duration::from_secs(5);

impl<W: Write> Lines<W> {
    pub fn new(out: W) -> Self {
        Self { out, current: None, last_line: None, last_tenth: 0 }
    }

    fn begin(&mut self, snapshot: &Snapshot) {
        let begun = snapshot.elapsed.saturating_sub(snapshot.stay_elapsed);
        if let Some((phase, since)) = self.current.replace((snapshot.phase, begun)) {
            let seconds = begun.saturating_sub(since).as_secs_f64();
            // A loss leads back.
            let how = if snapshot.phase < phase { "broken off after" } else { "done in" };
            self.line(&format!("{}: {how} {seconds:.2} s", phase_name(phase)));
        }
        self.last_line = None;
        self.last_tenth = 0;
    }

    fn go_on(&mut self, snapshot: &Snapshot) {
        let share = text::share(snapshot);
        let tenth = share.map_or(0, |share| (share * 10.0) as u32);
        let worth_a_line = match self.last_line.map(|last| snapshot.elapsed.saturating_sub(last)) {
            None => snapshot.stay_elapsed >= NOTICED,
            Some(gap) => gap >= LONGEST_GAP || (gap >= SHORTEST_GAP && tenth > self.last_tenth),
        };
        if !worth_a_line {
            return;
        }
        (self.last_line, self.last_tenth) = (Some(snapshot.elapsed), tenth);
        let percent = share.map(|share| format!("{:.0} %, ", 100.0 * share)).unwrap_or_default();
        self.line(&format!("{}: {percent}{}", phase_name(snapshot.phase), text::figures(snapshot)));
    }

    fn line(&mut self, line: &str) {
        // Progress that nobody can read any more is no reason to stop.
        let _ = self.out.write_all(format!("{line}\n").as_bytes());
    }
}

impl<W: Write> Progress for Lines<W> {
    fn update(&mut self, snapshot: &Snapshot) {
        if self.current.is_none_or(|(phase, _)| phase != snapshot.phase) {
            self.begin(snapshot);
        }
        self.go_on(snapshot);
    }

    fn note(&mut self, line: &str) {
        self.line(&one_line(line));
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
    fn quick_phases_have_a_line_at_their_end() {
        let said = lines(&[
            snapshot(Phase::Split, 0, 0, 4),
            snapshot(Phase::Split, 0, 200, 4),
            snapshot(Phase::Map, 250, 250, 4),
            snapshot(Phase::Shuffle, 740, 800, 4),
        ]);
        assert_eq!(said, ["Split: done in 0.25 s", "Map: done in 0.49 s"]);
    }

    #[test]
    fn map_has_a_line_per_tenth_but_not_more_than_one_a_second() {
        let at_speed = |bytes_per_tick: u64| -> Vec<Snapshot> {
            let tick = |tick| {
                let mut map = snapshot(Phase::Map, 0, tick * 250, 4);
                map.mapped_bytes = tick * bytes_per_tick;
                map
            };
            (0..1_000_000_000 / bytes_per_tick).map(tick).collect()
        };
        let said = lines(&at_speed(10_000_000));
        assert_eq!(said.len(), 1 + 9, "{said:#?}");
        assert_eq!(said[0], "Map: 2 %, 20.0 MB of 1.0 GB, 40.0 MB/s, 25 s left");
        assert_eq!(said[1], "Map: 10 %, 100.0 MB of 1.0 GB, 40.0 MB/s, 23 s left");
        let said = lines(&at_speed(50_000_000));
        assert_eq!(said.len(), 1 + 4, "{said:#?}");
    }

    #[test]
    fn a_loss_leads_back_and_is_told_as_it_is() {
        let mut lines = Lines::new(Vec::new());
        lines.update(&snapshot(Phase::Map, 0, 1, 4));
        lines.update(&snapshot(Phase::Shuffle, 2000, 2000, 4));
        lines.note("worker x lost in shuffle: \x1b[2J");
        let again = Snapshot { phase_elapsed: Duration::from_secs(2), ..snapshot(Phase::Map, 3500, 3500, 4) };
        lines.update(&again);
        lines.update(&snapshot(Phase::Shuffle, 3750, 3750, 4));
        lines.update(&snapshot(Phase::Reduce, 4000, 4000, 4));
        let said = String::from_utf8(lines.out).unwrap();
        let expected = [
            "Map: done in 2.00 s",
            "worker x lost in shuffle: \\u{1b}[2J",
            "Shuffle: broken off after 1.50 s",
            "Map: done in 0.25 s",
            "Shuffle: done in 0.25 s",
        ];
        assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn silence_is_broken_every_five_seconds() {
        let at: Vec<Snapshot> = (0..60).map(|tick| snapshot(Phase::Shuffle, 0, tick * 250, 4)).collect();
        assert_eq!(lines(&at), ["Shuffle: 0 %, 0 of 4 workers"; 3]);
    }
}
