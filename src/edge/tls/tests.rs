//! Tests of the two ends of an encrypted connection: who is let in, what comes through, and what does not.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;
use crate::edge::identity::{Authority, Identity, worker_name};
use crate::runtime::link::Control;
use crate::wire::message::CLIENT_NAME;

const LIMIT: Duration = Duration::from_secs(20);

/// A client, two workers of its cluster, and a client and a worker of another.
struct Parties {
    client: Tls,
    workers: [Tls; 2],
    stranger: Tls,
    strange_worker: Tls,
}

fn tls(identity: anyhow::Result<Identity>) -> Tls {
    Tls::new(&identity.expect("randomness")).expect("a whole identity")
}

impl Parties {
    fn new() -> Parties {
        let (ours, other) = (Authority::fresh().expect("ours"), Authority::fresh().expect("another"));
        Parties {
            client: tls(ours.client()),
            workers: [0, 1].map(|index| tls(ours.worker(&worker_name(index)))),
            stranger: tls(other.client()),
            strange_worker: tls(other.worker(&worker_name(0))),
        }
    }
}

fn pair() -> [Socket; 2] {
    let (one, other) = UnixStream::pair().expect("sockets");
    let pair = [one, other].map(|end| Socket::of_pair(end.into()));
    pair.iter().for_each(|socket| socket.bound(LIMIT).expect("it is open"));
    pair
}

/// What came of a handshake at both ends.
fn meet(dialer: &Tls, name: &str, listener: &Tls) -> [io::Result<Shaken>; 2] {
    let [near, far] = pair();
    std::thread::scope(|scope| {
        let accepting = scope.spawn(move || {
            let shaken = listener.accept(&far, LIMIT);
            if shaken.is_err() {
                far.close();
            }
            shaken
        });
        let shaken = dialer.connect(&near, name, LIMIT);
        if shaken.is_err() {
            near.close();
        }
        [shaken, accepting.join().expect("no panic")]
    })
}

fn shaken(parties: &Parties) -> [Shaken; 2] {
    meet(&parties.client, "worker-0.mapreduce", &parties.workers[0]).map(|end| end.expect("both are ours"))
}

fn error(end: &io::Result<Shaken>) -> String {
    end.as_ref().err().map(ToString::to_string).unwrap_or_default()
}

#[test]
fn both_ends_prove_their_names_and_what_is_written_is_read() {
    let [mut near, mut far] = shaken(&Parties::new());
    assert_eq!((near.name.as_str(), far.name.as_str()), ("worker-0.mapreduce", CLIENT_NAME));
    let mut text = [0; 5];
    near.writer.write_all(b"hello").expect("it is open");
    far.reader.read_exact(&mut text).expect("it comes");
    assert_eq!(&text, b"hello");
    far.writer.write_all(b"there").expect("it is open");
    near.reader.read_exact(&mut text).expect("it comes");
    assert_eq!(&text, b"there");
}

/// A connection on whose way from the first end to the second all that follows the first message comes in one piece.
fn rest_in_one_piece() -> [Socket; 2] {
    let ([near, mut passing], [mut passed, far]) = (pair(), pair());
    let (mut back, mut forth) = (passed.clone(), passing.clone());
    std::thread::spawn(move || _ = io::copy(&mut back, &mut forth));
    std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        let hello = passing.read(&mut bytes).expect("a hello");
        passed.write_all(&bytes[..hello]).expect("it is open");
        std::thread::sleep(Duration::from_millis(500));
        let rest = passing.read(&mut bytes).expect("the rest");
        passed.write_all(&bytes[..rest]).expect("it is open");
    });
    [near, far]
}

/// Whoever connects may speak as soon as its own part of the handshake is done.
#[test]
fn what_comes_with_the_end_of_the_handshake_is_not_lost() {
    let parties = Parties::new();
    let [near, far] = rest_in_one_piece();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut near = parties.client.connect(&near, "worker-0.mapreduce", LIMIT).expect("both are ours");
            near.writer.write_all(b"hello").expect("it is open");
        });
        let mut shaken = parties.workers[0].accept(&far, LIMIT).expect("both are ours");
        let mut text = [0; 5];
        shaken.reader.read_exact(&mut text).expect("it comes");
        assert_eq!(&text, b"hello");
        far.close();
    });
}

