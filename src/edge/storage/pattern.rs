//! Pattern: whether a file's name is one of those that a pattern means, as shells have it.

/// Tells whether `text` has what makes it a pattern.
pub(super) fn is_pattern(text: &[u8]) -> bool {
    text.iter().any(|byte| b"*?[".contains(byte))
}

/// Tells whether `pattern` means `name`: `*` is any characters, `?` is one, `[ab-d]` one of these, `[!a]` one that is
/// not. A name that begins with a dot is meant only if the dot is written.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.starts_with(b".") && !pattern.starts_with(b".") {
        return false;
    }
    let (pattern, name) = (characters(pattern), characters(name));
    let (mut at, mut next) = (0, 0);
    // Where the last `*` stands, and where in the name what it stands for ends so far.
    let mut star: Option<(usize, usize)> = None;
    while next < name.len() {
        if pattern.get(at) == Some(&STAR) {
            star = Some((at, next));
            at += 1;
        } else if let Some(behind) = one(&pattern, at, name[next]) {
            (at, next) = (behind, next + 1);
        } else if let Some((starred, end)) = star {
            // It stands for one more.
            star = Some((starred, end + 1));
            (at, next) = (starred + 1, end + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|character| *character == STAR)
}

const STAR: u32 = '*' as u32;

/// Returns the characters of a text; a byte that is of none is one by itself.
fn characters(text: &[u8]) -> Vec<u32> {
    let mut characters = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        characters.extend(chunk.valid().chars().map(u32::from));
        characters.extend(chunk.invalid().iter().map(|byte| 0x11_0000 + u32::from(*byte)));
    }
    characters
}

/// Returns where the pattern goes on behind what stands at `at`, if that means `character`.
fn one(pattern: &[u32], at: usize, character: u32) -> Option<usize> {
    match char::from_u32(*pattern.get(at)?) {
        Some('?') => Some(at + 1),
        Some('[') => match set(pattern, at, character) {
            Some((is_meant, behind)) => is_meant.then_some(behind),
            // It is not closed: a bracket like any other.
            None => (character == u32::from('[')).then_some(at + 1),
        },
        _ => (pattern[at] == character).then_some(at + 1),
    }
}

/// Tells whether the set that begins at `at` has `character`, and where it ends; `None` if it does not.
fn set(pattern: &[u32], at: usize, character: u32) -> Option<(bool, usize)> {
    let is = |at: usize, what: char| pattern.get(at) == Some(&u32::from(what));
    let is_negated = is(at + 1, '!') || is(at + 1, '^');
    let first = at + 1 + usize::from(is_negated);
    // A bracket that closes is one of the set where it stands first.
    let end = (first + 1..pattern.len()).find(|&end| is(end, ']'))?;
    let (mut next, mut has) = (first, false);
    while next < end {
        let is_span = next + 2 < end && is(next + 1, '-');
        let to = if is_span { next + 2 } else { next };
        has |= (pattern[next]..=pattern[to]).contains(&character);
        next = to + 1;
    }
    Some((has != is_negated, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_names() {
        for (pattern, name) in [
            ("*", "a"),
            ("*.txt", "a.b.txt"),
            ("a*b*c", "abbc"),
            ("a*b*c", "aXbYbZc"),
            ("?", "é"),
            ("[é]x", "éx"),
            ("[a-c]", "b"),
            ("[!a-c]", "d"),
            ("[^a]", "b"),
            ("[]]", "]"),
            ("[a-]", "-"),
            ("a[", "a["),
            ("[[]*", "[x"),
            (".*", ".hidden"),
            ("part-?????", "part-00003"),
        ] {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("*", ".hidden"),
            ("?hidden", ".hidden"),
            ("[.]hidden", ".hidden"),
            ("*.txt", "a.txt.gz"),
            ("a*b*c", "acb"),
            ("?", ""),
            ("?", "ab"),
            ("[a-c]", "d"),
            ("[!a-c]", "b"),
            ("[c-a]", "b"),
            ("a", "A"),
        ] {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        assert!(matches(b"?\xfe*", b"\xff\xfe\xfd"));
        assert!(matches(b"*********************a*b", &[b"a".repeat(5000), b"b".to_vec()].concat()));
        assert!(is_pattern(b"a[1") && !is_pattern(b"a b{}\\"));
    }
}
