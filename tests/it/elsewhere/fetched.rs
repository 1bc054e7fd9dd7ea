//! What servers have is read whole and unmixed, or not at all.

use std::io::{self, Read, Write};
use std::time::Duration;

use mapreduce::edge::storage::Places;
use mapreduce::runtime::storage::{Listed, Storage};
use mapreduce::wire::encoding::Encoding;
use mapreduce::wire::located::{Found, Place};

use super::server::{Manner, Server};
use crate::harness::with_deadline;

const LIMIT: Duration = Duration::from_secs(60);

pub fn body() -> Vec<u8> {
    (0..20_000).flat_map(|n| format!("line {n} of some page\n").into_bytes()).collect()
}

fn look(url: String) -> Result<Found, String> {
    let mut looked = None;
    Places::new().list(&[Place::Url(url)], &mut |listed| {
        looked = Some(match listed {
            Listed::File(0, found) => Ok(found),
            Listed::Failed(0, cause) => Err(cause),
            other => panic!("{other:?}"),
        });
        true
    });
    looked.expect("something is told")
}

/// Reads from byte `from` on, as much as a range that ends at `until` would, and then the rest.
fn read(found: &Found, from: u64, until: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    Places::new().open(found, from, until)?.read_to_end(&mut text)?;
    Ok(text)
}

fn one(body: Vec<u8>, manner: Manner) -> Server {
    Server::start(vec![("/page", body, manner)])
}

#[test]
fn pages_are_read_whole_however_they_come() {
    with_deadline(LIMIT, || {
        let body = body();
        for (manner, length, has_ranges) in [
            (Manner::Ranges, true, true),
            (Manner::Whole, true, false),
            (Manner::Chunked, false, false),
            (Manner::BreaksOff { bytes: 100_000, times: 2, whole: false }, true, true),
            (Manner::BreaksOff { bytes: 100_000, times: 2, whole: true }, true, false),
            (Manner::Busy(2), true, true),
        ] {
            let server = one(body.clone(), manner.clone());
            let found = look(server.url("/page")).unwrap_or_else(|cause| panic!("{manner:?}: {cause}"));
            assert_eq!(found.length, length.then_some(body.len() as u64), "{manner:?}");
            assert_eq!((found.has_ranges, found.encoding), (has_ranges, Encoding::Plain), "{manner:?}");
            let text =
                read(&found, 0, body.len() as u64).unwrap_or_else(|error| panic!("{manner:?}: {error}"));
            assert!(text == body, "{manner:?}: {} bytes", text.len());
            assert!(
                server
                    .requests()
                    .iter()
                    .all(|asked| asked.to_lowercase().contains("accept-encoding: identity"))
            );
        }
    });
}

#[test]
fn ranges_are_read_from_anywhere_and_beyond_their_end() {
    with_deadline(LIMIT, || {
        let body = body();
        let server = one(body.clone(), Manner::BreaksOff { bytes: 70_000, times: 3, whole: false });
        let found = look(server.url("/page")).expect("it is there");
        let length = body.len() as u64;
        for (from, until) in
            [(0, 10), (1, length), (100_000, 100_001), (length - 1, length), (length, length)]
        {
            assert!(
                read(&found, from, until).expect("it is there") == body[from as usize..],
                "{from} to {until}"
            );
        }
        // What is not wanted is not asked for, but for a little.
        let before = server.requests().len();
        let mut some = vec![0; 1000];
        Places::new()
            .open(&found, 5_000, 6_000)
            .expect("it is there")
            .read_exact(&mut some)
            .expect("it is there");
        assert_eq!(some, body[5_000..6_000]);
        let asked = server.requests().split_off(before);
        assert_eq!(asked.len(), 1);
        assert!(asked[0].to_lowercase().contains("range: bytes=5000-22383\r\n"), "{asked:?}");
    });
}

