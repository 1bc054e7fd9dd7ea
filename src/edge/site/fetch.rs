//! Fetch: the content of an address or a file, within a deadline and a size.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};

/// Longest content: the lab's page of 639 machines has 180 KiB.
const MAX_BYTES: u64 = 8 << 20;

const USER_AGENT: &str = concat!("mapreduce/", env!("CARGO_PKG_VERSION"));

/// Why there is no content.
#[derive(Debug)]
pub struct FetchError {
    /// Whether a server answered, so that it may answer another request.
    pub answered: bool,
    pub cause: anyhow::Error,
}

/// Returns the content of `source`: an `http`, `https` or `file` address, or the path of a file.
///
/// # Errors
/// If it cannot be had within `deadline`, or is longer than 8 MiB.
pub fn fetch(source: &str, deadline: Duration) -> Result<Vec<u8>, FetchError> {
    let scheme = source.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    let content = match scheme.as_deref() {
        Some("http" | "https") => return download(source, deadline),
        Some("file") => path_of(source).and_then(|path| read(Path::new(&path))),
        Some(other) => {
            Err(anyhow!("{source}: no way to read from `{other}`, only from http, https and file"))
        }
        None => read(Path::new(source)),
    };
    content.map_err(|cause| FetchError { answered: false, cause })
}

fn download(url: &str, deadline: Duration) -> Result<Vec<u8>, FetchError> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(deadline))
        .https_only(url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")))
        .max_redirects(5)
        .user_agent(USER_AGENT)
        .build();
    let mut response = config.new_agent().get(url).call().map_err(|error| FetchError {
        answered: matches!(error, ureq::Error::StatusCode(_)),
        cause: anyhow!(error).context(format!("cannot fetch {url}")),
    })?;
    let content =
        bounded(&mut response.body_mut().as_reader()).with_context(|| format!("cannot fetch {url}"));
    content.map_err(|cause| FetchError { answered: true, cause })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let what = || format!("cannot read the list of hosts in {}", path.display());
    let mut file = File::open(path).with_context(what)?;
    bounded(&mut file).with_context(what)
}

fn bounded(from: &mut impl Read) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    ensure!(content.len() as u64 <= MAX_BYTES, "it is longer than 8 MiB");
    Ok(content)
}

/// The path of a `file:` address of this machine (RFC 8089), with its `%XX` decoded.
fn path_of(url: &str) -> anyhow::Result<String> {
    let after = url.get("file://".len()..).unwrap_or_default();
    let path = after.strip_prefix("localhost").unwrap_or(after);
    ensure!(path.starts_with('/'), "{url}: a file address begins with file:///");
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| (byte? as char).to_digit(16);
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => bail!("{url}: `%` is not followed by two hexadecimal digits"),
        }
    }
    String::from_utf8(bytes).with_context(|| format!("{url}: the path is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn reads_files_by_path_and_address() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my hosts");
        std::fs::write(&path, "a\n").unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(fetch(path, SOON).unwrap(), b"a\n");
        assert_eq!(fetch(&format!("file://{}", path.replace(' ', "%20")), SOON).unwrap(), b"a\n");
        assert_eq!(fetch(&format!("file://localhost{path}"), SOON).unwrap(), b"a\n");
    }

    #[test]
    fn names_what_cannot_be_read() {
        for source in [
            "/nonexistent/hosts",
            "file:///nonexistent/hosts",
            "file://elsewhere/x",
            "file:///%zz",
            "ftp://h/x",
        ] {
            let error = fetch(source, SOON).unwrap_err();
            assert!(!error.answered);
            let text = format!("{:#}", error.cause);
            assert!(text.contains("nonexistent") || text.contains(source), "{text}");
        }
    }

    #[test]
    fn files_are_bounded() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.as_file_mut().set_len(MAX_BYTES + 1).unwrap();
        let error = fetch(file.path().to_str().unwrap(), SOON).unwrap_err();
        assert!(format!("{:#}", error.cause).contains("longer than 8 MiB"));
        file.as_file_mut().set_len(MAX_BYTES).unwrap();
        assert_eq!(fetch(file.path().to_str().unwrap(), SOON).unwrap().len() as u64, MAX_BYTES);
    }
}
