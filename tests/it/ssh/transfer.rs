//! Transfer: commands with input and output, uploads, many sessions at once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use mapreduce::edge::packed::{Packer, Packing};
use mapreduce::edge::program::digest_of;
use mapreduce::edge::ssh::{Packed, Session, Upload};

use super::{LIMIT, TIMEOUT, connect, logged_in, report, said};
use crate::harness::{Lab, LabOptions, is_child, run_as_child, with_deadline};

const MIB: usize = 1 << 20;

/// Bytes that repeat only after a long time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// What came of an upload.
struct Sent {
    result: anyhow::Result<bool>,
    /// Bytes that went over the network.
    bytes: u64,
}

fn upload(session: &mut Session, data: &[u8], path: &Path, mode: u32) -> Sent {
    upload_packed(session, data, &digest_of(data), None, path, mode)
}

fn upload_packed(
    session: &mut Session,
    bytes: &[u8],
    digest: &str,
    packed: Option<Packed>,
    path: &Path,
    mode: u32,
) -> Sent {
    let (mut sent, path) = (0, path.to_str().unwrap());
    let progress = &mut |bytes| sent += bytes;
    let result = session.upload(Upload { bytes, digest, packed, path, mode, stall: TIMEOUT, progress });
    Sent { result, bytes: sent }
}

#[test]
fn output_error_and_status_are_kept_apart() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let mut session = logged_in(&lab, 0);
        let output = session.run("cat; echo err >&2; exit 7", b"in\0put", TIMEOUT).unwrap();
        assert_eq!((output.status, output.signal.as_deref()), (7, None));
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"in\0put"[..], &b"err\n"[..]));
        let error = format!("{:#}", output.success().unwrap_err());
        assert!(error.contains("status 7") && error.contains("err"), "{error}");
        let output = session.run("kill -KILL $$", b"", TIMEOUT).unwrap();
        assert_eq!((output.status, output.signal.as_deref()), (137, Some("KILL")));
        assert_eq!(session.run("true", b"", TIMEOUT).unwrap().status, 0);
    });
}

#[test]
fn five_mebibytes_go_in_and_come_out_on_both_streams() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let mut session = logged_in(&lab, 0);
        let data = noise(5 * MIB);
        // `tee` writes both streams while it reads: any of the three that is not served blocks the others.
        let output = session.run("tee /dev/stderr", &data, TIMEOUT).unwrap();
        assert_eq!(output.status, 0);
        assert!(output.stdout == data && output.stderr == data);
        // Standard error alone is more than the window.
        let output = session.run("head -c 5242880 /dev/zero >&2; echo done", b"", TIMEOUT).unwrap();
        assert_eq!((output.stderr.len(), &output.stdout[..]), (5 * MIB, &b"done\n"[..]));
    });
}

#[test]
fn command_that_ignores_its_input_ends_well() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let mut session = logged_in(&lab, 0);
        let output = session.run("echo early; exit 3", &noise(20 * MIB), TIMEOUT).unwrap();
        assert_eq!((output.status, &output.stdout[..]), (3, &b"early\n"[..]));
        assert_eq!(said(&mut session, "echo next"), "next\n");
    });
}

#[test]
fn command_that_closes_its_output_gets_all_its_input() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let mut session = logged_in(&lab, 0);
        let data = noise(3 * MIB);
        let output = session.run("exec >&- 2>&-; sleep 0.2; cat > copy", &data, TIMEOUT).unwrap();
        assert_eq!(output.status, 0);
        assert!(fs::read(lab.hosts[0].home.join("copy")).unwrap() == data);
    });
}

#[test]
fn upload_is_whole_with_its_mode_under_any_name() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let mut session = logged_in(&lab, 0);
        let home = &lab.hosts[0].home;
        for (name, len, mode) in [
            ("program", 7 * MIB + 13, 0o755),
            ("it's a $HOME; \"name\" with *", 5, 0o600),
            ("empty", 0, 0o644),
        ] {
            let data = noise(len);
            let path = home.join(name);
            fs::write(&path, "older").unwrap();
            let sent = upload(&mut session, &data, &path, mode);
            assert!(sent.result.unwrap_or_else(|error| panic!("{name}: {error:#}")), "{name}: proven");
            assert!(fs::read(&path).unwrap() == data, "{name}");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode, "{name}");
            assert_eq!(sent.bytes, len as u64);
        }
        assert_eq!(fs::read_dir(home).unwrap().count(), 3, "a temporary file is left");
    });
}

