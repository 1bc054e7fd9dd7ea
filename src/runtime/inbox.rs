//! Inbox: the receiving end of the shuffle: streams of batches, acknowledged and kept for the reduce.
//!
//! Invariant: a receiver only ever waits for its own source, and takes whatever comes; so no ring of full buffers can
//! stand still.

use std::io::{self, BufReader, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::logic::ids::{Epoch, WorkerId};
use crate::logic::inbox::{self, PutError};
use crate::wire::frame::{FrameError, Header, Kind, MAX_PAYLOAD_BYTES, read_header, write_frame};
use crate::wire::receive::BatchHeader;

use super::link::{BEAT_INTERVAL, Connection, Control, READ_BUFFER_BYTES};

/// What arrived from peers.
pub(crate) struct Inbox {
    /// A lock: one thread for each source puts in, the reduce takes out.
    held: Mutex<inbox::Inbox<Vec<u8>>>,
    /// A lock, as for what is held.
    streams: Mutex<Streams>,
    ordered: Condvar,
}

/// The streams that are being received.
struct Streams {
    /// The newest epoch that the client has ordered a shuffle in: before, nobody has anything to send in it.
    newest: Epoch,
    open: Vec<(Epoch, Arc<dyn Control>)>,
}

impl Inbox {
    /// Makes an inbox that holds `limit` bytes at most.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            held: Mutex::new(inbox::Inbox::new(limit)),
            streams: Mutex::new(Streams { newest: Epoch(0), open: Vec::new() }),
            ordered: Condvar::new(),
        }
    }

    /// Gives access to what is held.
    pub(crate) fn lock(&self) -> MutexGuard<'_, inbox::Inbox<Vec<u8>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Expects streams of `epoch`, and no more of older ones: those end.
    pub(crate) fn begin_epoch(&self, epoch: Epoch) {
        let mut streams = self.streams();
        streams.newest = streams.newest.max(epoch);
        let newest = streams.newest;
        streams.open.retain(|(epoch, control)| {
            let stays = *epoch >= newest;
            if !stays {
                control.close();
            }
            stays
        });
        self.ordered.notify_all();
    }

    /// Opens the stream of `source` in `epoch`, which goes over the connection of `control`. A peer that heard of the
    /// epoch before this worker waits for so long.
    ///
    /// # Errors
    /// If the epoch is not known by then, or is over, or the source has sent a stream in it.
    pub(crate) fn open(
        &self,
        epoch: Epoch,
        source: WorkerId,
        control: &Arc<dyn Control>,
        limit: Duration,
    ) -> Result<(), String> {
        let early = |streams: &mut Streams| streams.newest < epoch;
        let waited = self.ordered.wait_timeout_while(self.streams(), limit, early);
        let (mut streams, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if streams.newest < epoch {
            return Err(format!("nobody has ordered a shuffle in epoch {}", epoch.0));
        }
        self.lock().open(epoch, source).map_err(|stale| stale.to_string())?;
        streams.open.push((epoch, control.clone()));
        Ok(())
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that a batch costs beside its own: its place, its allocation, perhaps its partition's.
const BATCH_OVERHEAD_BYTES: u64 = 128;

/// Why a stream was not received.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// It broke, or is stale.
    #[error("{0}")]
    Peer(String),
    /// There is no room for it here.
    #[error("{0}")]
    Own(String),
}

impl From<FrameError> for ReceiveError {
    fn from(error: FrameError) -> Self {
        Self::Peer(error.to_string())
    }
}

impl From<PutError> for ReceiveError {
    fn from(error: PutError) -> Self {
        match error {
            PutError::Stale(_) => Self::Peer(error.to_string()),
            PutError::Full(_) => Self::Own(error.to_string()),
        }
    }
}

/// Receives one peer's stream, acknowledging each batch, until its end.
///
/// # Errors
/// If the stream breaks or is stale, or there is no room.
pub(crate) fn receive_stream(
    connection: Connection,
    inbox: &Inbox,
    epoch: Epoch,
) -> Result<(), ReceiveError> {
    let Connection { reader, writer, .. } = connection;
    let taking = Taking { reader, writer, said: Instant::now() };
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, taking);
    let acknowledge = |reader: &mut BufReader<Taking>| {
        reader.get_mut().say(Kind::Ack).map_err(|error| FrameError::from(error).into())
    };
    let mut buffers = [Vec::new(), Vec::new()];
    loop {
        match read_header(&mut reader, MAX_PAYLOAD_BYTES)? {
            Some(Header { kind: Kind::Batch, length }) => {
                let header = BatchHeader::read(&mut reader, length)?;
                let passing = header.passing_bytes();
                inbox.lock().reserve(epoch, header.kept_bytes() + BATCH_OVERHEAD_BYTES + passing)?;
                let batch = header.read_batch(&mut reader, &mut buffers)?;
                let mut held = inbox.lock();
                held.put(epoch, header.partition, batch).map_err(PutError::from)?;
                held.release(epoch, passing);
                drop(held);
                acknowledge(&mut reader)?;
            }
            Some(Header { kind: Kind::Beat, .. }) => {}
            Some(Header { kind, .. }) => return Err(FrameError::Unexpected(kind).into()),
            None => return acknowledge(&mut reader),
        }
    }
}

