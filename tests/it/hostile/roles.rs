//! Roles: certificates of other clusters, and those of the cluster in a role that is not theirs.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mapreduce::edge::identity::{Authority, Identity, SHARED_WORKER_NAME, SharedIdentity};
use mapreduce::edge::net::{self, Socket, Wire};
use mapreduce::edge::tls::Tls;
use mapreduce::logic::ids::{Epoch, JobId, WorkerId};
use mapreduce::wire::message::Role;

use super::members::Member;
use super::stage::{LIMIT, PATIENCE, Stage, speaking_as};
use crate::harness::with_deadline;

fn roles() -> [Role; 3] {
    [Role::Client, Role::Status, Role::Peer { job: JobId(1), epoch: Epoch(1), source: WorkerId(0) }]
}

/// Who has a certificate, but not of this cluster, is told nothing but that.
#[test]
fn another_clusters_certificates_are_refused_in_every_role() {
    with_deadline(LIMIT, || {
        let stage = Stage::encrypted(2);
        let other = Authority::fresh().expect("there is randomness");
        let ours = stage.shared.as_ref().expect("it has an identity");
        let theirs = [other.client(), other.worker(SHARED_WORKER_NAME)].map(|made| made.expect("it signs"));
        // The right authority to believe in, and a certificate of the wrong one: who has stolen no key has no more.
        let half =
            |identity: &Identity| Identity { authority: ours.client.authority.clone(), ..identity.clone() };
        let mixed = theirs.each_ref().map(half);
        let address = stage.workers[0].address;
        stage.withstands("certificates of another cluster", || {
            for (identity, role) in
                theirs.iter().chain(&mixed).flat_map(|identity| roles().map(|r| (identity, r)))
            {
                let said = Member::greeted(&stage, 0, &speaking_as(identity), role).err();
                let said = said.expect("it is refused");
                assert!(said.contains("another cluster"), "{said}");
            }
            let plain = net::ask_status(address, &Wire::by_hand(), "", PATIENCE);
            let plain = format!("{:#}", plain.expect_err("it speaks TLS only"));
            assert!(plain.contains("wants an encrypted connection") || plain.contains("greet"), "{plain}");
        });
    });
}

#[test]
fn certificates_are_good_for_their_own_role_only() {
    with_deadline(LIMIT, || {
        let stage = Stage::encrypted(2);
        let shared = stage.shared.as_ref().expect("it has an identity");
        let (client, worker) = (speaking_as(&shared.client), speaking_as(&shared.worker));
        // Names that an authority of the cluster would not give, if somebody had it sign them.
        let odd = ["client.mapreduce.evil", "mapreduce", "localhost"]
            .map(|name| speaking_as(&stage.authority.worker(name).expect("it signs")));
        stage.withstands("roles of others", || {
            let [as_client, as_status, as_peer] = roles();
            for _ in 0..20 {
                for (wire, role) in [(&worker, &as_client), (&worker, &as_status), (&client, &as_peer)]
                    .into_iter()
                    .chain(odd.iter().flat_map(|wire| [(wire, &as_client), (wire, &as_status)]))
                {
                    let said = Member::greeted(&stage, 0, wire, role.clone()).err().expect("it is refused");
                    assert!(said.contains("may not do that"), "{said}");
                }
            }
        });
    });
}

/// Plays a worker that has `identity` while `body` runs.
fn while_serving<T>(identity: &Identity, body: impl FnOnce(&str) -> T) -> T {
    let tls = Tls::new(identity).expect("it is one of ours");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for stream in listener.incoming() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(socket) = stream.and_then(Socket::tcp) else { continue };
                if let Ok(shaken) = tls.accept(&socket, PATIENCE) {
                    // It would be told of the job now.
                    let mut reader = shaken.reader;
                    socket.bound(Duration::from_secs(2)).expect("it is open");
                    let heard = std::io::Read::read(&mut reader, &mut [0; 100]);
                    assert!(!matches!(heard, Ok(1..)), "an impostor hears something");
                }
            }
        });
        let done = body(&address.to_string());
        is_over.store(true, Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(address);
        done
    })
}

/// The real client says nothing to a server that is none: neither of another cluster, nor with a certificate that is
/// the client's, nor with that of another worker.
#[test]
fn no_impostor_gets_a_word_of_a_job() {
    with_deadline(LIMIT, || {
        let stage = Stage::encrypted(1);
        let other = Authority::fresh().expect("there is randomness");
        let stranger = other.worker(SHARED_WORKER_NAME).expect("it signs");
        let shared = stage.shared.as_ref().expect("it has an identity");
        let another = stage.authority.worker("worker-3.mapreduce").expect("it signs");
        for (identity, why) in [
            (&stranger, "another cluster"),
            (&shared.client, "not for this end"),
            (&another, "another worker's"),
        ] {
            while_serving(identity, |address| {
                let addresses = [stage.addresses()[0].clone(), address.to_owned()];
                let failed = stage.run(&addresses, &[]).run().expect_code(1);
                assert!(failed.stderr.contains(why), "no {why:?} in:\n{}", failed.stderr);
                assert!(failed.stdout.is_empty());
            });
        }
        stage.exact(stage.job(&stage.addresses()));
    });
}

/// A worker that its client lets connect to an impostor tells it nothing, either.
#[test]
fn no_impostor_gets_a_word_of_a_shuffle() {
    use mapreduce::wire::message::FromWorker;

    use super::members::{begin, shuffle};
    with_deadline(LIMIT, || {
        let stage = Stage::encrypted(1);
        let other = Authority::fresh().expect("there is randomness");
        let stranger = other.worker(SHARED_WORKER_NAME).expect("it signs");
        let client = stage.shared.as_ref().expect("it has an identity").client.clone();
        let another = stage.authority.worker("worker-3.mapreduce").expect("it signs");
        for (identity, why) in
            [(&stranger, "another cluster"), (&client, "not for this end"), (&another, "another worker's")]
        {
            while_serving(identity, |address| {
                let mut client = Member::with_job(&stage, begin());
                client.text(1, "one two three");
                assert!(matches!(client.hear(), Some(FromWorker::Mapped { .. })));
                let own = &stage.addresses()[0];
                client.order(&shuffle(&[(0, own), (1, address)], &[1, 1]));
                let heard = client.hear_refusal();
                assert!(heard.starts_with("peer: ") && heard.contains(why), "{heard}");
            });
        }
    });
}

/// What is no identity, or another's, is refused before anybody listens or connects.
#[test]
fn identities_with_the_ends_mixed_up_do_not_work() {
    with_deadline(LIMIT, || {
        let stage = Stage::encrypted(1);
        let shared = stage.shared.as_ref().expect("it has an identity");
        let swapped = SharedIdentity { client: shared.worker.clone(), worker: shared.client.clone() };
        std::fs::write(stage.identity(), serde_json::to_vec(&swapped).expect("JSON")).expect("it is ours");
        let failed = stage.run(&stage.addresses(), &[]).run().expect_code(1);
        assert!(failed.stderr.contains("may not do that"), "{}", failed.stderr);
    });
}
