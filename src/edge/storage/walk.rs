//! Walk: the files that a path means: itself, those below a directory, or what matches a pattern.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::pattern::{is_pattern, matches};
use crate::wire::located::MAX_FOUND;

/// Takes each file, or a path with why what it means is not known; `false` if it wants no more.
type Each<'e> = &'e mut dyn FnMut(PathBuf, Result<(), String>) -> bool;

/// Finds the files that `path` means, in the order of their names, each once; or why there is none. Below a directory,
/// links are not followed. What is there under the very name is meant before what a pattern means; `**` is any number
/// of directories. A directory that cannot be read does not hide what is in others.
pub(super) fn files(path: &Path, each: Each<'_>) {
    if is_pattern(path.as_os_str().as_bytes()) && path.symlink_metadata().is_err() {
        matching(path, each);
        return;
    }
    let mut is_empty = true;
    below(path, &mut |path, found| {
        is_empty = false;
        each(path, found)
    });
    if is_empty {
        each(path.to_owned(), Err(format!("there is no file in {}", path.display())));
    }
}

/// Finds what matches the pattern `path`.
fn matching(path: &Path, each: Each<'_>) {
    let components: Vec<&OsStr> = path.components().map(Component::as_os_str).collect();
    let mut matched = Vec::new();
    let mut failed = Known::new();
    expand(PathBuf::new(), &components, &mut matched, &mut failed);
    matched.sort();
    matched.dedup();
    if failed.is_empty() && matched.is_empty() {
        each(path.to_owned(), Err(format!("nothing matches {}", path.display())));
        return;
    }
    // Several ways may lead to the same file: a directory may match, and what is in it, too.
    let mut files = Known::new();
    for found in matched {
        // Where something below is known, a directory above has been walked, as those go first.
        if files.range(found.clone()..).next().is_some_and(|(known, _)| known.starts_with(&found)) {
            continue;
        }
        let goes_on = below(&found, &mut |path, found| {
            files.insert(path, found);
            files.len() <= MAX_FOUND
        });
        if !goes_on {
            break;
        }
    }
    files.append(&mut failed);
    if files.is_empty() {
        each(path.to_owned(), Err(format!("nothing matches {} but empty directories", path.display())));
    }
    for (path, found) in files {
        if !each(path, found) {
            return;
        }
    }
}

/// Finds what there is that `components` mean below `base`, and the directories that cannot be read.
fn expand(base: PathBuf, components: &[&OsStr], matched: &mut Vec<PathBuf>, failed: &mut Known) {
    let Some((first, rest)) = components.split_first() else {
        matched.push(base);
        return;
    };
    let literal = base.join(first);
    let is_there = literal.symlink_metadata().is_ok();
    if is_there || !is_pattern(first.as_bytes()) {
        if is_there {
            expand(literal, rest, matched, failed);
        }
        return;
    }
    let is_any = *first == "**";
    if is_any {
        expand(base.clone(), rest, matched, failed);
    }
    let entries = entries(&base).unwrap_or_else(|cause| {
        failed.insert(base.clone(), Err(cause));
        Vec::new()
    });
    for entry in entries {
        let path = base.join(&entry.name);
        let is_hidden = entry.name.as_bytes().starts_with(b".");
        if is_any && entry.is_directory && !is_hidden {
            expand(path, components, matched, failed);
        } else if !is_any && matches(first.as_bytes(), entry.name.as_bytes()) {
            // A link to a directory is one, where it is named.
            if rest.is_empty() || path.is_dir() {
                expand(path, rest, matched, failed);
            }
        }
    }
}

/// What was found, and why it cannot be read if it cannot.
type Known = BTreeMap<PathBuf, Result<(), String>>;

/// Finds `path`, or the files below it if it is a directory. `false` if no more are wanted.
fn below(path: &Path, each: Each<'_>) -> bool {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => walk(path, each),
        Ok(_) => each(path.to_owned(), Ok(())),
        Err(error) => each(path.to_owned(), Err(format!("cannot read {}: {error}", path.display()))),
    }
}

fn walk(directory: &Path, each: Each<'_>) -> bool {
    let entries = match entries(directory) {
        Ok(entries) => entries,
        Err(cause) => return each(directory.to_owned(), Err(cause)),
    };
    entries.into_iter().all(|entry| {
        let path = directory.join(&entry.name);
        match (entry.is_directory, entry.is_file) {
            (true, _) => walk(&path, each),
            (false, true) => each(path, Ok(())),
            (false, false) => true,
        }
    })
}

/// Something in a directory, itself and not what it leads to.
struct Entry {
    name: std::ffi::OsString,
    is_directory: bool,
    is_file: bool,
}

