//! Bars: a run on a terminal: a line per phase, the present one with a bar, and below them the workers.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::edge::sanitize::one_line;
use crate::edge::table::phase_name;
use crate::runtime::report::{Phase, Progress, Snapshot};

use super::text;

/// Moving bars. Cleared at the end, well or not; the cursor is never hidden.
pub struct Bars {
    screen: MultiProgress,
    phases: Vec<PhaseBar>,
    rows: Vec<ProgressBar>,
    last_update: Duration,
}

/// The bar of a phase. Of a phase that a loss has led back from there is none.
struct PhaseBar {
    phase: Phase,
    bar: ProgressBar,
    /// When it was entered last, and what earlier stays took.
    since: Duration,
    spent: Duration,
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
            rows: Vec::new(),
            last_update: Duration::ZERO,
        }
    }

    fn begin(&mut self, snapshot: &Snapshot) {
        let begun = snapshot.elapsed.saturating_sub(snapshot.stay_elapsed);
        if let Some(last) = self.phases.last_mut() {
            last.spent += begun.saturating_sub(last.since);
            last.bar.set_style(style(ENDED));
            last.bar.finish_with_message(format!("{:.2} s", last.spent.as_secs_f64()));
        }
        while let Some(later) = self.phases.pop_if(|last| last.phase > snapshot.phase) {
            self.remove(&later.bar);
        }
        if let Some(same) = self.phases.last_mut().filter(|last| last.phase == snapshot.phase) {
            same.bar.set_style(style(WAITING));
            same.bar.reset();
            same.since = begun;
            return;
        }
        // Dressed before it is on the screen: what is set later is drawn at once.
        let bar = ProgressBar::new(STEPS).with_style(style(WAITING)).with_prefix(phase_name(snapshot.phase));
        let bar = self.screen.insert(self.phases.len(), bar);
        self.phases.push(PhaseBar { phase: snapshot.phase, bar, since: begun, spent: Duration::ZERO });
    }

    fn remove(&self, bar: &ProgressBar) {
        bar.finish_and_clear();
        self.screen.remove(bar);
    }

    fn show(&mut self, snapshot: &Snapshot) {
        if let Some(PhaseBar { bar, .. }) = self.phases.last() {
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
                self.remove(&row);
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
        let same = self.phases.last().is_some_and(|last| last.phase == snapshot.phase);
        if same && snapshot.elapsed.saturating_sub(self.last_update) < FRAME {
            return;
        }
        if !same {
            self.begin(snapshot);
        }
        self.last_update = snapshot.elapsed;
        self.show(snapshot);
    }

    fn note(&mut self, line: &str) {
        // A terminal that is gone cannot show it.
        let _ = self.screen.println(one_line(line));
    }

    fn finish(&mut self) {
        for bar in self.rows.drain(..).chain(self.phases.drain(..).map(|phase| phase.bar)) {
            bar.finish_and_clear();
        }
        // A terminal that is gone needs no clearing.
        let _ = self.screen.clear();
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
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

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
        assert_eq!(bars.phases[0].bar.message(), "0.20 s");
        bars.update(&snapshot(Phase::Map, 200, 500, 15));
        assert_eq!((bars.phases.len(), bars.rows.len()), (2, 1));
        bars.finish();
        assert_eq!((bars.phases.len(), bars.rows.len()), (0, 0));
        bars.finish();
    }

    /// A terminal that keeps what it is told.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            100
        }

        fn height(&self) -> u16 {
            30
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)?;
            self.write_str("\n")
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_loss_leads_back_to_the_bar_of_before_and_is_told_above() {
        let screen = Screen::default();
        let mut bars = Bars::new(ProgressDrawTarget::term_like(Box::new(screen.clone())));
        bars.update(&snapshot(Phase::Map, 0, 0, 2));
        let mut shuffle = snapshot(Phase::Shuffle, 2000, 3000, 2);
        bars.update(&shuffle);
        screen.0.lock().unwrap().clear();
        bars.note("worker x lost in shuffle: \x1b[2J");
        let shown = screen.0.lock().unwrap().clone();
        assert!(shown.contains("worker x lost in shuffle: \\u{1b}[2J"), "{shown:?}");
        let again = Snapshot { phase_elapsed: Duration::from_secs(2), ..snapshot(Phase::Map, 3500, 3500, 2) };
        bars.update(&again);
        let phases = |bars: &Bars| bars.phases.iter().map(|last| last.phase).collect::<Vec<_>>();
        assert_eq!(phases(&bars), [Phase::Map]);
        (shuffle.elapsed, shuffle.stay_elapsed) = (Duration::from_millis(4750), Duration::from_secs(1));
        bars.update(&shuffle);
        assert_eq!(phases(&bars), [Phase::Map, Phase::Shuffle]);
        // Both stays: of 2 s and of 0.25 s.
        assert_eq!(bars.phases[0].bar.message(), "2.25 s");
        bars.finish();
        assert!(bars.phases.is_empty());
    }
}
