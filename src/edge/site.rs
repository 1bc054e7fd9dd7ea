//! Site: candidates for workers, from the lab's page (JSON or HTML), a text list, or a range.
//!
//! Invariant: a candidate's name passed [`name::check`]; whatever the content is, reading it does not fail loudly.

mod fetch;
mod table;

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::Value;

use super::sanitize::clipped;
use super::{name, range};

/// The lab's list of machines, asked when no other source is named.
pub const DEFAULT_SOURCE: &str = "https://tp.telecom-paris.fr/ajax.php";

/// Most hosts that one range may make: a large lab several times over.
const MAX_RANGE_HOSTS: usize = 4096;

/// Most hosts of a list, be they up, down or refused, and ranges in a text list included.
const MAX_LIST_HOSTS: usize = 65_536;

/// The file of the JSON form; the directory it is in holds the older HTML table.
const JSON_FILE: &str = "ajax.php";

/// A machine that may be up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// As the source names it, without a suffix added.
    pub name: String,
    /// Sessions open on it; `None` where the source does not tell.
    pub occupancy: Option<u64>,
}

/// What a source lists.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The machines that are said to be up, least occupied first.
    pub up: Vec<Candidate>,
    /// How many are listed as down.
    pub down: usize,
    /// Entries that cannot be used, each with what is wrong with it, safe to show.
    pub refused: Vec<String>,
}

/// Reads the candidates from an address or a file.
///
/// `deadline` bounds the whole of a request. Where the JSON of the lab's site is not there, its page is asked.
///
/// # Errors
/// If it cannot be had, or is in none of the forms.
pub fn from_source(source: &str, deadline: Duration) -> anyhow::Result<Listing> {
    let first = fetch::fetch(source, deadline);
    let asked_page = match &first {
        Err(error) if error.answered => page_of(source),
        Ok(content) if parse(content).is_err() => page_of(source),
        _ => None,
    };
    let listing = first.map_err(|error| error.cause).and_then(|content| {
        parse(&content).with_context(|| format!("cannot read the list of hosts from {source}"))
    });
    let (Err(error), Some(page)) = (&listing, asked_page) else { return listing };
    let second =
        fetch::fetch(page, deadline).map_err(|error| error.cause).and_then(|content| parse(&content));
    second.map_err(|other| anyhow!("{page}: {other:#}").context(format!("{error:#}")))
}

/// Reads the candidates from a range such as `tp-1a201-[00-30]`.
///
/// # Errors
/// If it cannot be read or makes more than 4096 hosts.
pub fn from_range(text: &str) -> anyhow::Result<Listing> {
    let names = range::expand(text, MAX_RANGE_HOSTS)?;
    for name in &names {
        name::check(name).map_err(|why| anyhow!("`{}` {why}", clipped(name, 60)))?;
    }
    let mut listing = Listing::default();
    names.into_iter().for_each(|name| listing.add(name, true, None));
    Ok(listing.in_order())
}

/// Reads the candidates from `content`: JSON, HTML or a text list, told apart by how it begins.
///
/// # Errors
/// If it holds no host in the form it seems to have.
pub fn parse(content: &[u8]) -> anyhow::Result<Listing> {
    let text = String::from_utf8_lossy(content);
    let text = text.trim_start_matches('\u{feff}').trim();
    let listing = match text.chars().next() {
        None => bail!("it is empty"),
        Some('{' | '[') => parse_json(text)?,
        Some('<') => table::parse(text)?,
        Some(_) => parse_list(text)?,
    };
    if listing.up.is_empty() && listing.down == 0 {
        let refused = listing.refused.first().map(|entry| format!("; {entry}")).unwrap_or_default();
        bail!("it lists no host, neither as JSON, nor as a table, nor one a line{refused}");
    }
    Ok(listing.in_order())
}

/// The page that holds the table, where `source` is the JSON beside it.
fn page_of(source: &str) -> Option<&str> {
    let web = source.starts_with("https://") || source.starts_with("http://");
    source.strip_suffix(JSON_FILE).filter(|page| web && page.ends_with('/'))
}