#[test]
fn empty_and_packed_pages_are_known_for_what_they_are() {
    with_deadline(LIMIT, || {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&body()).expect("memory");
        let packed = packer.finish().expect("memory");
        for manner in [Manner::Ranges, Manner::Whole, Manner::Chunked] {
            let server = one(Vec::new(), manner.clone());
            let found = look(server.url("/page")).expect("it is there");
            assert_eq!(found.length.unwrap_or(0), 0, "{manner:?}");
            assert_eq!(read(&found, 0, 0).expect("it is there"), b"", "{manner:?}");
            let server = one(packed.clone(), manner.clone());
            let found = look(server.url("/page")).expect("it is there");
            assert_eq!((found.encoding, found.has_parts()), (Encoding::Gzip, false), "{manner:?}");
            assert!(read(&found, 0, packed.len() as u64).expect("it is there") == packed, "{manner:?}");
        }
    });
}

#[test]
fn ways_lead_on_and_passwords_are_said_to_the_server_alone() {
    with_deadline(LIMIT, || {
        let target = one(body(), Manner::Ranges);
        let leading = Server::start(vec![
            ("/a", Vec::new(), Manner::Leads("/b".to_owned())),
            ("/b", Vec::new(), Manner::Leads(target.url("/page"))),
            ("/loop", Vec::new(), Manner::Leads("/loop".to_owned())),
        ]);
        let found = look(leading.url("/a")).expect("it leads there");
        assert!(read(&found, 0, 1000).expect("it leads there") == body());
        let cause = look(leading.url("/loop")).expect_err("it leads nowhere");
        let asked = leading.requests().iter().filter(|asked| asked.contains("/loop ")).count();
        assert!(cause.contains("redirect") && asked < 10, "{asked}: {cause}");

        let server = one(body(), Manner::Guarded("bWU6c2VjcmV0"));
        let found = look(server.url_of("me:secret", "/page")).expect("he may");
        assert!(read(&found, 0, 1000).expect("he may") == body());
        assert_eq!(found.place.name(), server.url("/page").as_bytes());
        let cause = look(server.url_of("me:wrong-one", "/page")).expect_err("he may not");
        assert!(cause.contains("401 Unauthorized") && !cause.contains("wrong-one"), "{cause}");
        let cause = look("http://me:wrong-one@ :/".to_owned()).expect_err("it is no address");
        assert!(!cause.contains("wrong-one"), "{cause}");
    });
}

#[test]
fn pages_that_change_or_stay_short_are_not_taken_for_whole() {
    with_deadline(LIMIT, || {
        let body = body();
        let length = body.len() as u64;
        let other = [b"LINE", &body[4..]].concat();
        let longer = [&body[..], b"one more\n"].concat();
        for (manner, what) in [
            (
                Manner::Changes { answers: 1, bytes: other.clone() },
                "changed while it was read: the server has another",
            ),
            (Manner::ChangesUnsaid(other), "changed while it was read: what was read before is not the same"),
            (Manner::ChangesUnsaid(longer), "changed while it was read: its length"),
            (Manner::Vanishes(1), "the server answered 404 Not Found"),
            (Manner::Short, "(5 times)"),
            (Manner::BreaksOff { bytes: 10, times: 100, whole: false }, "(5 times)"),
        ] {
            let server = one(body.clone(), manner.clone());
            let found = look(server.url("/page")).unwrap_or_else(|cause| panic!("{manner:?}: {cause}"));
            let error = read(&found, 0, length).expect_err("it is not what it was").to_string();
            assert!(error.contains(what), "{manner:?}: {error}");
        }
        // Noticed in the middle, too.
        let server = one(body.clone(), Manner::Changes { answers: 2, bytes: body.clone() });
        let found = look(server.url("/page")).expect("it is there");
        let mut reader = Places::new().open(&found, 0, 1000).expect("it is there");
        let mut text = Vec::new();
        let error = reader.read_to_end(&mut text).expect_err("it is another version").to_string();
        assert!(
            error.contains("another version") && body.starts_with(&text) && text.len() >= 1000,
            "{error}"
        );
    });
}

#[test]
fn what_no_server_has_is_said_with_its_address() {
    with_deadline(LIMIT, || {
        let server = one(body(), Manner::Confused);
        for (url, what) in [
            (server.url("/page"), "another range than was asked for"),
            (server.url("/nothing"), "404 Not Found"),
            ("http://127.0.0.1:1/x".to_owned(), "(5 times)"),
            ("http://[".to_owned(), "not an address"),
        ] {
            let cause = look(url.clone()).expect_err("it is not there");
            assert!(cause.starts_with(&format!("cannot read {url}: ")) && cause.contains(what), "{cause}");
        }
    });
}
