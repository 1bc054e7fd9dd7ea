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

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    to.write_all(text).and_then(|()| to.finish()).expect("a vector takes all")
}

/// All splits, with where each comes from, as they lie.
fn origins(input: &Arc<Input>, cut: Cut) -> Vec<(Split, Origin)> {
    let mut cutter = input.cutter();
    let all = std::iter::from_fn(|| cutter.cut(4, cut).expect("the input is readable"));
    all.map(|split| (split, input.origin(&split))).collect()
}

#[test]
fn a_packed_file_is_one_split_and_a_packed_stream_is_unpacked() {
    let packed = gzip(b"one\ntwo\nthree\n");
    let (zipped, plain) = (file(&packed), file(b"four\nfive\n"));
    let input = open(&[&zipped, &plain]);
    assert_eq!(input.total_bytes(), Some(packed.len() as u64 + 10));
    let all = origins(&input, Cut::LINES);
    let seen: Vec<_> =
        all.iter().map(|(split, origin)| (split.length, origin.offset, origin.encoding)).collect();
    let whole = (packed.len() as u64, 0, Encoding::Gzip);
    assert_eq!(seen, [whole, (5, 0, Encoding::Plain), (5, 5, Encoding::Plain)]);
    assert_eq!(all[0].1.name, zipped.path().as_os_str().as_bytes());
    let (mut read, mut opened) = (Vec::new(), Vec::new());
    input.read(&all[0].0, &mut read).expect("it is readable");
    input.open(&all[0].0).expect("it is there").read_to_end(&mut opened).expect("it is readable");
    assert!(read == packed && opened == packed);

    let stream = of_one(InputKind::Stream(Stream::new(io::Cursor::new(packed))));
    assert_eq!(splits(&stream, 4), [&b"one\n"[..], b"two\n", b"three\n"]);
    let of_stream =
        origins(&of_one(InputKind::Stream(Stream::new(io::Cursor::new(gzip(b"a\n"))))), Cut::LINES);
    assert_eq!(of_stream[0].1.encoding, Encoding::Plain);
    let empty = of_one(InputKind::Stream(Stream::new(io::empty())));
    assert!(splits(&empty, 4).is_empty());
}

#[test]
fn a_packed_file_that_is_too_long_to_travel_is_unpacked_here() {
    let text = b"some words in a line that is as long as others are\n".repeat(1_300_000);
    let packed = file(&gzip(&text));
    assert!(packed.as_file().metadata().expect("it is there").len() > MAX_SPLIT_BYTES);
    let files = [packed.path().to_owned()];
    let wanted = Wanted { files: &files, ..Wanted::default() };
    let here = Input::open(&wanted).expect("it is there");
    assert!(here.total_bytes().is_some());
    assert_eq!(origins(&here, Cut::LINES).len(), 1, "in-process it is mapped as it is unpacked");
    let travels = Input::open(&Wanted { travels: true, ..wanted }).expect("it is there");
    assert_eq!(travels.total_bytes(), None);
    let parts = splits(&travels, 16 << 20);
    assert!(parts.len() > 3 && parts.iter().all(|part| part.ends_with(b"\n")));
    assert!(parts.concat() == text);
}

#[test]
fn a_job_that_takes_files_whole_gets_them_so() {
    let input = open(&[&file(b"a\nb\n"), &file(b"c")]);
    let lengths: Vec<u64> = origins(&input, Cut::Never).iter().map(|(split, _)| split.length).collect();
    assert_eq!(lengths, [4, 1]);
}

