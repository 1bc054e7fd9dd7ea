//! Check: reads a hosts file and names the line of whatever does not belong there.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use toml_edit::{Document, Item, TableLike};

use super::{Entry, Facts, HostsFile, Settings};
use crate::edge::name::{self, check_plain, check_user};
use crate::edge::sanitize::clipped;

const SECTIONS: [&str; 2] = ["defaults", "host"];
const DEFAULTS: [&str; 5] = ["user", "port", "key", "remote_dir", "suffix"];
const HOST: [&str; 7] = ["name", "user", "port", "key", "remote_dir", "keep", "facts"];

/// The text that is read, for the line numbers of errors.
struct Source<'a> {
    text: &'a str,
    path: &'a Path,
}

/// Reads a hosts file.
///
/// # Errors
/// As `PATH:LINE: what is wrong`.
pub fn parse(text: &str, path: &Path) -> anyhow::Result<HostsFile> {
    let source = Source { text, path };
    let document =
        Document::parse(text.to_owned()).map_err(|error| source.fault(error.span(), error.message()))?;
    source.known_keys(document.as_table(), &SECTIONS, "a hosts file")?;
    let (defaults, suffix) = match document.get("defaults") {
        Some(item) => source.defaults(item)?,
        None => Default::default(),
    };
    let entries = match document.get("host") {
        Some(item) => source.hosts(item, &suffix)?,
        None => Vec::new(),
    };
    Ok(HostsFile { path: path.to_owned(), document: document.into_mut(), defaults, suffix, entries })
}

