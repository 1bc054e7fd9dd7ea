//! Tests of the input: what is cut and read is what was there, and what was not is named.

use std::io::Write;

use super::cut::WINDOW_BYTES;
use super::*;
use crate::job::Cut;
use crate::logic::ids::SplitId;

fn splits(input: &Arc<Input>, target: u64) -> Vec<Vec<u8>> {
    let mut cutter = input.cutter();
    let mut parts = Vec::new();
    let mut text = Vec::new();
    while let Some(split) = cutter.cut(target, Cut::LINES).expect("the input is readable") {
        assert_eq!(split.id, SplitId(parts.len() as u64));
        input.read(&split, &mut text).expect("the split is readable");
        parts.push(text.clone());
    }
    parts
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("it is writable");
    file
}

fn open(files: &[&tempfile::NamedTempFile]) -> Arc<Input> {
    let paths: Vec<_> = files.iter().map(|file| file.path().to_owned()).collect();
    named(&paths).expect("the files are there")
}

fn named(files: &[PathBuf]) -> anyhow::Result<Arc<Input>> {
    Input::open(&Wanted { files, ..Wanted::default() })
}

/// An input that is made of one file that is open.
fn of_one(kind: InputKind) -> Arc<Input> {
    let mut input = Arc::into_inner(open(&[])).expect("nobody else has it");
    input.files.push(InputFile { path: "a file".into(), kind });
    Arc::new(input)
}

#[test]
fn cuts_after_boundaries_only_and_covers_every_byte_once() {
    let text = b"one\ntwo three\n\nfour";
    for target in 1..=text.len() as u64 + 1 {
        let parts = splits(&open(&[&file(text)]), target);
        assert_eq!(parts.concat(), text);
        let (_, inner) = parts.split_last().expect("there is a split");
        assert!(inner.iter().all(|part| part.ends_with(b"\n") && part.len() as u64 >= target));
    }
}

#[test]
fn a_split_never_joins_two_files_and_an_empty_file_gives_none() {
    let (first, empty, last) = (file(b"ab"), file(b""), file(b"cd\n"));
    let input = open(&[&first, &empty, &last]);
    assert_eq!(input.total_bytes(), Some(5));
    assert_eq!(splits(&input, 100), [b"ab".to_vec(), b"cd\n".to_vec()]);
}

#[test]
fn a_record_longer_than_the_target_makes_the_split_grow() {
    let mut text = vec![b'x'; 3 * WINDOW_BYTES];
    text.extend_from_slice(b"\ny\n");
    let parts = splits(&open(&[&file(&text)]), 10);
    assert_eq!(parts.len(), 2);
    assert_eq!(parts.concat(), text);
}

#[test]
fn a_stream_gives_the_same_splits_as_a_file() {
    let text = "some words\nand more\n".repeat(20_000);
    let (reader, mut writer) = io::pipe().expect("a pipe");
    let written = text.clone();
    let feeder = std::thread::spawn(move || writer.write_all(written.as_bytes()));
    let stream = of_one(InputKind::Stream(Stream::new(reader)));
    assert_eq!(stream.total_bytes(), None);
    assert_eq!(splits(&stream, 50_000), splits(&open(&[&file(text.as_bytes())]), 50_000));
    feeder.join().expect("the feeder ends").expect("all is written");
}

#[test]
#[cfg(target_os = "linux")]
fn a_file_that_does_not_tell_its_length_is_a_stream() {
    let path = "/proc/self/limits";
    let input = named(&[path.into()]).expect("it is there");
    assert_eq!((input.total_bytes(), input.files()), (None, 1));
    assert_eq!(splits(&input, 100).concat(), std::fs::read(path).expect("it is readable"));
    assert_eq!(open(&[&file(b"")]).total_bytes(), Some(0), "an empty file is none");
}

/// Someone may have read of standard input before us.
#[test]
fn a_file_is_read_from_where_it_stands() {
    let mut at_three = file(b"a\nbb\ncc\n").reopen().expect("it is there");
    at_three.seek(io::SeekFrom::Start(2)).expect("it is a file");
    let input = of_one(of_open("a file", at_three, true, false).expect("it is readable"));
    assert_eq!(input.total_bytes(), Some(6));
    assert_eq!(splits(&input, 1), [b"bb\n".to_vec(), b"cc\n".to_vec()]);
}

#[test]
fn a_sparse_file_of_any_size_is_cut_without_reading_it_all() {
    let sparse = file(b"start\n");
    let end = 1 << 43;
    sparse.as_file().write_all_at(b"\nend", end).expect("the file system knows sparse files");
    let input = open(&[&sparse]);
    let mut cutter = input.cutter();
    let first = cutter.cut(1, Cut::LINES).expect("readable").expect("a split");
    assert_eq!((first.offset, first.length), (0, 6));
    let error = cutter.cut(1, Cut::LINES).expect_err("a record of zeros without end");
    assert!(error.to_string().contains("record longer than 256 MiB"), "{error}");
    let zeros = cutter
        .cut(u64::MAX, Cut::After(crate::job::AsciiSet::of(b"\0")))
        .expect("readable")
        .expect("a split");
    assert_eq!((zeros.offset, zeros.length), (6, MAX_SPLIT_BYTES));
}

#[test]
fn a_file_that_changed_is_an_error() {
    let mut changed = file(b"one\ntwo\n");
    let input = open(&[&changed]);
    let split = input.cutter().cut(4, Cut::LINES).expect("readable").expect("a split");
    changed.write_all(b"three\n").expect("it is writable");
    let error = input.read(&split, &mut Vec::new()).expect_err("the file grew");
    assert!(error.to_string().contains("was changed"), "{error}");
}

#[test]
fn what_cannot_be_read_is_named() {
    for path in ["/nonexistent/file", "/nonexistent*"] {
        let error = named(&[path.into()]).err().expect("it cannot be read");
        assert!(format!("{error:#}").contains(path), "{error:#}");
    }
}
