//! Hosts: the hosts file, `hosts.toml`: what the user wrote by hand and what `discover` found.
//!
//! ```toml
//! [defaults]                      # for every host that does not say otherwise; all optional
//! user = "me"                     # also: port, key, remote_dir, suffix
//!
//! [[host]]
//! name = "tp-1a201-05.enst.fr"
//! port = 2222                     # also: user, key, remote_dir, keep
//! facts = { cores = 12, ... }     # written by `discover`
//! ```
//!
//! Invariant: nothing that the user wrote by hand is lost when the file is written again, comments included. A file
//! that cannot be understood in full, down to a misspelt key, is an error that names the line, and is never written.

mod check;
mod record;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use toml_edit::DocumentMut;

use super::failure::HostName;
use super::home::expand_home;
use super::ssh::Target;
use super::{name, output};

/// There is no host to do anything with.
#[derive(Debug, thiserror::Error)]
pub enum NoHosts {
    #[error("there is no hosts file {}", .0.display())]
    NoFile(PathBuf),
    #[error("{} names no host yet", .0.display())]
    NoneNamed(PathBuf),
}

impl NoHosts {
    /// Says what the user can do about it.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        "discover N, which writes the file; or by hand: [[host]], and below it name = \"machine.example.org\""
    }
}

/// What a new hosts file begins with.
const HEADER: &str = "\
# The hosts of `mapreduce`, written by `mapreduce discover`. What you write here by hand is kept when it is written
# again: comments, [defaults] (user, port, key, remote_dir, suffix), and user, port, key, remote_dir of a host. A host
# that a later discover does not find is dropped, unless it bears something of yours, such as keep = true.

";

/// One host of the hosts file, with the file's defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// As the user wrote it, with the suffix added to a short name.
    pub name: HostName,
    pub user: Option<String>,
    pub port: Option<u16>,
    pub key: Option<PathBuf>,
    pub remote_dir: Option<String>,
    pub facts: Option<Facts>,
}

impl Host {
    /// Returns what is needed to log in there.
    #[must_use]
    pub fn target(&self) -> Target {
        Target { host: self.name.clone(), user: self.user.clone(), port: self.port, key: self.key.clone() }
    }
}

/// What `discover` found out about a host. A number is zero where it could not be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub cores: u32,
    pub memory_mib: u64,
    /// As `uname -m` says.
    pub arch: String,
    /// Such as `glibc 2.36` or `musl`; `unknown` where it could not be told.
    pub libc: String,
    /// Load average over one minute, in hundredths.
    pub load_percent: u32,
    /// Free space where the remote directory will be.
    pub free_mib: u64,
    /// Whether the home directory is on a network file system.
    pub network_home: bool,
}

/// What holds for every host that does not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Settings {
    user: Option<String>,
    port: Option<u16>,
    key: Option<PathBuf>,
    remote_dir: Option<String>,
}

/// A `[[host]]` as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    settings: Settings,
    facts: Option<Facts>,
}

/// A hosts file, read and understood.
#[derive(Debug)]
pub struct HostsFile {
    path: PathBuf,
    document: DocumentMut,
    defaults: Settings,
    /// Added to short names of this file; none are unless the file says so.
    suffix: String,
    entries: Vec<Entry>,
}

