//! Known hosts: which key a host must present, as OpenSSH's files say.
//!
//! The files are read here rather than by libssh2, which gives up on the whole file for one malformed line, knows no
//! wildcards, and calls a key changed when only another type is recorded. A host that presents a type of key other than
//! the recorded ones is refused: the recorded types are asked for first, so it is not the host that was met before.
//!
//! Format: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".

use std::fmt;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::pattern;
use crate::edge::home::home_dir;

/// The port that is not named in `known_hosts`.
pub const DEFAULT_PORT: u16 = 22;

/// Keys of hosts that the administrator of this machine vouches for.
const GLOBAL_FILES: [&str; 2] = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"];

/// Serializes looking and appending, so that parallel sessions through one jump host record its key once.
static RECORDING: Mutex<()> = Mutex::new(());

/// Why a host key is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostKeyError {
    #[error(
        "the key of {name} has changed: {file} line {line} has {recorded}, the host presents {presented}; \
         somebody may be in between, or the host was installed anew",
        file = .place.file.display(),
        line = .place.line
    )]
    Changed { name: String, recorded: String, presented: String, place: Place },
    #[error(
        "{name} presents only a key of type {presented}, but {file} line {line} has one of type {recorded}",
        file = .place.file.display(),
        line = .place.line
    )]
    OtherType { name: String, recorded: String, presented: String, place: Place },
    #[error(
        "the key that {name} presents is marked as revoked in {file} line {line}",
        file = .place.file.display(),
        line = .place.line
    )]
    Revoked { name: String, place: Place },
    #[error("the key of {name} is not in {file}: the host presents {presented}, and {why}", file = .file.display())]
    Unknown {
        name: String,
        presented: String,
        /// The key as the file would have it.
        line: String,
        file: PathBuf,
        why: Unaccepted,
    },
}

/// Why a key that is not known is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unaccepted {
    /// New keys are to be refused.
    Policy,
    /// The user did not take it for the right one.
    User,
    NoTerminal,
}

impl fmt::Display for Unaccepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unaccepted::Policy => "new keys are not accepted",
            Unaccepted::User => "you did not accept it",
            Unaccepted::NoTerminal => "there is no terminal to ask you on",
        })
    }
}

/// A line of a `known_hosts` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: PathBuf,
    pub line: usize,
}

impl HostKeyError {
    /// Says what the user can do about it.
    pub fn advice(&self) -> String {
        match self {
            HostKeyError::Changed { name, place, .. } | HostKeyError::OtherType { name, place, .. } => {
                format!(
                    "if you know that the host was installed anew: ssh-keygen -f {} -R {}",
                    super::quote(&place.file.to_string_lossy()),
                    super::quote(name)
                )
            }
            HostKeyError::Revoked { .. } => "leave the host out, and ask its administrator".into(),
            // The very key that was shown, where asking the host once more could bring another.
            HostKeyError::Unknown { line, file, .. } => format!(
                "compare the key with one from a source you trust; if it is right: echo {} >> {}",
                super::quote(line),
                super::quote(&file.to_string_lossy())
            ),
        }
    }
}

/// A host's public key, in its wire form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(pub Vec<u8>);

impl PublicKey {
    /// Returns the type of the key, such as `ssh-ed25519`, which is its first field.
    pub fn kind(&self) -> String {
        let length = self.0.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes) as usize);
        self.0.get(4..4usize.saturating_add(length)).map_or_else(String::new, |kind| {
            String::from_utf8_lossy(kind).chars().filter(|c| c.is_ascii_graphic()).collect()
        })
    }

    /// Returns the type and the fingerprint as OpenSSH shows it.
    pub fn fingerprint(&self) -> String {
        format!("{} SHA256:{}", self.kind(), STANDARD_NO_PAD.encode(Sha256::digest(&self.0)))
    }
}

/// What the files say about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Known,
    New,
}

/// All that is recorded about hosts.
#[derive(Debug, Default)]
pub struct KnownHosts {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    revoked: bool,
    names: Names,
    kind: String,
    key: PublicKey,
    place: Place,
}

#[derive(Debug)]
enum Names {
    /// Patterns, of which those with `!` exclude.
    Patterns(Vec<String>),
    Hashed {
        salt: Vec<u8>,
        hash: Vec<u8>,
    },
}

/// Returns the file that new hosts are recorded in: `named`, or `~/.ssh/known_hosts`.
///
/// # Errors
/// If the home directory is not known.
pub fn user_file(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    match named {
        Some(file) => Ok(file.to_path_buf()),
        None => Ok(home_dir()?.join(".ssh/known_hosts")),
    }
}

/// Returns the name of a host in `known_hosts`.
pub fn known_as(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == DEFAULT_PORT { host } else { format!("[{host}]:{port}") }
}

/// Returns the line that records the key of a host, without its end.
pub fn line(host: &str, port: u16, key: &PublicKey) -> String {
    format!("{} {} {}", known_as(host, port), key.kind(), STANDARD.encode(&key.0))
}

impl KnownHosts {
    /// Reads the user's file and the machine's. One that does not exist holds nothing, a line that is malformed is
    /// passed over.
    ///
    /// # Errors
    /// If the user's file exists and cannot be read.
    pub fn read(user_file: &Path) -> io::Result<KnownHosts> {
        let mut known = KnownHosts::default();
        known.read_file(user_file)?;
        for file in GLOBAL_FILES {
            // The user cannot mend these.
            let _ = known.read_file(Path::new(file));
        }
        Ok(known)
    }

