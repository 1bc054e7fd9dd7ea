//! Answers: the worker's writing end of a client's connection: what the job says, its result, and beats meanwhile.

use std::io::{self, Write};
use std::sync::Arc;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::job::Value;
use crate::logic::ids::Epoch;
use crate::logic::packing::Packing;
use crate::runtime::link::{Answer, BEAT_INTERVAL, Control};
use crate::runtime::worker::Tell;
use crate::wire::frame::{FrameError, Kind, write_frame};
use crate::wire::message::{FromWorker, encode_results, write_message};
use crate::wire::pack::{Packed, Packer};

/// What the writer is given.
pub(super) enum Outgoing {
    Message(FromWorker),
    /// Encoded entries of the result.
    Results {
        epoch: Epoch,
        batch: Vec<u8>,
    },
    /// The result that follows travels so.
    Pack(Packing),
}

/// Returns what the job tells the client through.
pub(super) fn teller<V: Value>(answers: &Sender<Outgoing>) -> Tell<V> {
    let answers = answers.clone();
    Arc::new(move |answer| {
        let outgoing = match answer {
            Answer::Message(message) => Outgoing::Message(message),
            Answer::Results { epoch, batch } => Outgoing::Results { epoch, batch },
            // What only a client hears of its own end of a link.
            Answer::Sorted(_)
            | Answer::Unread { .. }
            | Answer::InputFailed { .. }
            | Answer::Closed { .. }
            | Answer::Unsent { .. } => {
                return true;
            }
        };
        answers.send(outgoing).is_ok()
    })
}

/// Writes answers, and beats while there are none, until the job is over or the client is gone.
pub(super) fn write_answers(
    mut writer: Box<dyn Write + Send>,
    outgoing: &Receiver<Outgoing>,
    control: &dyn Control,
) {
    let mut results = Results::new();
    loop {
        let written = match outgoing.recv_timeout(BEAT_INTERVAL) {
            Ok(Outgoing::Message(message)) => write_message(&mut writer, &message),
            Ok(Outgoing::Results { epoch, batch }) => {
                results.write(&mut writer, epoch, &batch).map_err(FrameError::from)
            }
            Ok(Outgoing::Pack(packing)) => {
                results.packing = packing;
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => write_message(&mut writer, &FromWorker::Beat),
            Err(RecvTimeoutError::Disconnected) => {
                let _ = write_frame(&mut writer, Kind::End, &[]);
                control.close();
                return;
            }
        };
        if written.is_err() {
            control.close();
            return;
        }
    }
}

/// Writes batches of the result, packed as the client wants them.
struct Results {
    packing: Packing,
    packer: Packer,
    buffer: Vec<u8>,
}

impl Results {
    fn new() -> Self {
        Self { packing: Packing::Plain, packer: Packer::new(), buffer: Vec::new() }
    }

    fn write(&mut self, to: &mut impl Write, epoch: Epoch, batch: &[u8]) -> io::Result<()> {
        let length = batch.len();
        let (packing, bytes) = match self.packer.pack(self.packing, batch, &mut self.buffer) {
            Some(packed) => (self.packing, &self.buffer[..packed]),
            None => (Packing::Plain, batch),
        };
        write_frame(to, Kind::Results, &[&encode_results(epoch, Packed { packing, length }), bytes])
    }
}
