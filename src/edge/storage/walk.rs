//! Walk: the files that a path means: itself, those below a directory, or what matches a pattern.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::pattern::{is_pattern, matches};

/// Takes each file, or why some are not known; `false` if it wants no more.
type Each<'e> = &'e mut dyn FnMut(Result<PathBuf, String>) -> bool;

/// Finds the files that `path` means, in the order of their names. Below a directory, links are not followed. What is
/// there under the very name is meant before what a pattern means; `**` is any number of directories.
pub(super) fn files(path: &Path, each: Each<'_>) {
    if !is_pattern(path.as_os_str().as_bytes()) || path.symlink_metadata().is_ok() {
        below(path, each);
        return;
    }
    let components: Vec<&OsStr> = path.components().map(Component::as_os_str).collect();
    let mut found = Vec::new();
    if let Err(cause) = expand(PathBuf::new(), &components, &mut found) {
        each(Err(cause));
        return;
    }
    // Two ways may lead to the same file.
    found.sort();
    found.dedup();
    if found.is_empty() {
        each(Err(format!("nothing matches {}", path.display())));
    }
    for path in found {
        if !below(&path, each) {
            return;
        }
    }
}

/// Finds what there is that `components` mean below `base`.
fn expand(base: PathBuf, components: &[&OsStr], found: &mut Vec<PathBuf>) -> Result<(), String> {
    let Some((first, rest)) = components.split_first() else {
        found.push(base);
        return Ok(());
    };
    let literal = base.join(first);
    if !is_pattern(first.as_bytes()) || literal.symlink_metadata().is_ok() {
        return match literal.symlink_metadata() {
            Ok(_) => expand(literal, rest, found),
            Err(_) => Ok(()),
        };
    }
    let is_any = *first == "**";
    if is_any {
        expand(base.clone(), rest, found)?;
    }
    for entry in entries(&base)? {
        let path = base.join(&entry.name);
        let is_hidden = entry.name.as_bytes().starts_with(b".");
        if is_any && entry.is_directory && !is_hidden {
            expand(path, components, found)?;
        } else if !is_any && matches(first.as_bytes(), entry.name.as_bytes()) {
            // A link to a directory is one, where it is named.
            if rest.is_empty() || path.is_dir() {
                expand(path, rest, found)?;
            }
        }
    }
    Ok(())
}

/// Finds `path`, or the files below it if it is a directory. `false` if no more are wanted.
fn below(path: &Path, each: Each<'_>) -> bool {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => walk(path, each),
        Ok(_) => each(Ok(path.to_owned())),
        Err(error) => each(Err(format!("cannot read {}: {error}", path.display()))),
    }
}

fn walk(directory: &Path, each: Each<'_>) -> bool {
    let entries = match entries(directory) {
        Ok(entries) => entries,
        Err(cause) => return each(Err(cause)),
    };
    entries.into_iter().all(|entry| {
        let path = directory.join(&entry.name);
        match (entry.is_directory, entry.is_file) {
            (true, _) => walk(&path, each),
            (false, true) => each(Ok(path)),
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
    use std::os::unix::fs::symlink;

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
        files(&dir.join(path), &mut |found| {
            all.push(match found {
                Ok(path) => path.strip_prefix(dir).expect("it is below").display().to_string(),
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
        assert_eq!(found(dir.path(), "empty"), [""; 0]);
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
    }

    #[test]
    fn a_walk_ends_where_no_more_is_wanted() {
        let dir = tree();
        let mut told = 0;
        files(dir.path(), &mut |_| {
            told += 1;
            told < 2
        });
        assert_eq!(told, 2);
    }
}
