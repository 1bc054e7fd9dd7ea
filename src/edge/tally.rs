//! Tally: shows how many hosts are done, as a moving bar on a terminal, in a line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::console::Console;
use super::table;

/// After such a time without one, news is worth a line.
const LINE_GAP: Duration = Duration::from_secs(2);

/// The state of one command that visits many hosts.
pub struct Tally<'a> {
    console: &'a Console,
    verb: &'static str,
    hosts: usize,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Tally<'_> {
    /// Begins to show what `verb` (such as `deploy`) does to `hosts` hosts.
    pub fn new<'a>(console: &'a Console, verb: &'static str, hosts: usize) -> Tally<'a> {
        let bar = (console.fancy && !console.quiet).then(|| {
            let bar = ProgressBar::new(hosts as u64);
            // A template that indicatif refuses only costs the looks.
            if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} hosts {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(verb);
            bar
        });
        Tally { console, verb, hosts, bar, last_line: Instant::now() }
    }

    /// Shows that `done` hosts are done, whatever came of them, and `sent` bytes were uploaded.
    ///
    /// Until then nothing is drawn, for a login may ask for a password on the same terminal.
    pub fn update(&mut self, done: usize, sent: u64) {
        if done == 0 && sent == 0 {
            return;
        }
        let sent = if sent == 0 { String::new() } else { format!("{} sent", table::bytes(sent)) };
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(sent);
        } else if self.last_line.elapsed() >= LINE_GAP {
            self.last_line = Instant::now();
            let sent = if sent.is_empty() { sent } else { format!(", {sent}") };
            self.console.say(&format!("{}: {done} of {} hosts{sent}", self.verb, self.hosts));
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