/// A stream that is being received. While a batch crawls over a slow link, its sender waits for an acknowledgement;
/// so that it does not take the wait for silence, it hears a beat now and then as long as bytes come.
struct Taking {
    reader: Box<dyn Read + Send>,
    writer: Box<dyn Write + Send>,
    /// When the sender last heard of us.
    said: Instant,
}

impl Taking {
    fn say(&mut self, kind: Kind) -> io::Result<()> {
        self.said = Instant::now();
        write_frame(&mut self.writer, kind, &[])
    }
}

impl Read for Taking {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(into);
        // A part of an encrypted record counts, too.
        let is_moving = match &read {
            Ok(length) => *length > 0,
            Err(error) => error.kind() == io::ErrorKind::Interrupted,
        };
        if is_moving && self.said.elapsed() >= BEAT_INTERVAL {
            self.say(Kind::Beat)?;
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::logic::ids::WorkerId;
    use crate::runtime::memory::pair;
    use crate::wire::message::PACKED_BATCH_HEADER_BYTES;

    const EPOCH: Epoch = Epoch(2);
    const SOURCE: WorkerId = WorkerId(1);

    /// Receives what `send` sends: how it ended, and what is in the inbox.
    fn receive_into(limit: u64, send: impl FnOnce(Connection) + Send) -> (Result<(), ReceiveError>, usize) {
        let [sender, receiver] = pair();
        let inbox = Inbox::new(limit);
        inbox.lock().open(EPOCH, SOURCE).expect("the first stream");
        let received = std::thread::scope(|scope| {
            scope.spawn(move || send(sender));
            receive_stream(receiver, &inbox, EPOCH)
        });
        let held = inbox.lock().take(EPOCH, &BTreeSet::from([SOURCE])).expect("it is of this epoch");
        (received, held.values().map(Vec::len).sum())
    }

    fn receive(send: impl FnOnce(Connection) + Send) -> (Result<(), String>, usize) {
        let (received, held) = receive_into(1 << 20, send);
        let text = |error| match error {
            ReceiveError::Peer(cause) => cause,
            ReceiveError::Own(cause) => panic!("there is room: {cause}"),
        };
        (received.map_err(text), held)
    }

    #[test]
    fn what_there_is_no_room_for_is_no_fault_of_the_peer() {
        let full = receive_into(3, |mut connection| {
            let _ = write_frame(&mut connection.writer, Kind::Batch, &[b"\0\0\0\0\0\x02\0\0\0ab"]);
        });
        assert!(
            matches!(&full.0, Err(ReceiveError::Own(cause)) if cause.contains("than the 3 bytes")),
            "{full:?}"
        );
    }

    #[test]
    fn a_stream_is_whole_only_with_its_end() {
        let send = |frames: &'static [(Kind, &'static [u8])]| {
            move |mut connection: Connection| {
                for (kind, payload) in frames {
                    let _ = write_frame(&mut connection.writer, *kind, &[payload]);
                }
                // Until the receiver has ended.
                let _ = connection.reader.read_to_end(&mut Vec::new());
            }
        };
        let whole = send(&[
            (Kind::Batch, b"\0\0\0\0\0\x02\0\0\0ab"),
            (Kind::Beat, b""),
            (Kind::Batch, b"\x01\0\0\0\0\x01\0\0\0c"),
            (Kind::End, b""),
        ]);
        assert_eq!(receive(whole), (Ok(()), 2));
        let torn = receive(|mut connection| {
            let _ = write_frame(&mut connection.writer, Kind::Batch, &[&[0; PACKED_BATCH_HEADER_BYTES]]);
        });
        assert!(torn.0.is_err_and(|cause| cause.contains("without entries")));
        assert!(receive(send(&[(Kind::Batch, b"\0\0")])).0.is_err(), "a batch without its header");
        let short = receive(send(&[(Kind::Batch, b"\0\0\0\0\0\x02\0\0\0a")]));
        assert!(short.0.is_err_and(|cause| cause.contains("do not hold")), "less than it says");
        let torn = receive(send(&[(Kind::Batch, b"\0\0\0\0\x02\x02\0\0\0a")]));
        assert!(torn.0.is_err_and(|cause| cause.contains("cannot be unpacked")), "no Zstandard");
        assert!(receive(send(&[(Kind::Results, b"")])).0.is_err(), "another kind of frame");
    }
}
