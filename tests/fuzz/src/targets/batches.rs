//! Batches: what travels in bulk, as its receivers read it: splits, batches between peers, results.

use mapreduce::Job;
use mapreduce::jobs::word_count::{Params, WordCount};
use mapreduce::logic::ids::{Epoch, SplitId};
use mapreduce::logic::merge::Stretch;
use mapreduce::logic::packing::Packing;
use mapreduce::logic::partition::Partition;
use mapreduce::wire::entries::{Decoder, SortedDecoder, encode, encode_sorted};
use mapreduce::wire::frame::{Header, Kind, MAX_PAYLOAD_BYTES, read_header, read_payload, room, write_frame};
use mapreduce::wire::message::{SplitHeader, decode_batch, encode_packed_batch, encode_results};
use mapreduce::wire::pack::{Packed, Packer};
use mapreduce::wire::receive::{BatchHeader, SplitFront, read_results};

use super::control::stream;
use super::{KIB, MIB, Target};

/// What a byte of the best packing can stand for: see `wire/pack.rs`. Room is made for an eighth more.
const UNPACKED: usize = (128 << 10) / 4;
const UNPACKED_ROOM: usize = UNPACKED + UNPACKED / 8;

/// Frames of splits, unpacked, as a worker takes them from its client.
pub const SPLITS: Target = Target {
    name: "splits",
    read: splits,
    seeds: || {
        let text = TEXT.repeat(20);
        let nameless = |packed| SplitHeader::of_text(SplitId(7), true, packed);
        let named = |packed| SplitHeader { offset: 530, name_bytes: NAME.len() as u16, ..nameless(packed) };
        let mut seeds = packed_streams(Kind::Split, &text, |packed| nameless(packed).encode().to_vec());
        seeds.extend(packed_streams(Kind::Split, &text, |packed| [&named(packed).encode(), NAME].concat()));
        seeds
    },
    // What Zstandard's C code keeps besides is fixed, and not counted. A name is at most 64 KiB.
    most_allocated: |bytes| MIB + 64 * KIB + 4 * bytes + UNPACKED_ROOM * bytes + 16 * KIB,
};

/// A stream of batches, as a worker takes it from a peer, and the entries that it folds.
pub const BATCHES: Target = Target {
    name: "batches",
    read: batches,
    seeds: || {
        let header = |packed| encode_packed_batch(Partition(3), packed).to_vec();
        let mut seeds = packed_streams(Kind::Batch, &entries(), header);
        // Few bytes that stand for a million: as many entries as they can be.
        seeds.extend(packed_streams(Kind::Batch, &vec![0; MIB], header).pop());
        seeds
    },
    // The batch is kept without the room, and then written again.
    most_allocated: |bytes| MIB + 8 * bytes + (UNPACKED_ROOM + 2 * UNPACKED) * bytes + 16 * KIB,
};

/// A stream of results, as the client takes it from a worker, and the entries that it merges.
pub const RESULTS: Target = Target {
    name: "results",
    read: results,
    seeds: || {
        packed_streams(Kind::Results, &sorted_entries(), |packed| encode_results(Epoch(2), packed).to_vec())
    },
    most_allocated: |bytes| 24 * MIB + 8 * bytes + (UNPACKED_ROOM + 3 * UNPACKED) * bytes,
};

/// A text that is packed and unpacked.
pub const PACK: Target = Target {
    name: "pack",
    read: pack,
    seeds: || vec![TEXT.to_vec(), TEXT.repeat(3), vec![0; 300]],
    most_allocated: |bytes| MIB + 8 * bytes,
};

const NAME: &[u8] = b"a tale.txt";

const TEXT: &[u8] = b"It was the best of times, it was the worst of times. ";

/// Reads frames of `kind` with `take`, until something is amiss; whether all was well up to an end frame.
fn read_stream(mut from: &[u8], kind: Kind, mut take: impl FnMut(&mut &[u8], usize) -> bool) -> bool {
    loop {
        match read_header(&mut from, MAX_PAYLOAD_BYTES) {
            Ok(Some(Header { kind: came, length })) if came == kind => {
                if !take(&mut from, length) {
                    return false;
                }
            }
            Ok(None) => return true,
            _ => return false,
        }
    }
}

/// Returns, for each packing, a stream of a frame with `header` and the packed `text`.
fn packed_streams(kind: Kind, text: &[u8], header: impl Fn(Packed) -> Vec<u8>) -> Vec<Vec<u8>> {
    let frame = |packing| {
        let mut buffer = text.to_vec();
        let length = match Packer::new().pack(packing, text, &mut buffer) {
            Some(length) => length,
            None => text.len(),
        };
        let mut wire = Vec::new();
        let header = header(Packed { packing, length: text.len() });
        write_frame(&mut wire, kind, &[&header, &buffer[..length]]).expect("a vector takes all");
        wire.extend(stream(&[(Kind::End, b"")]));
        wire
    };
    Packing::ALL.map(frame).to_vec()
}

