//! Discover: from a list of machines to a hosts file, over real web servers and real `sshd`s.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mapreduce::edge::failure::HostName;
use mapreduce::edge::hosts::{Host, HostsFile};
use mapreduce::edge::probe::probe;
use mapreduce::edge::site;

use crate::harness::program::Invocation;
use crate::harness::web::Site;
use crate::harness::{Finished, Lab, LabOptions, with_deadline};

const LIMIT: Duration = Duration::from_secs(90);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures").join(name)
}

fn listed(source: &str) -> Vec<(String, Option<u64>)> {
    let listing = site::from_source(source, Duration::from_secs(10)).unwrap();
    listing.up.into_iter().map(|candidate| (candidate.name, candidate.occupancy)).collect()
}

/// The lab's machines as the site's JSON has them, all up, with the sessions given.
fn json(sessions: &[u32]) -> Vec<u8> {
    let row = |(index, n): (usize, &u32)| format!("[\"tp-test-{:02}\", true, {n}, 0, 0]", index + 1);
    let rows: Vec<String> = sessions.iter().enumerate().map(row).collect();
    format!("{{\"data\": [{}]}}", rows.join(", ")).into_bytes()
}

/// A run of `discover` in the client's directory of `lab`.
fn discover(lab: &Lab, args: &[&str]) -> Finished {
    invocation(lab, args).run()
}

fn invocation(lab: &Lab, args: &[&str]) -> Invocation {
    // Whatever proxy the machine uses has no business on loopback.
    lab.invocation(&[&["discover"], args].concat()).env("no_proxy", "127.0.0.1").env("NO_PROXY", "127.0.0.1")
}

fn hosts_file(lab: &Lab) -> PathBuf {
    lab.client_dir().join("hosts.toml")
}

fn hosts(lab: &Lab) -> Vec<Host> {
    HostsFile::load(&hosts_file(lab)).unwrap().hosts().unwrap()
}

fn names(lab: &Lab) -> Vec<String> {
    hosts(lab).into_iter().map(|host| host.name.0).collect()
}

#[test]
fn json_and_table_of_the_site_list_the_same_machines() {
    let from_json = listed(fixture("site-ajax.json").to_str().unwrap());
    let order = [
        "tp-1a201-04",
        "crdn-01",
        "tp-t309-02",
        "tp-m1-05",
        "tp-ariel",
        "tp-1a201-01",
        "tp-1a201-00",
        "tp-tests",
    ];
    assert_eq!(from_json.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), order);
    assert_eq!(from_json[4].1, Some(3), "a blank cell leaves the other counts");
    assert_eq!(from_json[6].1, None);
    assert_eq!(listed(fixture("site-page.html").to_str().unwrap()), from_json);
}

#[test]
fn text_list_is_told_by_its_content() {
    let listing = site::from_source(fixture("hosts.txt").to_str().unwrap(), Duration::from_secs(10)).unwrap();
    let names: Vec<&str> = listing.up.iter().map(|candidate| candidate.name.as_str()).collect();
    let expected = [
        "tp-1a201-00",
        "tp-1a201-01",
        "tp-1a201-02",
        "tp-m1-05",
        "tp-ariel",
        "crdn-01.example.org",
        "127.0.0.9",
    ];
    assert_eq!(names, expected);
    assert_eq!(listing.refused.len(), 1);
}

#[test]
fn where_there_is_no_json_the_page_is_asked() {
    let page = fs::read(fixture("site-page.html")).unwrap();
    for answer in [(404, &b"gone"[..]), (500, b""), (200, b"{\"data\": []}"), (200, b"<html>moved</html>")] {
        let site = Site::serve(&[("/tp/ajax.php", answer.0, answer.1), ("/tp/", 200, &page)]);
        assert_eq!(listed(&site.url("/tp/ajax.php")).len(), 8);
        let asked = site.requests();
        assert!(asked[0].starts_with("GET /tp/ajax.php ") && asked[1].starts_with("GET /tp/ "), "{asked:?}");
        assert!(asked[0].to_ascii_lowercase().contains("user-agent: mapreduce/"), "{asked:?}");
    }
    let site = Site::serve(&[("/ajax.php", 404, b"")]);
    let error = site::from_source(&site.url("/ajax.php"), Duration::from_secs(10)).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains(&site.url("/ajax.php")) && error.contains("404"), "{error}");
}

#[test]
fn a_list_is_fetched_within_deadline_and_size() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let started = Instant::now();
    let url = format!("http://{}/ajax.php", silent.local_addr().unwrap());
    assert!(site::from_source(&url, Duration::from_millis(300)).is_err());
    assert!(started.elapsed() < Duration::from_secs(5));

    let site = Site::serve(&[("/hosts", 200, &b"tp-1\n".repeat((8 << 20) / 5 + 1))]);
    let error = site::from_source(&site.url("/hosts"), Duration::from_secs(30)).unwrap_err();
    assert!(format!("{error:#}").contains("longer than 8 MiB"), "{error:#}");
}