impl HostsFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it is not there, cannot be read, or holds something that a hosts file does not.
    pub fn load(path: &Path) -> anyhow::Result<HostsFile> {
        match fs::read_to_string(path) {
            Ok(text) => HostsFile::parse(&text, path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(NoHosts::NoFile(path.to_owned()).into())
            }
            Err(error) => {
                Err(error).with_context(|| format!("cannot read the hosts file {}", path.display()))
            }
        }
    }

    /// Reads the file at `path`, or makes an empty one in memory where none is.
    ///
    /// # Errors
    /// If it cannot be read, or holds something that a hosts file does not.
    pub fn load_or_new(path: &Path) -> anyhow::Result<HostsFile> {
        match fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => HostsFile::parse(HEADER, path),
            _ => HostsFile::load(path),
        }
    }

    /// Returns the hosts in the order of the file.
    ///
    /// # Errors
    /// If it names none.
    pub fn hosts(&self) -> Result<Vec<Host>, NoHosts> {
        if self.entries.is_empty() {
            return Err(NoHosts::NoneNamed(self.path.clone()));
        }
        Ok(self.entries.iter().map(|entry| self.complete(entry)).collect())
    }

    /// Returns the host called `name` with what the file says about it, or with the defaults if it is not in there.
    pub fn host(&self, name: &HostName) -> Host {
        let of_file = self.entries.iter().find(|entry| self.full_name(&entry.name) == name.0);
        let new = || Entry { name: name.0.clone(), settings: Settings::default(), facts: None };
        Host { name: name.clone(), ..self.complete(&of_file.cloned().unwrap_or_else(new)) }
    }

    /// Writes the file: whole or not at all, with the permissions that it had.
    ///
    /// # Errors
    /// If it cannot be written; the file is then as it was.
    pub fn save(&self) -> anyhow::Result<()> {
        output::write_file(&self.path, self.text().as_bytes())
            .with_context(|| format!("cannot write the hosts file {}", self.path.display()))
    }

    /// Reads `text`, the content of the file at `path`.
    ///
    /// # Errors
    /// If it holds something that a hosts file does not.
    pub fn parse(text: &str, path: &Path) -> anyhow::Result<HostsFile> {
        check::parse(text, path)
    }

    /// Returns what [`save`](HostsFile::save) writes.
    #[must_use]
    pub fn text(&self) -> String {
        let text = self.document.to_string();
        format!("{}\n", text.trim_matches('\n'))
    }

    fn complete(&self, entry: &Entry) -> Host {
        let (own, defaults) = (entry.settings.clone(), self.defaults.clone());
        Host {
            name: HostName(self.full_name(&entry.name)),
            user: own.user.or(defaults.user),
            port: own.port.or(defaults.port),
            key: own.key.or(defaults.key).map(|key| self.key_path(&key)),
            remote_dir: own.remote_dir.or(defaults.remote_dir),
            facts: entry.facts.clone(),
        }
    }

    fn full_name(&self, name: &str) -> String {
        name::with_suffix(name, &self.suffix)
    }

    /// Where a key is: `~` is the home directory, and other relative paths start at the hosts file.
    fn key_path(&self, key: &Path) -> PathBuf {
        let key = expand_home(key).unwrap_or_else(|_| key.to_owned());
        self.path.parent().unwrap_or(Path::new("")).join(key)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn hosts(text: &str) -> Vec<Host> {
        HostsFile::parse(text, Path::new("dir/hosts.toml")).unwrap().hosts().unwrap()
    }

    #[test]
    fn defaults_and_suffix_are_filled_in() {
        let hosts = hosts(
            "[defaults]\nuser = 'me'\nport = 2222\nkey = '~/.ssh/lab'\nremote_dir = '/tmp/me'\nsuffix = '.enst.fr'\n\
             [[host]]\nname = 'a'\n[[host]]\nname = 'b.example.org'\nuser = 'you'\nport = 22\nkey = 'k'\n\
             remote_dir = '/x'\n[[host]]\nname = '10.0.0.1'\nkey = '/abs/k'\n",
        );
        let home = crate::edge::home::home_dir().unwrap();
        assert_eq!(hosts[0].name.0, "a.enst.fr");
        assert_eq!(hosts[0].user.as_deref(), Some("me"));
        assert_eq!(hosts[0].port, Some(2222));
        assert_eq!(hosts[0].key, Some(home.join(".ssh/lab")));
        assert_eq!(hosts[0].remote_dir.as_deref(), Some("/tmp/me"));
        assert_eq!(hosts[1].name.0, "b.example.org");
        assert_eq!((hosts[1].user.as_deref(), hosts[1].port), (Some("you"), Some(22)));
        assert_eq!(hosts[1].key, Some(PathBuf::from("dir/k")));
        assert_eq!(hosts[1].remote_dir.as_deref(), Some("/x"));
        assert_eq!(hosts[2].name.0, "10.0.0.1");
        assert_eq!(hosts[2].key, Some(PathBuf::from("/abs/k")));
    }

    #[test]
    fn without_a_suffix_short_names_stay_short() {
        assert_eq!(hosts("[[host]]\nname = 'alias'\n")[0].name.0, "alias");
    }

    #[test]
    fn a_file_without_hosts_is_an_error_of_its_own() {
        for text in ["", HEADER, include_str!("../../hosts.toml")] {
            let error =
                HostsFile::parse(text, Path::new("hosts.toml")).unwrap().hosts().unwrap_err().to_string();
            assert_eq!(error, "hosts.toml names no host yet");
        }
        let error = HostsFile::load(Path::new("/nonexistent/hosts.toml")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/hosts.toml"), "{error}");
        assert!(error.downcast::<NoHosts>().unwrap().advice().contains("discover"));
    }

    #[test]
    fn the_example_is_valid_with_its_settings_switched_on() {
        let example = include_str!("../../hosts.toml");
        let setting = |line: &str| line.starts_with('[') || line.contains(" = ");
        let switch = |line: &str| match line.strip_prefix('#') {
            Some(rest) if setting(rest) && !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        };
        let on: String = example.lines().map(switch).collect();
        let hosts = hosts(&on);
        assert!(!hosts.is_empty());
        assert!(
            hosts.iter().any(|host| host.user.is_some() && host.key.is_some() && host.remote_dir.is_some())
        );
    }

    #[test]
    fn saving_keeps_permissions_and_links_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real.toml"), dir.path().join("hosts.toml"));
        fs::write(&real, "[[host]]\nname = 'a'\n").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real.toml", &link).unwrap();
        let mut file = HostsFile::load(&link).unwrap();
        file.set_default_user("me");
        file.save().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::read_to_string(&real).unwrap().contains("user = \"me\""));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_failed_save_names_the_file() {
        let file = HostsFile::load_or_new(Path::new("/nonexistent/hosts.toml")).unwrap();
        assert!(format!("{:#}", file.save().unwrap_err()).contains("/nonexistent/hosts.toml"));
    }
}
