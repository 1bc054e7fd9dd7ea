//! Source: what the client's threads need of the input and of the output, whatever these are.

use std::io::{self, Read};
use std::sync::Arc;

use serde::Serialize;

use crate::job::Cut;
use crate::logic::split::Split;
use crate::wire::encoding::Encoding;

/// Cuts the input, from its beginning to its end.
pub trait Cutter: Send {
    /// Cuts the next split: of about `target_bytes`, ended where `cut` allows. `None` at the end of the input.
    /// May wait for the input to come.
    ///
    /// # Errors
    /// If the input cannot be read, or holds a record that is longer than the limit.
    fn cut(&mut self, target_bytes: u64, cut: Cut) -> anyhow::Result<Option<Split>>;
}

/// Where the text of a split comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file's name.
    pub name: Vec<u8>,
    /// Where the text begins in the file; zero if that is compressed.
    pub offset: u64,
    /// How the file is compressed. A split of one that is not plain is all of it.
    pub encoding: Encoding,
}

/// Something of the input that was left out, for it cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadInput {
    /// The file's name, for people.
    pub input: String,
    /// Where what is left out begins, and how long it is; all that follows if that is not known.
    pub offset: u64,
    pub bytes: Option<u64>,
    pub cause: String,
}

/// Reads splits, as often as is asked for until the job ends.
pub trait SplitSource: Send + Sync {
    /// Says where the text of `split` comes from: a plain text without a name, unless overridden.
    fn origin(&self, split: &Split) -> Origin {
        let _ = split;
        Origin::default()
    }

    /// Opens the bytes of `split` as they lie in the file, compressed or not.
    ///
    /// # Errors
    /// If they cannot be read, or the file has changed since it was opened. Reading may fail so, too.
    fn open<'s>(&'s self, split: &Split) -> anyhow::Result<Box<dyn Read + Send + 's>> {
        let mut bytes = Vec::new();
        self.read(split, &mut bytes)?;
        Ok(Box::new(io::Cursor::new(bytes)))
    }

    /// Fills `into` with the bytes of `split` as they lie in the file, and nothing else.
    ///
    /// # Errors
    /// If they cannot be read, or the file has changed since it was opened.
    fn read(&self, split: &Split, into: &mut Vec<u8>) -> anyhow::Result<()>;

    /// Names the split for people: file and byte range.
    fn describe(&self, split: &Split) -> String;

    /// Says of `split` what is said of input that was left out.
    fn left_out(&self, split: &Split, cause: &str) -> BadInput {
        let (input, cause) = (self.describe(split), cause.to_owned());
        BadInput { input, offset: split.offset, bytes: Some(split.length), cause }
    }
}

/// Takes the result.
pub trait Sink<V>: Send {
    /// Returns what gives entries the form in which this sink takes them.
    fn form(&self) -> Arc<dyn Form<V>>;

    /// Takes the next entries of the result, as its form has rendered them at one time.
    ///
    /// # Errors
    /// If they cannot be written.
    fn write(&mut self, rendered: &[u8]) -> io::Result<()>;

    /// Makes the result final and returns the bytes written. A sink that is dropped instead leaves no file.
    ///
    /// # Errors
    /// If it cannot be written.
    fn finish(self: Box<Self>) -> io::Result<u64>;
}

/// Renders entries on any thread, so that different ones are rendered at the same time.
pub trait Form<V>: Send + Sync {
    /// Appends the form of `entries`, in order, to `out`.
    ///
    /// # Errors
    /// If a value has no such form.
    fn render(&self, entries: &[(&[u8], &V)], out: &mut Vec<u8>) -> io::Result<()>;
}
