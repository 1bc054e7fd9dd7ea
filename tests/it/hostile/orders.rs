//! Orders: a client of the cluster that says what no client says.

use std::net::TcpListener;

use mapreduce::edge::identity::SHARED_WORKER_NAME;
use mapreduce::logic::ids::{Epoch, JobId, SplitId, WorkerId};
use mapreduce::logic::limits::Limits;
use mapreduce::logic::packing::Packing;
use mapreduce::wire::frame::Kind;
use mapreduce::wire::message::{Begin, FromWorker, ToWorker};
use mapreduce::wire::pack::Packed;

use super::members::{EPOCH, Member, begin, shuffle};
use super::stage::{LIMIT, Stage};
use crate::harness::with_deadline;

/// What is said after the greeting, and what the worker has against it; nothing if it says nothing.
type Order<'s> = (&'static str, Box<dyn Fn(&mut Member) + Sync + 's>, &'static str);

fn order<'s>(name: &'static str, say: impl Fn(&mut Member) + Sync + 's, against: &'static str) -> Order<'s> {
    (name, Box::new(say), against)
}

/// Text of `length` bytes, packed.
fn packed(packing: Packing, length: usize) -> Vec<u8> {
    let text = vec![b' '; length];
    match packing {
        Packing::Plain => text,
        Packing::Lz4 => lz4_flex::block::compress(&text),
        Packing::Zstd => zstd::bulk::compress(&text, 1).expect("it packs"),
    }
}

/// A frame's header with any kind and length, and a few bytes of it.
fn torn_frame(kind: u8, length: u32) -> Vec<u8> {
    [&length.to_le_bytes()[..], &[kind, 0, 0, 0], b"some bytes"].concat()
}

/// What does not begin a job.
fn before_the_job() -> Vec<Order<'static>> {
    let mut orders = vec![
        order("a frame of no kind", |client| client.say(&torn_frame(99, 10)), ""),
        order("a split before the job", |client| client.text(1, "a b"), ""),
        order("a batch before the job", |client| client.frame(Kind::Batch, b"12345"), ""),
        order("the end before the job", |client| client.frame(Kind::End, b""), ""),
        order("routes before the job", |client| client.order(&shuffle(&[(0, "127.0.0.1:1")], &[0])), ""),
        order("no JSON", |client| client.frame(Kind::Control, b"{\"begin\": "), ""),
        order("JSON that goes deep", |client| client.frame(Kind::Control, &[b'['; 900_000]), ""),
        order("a string of a MiB", |client| client.frame(Kind::Control, &[b'"'; 1 << 20]), ""),
        order(
            "another job",
            |client| client.order(&ToWorker::Begin(Begin { name: "sort".into(), ..begin() })),
            "\"sort\"",
        ),
        order(
            "parameters that go deep",
            |client| client.order(&ToWorker::Begin(Begin { params: "[".repeat(500_000), ..begin() })),
            "parameters",
        ),
    ];
    for kind in 1..=7 {
        orders.push(order("a huge frame", move |client| client.say(&torn_frame(kind, u32::MAX)), ""));
    }
    orders
}

/// What a frame of a split holds: 30 bytes of text that say how they are encoded and packed, and how long the name is.
fn split_frame(encoding: u8, name_bytes: u16, packing: u8) -> Vec<u8> {
    let name_bytes = name_bytes.to_le_bytes();
    [&[0; 9][..], &[encoding], &[0; 8], &name_bytes, &[packing], &[77; 34]].concat()
}

