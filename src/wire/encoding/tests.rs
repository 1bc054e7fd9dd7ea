//! Tests of encodings: all members come, and nothing that is torn, wrong or too large is taken for whole.

use std::io::Write;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

const PACKED: [Encoding; 5] = [Encoding::Gzip, Encoding::Bzip2, Encoding::Zstd, Encoding::Xz, Encoding::Lz4];

fn pack(encoding: Encoding, text: &[u8]) -> Vec<u8> {
    match encoding {
        Encoding::Plain => text.to_vec(),
        Encoding::Gzip => {
            let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            to.write_all(text).and_then(|()| to.finish()).expect("a vector takes all")
        }
        Encoding::Bzip2 => {
            let mut to = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            to.write_all(text).and_then(|()| to.finish()).expect("a vector takes all")
        }
        Encoding::Zstd => {
            let mut to = zstd::Encoder::new(Vec::new(), 1).expect("there is memory");
            to.include_checksum(true).expect("it can be set");
            to.write_all(text).and_then(|()| to.finish()).expect("a vector takes all")
        }
        Encoding::Xz => {
            let options = lzma_rust2::XzOptions::with_preset(1);
            let mut to = lzma_rust2::XzWriter::new(Vec::new(), options).expect("the options are good");
            to.write_all(text).and_then(|()| to.finish()).expect("a vector takes all")
        }
        Encoding::Lz4 => {
            let mut to = lz4_flex::frame::FrameEncoder::new(Vec::new());
            to.write_all(text).expect("a vector takes all");
            to.finish().expect("a vector takes all")
        }
    }
}

/// Gives no more than some bytes at a time.
struct Trickle<'b>(&'b [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.1.min(into.len());
        self.0.read(&mut into[..n])
    }
}

fn unpack(encoding: Encoding, packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    encoding.decoder(packed)?.read_to_end(&mut text)?;
    Ok(text)
}

fn sample() -> Vec<u8> {
    (0..3000u32).flat_map(|n| format!("line {} of {n}\n", n.wrapping_pow(3)).into_bytes()).collect()
}

#[test]
fn what_is_packed_is_recognised_and_comes_back() {
    for encoding in Encoding::ALL {
        for text in [&b""[..], b"a", &sample()] {
            let packed = pack(encoding, text);
            assert_eq!(Encoding::of(&packed), encoding, "{}", packed.len());
            assert!(unpack(encoding, &packed).expect("it is whole") == text, "{encoding:?}");
        }
    }
}

#[test]
fn a_text_that_begins_like_a_magic_number_is_plain() {
    for text in [&b""[..], b"B", b"BZh", b"BZh9 is how it begins", b"\x1f\x8b", b"\xfd7zX", b"PK\x03\x04"] {
        assert_eq!(Encoding::of(text), Encoding::Plain, "{text:?}");
    }
}

#[test]
fn members_are_unpacked_one_after_the_other_wherever_reads_end() {
    let (text, more) = (sample(), b"and more".repeat(30_000));
    for encoding in PACKED {
        let members = [&text[..], b"", &more, b"", b"the end"].map(|text| pack(encoding, text)).concat();
        let expected = [&text[..], &more, b"the end"].concat();
        for at_a_time in [1, 7, 4096] {
            let mut came = Vec::new();
            let mut decoder = encoding.decoder(Trickle(&members, at_a_time)).expect("there is memory");
            decoder.read_to_end(&mut came).expect("it is whole");
            assert!(came == expected, "{encoding:?}, {at_a_time} at a time");
        }
    }
}

#[test]
fn what_is_torn_anywhere_is_an_error() {
    for encoding in PACKED {
        let text = b"some words, some words, and others\n".repeat(20);
        let (one, other) = (pack(encoding, &text), pack(encoding, b"another"));
        let both = [&one[..], &other].concat();
        for length in (1..both.len()).filter(|&length| length != one.len()) {
            assert!(unpack(encoding, &both[..length]).is_err(), "{encoding:?}, {length} of {}", both.len());
        }
    }
}

