//! Located: files that workers read themselves, as they were found, and the part of one that is a split.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::encoding::Encoding;
use super::frame::FrameError;

/// The longest path that a kernel takes.
pub const MAX_PATH_BYTES: usize = 4096;

/// The longest address that servers are known to take.
pub const MAX_URL_BYTES: usize = 8 << 10;

/// Most bytes of a [stamp](Found::stamp): tags of servers are shorter by far.
pub const MAX_STAMP_BYTES: usize = 1 << 10;

/// Most files of a listing.
pub const MAX_FOUND: usize = 1 << 20;

/// A place that is the same seen from every worker.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// An absolute path: of a file or directory, or a pattern of such, where one is asked for.
    Path(PathBytes),
    /// An address of HTTP or HTTPS.
    Url(String),
}

/// A path: in JSON a text, or its bytes where it is none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathBytes(pub Vec<u8>);

impl Serialize for PathBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for PathBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PathVisitor)
    }
}

struct PathVisitor;

impl<'de> Visitor<'de> for PathVisitor {
    type Value = PathBytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or its bytes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<PathBytes, E> {
        Ok(PathBytes(text.as_bytes().to_vec()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<PathBytes, A::Error> {
        let mut path = Vec::new();
        while let Some(byte) = bytes.next_element()? {
            path.push(byte);
        }
        Ok(PathBytes(path))
    }
}

/// As the name is shown: an address may hold a password.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.name()))
    }
}

impl Place {
    /// Returns the name of the file, for records and for people: the path, or the address without who may read it.
    pub fn name(&self) -> Vec<u8> {
        match self {
            Self::Path(PathBytes(path)) => path.clone(),
            Self::Url(url) => without_userinfo(url).into_bytes(),
        }
    }

    /// Tells whether `text` is an address rather than a path.
    pub fn is_url(text: &[u8]) -> bool {
        let begins = |scheme: &str| {
            text.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme.as_bytes()))
        };
        begins("http://") || begins("https://")
    }

    /// Checks what a client asks to be read.
    ///
    /// # Errors
    /// `Malformed` for a path that is not absolute, or what is no address, or what is too long.
    pub fn check(&self) -> Result<(), FrameError> {
        let wrong = match self {
            Self::Path(PathBytes(path)) if path.len() > MAX_PATH_BYTES => "a path that is too long",
            Self::Path(PathBytes(path)) if !path.starts_with(b"/") || path.contains(&0) => "no absolute path",
            Self::Url(url) if url.len() > MAX_URL_BYTES => "an address that is too long",
            Self::Url(url) if !Self::is_url(url.as_bytes()) => "no address of HTTP",
            Self::Path(_) | Self::Url(_) => return Ok(()),
        };
        Err(malformed(wrong))
    }
}

fn without_userinfo(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

fn malformed(what: &str) -> FrameError {
    FrameError::Malformed(format!("{what} where a file should be named"))
}

/// A file as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub place: Place,
    /// Bytes of the file as it lies there; `None` if that is not known before it is read.
    pub length: Option<u64>,
    /// What must be the same whenever it is read; empty if there is nothing to go by.
    pub stamp: String,
    pub encoding: Encoding,
    /// Whether parts of it can be read without what comes before.
    pub has_ranges: bool,
}

impl Found {
    /// Tells whether splits may be parts of it.
    pub fn has_parts(&self) -> bool {
        self.has_ranges && self.encoding == Encoding::Plain && self.length.is_some()
    }

    /// Checks what came from elsewhere.
    ///
    /// # Errors
    /// As [`Place::check`]; `Malformed` for a stamp that is too long.
    pub fn check(&self) -> Result<(), FrameError> {
        self.place.check()?;
        match self.stamp.len() > MAX_STAMP_BYTES {
            true => Err(malformed("a stamp that is too long")),
            false => Ok(()),
        }
    }
}

/// What a worker is to read of a split: the records that begin in a range, or all of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    pub file: Found,
    /// Where the range begins and ends; `None` for all of the file.
    pub range: Option<[u64; 2]>,
}

impl Located {
    /// Checks what a client asks to be read.
    ///
    /// # Errors
    /// As [`Found::check`]; `Malformed` for a range that is not inside the file, or of one that has no parts.
    pub fn check(&self) -> Result<(), FrameError> {
        self.file.check()?;
        match (self.range, self.file.length) {
            (None, _) => Ok(()),
            (Some([begin, end]), Some(length)) if self.file.has_parts() && begin < end && end <= length => {
                Ok(())
            }
            (Some(_), _) => Err(malformed("a range that is not inside its file")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> Place {
        Place::Path(PathBytes(bytes.to_vec()))
    }

    fn url(text: &str) -> Place {
        Place::Url(text.to_owned())
    }

    fn found() -> Found {
        let encoding = Encoding::Plain;
        Found { place: path(b"/a"), length: Some(10), stamp: String::new(), encoding, has_ranges: true }
    }

    #[test]
    fn any_path_travels() {
        for bytes in [&b"/cal/a b"[..], b"/\xff\xfe/x", "/\u{e9}\n\"".as_bytes()] {
            let json = serde_json::to_string(&path(bytes)).expect("it has a form");
            assert_eq!(serde_json::from_str::<Place>(&json).expect("it is one"), path(bytes), "{json}");
        }
        assert_eq!(serde_json::to_string(&path(b"/a")).expect("it has a form"), r#"{"path":"/a"}"#);
    }

    #[test]
    fn passwords_are_not_shown() {
        for (given, shown) in [
            ("http://user:secret@host/a?b@c", "http://host/a?b@c"),
            ("https://host:1/x@y", "https://host:1/x@y"),
            ("HTTPS://a@b@host", "HTTPS://host"),
            ("http://host?a=b@c", "http://host?a=b@c"),
        ] {
            assert_eq!(url(given).name(), shown.as_bytes());
            assert_eq!(format!("{:?}", url(given)), format!("{shown:?}"));
        }
    }

    #[test]
    fn places_are_checked() {
        for good in [path(b"/a"), path(b"/\xff"), url("http://h/"), url("HTTPS://h")] {
            assert!(good.check().is_ok(), "{good:?}");
        }
        let long = [b"/".repeat(MAX_PATH_BYTES), b"a".to_vec()].concat();
        let far = format!("http://{}", "a".repeat(MAX_URL_BYTES));
        for bad in [path(b""), path(b"a"), path(b"/a\0"), path(&long), url(""), url("file:///a"), url(&far)] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert!(Found { stamp: "x".repeat(MAX_STAMP_BYTES + 1), ..found() }.check().is_err());
    }

    #[test]
    fn ranges_are_checked() {
        let at = |range, file| Located { file, range }.check().is_ok();
        assert!(at(None, found()) && at(Some([0, 10]), found()) && at(Some([9, 10]), found()));
        for range in [[0, 11], [5, 5], [6, 5], [u64::MAX, u64::MAX]] {
            assert!(!at(Some(range), found()), "{range:?}");
        }
        for file in [
            Found { length: None, ..found() },
            Found { has_ranges: false, ..found() },
            Found { encoding: Encoding::Gzip, ..found() },
        ] {
            assert!(at(None, file.clone()) && !at(Some([0, 5]), file));
        }
    }
}
