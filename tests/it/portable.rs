//! Portable: the executable needs nothing of the machine that it runs on, down to an empty root directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mapreduce::logic::tokenize::Tokens;

use crate::harness::program::Invocation;
use crate::harness::served::{Served, list};
use crate::harness::{Lab, entries, with_deadline};
use crate::reference;

const LIMIT: Duration = Duration::from_secs(60);

const BOOK: &[u8] = include_bytes!("../../examples/alice.txt");

const PROGRAM: &str = env!("CARGO_BIN_EXE_mapreduce");

/// What an executable asks the system's loader for.
#[derive(Debug, PartialEq, Eq)]
pub struct Needs {
    /// Whether it names a loader at all.
    pub loader: bool,
    /// Shared libraries.
    pub libraries: usize,
}

/// Reads the program headers of a 64-bit little-endian ELF file. By hand: the program's own reader is not asked.
pub fn needs(path: &Path) -> Needs {
    const PT_DYNAMIC: u64 = 2;
    const PT_INTERP: u64 = 3;
    const DT_NULL: u64 = 0;
    const DT_NEEDED: u64 = 1;
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let number = |at: usize, length: usize| {
        bytes[at..at + length].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
    };
    assert_eq!(&bytes[..6], b"\x7fELF\x02\x01", "{} is no such file", path.display());
    let (table, size, count) = (number(32, 8) as usize, number(54, 2) as usize, number(56, 2) as usize);
    let mut found = Needs { loader: false, libraries: 0 };
    for header in (0..count).map(|index| table + index * size) {
        found.loader |= number(header, 4) == PT_INTERP;
        if number(header, 4) == PT_DYNAMIC {
            let (start, length) = (number(header + 8, 8) as usize, number(header + 32, 8) as usize);
            let tags = (start..start + length).step_by(16).map(|at| number(at, 8));
            found.libraries += tags.take_while(|&tag| tag != DT_NULL).filter(|&tag| tag == DT_NEEDED).count();
        }
    }
    found
}

/// Nothing of a system: a root directory with the program in it, and what a test puts there.
struct EmptyRoot {
    dir: PathBuf,
}

impl EmptyRoot {
    fn make(lab: &Lab) -> EmptyRoot {
        let dir = lab.root().join("empty");
        fs::create_dir(&dir).unwrap();
        fs::copy(PROGRAM, dir.join("program")).unwrap();
        EmptyRoot { dir }
    }

    /// The program, with that directory as its root. Ordinary users need a name space of their own for it.
    fn invocation(&self, lab: &Lab, args: &[&str]) -> Invocation {
        let dir = self.dir.to_str().unwrap();
        let (tool, enter): (_, &[&str]) = match rustix::process::geteuid().is_root() {
            true => ("chroot", &[dir, "/program"]),
            false => ("unshare", &["--user", "--map-root-user", "--root", dir, "--wd", "/", "/program"]),
        };
        let directories = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/bin:/sbin:/bin";
        let tool = directories.split(':').map(|dir| Path::new(dir).join(tool)).find(|path| path.exists());
        let tool = tool.expect("chroot (coreutils) or unshare (util-linux) is installed; the test needs it");
        Invocation::of(&tool, &[enter, args].concat()).env(crate::harness::MARKER, lab.root())
    }
}

#[test]
fn executable_is_static() {
    assert_eq!(needs(Path::new(PROGRAM)), Needs { loader: false, libraries: 0 });
    // The reading itself is right: the tests' own executable is linked as usual.
    let own = needs(&std::env::current_exe().unwrap());
    assert!(own.loader && own.libraries > 0, "{own:?}");
}

#[test]
fn program_starts_in_an_empty_root_directory() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let root = EmptyRoot::make(&lab);
        let version = root.invocation(&lab, &["--version"]).run();
        assert_eq!(
            (version.code, version.stdout.as_str()),
            (Some(0), concat!("program ", env!("CARGO_PKG_VERSION"), "\n")),
            "in an empty root directory (an ordinary user needs user name spaces for this test: \
             `sysctl kernel.unprivileged_userns_clone=1`, or run it as root)\n{version:#?}"
        );
        fs::write(root.dir.join("book.txt"), BOOK).unwrap();
        let expected = reference::word_count(&[BOOK], Tokens::Word, false);
        let counted = root.invocation(&lab, &["run", "book.txt"]).run().expect_code(0);
        assert!(counted.stdout_bytes == expected);
        root.invocation(&lab, &["run", "-q", "/book.txt", "-o", "/counts.tsv"]).run().expect_code(0);
        assert!(fs::read(root.dir.join("counts.tsv")).unwrap() == expected);
        // A stream needs a place to be kept in, and there is none.
        let stream = root.invocation(&lab, &["run", "-"]).stdin(BOOK).run().expect_code(1);
        assert!(stream.stderr.contains("cannot create the spool"), "{}", stream.stderr);
        assert_eq!(entries(&root.dir), ["book.txt", "counts.tsv", "program"]);
    });
}

#[test]
fn workers_serve_from_an_empty_root_directory() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(0);
        let root = EmptyRoot::make(&lab);
        let workers: Vec<Served> =
            (0..2).map(|_| Served::start(root.invocation(&lab, &["serve", "--port", "0"]))).collect();
        fs::write(lab.client_dir().join("book.txt"), BOOK).unwrap();
        let args = ["run", "book.txt", "--workers", &list(&workers), "--split-size", "10KiB"];
        let counted = lab.mapreduce(&args).expect_code(0);
        assert!(counted.stdout_bytes == reference::word_count(&[BOOK], Tokens::Word, false));
        assert_eq!(entries(&root.dir), ["program"]);
    });
}