#[test]
fn writes_the_least_occupied_hosts_that_answer() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(4);
        let site = Site::serve(&[("/ajax.php", 200, &json(&[3, 1, 2, 0]))]);
        let done = discover(&lab, &["4", "--from", &site.url("/ajax.php"), "--user", &user()]).expect_code(0);
        let order = ["tp-test-04.enst.fr", "tp-test-02.enst.fr", "tp-test-03.enst.fr", "tp-test-01.enst.fr"];
        assert_eq!(done.stdout.lines().collect::<Vec<_>>(), order);
        assert!(done.stderr.contains("wrote 4 hosts to hosts.toml"), "{}", done.stderr);
        assert_eq!(names(&lab), order);
        for host in hosts(&lab) {
            let facts = host.facts.expect("facts");
            assert_eq!(facts.arch, std::env::consts::ARCH);
            assert!(facts.cores > 0 && facts.memory_mib > 0 && facts.free_mib > 0, "{facts:?}");
            assert_ne!(facts.libc, "unknown");
            assert_eq!(host.user, Some(user()));
        }
        let left: Vec<_> =
            fs::read_dir(lab.client_dir()).unwrap().flatten().map(|file| file.file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".hosts")), "{left:?}");
    });
}

#[test]
fn stops_at_the_number_wanted_and_passes_over_the_dead() {
    with_deadline(LIMIT, || {
        let lab = Lab::with(LabOptions { hosts: 4, down: vec![0], ..LabOptions::default() });
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        append(
            &lab.ssh_config(),
            &format!("Host frozen\n  HostName 127.0.0.1\n  Port {}\n", silent.local_addr().unwrap().port()),
        );
        fs::write(lab.client_dir().join("list"), "tp-test-01 frozen tp-test-02\ntp-test-03,tp-test-04\n")
            .unwrap();
        let done =
            discover(&lab, &["2", "--from", "list", "--suffix", "", "--timeout", "20s"]).expect_code(0);
        assert!(done.elapsed < Duration::from_secs(15), "the frozen host was waited for: {:?}", done.elapsed);
        assert_eq!(done.stdout.lines().count(), 2);
        assert!(!done.stdout.contains("tp-test-01") && !done.stdout.contains("frozen"), "{}", done.stdout);
        assert_eq!(names(&lab), done.stdout.lines().collect::<Vec<_>>());
    });
}

#[test]
fn fewer_than_wanted_are_written_and_the_rest_is_explained() {
    with_deadline(LIMIT, || {
        let lab =
            Lab::with(LabOptions { hosts: 4, down: vec![1], wrong_key: vec![2], ..LabOptions::default() });
        let stranger = &lab.hosts[0];
        append(&lab.known_hosts(), &format!("{} {}\n", lab.hosts[3].known_as(), stranger.public_key()));
        let range = ["4", "--range", "tp-test-[01-04]", "-v", "--timeout", "10s"];
        let done = discover(&lab, &range).expect_code(1);
        assert_eq!(done.stdout, "tp-test-01.enst.fr\n");
        assert_eq!(names(&lab), ["tp-test-01.enst.fr"]);
        assert!(done.stderr.contains("only 1 of 4 hosts answered"), "{}", done.stderr);
        for why in ["3 did not answer", "1 connection refused", "1 login refused", "1 changed host key"] {
            assert!(done.stderr.contains(why), "{why}: {}", done.stderr);
        }
        for name in ["tp-test-02.enst.fr: ", "tp-test-03.enst.fr: ", "tp-test-04.enst.fr: "] {
            assert!(done.stderr.contains(name), "-v names each host: {}", done.stderr);
        }
        assert!(done.stderr.contains("  try: "), "{}", done.stderr);
    });
}

#[test]
fn what_the_user_wrote_by_hand_is_used_and_survives() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(3);
        let (a, b) = (&lab.hosts[0], &lab.hosts[1]);
        // Addresses that the SSH configuration says nothing about: the port and the key are in the hosts file only.
        fs::write(
            hosts_file(&lab),
            format!(
                "# My machines.\n\n[defaults]\nuser = \"nobody-of-this-name\" # not me\nkey = \"{}\"\n\n\
                 # The odd port.\n[[host]]\nname = \"{}\"\nport = {} # by hand\n\n\
                 [[host]]\nname = \"{}\"\nport = {}\n\n\
                 [[host]]\nname = \"10.255.255.1\"\n",
                lab.client_key().display(),
                a.address,
                a.port,
                b.address,
                b.port
            ),
        )
        .unwrap();
        let (a, b) = (a.address.to_string(), b.address.to_string());
        fs::write(lab.client_dir().join("list"), format!("{a}\n{b}\n")).unwrap();
        discover(&lab, &["2", "--from", "list", "--user", &user()]).expect_code(0);
        let text = fs::read_to_string(hosts_file(&lab)).unwrap();
        for kept in
            ["# My machines.\n", "# not me\n", "# The odd port.\n", "# by hand\n", "\"10.255.255.1\"\n"]
        {
            assert!(text.contains(kept), "{kept} is lost:\n{text}");
        }
        assert!(text.contains(&format!("user = \"{}\"", user())), "{text}");
        assert_eq!(names(&lab), [a, b, "10.255.255.1".to_owned()]);
        assert_eq!(text.matches("facts = ").count(), 2, "{text}");

        // Found by name in another discover, and dropped by the next.
        discover(&lab, &["1", "--range", "tp-test-03"]).expect_code(0);
        assert_eq!(names(&lab).last().unwrap(), "tp-test-03.enst.fr");
        let done = discover(&lab, &["1", "--range", "tp-test-02"]).expect_code(0);
        assert!(done.stderr.contains("1 of an earlier discover dropped"), "{}", done.stderr);
        assert_eq!(names(&lab).len(), 4);
        assert_eq!(names(&lab).last().unwrap(), "tp-test-02.enst.fr");
    });
}

