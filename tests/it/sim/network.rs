//! Network: links between client and workers, streams between workers: each in order, none as fast as another.

use std::collections::{BTreeMap, VecDeque};

use mapreduce::logic::ids::{Epoch, WorkerId};
use mapreduce::logic::partition::Partition;
use mapreduce::logic::split::Split;
use mapreduce::logic::worker::Event;

use super::client::Answer;
use super::plan::{Plan, SECOND, Time};
use super::text::Counts;
use super::worker::Order;
use super::world::{Happening, World};

/// The longest that a message takes on a slow link: bytes of it come all the time, which is no silence.
const MAX_DELAY: Time = SECOND;

/// Batches that may be on their way to a peer without its acknowledgement.
const UNACKNOWLEDGED_BATCHES: usize = 8;

/// The client's link to a worker.
#[derive(Default)]
pub struct Link {
    /// Splits that are not read and written yet; other orders do not wait for them.
    pub feed: VecDeque<(Split, bool)>,
    /// When the last message of each direction arrives: none overtakes another.
    to_worker: Time,
    to_client: Time,
    /// Since when the worker hears nothing.
    pub deaf_since: Option<Time>,
    /// Whether the client hears nothing.
    pub mute: bool,
    pub closed: bool,
}

/// What holds for all connections.
pub struct Network {
    delay: (Time, Time),
    slowness: Vec<f64>,
    /// Pairs that do not reach each other, and whether they hear that at once.
    pub cuts: BTreeMap<(WorkerId, WorkerId), bool>,
    next_stream: u64,
}

/// The number of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(u64);

/// One worker's part for another, in one epoch.
pub struct Stream {
    from: WorkerId,
    to: WorkerId,
    epoch: Epoch,
    /// What is not sent yet.
    batches: VecDeque<(Partition, Counts)>,
    unacknowledged: usize,
    has_sent_end: bool,
    sender: End,
    receiver: End,
}

/// One end of a stream.
#[derive(Default)]
struct End {
    open: bool,
    heard: Time,
    /// When the last frame that was sent to it arrives.
    arrives: Time,
}

/// A frame of a stream.
#[derive(Clone, Debug)]
pub enum Word {
    Hello,
    Batch(Partition, Counts),
    End,
    Welcome,
    /// There is nobody to speak with, or it does not want to.
    Refused,
    Ack,
    /// The other end is gone.
    Closed,
}

/// Whether two workers reach each other.
enum Path {
    Up,
    Refused,
    Silent,
}

impl Network {
    pub fn new(plan: &Plan) -> Self {
        Self {
            delay: plan.delay,
            slowness: plan.link_slowness.clone(),
            cuts: BTreeMap::new(),
            next_stream: 0,
        }
    }

    pub fn slow(&mut self, worker: WorkerId, factor: f64) {
        self.slowness[worker.index()] = factor;
    }
}

pub fn pair(one: WorkerId, other: WorkerId) -> (WorkerId, WorkerId) {
    (one.min(other), one.max(other))
}

impl World {
    fn delay(&mut self, one: Option<WorkerId>, other: WorkerId) -> Time {
        let (least, most) = self.network.delay;
        let slowness = |worker: WorkerId| self.network.slowness[worker.index()];
        let slowness = slowness(other).max(one.map_or(1.0, slowness));
        // Mostly short, seldom long.
        let delay = least as f64 + (most - least.min(most)) as f64 * self.random.share().powi(4);
        ((delay * slowness) as Time).min(MAX_DELAY)
    }

    /// Sends an order over the link.
    pub fn send_order(&mut self, worker: WorkerId, order: Order) {
        let delay = self.delay(None, worker);
        let link = &mut self.links[worker.index()];
        if link.closed || link.deaf_since.is_some() {
            return;
        }
        link.to_worker = link.to_worker.max(self.now + delay);
        let at = link.to_worker;
        self.at(at, Happening::AtWorker(worker, order));
    }

    /// Sends an answer over the link.
    pub fn send_answer(&mut self, worker: WorkerId, answer: Answer) {
        let delay = self.delay(None, worker);
        let link = &mut self.links[worker.index()];
        if link.mute {
            return;
        }
        link.to_client = link.to_client.max(self.now + delay);
        let at = link.to_client;
        self.at(at, Happening::AtClient(worker, answer));
    }

    fn path(&self, one: WorkerId, other: WorkerId) -> Path {
        let process = &self.workers[other.index()];
        match self.network.cuts.get(&pair(one, other)) {
            Some(true) => Path::Refused,
            Some(false) => Path::Silent,
            None if process.off => Path::Silent,
            None if !process.alive => Path::Refused,
            None => Path::Up,
        }
    }

    /// Starts to send `batches` to a peer.
    pub fn open_stream(
        &mut self,
        from: WorkerId,
        to: WorkerId,
        epoch: Epoch,
        batches: VecDeque<(Partition, Counts)>,
    ) -> StreamId {
        let id = StreamId(self.network.next_stream);
        self.network.next_stream += 1;
        let sender = End { open: true, heard: self.now, arrives: self.now };
        let receiver = End::default();
        let stream =
            Stream { from, to, epoch, batches, unacknowledged: 0, has_sent_end: false, sender, receiver };
        self.streams.insert(id, stream);
        self.say(id, to, Word::Hello);
        self.after(self.plan.timeout, Happening::Watched { stream: id, by: from });
        id
    }