/// Seals a part of a message of the handshake, as the next record of the client at `near`.
fn part_of_a_message(near: Shaken) -> Vec<u8> {
    use ring::aead::{AES_128_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    use rustls::ConnectionTrafficSecrets::{Aes128Gcm, Chacha20Poly1305};
    let Shaken { reader, writer, .. } = near;
    drop(reader);
    let Ok(shared) = Arc::try_unwrap(writer.shared) else { panic!("there is one end left") };
    let Session::Client(session) = shared.into_inner().expect("no panic").session else { panic!("a client") };
    let (number, secrets) = session.dangerous_into_kernel_connection().expect("as configured").0.tx;
    let (algorithm, key, iv) = match secrets {
        Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
        Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
        _ => panic!("neither is a first choice"),
    };
    let mut nonce: [u8; 12] = iv.as_ref().try_into().expect("RFC 8446, section 5.3");
    nonce[4..].iter_mut().zip(number.to_be_bytes()).for_each(|(byte, of)| *byte ^= of);
    // Two bytes of a key update, and the type of the record.
    let mut inner = vec![24, 0, 22];
    let header = [23, 3, 3, 0, (inner.len() + 16) as u8];
    let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).expect("a key"));
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner).expect("there is room");
    [&header[..], &inner].concat()
}

/// rustls panics when it is asked to seal while it has a part of a message.
#[test]
fn a_message_of_the_handshake_in_pieces_ends_the_connection_wherever_it_comes() {
    let mut parties = Parties::new();
    parties.client = parties.client.extracting();
    // Afterwards.
    let [near, mut far] = shaken(&parties);
    let mut socket = near.socket_for_tests();
    socket.write_all(&part_of_a_message(near)).expect("it is open");
    let refused = far.reader.read(&mut [0; 10]).expect_err("no text");
    assert!(refused.to_string().contains("in pieces"), "{refused}");
    assert_eq!(far.writer.write(b"more").expect_err("it is over").kind(), ErrorKind::BrokenPipe);
    // With the end of the handshake.
    let [near, far] = rest_in_one_piece();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let shaken = parties.client.connect(&near, "worker-0.mapreduce", LIMIT).expect("both are ours");
            near.clone().write_all(&part_of_a_message(shaken)).expect("it is open");
        });
        let refused = parties.workers[0].accept(&far, LIMIT).err().expect("a refusal");
        assert!(refused.to_string().contains("in pieces"), "{refused}");
        far.close();
    });
}

#[test]
fn a_deadline_that_is_nearly_over_is_still_one() {
    let [mut near, _far] = pair();
    near.bound(Duration::from_nanos(1)).expect("it is open");
    let began = Instant::now();
    assert_eq!(near.read(&mut [0]).expect_err("nothing came").kind(), ErrorKind::WouldBlock);
    assert!(began.elapsed() < LIMIT / 2);
}

