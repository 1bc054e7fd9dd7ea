//! Config: what `~/.ssh/config` says about one host.
//!
//! The file is walked here, and the values are parsed by `ssh2-config`. That crate takes a `Match` line for an unknown
//! option and applies what follows to the block before it, lets the last value within a block win, and fails on values
//! of options that are of no interest here (`AddKeysToAgent confirm`); so only the lines that apply to the host, and
//! that matter, reach it, one by one.
//!
//! Source: ssh_config(5).

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use ssh2_config::{ParseRule, SshConfig};

use super::pattern;
use crate::edge::home::home_dir;

/// As OpenSSH has it.
const MAX_INCLUDE_DEPTH: usize = 16;

/// The options that are understood, besides `Host`, `Match` and `Include`.
const OPTIONS: [&str; 9] = [
    "hostname",
    "user",
    "port",
    "identityfile",
    "proxyjump",
    "proxycommand",
    "identitiesonly",
    "identityagent",
    "hostkeyalias",
];

/// What the configuration says about a host; tokens such as `%h` are not expanded yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    pub host_name: Option<String>,
    pub user: Option<String>,
    pub port: Option<u16>,
    /// In the order in which they are tried.
    pub identity_files: Vec<PathBuf>,
    /// The jump hosts, the nearest first; `None` if nothing is said, empty for `none`.
    pub proxy_jump: Option<Vec<String>>,
    pub proxy_command: Option<String>,
    pub identities_only: bool,
    pub identity_agent: Option<String>,
    pub host_key_alias: Option<String>,
}

impl HostConfig {
    /// Reads what `file`, or else `~/.ssh/config`, says about `host`, who logs in as `user` unless it says otherwise.
    ///
    /// # Errors
    /// With file and line, if a line about this host is malformed; if a file cannot be read. Where no file is named,
    /// the user need not have one.
    pub fn read(file: Option<&Path>, host: &str, user: Option<&str>) -> anyhow::Result<HostConfig> {
        let home = home_dir();
        let path = match (file, &home) {
            (Some(file), _) => file.to_path_buf(),
            (None, Ok(home)) => home.join(".ssh/config"),
            (None, Err(_)) => return Ok(HostConfig::default()),
        };
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => {
                return Ok(HostConfig::default());
            }
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        Self::parse(&text, &path, host, user)
    }

    /// Reads what `text`, the content of `file`, says about `host`; as [`read`](HostConfig::read).
    ///
    /// # Errors
    /// With file and line, if a line about this host is malformed; if a file that is included cannot be read.
    pub fn parse(text: &[u8], file: &Path, host: &str, user: Option<&str>) -> anyhow::Result<HostConfig> {
        let mut reader = Reader {
            host,
            user,
            home: home_dir().unwrap_or_else(|_| PathBuf::from("/")),
            found: HostConfig::default(),
            seen: BTreeSet::new(),
        };
        reader.read(file, text, 0)?;
        Ok(reader.found)
    }
}

/// Replaces the tokens of ssh_config(5), `%h` and so on, by what `value_of` gives.
///
/// # Errors
/// If a token is not known.
pub fn expand_tokens(text: &str, value_of: impl Fn(char) -> Option<String>) -> anyhow::Result<String> {
    let mut expanded = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '%' => match chars.next() {
                Some('%') => expanded.push('%'),
                token => {
                    let value = token.and_then(&value_of);
                    let token = token.map(String::from).unwrap_or_default();
                    expanded +=
                        &value.with_context(|| format!("`%{token}` in `{text}` is not understood"))?;
                }
            },
            '$' if chars.as_str().starts_with('{') => {
                let (name, rest) = chars.as_str()[1..]
                    .split_once('}')
                    .with_context(|| format!("`{text}` has a `${{` without `}}`"))?;
                expanded += &env::var(name).with_context(|| format!("the variable {name} in `{text}`"))?;
                chars = rest.chars();
            }
            c => expanded.push(c),
        }
    }
    Ok(expanded)
}

struct Reader<'a> {
    host: &'a str,
    user: Option<&'a str>,
    home: PathBuf,
    found: HostConfig,
    /// Options whose value is settled: the first one wins.
    seen: BTreeSet<String>,
}

