//! Merge: sorted streams -> one sorted stream (k-way, by a tournament tree).
//!
//! Source: Knuth, "The Art of Computer Programming" 3, 5.4.1: a tree of losers, in which the path of the last winner
//! is played again, one comparison a level.

use std::cmp::Ordering;

/// A sorted stream with one entry in view. Keys are borrowed from it, so that merging copies nothing.
pub trait Cursor {
    /// What a key is folded to.
    type Value;
    /// Why the stream broke.
    type Error;

    /// Returns the entry in view; `None` once the stream has ended.
    fn head(&self) -> Option<(&[u8], &Self::Value)>;

    /// Moves on to the next entry. May wait for it.
    ///
    /// # Errors
    /// If the stream broke; it is then not used again.
    fn advance(&mut self) -> Result<(), Self::Error>;
}

/// Hands the entries of all `streams` to `each` in the order of `compare`, which must be a total order on entries of
/// different keys. A key stands in one stream only.
///
/// A stream moves on only after `each` has seen its head, so that a merge that ends early waits for nothing more.
///
/// # Errors
/// The first error of a stream or of `each`; `each` returning `Ok(false)` ends the merge early without one.
pub fn merge<C: Cursor>(
    streams: &mut [C],
    compare: impl Fn((&[u8], &C::Value), (&[u8], &C::Value)) -> Ordering,
    mut each: impl FnMut(&[u8], &C::Value) -> Result<bool, C::Error>,
) -> Result<(), C::Error> {
    // An ended stream beats none. Should a key stand in two streams after all, the first one comes first.
    let beats = |streams: &[C], a: usize, b: usize| match (streams[a].head(), streams[b].head()) {
        (Some(one), Some(other)) => compare(one, other).then(a.cmp(&b)).is_lt(),
        (one, _) => one.is_some(),
    };
    let mut tournament = Tournament::play(streams.len(), |a, b| beats(streams, a, b));
    while let Some(stream) = streams.get_mut(tournament.winner) {
        match stream.head() {
            Some((key, value)) if each(key, value)? => stream.advance()?,
            _ => return Ok(()),
        }
        tournament.replay(|a, b| beats(streams, a, b));
    }
    Ok(())
}

/// A knockout among players known by number.
///
/// The tree is kept as a heap: match `m` takes the winners of `2m` and `2m + 1`, and player `p` of `n` is leaf
/// `n + p`. That holds for any number of players, not for powers of two only.
struct Tournament {
    /// Who lost match `m`; there is no match 0.
    losers: Vec<usize>,
    /// A number that nobody has if there are no players.
    winner: usize,
}

impl Tournament {
    /// Plays all matches.
    fn play(n_players: usize, beats: impl Fn(usize, usize) -> bool) -> Self {
        let mut losers = vec![0; n_players];
        let mut winners: Vec<usize> = (0..2 * n_players).map(|leaf| leaf.wrapping_sub(n_players)).collect();
        for at in (1..n_players).rev() {
            let (a, b) = (winners[2 * at], winners[2 * at + 1]);
            (winners[at], losers[at]) = if beats(b, a) { (b, a) } else { (a, b) };
        }
        // A single player is both leaf and root.
        let winner = winners.get(1).copied().unwrap_or(0);
        Self { losers, winner }
    }

    /// Plays the matches of the last winner again, who has changed.
    #[inline]
    fn replay(&mut self, beats: impl Fn(usize, usize) -> bool) {
        let mut winner = self.winner;
        let mut at = (self.losers.len() + winner) / 2;
        while at > 0 {
            if beats(self.losers[at], winner) {
                std::mem::swap(&mut self.losers[at], &mut winner);
            }
            at /= 2;
        }
        self.winner = winner;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    /// A stream out of memory, which may break at its end.
    struct Entries {
        entries: std::vec::IntoIter<(Vec<u8>, u64)>,
        head: Option<(Vec<u8>, u64)>,
        breaks: Option<&'static str>,
    }

    impl Entries {
        fn new(entries: Vec<(Vec<u8>, u64)>) -> Self {
            let mut entries = entries.into_iter();
            Self { head: entries.next(), entries, breaks: None }
        }
    }

    impl Cursor for Entries {
        type Value = u64;
        type Error = &'static str;

        fn head(&self) -> Option<(&[u8], &u64)> {
            self.head.as_ref().map(|(key, value)| (key.as_slice(), value))
        }

        fn advance(&mut self) -> Result<(), &'static str> {
            assert!(self.head.is_some(), "an ended stream is asked again");
            self.head = self.entries.next();
            match self.breaks {
                Some(error) if self.head.is_none() => Err(error),
                _ => Ok(()),
            }
        }
    }

