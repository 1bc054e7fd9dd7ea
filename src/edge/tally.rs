//! Tally: shows how many hosts are done, as a moving bar on a terminal, in a line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::console::Console;
use super::ssh::{after_asking, unless_asking};

/// After such a time without one, news is worth a line.
const LINE_GAP: Duration = Duration::from_secs(2);

/// The state of one command that visits many hosts.
pub struct Tally<'a> {
    console: &'a Console,
    verb: &'static str,
    unit: &'static str,
    hosts: usize,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Tally<'_> {
    /// Begins to show what `verb` (such as `deploy`) does to `hosts` hosts, which are counted in `unit`.
    pub fn new<'a>(console: &'a Console, verb: &'static str, hosts: usize, unit: &'static str) -> Tally<'a> {
        let bar = (console.fancy && !console.quiet).then(|| {
            // No ticking of its own: it would write over a question for a password.
            let bar = ProgressBar::new(hosts as u64);
            // A template that indicatif refuses only costs the looks.
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(verb);
            bar
        });
        Tally { console, verb, unit, hosts, bar, last_line: Instant::now() }
    }

    /// Shows that `done` hosts are done, and what else there is to tell.
    ///
    /// Until there is something nothing is drawn, and nothing while a login asks for a password on the same terminal.
    pub fn update(&mut self, done: usize, note: &str) {
        if done == 0 && note.is_empty() {
            return;
        }
        let gap = if note.is_empty() { "" } else { ", " };
        if let Some(bar) = &self.bar {
            unless_asking(|| {
                bar.set_position(done as u64);
                bar.set_message(format!("{}{gap}{note}", self.unit));
            });
        } else if self.last_line.elapsed() >= LINE_GAP {
            self.last_line = Instant::now();
            self.console.say(&format!("{}: {done} of {} {}{gap}{note}", self.verb, self.hosts, self.unit));
        }
    }

    /// Says a detail above the bar.
    pub fn detail(&self, line: &str) {
        match &self.bar {
            Some(bar) => after_asking(|| bar.suspend(|| self.console.detail(line))),
            None => self.console.detail(line),
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

const TEMPLATE: &str = "{prefix} [{bar:30}] {pos}/{len} {msg}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_is_well_formed() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