impl Reader<'_> {
    fn read(&mut self, file: &Path, text: &[u8], depth: usize) -> anyhow::Result<()> {
        ensure!(depth < MAX_INCLUDE_DEPTH, "{}: files include each other too deeply", file.display());
        let mut active = true;
        for (index, line) in String::from_utf8_lossy(text).lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (keyword, arguments) = split_line(line);
            let place = || format!("{} line {}: {line}", file.display(), index + 1);
            match keyword.as_str() {
                "host" => active = pattern::matches(&words(arguments).with_context(place)?, self.host),
                "match" => active = self.criteria_match(&words(arguments).with_context(place)?),
                "include" if active => {
                    for pattern in words(arguments).with_context(place)? {
                        self.include(&pattern, depth).with_context(place)?;
                    }
                }
                _ if active && OPTIONS.contains(&keyword.as_str()) => {
                    self.option(&keyword, line).with_context(place)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn include(&mut self, pattern: &str, depth: usize) -> anyhow::Result<()> {
        let path = match pattern.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None => self.home.join(".ssh").join(pattern), // An absolute pattern replaces the rest.
        };
        for file in glob::glob(&path.to_string_lossy())? {
            let file = file?;
            if file.is_file() {
                let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                self.read(&file, &text, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Takes the value of a line, unless an earlier line had one.
    fn option(&mut self, keyword: &str, line: &str) -> anyhow::Result<()> {
        let collects = keyword == "identityfile";
        if !self.seen.insert(keyword.to_string()) && !collects {
            return Ok(());
        }
        let rules = ParseRule::ALLOW_UNSUPPORTED_FIELDS | ParseRule::ALLOW_UNKNOWN_FIELDS;
        let parsed = SshConfig::default().home_dir(&self.home).parse(&mut line.as_bytes(), rules)?;
        let params = parsed.query(self.host);
        let other = || params.unsupported_fields.values().next().cloned().context("the value is missing");
        let found = &mut self.found;
        match keyword {
            "hostname" => found.host_name = params.host_name,
            "user" => found.user = params.user,
            "port" => found.port = params.port,
            "identityfile" => found.identity_files.extend(params.identity_file.unwrap_or_default()),
            "proxyjump" => found.proxy_jump = params.proxy_jump.map(without_none),
            "proxycommand" => {
                found.proxy_command = Some(other()?.join(" ")).filter(|command| command != "none")
            }
            "identitiesonly" => found.identities_only = is_yes(&other()?),
            "identityagent" => found.identity_agent = other()?.into_iter().next(),
            "hostkeyalias" => found.host_key_alias = other()?.into_iter().next(),
            _ => {}
        }
        Ok(())
    }

    /// Judges a `Match` line. Criteria that would run a command, or that depend on how `ssh` was called, never hold.
    fn criteria_match(&self, words: &[String]) -> bool {
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (negated, criterion) = match word.strip_prefix('!') {
                Some(criterion) => (true, criterion),
                None => (false, word.as_str()),
            };
            let host_name = self.found.host_name.as_deref().unwrap_or(self.host);
            let user = self.user.or(self.found.user.as_deref());
            let local_user = env::var("USER").ok();
            let value = match criterion.to_ascii_lowercase().as_str() {
                "all" => None,
                "host" => Some(host_name),
                "originalhost" => Some(self.host),
                "user" => Some(user.or(local_user.as_deref()).unwrap_or_default()),
                "localuser" => Some(local_user.as_deref().unwrap_or_default()),
                _ => return false,
            };
            let holds = value.is_none_or(|value| {
                let patterns: Vec<&str> =
                    words.next().map(|list| list.split(',').collect()).unwrap_or_default();
                pattern::matches(&patterns, value)
            });
            if holds == negated {
                return false;
            }
        }
        true
    }
}

/// Splits a line into its keyword, in lower case, and the rest; an equals sign may stand between.
fn split_line(line: &str) -> (String, &str) {
    let end = line.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(line.len());
    let rest = line[end..].trim_start();
    (line[..end].to_ascii_lowercase(), rest.strip_prefix('=').unwrap_or(rest).trim())
}

/// Splits arguments at white space outside of double quotes, up to a comment.
fn words(arguments: &str) -> anyhow::Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in arguments.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '#' if !quoted && word.is_none() => break,
            c if c.is_whitespace() && !quoted => found.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    if quoted {
        bail!("a quote is not closed");
    }
    found.extend(word);
    if found.is_empty() { Err(anyhow!("the value is missing")) } else { Ok(found) }
}

fn without_none(hops: Vec<String>) -> Vec<String> {
    hops.into_iter().filter(|hop| !hop.eq_ignore_ascii_case("none")).collect()
}

fn is_yes(value: &[String]) -> bool {
    value.first().is_some_and(|value| value.eq_ignore_ascii_case("yes") || value.eq_ignore_ascii_case("true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, host: &str) -> anyhow::Result<HostConfig> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        fs::write(&file, text.replace("DIR", &dir.path().display().to_string())).unwrap();
        fs::write(dir.path().join("included"), "User fromfile\nHost tp-*\n  Port 2200\n").unwrap();
        HostConfig::read(Some(&file), host, None)
    }

    #[test]
    fn first_value_wins_within_and_across_blocks() {
        let text = "Host tp-01\n  HostName 10.0.0.1\n  HostName 10.0.0.2\n  Port=2222\nHost tp-* !tp-09\n  Port 1\n  \
                    User ada\n  IdentityFile /keys/a\nHost *\n  IdentityFile \"/keys/b c\"\n  User bob\n";
        let config = read(text, "tp-01").unwrap();
        assert_eq!(config.host_name.as_deref(), Some("10.0.0.1"));
        assert_eq!((config.port, config.user.as_deref()), (Some(2222), Some("ada")));
        assert_eq!(config.identity_files, [PathBuf::from("/keys/a"), PathBuf::from("/keys/b c")]);
        let config = read(text, "tp-09").unwrap();
        assert_eq!((config.port, config.user.as_deref()), (None, Some("bob")));
    }

    #[test]
    fn match_blocks_apply_only_where_they_match() {
        let text = "Host tp-01\n  User ada\nMatch host tp-02,tp-03\n  Port 7\nMatch exec \"true\"\n  Port 8\n\
                    Match all\n  Port 9\nMatch user ada !host tp-05\n  ProxyJump gate\n";
        assert_eq!(read(text, "tp-01").unwrap().port, Some(9));
        assert_eq!(read(text, "tp-02").unwrap().port, Some(7));
        assert_eq!(read(text, "tp-01").unwrap().proxy_jump, Some(vec!["gate".to_string()]));
        assert_eq!(read(text, "tp-02").unwrap().proxy_jump, None);
    }

    #[test]
    fn includes_are_read_in_place_and_end_with_their_file() {
        let text = "Include DIR/inc* DIR/missing\nHost other\n  User late\n";
        let config = read(text, "tp-01").unwrap();
        assert_eq!((config.user.as_deref(), config.port), (Some("fromfile"), Some(2200)));
        let scoped = "Host other\n  Include DIR/included\n  Port 5\n";
        assert_eq!(read(scoped, "tp-01").unwrap(), HostConfig::default());
        assert_eq!(read(scoped, "other").unwrap().port, Some(5));
        assert!(format!("{:#}", read("Include DIR/config\n", "a").unwrap_err()).contains("too deeply"));
    }

    #[test]
    fn options_of_no_interest_are_never_fatal() {
        let text = "AddKeysToAgent confirm\nForwardAgent /run/x\nCiphers -3des\nNoSuchOption\nConnectTimeout 1m\n\
                    UseKeychain yes\nRemoteForward nonsense\nUser ada # a comment\nHost\t* # another\nPort 2\n";
        let config = read(text, "tp-01").unwrap();
        assert_eq!((config.user.as_deref(), config.port), (Some("ada"), Some(2)));
    }

    #[test]
    fn malformed_lines_are_named() {
        for (text, wanted) in
            [("\nPort many\n", "line 2: Port many"), ("Host \"a\n", "line 1"), ("User\n", "line 1: User")]
        {
            let error = format!("{:#}", read(text, "tp-01").unwrap_err());
            assert!(error.contains(wanted), "{error}");
        }
        assert!(read("Host other\n  Port many\n", "tp-01").is_ok());
        assert!(HostConfig::read(Some(Path::new("/nonexistent/config")), "a", None).is_err());
    }

    #[test]
    fn remaining_options_are_understood() {
        let text = "IdentitiesOnly yes\nIdentityAgent ~/agent.sock\nHostKeyAlias lab\nProxyJump a@b:3,c\n\
                    ProxyCommand nc %h %p\n";
        let config = read(text, "tp-01").unwrap();
        assert!(config.identities_only);
        assert_eq!(config.identity_agent.as_deref(), Some("~/agent.sock"));
        assert_eq!(config.host_key_alias.as_deref(), Some("lab"));
        assert_eq!(config.proxy_jump, Some(vec!["a@b:3".into(), "c".into()]));
        assert_eq!(config.proxy_command.as_deref(), Some("nc %h %p"));
        assert_eq!(read("ProxyJump none\nProxyJump gate\n", "a").unwrap().proxy_jump, Some(vec![]));
    }

    #[test]
    fn tokens_are_expanded() {
        let value = |token| (token == 'h').then(|| "tp-01".to_string());
        assert_eq!(expand_tokens("%h.enst.fr-100%%", value).unwrap(), "tp-01.enst.fr-100%");
        assert!(expand_tokens("%x", value).is_err() && expand_tokens("%", value).is_err());
        assert_eq!(expand_tokens("${CARGO_PKG_NAME}/k", value).unwrap(), "mapreduce/k");
        assert!(expand_tokens("${NO_SUCH_VARIABLE_MR}", value).is_err());
        assert!(expand_tokens("${OPEN", value).is_err());
    }
}