    fn by_count(a: (&[u8], &u64), b: (&[u8], &u64)) -> Ordering {
        b.1.cmp(a.1).then_with(|| a.0.cmp(b.0))
    }

    /// Deals `counts`, each under a key of its own, to the streams that `streams` names and sorts each stream.
    fn deal(counts: &[(u64, usize)], n_streams: usize) -> Vec<Vec<(Vec<u8>, u64)>> {
        let mut streams = vec![Vec::new(); n_streams];
        for (number, &(count, stream)) in counts.iter().enumerate() {
            streams[stream % n_streams].push((format!("key-{number}").into_bytes(), count));
        }
        for stream in &mut streams {
            stream.sort_by(|a, b| by_count((&a.0, &a.1), (&b.0, &b.1)));
        }
        streams
    }

    fn merged(streams: Vec<Vec<(Vec<u8>, u64)>>) -> Vec<(Vec<u8>, u64)> {
        let mut streams: Vec<Entries> = streams.into_iter().map(Entries::new).collect();
        let mut all = Vec::new();
        let outcome = merge(&mut streams, by_count, |key, &value| {
            all.push((key.to_vec(), value));
            Ok(true)
        });
        assert_eq!(outcome, Ok(()));
        all
    }

    fn sorted(streams: &[Vec<(Vec<u8>, u64)>]) -> Vec<(Vec<u8>, u64)> {
        let mut all = streams.concat();
        all.sort_by(|a, b| by_count((&a.0, &a.1), (&b.0, &b.1)));
        all
    }

    #[test]
    fn nothing_merges_to_nothing() {
        assert_eq!(merged(Vec::new()), []);
        assert_eq!(merged(vec![Vec::new()]), []);
        assert_eq!(merged(vec![Vec::new(); 1000]), []);
    }

    #[test]
    fn every_number_of_streams_is_sorted() {
        for n_streams in (1..70).chain([127, 128, 129, 3000]) {
            let counts: Vec<(u64, usize)> =
                (0..5000).map(|n| (n * 7919 % 101, n as usize * 31 % 4096)).collect();
            let streams = deal(&counts, n_streams);
            assert_eq!(merged(streams.clone()), sorted(&streams), "{n_streams} streams");
        }
    }

    #[test]
    fn an_early_end_leaves_the_streams_where_they_are() {
        let mut streams: Vec<Entries> =
            deal(&[(9, 0), (8, 1), (7, 0), (6, 1)], 2).into_iter().map(Entries::new).collect();
        let mut seen = Vec::new();
        let outcome = merge(&mut streams, by_count, |_, &value| {
            seen.push(value);
            Ok(seen.len() < 2)
        });
        assert_eq!((outcome, seen), (Ok(()), vec![9, 8]));
        assert_eq!(streams[1].head().map(|(_, value)| *value), Some(8), "the last head is still in view");
    }

    #[test]
    fn errors_end_the_merge() {
        let broken = || {
            let mut streams: Vec<Entries> =
                deal(&[(9, 0), (8, 1), (7, 0), (6, 1)], 2).into_iter().map(Entries::new).collect();
            streams[0].breaks = Some("the link is closed");
            streams
        };
        let mut seen = Vec::new();
        let outcome = merge(&mut broken(), by_count, |_, &value| {
            seen.push(value);
            Ok(true)
        });
        assert_eq!((outcome, seen), (Err("the link is closed"), vec![9, 8, 7]));
        assert_eq!(merge(&mut broken(), by_count, |_, _| Err("the disk is full")), Err("the disk is full"));
    }

    #[test]
    fn a_key_in_two_streams_comes_twice_in_the_order_of_the_streams() {
        let twice = vec![vec![(b"a".to_vec(), 1)], vec![(b"a".to_vec(), 1), (b"b".to_vec(), 1)]];
        assert_eq!(merged(twice.clone()), sorted(&twice));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, rng_seed: RngSeed::Fixed(3), ..ProptestConfig::default()
        })]

        #[test]
        fn merge_is_sort(
            counts in prop::collection::vec((0u64..20, any::<usize>()), 0..200),
            n_streams in 1usize..40,
        ) {
            let streams = deal(&counts, n_streams);
            prop_assert_eq!(merged(streams.clone()), sorted(&streams));
        }
    }
}
