//! Keys: private key files, as far as they can be told apart without being opened.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::known_hosts::PublicKey;

/// A private key is a few KiB; a bigger file is something else.
const MAX_KEY_BYTES: u64 = 256 * 1024;

/// Begins the payload of OpenSSH's own format (PROTOCOL.key).
const OPENSSH_MAGIC: &[u8] = b"openssh-key-v1\0";

/// A private key file.
pub struct KeyFile {
    pub path: PathBuf,
    /// The text of the file.
    pub private: Zeroizing<String>,
    pub encrypted: bool,
    /// The public half, where it can be read without a passphrase: from the file itself, or from the one beside it.
    pub public: Option<PublicKey>,
}

impl KeyFile {
    /// Reads a key.
    ///
    /// # Errors
    /// If there is no such file, it is no private key, or others can get at it.
    pub fn read(path: &Path) -> io::Result<KeyFile> {
        let invalid = |message| io::Error::new(io::ErrorKind::InvalidData, message);
        // Before it is opened: a pipe would be waited for.
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() || metadata.len() > MAX_KEY_BYTES {
            return Err(invalid("is no private key"));
        }
        // With room for all of it, lest parts be left behind where it lay while it grew.
        let mut private = Zeroizing::new(String::with_capacity(metadata.len() as usize + 1));
        fs::File::open(path)?.take(metadata.len()).read_to_string(&mut private)?;
        if !private.contains("PRIVATE KEY-----") {
            return Err(invalid("is no private key"));
        }
        check_mode(path, &metadata)?;
        let openssh = openssh_header(&private);
        let encrypted = match &openssh {
            Some(header) => header.encrypted,
            None => private.contains("BEGIN ENCRYPTED PRIVATE KEY") || private.contains("4,ENCRYPTED"),
        };
        let public = openssh.map(|header| header.public).or_else(|| public_beside(path));
        Ok(KeyFile { path: path.to_path_buf(), private, encrypted, public })
    }

    /// Returns the public half as a line of `authorized_keys`.
    pub fn public_line(&self) -> Option<String> {
        self.public.as_ref().map(|key| format!("{} {}", key.kind(), STANDARD.encode(&key.0)))
    }
}

/// Returns the public key of the private key at `path`, also where the private one is only in an agent.
pub fn public_of(path: &Path) -> Option<PublicKey> {
    KeyFile::read(path)
        .ok()
        .and_then(|key| key.public)
        .or_else(|| public_beside(path))
        .or_else(|| public_in(path))
}

/// Refuses a key that others than the user can get at, as OpenSSH does: it is no secret any more.
fn check_mode(path: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    let mode = metadata.mode() & 0o777;
    if metadata.uid() != rustix::process::getuid().as_raw() || mode & 0o077 == 0 {
        return Ok(());
    }
    let quoted = super::quote(&path.to_string_lossy());
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("is not used, since others can read it (its mode is {mode:o}): chmod 600 {quoted}"),
    ))
}

struct OpensshHeader {
    encrypted: bool,
    public: PublicKey,
}

fn openssh_header(private: &str) -> Option<OpensshHeader> {
    let body = private.split_once("-----BEGIN OPENSSH PRIVATE KEY-----")?.1.split_once("-----END")?.0;
    let mut text = Zeroizing::new(String::with_capacity(body.len()));
    text.extend(body.split_whitespace());
    let bytes = Zeroizing::new(STANDARD.decode(text.as_bytes()).ok()?);
    let mut rest = bytes.strip_prefix(OPENSSH_MAGIC)?;
    let cipher = take_string(&mut rest)?;
    let (_derivation, _options) = (take_string(&mut rest)?, take_string(&mut rest)?);
    let count = rest.split_off(..4)?;
    let public = take_string(&mut rest)?;
    (count == [0, 0, 0, 1])
        .then(|| OpensshHeader { encrypted: cipher != b"none", public: PublicKey(public.to_vec()) })
}

fn take_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_be_bytes(rest.split_off(..4)?.try_into().ok()?);
    rest.split_off(..usize::try_from(length).ok()?)
}

fn public_beside(path: &Path) -> Option<PublicKey> {
    let mut name = path.as_os_str().to_os_string();
    name.push(".pub");
    public_in(Path::new(&name))
}

/// Reads a public key file, a line such as `ssh-ed25519 AAAA... comment`.
fn public_in(path: &Path) -> Option<PublicKey> {
    if fs::metadata(path).ok()?.len() > MAX_KEY_BYTES {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let mut fields = text.split_whitespace();
    let kind = fields.next()?;
    let key = PublicKey(STANDARD.decode(fields.next()?).ok()?);
    (key.kind() == kind).then_some(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Made by `ssh-keygen -t ed25519 -N secret`; it opens nothing.
    const ENCRYPTED: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABDlTKjJ3h
-----END OPENSSH PRIVATE KEY-----
";

    fn write_private(file: &Path, text: &str) {
        fs::write(file, text).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        assert!(KeyFile::read(&file).is_err());
        fs::write(&file, "hello").unwrap();
        assert!(KeyFile::read(&file).is_err());
        assert_eq!(public_of(&file), None);
        // Cut short: the header cannot be read, so nothing is known about it.
        write_private(&file, ENCRYPTED);
        assert!(KeyFile::read(&file).unwrap().public.is_none());
    }

    #[test]
    fn key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        fs::write(&file, ENCRYPTED).unwrap();
        for (mode, refused) in [(0o644, true), (0o640, true), (0o602, true), (0o600, false), (0o400, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let error = KeyFile::read(&file).err().map(|error| error.to_string());
            assert_eq!(error.is_some(), refused, "{mode:o}: {error:?}");
            let advice = format!("its mode is {mode:o}): chmod 600 {}", file.display());
            assert!(error.is_none_or(|error| error.contains(&advice)));
        }
    }

    #[test]
    fn older_formats_tell_whether_they_are_encrypted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        for (text, encrypted) in [
            (
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAA==\n",
                true,
            ),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n", true),
            ("-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n", false),
        ] {
            write_private(&file, text);
            assert_eq!(KeyFile::read(&file).unwrap().encrypted, encrypted, "{text}");
        }
    }
}
