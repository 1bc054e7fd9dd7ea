//! Streaming: what commands may do, and what they may not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::{FromArgMatches, Parser};

use super::*;

/// Nothing here takes so long, not even where the machine is busy.
const DEADLINE: Duration = Duration::from_secs(20);

fn streaming(map: &str) -> Streaming {
    with(map, None, None)
}

fn with(map: &str, combine: Option<&str>, reduce: Option<&str>) -> Streaming {
    let owned = |command: Option<&str>| command.map(str::to_owned);
    let params =
        Params { map: map.to_owned(), combine: owned(combine), reduce: owned(reduce), ship: Vec::new() };
    Streaming::new(params).expect("the parameters are good")
}

/// What was emitted, by key. Says no once it has this much, or after such a time.
struct Emitted {
    pairs: BTreeMap<Vec<u8>, Rests>,
    lines: u64,
    most: u64,
    until: Instant,
}

impl Emitted {
    fn new() -> Self {
        Self { pairs: BTreeMap::new(), lines: 0, most: u64::MAX, until: Instant::now() + DEADLINE }
    }

    /// All lines, in the order of their keys.
    fn lines(&self) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for (key, rests) in &self.pairs {
            let each = rests.for_each(|rest, times| {
                (0..times).for_each(|_| lines.push([key, rest].concat()));
                Ok::<(), ()>(())
            });
            assert_eq!(each, Ok(()));
        }
        lines
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.lines().join(&b'\n')).into_owned()
    }
}

impl Emit<Rests> for Emitted {
    fn pair(&mut self, key: &[u8], value: Rests) {
        self.lines += value.lines();
        match self.pairs.get_mut(key) {
            Some(into) => into.merge(value),
            None => _ = self.pairs.insert(key.to_vec(), value),
        }
    }

    fn may_hold(&mut self, bytes: usize) -> Result<(), String> {
        match () {
            () if self.lines > self.most || bytes as u64 > self.most.max(16 << 20) => {
                Err("too much".to_owned())
            }
            () if Instant::now() > self.until => Err("too late".to_owned()),
            () => Ok(()),
        }
    }
}

fn mapped(job: &Streaming, text: &[u8]) -> Result<Emitted, String> {
    let mut emitted = Emitted::new();
    job.map(Records::from(text), &mut emitted).map(|()| emitted)
}

fn failure(job: &Streaming, text: &[u8]) -> String {
    mapped(job, text).err().expect("the command fails")
}

/// More than all pipes hold.
fn long_text() -> Vec<u8> {
    (0..800_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect()
}

#[test]
fn what_a_command_writes_is_emitted_as_it_is() {
    let text = b"a\tb\tc\n\nno tab\nempty\t\n\0\xff\r\n\t\nlast";
    let emitted = mapped(&streaming("cat"), text).expect("it is mapped");
    let mut expected: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    expected.sort_by_key(|line| parted(line));
    assert_eq!(emitted.lines(), expected);
    assert!(emitted.pairs.contains_key(&b"a"[..]) && emitted.pairs.contains_key(&b"empty"[..]));
}

#[test]
fn much_goes_through_without_anyone_waiting_for_the_other() {
    let text = long_text();
    let lines = |command: &str| mapped(&streaming(command), &text).expect("it is mapped").lines;
    assert_eq!(lines("cat"), 800_000);
    // Writes more than a pipe holds before it reads anything, to both.
    assert_eq!(lines("seq 1 400000; seq 1 400000 >&2; cat > /dev/null"), 400_000);
    assert_eq!(lines("cat > /dev/null; seq 1 400000 >&2"), 0);
}

#[test]
fn a_command_need_not_read() {
    let text = long_text();
    for (command, lines) in [
        ("true", 0),
        ("exec <&-; seq 1 10", 10),
        ("head -n 3", 3),
        ("exec <&-; sleep 0.3; echo late", 1),
        ("exec >&-; cat; true", 0),
    ] {
        let mapped = mapped(&streaming(command), &text).expect(command);
        assert_eq!(mapped.lines, lines, "{command}");
    }
}

#[test]
fn all_pieces_of_a_split_are_read_by_one_process() {
    let mut emitted = Emitted::new();
    let mut pieces = |map: crate::job::MapPiece<'_>| {
        (0..5).try_for_each(|_| map(Records::new(b"one\ntwo\n", b"some file", 0)))
    };
    let job = streaming("echo $(wc -l) $mapreduce_map_input_file $mapreduce_task_ismap");
    job.map_split(&mut pieces, &mut emitted).expect("it is mapped");
    assert_eq!(emitted.text(), "10 some file true");
    let mut emitted = Emitted::new();
    streaming("wc -l").map_split(&mut |_| Ok(()), &mut emitted).expect("it is mapped");
    assert_eq!(emitted.text(), "0", "an empty split is one");
}