fn splits(bytes: &[u8]) -> bool {
    let (mut buffer, mut unpacked) = (Vec::new(), Vec::new());
    read_stream(bytes, Kind::Split, |from, length| {
        let Ok(SplitFront { header, name, packed_bytes: length }) = SplitFront::read(from, length) else {
            return false;
        };
        if read_payload(from, &mut buffer, length).is_err() {
            return false;
        }
        match header.packed.unpack(&buffer[..length], &mut unpacked) {
            Ok(text) => assert_eq!(text.len(), header.packed.length),
            Err(_) => return false,
        }
        let written = [&header.encode()[..], &name, &buffer[..length]].concat();
        let same = SplitFront::read(&mut written.as_slice(), written.len()).expect("it was read before");
        assert_eq!(same, SplitFront { header, name, packed_bytes: length });
        true
    })
}

fn batches(bytes: &[u8]) -> bool {
    let mut buffers = [Vec::new(), Vec::new()];
    read_stream(bytes, Kind::Batch, |from, length| {
        let Ok(header) = BatchHeader::read(from, length) else { return false };
        let partition = header.partition;
        let Ok(batch) = header.read_batch(from, &mut buffers) else { return false };
        let (same, entries) = decode_batch(&batch).expect("a batch has its partition");
        assert_eq!(partition, same);
        let mut written = Vec::with_capacity(entries.len());
        for entry in Decoder::<u64>::new(entries) {
            let Ok((key, count)) = entry else { return false };
            encode(key, &count, &mut written);
        }
        assert!(written.len() <= entries.len(), "nobody writes them shorter");
        assert!(Decoder::<u64>::new(&written).eq(Decoder::<u64>::new(entries)));
        true
    })
}

fn results(bytes: &[u8]) -> bool {
    let job = WordCount::new(Params::default()).expect("the parameters are good");
    let mut buffer = Vec::new();
    read_stream(bytes, Kind::Results, |from, length| {
        let Ok((_, batch)) = read_results(from, &mut buffer, length) else { return false };
        let mut stretch = Stretch::new();
        let mut written_out: Vec<(Vec<u8>, u64)> = Vec::new();
        for entry in SortedDecoder::<u64>::new(&batch) {
            let Ok(entry) = entry else { return false };
            if stretch.push(job.rank(&entry.value), entry.shared, entry.rest, entry.value).is_err() {
                return false;
            }
            let mut key = written_out.last().map_or(Vec::new(), |(key, _)| key[..entry.shared].to_vec());
            key.extend_from_slice(entry.rest);
            written_out.push((key, entry.value));
        }
        assert!(written_out.is_sorted_by(|a, b| job.compare((&a.0, &a.1), (&b.0, &b.1)).is_lt()));
        assert_survives(&written_out);
        true
    })
}

/// Entries that were read are read again as they are once they are encoded.
fn assert_survives(entries: &[(Vec<u8>, u64)]) {
    let borrowed: Vec<_> = entries.iter().map(|(key, count)| (key.as_slice(), count)).collect();
    let mut rest = entries;
    for payload in encode_sorted(&borrowed, 1 << 10) {
        let mut key = Vec::new();
        for entry in SortedDecoder::<u64>::new(&payload) {
            let entry = entry.expect("written");
            key.truncate(entry.shared);
            key.extend_from_slice(entry.rest);
            let ((wanted, count), behind) = rest.split_first().expect("no more than were written");
            assert!(key == *wanted && entry.value == *count);
            rest = behind;
        }
    }
    assert!(rest.is_empty());
}

fn pack(text: &[u8]) -> bool {
    let mut packer = Packer::new();
    let (mut buffer, mut unpacked) = (Vec::new(), Vec::new());
    for packing in Packing::ALL {
        let Some(length) = packer.pack(packing, text, &mut buffer) else { continue };
        let header = Packed { packing, length: text.len() };
        let header = Packed::decode(header.encode(), length).expect("it is ours");
        assert!(header.unpack(&buffer[..length], &mut unpacked).is_ok_and(|same| same == text));
        // Into a buffer that is too small for it before.
        assert_eq!(room(&mut Vec::new(), length).len(), length);
    }
    true
}

fn entries() -> Vec<u8> {
    let mut batch = Vec::new();
    for (number, word) in TEXT.repeat(4).split(|byte| *byte == b' ').enumerate() {
        encode(word, &(1u64 << number), &mut batch);
    }
    batch
}

fn sorted_entries() -> Vec<u8> {
    let words: Vec<String> = (0..40).map(|n| format!("word{n:03}")).collect();
    let entries: Vec<(&[u8], &u64)> = words.iter().map(|word| (word.as_bytes(), &7)).collect();
    encode_sorted(&entries, 1 << 20).concat()
}
