//! Files: the hosts file, lists of hosts from the lab's site, and ranges.

use std::path::Path;

use mapreduce::edge::failure::HostName;
use mapreduce::edge::hosts::{Facts, Host, HostsFile};
use mapreduce::edge::{name, range, site};

use super::{KIB, MIB, Target};

/// A hosts file: read, written, read again; then with what a discover finds recorded in it.
pub const HOSTS: Target = Target {
    name: "hosts",
    read: hosts,
    seeds: || vec![include_bytes!("../../../../hosts.toml").to_vec(), BY_HAND.into(), DISCOVERED.into()],
    most_allocated: |bytes| 2 * KIB * bytes + 256 * KIB,
};

/// A list of hosts in whatever form: JSON, a table in HTML, a text.
pub const SITE: Target = Target {
    name: "site",
    read: listing,
    seeds: || {
        let page = include_bytes!("../../../it/fixtures/site-page.html");
        vec![
            include_bytes!("../../../it/fixtures/site-ajax.json").to_vec(),
            page[..page.len().min(800)].to_vec(),
            include_bytes!("../../../it/fixtures/hosts.txt").to_vec(),
        ]
    },
    // A range may make 65,536 names of a thousand bytes, each of which may be refused.
    most_allocated: |bytes| 256 * MIB + KIB * bytes,
};

/// A range of host names.
pub const RANGE: Target = Target {
    name: "range",
    read: ranges,
    seeds: || {
        ["tp-1a201-[00-30]", "a[1-2],b c[3,5-6]x[08-10]", "127.0.0.[2-3] plain"].map(Vec::from).to_vec()
    },
    // Twice the names that are allowed, for each bracket makes them anew.
    most_allocated: |bytes| 2 * MOST_NAMES * (KIB + 64) + KIB * bytes + 64 * KIB,
};

const MOST_NAMES: usize = 4096;

const BY_HAND: &str = "\
# Mine.\n[defaults]\nuser = 'me' # always\nport = 2222\nkey = \"~/.ssh/lab\"\nremote_dir = '/tmp/me'\n\
suffix = '.x.y'\n\n# Of the file.\n\n# Of the host.\n[[host]]\nname = 'a'\nkeep = true\n[[host]]\n\
name = '10.0.0.1'\nport = 22\n# The end.\n";

const DISCOVERED: &str = "\
[[host]]\nname = 'b.x.y'\nfacts = { cores = 12, memory_mib = 31000, arch = 'x86_64', libc = 'glibc 2.36', \
load_percent = 3, free_mib = 4, network_home = true, gpus = 9 }\n[[host]]\nname = 'c'\n[host.facts]\ncores = 1\n\
memory_mib = 2 # much\narch = 'x'\nlibc = 'y'\nload_percent = 3\nfree_mib = 4\nnetwork_home = false\n";

fn read(text: &str) -> Option<HostsFile> {
    HostsFile::parse(text, Path::new("dir/hosts.toml")).ok()
}

fn named(file: &HostsFile) -> Vec<Host> {
    file.hosts().unwrap_or_default()
}

fn hosts(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Some(mut file) = read(text) else { return false };
    let before = named(&file);
    let again = read(&file.text()).expect("what is written can be read");
    assert_eq!(named(&again), before);
    assert_eq!(again.text(), file.text());

    let found = found(&before);
    let dropped = file.record(&found);
    assert!(dropped <= before.len());
    file.set_default_user("somebody");
    let recorded = read(&file.text()).unwrap_or_else(|| panic!("not readable:\n{}", file.text()));
    assert_eq!(named(&recorded), named(&file), "what is recorded is what is written");
    for (name, facts) in &found {
        assert_eq!(recorded.host(name).facts.as_ref(), Some(facts));
    }
    let text_now = file.text();
    if let Some(lost) = comments(text).find(|comment| !text_now.contains(comment)) {
        panic!("the comment {lost:?} is lost:\n{text_now}");
    }
    true
}

/// What a discover finds: every second host of the file, and a new one.
fn found(hosts: &[Host]) -> Vec<(HostName, Facts)> {
    let facts = |cores| Facts {
        cores,
        memory_mib: 31_000,
        arch: "x86_64".into(),
        libc: "glibc 2.36".into(),
        load_percent: 7,
        free_mib: 4,
        network_home: true,
    };
    let again = hosts.iter().step_by(2).zip(1..).map(|(host, cores)| (host.name.clone(), facts(cores)));
    again.chain([(HostName("new-found.example.org".into()), facts(0))]).collect()
}

/// The lines of `text` that are comments. Where a text of several lines may be one value, it cannot be told.
fn comments(text: &str) -> impl Iterator<Item = &str> {
    let plain = !text.contains("'''") && !text.contains("\"\"\"");
    text.lines().map(str::trim).filter(move |line| plain && line.starts_with('#'))
}

fn listing(bytes: &[u8]) -> bool {
    let Ok(listing) = site::parse(bytes) else { return false };
    for refused in &listing.refused {
        assert!(!refused.contains(char::is_control), "{refused:?} is safe to show");
    }
    let mut list = String::new();
    for (index, candidate) in listing.up.iter().enumerate() {
        assert_eq!(name::check(&candidate.name), Ok(()));
        let rank = |at: usize| listing.up[at].occupancy.unwrap_or(u64::MAX);
        assert!(index == 0 || rank(index - 1) <= rank(index));
        list = list + &candidate.name + "\n";
    }
    if !listing.up.is_empty() {
        let again = site::parse(list.as_bytes()).expect("names are a list");
        let names = |listing: &site::Listing| listing.up.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&again), names(&listing));
    }
    true
}

fn ranges(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    // Both take any text; how many hosts are allowed is a matter of the first.
    let _ = site::from_range(text);
    let Ok(names) = range::expand(text, MOST_NAMES) else { return false };
    assert!((1..=MOST_NAMES).contains(&names.len()));
    let again = range::expand(&names.join(","), MOST_NAMES).expect("names stand for themselves");
    assert_eq!(again, names);
    true
}