#[test]
fn everything_comes_in_order_in_both_directions_at_once() {
    // Larger than all buffers on the way, with pieces around every border.
    let text = |salt: u8| (0..9_000_000u32).map(|n| (n / 7) as u8 ^ salt).collect::<Vec<u8>>();
    let send = |mut writer: Sealing, text: Vec<u8>| {
        let sizes = [1, 8, 17, 4095, 4096, 4097, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 300_000];
        let mut rest = text.as_slice();
        for size in sizes.iter().cycle() {
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            let (first, second) = piece.split_at(piece.len() / 3);
            let slices = [IoSlice::new(first), IoSlice::new(&[]), IoSlice::new(second)];
            let written = writer.write_vectored(&slices).expect("it is open");
            assert!(written > 0 || piece.is_empty());
            rest = &rest[written..];
            if after.is_empty() && rest.is_empty() {
                return writer;
            }
        }
        unreachable!("the sizes never end");
    };
    let receive = |mut reader: Opening, text: Vec<u8>| {
        let (mut all, mut buffer) = (Vec::new(), vec![0; 70_000]);
        for size in [1, 5, 100, 16_384, 70_000].iter().cycle() {
            match reader.read(&mut buffer[..*size]) {
                Ok(read) => all.extend_from_slice(&buffer[..read]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted),
            }
            if all.len() >= text.len() {
                break;
            }
        }
        assert!(all == text, "{} of {} bytes", all.len(), text.len());
        reader
    };
    let [near, far] = shaken(&Parties::new());
    std::thread::scope(|scope| {
        let ends = [
            scope.spawn(move || _ = send(near.writer, text(1))),
            scope.spawn(move || _ = send(far.writer, text(2))),
        ];
        let received = [
            scope.spawn(move || _ = receive(near.reader, text(2))),
            scope.spawn(move || _ = receive(far.reader, text(1))),
        ];
        ends.into_iter().chain(received).for_each(|thread| thread.join().expect("no panic"));
    });
}

#[test]
fn who_is_of_another_cluster_is_refused_and_told_so() {
    let parties = Parties::new();
    let [near, far] = meet(&parties.stranger, "worker-0.mapreduce", &parties.workers[0]);
    assert_eq!(error(&near), "its certificate is of another cluster");
    assert_eq!(error(&far), "it does not accept our certificate: it belongs to another cluster");
    let [near, far] = meet(&parties.client, "worker-0.mapreduce", &parties.strange_worker);
    assert_eq!(error(&near), "its certificate is of another cluster");
    assert!(far.is_err());
}

#[test]
fn who_is_not_the_one_meant_is_refused() {
    let parties = Parties::new();
    let [near, _] = meet(&parties.client, "worker-1.mapreduce", &parties.workers[0]);
    assert_eq!(error(&near), "its certificate is another worker's");
    // A client's certificate is none of a worker, whatever its name.
    let [near, _] = meet(&parties.workers[0], CLIENT_NAME, &parties.client);
    assert_eq!(error(&near), "its certificate is not for this end of a connection");
    // A worker connects to its peers.
    let [near, far] = meet(&parties.workers[0], "worker-1.mapreduce", &parties.workers[1]);
    assert_eq!(near.expect("both are ours").name, "worker-1.mapreduce");
    assert_eq!(far.expect("both are ours").name, "worker-0.mapreduce");
}

#[test]
fn what_speaks_no_tls_is_refused_at_once() {
    let parties = Parties::new();
    for said in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x12\0\0\0\x01\0\0\0{\"magic\":1}", &[0; 64], &[22; 70_000]]
    {
        let [mut near, far] = pair();
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let refused = parties.workers[0].accept(&far, LIMIT).err().expect("a refusal");
                assert_eq!(refused.kind(), ErrorKind::InvalidData, "{refused}");
                far.close();
            });
            // What is too much is not read any more.
            let _ = near.write_all(said);
            let _ = near.read(&mut [0; 100]);
        });
        assert!(began.elapsed() < LIMIT / 2);
    }
}

#[test]
fn a_handshake_ends_in_time_whatever_comes_of_it() {
    let parties = Parties::new();
    let [mut near, far] = pair();
    let limit = Duration::from_millis(300);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let accepting = scope.spawn(|| parties.workers[0].accept(&far, limit));
        // The beginning of a record, and then a byte now and then.
        near.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).expect("it is open");
        while !accepting.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
            let _ = near.write_all(&[7]);
        }
        let error = accepting.join().expect("no panic").err().expect("no handshake");
        assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{error}");
    });
    assert!(began.elapsed() < LIMIT / 2);
}