/// What goes wrong within a job.
fn within_the_job() -> Vec<Order<'static>> {
    let lie = |packing, length| Packed { packing, length };
    let mut orders = vec![
        order("a batch", |client| client.frame(Kind::Batch, b"12345"), "does not belong here"),
        order("results", |client| client.frame(Kind::Results, b"123456789"), "does not belong here"),
        order("an acknowledgement", |client| client.frame(Kind::Ack, b""), "does not belong here"),
        order("a frame of no kind", |client| client.say(&torn_frame(200, 10)), "not a frame"),
        order("a job within a job", |client| client.order(&ToWorker::Begin(begin())), "within another"),
        order("a split without a header", |client| client.frame(Kind::Split, b"123"), "without its header"),
        order("no packing", |client| client.frame(Kind::Split, &split_frame(0, 0, 77)), "packing 77 is none"),
        order("no encoding", |client| client.frame(Kind::Split, &split_frame(77, 0, 0)), "unknown encoding"),
        order("no name", |client| client.frame(Kind::Split, &split_frame(0, 9999, 0)), "name of its file"),
        order("a plain lie", move |client| client.split(1, lie(Packing::Plain, 9), b"1234"), "do not hold"),
        order("an LZ4 lie", move |client| client.split(1, lie(Packing::Lz4, 5_000), b"1234"), "do not hold"),
        order(
            "more than there may be",
            move |client| client.split(1, lie(Packing::Zstd, u32::MAX as usize), &[0; 200_000]),
            "longer than",
        ),
        order(
            "no Zstandard",
            move |client| client.split(1, lie(Packing::Zstd, 300 << 20), &[7; 100_000]),
            "cannot be unpacked",
        ),
        order("no LZ4", move |client| client.split(1, lie(Packing::Lz4, 900), &[0xf7; 100]), "unpacked"),
        order(
            "the reduce at once",
            |client| client.order(&ToWorker::Reduce { epoch: EPOCH, limits: Limits::default() }),
            "",
        ),
        order("a result that is not there", |client| fetch(client, EPOCH, u32::MAX), ""),
        order("a result of no epoch", |client| fetch(client, Epoch(u32::MAX), 0), ""),
        order("credit without end", |client| (0..5_000).for_each(|_| credit(client, u32::MAX)), ""),
        order("splits that are not there", |client| (0..2_000).for_each(|split| conclude(client, split)), ""),
        order("the same split again", |client| (0..50).for_each(|_| client.text(7, "a b c")), ""),
        order(
            "routes without a partition",
            |client| route(client, &[(0, "127.0.0.1:1")], &[]),
            "no partition",
        ),
        order(
            "routes that name one twice",
            |client| route(client, &[(0, "127.0.0.1:1"), (0, "127.0.0.1:2")], &[0]),
            "twice",
        ),
        order(
            "owners that are not there",
            |client| route(client, &[(0, "127.0.0.1:1")], &[0, 9]),
            "not there",
        ),
    ];
    for packing in [Packing::Lz4, Packing::Zstd] {
        let bomb = packed(packing, 16 << 20);
        orders.push(order(
            "a bomb that unpacks to more than it says",
            move |client| client.split(1, lie(packing, 1_000), &bomb),
            "cannot be unpacked",
        ));
    }
    for kind in 1..=7 {
        orders.push(order(
            "a huge frame",
            move |client| client.say(&torn_frame(kind, u32::MAX)),
            "longer than",
        ));
    }
    orders
}

fn fetch(client: &mut Member, epoch: Epoch, credit: u32) {
    client.order(&ToWorker::Fetch { epoch, credit, packing: Packing::Zstd });
}

fn credit(client: &mut Member, batches: u32) {
    client.order(&ToWorker::Credit { epoch: EPOCH, batches });
}

fn conclude(client: &mut Member, split: u64) {
    client.order(&ToWorker::Commit { split: SplitId(split) });
    client.order(&ToWorker::Discard { split: SplitId(split << 40) });
}

fn route(client: &mut Member, workers: &[(u32, &str)], owners: &[u32]) {
    client.order(&shuffle(workers, owners));
}