/// Reads `{"data": [[name, alive, sessions...], ...]}` or the bare array; a row may be short, a cell anything.
fn parse_json(text: &str) -> anyhow::Result<Listing> {
    let content: Value = serde_json::from_str(text).context("it looks like JSON, but is not")?;
    let rows = content.get("data").unwrap_or(&content);
    let rows = rows.as_array().context("the JSON has no array `data`")?;
    ensure!(rows.len() <= MAX_LIST_HOSTS, "it lists more than {MAX_LIST_HOSTS} hosts");
    let mut listing = Listing::default();
    for row in rows {
        let cells = row.as_array().map(Vec::as_slice).unwrap_or_default();
        match cells.split_first() {
            Some((Value::String(name), rest)) => {
                let alive = rest.first() == Some(&Value::Bool(true));
                listing.add(name.clone(), alive, occupancy(rest.iter().skip(1).map(sessions)));
            }
            _ => listing.refuse(&row.to_string(), "is no row of a host"),
        }
    }
    Ok(listing)
}

fn sessions(cell: &Value) -> Option<u64> {
    cell.as_u64().or_else(|| cell.as_str()?.trim().parse().ok())
}

/// Adds the session counts that are known; `None` if none is.
fn occupancy(counts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    counts.flatten().reduce(u64::saturating_add)
}

/// Reads one host or range a line, or several between blanks and commas; `#` begins a comment.
fn parse_list(text: &str) -> anyhow::Result<Listing> {
    let mut listing = Listing::default();
    for (number, line) in text.lines().enumerate() {
        let hosts = line.split('#').next().unwrap_or_default().trim();
        if hosts.chars().all(|c| c == ',' || c.is_whitespace()) {
            continue;
        }
        let names = range::expand(hosts, MAX_LIST_HOSTS.saturating_sub(listing.len()))
            .with_context(|| format!("line {}", number + 1))?;
        names.into_iter().for_each(|name| listing.add(name, true, None));
    }
    Ok(listing)
}

impl Listing {
    /// How many entries it was made of.
    fn len(&self) -> usize {
        self.up.len() + self.down + self.refused.len()
    }

    fn add(&mut self, name: String, alive: bool, occupancy: Option<u64>) {
        match name::check(&name) {
            Ok(()) if alive => self.up.push(Candidate { name, occupancy }),
            Ok(()) => self.down += 1,
            Err(why) => self.refuse(&name, why),
        }
    }

    fn refuse(&mut self, entry: &str, why: &str) {
        self.refused.push(format!("`{}` {why}", clipped(entry, 60)));
    }

