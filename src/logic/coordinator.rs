//! Coordinator: the job's state machine: events in, commands out, time passed in.

use serde::{Deserialize, Serialize};

/// One run of a job; random, so that clients of one cluster never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobId(pub u64);

/// What a job is at. No phase begins before every live worker ended the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Workers are greeted and the input is opened, until the first split can be sent.
    Split,
    Map,
    Shuffle,
    Reduce,
    Merge,
}
