//! Partition: which reducer a key belongs to.
//!
//! Invariant: within a job, the same key gives the same partition on every host. The hash is therefore written out
//! here and its seed travels with the job; `std`'s hasher is seeded anew in every process.
//! Source: Dean & Ghemawat (OSDI 2004), 4.1. The hash follows the manner of Wang Yi's wyhash: words of the key, made
//! secret by the seed, are multiplied to 128 bits and folded.

use serde::{Deserialize, Serialize};

/// The part of the key space that one reducer owns; `0..n_partitions` within a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition(pub u32);

/// The random seed of one job's hash: no crafted input can overload one reducer or one slot of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed(pub [u64; 2]);

/// Gives keys their hashes.
pub trait KeyHash: Copy {
    /// Returns the hash of a key of up to 16 bytes, which is given as a number, its first byte lowest.
    fn of_words(self, words: u128) -> u64;

    /// Returns the hash of any key: for a short one the same as [`KeyHash::of_words`].
    fn of_bytes(self, key: &[u8]) -> u64;
}

/// All 64 bits of these hashes are fit for use. A short key and the same one with zeros behind it share a hash.
impl KeyHash for Seed {
    #[inline(always)]
    fn of_words(self, words: u128) -> u64 {
        let [first, second] = self.secret();
        finish(first, words as u64, (words >> 64) as u64, second, 0)
    }

    #[inline]
    fn of_bytes(self, key: &[u8]) -> u64 {
        if key.len() <= 16 {
            let mut words = [0; 16];
            words[..key.len()].copy_from_slice(key);
            return self.of_words(u128::from_le_bytes(words));
        }
        let secret = self.secret();
        let mut state = secret[1];
        let (low, high) = absorb_long(secret, key, &mut state);
        finish(secret[0], low, high, state, key.len() as u64)
    }
}

impl Seed {
    #[inline(always)]
    fn secret(self) -> [u64; 2] {
        [self.0[0] ^ ODD_BITS[0], self.0[1] ^ ODD_BITS[1]]
    }
}

/// Returns the hash of a key that ends with the words `low` and `high`, after all that `state` holds. Long keys of
/// different lengths may end with the same words, so their length counts, too.
#[inline(always)]
fn finish(secret: u64, low: u64, high: u64, state: u64, length: u64) -> u64 {
    // Both halves of the product go on, so that nothing is lost before they are mixed.
    let product = u128::from(low ^ secret) * u128::from(high ^ state);
    fold(product as u64 ^ secret ^ length, (product >> 64) as u64 ^ ODD_BITS[2])
}

/// Returns the partition of a key with hash `hash`, in `0..n_partitions`. Uses the high bits of the hash; tables use
/// the low ones.
///
/// # Panics
/// If `n_partitions` is zero: a job without a worker never gets as far as this function.
#[inline]
pub fn partition_of(hash: u64, n_partitions: u32) -> Partition {
    assert!(n_partitions > 0, "a job has at least one partition");
    Partition(((u128::from(hash) * u128::from(n_partitions)) >> 64) as u32)
}

/// The hexadecimal digits of pi from the first on (as in Blowfish), made odd: bits without a pattern, so that a seed
/// of zeros and a key of zeros do not multiply to nothing.
const ODD_BITS: [u64; 3] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1];

/// Multiplies to 128 bits and folds the halves into one.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Mixes all but the end of a key of more than 16 bytes into `state`, and returns its last 16 bytes as two words.
fn absorb_long(secret: [u64; 2], key: &[u8], state: &mut u64) -> (u64, u64) {
    let (mut chunk, mut rest) = split_16(key);
    while rest.len() > 16 {
        *state = fold(chunk.0 ^ secret[0], chunk.1 ^ *state);
        (chunk, rest) = split_16(rest);
    }
    *state = fold(chunk.0 ^ secret[0], chunk.1 ^ *state);
    // They may overlap what was mixed before.
    split_16(&key[key.len() - 16..]).0
}

