//! A worker lists files and reads them, for those who may ask for that.

use super::*;
use crate::runtime::listing::{ListError, list};
use crate::wire::located::{Located, MAX_URL_BYTES};

const PATIENCE: Duration = Duration::from_secs(10);

/// Returns a connection on which the worker waits for a job.
fn greeted(served: &Served) -> Connection {
    let (connection, greeting) = served.say(&hello(Role::Client));
    assert!(matches!(greeting, Ok(Greeting::Welcome(_))), "{greeting:?}");
    connection
}

fn read(split: u64, path: &str, range: Option<[u64; 2]>) -> ToWorker {
    let located = Located { file: on_shelf(at(path), path.len() as u64), range };
    ToWorker::Read { split: SplitId(split), provisional: false, located }
}

#[test]
fn files_are_listed_in_order_and_a_job_begins_after_that() {
    let served = Served::start_trusting();
    let mut connection = greeted(&served);
    let places = [at("/a"), at("/missing"), Place::Url("http://h/b".into())];
    for _ in 0..2 {
        let listing = list(&mut connection, &places, PATIENCE).expect("it lists");
        let names: Vec<_> = listing.found.iter().map(|found| found.place.name()).collect();
        assert_eq!(names, [&b"/a"[..], b"http://h/b"]);
        assert_eq!(listing.failed, [(1, "it is not there".to_owned())]);
    }
    assert!(list(&mut connection, &[], PATIENCE).expect("there is nothing to ask").found.is_empty());
    let mut client = Client(connection);
    client.order(&ToWorker::Begin(begin(1)));
    assert_eq!(client.hear(), FromWorker::Begun);
    served.assert_well(1);
}

#[test]
fn long_listings_come_in_several_messages() {
    let served = Served::start_trusting();
    let mut connection = greeted(&served);
    let place = |n: usize| {
        let name = [format!("/{n:04}").into_bytes(), vec![0xff; 3_000]].concat();
        Place::Path(PathBytes(name))
    };
    let places: Vec<Place> = (0..500).map(place).collect();
    let listing = list(&mut connection, &places, PATIENCE).expect("it lists");
    assert!(listing.found.into_iter().map(|found| found.place).eq(places));
    assert!(listing.failed.is_empty());
}

#[test]
fn splits_are_read_with_their_records() {
    let served = Served::start_trusting();
    let mut client = served.client(begin(2));
    assert_eq!(client.hear(), FromWorker::Begun);
    // Lines of one word, one word and two.
    let text = "/a\nbb\nc d";
    for (split, range, pairs) in
        [(0, Some([0, 2]), 1), (1, Some([2, 3]), 0), (2, Some([3, 9]), 3), (3, None, 4), (4, Some([6, 7]), 1)]
    {
        client.order(&read(split, text, range));
        assert_eq!(client.hear(), FromWorker::Mapped { split: SplitId(split), pairs }, "{range:?}");
    }
    client.order(&read(9, "/missing", None));
    let heard = client.hear();
    let FromWorker::MapFailed { split: SplitId(9), cause, dropped, unreadable: true } = heard else {
        panic!("{heard:?}")
    };
    assert_eq!((cause.as_str(), dropped.len()), ("cannot be opened: it is not there", 0));
    // It goes on with others.
    client.order(&read(10, text, None));
    assert_eq!(client.hear(), FromWorker::Mapped { split: SplitId(10), pairs: 4 });
}

/// A client that proves nothing could be anybody who has a shell there, or none.
#[test]
fn who_proves_nothing_has_nothing_read() {
    let served = Served::start();
    let refused = list(&mut greeted(&served), &[at("/etc/shadow")], PATIENCE);
    let Err(ListError::Refused(cause)) = refused else { panic!("{refused:?}") };
    assert!(
        cause.contains("clients that prove who they are") && cause.contains("serve --allow-commands"),
        "{cause}"
    );
    let mut client = served.client(begin(3));
    assert_eq!(client.hear(), FromWorker::Begun);
    client.order(&read(0, "/etc/shadow", None));
    client.hear_failure("serve --allow-commands");
    served.assert_well(0);
}

#[test]
fn what_is_no_place_ends_the_conversation_and_no_more() {
    let served = Served::start_trusting();
    for place in [at("relative"), at("/nul\0"), Place::Url("file:///etc/shadow".into())] {
        let refused = list(&mut greeted(&served), std::slice::from_ref(&place), PATIENCE);
        assert!(matches!(refused, Err(ListError::Broken(_))), "{place:?} {refused:?}");
    }
    let far = Place::Url(format!("http://{}", "h".repeat(MAX_URL_BYTES)));
    assert!(list(&mut greeted(&served), &[far], PATIENCE).is_err());
    assert!(list(&mut greeted(&served), &[at("/mistake")], PATIENCE).is_err());
    for (job, order, what) in [
        (10, read(0, "relative", None), "no absolute path"),
        (11, read(0, "/a b", Some([0, 5])), "not inside its file"),
        (12, read(0, "/a b", Some([3, 3])), "not inside its file"),
        (13, ToWorker::List { places: vec![at("/a")] }, "before a job begins"),
    ] {
        let mut client = served.client(begin(job));
        assert_eq!(client.hear(), FromWorker::Begun);
        client.order(&order);
        client.hear_failure(what);
    }
    served.assert_well(0);
}

/// What a client hears of a worker that lies about what it lists.
#[test]
fn listings_that_are_none_are_refused() {
    let found = |path: &str| (0, on_shelf(at(path), 1));
    let listed = |found, failed| FromWorker::Listed { found, failed, is_last: true };
    for (message, what) in [
        (listed(vec![found("relative")], vec![]), "no absolute path"),
        (listed(vec![(1, on_shelf(at("/a"), 1))], vec![]), "what it was not asked for"),
        (listed(vec![], vec![(7, String::new())]), "what it was not asked for"),
        (FromWorker::Begun, "no listing"),
    ] {
        let [mut ours, mut theirs] = crate::runtime::memory::pair();
        write_message(&mut theirs.writer, &message).expect("there is room");
        let refused = list(&mut ours, &[at("/a")], PATIENCE).expect_err("it is no listing").to_string();
        assert!(refused.contains(what), "{refused}");
    }
    // One that only beats does not get on.
    let [mut ours, mut theirs] = crate::runtime::memory::pair();
    for _ in 0..3 {
        write_message(&mut theirs.writer, &FromWorker::Beat).expect("there is room");
    }
    let refused = list(&mut ours, &[at("/a")], Duration::from_nanos(1));
    assert!(refused.is_err(), "{refused:?}");
}