#[test]
fn failed_uploads_name_path_and_reason_and_leave_nothing() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let mut session = logged_in(&lab, 0);
        let home = lab.hosts[0].home.clone();
        let data = noise(3 * MIB);
        let mut failure =
            |path: &Path| format!("{:#}", upload(&mut session, &data, path, 0o644).result.unwrap_err());
        // Neither exists; also root cannot write there.
        let error = failure(Path::new("/proc/program"));
        assert!(error.contains("could not write /proc/program") && error.contains("status"), "{error}");
        let error = failure(&home.join("missing/program"));
        assert!(error.contains("missing/program") && error.contains("irectory"), "{error}");
        fs::create_dir(home.join("dir")).unwrap();
        let error = failure(&home.join("dir"));
        assert!(error.contains("is a directory"), "{error}");
        // The session is still good, and all that is there is the directory.
        assert_eq!(said(&mut session, "find . -mindepth 1"), "./dir\n");
    });
}

#[test]
fn file_that_is_not_what_it_should_be_gets_no_name() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let mut session = logged_in(&lab, 0);
        let path = lab.hosts[0].home.join("program");
        let (data, digest) = (noise(MIB), digest_of(b"something else"));
        let sent = upload_packed(&mut session, &data, &digest, None, &path, 0o755);
        let error = format!("{:#}", sent.result.unwrap_err());
        assert!(error.contains(&format!("instead of {digest}")), "{error}");
        assert_eq!(said(&mut session, "ls -A"), "");
    });
}

/// The limit on the size of files that the remote shell sets for itself stands for a full disk: `cat` gets an error
/// in the middle of the file.
#[test]
fn upload_that_does_not_fit_says_so_and_leaves_nothing() {
    with_deadline(LIMIT, || {
        let lab = Lab::with(LabOptions {
            hosts: 1,
            before_command: Some("trap '' XFSZ; ulimit -f 1024".into()),
            ..LabOptions::default()
        });
        let mut session = logged_in(&lab, 0);
        let (data, path) = (noise(8 * MIB), lab.hosts[0].home.join("program"));
        let packer = Packer::default();
        let packed =
            Packed { bytes: packer.packed(Packing::Gzip, &vec![0; 8 * MIB]).unwrap(), unpack: "gzip -dc" };
        for packed in [None, Some(packed)] {
            let sent = upload_packed(&mut session, &data, &digest_of(&data), packed, &path, 0o755);
            let error = format!("{:#}", sent.result.unwrap_err());
            assert!(error.contains("could not write") && error.contains("too large"), "{error}");
            assert_eq!(said(&mut session, "ls -A"), "");
        }
    });
}

/// Bytes that pack well.
fn program() -> Vec<u8> {
    noise(MIB / 4).iter().flat_map(|&byte| [byte; 12]).collect()
}

/// A host on which the tool `name` is a script of ours.
fn lab_with_tool(name: &str, script: &str) -> Lab {
    let before_command = Some("PATH=\"$HOME/bin:$PATH\"; export PATH".into());
    let lab = Lab::with(LabOptions { hosts: 1, before_command, ..LabOptions::default() });
    let bin = lab.hosts[0].home.join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    lab
}

/// Uploads a program packed for gzip; it must arrive. Returns what was sent, in shares of the packed bytes.
fn sent_of_packed(lab: &Lab) -> (u64, u64, u64) {
    let mut session = logged_in(lab, 0);
    let (data, path, packer) = (program(), lab.hosts[0].home.join("program"), Packer::default());
    let bytes = packer.packed(Packing::Gzip, &data).unwrap();
    let packed = Some(Packed { bytes, unpack: Packing::Gzip.unpack() });
    let sent = upload_packed(&mut session, &data, &digest_of(&data), packed, &path, 0o755);
    assert!(sent.result.unwrap_or_else(|error| panic!("{error:#}")));
    assert!(fs::read(&path).unwrap() == data);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o755);
    let left: Vec<_> = fs::read_dir(&lab.hosts[0].home).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| name == "program" || name == "bin"), "{left:?}");
    (sent.bytes, bytes.len() as u64, data.len() as u64)
}