/// Does all of `orders`, each in a conversation of its own, one after the other.
fn give(stage: &Stage, orders: &[Order<'_>], has_begun: bool) {
    for (name, say, against) in orders {
        let mut client = if has_begun { Member::with_job(stage, begin()) } else { Member::client(stage) };
        say(&mut client);
        if against.is_empty() {
            // Whatever comes of it ends with the connection.
            client.frame(Kind::End, b"");
        }
        let heard = client.hear_refusal();
        assert!(heard.contains(against), "{name}: the worker has {heard:?} against it, not {against:?}");
    }
}

fn orders_on(stage: &Stage) {
    let (before, within) = (before_the_job(), within_the_job());
    let what = format!("{} orders that no client gives", before.len() + within.len());
    stage.withstands_again(&what, || {
        give(stage, &before, false);
        give(stage, &within, true);
    });
}

#[test]
fn orders_that_no_client_gives_end_their_job_only() {
    with_deadline(LIMIT, || orders_on(&Stage::with_one_heap(2)));
}

#[test]
fn orders_that_no_client_gives_end_their_job_only_in_plaintext() {
    with_deadline(LIMIT, || orders_on(&Stage::plaintext(2)));
}

/// A worker connects where its client says: it does so without harm, whatever is there.
#[test]
fn routes_may_lead_anywhere() {
    with_deadline(LIMIT, || {
        let stage = Stage::encrypted(2);
        let nobody = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("it is bound").to_string()
        };
        // It takes connections and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let silent = silent.local_addr().expect("it is bound").to_string();
        let (own, other) = (stage.addresses()[0].clone(), stage.addresses()[1].clone());
        let long = "9".repeat(100_000);
        let ssh = "127.0.0.1:22".to_owned();
        let addresses = [
            (nobody.as_str(), "peer: "),
            (&silent, "peer: "),
            // A worker does not know a job that was not begun there.
            (&other, "peer: "),
            (&ssh, "peer: "),
            ("", "peer: "),
            ("localhost:80", "is not an address"),
            ("127.0.0.1", "is not an address"),
            ("127.0.0.1:99999", "is not an address"),
            ("[::1]:1", "peer: "),
            ("0.0.0.0:1", "peer: "),
            ("255.255.255.255:1", "peer: "),
            (&long, "is not an address"),
        ];
        stage.withstands("routes that lead anywhere", || {
            for (address, against) in addresses {
                let mut client = Member::with_job(&stage, begin());
                client.text(1, "one two three");
                assert!(matches!(client.hear(), Some(FromWorker::Mapped { .. })));
                route(&mut client, &[(0, &own), (1, address)], &[0, 1]);
                let heard = client.hear_refusal_patiently();
                assert!(heard.contains(against), "{address:.100}: {heard:.300}");
            }
            // To itself, as if it were its peer; then it has a stream of one that is not there.
            let mut client = Member::with_job(&stage, begin());
            client.text(1, "one two three");
            route(&mut client, &[(0, &own), (1, &own)], &[0, 1]);
            std::thread::sleep(std::time::Duration::from_millis(300));
            client.order(&ToWorker::Reduce { epoch: EPOCH, limits: Limits::default() });
            let heard = client.hear_refusal();
            assert!(heard.contains("shuffle"), "{heard}");
        });
    });
}

/// What is long is as long as a message may be, and not more than that is held for it.
#[test]
fn lists_without_end_are_bounded() {
    with_deadline(LIMIT, || {
        let stage = Stage::with_one_heap(2);
        let own = stage.addresses()[0].clone();
        stage.withstands_again("lists without end", || {
            for _ in 0..3 {
                let crowd = Begin { members: vec!["a".to_owned(); 100_000], ..begin() };
                let mut client = Member::with_job(&stage, crowd);
                client.text(1, "one two three");
                assert!(matches!(client.hear(), Some(FromWorker::Mapped { .. })));
                // A partition is a few bytes of the message.
                route(&mut client, &[(0, &own)], &[0; 100_000]);
                assert!(matches!(client.hear(), Some(FromWorker::Shuffled { .. })));
                client.frame(Kind::End, b"");
                assert_eq!(client.hear(), None);
            }
            let many: Vec<(u32, &str)> = (0..20_000).map(|id| (id, "127.0.0.1:1")).collect();
            let mut client = Member::with_job(&stage, begin());
            route(&mut client, &many, &[0]);
            assert!(client.hear_refusal().contains("too many"));
            // Without waiting for an answer: it holds no more than it asked for.
            let mut client = Member::with_job(&stage, begin());
            let text = "word ".repeat(10_000);
            (0..500).for_each(|split| client.text(split, &text));
            assert!(!client.hear_refusal().is_empty());
        });
    });
}

/// The times that a client may ask for have bounds, and the numbers it gives need not mean anything.
#[test]
fn numbers_may_be_anything() {
    with_deadline(LIMIT, || {
        let stage = Stage::encrypted(2);
        stage.withstands("numbers that mean nothing", || {
            let odd = [
                Begin { timeout_ms: u64::MAX, ..begin() },
                Begin { worker: WorkerId(u32::MAX), ..begin() },
                Begin { job: JobId(0), members: Vec::new(), ..begin() },
                Begin { job: JobId(u64::MAX), members: vec![SHARED_WORKER_NAME.into()], ..begin() },
            ];
            for begin in odd {
                let mut client = Member::with_job(&stage, begin);
                client.text(u64::MAX, "a b c");
                assert!(matches!(client.hear(), Some(FromWorker::Mapped { split: SplitId(u64::MAX), .. })));
            }
            // Nothing is said for as long as a client asks for, the least of which there is.
            let mut client = Member::with_job(&stage, Begin { timeout_ms: 0, ..begin() });
            assert_eq!(client.hear(), None);
        });
    });
}
