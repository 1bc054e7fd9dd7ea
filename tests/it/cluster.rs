//! Cluster: the whole path over real `sshd`s: discover, deploy, status, run, stop; and runs on a cluster in disorder.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use mapreduce::edge::net;
use mapreduce::logic::tokenize::Tokens;
use rustix::process::Signal;

use crate::deploy::{Deployed, assert_says, other_build};
use crate::harness::program::{Invocation, Running};
use crate::harness::served::Served;
use crate::harness::web::Site;
use crate::harness::{Finished, Lab, LabOptions, entries, processes, sshd, wait_until, with_deadline};
use crate::reference;

/// For tests with few hosts, on a machine under load.
const LIMIT: Duration = Duration::from_secs(120);

const BOOK: &[u8] = include_bytes!("../../examples/alice.txt");

/// How soon the end of a worker is told.
const NOTICED: Duration = Duration::from_secs(15);

/// Runs on a lab's cluster.
trait Counting {
    fn write_texts(&self);
    fn assert_exact(&self, args: &[&str]) -> Finished;
    fn held_run(&self, args: &[&str]) -> Running;
    fn await_no_job(&self);
}

impl Counting for Lab {
    fn write_texts(&self) {
        fs::write(self.client_dir().join("book.txt"), BOOK).unwrap();
        fs::write(self.client_dir().join("numbers.txt"), numbers()).unwrap();
    }

    /// Runs over two files, in small splits, and compares the result with the reference.
    #[track_caller]
    fn assert_exact(&self, args: &[&str]) -> Finished {
        let run = ["run", "book.txt", "numbers.txt", "--split-size", "10KiB"];
        let done = self.mapreduce(&[&run, args].concat()).expect_code(0);
        assert!(done.stdout_bytes == expected(), "not exact:\n{}", done.stderr);
        done
    }

    /// A run that has come to its map phase on all workers that answer, and stays there.
    fn held_run(&self, args: &[&str]) -> Running {
        let run = ["run", "-", "-o", "out.tsv", "--split-size", "10KiB"];
        let mut running = self.invocation(&[&run, args].concat()).open_stdin().spawn();
        running.stdin.as_mut().unwrap().write_all(BOOK).unwrap();
        wait_until(Duration::from_secs(30), "the map phase", || running.said().contains("Split: done in"));
        running
    }

    fn await_no_job(&self) {
        let cluster = self.cluster();
        let wire = cluster.wire().expect("the record is whole");
        wait_until(Duration::from_secs(5), "the end of all jobs", || {
            let jobs = cluster.workers.iter().filter_map(|worker| {
                net::ask_status(worker.address, &wire, &worker.name, Duration::from_secs(2)).ok()
            });
            jobs.map(|status| status.jobs).sum::<usize>() == 0
        });
    }
}

fn numbers() -> Vec<u8> {
    (0..20_000)
        .map(|number| format!("w{} of w{} the\n", number % 7000, number))
        .collect::<String>()
        .into_bytes()
}

fn expected() -> Vec<u8> {
    reference::word_count(&[BOOK, &numbers()], Tokens::Word, false)
}

/// Waits until a held run that was struck tells of it, lets it go on, and checks that it ends well and exactly, with
/// one line about the one that is `lost` and none about another.
fn assert_survived(lab: &Lab, running: Running, lost: &str, cause: &str, survivors: usize) {
    let line = format!("worker {lost} lost in map: {cause}");
    wait_until(NOTICED, "word of the loss", || running.said().contains(&line));
    let done = running.wait().expect_code(0);
    let told: Vec<&str> = done.stderr.lines().filter(|said| said.contains(" lost in ")).collect();
    assert_eq!(told.len(), 1, "{}", done.stderr);
    let again = if survivors == 1 { "by 1 worker" } else { &format!("by {survivors} workers") };
    assert!(told[0].starts_with(&line) && told[0].ends_with(again), "{}", told[0]);
    assert_says(&done, &["1 worker lost, "]);
    let result = fs::read(lab.client_dir().join("out.tsv")).unwrap();
    assert!(result == reference::word_count(&[BOOK], Tokens::Word, false), "not exact:\n{}", done.stderr);
    fs::remove_file(lab.client_dir().join("out.tsv")).unwrap();
    let left = entries(&lab.client_dir());
    assert!(left.iter().all(|name| !name.contains("out.tsv")), "{left:?}");
}

/// Deployed, with texts to count.
fn deployed(hosts: usize) -> Lab {
    let lab = Lab::start(hosts);
    lab.write_hosts("");
    lab.write_texts();
    lab.deploy(&[]).expect_code(0);
    lab
}

