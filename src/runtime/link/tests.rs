//! A link is listened to by hand, over a connection in memory.

use crossbeam_channel::SendError;

use super::*;
use crate::logic::ids::{JobId, SplitId};
use crate::logic::packing::{Compress, Packing};
use crate::logic::partition::Seed;
use crate::runtime::memory::pair;
use crate::wire::frame::{read_frame, write_frame};
use crate::wire::message::{SPLIT_HEADER_BYTES, SplitHeader, ToWorker, encode_results, write_message};
use crate::wire::pack::{Packed, Packer};

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
    let listeners = [heard.clone(), heard.clone(), heard]
        .map(|heard| -> Listener<u64> { Box::new(move |_, it| heard.send(it).is_ok()) });
    let chooser = Chooser::new(compress, &Packing::ALL, 1, 1);
    let partner = Partner { name: "w".into(), threads: 1, address: String::new(), chooser };
    let link = connect_link(WorkerId(0), partner, client, Arc::new(Input(input)), listeners);
    Linked { link: link.expect("threads can be started"), worker, answers, texts }
}

fn map(id: u64) -> Order {
    let split = Split { id: SplitId(id), file: 0, offset: 0, length: 1 };
    Order::Map { split, provisional: id.is_multiple_of(2) }
}

fn begin() -> Begin {
    Begin {
        job: JobId(7),
        name: "a job".into(),
        params: "{}".into(),
        seed: Seed([1, 2]),
        worker: WorkerId(0),
        timeout_ms: 10_000,
        compress: Compress::Auto,
        members: Vec::new(),
    }
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
        let header = SplitHeader::decode(*header, bytes.len()).expect("a header");
        let SplitHeader { split, provisional, packed, .. } = header;
        assert_eq!(provisional, split.0.is_multiple_of(2));
        let mut buffer = Vec::new();
        (split.0, packed.packing, packed.unpack(bytes, &mut buffer).expect("whole").to_vec())
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
        let credit = || Order::Credit { epoch: Epoch(1), batches: 1 };
        let _ = link.orders.send(credit());
        let _ = link.orders.send(credit());
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
    assert!(
        matches!(linked.next(), Answer::Unread { split: SplitId(0), cause } if cause == "the disk is gone")
    );
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
        let header = encode_results(Epoch(3), header);
        let written = write_frame(&mut linked.worker.writer, Kind::Results, &[&header, bytes]);
        written.expect("the client listens");
    };
    for packing in Packing::ALL {
        let mut linked = linked(Compress::Auto);
        let mut buffer = Vec::new();
        let length = Packer::new().pack(packing, &entries, &mut buffer);
        let bytes = length.map_or(&entries[..], |length| &buffer[..length]);
        let header = Packed { packing, length: entries.len() };
        send(&mut linked, header, bytes);
        let Answer::Results { epoch, batch } = linked.next() else { panic!("{packing:?}: no results") };
        assert!(epoch == Epoch(3) && batch == entries, "{packing:?}");
        send(&mut linked, header, &bytes[1..]);
        let Answer::Closed { cause } = linked.next() else { panic!("{packing:?}: it was taken") };
        assert!(cause.contains("malformed"), "{cause}");
    }
    let mut linked = linked(Compress::Auto);
    write_frame(&mut linked.worker.writer, Kind::Results, &[b"1234"]).expect("the client listens");
    assert!(matches!(linked.next(), Answer::Closed { .. }));
}

/// A link whose writer waits in the middle of a large frame, and whose feed has read one more.
fn stuck() -> (Linked, Vec<u8>) {
    let linked = linked(Compress::Always(Packing::Plain));
    let large = b"more than a socket holds ".repeat(200_000);
    linked.order(map(1));
    linked.texts.send(large.clone()).expect("the link is open");
    // The feed reads the next one only once the writer has taken the first.
    linked.order(map(2));
    linked.texts.send(b"the second".to_vec()).expect("the link is open");
    wait_until("the second is read", || linked.texts.is_empty());
    (linked, large)
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}: waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_split_that_is_discarded_before_it_is_written_is_answered_for_and_never_written() {
    let (mut linked, large) = stuck();
    linked.order(map(3));
    linked.order(Order::Discard(SplitId(2)));
    linked.order(Order::Discard(SplitId(1)));
    linked.order(Order::Discard(SplitId(3)));
    // Sent again, it is another execution.
    linked.order(map(2));
    linked.order(Order::Reduce { epoch: Epoch(4), top: None });
    assert!(linked.split() == (1, Packing::Plain, large));
    let message = |linked: &mut Linked| {
        let (kind, payload) = linked.frame().expect("a frame");
        assert_eq!(kind, Kind::Control);
        decode_message::<ToWorker>(&payload).expect("a message")
    };
    // That one is at the worker already.
    assert!(matches!(message(&mut linked), ToWorker::Discard { split: SplitId(1) }));
    assert!(matches!(message(&mut linked), ToWorker::Reduce { epoch: Epoch(4), top: None }));
    for id in [2, 3] {
        let Answer::Unsent { split } = linked.next() else { panic!("not answered") };
        assert_eq!(split, SplitId(id));
    }
    linked.texts.send(b"the second again".to_vec()).expect("the link is open");
    assert!(linked.split() == (2, Packing::Plain, b"the second again".to_vec()));
    assert!(linked.texts.is_empty(), "a split was read that nobody wanted");
}

#[test]
fn a_feed_whose_writer_has_ended_reads_nothing_more() {
    let linked = linked(Compress::Auto);
    (1..5).for_each(|id| linked.order(map(id)));
    linked.order(Order::End);
    wait_until("the end is written", || linked.link.is_written());
    for _ in 0..2 {
        // The first read may have begun before.
        let _ = linked.texts.send(b"text".to_vec());
    }
    // Once the feed has ended, it has dropped the input.
    wait_until("the feed ends", || linked.texts.send(b"text".to_vec()).is_err());
    let heard: Vec<_> = linked.answers.try_iter().filter(|it| matches!(it, Answer::Unread { .. })).collect();
    assert!(heard.is_empty(), "what nobody wants was missed");
}

#[test]
fn a_link_whose_writer_is_stuck_ends_when_it_is_cut() {
    let (linked, _) = stuck();
    linked.order(Order::End);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!linked.link.is_written(), "the worker reads nothing");
    linked.link.cut();
    wait_until("the writer ends", || linked.link.is_written());
    assert!(matches!(linked.next(), Answer::Closed { .. }));
    wait_until("the feed ends", || linked.texts.send(b"text".to_vec()).is_err());
}

/// A spare has nothing to say for as long as it is one.
#[test]
fn only_a_worker_that_was_told_of_the_job_has_a_deadline() {
    let mut linked = linked(Compress::Auto);
    let control = linked.link.control.clone().expect("there is a connection");
    control.set_deadline(Duration::from_millis(50)).expect("it is open");
    // The reader began to wait under the deadline of before.
    write_message(&mut linked.worker.writer, &FromWorker::Beat).expect("the client listens");
    assert!(matches!(linked.next(), Answer::Message(FromWorker::Beat)));
    assert!(linked.answers.recv_timeout(Duration::from_millis(400)).is_err(), "a spare was missed");
    linked.order(Order::Begin(begin()));
    assert!(matches!(linked.next(), Answer::Closed { .. }));
}
