//! Inbox: the receiving end of the shuffle: streams of batches, acknowledged and kept for the reduce.
//!
//! Invariant: a receiver only ever waits for its own source, and takes whatever comes; so no ring of full buffers can
//! stand still.

use std::io::{self, BufReader, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::logic::ids::Epoch;
use crate::logic::inbox;
use crate::wire::frame::{FrameError, Header, Kind, MAX_PAYLOAD_BYTES, read_header, write_frame};
use crate::wire::receive::read_batch;

use super::link::{BEAT_INTERVAL, Connection, READ_BUFFER_BYTES};

/// What arrived from peers. A lock: one thread for each source puts in, the reduce takes out.
#[derive(Default)]
pub(crate) struct Inbox(Mutex<inbox::Inbox<Vec<u8>>>);

impl Inbox {
    /// Gives access to what is held.
    pub(crate) fn lock(&self) -> MutexGuard<'_, inbox::Inbox<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receives one peer's stream, acknowledging each batch, until its end.
///
/// # Errors
/// If the stream breaks or is stale.
pub(crate) fn receive_stream(connection: Connection, inbox: &Inbox, epoch: Epoch) -> Result<(), String> {
    let Connection { reader, writer, .. } = connection;
    let taking = Taking { reader, writer, said: Instant::now() };
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, taking);
    let acknowledge = |reader: &mut BufReader<Taking>| {
        let said = reader.get_mut().say(Kind::Ack);
        said.map_err(|error| FrameError::from(error).to_string())
    };
    let mut buffers = [Vec::new(), Vec::new()];
    let text = |error: FrameError| error.to_string();
    loop {
        match read_header(&mut reader, MAX_PAYLOAD_BYTES).map_err(text)? {
            Some(Header { kind: Kind::Batch, length }) => {
                let (partition, batch) = read_batch(&mut reader, &mut buffers, length).map_err(text)?;
                inbox.lock().put(epoch, partition, batch).map_err(|error| error.to_string())?;
                acknowledge(&mut reader)?;
            }
            Some(Header { kind: Kind::Beat, .. }) => {}
            Some(Header { kind, .. }) => return Err(FrameError::Unexpected(kind).to_string()),
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
    fn receive(send: impl FnOnce(Connection) + Send) -> (Result<(), String>, usize) {
        let [sender, receiver] = pair();
        let inbox = Inbox::default();
        inbox.lock().open(EPOCH, SOURCE).expect("the first stream");
        let received = std::thread::scope(|scope| {
            scope.spawn(move || send(sender));
            receive_stream(receiver, &inbox, EPOCH)
        });
        let held = inbox.lock().take(EPOCH, &BTreeSet::from([SOURCE])).expect("it is of this epoch");
        (received, held.values().map(Vec::len).sum())
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
            (Kind::Batch, b"\x01\0\0\0\0\0\0\0\0"),
            (Kind::End, b""),
        ]);
        assert_eq!(receive(whole), (Ok(()), 2));
        let torn = receive(|mut connection| {
            let _ = write_frame(&mut connection.writer, Kind::Batch, &[&[0; PACKED_BATCH_HEADER_BYTES]]);
        });
        assert!(torn.0.is_err_and(|cause| cause.contains("middle of a conversation")));
        assert!(receive(send(&[(Kind::Batch, b"\0\0")])).0.is_err(), "a batch without its header");
        let short = receive(send(&[(Kind::Batch, b"\0\0\0\0\0\x02\0\0\0a")]));
        assert!(short.0.is_err_and(|cause| cause.contains("do not hold")), "less than it says");
        let torn = receive(send(&[(Kind::Batch, b"\0\0\0\0\x02\x02\0\0\0a")]));
        assert!(torn.0.is_err_and(|cause| cause.contains("cannot be unpacked")), "no Zstandard");
        assert!(receive(send(&[(Kind::Results, b"")])).0.is_err(), "another kind of frame");
    }
}
