//! Pattern: `*`, `?` and `!`, as in `~/.ssh/config` and `known_hosts`.
//!
//! Source: ssh_config(5), PATTERNS.

/// Tells whether `name` matches one of `patterns` and none of those that begin with `!`.
pub fn matches<P: AsRef<str>>(patterns: &[P], name: &str) -> bool {
    let patterns = || patterns.iter().map(AsRef::as_ref);
    let excluded = patterns().filter_map(|pattern| pattern.strip_prefix('!')).any(|p| wildcard(p, name));
    !excluded && patterns().any(|pattern| !pattern.starts_with('!') && wildcard(pattern, name))
}

/// Matches `text` against a pattern in which `*` is any run of characters and `?` any one.
fn wildcard(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to resume if the rest does not match: after the last `*`, one byte further into the text.
    let mut resume: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                resume = Some((p + 1, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match resume {
                Some((after, from)) => {
                    resume = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_runs_and_single_characters() {
        assert!(wildcard("a*b*c", "a-b-b-c") && !wildcard("a*b*c", "a-b-b") && wildcard("**", ""));
        assert!(wildcard("tp-??", "tp-01") && !wildcard("tp-??", "tp-1"));
    }

    #[test]
    fn exclusions_win_and_match_nothing_by_themselves() {
        assert!(matches(&["*", "!tp-09"], "tp-01") && !matches(&["*", "!tp-09"], "tp-09"));
        assert!(!matches(&["!tp-09"], "tp-01") && !matches::<&str>(&[], "tp-01"));
    }
}
