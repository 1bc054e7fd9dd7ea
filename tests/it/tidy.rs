//! Tidy: rules of the tree that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

/// What the deciding and the speaking parts must do without.
const IMPURE: [&str; 16] = [
    "std::net",
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "Instant::now",
    "SystemTime",
    "println!",
    "eprintln!",
    "print!",
    "dbg!",
    "anyhow",
    "crossbeam_channel",
    "getrandom",
    "rustix",
    "thread_local!",
];

/// Left may use right.
const LAYERS: [&str; 5] = ["cmd", "edge", "runtime", "wire", "logic"];

/// What makes code unsafe.
const UNSAFE: [&str; 4] = ["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)"];

/// A function fits a screen.
const MAX_FUNCTION_LINES: usize = 70;

/// Code is kept narrower by the formatter; this is for comments and texts.
const MAX_WIDTH: usize = 120;

#[test]
fn deciding_and_speaking_touch_nothing() {
    let mut found = Vec::new();
    for file in sources("src/logic").into_iter().chain(sources("src/wire")) {
        // Where a table's memory comes from changes nothing of what is decided.
        if file.path != "src/logic/table/memory.rs" {
            found.extend(file.lines_with(&IMPURE));
        }
    }
    assert_none("logic/ and wire/ know no socket, file, thread, clock or terminal", &found);
}

#[test]
fn left_uses_right_only() {
    let mut found = Vec::new();
    for (index, layer) in LAYERS.iter().enumerate() {
        let above: Vec<String> = LAYERS[..index].iter().map(|layer| format!("crate::{layer}")).collect();
        let above: Vec<&str> = above.iter().map(String::as_str).collect();
        for file in sources(&format!("src/{layer}")) {
            found.extend(file.lines_with(&above));
        }
    }
    assert_none(&format!("{} : left may use right, never the other way", LAYERS.join(" -> ")), &found);
}

#[test]
fn the_command_line_crate_is_named_in_its_places_only() {
    let allowed =
        |path: &str| path.starts_with("src/cmd/cli") || path == "src/job.rs" || path.starts_with("src/jobs/");
    let mut found = Vec::new();
    for file in sources("src").into_iter().filter(|file| !allowed(&file.path)) {
        found.extend(file.lines_with(&["clap::", "clap_complete", "use clap"]));
    }
    assert_none("clap is named in cmd/cli, job.rs and jobs/ only", &found);
}

#[test]
fn nothing_that_a_user_can_cause_panics() {
    let mut found = Vec::new();
    for file in sources("src").into_iter().filter(|file| !file.path.ends_with("/tests.rs")) {
        found.extend(file.lines_with(&[".unwrap()", "todo!(", "unimplemented!(", "dbg!("]));
    }
    assert_none("errors are values; a broken invariant has an expect() with the reason", &found);
}

#[test]
fn unsafe_code_is_confined_to_the_kernels_and_justified() {
    let is_kernel =
        |path: &str| path.starts_with("src/logic/tokenize") || path.starts_with("src/logic/table");
    let mut found = Vec::new();
    // This file names what it looks for.
    for file in everything().into_iter().filter(|file| file.path != file!()) {
        if is_kernel(&file.path) {
            found.extend(file.unjustified());
        } else {
            found.extend(file.lines_with(&UNSAFE));
        }
    }
    assert_none("unsafe code stands in the two kernels only, each time below a `// SAFETY:` comment", &found);
}

#[test]
fn every_file_begins_with_its_purpose() {
    let mut found = Vec::new();
    for file in everything() {
        let first = file.text.lines().next().unwrap_or_default();
        if !first.starts_with("//! ") || !first.ends_with(['.', ':']) {
            found.push(format!("{}: {first}", file.path));
        }
    }
    assert_none(
        "the first line of a file says its one purpose, as a sentence: `//! Name: what it is for.`",
        &found,
    );
}

#[test]
fn functions_fit_a_screen() {
    let found: Vec<String> = everything().iter().flat_map(SourceFile::long_functions).collect();
    assert_none(&format!("a function has {MAX_FUNCTION_LINES} lines at most"), &found);
}

#[test]
fn lines_are_not_too_wide() {
    let mut found = Vec::new();
    for file in everything() {
        for (index, line) in file.text.lines().enumerate() {
            if line.chars().count() > MAX_WIDTH || line.ends_with(' ') || line.contains('\t') {
                found.push(format!("{}:{}: {line}", file.path, index + 1));
            }
        }
    }
    assert_none(&format!("no line is wider than {MAX_WIDTH}, ends in a space, or has a tab"), &found);
}

/// A Rust file of the repository.
struct SourceFile {
    /// Relative to the repository.
    path: String,
    text: String,
}

impl SourceFile {
    /// The lines that contain one of `words`, tests and comments aside, as `path:line: text`.
    fn lines_with(&self, words: &[&str]) -> Vec<String> {
        let code = self.text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let is_hit =
            |line: &str| !line.trim_start().starts_with("//") && words.iter().any(|word| line.contains(word));
        let hits = code.lines().enumerate().filter(|(_, line)| is_hit(line));
        hits.map(|(index, line)| format!("{}:{}: {}", self.path, index + 1, line.trim())).collect()
    }

    /// The lines with unsafe code that do not follow upon a comment, of any length, which begins with
    /// `SAFETY:`. A function that is unsafe to call says in its doc what is asked of the caller.
    fn unjustified(&self) -> Vec<String> {
        let lines: Vec<&str> = self.text.lines().map(str::trim_start).collect();
        let is_justified = |at: usize| {
            let comments = lines[..at].iter().rev().take_while(|line| line.starts_with("//"));
            comments.into_iter().any(|line| line.starts_with("// SAFETY: ") || *line == "/// # Safety")
        };
        let is_unsafe =
            |line: &str| !line.starts_with("//") && UNSAFE[..3].iter().any(|word| line.contains(word));
        let bare = (0..lines.len()).filter(|&at| is_unsafe(lines[at]) && !is_justified(at));
        bare.map(|at| format!("{}:{}: {}", self.path, at + 1, lines[at])).collect()
    }

    /// Functions that are too long. The formatter puts the closing brace where the function began.
    fn long_functions(&self) -> Vec<String> {
        let lines: Vec<&str> = self.text.lines().collect();
        let mut found = Vec::new();
        for (start, line) in lines.iter().enumerate() {
            let bare = line.trim_start();
            let words = bare.split_whitespace().take_while(|word| !word.contains('(')).collect::<Vec<_>>();
            let begins = bare.starts_with("fn ") || (bare.starts_with("pub") && words.contains(&"fn"));
            if !begins || bare.ends_with([';', '}']) {
                continue;
            }
            let closing = format!("{}}}", &line[..line.len() - bare.len()]);
            let length = lines[start..].iter().position(|line| **line == closing).map_or(0, |end| end + 1);
            if length > MAX_FUNCTION_LINES {
                found.push(format!("{}:{}: {length} lines: {bare}", self.path, start + 1));
            }
        }
        found
    }
}

fn everything() -> Vec<SourceFile> {
    ["src", "tests", "examples", "benches"].into_iter().flat_map(sources).collect()
}

/// The Rust files below `dir`, which need not exist.
fn sources(dir: &str) -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut dirs = vec![PathBuf::from(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir)).into_iter().flatten() {
            let entry = entry.expect("an entry of the repository");
            let path = dir.join(entry.file_name());
            if entry.file_type().expect("its type").is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(root.join(&path)).expect("a source file");
                files.push(SourceFile { path: path.to_string_lossy().into_owned(), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

#[track_caller]
fn assert_none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}