fn stop_and_check(lab: &Lab) {
    lab.stop().expect_code(0);
    lab.assert_nothing_left();
}

/// From what a web site says to a result and back to nothing, as in the README.
fn whole_path(lab: &Lab, url: &str) {
    let hosts = lab.hosts.len();
    lab.write_texts();
    let before = entries(&lab.client_dir());
    let wanted = hosts.to_string();
    let user = sshd::user_name();
    // Whatever proxy the machine uses has no business on loopback.
    let discovered = lab
        .invocation(&["discover", &wanted, "--from", url, "--user", &user])
        .env("no_proxy", "127.0.0.1")
        .env("NO_PROXY", "127.0.0.1")
        .run()
        .expect_code(0);
    let mut found: Vec<&str> = discovered.stdout.lines().collect();
    found.sort_unstable();
    let names: Vec<String> = lab.names().iter().map(|name| format!("{name}.enst.fr")).collect();
    assert_eq!(found, names);

    lab.deploy(&[]).expect_code(0);
    let status = lab.mapreduce(&["status"]).expect_code(0);
    for name in &names {
        let row = status.stdout.lines().find(|line| line.contains(name.as_str())).expect("a row");
        assert!(row.contains(" up "), "{row}");
    }

    let done = lab.assert_exact(&[]);
    assert_says(&done, &[&format!("; {hosts} workers, ")]);
    let few = lab.assert_exact(&["--servers", "2"]);
    assert_says(&few, &["; 2 workers, "]);
    let words = expected().split(|&byte| byte == b'\n').count() - 1;
    assert_says(&done, &[&format!(" {},{:03} distinct", words / 1000, words % 1000)]);

    stop_and_check(lab);
    let after = entries(&lab.client_dir());
    let new: Vec<_> = after.iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(new, ["hosts.toml", "known_hosts"]);
}

#[test]
fn four_machines_of_the_sites_json_count() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(4);
        let row = |index| format!("[\"tp-test-{:02}\", true, 0, {index}, 0]", index + 1);
        let rows: Vec<String> = (0..4).map(row).collect();
        let json = format!("{{\"data\": [[\"tp-gone-01\", false], {}]}}", rows.join(", "));
        let site = Site::serve(&[("/ajax.php", 200, json.as_bytes())]);
        whole_path(&lab, &site.url("/ajax.php"));
    });
}

#[test]
fn sixteen_machines_of_the_sites_page_count() {
    with_deadline(Duration::from_secs(180), || {
        let lab = Lab::start(16);
        let up = "<td><span class=\"badge badge-success\">OK</span></td><td>0</td><td></td><td>0</td>";
        let row = |index| format!("<tr><th>tp-test-{:02}</th>{up}</tr>", index + 1);
        let rows: String = (0..16).map(row).collect();
        let page = format!("<html><body><table>{rows}</table></body></html>");
        let site = Site::serve(&[("/ajax.php", 404, b"moved"), ("/", 200, page.as_bytes())]);
        whole_path(&lab, &site.url("/ajax.php"));
    });
}

