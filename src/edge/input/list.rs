//! List: which files the user means: those named, those below directories, those that patterns match, those of a list.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use glob::{MatchOptions, Pattern};

use super::Wanted;

/// What stands for standard input.
pub(super) const STANDARD: &str = "-";

/// A file that was found, or what was named and cannot be had.
pub(super) type Found = (PathBuf, anyhow::Result<()>);

/// Finds the files that are meant, in the order in which they are named; those below a directory, and those that a
/// pattern matches, in the order of the bytes of their paths.
///
/// # Errors
/// If something is named that cannot be meant, or a list cannot be read. What is just not there is found as an error.
pub(super) fn find(wanted: &Wanted<'_>) -> anyhow::Result<Vec<Found>> {
    let times = wanted.files.iter().filter(|path| path.as_os_str() == STANDARD).count();
    let times = times + usize::from(wanted.list_was_standard);
    ensure!(times <= 1, "standard input (-) can be read once only");
    let mut found = Vec::new();
    for path in wanted.files {
        if path.as_os_str() == STANDARD {
            found.push((path.clone(), Ok(())));
            continue;
        }
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match pattern(path) {
                Some(pattern) => expand(pattern, &mut found)?,
                None => found.push((path.clone(), Err(cannot_open(path, error)))),
            },
            _ => take(path, &mut found),
        }
    }
    for path in wanted.listed {
        take(path, &mut found);
    }
    Ok(found)
}

pub(super) fn cannot_open(path: &Path, error: io::Error) -> anyhow::Error {
    anyhow::Error::from(error).context(format!("cannot open {}", path.display()))
}

fn cannot_read(directory: &Path, error: io::Error) -> anyhow::Error {
    anyhow::Error::from(error).context(format!("cannot read the directory {}", directory.display()))
}

/// Takes what is at `path`: all that is below it if that is a directory; or that there is nothing.
fn take(path: &Path, found: &mut Vec<Found>) {
    let before = found.len();
    take_any(path, found);
    if found.len() == before {
        found.push((path.to_owned(), Err(anyhow!("there is no file in {}", path.display()))));
    }
}

/// Takes what is at `path`, which is nothing if it is an empty directory.
fn take_any(path: &Path, found: &mut Vec<Found>) {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let before = found.len();
            below(path, found);
            found[before..].sort_by(|(one, _), (other, _)| bytes(one).cmp(bytes(other)));
        }
        Ok(_) => found.push((path.to_owned(), Ok(()))),
        Err(error) => found.push((path.to_owned(), Err(cannot_open(path, error)))),
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Finds the regular files below `directory`, hidden ones, too. Links are not followed: so it ends, and nothing is
/// found twice.
fn below(directory: &Path, found: &mut Vec<Found>) {
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        let listed = fs::read_dir(&directory).and_then(|entries| {
            for entry in entries {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    open.push(entry.path());
                } else if kind.is_file() {
                    found.push((entry.path(), Ok(())));
                }
            }
            Ok(())
        });
        if let Err(error) = listed {
            let cause = cannot_read(&directory, error);
            found.push((directory, Err(cause)));
        }
    }
}

/// Returns `path` if it may be a pattern. One that is not UTF-8 is none.
fn pattern(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| has_wildcard(text))
}

fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Finds what `pattern` matches, as a shell does; that nothing does, or a directory cannot be read, is found as an
/// error.
///
/// # Errors
/// If it is no pattern.
fn expand(pattern: &str, found: &mut Vec<Found>) -> anyhow::Result<()> {
    let root = if pattern.starts_with('/') { "/" } else { "" };
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    let mut matching = vec![PathBuf::from(root)];
    let mut matched = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let is_last = at + 1 == parts.len();
        let mut next = Vec::new();
        for base in matching {
            match *part {
                // What is below the last directories belongs to them.
                "**" if is_last => next.push(here(&base).to_owned()),
                "**" => directories_below(&base, &mut next, &mut matched),
                part if has_wildcard(part) => matches_in(&base, pattern, part, &mut next, &mut matched)?,
                part => next.push(base.join(part)),
            }
        }
        next.retain(|path| if is_last { fs::symlink_metadata(path).is_ok() } else { here(path).is_dir() });
        matching = next;
    }
    let but = if matching.is_empty() { "" } else { " but empty directories" };
    for path in matching {
        // An empty directory is what other matches make up for.
        take_any(&path, &mut matched);
    }
    if matched.is_empty() {
        matched.push((PathBuf::from(pattern), Err(anyhow!("nothing matches {pattern}{but}"))));
    }
    // A directory may match, and what is in it, too.
    matched.sort_by(|(one, _), (other, _)| bytes(one).cmp(bytes(other)));
    matched.dedup_by(|(one, _), (other, _)| one == other);
    found.append(&mut matched);
    Ok(())
}

