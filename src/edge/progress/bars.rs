//! Bars: a run on a terminal: a line per phase, the present one with a bar, and below them the workers.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::edge::table::phase_name;
use crate::runtime::report::{Phase, Progress, Snapshot};

use super::text;

/// Moving bars. Cleared at the end, well or not; the cursor is never hidden.
pub struct Bars {
    screen: MultiProgress,
    phases: Vec<ProgressBar>,
    /// The phase of the last bar, and when it began.
    current: Option<(Phase, Duration)>,
    rows: Vec<ProgressBar>,
    last_update: Duration,
}

/// Redrawing oftener than this is not seen, and costs.
const FRAME: Duration = Duration::from_millis(60);

/// Steps of a bar; its length on the screen is in the template.
const STEPS: u64 = 1000;

/// A phase that is over, one whose end is known, one whose end is not, and a worker.
const ENDED: &str = "{prefix:>8} {wide_msg}";
const MOVING: &str = "{prefix:>8} {bar:12.cyan/dim} {percent:>3} %  {wide_msg}";
const WAITING: &str = "{prefix:>8} {spinner:.cyan} {wide_msg}";
const WORKER: &str = "         {wide_msg:.dim}";

impl Bars {
    pub fn new(target: ProgressDrawTarget) -> Self {
        Self {
            screen: MultiProgress::with_draw_target(target),
            phases: Vec::new(),
            current: None,
            rows: Vec::new(),
            last_update: Duration::ZERO,
        }
    }

    fn begin(&mut self, snapshot: &Snapshot) {
        let begun = snapshot.elapsed.saturating_sub(snapshot.phase_elapsed);
        if let (Some((_, since)), Some(bar)) =
            (self.current.replace((snapshot.phase, begun)), self.phases.last())
        {
            bar.set_style(style(ENDED));
            bar.finish_with_message(format!("{:.2} s", begun.saturating_sub(since).as_secs_f64()));
        }
        // Dressed before it is on the screen: what is set later is drawn at once.
        let bar = ProgressBar::new(STEPS).with_style(style(WAITING)).with_prefix(phase_name(snapshot.phase));
        self.phases.push(self.screen.insert(self.phases.len(), bar));
    }

    fn show(&mut self, snapshot: &Snapshot) {
        if let Some(bar) = self.phases.last() {
            match text::share(snapshot) {
                Some(share) => {
                    bar.set_style(style(MOVING));
                    bar.set_position((share * STEPS as f64) as u64);
                }
                None => bar.set_style(style(WAITING)),
            }
            bar.set_message(text::figures(snapshot));
            bar.tick();
        }
        let rows = text::worker_rows(&snapshot.workers);
        while self.rows.len() > rows.len() {
            if let Some(row) = self.rows.pop() {
                row.finish_and_clear();
                self.screen.remove(&row);
            }
        }
        while self.rows.len() < rows.len() {
            let row = ProgressBar::new(STEPS).with_style(style(WORKER));
            self.rows.push(self.screen.add(row));
        }
        for (row, text) in self.rows.iter().zip(rows) {
            row.set_message(text);
        }
    }
}

impl Progress for Bars {
    fn update(&mut self, snapshot: &Snapshot) {
        let same = self.current.is_some_and(|(phase, _)| phase == snapshot.phase);
        if same && snapshot.elapsed.saturating_sub(self.last_update) < FRAME {
            return;
        }
        if !same {
            self.begin(snapshot);
        }
        self.last_update = snapshot.elapsed;
        self.show(snapshot);
    }

    fn finish(&mut self) {
        for bar in self.rows.drain(..).chain(self.phases.drain(..)) {
            bar.finish_and_clear();
        }
        // A terminal that is gone needs no clearing.
        let _ = self.screen.clear();
        self.current = None;
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.finish();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

#[cfg(test)]
mod tests {
    use super::super::text::tests::snapshot;
    use super::*;

    #[test]
    fn templates_are_well_formed() {
        for template in [ENDED, MOVING, WAITING, WORKER] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn each_phase_has_a_bar_and_each_worker_a_row_until_the_end() {
        let mut bars = Bars::new(ProgressDrawTarget::hidden());
        bars.update(&snapshot(Phase::Split, 0, 0, 4));
        bars.update(&snapshot(Phase::Map, 200, 300, 4));
        assert_eq!((bars.phases.len(), bars.rows.len()), (2, 4));
        assert_eq!(bars.phases[0].message(), "0.20 s");
        bars.update(&snapshot(Phase::Map, 200, 500, 15));
        assert_eq!((bars.phases.len(), bars.rows.len()), (2, 1));
        bars.finish();
        assert_eq!((bars.phases.len(), bars.rows.len()), (0, 0));
        bars.finish();
    }
}
