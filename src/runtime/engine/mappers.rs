//! Mappers: the map threads of one job on one worker, from its beginning to its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread::Builder;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::tables::MapTables;
use super::{Work, lock};
use crate::job::{Cut, Job, Records};
use crate::logic::ids::SplitId;
use crate::logic::split::Split;
use crate::logic::table::{Folder, Table};
use crate::logic::worker::Execution;
use crate::runtime::buffers::Received;
use crate::runtime::guarded;
use crate::runtime::pieces::{Map, Unmapped, map_unpacked};
use crate::runtime::ranges::map_located;
use crate::runtime::source::SplitSource;
use crate::runtime::storage::Storage;
use crate::wire::encoding::Encoding;
use crate::wire::located::Located;

/// The bytes of a split, or where to read them.
pub(crate) enum SplitData {
    Received(Received),
    Stored(Split, Arc<dyn SplitSource>),
    Located(Box<Located>, Arc<dyn Storage>),
}

/// What is heard of the threads.
pub(crate) enum MapEvent {
    /// Comes once for each split that is to be executed.
    Executed { split: SplitId, end: Execution },
    /// What was folded here cannot be told any more.
    Broken { cause: String },
}

/// Hears of each event, on whatever thread.
pub(crate) type Heard = Arc<dyn Fn(MapEvent) + Send + Sync>;

/// Threads that fold splits.
pub(crate) struct Mappers<J: Job> {
    work: Arc<Work<J>>,
    tables: Arc<MapTables<J>>,
    waiting: Waiting,
    tasks: Sender<Task<J::Value>>,
    heard: Heard,
}

/// Splits whose execution has not begun, and whether it is to be provisional. A lock: the loop puts in, and takes out
/// what is cancelled; a thread takes out what it begins.
type Waiting = Arc<Mutex<HashMap<SplitId, (bool, SplitData)>>>;

/// What the next free thread is to do.
enum Task<V> {
    /// Nothing, if it was cancelled.
    Execute(SplitId),
    /// One of the committed tables, if there is one left.
    Merge,
    /// Giving back much memory takes its time, which the loop has not.
    Free(Table<V>),
}

impl<J: Job> Mappers<J> {
    /// Starts `work.threads` threads.
    ///
    /// # Errors
    /// If one cannot be started.
    pub(crate) fn start(work: &Arc<Work<J>>, heard: &Heard) -> std::io::Result<Self> {
        let tables = Arc::new(MapTables::new(work.clone()));
        let waiting = Waiting::default();
        // The client's window bounds what waits here.
        let (tasks, queue) = unbounded();
        for index in 0..work.threads {
            let (work, tables, waiting) = (work.clone(), tables.clone(), waiting.clone());
            let thread = Thread { index, work, tables, waiting, heard: heard.clone() };
            let queue = queue.clone();
            Builder::new().name(format!("mr:map:{index}")).spawn(move || thread.run(&queue))?;
        }
        Ok(Self { work: work.clone(), tables, waiting, tasks, heard: heard.clone() })
    }

    /// Has a split folded by the next free thread: if `provisional`, into a table of its own.
    pub(crate) fn execute(&self, split: SplitId, provisional: bool, data: SplitData) {
        lock(&self.waiting).insert(split, (provisional, data));
        self.queue(Task::Execute(split));
    }

    /// Has an execution that has not begun end as cancelled.
    pub(crate) fn cancel(&self, split: SplitId) {
        let waited = lock(&self.waiting).remove(&split);
        if waited.is_some() {
            (self.heard)(MapEvent::Executed { split, end: Execution::Cancelled });
        }
    }

    /// Makes the table of a provisional execution one of the map tables.
    pub(crate) fn commit(&self, split: SplitId) {
        self.tables.commit(split);
        self.queue(Task::Merge);
    }

    /// Drops the table of a provisional execution.
    pub(crate) fn discard(&self, split: SplitId) {
        if let Some(table) = self.tables.discard(split) {
            self.queue(Task::Free(table));
        }
    }

    /// Returns the map tables.
    pub(crate) fn tables(&self) -> Arc<MapTables<J>> {
        self.tables.clone()
    }

    /// Ends the job: the threads end as soon as they notice, and what was folded is dropped.
    pub(crate) fn end(self) {
        self.work.cancel();
        lock(&self.waiting).clear();
        self.tables.clear();
    }