    /// Adds what stands in `content`, of `file`. A line that is malformed is passed over.
    pub fn add(&mut self, content: &[u8], file: &Path) {
        for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let place = Place { file: file.to_path_buf(), line: index + 1 };
            self.entries.extend(std::str::from_utf8(line).ok().and_then(|line| Entry::parse(line, place)));
        }
    }

    /// Orders `supported` host key algorithms such that those of recorded keys come first.
    pub fn preferred(&self, host: &str, port: u16, supported: &[&str]) -> String {
        let names = [known_as(host, port), host.to_ascii_lowercase()];
        let recorded: Vec<&str> = names
            .iter()
            .flat_map(|name| self.entries_of(name))
            .filter(|entry| !entry.revoked)
            .map(|entry| entry.kind.as_str())
            .collect();
        // libssh2 cannot check a certificate's authority.
        let usable = || supported.iter().filter(|algorithm| !algorithm.contains("-cert-"));
        let wanted = |algorithm: &&&str| recorded.contains(&kind_of_algorithm(algorithm));
        let ordered: Vec<&str> =
            usable().filter(wanted).chain(usable().filter(|a| !wanted(a))).copied().collect();
        ordered.join(",")
    }

    /// Judges the key that a host presents.
    ///
    /// # Errors
    /// If it must not be trusted.
    pub fn check(&self, host: &str, port: u16, presented: &PublicKey) -> Result<Verdict, HostKeyError> {
        let name = known_as(host, port);
        let plain = host.to_ascii_lowercase();
        let same = |entry: &&Entry| entry.key == *presented;
        if let Some(entry) =
            self.entries_of(&name).chain(self.entries_of(&plain)).filter(|entry| entry.revoked).find(same)
        {
            return Err(HostKeyError::Revoked { name: name.clone(), place: entry.place.clone() });
        }
        // Like OpenSSH: a key recorded for the host without a port is good for the other ports, too.
        if self.entries_of(&name).chain(self.entries_of(&plain)).any(|entry| same(&entry)) {
            return Ok(Verdict::Known);
        }
        let recorded: Vec<&Entry> = self.entries_of(&name).filter(|entry| !entry.revoked).collect();
        let kind = presented.kind();
        if let Some(entry) = recorded.iter().find(|entry| entry.kind == kind) {
            let (recorded, presented) = (entry.key.fingerprint(), presented.fingerprint());
            let place = entry.place.clone();
            return Err(HostKeyError::Changed { name: name.clone(), recorded, presented, place });
        }
        match recorded.first() {
            Some(entry) => Err(HostKeyError::OtherType {
                name: name.clone(),
                recorded: entry.kind.clone(),
                presented: kind,
                place: entry.place.clone(),
            }),
            None => Ok(Verdict::New),
        }
    }

    fn entries_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.names.match_name(name))
    }

    fn read_file(&mut self, file: &Path) -> io::Result<()> {
        let bytes = match fs::read(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read?,
        };
        self.add(&bytes, file);
        Ok(())
    }
}

/// Records the key of a host that was not known, unless another session did so in the meantime.
///
/// The line is appended in one write to what is there; the user's file is never rewritten.
///
/// # Errors
/// If the file cannot be written.
pub fn record(file: &Path, host: &str, port: u16, key: &PublicKey) -> anyhow::Result<()> {
    let _one_at_a_time = RECORDING.lock().unwrap_or_else(PoisonError::into_inner);
    if KnownHosts::read(file)?.check(host, port, key)? == Verdict::Known {
        return Ok(());
    }
    if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut open = fs::OpenOptions::new();
    let mut out = open.read(true).append(true).create(true).mode(0o600).open(file)?;
    let line = line(host, port, key);
    let line = if ends_line(&mut out)? { format!("{line}\n") } else { format!("\n{line}\n") };
    out.write_all(line.as_bytes())?;
    Ok(())
}

impl Entry {
    /// Parses a line; `None` if it is empty, a comment, malformed, or about a certificate authority, whose
    /// certificates libssh2 cannot check.
    fn parse(line: &str, place: Place) -> Option<Entry> {
        let mut fields = line.split_ascii_whitespace().peekable();
        let revoked = match fields.next_if(|field| field.starts_with('@')) {
            None => false,
            Some("@revoked") => true,
            Some(_) => return None,
        };
        let names = fields.next().filter(|names| !names.starts_with('#'))?;
        let kind = fields.next()?.to_string();
        let key = PublicKey(STANDARD.decode(fields.next()?).ok()?);
        (key.kind() == kind).then_some(())?;
        Some(Entry { revoked, names: Names::parse(names)?, kind, key, place })
    }
}

impl Names {
    fn parse(field: &str) -> Option<Names> {
        let Some(hashed) = field.strip_prefix("|1|") else {
            return Some(Names::Patterns(field.to_ascii_lowercase().split(',').map(String::from).collect()));
        };
        let (salt, hash) = hashed.split_once('|')?;
        Some(Names::Hashed { salt: STANDARD.decode(salt).ok()?, hash: STANDARD.decode(hash).ok()? })
    }

    fn match_name(&self, name: &str) -> bool {
        match self {
            Names::Hashed { salt, hash } => Hmac::<Sha1>::new_from_slice(salt)
                .is_ok_and(|mac| mac.chain_update(name).verify_slice(hash).is_ok()),
            Names::Patterns(patterns) => pattern::matches(patterns, name),
        }
    }
}

/// The type of key that a signature algorithm uses.
fn kind_of_algorithm(algorithm: &str) -> &str {
    if algorithm.starts_with("rsa-sha2-") { "ssh-rsa" } else { algorithm }
}

/// Tells whether the file is empty or its last line has its end.
fn ends_line(file: &mut fs::File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests;