#[test]
fn packed_upload_arrives_unpacked() {
    with_deadline(LIMIT, || {
        let (sent, packed, whole) = sent_of_packed(&Lab::start(1));
        assert_eq!(sent, packed);
        assert!(packed < whole / 2);
    });
}

/// One is not there, one is broken, one tears the file, one makes up its own, one never reads.
#[test]
fn upload_goes_as_it_is_where_unpacking_fails() {
    with_deadline(LIMIT, || {
        let path = "/usr/bin:/bin";
        for tool in [
            "exit 127".to_owned(),
            "cat >/dev/null; echo 'gzip: invalid compressed data--crc error' >&2; exit 1".to_owned(),
            format!("PATH={path} gzip -dc | head -c 1000"),
            format!("PATH={path} gzip -dc | tr a b"),
            "kill -KILL $$".to_owned(),
        ] {
            let (sent, packed, whole) = sent_of_packed(&lab_with_tool("gzip", &tool));
            assert!((whole..=whole + packed).contains(&sent), "{tool}: {sent} of {whole}");
        }
    });
}

/// A host on which the shell finds no `cat`, but sshd finds `scp`.
#[test]
fn upload_falls_back_to_scp() {
    with_deadline(LIMIT, || {
        let lab = Lab::with(LabOptions {
            hosts: 1,
            before_command: Some("PATH=\"$HOME/bin\"; export PATH".into()),
            ..LabOptions::default()
        });
        let home = lab.hosts[0].home.clone();
        fs::create_dir(home.join("bin")).unwrap();
        for tool in ["sh", "scp", "chmod", "mv", "rm", "ls"] {
            let real = ["/bin", "/usr/bin"].iter().map(|dir| std::path::Path::new(dir).join(tool));
            let real = real.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("no {tool}"));
            std::os::unix::fs::symlink(real, home.join("bin").join(tool)).unwrap();
        }
        let mut session = logged_in(&lab, 0);
        let data = noise(5 * MIB + 1);
        let path = home.join("program");
        let sent = upload(&mut session, &data, &path, 0o750);
        assert!(!sent.result.unwrap_or_else(|error| panic!("{error:#}")), "there is no tool for the digest");
        assert!(fs::read(&path).unwrap() == data);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o750);
        let missing = home.join("missing/program");
        assert!(upload(&mut session, &data[..5], &missing, 0o750).result.is_err());
        assert_eq!(said(&mut session, "ls"), "bin\nprogram\n");
    });
}

/// Guards the build: an OpenSSL without threads corrupts the heap here in some runs. The allocator's caches are off,
/// so that it notices.
#[test]
fn thirty_two_handshakes_at_once_are_sound() {
    if !is_child() {
        let name = "ssh::transfer::thirty_two_handshakes_at_once_are_sound";
        run_as_child(name, &[("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")], LIMIT).expect_code(0);
        return;
    }
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        for _ in 0..4 {
            std::thread::scope(|scope| {
                for n in 0..32 {
                    let lab = &lab;
                    scope.spawn(move || {
                        let mut session =
                            connect(lab, 0).unwrap_or_else(|failure| panic!("{}", report(&failure)));
                        assert_eq!(said(&mut session, &format!("echo {n}")), format!("{n}\n"));
                    });
                }
            });
        }
        assert_eq!(fs::read_to_string(lab.known_hosts()).unwrap().lines().count(), 1);
    });
}

/// Not a benchmark, but a guard against round trips per packet: it takes half a second.
#[test]
fn upload_of_sixty_four_mebibytes_is_not_slow() {
    with_deadline(LIMIT, || {
        let lab = Lab::start(1);
        let mut session = logged_in(&lab, 0);
        let data = vec![7; 64 * MIB];
        let digest = digest_of(&data);
        let started = Instant::now();
        let path = lab.hosts[0].home.join("big");
        upload_packed(&mut session, &data, &digest, None, &path, 0o600).result.unwrap();
        eprintln!("64 MiB in {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    });
}