#[test]
fn when_no_host_answers_the_file_is_left_alone() {
    with_deadline(LIMIT, || {
        let lab = Lab::with(LabOptions { hosts: 2, down: vec![0, 1], ..LabOptions::default() });
        let before = "[[host]]\nname = \"mine\"\n";
        fs::write(hosts_file(&lab), before).unwrap();
        let done = discover(&lab, &["1", "--range", "tp-test-[01-02]", "--user", "me"]).expect_code(1);
        assert_eq!(done.stdout, "");
        assert!(done.stderr.contains("no host answered") && done.stderr.contains("2 connection refused"));
        assert_eq!(fs::read_to_string(hosts_file(&lab)).unwrap(), before);
    });
}

#[test]
fn connections_are_spaced_on_request() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(3);
        let args = ["3", "--range", "tp-test-[01-03]", "--ssh-rate", "2/3s"];
        let done = discover(&lab, &args).expect_code(0);
        assert!(done.elapsed >= Duration::from_secs(3), "{:?}", done.elapsed);
        let done =
            discover(&lab, &["2", "--range", "tp-test-[01-03]", "--ssh-rate", "2/1min", "-q"]).expect_code(0);
        assert_eq!(done.stderr, "");
        assert!(done.elapsed < Duration::from_secs(30), "{:?}", done.elapsed);
    });
}

#[test]
fn mistakes_are_told_before_anything_is_probed() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| Invocation::new(&[&["discover"], args].concat()).current_dir(dir.path()).run();
    let done = run(&["3", "--range", "tp-[30-00]"]).expect_code(2);
    assert!(done.stderr.contains("counts backwards"), "{}", done.stderr);
    let done = run(&["3", "--range", "tp-[0-9999]"]).expect_code(2);
    assert!(done.stderr.contains("4096"), "{}", done.stderr);
    let done = run(&["3", "--from", "nowhere.txt"]).expect_code(1);
    assert!(
        done.stderr.contains("nowhere.txt") && done.stderr.contains("try: --from FILE"),
        "{}",
        done.stderr
    );
    let done = run(&["3", "--from", "http://127.0.0.1:1/ajax.php"]).expect_code(1);
    assert!(done.stderr.contains("--range") && done.stderr.contains("refused"), "{}", done.stderr);
    fs::write(dir.path().join("down.json"), "{\"data\": [[\"tp-1\", false]]}").unwrap();
    let done = run(&["3", "--from", "down.json"]).expect_code(1);
    assert!(done.stderr.contains("none of the 1 machines listed is up"), "{}", done.stderr);
    assert!(!dir.path().join("hosts.toml").exists());
    fs::write(dir.path().join("hosts.toml"), "[[host]]\nnmae = \"a\"\n").unwrap();
    let done = run(&["3", "--range", "tp-1"]).expect_code(1);
    assert!(done.stderr.contains("hosts.toml:2: unknown key `nmae`"), "{}", done.stderr);
}

#[test]
fn probe_names_the_step_that_failed() {
    with_deadline(LIMIT, || {
        let sshd_config = vec!["MaxSessions 0".to_owned()];
        let lab = Lab::with(LabOptions { hosts: 1, sshd_config, ..LabOptions::default() });
        let host = HostsFile::load_or_new(&hosts_file(&lab)).unwrap().host(&HostName("tp-test-01".into()));
        let failure =
            probe(&host, &lab.options(Duration::from_secs(10)), Duration::from_secs(10)).unwrap_err();
        assert_eq!(failure.step, mapreduce::edge::failure::Step::Probe);
        assert_eq!(failure.host.0, "tp-test-01");
    });
}

/// The process ends with exit code 0 though other sessions are in the middle of something.
#[test]
fn ending_amid_handshakes_is_clean() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(4);
        for round in 0..12 {
            let done = discover(&lab, &["1", "--range", "tp-test-[01-04]", "--parallel", "4", "-q"]);
            assert_eq!(done.code, Some(0), "round {round}: {done:?}");
        }
    });
}

fn user() -> String {
    crate::harness::sshd::user_name()
}

fn append(path: &Path, text: &str) {
    let before = fs::read_to_string(path).unwrap_or_default();
    fs::write(path, before + text).unwrap();
}