    /// Sends a frame to one end of a stream; what is on no path is lost.
    fn say(&mut self, id: StreamId, to: WorkerId, word: Word) {
        let Some(stream) = self.streams.get(&id) else { return };
        let from = if to == stream.to { stream.from } else { stream.to };
        let delay = self.delay(Some(from), to);
        match self.path(from, to) {
            Path::Up => {}
            Path::Silent => return,
            Path::Refused => {
                let what = Happening::Streamed { stream: id, to: from, word: Word::Refused };
                return self.after(delay, what);
            }
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let end = if to == stream.to { &mut stream.receiver } else { &mut stream.sender };
        end.arrives = end.arrives.max(self.now + delay);
        let at = end.arrives;
        self.at(at, Happening::Streamed { stream: id, to, word });
    }

    /// A frame has come to one end of a stream.
    pub fn streamed(&mut self, id: StreamId, to: WorkerId, word: Word) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (from, receiver, epoch) = (stream.from, stream.to, stream.epoch);
        let other = if to == receiver { from } else { receiver };
        // What was under way when the link was cut is lost.
        if !matches!(word, Word::Refused) && matches!(self.path(other, to), Path::Silent) {
            return;
        }
        self.note(|| format!("stream {from:?} -> {receiver:?} of {epoch:?}: {to:?} hears {}", name(&word)));
        if to == receiver { self.at_receiver(id, word) } else { self.at_sender(id, word) }
    }

    fn at_receiver(&mut self, id: StreamId, word: Word) {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (source, me, epoch) = (stream.from, stream.to, stream.epoch);
        stream.receiver.heard = now;
        if let Word::Hello = word {
            let welcomed = self.open_inbox(me, epoch, source);
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.receiver.open = welcomed;
            }
            if welcomed {
                self.after(self.plan.timeout, Happening::Watched { stream: id, by: me });
            }
            return self.say(id, source, if welcomed { Word::Welcome } else { Word::Refused });
        }
        if !stream.receiver.open {
            return;
        }
        self.progressed = now;
        match word {
            Word::Batch(partition, batch) => match self.put_into_inbox(me, epoch, partition, batch) {
                true => self.say(id, source, Word::Ack),
                false => self.fail_stream(id, me, "the stream is stale"),
            },
            Word::End => {
                stream.receiver.open = false;
                self.say(id, source, Word::Ack);
                self.tell_worker(me, Event::StreamEnded { epoch, source });
            }
            _ => self.fail_stream(id, me, "the connection ended"),
        }
    }

    fn at_sender(&mut self, id: StreamId, word: Word) {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.sender.open) else { return };
        let me = stream.from;
        stream.sender.heard = now;
        match word {
            Word::Welcome => self.send_batches(id),
            Word::Ack if stream.unacknowledged > 0 => {
                stream.unacknowledged -= 1;
                self.send_batches(id);
            }
            Word::Ack => {
                stream.sender.open = false;
                self.stream_sent(me, id);
            }
            Word::Refused => self.fail_stream(id, me, "connection refused"),
            _ => self.fail_stream(id, me, "the connection ended"),
        }
    }

    /// Sends as much as may be under way.
    fn send_batches(&mut self, id: StreamId) {
        loop {
            let Some(stream) = self.streams.get_mut(&id) else { return };
            if stream.unacknowledged >= UNACKNOWLEDGED_BATCHES || stream.has_sent_end {
                return;
            }
            let to = stream.to;
            let word = match stream.batches.pop_front() {
                Some((partition, batch)) => {
                    stream.unacknowledged += 1;
                    Word::Batch(partition, batch)
                }
                None => {
                    stream.has_sent_end = true;
                    Word::End
                }
            };
            self.say(id, to, word);
        }
    }

    /// Breaks a stream at one end: the worker there is told, and the other end hears it if it can.
    fn fail_stream(&mut self, id: StreamId, at: WorkerId, cause: &str) {
        let Some((peer, epoch)) = self.close_end(id, at) else { return };
        self.tell_worker(at, Event::StreamFailed { epoch, peer, cause: cause.to_owned() });
    }

    /// Closes one end of a stream. Returns who is at the other, unless it was closed before.
    fn close_end(&mut self, id: StreamId, at: WorkerId) -> Option<(WorkerId, Epoch)> {
        let stream = self.streams.get_mut(&id)?;
        let (end, peer) = match at == stream.to {
            true => (&mut stream.receiver, stream.from),
            false => (&mut stream.sender, stream.to),
        };
        if !std::mem::take(&mut end.open) {
            return None;
        }
        let epoch = stream.epoch;
        self.say(id, peer, Word::Closed);
        Some((peer, epoch))
    }

    /// Closes a worker's ends of all streams up to an epoch.
    pub fn close_streams(&mut self, worker: WorkerId, newest: Epoch) {
        let is_of =
            |stream: &Stream| (stream.from == worker || stream.to == worker) && stream.epoch <= newest;
        let ids: Vec<_> =
            self.streams.iter().filter(|(_, stream)| is_of(stream)).map(|(id, _)| *id).collect();
        for id in ids {
            self.close_end(id, worker);
        }
    }

    /// Fails a stream whose other end was silent for too long.
    pub fn watch_stream(&mut self, id: StreamId, by: WorkerId) {
        let Some(stream) = self.streams.get(&id) else { return };
        let end = if by == stream.to { &stream.receiver } else { &stream.sender };
        if !end.open {
            return;
        }
        let deadline = end.heard + self.plan.timeout;
        match self.now >= deadline {
            true => self.fail_stream(id, by, "timed out"),
            false => self.at(deadline, Happening::Watched { stream: id, by }),
        }
    }
}

fn name(word: &Word) -> String {
    match word {
        Word::Batch(partition, batch) => format!("a batch of {} for {partition:?}", batch.len()),
        other => format!("{other:?}"),
    }
}