    /// Returns how many splits no thread has begun with.
    #[cfg(test)]
    pub(super) fn waiting_splits(&self) -> usize {
        lock(&self.waiting).len()
    }

    fn queue(&self, task: Task<J::Value>) {
        // Threads end when the sender is dropped, not before, so there is always one that listens.
        let _ = self.tasks.send(task);
    }
}

/// One of the threads.
struct Thread<J: Job> {
    index: usize,
    work: Arc<Work<J>>,
    tables: Arc<MapTables<J>>,
    waiting: Waiting,
    heard: Heard,
}

impl<J: Job> Thread<J> {
    fn run(self, queue: &Receiver<Task<J::Value>>) {
        let mut buffers = Buffers { text: Vec::new(), folder: None };
        for task in queue {
            if self.work.is_cancelled() {
                break;
            }
            match task {
                Task::Execute(split) => {
                    let waited = lock(&self.waiting).remove(&split);
                    if let Some((provisional, data)) = waited {
                        let end = self.execute(split, provisional, data, &mut buffers);
                        (self.heard)(MapEvent::Executed { split, end });
                    }
                }
                Task::Merge => {
                    if let Err(cause) = self.tables.merge_committed(self.index) {
                        (self.heard)(MapEvent::Broken { cause });
                    }
                }
                Task::Free(table) => drop(table),
            }
        }
        // It may have been at work when all was dropped.
        self.tables.clear_slot(self.index);
    }

    fn execute(
        &self,
        split: SplitId,
        provisional: bool,
        data: SplitData,
        buffers: &mut Buffers<J::Value>,
    ) -> Execution {
        let Buffers { text, folder } = buffers;
        // All of it is guarded: a thread that ended would leave its split unanswered.
        let cut = self.work.job.cut();
        let folded = guarded(|| {
            let feed = |map: Map<'_>| feed(data, cut, text, map);
            match provisional {
                true => self.tables.fold_apart(split, feed, folder).map_err(|cause| (cause, Vec::new())),
                false => self.tables.fold(self.index, split, feed),
            }
        });
        match folded {
            Ok(Ok(pairs)) => Execution::Folded { pairs },
            Ok(Err((Unmapped::Unreadable(cause), dropped))) => {
                Execution::Failed { cause, dropped, unreadable: true }
            }
            Ok(Err((Unmapped::Failed(cause), dropped))) => {
                Execution::Failed { cause, dropped, unreadable: false }
            }
            // It failed before anything was folded.
            Err(cause) => Execution::Failed { cause, dropped: Vec::new(), unreadable: false },
        }
    }
}

/// What a thread uses again and again.
struct Buffers<V> {
    text: Vec<u8>,
    /// For provisional executions.
    folder: Option<Folder<V>>,
}

/// Gives the text of a split to `map`: as one, or in pieces that end where `cut` allows if it is to be unpacked. It
/// goes through `buffer` if need be.
///
/// # Errors
/// If it cannot be had or mapped.
fn feed(data: SplitData, cut: Cut, buffer: &mut Vec<u8>, map: Map<'_>) -> Result<(), Unmapped> {
    match data {
        SplitData::Received(split) => {
            let mut unpacked = std::mem::take(buffer);
            let bytes = split.text(&mut unpacked).map_err(|error| Unmapped::Failed(error.to_string()))?;
            let fed = match split.origin.encoding {
                Encoding::Plain => map(Records::new(bytes, &split.origin.name, split.origin.offset))
                    .map_err(Unmapped::Failed),
                _ => map_unpacked(&split.origin, bytes, cut, &mut Vec::new(), map),
            };
            *buffer = unpacked;
            fed
        }
        SplitData::Located(located, storage) => map_located(&located, storage.as_ref(), cut, buffer, map),
        SplitData::Stored(split, source) => {
            let unreadable = |error: anyhow::Error| Unmapped::unread(error.as_ref(), format!("{error:#}"));
            let origin = source.origin(&split);
            if origin.encoding != Encoding::Plain {
                let packed = source.open(&split).map_err(unreadable)?;
                return map_unpacked(&origin, packed, cut, buffer, map);
            }
            source.read(&split, buffer).map_err(unreadable)?;
            map(Records::new(buffer, &origin.name, origin.offset)).map_err(Unmapped::Failed)
        }
    }
}
