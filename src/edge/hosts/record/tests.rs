//! Tests: what stays and what goes when the hosts file is written again.

use std::path::Path;

use proptest::prelude::*;

use super::*;

fn facts(cores: u32) -> Facts {
    Facts {
        cores,
        memory_mib: 32_000,
        arch: "x86_64".into(),
        libc: "glibc 2.36".into(),
        load_percent: 12,
        free_mib: 20_000,
        network_home: true,
    }
}

fn found(names: &[&str]) -> Vec<(HostName, Facts)> {
    names.iter().map(|name| (HostName((*name).to_owned()), facts(12))).collect()
}

fn record(text: &str, names: &[&str]) -> String {
    let mut file = HostsFile::parse(text, Path::new("hosts.toml")).unwrap();
    file.record(&found(names));
    let text = file.text();
    let again = HostsFile::parse(&text, Path::new("hosts.toml")).unwrap();
    assert_eq!(again.entries, file.entries, "what is written is what is read:\n{text}");
    text
}

const FACTS: &str = "facts = { cores = 12, memory_mib = 32000, arch = \"x86_64\", libc = \"glibc 2.36\", \
                     load_percent = 12, free_mib = 20000, network_home = true }\n";

fn host(name: &str) -> String {
    format!("[[host]]\nname = \"{name}\"\n{FACTS}")
}

#[test]
fn writes_hosts_in_the_order_given() {
    let text = record("", &["b", "a"]);
    assert_eq!(text, format!("{}\n{}", host("b"), host("a")));
    assert_eq!(record(&text, &["b", "a"]), text, "writing again changes nothing");
    assert_eq!(record(&text, &["c", "b"]), format!("{}\n{}", host("c"), host("b")));
}

#[test]
fn a_new_file_keeps_its_head_on_top() {
    let mut file = HostsFile::load_or_new(Path::new("/nonexistent/hosts.toml")).unwrap();
    file.set_default_user("me");
    assert_eq!(file.record(&found(&["a"])), 0);
    let text = file.text();
    let rest = format!("[defaults]\nuser = \"me\"\n\n{}", host("a"));
    assert_eq!(text, format!("{}{rest}", super::super::HEADER));
    assert!(record(&text, &["b"]).starts_with(super::super::HEADER));
}

#[test]
fn the_head_stays_when_the_first_host_goes() {
    let text = format!("# My lab.\n\n{}\n# second\n\n{}# the end\n", host("a"), host("b"));
    let expected = format!("# My lab.\n\n# second\n\n{}# the end\n", host("c"));
    assert_eq!(record(&text, &["c"]), expected);
    let mut file = HostsFile::parse(&text, Path::new("h")).unwrap();
    file.set_default_user("me");
    assert!(file.text().starts_with("# My lab.\n\n[defaults]\nuser = \"me\"\n\n[[host]]\nname = \"a\"\n"));
}

#[test]
fn drops_what_was_discovered_and_keeps_what_is_by_hand() {
    let by_hand = [
        "[[host]]\nname = \"bare\"\n",
        &format!("{}port = 22\n", host("port")),
        &format!("{}keep = true\n", host("keep")),
        &format!("# A good machine.\n{}", host("above")),
        &format!("[[host]] # mine\nname = \"beside\"\n{FACTS}"),
        &format!("[[host]]\nname = \"value\" # mine\n{FACTS}"),
        "[[host]]\nname = \"table\"\n[host.facts]\ncores = 12 # really 6\nmemory_mib = 1\narch = \"a\"\n\
         libc = \"b\"\nload_percent = 0\nfree_mib = 1\nnetwork_home = false\n",
    ];
    let all = by_hand.join(&format!("\n{}\n", host("gone")));
    let mut file =
        HostsFile::parse(&all.replacen("gone", "gone1", 1).replace("\"gone\"", "\"gone2\""), Path::new("h"));
    assert!(file.is_err(), "the same host several times");
    for (index, mine) in by_hand.iter().enumerate() {
        file = HostsFile::parse(&format!("{}\n{mine}\n{}", host("gone"), host("stays")), Path::new("h"));
        let mut file = file.unwrap();
        assert_eq!(file.record(&found(&["new", "stays"])), 1);
        assert_eq!(file.text(), format!("{mine}\n{}\n{}", host("new"), host("stays")), "{index}");
    }
}

