//! A link is listened to by hand, over a connection in memory.

use crossbeam_channel::SendError;

use super::*;
use crate::logic::ids::SplitId;
use crate::logic::packing::Compress;
use crate::runtime::memory::pair;
use crate::wire::frame::{read_frame, write_frame};
use crate::wire::message::{SPLIT_HEADER_BYTES, ToWorker, decode_split, write_message};
use crate::wire::pack::Packer;

/// An input of which each read waits for its text; without one it fails.
struct Input(Receiver<Vec<u8>>);

impl SplitSource for Input {
    fn read(&self, _: &Split, into: &mut Vec<u8>) -> anyhow::Result<()> {
        let text = self.0.recv().map_err(|_| anyhow::anyhow!("the disk is gone"))?;
        into.clear();
        into.extend_from_slice(&text);
        Ok(())
    }

    fn describe(&self, _: &Split) -> String {
        String::new()
    }
}

struct Linked {
    link: Link,
    worker: Connection,
    answers: Receiver<Answer<u64>>,
    /// Where the texts of the splits come from.
    texts: Sender<Vec<u8>>,
}

fn linked(compress: Compress) -> Linked {
    let [client, worker] = pair();
    let (heard, answers) = unbounded();
    let (texts, input) = unbounded();
    let listeners = [heard.clone(), heard]
        .map(|heard| -> Listener<u64> { Box::new(move |_, it| heard.send(it).is_ok()) });
    let chooser = Chooser::new(compress, &Packing::ALL, 1, 1);
    let partner = Partner { name: "w".into(), threads: 1, address: String::new(), chooser };
    let link = connect_link(WorkerId(0), partner, client, Arc::new(Input(input)), listeners);
    Linked { link: link.expect("threads can be started"), worker, answers, texts }
}

fn map(id: u64) -> Order {
    Order::Map(Split { id: SplitId(id), file: 0, offset: 0, length: 1 })
}

impl Linked {
    fn next(&self) -> Answer<u64> {
        self.answers.recv_timeout(Duration::from_secs(20)).expect("something is heard")
    }

    fn order(&self, order: Order) {
        self.link.orders.send(order).map_err(|SendError(_)| ()).expect("the link is open");
    }

    /// What the worker reads next.
    fn frame(&mut self) -> Option<(Kind, Vec<u8>)> {
        let mut payload = Vec::new();
        let kind = read_frame(&mut self.worker.reader, &mut payload, MAX_PAYLOAD_BYTES).expect("a frame");
        kind.map(|kind| (kind, payload))
    }

    /// The next frame, which is a split: its id, how it came, its text.
    fn split(&mut self) -> (u64, Packing, Vec<u8>) {
        let (kind, payload) = self.frame().expect("a frame");
        assert_eq!(kind, Kind::Split);
        let (header, bytes) = payload.split_first_chunk::<SPLIT_HEADER_BYTES>().expect("a header");
        let (id, packed) = decode_split(*header, bytes.len()).expect("a header");
        let mut buffer = Vec::new();
        (id.0, packed.packing, packed.unpack(bytes, &mut buffer).expect("whole").to_vec())
    }
}

/// The client goes on writing when the worker has closed; what the worker said before must not be overtaken.
#[test]
fn the_last_words_of_a_worker_are_heard_before_its_link_is_closed() {
    for _ in 0..20 {
        let Linked { link, mut worker, answers, .. } = linked(Compress::Auto);
        let failed = FromWorker::Failed { cause: "no memory".into() };
        write_message(&mut worker.writer, &failed).expect("the client listens");
        drop(worker);
        let _ = link.orders.send(Order::Credit { batches: 1 });
        let _ = link.orders.send(Order::Credit { batches: 1 });
        let next = || answers.recv_timeout(Duration::from_secs(20)).expect("something is heard");
        assert!(matches!(next(), Answer::Message(message) if message == failed));
        assert!(matches!(next(), Answer::Closed { .. }));
        assert!(answers.recv_timeout(Duration::from_millis(1)).is_err(), "it is closed once");
    }
}

#[test]
fn a_split_that_cannot_be_read_is_no_fault_of_the_worker() {
    let mut linked = linked(Compress::Auto);
    linked.texts = unbounded().0;
    linked.order(map(0));
    assert!(matches!(linked.next(), Answer::Unread { cause } if cause == "the disk is gone"));
    // The worker is told of the end as ever.
    linked.order(Order::End);
    assert_eq!(linked.frame(), None);
}

#[test]
fn a_link_that_is_dropped_ends_the_job_and_says_when_that_is_written() {
    let Linked { link, mut worker, .. } = linked(Compress::Auto);
    let Link { orders, written, .. } = link;
    drop(orders);
    assert!(written.recv_timeout(Duration::from_secs(20)).is_err_and(|error| error.is_disconnected()));
    assert!(matches!(read_frame(&mut worker.reader, &mut Vec::new(), 0), Ok(None)));
}

#[test]
fn splits_arrive_in_order_as_they_are_wanted_packed_or_not() {
    for packing in Packing::ALL {
        let mut linked = linked(Compress::Always(packing));
        let text = |id: u64| format!("split {id} of some, ").repeat(1000 * id as usize).into_bytes();
        for id in 1..8 {
            linked.order(map(id));
            linked.texts.send(text(id)).expect("the link is open");
        }
        for id in 1..8 {
            assert!(linked.split() == (id, packing, text(id)), "split {id}, {packing:?}");
        }
        // What is no smaller when it is packed is not packed.
        linked.order(map(9));
        linked.texts.send(b"x".to_vec()).expect("the link is open");
        assert_eq!(linked.split(), (9, Packing::Plain, b"x".to_vec()));
    }
}

#[test]
fn a_link_whose_input_stalls_beats_and_can_be_ended() {
    let mut linked = linked(Compress::Auto);
    linked.order(map(1));
    for _ in 0..2 {
        let (kind, payload) = linked.frame().expect("a frame");
        assert_eq!(kind, Kind::Control);
        assert!(matches!(decode_message(&payload), Ok(ToWorker::Beat)));
    }
    linked.order(Order::End);
    assert_eq!(linked.frame(), None);
}

#[test]
fn results_are_unpacked_and_malformed_ones_end_the_link() {
    let entries = b"\x03the\x05\x01a\x04".repeat(100);
    let send = |linked: &mut Linked, header: Packed, bytes: &[u8]| {
        let written = write_frame(&mut linked.worker.writer, Kind::Results, &[&header.encode(), bytes]);
        written.expect("the client listens");
    };
    for packing in Packing::ALL {
        let mut linked = linked(Compress::Auto);
        let mut buffer = Vec::new();
        let length = Packer::new().pack(packing, &entries, &mut buffer);
        let bytes = length.map_or(&entries[..], |length| &buffer[..length]);
        let header = Packed { packing, length: entries.len() };
        send(&mut linked, header, bytes);
        assert!(matches!(linked.next(), Answer::Results(batch) if batch == entries), "{packing:?}");
        send(&mut linked, header, &bytes[1..]);
        let Answer::Closed { cause } = linked.next() else { panic!("{packing:?}: it was taken") };
        assert!(cause.contains("malformed"), "{cause}");
    }
    let mut linked = linked(Compress::Auto);
    write_frame(&mut linked.worker.writer, Kind::Results, &[b"1234"]).expect("the client listens");
    assert!(matches!(linked.next(), Answer::Closed { .. }));
}