#[test]
fn a_piece_that_cannot_be_had_ends_the_process() {
    let job = streaming("cat; sleep 100");
    let began = Instant::now();
    let mut pieces = |map: crate::job::MapPiece<'_>| {
        map(Records::from(&b"one\n"[..]))?;
        Err("the disk is gone".to_owned())
    };
    let ended = job.map_split(&mut pieces, &mut Emitted::new());
    assert_eq!(ended, Err("the disk is gone".to_owned()));
    assert!(began.elapsed() < DEADLINE);
}

#[test]
fn a_command_that_fails_is_told_of_with_its_last_words() {
    let said = failure(&streaming("cat; echo first >&2; echo last >&2; exit 3"), b"text\n");
    assert_eq!(
        said,
        "the map command \"cat; echo first >&2; echo last >&2; exit 3\" exited with status 3: first | last"
    );
    assert!(
        failure(&streaming("kill -9 $$"), b"")
            .ends_with("was killed by signal 9 and wrote nothing to standard error")
    );
    let said = failure(&streaming("seq 1 300000 >&2; exit 1"), &long_text());
    assert!(said.ends_with("| 299999 | 300000"), "{said}");
    let said = failure(&streaming("./mapper.py"), b"");
    assert!(said.contains("exited with status 127 (") && said.contains("--ship"), "{said}");
    assert!(failure(&streaming(&"x".repeat(5000)), b"").len() < 1500);
}

