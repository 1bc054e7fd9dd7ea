//! Failures: how commands that visit many hosts speak of those that failed, and of a record that is damaged.

use anyhow::anyhow;

use crate::edge::cluster::{Cluster, Damaged, Record};
use crate::edge::console::Console;
use crate::edge::failure::{HostFailure, Step};

/// Prints each failure; where several hosts failed in the same way, its causes and advice once: twenty echoes would
/// hide the one that matters.
pub fn print(failures: Vec<HostFailure>, console: &Console) {
    let mut told: Vec<(Step, String, String)> = Vec::new();
    for failure in failures {
        let cause = format!("{:#}", failure.cause);
        let first = told.iter().find(|(step, other, _)| *step == failure.step && *other == cause);
        if let Some((_, _, first)) = first {
            console.error(&anyhow!("{failure}, as {first}"), None);
            continue;
        }
        told.push((failure.step, cause, failure.host.to_string()));
        let advice = failure.advice();
        console.error(&failure.into(), Some(&advice));
    }
}

/// Reads the record of a cluster; one that is damaged counts as lost, with a warning.
///
/// # Errors
/// If it cannot be read at all or is not the user's own.
pub fn load_record(record: &Record, console: &Console) -> anyhow::Result<Option<Cluster>> {
    match record.load() {
        Err(error) if error.is::<Damaged>() => {
            console.warn(&format!("{error:#}; going by the hosts file instead"));
            Ok(None)
        }
        loaded => loaded,
    }
}