#[test]
fn what_is_changed_on_its_way_is_noticed_and_what_is_cut_is_torn() {
    let parties = Parties::new();
    for is_cut in [false, true] {
        // Between the two, everything can be seen.
        let ([near, mut passing], [mut passed, far]) = (pair(), pair());
        std::thread::scope(|scope| {
            let (mut back, mut forth) = (passed.clone(), passing.clone());
            scope.spawn(move || _ = io::copy(&mut back, &mut forth));
            let secret = b"the words of the input";
            let watching = scope.spawn(move || {
                let (mut seen, mut records) = (Vec::new(), vec![0; 1 << 16]);
                while let Ok(read @ 1..) = passing.read(&mut records) {
                    let mut bytes = records[..read].to_vec();
                    // The first record of text is longer than all others.
                    if read > 1500 {
                        match is_cut {
                            true => bytes.truncate(read - 1),
                            false => bytes[read / 2] ^= 1,
                        }
                    }
                    seen.extend_from_slice(&bytes);
                    passed.write_all(&bytes).expect("it is open");
                    if read > 1500 {
                        break;
                    }
                }
                passed.close();
                seen
            });
            let accepting = scope.spawn(|| parties.workers[0].accept(&far, LIMIT));
            let mut near = parties.client.connect(&near, "worker-0.mapreduce", LIMIT).expect("both are ours");
            let mut far = accepting.join().expect("no panic").expect("both are ours");
            near.writer.write_all(&secret.repeat(100)).expect("it is open");
            let mut text = Vec::new();
            let read = far.reader.read_to_end(&mut text).expect_err("nothing is whole");
            let expected = if is_cut { ErrorKind::UnexpectedEof } else { ErrorKind::InvalidData };
            assert_eq!((read.kind(), text.len()), (expected, 0), "{read}");
            let seen = watching.join().expect("no panic");
            assert!(seen.len() > 2000 && !seen.windows(secret.len()).any(|window| window == secret));
            drop(near);
        });
    }
}

#[test]
fn a_full_socket_in_one_direction_does_not_stop_the_other() {
    let [near, mut far] = shaken(&Parties::new());
    let Shaken { mut reader, mut writer, .. } = near;
    let stuck = std::thread::spawn(move || writer.write_all(&vec![1; 8 << 20]));
    // Nobody reads that; the other direction goes on.
    for _ in 0..100 {
        far.writer.write_all(&[2; 10_000]).expect("it is open");
        reader.read_exact(&mut [0; 10_000]).expect("it comes");
    }
    assert!(!stuck.is_finished());
    drop((far, reader));
    assert!(stuck.join().expect("no panic").is_err());
}

#[test]
fn a_time_out_loses_nothing() {
    let [mut near, mut far] = shaken(&Parties::new());
    far.socket_for_tests().bound(Duration::from_millis(30)).expect("it is open");
    let silent = far.reader.read(&mut [0; 10]).expect_err("nothing came");
    assert_eq!(silent.kind(), ErrorKind::WouldBlock);
    near.writer.write_all(b"late").expect("it is open");
    let mut text = [0; 4];
    far.reader.read_exact(&mut text).expect("it comes");
    assert_eq!(&text, b"late");
}

impl Shaken {
    fn socket_for_tests(&self) -> Socket {
        self.writer.socket.clone()
    }
}

#[test]
fn a_connection_over_tcp_carries_much() {
    let parties = Parties::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("its address")).expect("it listens");
    let near = Socket::tcp(near).expect("it is open");
    let far = Socket::tcp(listener.accept().expect("it comes").0).expect("it is open");
    std::thread::scope(|scope| {
        let accepting = scope.spawn(|| parties.workers[0].accept(&far, LIMIT));
        let mut near = parties.client.connect(&near, "worker-0.mapreduce", LIMIT).expect("both are ours");
        let mut far = accepting.join().expect("no panic").expect("both are ours");
        let block = vec![5; 1 << 20];
        scope.spawn(move || (0..64).for_each(|_| near.writer.write_all(&block).expect("it is open")));
        let mut all = vec![0; 64 << 20];
        far.reader.read_exact(&mut all).expect("it comes");
        assert!(all.iter().all(|byte| *byte == 5));
    });
}