#[test]
fn what_is_behind_the_end_is_an_error_but_for_padding() {
    for encoding in PACKED {
        let packed = pack(encoding, b"some words");
        for garbage in [&b"garbage that goes on for a while"[..], b"x", b"\0\0\0\0x"] {
            assert!(unpack(encoding, &[&packed, garbage].concat()).is_err(), "{encoding:?}, {garbage:?}");
        }
    }
    for (encoding, zeros) in [(Encoding::Gzip, 70_001), (Encoding::Gzip, 1), (Encoding::Xz, 512)] {
        let padded = [pack(encoding, b"some words"), vec![0; zeros]].concat();
        assert_eq!(unpack(encoding, &padded).expect("it is padded"), b"some words", "{encoding:?}, {zeros}");
        let more = [padded, pack(encoding, b" more")].concat();
        assert_eq!(unpack(encoding, &more).expect("it is padded"), b"some words more", "{encoding:?}");
    }
}

#[test]
fn frames_to_be_skipped_are_skipped() {
    let skipped = [&b"\x53\x2a\x4d\x18\x05\0\0\0abcde"[..], b"\x50\x2a\x4d\x18\0\0\0\0"].concat();
    for encoding in [Encoding::Zstd, Encoding::Lz4] {
        let words = pack(encoding, b"some words");
        let file = [&skipped[..], &words, &skipped, &words, &skipped].concat();
        assert_eq!(Encoding::of(&file), Encoding::Zstd);
        let text = unpack(Encoding::Zstd, &file).expect("it is whole");
        assert_eq!(text, b"some wordssome words", "{encoding:?}");
    }
    assert_eq!(unpack(Encoding::Zstd, &skipped).expect("it is whole"), b"");
    for length in 8..13 {
        assert!(unpack(Encoding::Zstd, &skipped[..length]).is_err(), "{length}");
    }
}

/// A window of a gigabyte is not allocated, and not unpacked.
#[test]
fn too_large_a_window_is_refused() {
    let mut to = zstd::Encoder::new(Vec::new(), 1).expect("there is memory");
    to.window_log(30).expect("it can be set");
    let long = to.write_all(&sample()).and_then(|()| to.finish()).expect("a vector takes all");
    let error = unpack(Encoding::Zstd, &long).expect_err("the window is too large");
    assert!(error.to_string().contains("too much memory"), "{error}");

    let mut options = lzma_rust2::XzOptions::with_preset(0);
    options.lzma_options.dict_size = 1 << 29;
    let mut to = lzma_rust2::XzWriter::new(Vec::new(), options).expect("the options are good");
    let long = to.write_all(&sample()).and_then(|()| to.finish()).expect("a vector takes all");
    let error = unpack(Encoding::Xz, &long).expect_err("the window is too large");
    assert!(error.to_string().contains("memory"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200, failure_persistence: None, rng_seed: RngSeed::Fixed(6), ..ProptestConfig::default()
    })]

    /// Nothing that is wrong goes unnoticed but where nothing is checked, and nothing panics or goes on for ever.
    #[test]
    fn what_was_changed_is_no_other_text(at in 0usize..10_000, bit in 0u8..8) {
        let text = sample();
        for encoding in PACKED {
            let mut packed = pack(encoding, &text);
            let at = at % packed.len();
            packed[at] ^= 1 << bit;
            if let Ok(came) = unpack(encoding, &packed) && encoding != Encoding::Lz4 {
                prop_assert!(came == text, "{:?}", encoding);
            }
        }
    }

    #[test]
    fn any_bytes_are_eaten(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..40) {
        for encoding in PACKED {
            let _ = unpack(encoding, &bytes);
            let begin = pack(encoding, b"some words");
            let _ = unpack(encoding, &[&begin[..cut.min(begin.len())], &bytes].concat());
        }
    }
}
