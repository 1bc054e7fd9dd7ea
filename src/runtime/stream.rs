//! Stream: the sending end of one peer's part of the shuffle: batches, packed where that is quicker, and beats.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::logic::ids::WorkerId;
use crate::logic::packing::{Chooser, Packing};
use crate::wire::frame::{FrameError, Kind, read_frame, write_frame};
use crate::wire::message::{Role, Welcome, decode_batch, encode_packed_batch};
use crate::wire::pack::Packed;

use super::greet::{DOOR_PAUSE, DOOR_TRIES, greet};
use super::link::{BEAT_INTERVAL, Connection};
use super::rates::{LinkPacker, Measured, Rates};
use super::shuffle::{Peers, Shuffle};

/// Batches that may be on their way to a peer without its acknowledgement: hides the round trip.
const UNACKNOWLEDGED_BATCHES: usize = 8;

/// What a peer's stream is to send.
pub(crate) enum Filled {
    Batch(Vec<u8>),
    /// There is no more. A stream that is left without this one is given up.
    End,
}

/// Sends `batches` to `peer` at its address, one of `links`, and waits until it has acknowledged every one and the end.
///
/// A stream that is given up stays open until its epoch is over: the client is to hear why from this worker, before
/// the peer tells of a stream that broke.
///
/// # Errors
/// If the peer cannot be reached, or does not take its part.
pub(crate) fn send_stream<J>(
    shuffle: &Shuffle<J>,
    (peer, address): (WorkerId, &str),
    links: usize,
    batches: &Receiver<Filled>,
    bytes: &AtomicU64,
) -> Result<(), String> {
    let Some(peers) = &shuffle.peers else { return Err("this worker has no network".to_owned()) };
    let (connection, welcome) = reach(shuffle, peers, peer, address)?;
    let control = connection.control.clone();
    let chooser = Chooser::new(peers.compress, &welcome.known_packings(), links, peers.cores);
    if send_batches(connection, chooser, batches, bytes).map_err(|error| error.to_string())? {
        control.close();
    }
    Ok(())
}