/// Returns what is in a directory, in the order of names; nothing if it is none.
fn entries(directory: &Path) -> Result<Vec<Entry>, String> {
    let here = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let cannot = |error: io::Error| format!("cannot read {}: {error}", here.display());
    let listed = match fs::read_dir(here) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        Err(error) => return Err(cannot(error)),
    };
    let mut entries = Vec::new();
    for entry in listed {
        let entry = entry.map_err(cannot)?;
        let kind = entry.file_type().map_err(cannot)?;
        entries.push(Entry { name: entry.file_name(), is_directory: kind.is_dir(), is_file: kind.is_file() });
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for file in
            ["a/2.txt", "a/10.txt", "a/b/x", "a/b/c/y.txt", "a/.hidden", "a/[1].txt", "z", "k/.d/z.txt"]
        {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().expect("it is below")).expect("it is writable");
            fs::write(path, "").expect("it is writable");
        }
        fs::create_dir(dir.path().join("empty")).expect("it is writable");
        symlink("../z", dir.path().join("a/link")).expect("it is writable");
        symlink(".", dir.path().join("a/loop")).expect("it is writable");
        symlink("a/b", dir.path().join("way")).expect("it is writable");
        dir
    }

    fn found(dir: &Path, path: &str) -> Vec<String> {
        let mut all = Vec::new();
        files(&dir.join(path), &mut |path, found| {
            all.push(match found {
                Ok(()) => path.strip_prefix(dir).expect("it is below").display().to_string(),
                Err(cause) => cause.replace(&format!("{}/", dir.display()), ""),
            });
            true
        });
        all
    }

    #[test]
    fn directories_are_walked_in_order_and_links_in_them_left_out() {
        let dir = tree();
        let all = ["a/.hidden", "a/10.txt", "a/2.txt", "a/[1].txt", "a/b/c/y.txt", "a/b/x"];
        assert_eq!(found(dir.path(), "a"), all);
        assert_eq!(found(dir.path(), "a/b/../2.txt"), ["a/b/../2.txt"]);
        assert_eq!(found(dir.path(), "way"), ["way/c/y.txt", "way/x"], "one that is named is followed");
        assert_eq!(found(dir.path(), "a/link"), ["a/link"]);
        assert_eq!(found(dir.path(), "empty"), ["there is no file in empty"]);
        assert_eq!(found(dir.path(), "no"), ["cannot read no: No such file or directory (os error 2)"]);
    }

    #[test]
    fn patterns_find_what_they_mean_once() {
        let dir = tree();
        for (pattern, all) in [
            ("a/*.txt", &["a/10.txt", "a/2.txt", "a/[1].txt"][..]),
            ("a/[0-9].txt", &["a/2.txt"]),
            ("a/[1].txt", &["a/[1].txt"]),
            ("*/b", &["a/b/c/y.txt", "a/b/x"]),
            ("**/*.txt", &["a/10.txt", "a/2.txt", "a/[1].txt", "a/b/c/y.txt"]),
            ("**/**/y*", &["a/b/c/y.txt"]),
            ("**/b/**/y*", &["a/b/c/y.txt"]),
            ("*/*/c/y.txt", &["a/b/c/y.txt"]),
            ("w?y/x", &["way/x"]),
            ("k/.d/*", &["k/.d/z.txt"]),
        ] {
            assert_eq!(found(dir.path(), pattern), all, "{pattern}");
        }
        assert_eq!(found(dir.path(), "*.csv"), ["nothing matches *.csv"]);
        assert_eq!(found(dir.path(), "z/*"), ["nothing matches z/*"]);
        for pattern in ["empty*", "empty/**"] {
            assert_eq!(
                found(dir.path(), pattern),
                [format!("nothing matches {pattern} but empty directories")]
            );
        }
    }

    #[test]
    fn a_file_is_found_once_though_directories_above_it_match() {
        let dir = tempfile::tempdir().expect("a directory");
        for file in ["d/x", "d/sub/y", "d/sub/sub2/z", "d/sub.txt", "d/.h/w"] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().expect("it is below")).expect("it is writable");
            fs::write(path, "").expect("it is writable");
        }
        let shown = ["d/sub/sub2/z", "d/sub/y", "d/sub.txt", "d/x"];
        let all = [&["d/.h/w"][..], &shown].concat();
        for pattern in ["d/**", "**", "**/**", "**/d"] {
            assert_eq!(found(dir.path(), pattern), all, "{pattern}");
        }
        for pattern in ["d/**/*", "d/*"] {
            assert_eq!(found(dir.path(), pattern), shown, "{pattern}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_read_hides_no_other() {
        let dir = tree();
        let locked = dir.path().join("a/b/c");
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).expect("it is ours");
        // Whoever may do anything reads it all the same.
        if fs::read_dir(&locked).is_err() {
            let cause = "cannot read a/b/c: Permission denied (os error 13)";
            assert_eq!(found(dir.path(), "a/b"), [cause, "a/b/x"]);
            assert_eq!(found(dir.path(), "a/b/**"), [cause, "a/b/x"]);
            assert_eq!(found(dir.path(), "a/b/*/y*"), [cause]);
            assert_eq!(found(dir.path(), "a/**/x"), [cause, "a/b/x"]);
        }
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).expect("it is ours");
    }

    #[test]
    fn a_walk_ends_where_no_more_is_wanted() {
        let dir = tree();
        let mut told = 0;
        files(dir.path(), &mut |_, _| {
            told += 1;
            told < 2
        });
        assert_eq!(told, 2);
    }
}