    /// Puts the least occupied first and drops names that come again. A machine whose occupancy is not known comes
    /// after all others: the site knows the sessions of every machine that it can reach. Ties keep their order.
    fn in_order(mut self) -> Listing {
        self.up.sort_by_key(|candidate| candidate.occupancy.unwrap_or(u64::MAX));
        let mut seen = HashSet::new();
        self.up.retain(|candidate| seen.insert(candidate.name.clone()));
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(listing: &Listing) -> Vec<&str> {
        listing.up.iter().map(|candidate| candidate.name.as_str()).collect()
    }

    fn assert_refuses(content: &str, why: &str) {
        let error = format!("{:#}", parse(content.as_bytes()).unwrap_err());
        assert!(error.contains(why), "{}: {error}", clipped(content, 100));
    }

    #[test]
    fn json_orders_by_sessions_and_takes_literal_true_only() {
        let listing = parse(
            br#"{"data": [["tp-1a201-00", true, 4, 1, 0], ["tp-1a201-01", false], ["tp-m1-05", true, 0, 2, 0],
                ["tp-t309-02", true, null, null, null], ["tp-ariel", true], ["crdn-01", true, 0, "1", null],
                ["text", "true", 0], ["one", 1, 0], ["bare"], ["odd", true, -1, 0.5, "n/a"],
                ["zero", true, 0, 0, 0]]}"#,
        )
        .unwrap();
        let order = ["zero", "crdn-01", "tp-m1-05", "tp-1a201-00", "tp-t309-02", "tp-ariel", "odd"];
        assert_eq!(names(&listing), order);
        assert_eq!(listing.down, 4);
        assert_eq!(listing.up[1].occupancy, Some(1));
        assert_eq!(listing.up[4].occupancy, None);
    }

    #[test]
    fn rows_that_are_none_and_names_that_are_dangerous_are_refused_one_by_one() {
        let json = br#"[["-oProxyCommand=x", true, 0], ["a\u001b[2J", true, 0], [], 7, [null, true], ["ok", true, 0]]"#;
        let listing = parse(json).unwrap();
        assert_eq!(names(&listing), ["ok"]);
        assert_eq!(listing.refused.len(), 5);
        assert!(listing.refused.iter().all(|refused| !refused.contains('\u{1b}')));
    }

    #[test]
    fn counts_that_overflow_stay_counts() {
        let listing = parse(br#"[["a", true, 18446744073709551615, 9], ["b", true, 1]]"#).unwrap();
        assert_eq!(names(&listing), ["b", "a"]);
    }

    #[test]
    fn text_list_keeps_its_order_and_takes_ranges() {
        let list =
            "# my machines\nb.example.org, a\n\n127.0.0.[2-3] # loopback\n::1\n\t,\nb.example.org\n-bad\n";
        let listing = parse(list.as_bytes()).unwrap();
        assert_eq!(names(&listing), ["b.example.org", "a", "127.0.0.2", "127.0.0.3", "::1"]);
        assert_eq!(listing.refused.len(), 1);
    }

    #[test]
    fn says_why_a_content_is_no_list() {
        assert_refuses("", "empty");
        assert_refuses("# nothing\n", "lists no host");
        assert_refuses("{\"data\": [", "looks like JSON");
        assert_refuses("{\"data\": 3}", "no array `data`");
        assert_refuses("{\"data\": []}", "lists no host");
        assert_refuses("<html><body>Not found</body></html>", "lists no host");
        assert_refuses("a\nb[1-\n", "line 2");
        assert_refuses("a[0-99999],b[0-99999]", "room for 65536");
    }

    #[test]
    fn no_list_is_longer_than_a_large_lab() {
        assert_refuses("a[0-65535]\nb\n", "line 2");
        assert_refuses("-a[0-65534]\nb[0-1]\n", "line 2: `b[0-1]` makes too many hosts: there is room for 1");
        assert_refuses(&format!("[{}7]", "[],".repeat(MAX_LIST_HOSTS)), "more than 65536 hosts");
        assert_refuses(&"<tr><th>-<td>".repeat(MAX_LIST_HOSTS + 2), "more than 65536 hosts");
        assert_eq!(parse("-a[0-65534]\nb\n".as_bytes()).unwrap().refused.len(), MAX_LIST_HOSTS - 1);
    }

    #[test]
    fn ranges_must_make_host_names() {
        assert_eq!(names(&from_range("tp-1a201-[00-01]").unwrap()), ["tp-1a201-00", "tp-1a201-01"]);
        assert!(from_range("-x[0-1]").is_err());
        assert!(from_range("x;y").is_err());
        assert!(from_range("x[0-4096]").is_err());
    }

    #[test]
    fn the_page_is_beside_the_json() {
        assert_eq!(page_of(DEFAULT_SOURCE), Some("https://tp.telecom-paris.fr/"));
        assert_eq!(page_of("http://127.0.0.1:80/x/ajax.php"), Some("http://127.0.0.1:80/x/"));
        assert_eq!(page_of("http://127.0.0.1:80/hosts.json"), None);
        assert_eq!(page_of("./ajax.php"), None);
    }

    /// Pieces of the site's page.
    const WORDS: [&str; 16] = [
        "<tr>",
        "</tr>",
        "<th>",
        "<td>",
        "<td a=",
        "</td>",
        "<span class=\"badge badge-success\">",
        "</span>",
        "OK",
        "OK",
        "tp-1",
        "-x",
        "&nbsp;",
        "&",
        "3",
        "<!--",
    ];

    proptest! {
        #[test]
        fn eats_any_bytes(content in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&content);
        }

        #[test]
        fn eats_almost_json(content in r#"[\[{]("data": ?)?[\[\]{}a-z0-9",:truefalsn -]{0,80}"#) {
            let _ = parse(content.as_bytes());
        }

        #[test]
        fn eats_almost_html(words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..60)) {
            for candidate in parse(format!("<{}", words.concat()).as_bytes()).unwrap_or_default().up {
                prop_assert_eq!(name::check(&candidate.name), Ok(()));
            }
        }
    }
}