#[test]
fn facts_are_renewed_around_what_is_by_hand() {
    let text = "[[host]] # mine\nname = 'a'\nport = 2222 # odd\n[host.facts]\n\
                cores = 1 # really 6\nmemory_mib = 1\n\
                arch = 'a'\nlibc = 'b'\nload_percent = 0\nfree_mib = 1\nnetwork_home = false\nextra = 5\n";
    let expected = "[[host]] # mine\nname = 'a'\nport = 2222 # odd\n[host.facts]\ncores = 12 # really 6\n\
                    memory_mib = 32000\narch = \"x86_64\"\nlibc = \"glibc 2.36\"\nload_percent = 12\n\
                    free_mib = 20000\nnetwork_home = true\nextra = 5\n";
    assert_eq!(record(text, &["a"]), expected);
}

#[test]
fn a_host_written_by_name_alone_is_marked_as_kept() {
    let text = record("[defaults]\nsuffix = '.x.y'\n[[host]]\nname = 'a'\n", &["a.x.y"]);
    let expected = format!("[defaults]\nsuffix = '.x.y'\n[[host]]\nname = 'a'\nkeep = true\n{FACTS}");
    assert_eq!(text, expected);
    assert_eq!(record(&text, &[]), expected);
}

#[test]
fn the_default_user_replaces_the_one_before() {
    for (text, expected) in [
        ("[defaults]\nuser = 'you' # c\nport = 1\n", "[defaults]\nuser = \"me\" # c\nport = 1\n"),
        ("defaults = { port = 1 }\n", "defaults = { port = 1 , user = \"me\" }\n"),
        ("defaults.port = 1\n", "defaults.port = 1\ndefaults.user = \"me\"\n"),
        ("# c\n", "# c\n\n[defaults]\nuser = \"me\"\n"),
    ] {
        let mut file = HostsFile::parse(text, Path::new("h")).unwrap();
        file.set_default_user("me");
        assert_eq!(file.text(), expected);
    }
}

#[test]
fn the_example_keeps_every_line() {
    let example = include_str!("../../../../hosts.toml");
    let mut file = HostsFile::parse(example, Path::new("h")).unwrap();
    file.set_default_user("me");
    file.record(&found(&["a"]));
    assert_eq!(file.text(), format!("{}\n\n[defaults]\nuser = \"me\"\n\n{}", example.trim_end(), host("a")));
}

#[test]
fn hosts_come_after_defaults_that_stand_last() {
    let text = format!("{}\n[defaults]\nport = 1\n", host("a"));
    assert_eq!(record(&text, &["b"]), format!("[defaults]\nport = 1\n\n{}", host("b")));
}

proptest! {
    /// Every comment line survives, the file can be read again, and what was found is in it.
    #[test]
    fn loses_no_comment(pieces in proptest::collection::vec(0..6usize, 0..12), names in "[a-f]{0,4}") {
        let piece = |(index, kind): (usize, &usize)| match kind {
            0 => format!("# comment {index}\n"),
            1 => "\n".to_owned(),
            2 => host(&format!("d{index}")),
            3 => format!("[[host]]\nname = 'm{index}'\nport = {}\n", index + 1),
            4 => format!("[[host]] # comment {index}\nname = 'c{index}'\n"),
            _ => host(&char::from(b'a' + (index % 6) as u8).to_string()),
        };
        let text: String = pieces.iter().enumerate().map(piece).collect();
        let Ok(_) = HostsFile::parse(&text, Path::new("h")) else { return Ok(()) };
        let mut names: Vec<String> = names.chars().map(String::from).collect();
        names.sort();
        names.dedup();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut after = record(&text, &names);
        for round in 0..2 {
            for comment in text.lines().filter(|line| line.starts_with("# comment")) {
                let kept = after.lines().any(|line| line == comment);
                prop_assert!(kept, "{} lost in round {}:\n{}", comment, round, after);
            }
            for name in &names {
                let line = format!("name = \"{name}\"");
                prop_assert!(after.contains(&line));
            }
            after = record(&after, &names);
        }
    }
}
