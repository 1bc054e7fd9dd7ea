//! Resumed: the output of a merge that may begin anew: what was written once is not written again.
//!
//! The result of a job is deterministic, so that each merge renders the same bytes, in whatever pieces.

use std::io;
use std::sync::Arc;

use super::source::{Form, Sink};

/// A sink, with how far earlier merges came.
pub(crate) struct Resumed<V> {
    sink: Box<dyn Sink<V>>,
    /// Bytes that the sink has taken, and the last few of them.
    taken: u64,
    last: Vec<u8>,
    /// Bytes that the present merge has rendered.
    rendered: u64,
    /// Whether a merge came to its end: then there are no bytes but those taken.
    is_whole: bool,
}

/// Bytes by which it is checked that a merge goes on where the one before ended. Of a result that differs anywhere
/// before, most differ here, for what follows is shifted.
const CHECKED_BYTES: usize = 4 << 10;

impl<V> Resumed<V> {
    pub(crate) fn new(sink: Box<dyn Sink<V>>) -> Self {
        Self { sink, taken: 0, last: Vec::new(), rendered: 0, is_whole: false }
    }

    pub(crate) fn form(&self) -> Arc<dyn Form<V>> {
        self.sink.form()
    }

    /// Begins a merge: its bytes come from the first on.
    pub(crate) fn begin(&mut self) {
        self.rendered = 0;
    }

    /// Takes the next bytes of the merge. The sink gets those that it has not taken.
    ///
    /// # Errors
    /// If the sink fails, or they are not those of the merge before.
    pub(crate) fn write(&mut self, rendered: &[u8]) -> io::Result<()> {
        let again = self.taken.saturating_sub(self.rendered).min(rendered.len() as u64) as usize;
        let (again, new) = rendered.split_at(again);
        self.check(again)?;
        self.rendered += rendered.len() as u64;
        if new.is_empty() {
            return Ok(());
        }
        if self.is_whole {
            return Err(differs());
        }
        self.sink.write(new)?;
        self.taken += new.len() as u64;
        self.remember(new);
        Ok(())
    }

    /// Ends a merge that has rendered all.
    ///
    /// # Errors
    /// If more was written before.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        if self.rendered < self.taken {
            return Err(differs());
        }
        self.is_whole = true;
        Ok(())
    }

    /// Makes the output final and returns the bytes written.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn finish(self) -> io::Result<u64> {
        self.sink.finish()
    }

    /// Compares what is rendered again with what is known of what was written.
    fn check(&self, again: &[u8]) -> io::Result<()> {
        let known_from = self.taken - self.last.len() as u64;
        let unknown = known_from.saturating_sub(self.rendered).min(again.len() as u64);
        let again = &again[unknown as usize..];
        let known = (self.rendered + unknown).saturating_sub(known_from) as usize;
        match again.is_empty() || self.last[known..].starts_with(again) {
            true => Ok(()),
            false => Err(differs()),
        }
    }

    fn remember(&mut self, new: &[u8]) {
        let kept = CHECKED_BYTES.saturating_sub(new.len()).min(self.last.len());
        self.last.drain(..self.last.len() - kept);
        self.last.extend_from_slice(&new[new.len().saturating_sub(CHECKED_BYTES)..]);
    }
}

fn differs() -> io::Error {
    io::Error::other(
        "after the loss of a worker it came out differently than before: a fault of this program",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A sink that keeps what it takes where the test sees it.
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Sink<u64> for Kept {
        fn form(&self) -> Arc<dyn Form<u64>> {
            unreachable!("nothing is rendered here")
        }

        fn write(&mut self, rendered: &[u8]) -> io::Result<()> {
            assert!(!rendered.is_empty(), "nothing was to be written");
            self.0.lock().expect("no panic").extend_from_slice(rendered);
            Ok(())
        }

        fn finish(self: Box<Self>) -> io::Result<u64> {
            Ok(self.0.lock().expect("no panic").len() as u64)
        }
    }

    fn resumed() -> (Resumed<u64>, Arc<Mutex<Vec<u8>>>) {
        let kept = Arc::default();
        (Resumed::new(Box::new(Kept(Arc::clone(&kept)))), kept)
    }

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * n >> 3) as u8).collect()
    }

    /// Has a merge render `text` in pieces.
    fn merge(resumed: &mut Resumed<u64>, text: &[u8], piece: usize) -> io::Result<()> {
        resumed.begin();
        text.chunks(piece).try_for_each(|piece| resumed.write(piece))
    }

    #[test]
    fn each_byte_is_written_once_whatever_the_pieces() {
        let whole = text(20_000);
        for pieces in [[1, 1, 1], [7, 10, 3], [5000, 5001, 4999], [64, 30_000, 1], [30_000, 30_000, 30_000]] {
            let (mut resumed, kept) = resumed();
            merge(&mut resumed, &whole[..11_003], pieces[0]).expect("there is nothing to differ from");
            // Broken off before it came as far as the first.
            merge(&mut resumed, &whole[..9_000], pieces[1]).expect("it is the same");
            merge(&mut resumed, &whole, pieces[2]).expect("it is the same");
            resumed.end().expect("it is whole");
            assert!(*kept.lock().expect("no panic") == whole, "{pieces:?}");
            assert_eq!(resumed.finish().expect("written"), 20_000);
        }
    }

    #[test]
    fn what_was_whole_already_is_whole_again() {
        let (mut resumed, kept) = resumed();
        for piece in [1000, 7, 9000] {
            merge(&mut resumed, &text(9000), piece).expect("it is the same");
            resumed.end().expect("it is whole");
        }
        assert!(*kept.lock().expect("no panic") == text(9000));
        let longer = merge(&mut resumed, &text(9001), 100).expect_err("there was an end before");
        assert!(longer.to_string().contains("differently"), "{longer}");
    }

    #[test]
    fn a_result_that_is_shorter_than_what_is_written_is_an_error() {
        let (mut resumed, _) = resumed();
        merge(&mut resumed, &text(9000), 1000).expect("there is nothing to differ from");
        merge(&mut resumed, &text(8999), 1000).expect("it may go on");
        assert!(resumed.end().is_err());
    }

    #[test]
    fn a_result_that_goes_on_differently_is_an_error() {
        for (length, wrong) in [(3000, 0), (3000, 2999), (9000, 8999), (9000, 9000 - CHECKED_BYTES)] {
            for piece in [1, 1000, 4999, 9000] {
                let (mut resumed, kept) = resumed();
                merge(&mut resumed, &text(length), 900).expect("there is nothing to differ from");
                let mut other = text(10_000);
                other[wrong] ^= 1;
                assert!(merge(&mut resumed, &other, piece).is_err(), "{length}, {wrong}, {piece}");
                assert_eq!(kept.lock().expect("no panic").len(), length);
            }
        }
    }

    #[test]
    fn an_empty_result_is_whole() {
        let (mut resumed, _) = resumed();
        resumed.begin();
        resumed.end().expect("nothing is missing");
        assert_eq!(resumed.finish().expect("written"), 0);
    }
}