/// Connects to a peer and greets it, again if it ends the connection before it knows whose it is.
fn reach<J>(
    shuffle: &Shuffle<J>,
    peers: &Peers,
    peer: WorkerId,
    address: &str,
) -> Result<(Connection, Welcome), String> {
    let mut tries = 0;
    loop {
        let mut connection = connect(shuffle, peers, peer, address).map_err(|error| error.to_string())?;
        shuffle.streams.keep(&connection.control);
        let role = Role::Peer { job: peers.job, epoch: shuffle.epoch, source: shuffle.me };
        let is_over = shuffle.work.cancelled.load(Ordering::Relaxed);
        match greet(&mut connection, &peers.cluster, role, peers.timeout) {
            Ok(welcome) => return Ok((connection, welcome)),
            Err(error) if error.is_turned_away() && tries < DOOR_TRIES && !is_over => {
                tries += 1;
                std::thread::sleep(DOOR_PAUSE);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// For how long a peer may be out of reach: for a moment after its link came up again, hosts still hold that there is
/// no route to it.
const NO_ROUTE_GRACE: Duration = Duration::from_secs(2);

/// How long to wait between two tries to reach it.
const NO_ROUTE_PAUSE: Duration = Duration::from_millis(200);

/// Connects to a peer, and tries again for a while where there is no route to it, unless the epoch is over. One that
/// refuses is not tried again, for its process is dead.
fn connect<J>(shuffle: &Shuffle<J>, peers: &Peers, peer: WorkerId, address: &str) -> io::Result<Connection> {
    let name = peers.members.get(peer.index()).map_or("", String::as_str);
    let began = Instant::now();
    loop {
        let error = match peers.network.connect(address, name, peers.timeout) {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let has_no_route =
            matches!(error.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable);
        if !has_no_route || began.elapsed() >= NO_ROUTE_GRACE {
            return Err(error);
        }
        std::thread::sleep(NO_ROUTE_PAUSE);
        if shuffle.work.cancelled.load(Ordering::Relaxed) {
            return Err(error);
        }
    }
}

/// Sends batches and, while there are none, beats: what is late because another peer is slow is not lost. `false` if
/// the stream was given up.
fn send_batches(
    connection: Connection,
    chooser: Chooser,
    batches: &Receiver<Filled>,
    bytes: &AtomicU64,
) -> Result<bool, FrameError> {
    let Connection { mut reader, writer, .. } = connection;
    let mut sending = Sending::new(writer, chooser);
    let mut unacknowledged = 0;
    loop {
        let waiting = Instant::now();
        match batches.recv_timeout(BEAT_INTERVAL) {
            Ok(Filled::Batch(batch)) => {
                sending.writer.waited(waiting.elapsed());
                if unacknowledged == UNACKNOWLEDGED_BATCHES {
                    read_acknowledgement(reader.as_mut())?;
                    unacknowledged -= 1;
                }
                sending.send(&batch)?;
                bytes.fetch_add(batch.len() as u64, Ordering::Relaxed);
                unacknowledged += 1;
            }
            Ok(Filled::End) => break,
            Err(RecvTimeoutError::Timeout) => write_frame(&mut sending.writer, Kind::Beat, &[])?,
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
    }
    write_frame(&mut sending.writer, Kind::End, &[])?;
    // One more for the end itself.
    for _ in 0..=unacknowledged {
        read_acknowledgement(reader.as_mut())?;
    }
    Ok(true)
}

/// Writes batches as they travel fastest.
struct Sending {
    writer: Measured,
    packer: LinkPacker,
    buffer: Vec<u8>,
}

impl Sending {
    fn new(writer: Box<dyn Write + Send>, chooser: Chooser) -> Self {
        let rates = Rates::new(chooser);
        Self {
            writer: Measured::new(writer, rates.clone()),
            packer: LinkPacker::new(rates),
            buffer: Vec::new(),
        }
    }

    fn send(&mut self, batch: &[u8]) -> Result<(), FrameError> {
        let (partition, entries) = decode_batch(batch)?;
        let (packing, bytes) = match self.packer.pack(entries, &mut self.buffer) {
            Some((packing, length)) => (packing, &self.buffer[..length]),
            None => (Packing::Plain, entries),
        };
        let header = encode_packed_batch(partition, Packed { packing, length: entries.len() });
        Ok(write_frame(&mut self.writer, Kind::Batch, &[&header, bytes])?)
    }
}

fn read_acknowledgement(mut reader: &mut (dyn Read + Send)) -> Result<(), FrameError> {
    loop {
        match read_frame(&mut reader, &mut Vec::new(), 0)? {
            // The batch is on its way, however slow.
            Some(Kind::Beat) => {}
            Some(Kind::Ack) => return Ok(()),
            Some(other) => return Err(FrameError::Unexpected(other)),
            None => return Err(FrameError::Torn),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use crossbeam_channel::{bounded, unbounded};

    use super::*;
    use crate::logic::ids::{Epoch, JobId};
    use crate::logic::packing::Compress;
    use crate::logic::partition::Seed;
    use crate::runtime::engine::Work;
    use crate::runtime::inbox::{Inbox, receive_stream};
    use crate::runtime::link::Network;
    use crate::runtime::memory::{Door, pair};
    use crate::runtime::shuffle::OpenStreams;
    use crate::wire::frame::MAX_PAYLOAD_BYTES;
    use crate::wire::message::Routes;

    const EPOCH: Epoch = Epoch(2);

    fn chooser(compress: Compress) -> Chooser {
        Chooser::new(compress, &Packing::ALL, 1, 1)
    }

    fn batch(partition: u32) -> Vec<u8> {
        [&partition.to_le_bytes()[..], b"entries"].concat()
    }

    #[test]
    fn who_has_nothing_to_send_beats_and_a_stream_that_is_given_up_does_not_end() {
        let [sender, mut receiver] = pair();
        let kept = sender.control.clone();
        let (batches, queue) = bounded(1);
        let sending = std::thread::spawn(move || {
            send_batches(sender, chooser(Compress::Auto), &queue, &AtomicU64::new(0))
        });
        let mut payload = Vec::new();
        let beat = read_frame(&mut receiver.reader, &mut payload, MAX_PAYLOAD_BYTES);
        assert!(matches!(beat, Ok(Some(Kind::Beat))), "{beat:?}");
        drop(batches);
        let given_up = sending.join().expect("no panic");
        assert!(matches!(given_up, Ok(false)));
        receiver.control.set_deadline(Duration::from_millis(50)).expect("it is open");
        let nothing = read_frame(&mut receiver.reader, &mut payload, MAX_PAYLOAD_BYTES);
        assert!(matches!(nothing, Err(FrameError::Silent)), "{nothing:?}");
        kept.close();
    }

    /// Reads a few bytes at a time, with a pause before each: a link of two kilobytes a second.
    struct Crawling(Box<dyn Read + Send>);

    impl Read for Crawling {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            std::thread::sleep(Duration::from_millis(50));
            let most = into.len().min(100);
            self.0.read(&mut into[..most])
        }
    }

    #[test]
    fn a_batch_that_crawls_is_no_silence() {
        let [sender, mut receiver] = pair();
        // Longer than a beat, shorter than the batch takes.
        let deadline = BEAT_INTERVAL + Duration::from_millis(700);
        sender.control.set_deadline(deadline).expect("it is open");
        receiver.control.set_deadline(deadline).expect("it is open");
        receiver.reader = Box::new(Crawling(receiver.reader));
        let inbox = Inbox::new(64 << 20);
        inbox.lock().open(EPOCH, WorkerId(1)).expect("the first stream");
        let (batches, queue) = bounded(2);
        let crawling = [&3u32.to_le_bytes()[..], &[b'x'; 8000]].concat();
        batches.send(Filled::Batch(crawling.clone())).expect("it is open");
        batches.send(Filled::End).expect("it is open");
        let sent = std::thread::scope(|scope| {
            let receiving = scope.spawn(|| receive_stream(receiver, &inbox, EPOCH));
            let plain = chooser(Compress::Always(Packing::Plain));
            let sent = send_batches(sender, plain, &queue, &AtomicU64::new(0));
            assert_eq!(receiving.join().expect("no panic"), Ok(()));
            sent
        });
        assert!(matches!(sent, Ok(true)), "{sent:?}");
        let taken = inbox.lock().take(EPOCH, &BTreeSet::from([WorkerId(1)])).expect("all are there");
        assert_eq!(taken.values().flatten().collect::<Vec<_>>(), [&crawling]);
    }

    #[test]
    fn no_more_is_on_its_way_than_may_be_and_all_is_acknowledged() {
        let [sender, receiver] = pair();
        let inbox = Inbox::new(64 << 20);
        inbox.lock().open(EPOCH, WorkerId(1)).expect("the first stream");
        let (batches, queue) = unbounded();
        for partition in 0..100 {
            batches.send(Filled::Batch(batch(partition))).expect("it is open");
        }
        batches.send(Filled::End).expect("it is open");
        let bytes = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let receiving = scope.spawn(|| receive_stream(receiver, &inbox, EPOCH));
            let sent = send_batches(sender, chooser(Compress::Auto), &queue, &bytes);
            assert!(matches!(sent, Ok(true)), "{sent:?}");
            assert_eq!(receiving.join().expect("no panic"), Ok(()));
        });
        assert_eq!(bytes.into_inner(), 100 * batch(0).len() as u64);
        assert_eq!(inbox.lock().take(EPOCH, &BTreeSet::from([WorkerId(1)])).expect("it is whole").len(), 100);
    }

    #[test]
    fn batches_arrive_as_they_were_however_they_travel() {
        for packing in Packing::ALL {
            let [sender, receiver] = pair();
            let inbox = Inbox::new(64 << 20);
            inbox.lock().open(EPOCH, WorkerId(1)).expect("the first stream");
            let (batches, queue) = unbounded();
            let large = |n: u32| {
                [&7u32.to_le_bytes()[..], &format!("\x04word{n} ").repeat(9000).into_bytes()].concat()
            };
            let sent: Vec<Vec<u8>> = (0..20).map(large).chain([batch(7)]).collect();
            for batch in &sent {
                batches.send(Filled::Batch(batch.clone())).expect("it is open");
            }
            batches.send(Filled::End).expect("it is open");
            std::thread::scope(|scope| {
                let receiving = scope.spawn(|| receive_stream(receiver, &inbox, EPOCH));
                let always = chooser(Compress::Always(packing));
                let sent = send_batches(sender, always, &queue, &AtomicU64::new(0));
                assert!(matches!(sent, Ok(true)), "{sent:?}");
                assert_eq!(receiving.join().expect("no panic"), Ok(()));
            });
            let mut taken = inbox.lock().take(EPOCH, &BTreeSet::from([WorkerId(1)])).expect("it is whole");
            assert!(taken.remove(&crate::logic::partition::Partition(7)) == Some(sent), "{packing:?}");
        }
    }

    fn shuffle_over(network: Arc<dyn Network>) -> Shuffle<()> {
        let peers = Peers {
            network,
            cluster: String::new(),
            members: Vec::new(),
            job: JobId(1),
            timeout: Duration::from_secs(20),
            compress: Compress::Auto,
            cores: 1,
        };
        let work = Work {
            job: Arc::new(()),
            seed: Seed([1, 2]),
            threads: 1,
            memory: 0,
            cancelled: AtomicBool::new(false),
        };
        Shuffle {
            work: Arc::new(work),
            epoch: EPOCH,
            routes: Routes { workers: Vec::new(), owners: Vec::new() },
            me: WorkerId(0),
            peers: Some(Arc::new(peers)),
            streams: OpenStreams::default(),
        }
    }

    /// A network that fails so often, and counts how often it is asked.
    struct Failing {
        kind: io::ErrorKind,
        times: u64,
        asked: AtomicU64,
        door: Door,
    }

    impl Network for Failing {
        fn connect(&self, address: &str, name: &str, timeout: Duration) -> io::Result<Connection> {
            match self.asked.fetch_add(1, Ordering::Relaxed) < self.times {
                true => Err(self.kind.into()),
                false => self.door.connect(address, name, timeout),
            }
        }
    }

    /// Connects where that fails so often; how often it was tried, and whether it succeeded.
    fn tries(kind: io::ErrorKind, times: u64, is_over: bool) -> (u64, bool) {
        let network = Arc::new(Failing { kind, times, asked: AtomicU64::new(0), door: Door::new() });
        let shuffle = shuffle_over(network.clone());
        if is_over {
            shuffle.work.cancelled.store(true, Ordering::Relaxed);
        }
        let peers = shuffle.peers.as_ref().expect("there is a network");
        let connected = connect(&shuffle, peers, WorkerId(1), "anywhere").is_ok();
        (network.asked.load(Ordering::Relaxed), connected)
    }

    #[test]
    fn a_peer_without_a_route_is_tried_again_for_a_while() {
        for kind in [io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable] {
            assert_eq!(tries(kind, 3, false), (4, true), "{kind:?}");
            assert_eq!(tries(kind, 3, true), (1, false), "{kind:?}");
        }
        let began = Instant::now();
        let (n, connected) = tries(io::ErrorKind::HostUnreachable, u64::MAX, false);
        assert!((2..=11).contains(&n) && !connected, "{n} tries");
        assert!(began.elapsed() >= NO_ROUTE_GRACE);
        for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::TimedOut] {
            assert_eq!(tries(kind, 1, false), (1, false), "{kind:?}");
        }
    }

    #[test]
    fn a_stream_that_opens_after_the_end_of_its_epoch_is_closed() {
        let shuffle = shuffle_over(Arc::new(Door::new()));
        shuffle.streams.close();
        let (_batches, queue) = bounded(1);
        let sent = send_stream(&shuffle, (WorkerId(1), "anywhere"), 1, &queue, &AtomicU64::new(0));
        assert!(sent.is_err(), "it waits for nobody");
    }
}
