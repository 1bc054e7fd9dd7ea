//! Ship: files that travel with a job's parameters, and lie where its commands are executed.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a file beyond which it is not read: it could not travel anyway.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A file with its contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipped {
    name: String,
    executable: bool,
    contents: Contents,
}

impl Shipped {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, is no file, is too large, or has no name that every host can have.
    pub fn read(path: OsString) -> Result<Self, String> {
        let path = Path::new(&path);
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or("it has no name in UTF-8")?.to_owned();
        let read = || {
            let file = File::open(path)?;
            let facts = file.metadata()?;
            if !facts.is_file() {
                return Err(io::Error::other("it is no file"));
            }
            let mut contents = Vec::new();
            file.take(MAX_FILE_BYTES + 1).read_to_end(&mut contents)?;
            Ok((contents, facts.permissions().mode() & 0o111 != 0))
        };
        let (contents, executable) = read().map_err(|error| format!("it cannot be read: {error}"))?;
        if contents.len() as u64 > MAX_FILE_BYTES {
            return Err(format!("it is larger than {} MiB", MAX_FILE_BYTES >> 20));
        }
        Ok(Self { name, executable, contents: Contents(contents) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of bytes of the contents.
    pub fn bytes(&self) -> usize {
        self.contents.0.len()
    }

    /// Tells whether the name is that of a file, and leads nowhere else.
    pub fn is_named_well(&self) -> bool {
        let mut parts = Path::new(&self.name).components();
        let is_plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        is_plain && !self.name.contains(['/', '\0'])
    }

    /// Writes the file into `dir`, for this user only.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn place(&self, dir: &Path) -> io::Result<()> {
        let path = dir.join(&self.name);
        let mode = if self.executable { 0o700 } else { 0o600 };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        file.write_all(&self.contents.0)?;
        // The mode at creation is less what the user's mask takes away.
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
    }
}

/// Bytes that are written in base64.
#[derive(Clone, PartialEq, Eq)]
struct Contents(Vec<u8>);

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Contents {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Contents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD_NO_PAD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_same_where_it_arrives() {
        let (here, there) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        for (name, mode, expected) in [("run me.py", 0o755, 0o700), ("data", 0o644, 0o600)] {
            let path = here.path().join(name);
            fs::write(&path, b"\0\xff binary\n").expect("it is written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
            let shipped = Shipped::read(path.clone().into()).expect("it can be read");
            let json = serde_json::to_string(&shipped).expect("it has a form");
            let arrived: Shipped = serde_json::from_str(&json).expect("it is whole");
            assert!(arrived == shipped && arrived.is_named_well());
            arrived.place(there.path()).expect("there is room");
            let placed = there.path().join(name);
            assert_eq!(fs::read(&placed).expect("it is there"), b"\0\xff binary\n");
            let mode = fs::metadata(&placed).expect("it is there").permissions().mode();
            assert_eq!(mode & 0o777, expected, "{name}");
            assert!(arrived.place(there.path()).is_err(), "it does not replace what is there");
        }
    }

    #[test]
    fn what_cannot_travel_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let read = |path: &Path| Shipped::read(path.into()).expect_err("it cannot travel");
        assert!(read(&dir.path().join("absent")).contains("No such file"));
        assert!(read(dir.path()).contains("it is no file"));
        let large = dir.path().join("large");
        File::create(&large).and_then(|file| file.set_len(MAX_FILE_BYTES + 1)).expect("it is written");
        assert_eq!(read(&large), "it is larger than 1 MiB");
    }

    #[test]
    fn a_name_from_afar_leads_nowhere_else() {
        for name in ["", ".", "..", "a/b", "/a", "a/", "./a", "a\0"] {
            let shipped = Shipped { name: name.into(), executable: false, contents: Contents(Vec::new()) };
            assert!(!shipped.is_named_well(), "{name:?}");
        }
    }
}
