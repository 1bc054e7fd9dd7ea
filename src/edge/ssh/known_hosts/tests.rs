//! Tests: known hosts as users and OpenSSH write them.

use std::os::unix::fs::PermissionsExt;

use super::*;

const SUPPORTED: [&str; 6] = [
    "ecdsa-sha2-nistp256",
    "ssh-ed25519",
    "rsa-sha2-512",
    "rsa-sha2-256",
    "ssh-rsa",
    "ssh-rsa-cert-v01@openssh.com",
];

fn key(kind: &str, rest: &[u8]) -> PublicKey {
    let mut blob = (kind.len() as u32).to_be_bytes().to_vec();
    blob.extend_from_slice(kind.as_bytes());
    blob.extend_from_slice(rest);
    PublicKey(blob)
}

fn line(names: &str, key: &PublicKey) -> String {
    format!("{names} {} {} comment\n", key.kind(), STANDARD.encode(&key.0))
}

fn known(text: &str) -> KnownHosts {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known_hosts");
    fs::write(&file, text).unwrap();
    let mut known = KnownHosts::default();
    known.read_file(&file).unwrap();
    known
}

#[test]
fn a_recorded_key_is_known_and_another_is_refused() {
    let (a, b) = (key("ssh-ed25519", b"a"), key("ssh-ed25519", b"b"));
    let hosts = known(&(line("tp-01,tp-02.enst.fr", &a) + &line("[tp-01]:2222", &b)));
    assert_eq!(hosts.check("tp-01", 22, &a), Ok(Verdict::Known));
    assert_eq!(hosts.check("TP-02.enst.fr", 22, &a), Ok(Verdict::Known));
    assert_eq!(hosts.check("tp-03", 22, &a), Ok(Verdict::New));
    assert_eq!(hosts.check("tp-01", 2222, &b), Ok(Verdict::Known));
    // A key that is known for the host is good for its other ports, but never the other way round.
    assert_eq!(hosts.check("tp-01", 2222, &a), Ok(Verdict::Known));
    let refused = hosts.check("tp-01", 22, &b).unwrap_err();
    assert!(matches!(&refused, HostKeyError::Changed { place: Place { line: 1, .. }, .. }), "{refused:?}");
    assert!(refused.advice().ends_with("-R tp-01"), "{}", refused.advice());
}

#[test]
fn a_malformed_line_does_not_spoil_the_rest() {
    let a = key("ssh-ed25519", b"a");
    let broken = "\n# comment\nrubbish\ntp-01 ssh-ed25519\ntp-01 ssh-ed25519 ???\ntp-01 ssh-rsa AAAA\n|1|x|y z\n\
                  @odd tp-01 ssh-ed25519 AAAA\n";
    assert_eq!(known(&(broken.to_string() + &line("tp-01", &a))).check("tp-01", 22, &a), Ok(Verdict::Known));
    assert_eq!(known(broken).check("tp-01", 22, &a), Ok(Verdict::New));
}

#[test]
fn hashed_names_match() {
    let a = key("ssh-ed25519", b"a");
    let hash = |name: &str| {
        let mac = Hmac::<Sha1>::new_from_slice(b"0123456789abcdefghij").unwrap().chain_update(name);
        format!(
            "|1|{}|{}",
            STANDARD.encode("0123456789abcdefghij"),
            STANDARD.encode(mac.finalize().into_bytes())
        )
    };
    let hosts = known(&line(&hash("[tp-01]:2222"), &a));
    assert_eq!(hosts.check("tp-01", 2222, &a), Ok(Verdict::Known));
    assert_eq!(hosts.check("tp-01", 22, &a), Ok(Verdict::New));
    assert!(hosts.check("tp-01", 2222, &key("ssh-ed25519", b"b")).is_err());
}

#[test]
fn wildcards_and_exclusions_match() {
    let a = key("ssh-ed25519", b"a");
    let hosts = known(&line("*.enst.fr,!gate.enst.fr,tp-??", &a));
    for (name, verdict) in [
        ("x.enst.fr", Verdict::Known),
        ("gate.enst.fr", Verdict::New),
        ("tp-01", Verdict::Known),
        ("tp-1", Verdict::New),
    ] {
        assert_eq!(hosts.check(name, 22, &a), Ok(verdict), "{name}");
    }
}

#[test]
fn revoked_keys_are_refused_and_authorities_are_no_keys() {
    let a = key("ssh-ed25519", b"a");
    let hosts = known(&(line("tp-01", &a) + "@revoked " + &line("*", &a)));
    assert!(matches!(hosts.check("tp-01", 22, &a), Err(HostKeyError::Revoked { .. })));
    assert!(matches!(hosts.check("tp-09", 2222, &a), Err(HostKeyError::Revoked { .. })));
    let hosts = known(&("@cert-authority ".to_string() + &line("*", &a)));
    assert_eq!(hosts.check("tp-01", 22, &key("ssh-ed25519", b"b")), Ok(Verdict::New));
    assert_eq!(hosts.check("tp-01", 22, &a), Ok(Verdict::New));
}

#[test]
fn recorded_types_are_asked_for_first_and_other_types_are_refused() {
    let (ed, rsa) = (key("ssh-ed25519", b"a"), key("ssh-rsa", b"r"));
    let hosts = known(&line("tp-01", &rsa));
    assert!(hosts.preferred("tp-01", 22, &SUPPORTED).starts_with("rsa-sha2-512,rsa-sha2-256,ssh-rsa,ecdsa"));
    assert_eq!(known("").preferred("tp-01", 22, &SUPPORTED), SUPPORTED[..5].join(","));
    assert!(matches!(hosts.check("tp-01", 22, &ed), Err(HostKeyError::OtherType { .. })));
    let both = known(&(line("tp-01", &rsa) + &line("tp-01", &ed)));
    assert_eq!(both.check("tp-01", 22, &ed), Ok(Verdict::Known));
    assert_eq!(both.check("tp-01", 22, &rsa), Ok(Verdict::Known));
}

#[test]
fn records_are_appended_once_each_also_by_many_threads() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("new/.ssh/known_hosts");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "# no end of line").unwrap();
    let a = key("ssh-ed25519", b"a");
    std::thread::scope(|scope| {
        for n in 0..32 {
            let (file, a) = (&file, &a);
            scope.spawn(move || record(file, &format!("tp-{}", n / 2), 2222, a).unwrap());
        }
    });
    let text = fs::read_to_string(&file).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.remove(0), "# no end of line");
    lines.sort_unstable();
    lines.dedup();
    assert_eq!((lines.len(), text.lines().count()), (16, 17), "{text}");
    let hosts = KnownHosts::read(&file).unwrap();
    assert!((0..16).all(|n| hosts.check(&format!("tp-{n}"), 2222, &a) == Ok(Verdict::Known)));
}

#[test]
fn a_new_file_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("home/.ssh/known_hosts");
    record(&file, "tp-01", 22, &key("ssh-ed25519", b"a")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
}
