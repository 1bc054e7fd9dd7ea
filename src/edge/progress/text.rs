//! Text: the figures of a run in words, shared by both displays.

use std::time::Duration;

use crate::edge::sanitize::sanitize;
use crate::edge::table::{bytes, counted, thousands};
use crate::runtime::report::{Phase, Snapshot, WorkerSnapshot, WorkerState};

/// Returns how far the phase is, from 0 to 1; `None` where that cannot be known.
pub fn share(snapshot: &Snapshot) -> Option<f64> {
    let (done, whole) = match snapshot.phase {
        Phase::Split => return None,
        Phase::Map => (snapshot.mapped_bytes, snapshot.input_bytes?),
        Phase::Shuffle | Phase::Reduce => (snapshot.workers_done as u64, snapshot.workers_asked as u64),
        Phase::Merge => (snapshot.merged_entries, snapshot.total_entries),
    };
    (whole > 0).then(|| (done as f64 / whole as f64).min(1.0))
}

/// Returns the figures of the phase, such as `412.3 MB of 786.4 MB, 93.1 MB/s, 4 s left`.
pub fn figures(snapshot: &Snapshot) -> String {
    match snapshot.phase {
        Phase::Split => match greeted(snapshot) {
            0 | 1 => "opening the input".to_owned(),
            workers => format!("opening the input, greeting {}", counted(workers as u64, "worker")),
        },
        Phase::Map => mapped(snapshot),
        Phase::Shuffle | Phase::Reduce => {
            format!("{} of {}", snapshot.workers_done, counted(snapshot.workers_asked as u64, "worker"))
        }
        Phase::Merge => match snapshot.total_entries {
            0 => counted(snapshot.merged_entries, "key"),
            total => format!("{} of {}", thousands(snapshot.merged_entries), counted(total, "key")),
        },
    }
}

/// Returns how many workers are told of the job.
fn greeted(snapshot: &Snapshot) -> usize {
    snapshot.workers.iter().filter(|worker| worker.state != WorkerState::Spare).count()
}

fn mapped(snapshot: &Snapshot) -> String {
    let mut text = bytes(snapshot.mapped_bytes);
    if let Some(whole) = snapshot.input_bytes {
        text += &format!(" of {}", bytes(whole));
    }
    let seconds = snapshot.phase_elapsed.as_secs_f64();
    if snapshot.mapped_bytes == 0 || seconds < SHORTEST_RATE {
        return text;
    }
    let rate = snapshot.mapped_bytes as f64 / seconds;
    text += &format!(", {:.1} MB/s", rate / 1e6);
    if let Some(rest) = snapshot.input_bytes.and_then(|whole| whole.checked_sub(snapshot.mapped_bytes))
        && rest > 0
    {
        text += &format!(", {} left", clock(Duration::from_secs_f64((rest as f64 / rate).min(LONGEST_LEFT))));
    }
    text
}

/// Seconds before which a rate would be noise.
const SHORTEST_RATE: f64 = 0.2;

/// Seconds beyond which an estimate says nothing: 100 hours.
const LONGEST_LEFT: f64 = 360_000.0;

/// Returns a time in whole units: `4 s`, `2 min 05 s`, `1 h 02 min`.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().ceil() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Returns one line per worker, or one for all where there are too many for a screen.
pub fn worker_rows(workers: &[WorkerSnapshot]) -> Vec<String> {
    match workers.len() {
        0 | 1 => Vec::new(),
        2..=MOST_ROWS => workers.iter().map(worker_row).collect(),
        _ => vec![folded(workers)],
    }
}

/// Workers that have a line of their own: with the phases' they fill half a usual terminal.
pub const MOST_ROWS: usize = 12;

fn worker_row(worker: &WorkerSnapshot) -> String {
    let name = sanitize(&worker.name);
    let state = state_name(worker.state);
    if matches!(worker.state, WorkerState::Spare | WorkerState::Lost) {
        return format!("{name:<22} {state}");
    }
    let splits = counted(worker.splits_mapped, "split");
    let flight = match worker.splits_in_flight {
        0 => String::new(),
        flight => format!(", {flight} in flight"),
    };
    format!("{name:<22} {state:<9} {splits}{flight}, {}", bytes(worker.bytes_mapped))
}

/// Returns how many workers are in each state: `12 mapping, 3 waiting`.
fn folded(workers: &[WorkerSnapshot]) -> String {
    use WorkerState::{Lost, Mapping, Merging, Reducing, Shuffling, Spare, Starting, Waiting};
    [Starting, Mapping, Shuffling, Reducing, Merging, Waiting, Spare, Lost]
        .into_iter()
        .filter_map(|state| {
            let count = workers.iter().filter(|worker| worker.state == state).count();
            (count > 0).then(|| format!("{count} {}", state_name(state)))
        })
        .collect::<Vec<_>>()
        .join(", ")
}