/// Somebody at a worker's address who is no worker; gone when dropped.
struct Stranger {
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Stranger {
    /// Answers whoever connects with `words`.
    fn listen(address: SocketAddr, words: &'static [u8]) -> Stranger {
        let listener = TcpListener::bind(address).expect("the worker's port is free");
        let thread = std::thread::spawn(move || {
            // The empty connection is the end.
            for mut stream in listener.incoming().flatten() {
                let mut heard = [0; 64];
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                if stream.write_all(words).is_err() || matches!(stream.read(&mut heard), Ok(0) | Err(_)) {
                    return;
                }
                // Held until the other side leaves.
                while matches!(stream.read(&mut heard), Ok(1..)) {}
            }
        });
        Stranger { address, thread: Some(thread) }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = std::net::TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn dead_worker_is_left_out_unless_it_is_needed() {
    with_deadline(LIMIT, || {
        let lab = deployed(3);
        let more = lab.mapreduce(&["run", "book.txt", "--servers", "4"]).expect_code(1);
        assert_says(&more, &["4 servers were asked for, but there are 3", "try: --servers 3"]);
        assert_eq!(more.stdout, "");

        let address = lab.cluster().workers[1].address;
        processes::signal(lab.cluster().workers[1].pid, Signal::KILL);
        wait_until(Duration::from_secs(5), "its end", || lab.worker_processes().len() == 2);
        let needed = |why: &str| {
            let done = lab.assert_exact(&["--worker-timeout", "2s"]);
            assert_says(&done, &["warning: tp-test-02 is left out: ", why, "; 2 workers, "]);
            let args = ["run", "book.txt", "--servers", "3", "-o", "out.tsv", "--worker-timeout", "2s"];
            let failed = lab.mapreduce(&args).expect_code(1);
            assert_says(&failed, &["error: 2 of 3 workers answer", "tp-test-02 does not answer", why]);
            assert_says(&failed, &["try: run --servers 2"]);
            assert!(!lab.client_dir().join("out.tsv").exists());
        };
        needed("cannot connect to");
        lab.assert_exact(&["--servers", "2"]);

        // Its port is somebody else's now: one who is silent, one who is no worker, a worker of somebody else.
        let silent = Stranger::listen(address, b"");
        needed("no word from it for 2 s");
        drop(silent);
        let other = Stranger::listen(address, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        needed("is not a mapreduce worker");
        drop(other);
        let (bind, port) = (address.ip().to_string(), address.port().to_string());
        let foreign = Served::start(lab.invocation(&["serve", "--bind", &bind, "--port", &port]));
        needed("it is no worker of this cluster, one without encryption");
        let status = lab.mapreduce(&["status"]).expect_code(1);
        assert_says(&status, &["1 of 3 workers do not answer"]);

        // Deployed again, the worker has another port; the other one is not ours to end.
        lab.deploy(&[]).expect_code(0);
        assert_says(&lab.assert_exact(&["--servers", "3"]), &["; 3 workers, "]);
        lab.stop().expect_code(0);
        assert_eq!(foreign.jobs(), 0);
        drop(foreign);
        lab.assert_nothing_left();
    });
}

#[test]
fn worker_lost_in_a_run_is_named_and_the_others_go_on() {
    with_deadline(LIMIT, || {
        let lab = deployed(3);
        let workers = lab.cluster().workers;
        let running = lab.held_run(&[]);
        processes::signal(workers[1].pid, Signal::KILL);
        assert_survived(&lab, running, "tp-test-02", "", 2);
        lab.assert_exact(&["--servers", "2"]);
        lab.await_no_job();

        // A host that is frozen says nothing, and its connections stay.
        let running = lab.held_run(&["--servers", "2", "--worker-timeout", "3s"]);
        processes::signal(workers[2].pid, Signal::STOP);
        assert_survived(&lab, running, "tp-test-03", "nothing heard of it for 3 s", 1);
        let done = lab.assert_exact(&["--worker-timeout", "2s"]);
        assert_says(&done, &["tp-test-02 is left out", "tp-test-03 is left out", "; 1 worker, "]);
        stop_and_check(&lab);
    });
}

#[test]
fn two_clients_share_a_cluster() {
    with_deadline(LIMIT, || {
        let lab = deployed(3);
        let doomed = lab.held_run(&[]);
        let folded = reference::word_count(&[BOOK], Tokens::Whitespace, true);
        std::thread::scope(|scope| {
            scope.spawn(|| (0..3).for_each(|_| _ = lab.assert_exact(&[])));
            scope.spawn(|| {
                for _ in 0..3 {
                    let args = ["run", "book.txt", "--tokens", "whitespace", "--ignore-case"];
                    let done = lab.mapreduce(&[&args[..], &["--split-size", "3KiB"]].concat()).expect_code(0);
                    assert!(done.stdout_bytes == folded, "not exact:\n{}", done.stderr);
                }
            });
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                processes::signal(doomed.pid(), Signal::KILL);
            });
        });
        assert_eq!(doomed.wait_as_it_is().code, None);
        lab.await_no_job();
        lab.assert_exact(&[]);
        stop_and_check(&lab);
    });
}

/// All workers of an older build are replaced under a run, which fails for it; the next one has the new workers.
#[test]
fn deploy_replaces_workers_that_are_at_work() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(2);
        lab.write_hosts("");
        lab.write_texts();
        let other = other_build(&lab);
        lab.deploy(&["--binary", other.to_str().unwrap()]).expect_code(0);
        lab.assert_exact(&[]);
        let running = lab.held_run(&[]);
        let deployed = lab.deploy(&[]).expect_code(0);
        assert_says(&deployed, &["replaced 2 older workers"]);
        let failed = running.wait_as_it_is().expect_code(1);
        for lost in ["tp-test-01", "tp-test-02"] {
            let told = failed.stderr.matches(&format!("worker {lost} lost in map: ")).count();
            assert_eq!(told, 1, "{}", failed.stderr);
        }
        let cause = "  cause: worker tp-test-0";
        assert_says(&failed, &["error: no worker is left: all 2 were lost\n", cause, " was lost in map\n"]);
        assert_says(&failed, &["  try: `status` says what runs where; `deploy` starts the workers again"]);
        assert!(!lab.client_dir().join("out.tsv").exists());
        assert_says(&lab.assert_exact(&[]), &["; 2 workers, "]);
        stop_and_check(&lab);
    });
}