impl Source<'_> {
    fn defaults(&self, item: &Item) -> anyhow::Result<(Settings, String)> {
        let table =
            item.as_table_like().ok_or_else(|| self.fault(item.span(), "`defaults` is no section"))?;
        self.known_keys(table, &DEFAULTS, "[defaults]")?;
        let suffix = self.string(table, "suffix", name::check_suffix)?.unwrap_or_default();
        Ok((self.settings(table)?, suffix))
    }

    fn hosts(&self, item: &Item, suffix: &str) -> anyhow::Result<Vec<Entry>> {
        let tables = item.as_array_of_tables().ok_or_else(|| {
            self.fault(item.span(), "hosts are written as sections that begin with [[host]]")
        })?;
        let mut lines = HashMap::new();
        let mut entries = Vec::new();
        for table in tables {
            let entry = self.host(table, table.span())?;
            let line = self.line(table.span());
            if let Some(first) = lines.insert(name::with_suffix(&entry.name, suffix), line) {
                let what = format!("the host `{}` is already named in line {first}", entry.name);
                return Err(self.fault(table.span(), &what));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn host(&self, table: &dyn TableLike, span: Option<Range<usize>>) -> anyhow::Result<Entry> {
        self.known_keys(table, &HOST, "[[host]]")?;
        let name = self.string(table, "name", name::check)?;
        let name = name.ok_or_else(|| self.fault(span, "the host has no `name`"))?;
        if let Some(keep) = table.get("keep").filter(|keep| !keep.is_bool()) {
            return Err(self.fault(keep.span(), "`keep` is not true or false"));
        }
        let facts = table.get("facts").map(|item| self.facts(item)).transpose()?;
        Ok(Entry { name, settings: self.settings(table)?, facts })
    }

    fn settings(&self, table: &dyn TableLike) -> anyhow::Result<Settings> {
        Ok(Settings {
            user: self.string(table, "user", check_user)?,
            port: self.port(table)?,
            key: self.string(table, "key", check_plain)?.map(PathBuf::from),
            remote_dir: self.string(table, "remote_dir", check_plain)?,
        })
    }

    fn string(
        &self,
        table: &dyn TableLike,
        key: &str,
        check: impl Fn(&str) -> Result<(), &'static str>,
    ) -> anyhow::Result<Option<String>> {
        let Some(item) = table.get(key) else { return Ok(None) };
        let text =
            item.as_str().ok_or_else(|| self.fault(item.span(), &format!("`{key}` is no text in quotes")))?;
        let wrong = |why| self.fault(item.span(), &format!("`{key}`: `{}` {why}", clipped(text, 60)));
        check(text).map_err(wrong)?;
        Ok(Some(text.to_owned()))
    }

    fn port(&self, table: &dyn TableLike) -> anyhow::Result<Option<u16>> {
        let Some(item) = table.get("port") else { return Ok(None) };
        let port = item.as_integer().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        port.map(Some).ok_or_else(|| self.fault(item.span(), "`port` is no number from 1 to 65535"))
    }

    fn facts(&self, item: &Item) -> anyhow::Result<Facts> {
        let wrong = |what: &str| {
            let advice = "`discover` writes facts anew where they are removed";
            self.fault(item.span(), &format!("facts: {what}; {advice}"))
        };
        let value = item.clone().into_value().map_err(|_| wrong("they are no table"))?;
        Facts::deserialize(value.into_deserializer()).map_err(|error| wrong(error.message()))
    }

    fn known_keys(&self, table: &dyn TableLike, known: &[&str], of: &str) -> anyhow::Result<()> {
        let Some((key, item)) = table.iter().find(|(key, _)| !known.contains(key)) else { return Ok(()) };
        let span = table.key(key).and_then(|key| key.span()).or_else(|| item.span());
        let what = format!("unknown key `{}`; {of} takes {}", clipped(key, 60), known.join(", "));
        Err(self.fault(span, &what))
    }

    fn fault(&self, span: Option<Range<usize>>, what: &str) -> anyhow::Error {
        anyhow!("{}:{}: {}", self.path.display(), self.line(span), what.replace('\n', " "))
    }

    /// The number of the line that `span` begins in.
    fn line(&self, span: Option<Range<usize>>) -> usize {
        let start = span.map_or(0, |span| span.start).min(self.text.len());
        1 + self.text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assert_fails(text: &str, why: &str) {
        let error = format!("{:#}", parse(text, Path::new("h.toml")).unwrap_err());
        assert!(error.starts_with(why), "{text}: {error}");
    }

    #[test]
    fn names_the_line_of_what_is_wrong() {
        assert_fails("[[host]]\nname = 'a\n", "h.toml:2: ");
        assert_fails(
            "\n[[host]]\nname = 'a'\nprot = 3\n",
            "h.toml:4: unknown key `prot`; [[host]] takes name, user",
        );
        assert_fails("[defaults]\nname = 'a'\n", "h.toml:2: unknown key `name`; [defaults] takes user");
        assert_fails("[hosts]\n", "h.toml:1: unknown key `hosts`; a hosts file takes defaults, host");
        assert_fails("[host]\nname = 'a'\n", "h.toml:1: hosts are written as sections");
        assert_fails("defaults = 3\n", "h.toml:1: `defaults` is no section");
        assert_fails("[[host]]\nport = 3\n", "h.toml:1: the host has no `name`");
        assert_fails("[[host]]\nname = 3\n", "h.toml:2: `name` is no text");
        assert_fails("[[host]]\nname = '-x'\n", "h.toml:2: `name`: `-x` does not start with");
        for port in ["0", "65536", "-1", "'22'", "2.5"] {
            assert_fails(
                &format!("[defaults]\nport = {port}\n"),
                "h.toml:2: `port` is no number from 1 to 65535",
            );
        }
        assert_fails("[defaults]\nuser = ''\n", "h.toml:2: `user`: `` is empty");
        assert_fails("[defaults]\nuser = '-l'\n", "h.toml:2: `user`: `-l` is no login name");
        assert_fails(
            "[defaults]\nremote_dir = \"/a\\nb\"\n",
            "h.toml:2: `remote_dir`: `/a\\nb` holds control",
        );
        assert_fails("[defaults]\nsuffix = ' '\n", "h.toml:2: `suffix`: `` is no domain");
        assert_fails("[[host]]\nname = 'a'\nkeep = 'yes'\n", "h.toml:3: `keep` is not true or false");
        assert_fails("[[host]]\nname = 'a'\nfacts = 3\n", "h.toml:3: facts: ");
        assert_fails("[[host]]\nname = 'a'\nfacts = { cores = -1 }\n", "h.toml:3: facts: ");
        assert_fails("[[host]]\nname = 'a'\n[host.facts]\ncores = 1\n", "h.toml:3: facts: missing field");
    }

    #[test]
    fn refuses_a_host_that_comes_twice() {
        assert_fails(
            "[[host]]\nname = 'a'\n\n[[host]]\nname = 'a'\n",
            "h.toml:4: the host `a` is already named in line 1",
        );
        let suffixed = "[defaults]\nsuffix = 'x.y'\n[[host]]\nname = 'a'\n[[host]]\nname = 'a.x.y'\n";
        assert_fails(suffixed, "h.toml:5: the host `a.x.y` is already named in line 3");
    }

    #[test]
    fn facts_may_know_more_than_this_version() {
        let text = "[[host]]\nname = 'a'\n\
                    facts = { cores = 1, memory_mib = 2, arch = 'x', libc = 'y', load_percent = 3, \
                    free_mib = 4, network_home = true, gpus = 9 }\n";
        assert_eq!(parse(text, Path::new("h")).unwrap().entries[0].facts.as_ref().unwrap().free_mib, 4);
    }

    /// Words of a hosts file; a text of them is often almost right.
    const WORDS: [&str; 22] = [
        "[[host]]",
        "[defaults]",
        "[host.facts]",
        "name",
        "port",
        "facts",
        "key",
        "user",
        " = ",
        "=",
        "{",
        "}",
        "'a'",
        "\"-\"",
        "1",
        "#",
        "\n",
        "\n",
        ",",
        "[",
        ".",
        "é",
    ];

    proptest! {
        #[test]
        fn eats_almost_toml(words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..40)) {
            let _ = parse(&words.concat(), Path::new("h"));
        }
    }
}