#[test]
fn what_a_command_leaves_behind_neither_holds_nor_survives_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("pid");
    let began = Instant::now();
    let command = format!("sleep 1000 & echo $! > {}; cat", file.display());
    assert_eq!(mapped(&streaming(&command), b"a\nb\n").expect("it is mapped").text(), "a\nb");
    assert!(began.elapsed() < DEADLINE);
    let pid = std::fs::read_to_string(&file).expect("it was written").trim().to_owned();
    let is_gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    while !is_gone() {
        assert!(began.elapsed() < DEADLINE, "it is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn one_that_writes_without_end_or_never_ends_is_stopped() {
    let stopped = |command: &str, most: u64, limit: Duration| {
        let mut emitted = Emitted { most, until: Instant::now() + limit, ..Emitted::new() };
        let began = Instant::now();
        let said = streaming(command).map(Records::from(&long_text()[..]), &mut emitted);
        assert!(began.elapsed() < limit + DEADLINE / 2, "{command}");
        said.expect_err("it does not end")
    };
    let short = Duration::from_millis(300);
    assert!(stopped("yes", 10_000, DEADLINE).ends_with("was stopped: too much"));
    assert!(stopped("cat > /dev/null; yes", 10_000, DEADLINE).ends_with("was stopped: too much"));
    assert!(stopped("tr '\\0' x < /dev/zero", 10_000, DEADLINE).ends_with("was stopped: too much"));
    assert!(stopped("cat > /dev/null; sleep 1000", 10_000, short).ends_with("was stopped: too late"));
    assert!(stopped("sleep 1000", 10_000, short).ends_with("was stopped: too late"));
    assert!(stopped("exec >&- 2>&- <&-; exec sleep 1000", 10_000, short).ends_with("was stopped: too late"));
    assert!(stopped("yes >&2", 10_000, short).ends_with("was stopped: too late"));
}

#[test]
fn a_combine_gets_what_a_map_has_written_sorted() {
    let job = with("tr ' ' '\\n'", Some("uniq -c | awk '{print $2 \"\\t\" $1}'"), None);
    assert_eq!(mapped(&job, b"b a b c a b\n").expect("it is mapped").text(), "a\t2\nb\t3\nc\t1");
    let job = with("cat", Some("cat > /dev/null; exit 4"), None);
    assert!(
        failure(&job, b"a\n")
            .contains("the combine command \"cat > /dev/null; exit 4\" exited with status 4")
    );
    let job = with("yes | head -n 10000000", Some("cat"), None);
    let mut emitted = Emitted { most: 1 << 20, ..Emitted::new() };
    assert!(job.map(Records::from(&b""[..]), &mut emitted).expect_err("it is much").ends_with("too much"));
}

fn reduced(job: &Streaming, pairs: &[(&[u8], &[u8])]) -> Result<Emitted, String> {
    let mut groups = Emitted::new();
    pairs.iter().for_each(|(key, rest)| groups.pair(key, Rests::one(rest)));
    let mut emitted = Emitted::new();
    let mut groups = groups.pairs.iter().map(|(key, rests)| (key.as_slice(), rests.clone()));
    job.reduce(&mut groups, &mut emitted).map(|()| emitted)
}

#[test]
fn a_reduce_reads_lines_sorted_by_key_and_writes_the_result() {
    let pairs: [(&[u8], &[u8]); 5] =
        [(b"b", b"\t2"), (b"a", b"\t9"), (b"b", b"\t10"), (b"a", b""), (b"b", b"\t2")];
    let job = with("cat", None, Some("cat -n"));
    let emitted = reduced(&job, &pairs).expect("it is reduced");
    let numbered = ["1\ta", "2\ta\t9", "3\tb\t10", "4\tb\t2", "5\tb\t2"].map(|line| format!("     {line}"));
    assert_eq!(emitted.text(), numbered.join("\n"));
    // Lines are keys, whole.
    assert!(emitted.pairs.keys().all(|line| line.contains(&b'\t')));
    let emitted = reduced(&streaming("cat"), &pairs).expect("it is reduced");
    assert_eq!(emitted.text(), "a\na\t9\nb\t10\nb\t2\nb\t2");
    assert_eq!(reduced(&with("cat", None, Some("head -n 1")), &pairs).expect("it is reduced").text(), "a");
    let said = reduced(&with("cat", None, Some("cat; echo bad >&2; false")), &pairs).err();
    assert_eq!(
        said.expect("it fails"),
        "the reduce command \"cat; echo bad >&2; false\" exited with status 1: bad"
    );
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    params: Params,
}

fn parsed(args: &[&str]) -> Result<Params, String> {
    let command = <Line as clap::CommandFactory>::command();
    let matches = command.try_get_matches_from([&["run"], args].concat());
    let line = matches.and_then(|matches| Line::from_arg_matches(&matches));
    line.map(|line| line.params).map_err(|error| error.to_string())
}

#[test]
fn files_lie_where_commands_are_executed() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("my mapper.sh");
    std::fs::write(&script, "#!/bin/sh\ncat data\npwd\n").expect("it is written");
    let executable = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(&script, executable).expect("it is ours");
    let data = dir.path().join("data");
    std::fs::write(&data, "shipped\n").expect("it is written");
    let (script, data) = (script.display().to_string(), data.display().to_string());
    let params = parsed(&["--map", "'./my mapper.sh'", "--ship", &script, "--ship", &data]);
    let wire = serde_json::to_string(&params.expect("they are good")).expect("they have a form");
    let job = Streaming::new(serde_json::from_str(&wire).expect("they are whole")).expect("they are good");
    let emitted = mapped(&job, b"").expect("it is mapped");
    let text = emitted.text();
    let place = text.lines().find(|line| line.contains("mapreduce-job-")).expect("it says where it is");
    assert!(text.lines().any(|line| line == "shipped") && std::path::Path::new(place).exists(), "{text}");
    drop(job);
    assert!(!std::path::Path::new(place).exists(), "it is removed");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let refused = |args: &[&str]| {
        let made = parsed(args).and_then(|params| Streaming::new(params).map(drop));
        made.expect_err("it cannot be meant")
    };
    assert_eq!(refused(&["--map", " "]), "--map takes a command");
    assert_eq!(refused(&["--map", "cat", "--reduce", ""]), "--reduce takes a command");
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, bytes: usize| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("it is ours");
        std::fs::write(&path, vec![b'x'; bytes]).expect("it is written");
        path.display().to_string()
    };
    let (one, same, large) = (file("one", 1), file("else/one", 1), file("large", 700_000));
    let said = refused(&["--map", "cat", "--ship", &one, "--ship", &same]);
    assert_eq!(said, "--ship: two files are called \"one\"");
    let said = refused(&["--map", "cat", "--ship", &large]);
    assert!(said.contains("(700000 bytes)") && said.contains("put larger files where"), "{said}");
    let said = refused(&["--map", "cat", "--ship", &format!("{one}-absent")]);
    assert!(said.contains("it cannot be read: No such file"), "{said}");
    let params = |name: &str| format!(r#"{{"map":"cat","combine":null,"reduce":null,"ship":[{name}]}}"#);
    let hostile = params(r#"{"name":"../x","executable":false,"contents":""}"#);
    let hostile: Params = serde_json::from_str(&hostile).expect("it is whole");
    assert_eq!(Streaming::new(hostile).err().as_deref(), Some("--ship: \"../x\" is no name of a file"));
}

#[test]
fn the_next_process_for_a_file_is_started_ahead() {
    let job = streaming("cat");
    let place = job.place().expect("a directory can be made");
    let waiting = |file: &[u8]| job.pool.waiting(file);
    let take = |file: &[u8]| job.pool.take(&place, &job.map, file).expect("it can be started");
    drop(take(b"a"));
    assert_eq!(waiting(b"a"), 0, "nobody knows whether more of it comes");
    for _ in 0..3 {
        drop(take(b"a"));
        assert_eq!(waiting(b"a"), 1);
    }
    drop(take(b"b"));
    assert_eq!((waiting(b"a"), waiting(b"b")), (1, 0));
    job.pool.clear();
    assert_eq!(waiting(b"a"), 0);
}