#[test]
fn each_hosts_file_has_its_own_cluster() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(3);
        lab.write_texts();
        let write = |file: &str, hosts: &[usize]| {
            let line = |host: &usize| format!("[[host]]\nname = \"tp-test-{host:02}\"\n");
            fs::write(lab.client_dir().join(file), hosts.iter().map(line).collect::<String>()).unwrap();
        };
        write("a.toml", &[1]);
        write("b.toml", &[2, 3]);
        write("c.toml", &[1, 2]);
        lab.deploy(&["--hosts", "a.toml"]).expect_code(0);
        lab.deploy(&["--hosts", "b.toml"]).expect_code(0);
        assert_says(&lab.assert_exact(&["--hosts", "a.toml"]), &["; 1 worker, "]);
        assert_says(&lab.assert_exact(&["--hosts", "b.toml"]), &["; 2 workers, "]);
        // There is no hosts.toml, so nothing is deployed as far as the plain command goes.
        assert_says(&lab.assert_exact(&[]), &["note: no cluster is deployed: running in-process"]);
        let none = lab.mapreduce(&["run", "book.txt", "--hosts", "c.toml"]).expect_code(1);
        assert_says(&none, &["no cluster is deployed to the hosts of c.toml", "`deploy` first"]);
        let none = lab.mapreduce(&["run", "book.txt", "--servers", "2"]).expect_code(1);
        assert_says(&none, &["no cluster is deployed to the hosts of hosts.toml"]);

        // From elsewhere.
        let hosts = lab.client_dir().join("b.toml");
        let book = lab.client_dir().join("book.txt");
        let args = ["run", book.to_str().unwrap(), "--hosts", hosts.to_str().unwrap()];
        let done = elsewhere(&lab, &args).run().expect_code(0);
        assert!(done.stdout_bytes == reference::word_count(&[BOOK], Tokens::Word, false));

        // A host of two files has one worker: that of the last deploy. The other cluster does without it.
        lab.deploy(&["--hosts", "c.toml"]).expect_code(0);
        assert_says(&lab.assert_exact(&["--hosts", "c.toml"]), &["; 2 workers, "]);
        let done = lab.assert_exact(&["--hosts", "b.toml"]);
        assert_says(&done, &["tp-test-02 is left out", "; 1 worker, "]);
        let failed = lab.mapreduce(&["run", "book.txt", "--hosts", "a.toml"]).expect_code(1);
        assert_says(&failed, &["error: 0 of 1 workers answer", "tp-test-01 does not answer", "`deploy`"]);
        for file in ["b.toml", "c.toml", "a.toml"] {
            lab.mapreduce(&["stop", "--hosts", file]).expect_code(0);
        }
        lab.assert_nothing_left();
    });
}

fn elsewhere(lab: &Lab, args: &[&str]) -> Invocation {
    lab.invocation(args).current_dir(Path::new("/"))
}

#[test]
fn run_takes_the_hosts_that_could_be_deployed_to() {
    with_deadline(LIMIT, || {
        let options = LabOptions { hosts: 5, down: vec![1], wrong_key: vec![2], ..LabOptions::default() };
        let lab = Lab::with(options);
        lab.write_hosts("");
        lab.write_texts();
        let stranger = format!("{} {}\n", lab.hosts[3].known_as(), lab.hosts[0].public_key());
        fs::write(lab.known_hosts(), stranger).unwrap();
        let deployed = lab.deploy(&[]).expect_code(1);
        for step in ["02: could not connect", "03: could not log in", "04: could not trust the host key"] {
            assert_says(&deployed, &[&format!("error: tp-test-{step}")]);
        }
        assert_says(&deployed, &["note: 2 of 5 hosts are ready; `run FILE --servers 2` works now"]);
        assert_says(&lab.assert_exact(&["--servers", "2"]), &["; 2 workers, "]);
        assert_says(&lab.assert_exact(&[]), &["; 2 workers, "]);
        stop_and_check(&lab);
    });
}
