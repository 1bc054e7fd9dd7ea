//! SSH: files in the formats of OpenSSH.

use std::path::Path;

use mapreduce::edge::ssh::config::HostConfig;
use mapreduce::edge::ssh::known_hosts::{DEFAULT_PORT, KnownHosts, PublicKey, Verdict, known_as};

use super::{KIB, Target};

/// A `known_hosts` file, of which is asked what it says about some hosts and keys.
pub const KNOWN_HOSTS: Target = Target {
    name: "known_hosts",
    read: known_hosts,
    seeds: || vec![KNOWN.into(), HASHED.into()],
    most_allocated: |bytes| 128 * bytes + 16 * KIB,
};

/// `~/.ssh/config`, of which is asked what it says about some hosts.
pub const CONFIG: Target = Target {
    name: "ssh_config",
    read: config,
    seeds: || vec![CONFIGURED.into()],
    most_allocated: |bytes| KIB * bytes + 256 * KIB,
};

/// A key in its wire form, and as it stands in a file.
const KEY: &[u8] = b"\0\0\0\x0bssh-ed25519\0\0\0\x04abcd";
const LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAABGFiY2Q=";

/// What the names below are called.
const HOSTS: [(&str, u16); 4] = [("tp-01", 22), ("TP-01.enst.fr", 2222), ("::1", 22), ("a*[]!?,b", 1)];

const KNOWN: &str = "\
# Known.\ntp-01,tp-02.enst.fr ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAABGFiY2Q= comment\n\
[tp-01.enst.fr]:2222 ssh-rsa AAAAB3NzaC1yc2EAAAAA\n@revoked *,!tp-0? ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAABGFiY2Q=\n\
@cert-authority *.enst.fr ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAABGFiY2Q=\n";

/// The first line is of `tp-01`.
const HASHED: &str = "\
|1|c2FsdHNhbHRzYWx0c2FsdHNhbHQ=|B0iM0PN8i7+xumsldiVbtMNpyzM= ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAABGFiY2Q=\n\
|1|x|y ssh-ed25519 AAAA\ntp-?? ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAABGFiY2U=\n";

const CONFIGURED: &str = "\
Host tp-01\n  HostName %h.enst.fr\n  Port=2222\n  IdentityFile \"~/.ssh/a b\"\nMatch host tp-01,x user me\n  User ada\n\
  ProxyJump a@b:3,[::1]:4\nMatch all\n  ProxyCommand nc %h %p\n  IdentitiesOnly yes\n  IdentityAgent none\n\
  HostKeyAlias lab\nHost * !tp-09 # all\n  AddKeysToAgent confirm\n  ProxyJump none\n";

fn known_hosts(bytes: &[u8]) -> bool {
    let file = Path::new("known_hosts");
    let mut known = KnownHosts::default();
    known.add(bytes, file);
    let key = PublicKey(KEY.to_vec());
    // The first bytes as somebody's key: what it is called must be safe.
    let odd = PublicKey(bytes[..bytes.len().min(64)].to_vec());
    assert!(odd.kind().chars().all(|c| c.is_ascii_graphic()));
    assert!(odd.fingerprint().contains(" SHA256:"));
    let supported = ["ssh-ed25519", "rsa-sha2-512", "ssh-rsa", "ssh-rsa-cert-v01@openssh.com"];
    let mut is_known = false;
    for (host, port) in HOSTS {
        let preferred = known.preferred(host, port, &supported);
        assert_eq!(preferred.split(',').count(), 3, "{preferred}");
        if let Err(refused) = known.check(host, port, &odd) {
            assert!(!refused.to_string().is_empty() && !refused.advice().is_empty());
        }
        is_known |= judge(&mut known, host, port, &key, file);
    }
    is_known
}

/// Whatever a file says of a host, once its key is recorded it is known, if it was not revoked.
fn judge(known: &mut KnownHosts, host: &str, port: u16, key: &PublicKey, file: &Path) -> bool {
    let before = known.check(host, port, key);
    // As `record` writes it. A name that is a pattern itself is none of a host.
    if port != DEFAULT_PORT || host.contains('*') {
        return before == Ok(Verdict::Known);
    }
    known.add(format!("{} {LINE}\n", known_as(host, port)).as_bytes(), file);
    let revoked = matches!(&before, Err(refused) if refused.to_string().contains("revoked"));
    let after = known.check(host, port, key);
    assert!(
        if revoked { after == before } else { after == Ok(Verdict::Known) },
        "{before:?}, then {after:?}"
    );
    before == Ok(Verdict::Known)
}

fn config(bytes: &[u8]) -> bool {
    // Other files are not to be read here.
    let includes = bytes.windows(7).any(|word| word.eq_ignore_ascii_case(b"include"));
    let read = |host, user| HostConfig::parse(bytes, Path::new("config"), host, user);
    !includes && read("tp-01", Some("me")).is_ok() & read("tp-09", None).is_ok()
}