/// Returns the directory that `base` means: the one where we are if it is empty.
fn here(base: &Path) -> &Path {
    if base.as_os_str().is_empty() { Path::new(".") } else { base }
}

/// Finds the entries of `base` that one part of a pattern matches. Hidden ones must be meant expressly. Names that are
/// not UTF-8 match as if what is wrong in them were other characters.
fn matches_in(
    base: &Path,
    whole: &str,
    part: &str,
    next: &mut Vec<PathBuf>,
    failed: &mut Vec<Found>,
) -> anyhow::Result<()> {
    let pattern = Pattern::new(part)
        .map_err(|error| anyhow!("there is no file {whole}, and it is no pattern: {}", error.msg))?;
    let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
    for entry in entries(base, failed) {
        if pattern.matches_with(&entry.to_string_lossy(), options) {
            next.push(base.join(entry));
        }
    }
    Ok(())
}

/// Finds `base` and all directories below it that are not hidden; links are not followed.
fn directories_below(base: &Path, next: &mut Vec<PathBuf>, failed: &mut Vec<Found>) {
    let mut open = vec![base.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in entries(&directory, failed) {
            let path = directory.join(&entry);
            let is_hidden = entry.as_bytes().starts_with(b".");
            if !is_hidden && fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                open.push(path);
            }
        }
        next.push(directory);
    }
}

/// Returns the names in a directory: none, and that it `failed`, if it cannot be read.
fn entries(directory: &Path, failed: &mut Vec<Found>) -> Vec<OsString> {
    let directory = here(directory);
    let names = fs::read_dir(directory).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()
    });
    names.unwrap_or_else(|error| {
        failed.push((directory.to_owned(), Err(cannot_read(directory, error))));
        Vec::new()
    })
}

/// Returns the paths in a list, which is standard input if it is called `-`: one a line; if there is a NUL in it, they
/// are what is between those.
///
/// # Errors
/// If it cannot be read, or names nothing.
pub fn listed(list: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (name, read) = match is_standard(list) {
        true => {
            let mut text = Vec::new();
            ("standard input".to_owned(), io::stdin().lock().read_to_end(&mut text).map(|_| text))
        }
        false => (list.display().to_string(), fs::read(list)),
    };
    let text = read.with_context(|| format!("cannot read the list of files {name}"))?;
    let paths = split(&text);
    if paths.is_empty() {
        bail!("the list of files {name} names none");
    }
    Ok(paths)
}

/// Tells whether `path` stands for standard input.
pub fn is_standard(path: &Path) -> bool {
    path.as_os_str() == STANDARD
}

