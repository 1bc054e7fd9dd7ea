//! Show: what `discover` says while it probes, and what came of it.

use std::borrow::Cow;
use std::net::SocketAddr;

use crate::edge::console::Console;
use crate::edge::failure::{HostFailure, Step};
use crate::edge::site::Listing;
use crate::edge::ssh::known_hosts::HostKeyError;
use crate::edge::sweep::Heard;
use crate::edge::table::counted;
use crate::edge::tally::Tally;

/// Longest cause that is a reason in a summary.
const MAX_REASON_BYTES: usize = 50;

/// Refused entries of a list that are named one by one.
const MAX_NAMED: usize = 3;

/// The progress of a sweep.
pub struct Show<'a> {
    tally: Tally<'a>,
    answered: usize,
    failed: usize,
}

impl Show<'_> {
    /// Says what is about to be done.
    pub fn begin(console: &Console, candidates: usize, wanted: usize) -> Show<'_> {
        console.say(&format!("probing {} until {wanted} answer", counted(candidates as u64, "candidate")));
        Show { tally: Tally::new(console, "discover", wanted, "answered"), answered: 0, failed: 0 }
    }

    /// Takes note of what was heard.
    pub fn hear(&mut self, heard: &Heard) {
        match heard {
            Heard::Answered(name, facts) => {
                self.answered += 1;
                self.tally.detail(&format!(
                    "{name}: {} cores, {} MiB, {}, {}, load {:.2}",
                    facts.cores,
                    facts.memory_mib,
                    facts.arch,
                    facts.libc,
                    f64::from(facts.load_percent) / 100.0
                ));
            }
            Heard::Failed(failure) => {
                self.failed += 1;
                self.tally.detail(&format!("{failure}: {:#}", failure.cause));
            }
            Heard::Paused(wait) => {
                self.tally.detail(&format!("waiting {} s for --ssh-rate", wait.as_secs() + 1))
            }
        }
        let failed = if self.failed == 0 { String::new() } else { format!("{} did not", self.failed) };
        self.tally.update(self.answered, &failed);
    }

    /// Takes the bar off the terminal.
    pub fn end(self) {
        self.tally.finish();
    }
}

/// Says what a source lists.
pub fn listing(console: &Console, listing: &Listing) {
    if listing.down > 0 {
        let all = listing.up.len() + listing.down;
        console.say(&format!("{} of {all} machines are listed as up", listing.up.len()));
    }
    for refused in listing.refused.iter().take(MAX_NAMED) {
        console.note(&format!("skipped {refused}"));
    }
    if let Some(more @ 1..) = listing.refused.len().checked_sub(MAX_NAMED) {
        console.note(&format!("skipped {more} more entries of the list"));
    }
}

/// Says what was written.
pub fn written(console: &Console, found: usize, path: &str, dropped: usize) {
    let gone = match dropped {
        0 => String::new(),
        n => format!("; {n} of an earlier discover dropped"),
    };
    console.say(&format!("wrote {} to {path}{gone}", counted(found as u64, "host")));
}

/// Counts failures by reason, the most frequent first: `3 did not answer: 2 connection timed out, 1 login refused`.
pub fn reasons(failures: &[HostFailure]) -> Option<String> {
    let mut counts: Vec<(usize, Cow<str>)> = Vec::new();
    for failure in failures {
        let reason = reason(failure);
        match counts.iter_mut().find(|(_, other)| *other == reason) {
            Some((count, _)) => *count += 1,
            None => counts.push((1, reason)),
        }
    }
    counts.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let listed: Vec<String> = counts.iter().map(|(count, reason)| format!("{count} {reason}")).collect();
    (!failures.is_empty()).then(|| format!("{} did not answer: {}", failures.len(), listed.join(", ")))
}

/// A failure in a few words that other hosts may share.
fn reason(failure: &HostFailure) -> Cow<'static, str> {
    Cow::Borrowed(match failure.step {
        Step::Configure => "unusable SSH configuration",
        Step::Resolve => "unknown name",
        Step::Connect => return shared_cause(&failure.cause).map_or("no connection".into(), Cow::Owned),
        Step::Handshake => "no SSH handshake",
        Step::HostKey => match failure.cause.downcast_ref() {
            Some(HostKeyError::Changed { .. } | HostKeyError::OtherType { .. }) => "changed host key",
            Some(HostKeyError::Unknown { .. }) => "unknown host key",
            _ => "untrusted host key",
        },
        Step::Authenticate => "login refused",
        Step::Probe => "no facts",
        _ => "not usable",
    })
}

/// The last cause without what belongs to one host or to programmers only: `10.0.0.1:22: Connection refused (os error
/// 111)` becomes `connection refused`. `None` if it says more than one thing.
fn shared_cause(cause: &anyhow::Error) -> Option<String> {
    let text = cause.root_cause().to_string();
    let (address, rest) = text.split_once(": ").unwrap_or_default();
    let text = if address.parse::<SocketAddr>().is_ok() { rest } else { &text };
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut chars = text.chars();
    let first = chars.next()?.to_lowercase();
    (text.len() <= MAX_REASON_BYTES && !text.contains('\n')).then(|| first.chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::edge::failure::HostName;

    fn failure(step: Step, cause: anyhow::Error) -> HostFailure {
        HostFailure::new(&HostName("h".into()), step, cause)
    }

    #[test]
    fn failures_are_counted_by_reason() {
        let connect = |text: &str| failure(Step::Connect, anyhow!(text.to_owned()).context("cannot connect"));
        let failures = [
            failure(Step::HostKey, anyhow!("x")),
            connect("10.0.0.1:22: no answer within 5s"),
            connect("10.0.0.2:22: Connection refused (os error 111)"),
            connect("[::1]:22: no answer within 5s"),
            connect("10.0.0.1:22: no answer within 5s\n[::1]:22: Network is unreachable (os error 101)"),
        ];
        let told = reasons(&failures).unwrap();
        let expected = "5 did not answer: 2 no answer within 5s, 1 untrusted host key, 1 connection refused, \
                        1 no connection";
        assert_eq!(told, expected);
        assert_eq!(reasons(&[]), None);
    }
}
