//! Console: how a command speaks to the user on standard error.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use super::sanitize::one_line;

/// How a command speaks to the user on standard error: errors and alarms always, the rest as `-q` and `-v` say.
#[derive(Clone, Debug)]
pub struct Console {
    /// `-q`: errors and alarms only.
    pub quiet: bool,
    /// `-v`: details, too.
    pub verbose: bool,
    /// Whether standard error is a terminal that takes moving lines.
    pub fancy: bool,
}

impl Console {
    /// Returns the console of this process.
    pub fn new(quiet: bool, verbose: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        Self { quiet, verbose, fancy: io::stderr().is_terminal() && !dumb }
    }

    /// Says what goes on, in one line, unless `-q`.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            put(&format!("{}\n", one_line(line)));
        }
    }

    /// Says a detail, in one line, with `-v` only.
    pub fn detail(&self, line: &str) {
        if self.verbose {
            put(&format!("{}\n", one_line(line)));
        }
    }

    /// Says what the user should know though the command goes on, unless `-q`.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            put(&format!("{} {}\n", self.label("note:", Colour::Cyan), one_line(line)));
        }
    }

    /// Says what is not as it should be though the command goes on, unless `-q`.
    pub fn warn(&self, line: &str) {
        if !self.quiet {
            self.alarm(line);
        }
    }

    /// Warns of what the user must not miss, also with `-q`.
    pub fn alarm(&self, line: &str) {
        put(&format!("{} {}\n", self.label("warning:", Colour::Yellow), one_line(line)));
    }

    /// Prints text of several lines that is safe for a terminal, such as a table, unless `-q`.
    pub fn block(&self, text: &str) {
        if !self.quiet {
            put(text);
        }
    }

    /// Says what failed, its causes, and what to do next.
    pub fn error(&self, error: &anyhow::Error, advice: Option<&str>) {
        put(&self.error_text(error, advice));
    }

    fn error_text(&self, error: &anyhow::Error, advice: Option<&str>) -> String {
        let mut text = String::new();
        for (depth, cause) in error.chain().enumerate() {
            let label = if depth == 0 { "error:" } else { "  cause:" };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{} {}", self.label(label, Colour::Red), lines(&cause.to_string()));
        }
        if let Some(advice) = advice {
            let _ = writeln!(text, "{} {}", self.label("  try:", Colour::Green), lines(advice));
        }
        text
    }

    fn label(&self, label: &str, colour: Colour) -> String {
        if !(self.fancy && colours_wanted(|name| std::env::var_os(name))) {
            return label.to_owned();
        }
        format!("\x1b[1;{}m{label}\x1b[0m", colour as u8)
    }
}

#[derive(Clone, Copy)]
enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}

/// Tells whether the environment leaves colours on: `NO_COLOR` (no-color.org) and `CLICOLOR=0` turn them off.
fn colours_wanted(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> bool {
    variable("NO_COLOR").is_none_or(|value| value.is_empty())
        && variable("CLICOLOR").is_none_or(|value| value != "0")
}

/// Lines of one cause that are shown: a remote shell can be talkative.
const MOST_LINES: usize = 8;

/// Makes `text` safe and indents its further lines, so that none of them looks like a message of its own.
fn lines(text: &str) -> String {
    let mut lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let mut shown: Vec<_> = lines.by_ref().take(MOST_LINES).map(one_line).collect();
    if lines.next().is_some() {
        shown.push("...".into());
    }
    shown.join("\n    ")
}

fn put(text: &str) {
    // Where standard error is gone there is nobody to tell.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::edge::failure::{HostFailure, HostName, Step};

    const PLAIN: Console = Console { quiet: false, verbose: false, fancy: false };

    #[test]
    fn colours_follow_the_environment() {
        let with = |name: &'static str, value: &'static str| {
            move |asked: &str| (asked == name).then(|| std::ffi::OsString::from(value))
        };
        assert!(colours_wanted(|_| None));
        assert!(colours_wanted(with("NO_COLOR", "")));
        assert!(!colours_wanted(with("NO_COLOR", "1")));
        assert!(!colours_wanted(with("CLICOLOR", "0")));
        assert!(colours_wanted(with("CLICOLOR", "1")));
    }

    #[test]
    fn further_lines_are_indented_and_safe() {
        assert_eq!(lines("one\nerror: \x1b[2Jtwo"), "one\n    error: \\u{1b}[2Jtwo");
    }

    #[test]
    fn failure_of_a_host_has_step_causes_and_advice() {
        let cause = anyhow!("./mapreduce: Permission denied").context("remote shell exited with status 126");
        let failure = HostFailure::new(&HostName("worker-07".into()), Step::Start, cause);
        let advice = failure.advice();
        assert_eq!(
            PLAIN.error_text(&failure.into(), Some(&advice)),
            "error: worker-07: could not start the worker\n  \
             cause: remote shell exited with status 126\n  \
             cause: ./mapreduce: Permission denied\n  \
             try: --remote-dir DIR, with DIR on a file system not mounted noexec\n"
        );
    }

    #[test]
    fn errors_are_safe_for_a_terminal_whatever_a_host_says() {
        let cause = anyhow!("\n\n\x1b]0;owned\x07\r\nsecond line\n{}", "more\n".repeat(50));
        let failure = HostFailure::new(&HostName("evil\x1b[2J".into()), Step::Probe, cause);
        let text = PLAIN.error_text(&failure.into(), None);
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.contains("\n    second line\n") && text.ends_with("\n    ...\n"), "{text}");
        assert!(text.lines().count() < 15, "{text}");
        let flood = PLAIN.error_text(&anyhow!("x".repeat(1 << 20)), None);
        assert!(flood.len() < 3000 && flood.ends_with("…\n"), "{}", flood.len());
    }
}