/// Takes 16 bytes, as two words, off the front of `bytes`, which has that many.
#[inline]
fn split_16(bytes: &[u8]) -> ((u64, u64), &[u8]) {
    let (low, rest) = bytes.split_first_chunk().expect("the callers know of 16 bytes");
    let (high, rest) = rest.split_first_chunk().expect("the callers know of 16 bytes");
    ((u64::from_le_bytes(*low), u64::from_le_bytes(*high)), rest)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const SEED: Seed = Seed([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);

    fn hash(seed: Seed, key: &[u8]) -> u64 {
        seed.of_bytes(key)
    }

    #[test]
    fn a_short_key_has_the_same_hash_as_a_number() {
        let key = b"0123456789abcdef";
        for len in 0..=16 {
            let mut words = [0; 16];
            words[..len].copy_from_slice(&key[..len]);
            assert_eq!(SEED.of_words(u128::from_le_bytes(words)), hash(SEED, &key[..len]), "{len} bytes");
        }
    }

    /// A generator for tests (splitmix64).
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = *state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Asserts that each of the 64 bits flips in about half of `flips`.
    fn assert_avalanche(what: &str, flips: &[u64]) {
        let n = flips.len() as f64;
        for bit in 0..64 {
            let share = flips.iter().filter(|flip| *flip >> bit & 1 == 1).count() as f64 / n;
            let six_sigma = 6.0 * 0.5 / n.sqrt();
            assert!((share - 0.5).abs() < six_sigma, "{what}: bit {bit} flips in {share} of {n} cases");
        }
    }

    /// Asserts that `buckets` are filled as chance would do: chi-square within six sigma.
    fn assert_even(what: &str, buckets: &[u32]) {
        let expected = f64::from(buckets.iter().sum::<u32>()) / buckets.len() as f64;
        let chi: f64 = buckets.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        let freedom = (buckets.len() - 1) as f64;
        assert!(chi < freedom + 6.0 * (2.0 * freedom).sqrt(), "{what}: chi-square {chi} at {freedom}");
    }

    #[test]
    fn has_the_same_values_on_every_host() {
        let long = b"0123456789abcdef0123456789abcdef0";
        let golden: [(&[u8], u64); 10] = [
            (b"", 0xc6da_41f5_6017_5c5b),
            (b"a", 0x21db_6e4d_3edb_368b),
            (b"of", 0xf40e_01bb_873a_56ac),
            (b"the", 0x2a8b_8965_005c_2ba4),
            (b"word", 0x2ba2_4d05_c6da_ad1f),
            ("Überzug".as_bytes(), 0xb170_0df0_8302_dc46),
            (&long[..16], 0x5d9f_e293_1998_1bfc),
            (&long[..17], 0x67d8_86ac_50d7_413b),
            (&long[..32], 0xb3a7_67c4_2f8b_860a),
            (&long[..33], 0x921d_34d0_b75f_dd88),
        ];
        for (key, value) in golden {
            let got = hash(SEED, key);
            assert_eq!(got, value, "{:?} gives {got:#018x}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn each_bit_of_the_key_flips_half_of_the_bits() {
        let mut random = 1;
        for len in [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 100] {
            let mut flips = Vec::new();
            while flips.len() < 8192 {
                let mut key: Vec<u8> = (0..len).map(|_| next(&mut random) as u8).collect();
                let seed = Seed([next(&mut random), next(&mut random)]);
                let before = hash(seed, &key);
                for bit in 0..len * 8 {
                    key[bit / 8] ^= 1 << (bit % 8);
                    flips.push(before ^ hash(seed, &key));
                    key[bit / 8] ^= 1 << (bit % 8);
                }
            }
            assert_avalanche(&format!("keys of {len} bytes"), &flips);
        }
    }

    #[test]
    fn each_bit_of_the_seed_flips_half_of_the_bits() {
        let key = b"0123456789abcdef0123456789abcdef";
        for len in [0, 1, 3, 4, 8, 16, 17, 32] {
            let mut random = 2;
            let mut flips = Vec::new();
            for _ in 0..64 {
                let seed = [next(&mut random), next(&mut random)];
                for bit in 0..128 {
                    let mut other = seed;
                    other[bit / 64] ^= 1 << (bit % 64);
                    flips.push(hash(Seed(seed), &key[..len]) ^ hash(Seed(other), &key[..len]));
                }
            }
            assert_avalanche(&format!("seeds, keys of {len} bytes"), &flips);
        }
    }

    #[test]
    fn fills_partitions_and_slots_evenly() {
        for seed in [Seed([0, 0]), SEED, Seed([u64::MAX, 1])] {
            for n_partitions in [2u32, 7, 64, 1000] {
                let mut partitions = vec![0; n_partitions as usize];
                let mut slots = vec![0; 4096];
                let mut both = vec![0; 4096];
                for number in 0..200_000 {
                    let hash = hash(seed, format!("w{number}").as_bytes());
                    let partition = partition_of(hash, n_partitions);
                    partitions[partition.0 as usize] += 1;
                    slots[(hash & 4095) as usize] += 1;
                    both[(hash & 4095) as usize] += u32::from(partition == Partition(1));
                }
                assert_even("partitions", &partitions);
                assert_even("slots", &slots);
                assert_even("slots of one partition", &both);
            }
        }
    }

    #[test]
    fn zero_bytes_and_lengths_count() {
        let zeros = [0u8; 300];
        let ones = [1u8; 300];
        for seed in [Seed([0, 0]), SEED] {
            let hashes: HashSet<u64> =
                (0..300).flat_map(|len| [hash(seed, &zeros[..len]), hash(seed, &ones[..len])]).collect();
            assert_eq!(hashes.len(), 599 - 16, "only short keys of zeros share a hash, with the empty one");
        }
    }

    #[test]
    fn similar_keys_do_not_collide() {
        let mut keys = HashSet::new();
        for len in [1usize, 2, 3, 4, 5, 8, 12, 16, 17, 20, 32, 40] {
            for (at, byte) in (0..len).flat_map(|at| (1..=255u8).map(move |byte| (at, byte))) {
                let mut key = vec![0; len];
                key[at] = byte;
                keys.insert(key);
            }
        }
        // Zeros behind a short key do not count.
        keys.retain(|key| key.len() > 16 || key.last() != Some(&0));
        for pair in 0..=u16::MAX {
            let [a, b] = pair.to_le_bytes();
            keys.insert(vec![a, b, b'!']);
        }
        let hashes: HashSet<u64> = keys.iter().map(|key| hash(SEED, key)).collect();
        assert_eq!(hashes.len(), keys.len());
    }

    #[test]
    fn partitions_take_the_high_bits() {
        assert_eq!(partition_of(0, 5), Partition(0));
        assert_eq!(partition_of(u64::MAX, 5), Partition(4));
        assert_eq!(partition_of(u64::MAX / 2, 2), Partition(0));
        assert_eq!(partition_of(u64::MAX / 2 + 1, 2), Partition(1));
        assert_eq!(partition_of(u64::MAX, u32::MAX), Partition(u32::MAX - 1));
    }
}