fn split(text: &[u8]) -> Vec<PathBuf> {
    let end = if text.contains(&0) { 0 } else { b'\n' };
    let names = text.split(|&byte| byte == end).filter(|name| !name.is_empty());
    names.map(|name| PathBuf::from(OsString::from_vec(name.to_vec()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with empty files of these names.
    fn directory(names: &[&[u8]]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in names {
            let path = directory.path().join(OsString::from_vec(name.to_vec()));
            fs::create_dir_all(path.parent().expect("it is below")).expect("it is writable");
            fs::write(path, "").expect("it is writable");
        }
        directory
    }

    /// What is found in `base` when `names` are meant there.
    fn found(base: &Path, names: &[&str]) -> anyhow::Result<Vec<String>> {
        let files: Vec<PathBuf> = names.iter().map(|name| base.join(name)).collect();
        let found = find(&Wanted { files: &files, ..Wanted::default() })?;
        let name = |(path, had): Found| {
            had?;
            let name = path.strip_prefix(base).expect("it is there");
            Ok(String::from_utf8_lossy(bytes(name)).into_owned())
        };
        found.into_iter().map(name).collect()
    }

    #[test]
    fn directories_are_walked_in_the_order_of_bytes() {
        let base = directory(&[b"a", b"d/b", b"d/B", b"d/c/x", b"d/c-", b"d/.hidden/y", b"d/\xff", b"e f"]);
        std::os::unix::fs::symlink(base.path().join("a"), base.path().join("d/link")).expect("writable");
        std::os::unix::fs::symlink(base.path(), base.path().join("d/up")).expect("writable");
        let _socket = std::os::unix::net::UnixListener::bind(base.path().join("d/socket")).expect("writable");
        let all = ["d/.hidden/y", "d/B", "d/b", "d/c-", "d/c/x", "d/\u{fffd}"];
        assert_eq!(found(base.path(), &["d"]).expect("they are there"), all);
        assert_eq!(found(base.path(), &["e f", "d/c", "a"]).expect("they are there"), ["e f", "d/c/x", "a"]);
        assert_eq!(found(base.path(), &["d/link"]).expect("it is followed"), ["d/link"]);
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        let base = directory(&[b"a.txt", b"b.txt", b".c.txt", b"d/e.txt", b"d/f/g.txt", b"[x]", b"\xff.txt"]);
        let found = |name: &str| found(base.path(), &[name]).expect("something matches");
        assert_eq!(found("*.txt"), ["a.txt", "b.txt", "\u{fffd}.txt"]);
        assert_eq!(found(".*.txt"), [".c.txt"]);
        assert_eq!(found("?.txt"), ["a.txt", "b.txt", "\u{fffd}.txt"]);
        assert_eq!(found("[ab].txt"), ["a.txt", "b.txt"]);
        assert_eq!(found("[x]"), ["[x]"], "a file of that name goes first");
        assert_eq!(found("*/e.txt"), ["d/e.txt"]);
        assert_eq!(found("d/*"), ["d/e.txt", "d/f/g.txt"]);
        assert_eq!(found("**/*.txt"), ["a.txt", "b.txt", "d/e.txt", "d/f/g.txt", "\u{fffd}.txt"]);
        assert_eq!(found("d/**/*"), ["d/e.txt", "d/f/g.txt"], "nothing is found twice");
        assert_eq!(found("d/**"), ["d/e.txt", "d/f/g.txt"]);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let base = directory(&[b"a"]);
        fs::create_dir(base.path().join("empty")).expect("it is writable");
        for (name, what) in [
            ("gone", "cannot open"),
            ("*.txt", "nothing matches"),
            ("b*/*", "nothing matches"),
            ("[b", "no pattern"),
            ("empty", "there is no file in"),
            ("empty*", "but empty directories"),
            ("a/b", "cannot open"),
        ] {
            let error = format!("{:#}", found(base.path(), &[name]).expect_err(name));
            assert!(error.contains(what) && error.contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn what_is_not_there_hides_nothing_else() {
        use std::os::unix::fs::PermissionsExt;

        let base = directory(&[b"a", b"d/x", b"d/locked/y"]);
        fs::create_dir(base.path().join("empty")).expect("it is writable");
        let locked = base.path().join("d/locked");
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).expect("it is ours");
        let is_locked = fs::read_dir(&locked).is_err();
        let names = ["*.csv", "empty", "a", "d/**/x"].map(|name| base.path().join(name));
        let found = find(&Wanted { files: &names, ..Wanted::default() });
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).expect("it is ours");
        let found = found.expect("what is there is found");
        let had = found.iter().map(|(path, had)| (path.clone(), had.is_ok()));
        let mut expected = vec![("*.csv", false), ("empty", false), ("a", true)];
        // Whoever may do anything reads that, too.
        expected.extend(is_locked.then_some(("d/locked", false)));
        expected.push(("d/x", true));
        let expected = expected.into_iter().map(|(name, had)| (base.path().join(name), had));
        assert_eq!(had.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }

    #[test]
    fn lists_are_of_lines_or_end_with_nul() {
        let names = |text: &[u8]| -> Vec<String> {
            split(text).iter().map(|path| String::from_utf8_lossy(bytes(path)).into_owned()).collect()
        };
        assert_eq!(names(b"a b\n\n-\n*\nlast"), ["a b", "-", "*", "last"]);
        assert_eq!(names(b"a\nb\0c\0"), ["a\nb", "c"]);
        assert_eq!(names(b"\xff\n"), ["\u{fffd}"]);
        assert!(names(b"\n").is_empty());
        let base = directory(&[b"x/y", b"*"]);
        let list = base.path().join("list");
        let lines = ["x", "*", "gone"].map(|name| base.path().join(name).display().to_string());
        fs::write(&list, lines.join("\n")).expect("it is writable");
        let of_list = listed(&list).expect("it is a list");
        let found = find(&Wanted { listed: &of_list, ..Wanted::default() }).expect("they are paths");
        let had: Vec<(&Path, bool)> = found.iter().map(|(path, had)| (path.as_path(), had.is_ok())).collect();
        let expected = [("x/y", true), ("*", true), ("gone", false)];
        assert_eq!(
            had,
            expected
                .map(|(name, had)| (base.path().join(name), had))
                .each_ref()
                .map(|(path, had)| (path.as_path(), *had))
        );
        fs::write(&list, "\n").expect("it is writable");
        let error = listed(&list).expect_err("it is empty");
        assert!(error.to_string().contains("names none"), "{error}");
    }

    #[test]
    fn standard_input_is_read_once() {
        let files = ["-".into(), "-".into()];
        let twice = find(&Wanted { files: &files, ..Wanted::default() }).expect_err("it is named twice");
        assert!(twice.to_string().contains("once only"), "{twice}");
        let both = Wanted { files: &files[..1], list_was_standard: true, ..Wanted::default() };
        assert!(find(&both).is_err());
    }
}