/// More files than stay open.
fn many(n: usize) -> (tempfile::TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |index: usize| directory.path().join(format!("file-{index:05}"));
    for index in 0..n {
        std::fs::write(path(index), format!("word{index}\n")).expect("it is writable");
    }
    let paths = (0..n).map(path).collect();
    (directory, paths)
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[test]
#[cfg(target_os = "linux")]
fn thousands_of_files_are_not_all_open() {
    let (directory, _) = many(3000);
    let before = open_descriptors();
    let input = named(&[directory.path().into()]).expect("they are there");
    assert_eq!(input.files(), 3000);
    let parts = splits(&input, 100);
    // Other tests open files, too.
    assert!(open_descriptors() < before + 1000);
    let expected: Vec<u8> = (0..3000).flat_map(|n| format!("word{n}\n").into_bytes()).collect();
    assert!(parts.len() == 3000 && parts.concat() == expected);
    let last = Split { id: SplitId(0), file: 0, offset: 0, length: 6 };
    let mut again = Vec::new();
    input.read(&last, &mut again).expect("it can be read again");
    assert_eq!(again, b"word0\n");
}

#[test]
fn what_became_of_a_file_is_said_with_its_path_and_the_place() {
    type Change = fn(&Path);
    let changes: [(Change, &str); 5] = [
        (|path| std::fs::remove_file(path).unwrap_or_default(), "No such file"),
        (|path| std::fs::write(path, "w").unwrap_or_default(), "became shorter, 1 bytes instead of 8"),
        (|path| std::fs::write(path, "and more words").unwrap_or_default(), "became longer"),
        (|path| std::fs::write(path, "WORD100\n").unwrap_or_default(), "written to"),
        (
            |path| {
                let other = path.with_extension("new");
                std::fs::write(&other, "word100\n").unwrap_or_default();
                std::fs::rename(other, path).unwrap_or_default();
            },
            "replaced by another",
        ),
    ];
    for (change, what) in changes {
        let (_directory, paths) = many(HELD_FILES + 100);
        let input = named(&paths).expect("they are there");
        change(&paths[100]);
        let mut cutter = input.cutter();
        let error = loop {
            match cutter.cut(100, Cut::LINES) {
                Ok(Some(split)) => assert!(split.file < 100, "{what}: it was cut"),
                Ok(None) => panic!("{what}: nobody noticed"),
                Err(error) => break format!("{error:#}"),
            }
        };
        let path = paths[100].display().to_string();
        assert!(error.contains(what) && error.contains(&path) && error.contains("byte 0"), "{error}");
        // One that was cut is noticed when it is read.
        let split = Split { id: SplitId(0), file: 100, offset: 0, length: 8 };
        let error = input.read(&split, &mut Vec::new()).expect_err("it changed");
        assert!(format!("{error:#}").contains(what), "{error:#}");
    }
}

#[test]
fn bad_input_is_left_out_and_listed_if_that_is_wanted() {
    let (directory, mut paths) = many(HELD_FILES + 10);
    paths.push(directory.path().join("gone"));
    let input = Input::open(&Wanted { files: &paths, skip_bad: true, ..Wanted::default() });
    let input = input.expect("what is gone is left out");
    std::fs::remove_file(&paths[3]).expect("it is there");
    let parts = splits(&input, 100);
    assert_eq!(parts.len(), HELD_FILES + 9);
    let bad: Vec<_> = input.bad().into_iter().map(|bad| (bad.input, bad.offset, bad.bytes)).collect();
    let path = |index: usize| paths[index].display().to_string();
    assert_eq!(bad, [(path(HELD_FILES + 10), 0, None), (path(3), 0, None)]);
    assert!(input.bad().iter().all(|bad| bad.cause.contains("No such file")));

    let mut torn = gzip(&b"some words\n".repeat(100_000));
    torn.truncate(1_000_000);
    let stream = || of_one(InputKind::Stream(Stream::new(io::Cursor::new(torn.clone()))));
    let lenient = |input: Arc<Input>| {
        let mut input = Arc::into_inner(input).expect("nobody else has it");
        input.skip_bad = true;
        Arc::new(input)
    };
    for target in [64 << 10, 10 << 20] {
        let input = lenient(stream());
        assert!(splits(&input, target).is_empty(), "the splits before the tear are left out, too");
        let bad: Vec<_> = input.bad().into_iter().map(|bad| (bad.offset, bad.bytes)).collect();
        assert_eq!(bad, [(0, None)]);
        let whole = Stream::new(io::Cursor::new(gzip(b"some\nwords\n")));
        let whole = lenient(of_one(InputKind::Stream(whole)));
        assert_eq!(splits(&whole, target).concat(), b"some\nwords\n");
        assert!(whole.bad().is_empty());
    }
    let mut cutter = stream().cutter();
    let error = std::iter::from_fn(|| cutter.cut(300_000, Cut::LINES).transpose()).find_map(Result::err);
    let error = format!("{:#}", error.expect("it is torn"));
    assert!(error.contains("cannot unpack a file (gzip) at byte "), "{error}");
}