fn state_name(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Starting => "starting",
        WorkerState::Mapping => "mapping",
        WorkerState::Shuffling => "shuffling",
        WorkerState::Reducing => "reducing",
        WorkerState::Merging => "merging",
        WorkerState::Waiting => "waiting",
        WorkerState::Spare => "spare",
        WorkerState::Lost => "lost",
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Returns a snapshot of a run of `workers` workers.
    pub fn snapshot(phase: Phase, begun_ms: u64, now_ms: u64, workers: usize) -> Snapshot {
        let worker = |index| WorkerSnapshot {
            name: format!("worker-{index:02}"),
            state: WorkerState::Mapping,
            splits_mapped: 3,
            bytes_mapped: 3_000_000,
            splits_in_flight: 2,
        };
        Snapshot {
            phase,
            elapsed: Duration::from_millis(now_ms),
            phase_elapsed: Duration::from_millis(now_ms - begun_ms),
            stay_elapsed: Duration::from_millis(now_ms - begun_ms),
            input_bytes: Some(1_000_000_000),
            mapped_bytes: 0,
            workers_done: 0,
            workers_asked: workers,
            merged_entries: 0,
            total_entries: 0,
            workers: (0..workers).map(worker).collect(),
        }
    }

    #[test]
    fn map_shows_bytes_rate_and_time_left() {
        let mut map = snapshot(Phase::Map, 1000, 3000, 4);
        assert_eq!(figures(&map), "0 B of 1.0 GB");
        map.mapped_bytes = 200_000_000;
        assert_eq!(figures(&map), "200.0 MB of 1.0 GB, 100.0 MB/s, 8 s left");
        assert_eq!(share(&map), Some(0.2));
        map.input_bytes = None;
        assert_eq!(figures(&map), "200.0 MB, 100.0 MB/s");
        assert_eq!(share(&map), None);
        // A file that grew while it was read.
        map.input_bytes = Some(1);
        assert_eq!(share(&map), Some(1.0));
        assert_eq!(figures(&map), "200.0 MB of 1 B, 100.0 MB/s");
    }

    #[test]
    fn other_phases_count() {
        let mut at = snapshot(Phase::Shuffle, 0, 10, 4);
        at.workers_done = 3;
        assert_eq!(figures(&at), "3 of 4 workers");
        at.phase = Phase::Merge;
        at.merged_entries = 1500;
        assert_eq!(figures(&at), "1,500 keys");
        assert_eq!(share(&at), None);
        at.total_entries = 3000;
        assert_eq!(figures(&at), "1,500 of 3,000 keys");
        assert_eq!(share(&at), Some(0.5));
    }

    #[test]
    fn many_workers_are_folded() {
        assert!(worker_rows(&snapshot(Phase::Map, 0, 1, 1).workers).is_empty());
        let few = worker_rows(&snapshot(Phase::Map, 0, 1, 12).workers);
        assert_eq!(few.len(), 12);
        assert_eq!(few[3], "worker-03              mapping   3 splits, 2 in flight, 3.0 MB");
        let mut many = snapshot(Phase::Map, 0, 1, 15).workers;
        many[4].state = WorkerState::Waiting;
        assert_eq!(worker_rows(&many), ["14 mapping, 1 waiting"]);
        many[0].state = WorkerState::Lost;
        many[14].state = WorkerState::Spare;
        assert_eq!(worker_rows(&many), ["12 mapping, 1 waiting, 1 spare, 1 lost"]);
    }

    #[test]
    fn lost_workers_and_spares_are_shown_as_such_and_not_waited_for() {
        let mut at = snapshot(Phase::Shuffle, 0, 10, 3);
        at.workers[1].state = WorkerState::Lost;
        at.workers[2].state = WorkerState::Spare;
        at.workers_asked = 1;
        assert_eq!(
            worker_rows(&at.workers)[1..],
            ["worker-01              lost", "worker-02              spare"]
        );
        assert_eq!((figures(&at).as_str(), share(&at)), ("0 of 1 worker", Some(0.0)));
        at.phase = Phase::Split;
        assert_eq!(figures(&at), "opening the input, greeting 2 workers");
    }

    #[test]
    fn times_are_in_readable_units() {
        for (seconds, text) in [(0.2, "1 s"), (59.0, "59 s"), (125.0, "2 min 05 s"), (3720.0, "1 h 02 min")] {
            assert_eq!(clock(Duration::from_secs_f64(seconds)), text);
        }
    }
}
