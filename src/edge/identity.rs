//! Identity: who a process is within one cluster: a certificate, its key, and the authority that signed both sides.
//!
//! The authority lives only while certificates are made: its private key is never written anywhere, so nobody can make
//! a further certificate of the cluster, not even who reads all its files. Certificates do not expire: clocks of lab
//! machines are wrong now and then, and a cluster ends with its `stop`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustix::fs::CWD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::private::{self, Kind, Refusal};
use crate::wire::message::CLIENT_NAME;

/// The name that all workers with one shared identity file have.
pub const SHARED_WORKER_NAME: &str = "worker.mapreduce";

/// Returns the name of the worker that was deployed to the `index`-th host.
#[must_use]
pub fn worker_name(index: usize) -> String {
    format!("worker-{index}.mapreduce")
}

/// A certificate with its private key, and the certificate of the authority that the other side's must be signed by.
/// All are DER; in files and messages, base64 without line ends, which no shell can mangle.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    #[serde(serialize_with = "write_der", deserialize_with = "read_der")]
    pub authority: Zeroizing<Vec<u8>>,
    #[serde(serialize_with = "write_der", deserialize_with = "read_der")]
    pub certificate: Zeroizing<Vec<u8>>,
    /// PKCS #8. A secret.
    #[serde(serialize_with = "write_der", deserialize_with = "read_der")]
    pub key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// What one file holds for workers that are started by hand, and for who uses them. Whoever has the file is both.
#[derive(Serialize, Deserialize)]
pub struct SharedIdentity {
    pub client: Identity,
    /// Of all workers, whose name is [`SHARED_WORKER_NAME`].
    pub worker: Identity,
}

/// Bound on the size of an identity file, in bytes; it has some three thousand.
const FILE_LIMIT: u64 = 64 << 10;

impl SharedIdentity {
    /// Makes a fresh one and writes it to `file`, which must not be there yet, for the user alone to read.
    ///
    /// # Errors
    /// If it is there, or cannot be written: then it is not there.
    pub fn create(file: &Path) -> anyhow::Result<()> {
        let authority = Authority::fresh()?;
        let shared =
            SharedIdentity { client: authority.client()?, worker: authority.worker(SHARED_WORKER_NAME)? };
        let text = private::to_json(&shared, true)?;
        let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        open.write_all(&text).inspect_err(|_| _ = std::fs::remove_file(file))?;
        Ok(())
    }

    /// Reads the identity in `file`.
    ///
    /// # Errors
    /// If it cannot be read, is none, or others than the user could read it or have written it.
    pub fn load(file: &Path) -> anyhow::Result<SharedIdentity> {
        let name = file.display();
        let read = || -> anyhow::Result<SharedIdentity> {
            let open = private::open(CWD, file, Kind::Named).map_err(|refusal| match refusal {
                Refusal::Open => anyhow!("{refusal}: chmod 600 {name}, or make a new one if they could"),
                Refusal::Kind => anyhow!("it is no regular file"),
                refusal => refusal.into(),
            })?;
            let text = private::read(&open, FILE_LIMIT, FILE_LIMIT)?;
            ensure!(text.len() as u64 <= FILE_LIMIT, "it is longer than {FILE_LIMIT} bytes");
            // By position only: the text holds keys.
            serde_json::from_slice(&text).map_err(|error| {
                anyhow!("it is no identity: line {}, column {}", error.line(), error.column())
            })
        };
        read().with_context(|| format!("reading the identity {name}"))
    }
}

/// The authority of one cluster. It is gone when it is dropped.
///
/// What holds keys here is wiped when it is let go of, but for the copies of libraries: rcgen's key pairs (the
/// authority's, and each that is made for an identity) and what ring keeps of them, also for a connection's sake, are
/// freed as they are.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
}

impl Authority {
    /// Makes an authority that nobody has seen, with an ECDSA key on P-256.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn fresh() -> anyhow::Result<Authority> {
        let key = KeyPair::generate()?;
        let mut params = named("mapreduce cluster", Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(Authority { issuer: Issuer::new(params, key), certificate })
    }

    /// Makes the identity of who runs jobs. Its certificate is none of a server, so that nobody can pass for a worker
    /// with it.
    ///
    /// # Errors
    /// As [`fresh`](Authority::fresh).
    pub fn client(&self) -> anyhow::Result<Identity> {
        self.sign(CLIENT_NAME, vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// Makes the identity of the worker `name`, which serves, and connects to its peers.
    ///
    /// # Errors
    /// As [`fresh`](Authority::fresh).
    pub fn worker(&self, name: &str) -> anyhow::Result<Identity> {
        self.sign(name, vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn sign(&self, name: &str, usages: Vec<ExtendedKeyUsagePurpose>) -> anyhow::Result<Identity> {
        let key = KeyPair::generate()?;
        let mut params = named(name, vec![name.to_owned()])?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        let certificate = params.signed_by(&key, &self.issuer)?.der().to_vec();
        Ok(Identity {
            authority: Zeroizing::new(self.certificate.clone()),
            certificate: Zeroizing::new(certificate),
            key: Zeroizing::new(key.serialized_der().to_vec()),
        })
    }
}

fn named(name: &str, dns: Vec<String>) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(dns)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn write_der<S: Serializer>(der: &Zeroizing<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&Zeroizing::new(STANDARD.encode(der.as_slice())))
}

fn read_der<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<Vec<u8>>, D::Error> {
    let text = Zeroizing::new(String::deserialize(from)?);
    // The reason would quote the text, which may be a key.
    let der = STANDARD.decode(text.as_bytes());
    der.map(Zeroizing::new).map_err(|_| serde::de::Error::custom("it is not base64"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn identities_survive_json_and_are_not_shown() {
        let identity = Authority::fresh().unwrap().worker(&worker_name(3)).unwrap();
        let json = serde_json::to_string(&identity).unwrap();
        assert!(!json.contains(['\\', '\'', '\n']), "{json}");
        assert!(json.len() < 3000, "{}", json.len());
        assert_eq!(serde_json::from_str::<Identity>(&json).unwrap(), identity);
        assert_eq!(format!("{identity:?}"), "Identity(..)");
    }

    #[test]
    fn what_is_no_identity_is_refused_without_repeating_it() {
        let error = serde_json::from_str::<Identity>(r#"{"authority": "s3cret!"}"#).unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    #[test]
    fn a_file_is_for_its_user_alone_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lab.identity");
        SharedIdentity::create(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        let shared = SharedIdentity::load(&file).unwrap();
        assert_eq!(shared.client.authority, shared.worker.authority);
        assert!(SharedIdentity::create(&file).is_err());
        assert_eq!(SharedIdentity::load(&file).unwrap().client, shared.client);
    }

    #[test]
    fn a_file_that_others_may_read_or_that_is_none_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lab.identity");
        let refused = || format!("{:#}", SharedIdentity::load(&file).err().expect("a refusal"));
        assert!(refused().contains("No such file"), "{}", refused());
        SharedIdentity::create(&file).unwrap();
        let permit = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        permit(0o640);
        assert!(refused().contains("chmod 600"), "{}", refused());
        permit(0o600);
        std::fs::write(&file, "{\"client\": \"s3cret\"}").unwrap();
        assert!(refused().contains("line 1") && !refused().contains("s3cret"), "{}", refused());
        std::fs::write(&file, vec![b' '; FILE_LIMIT as usize + 1]).unwrap();
        assert!(refused().contains("longer"), "{}", refused());
        std::fs::remove_file(&file).unwrap();
        // Nobody ever writes to it.
        rustix::fs::mknodat(CWD, &file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(refused().contains("no regular file"), "{}", refused());
    }

    #[test]
    fn no_two_authorities_or_keys_are_the_same() {
        let (a, b) = (Authority::fresh().unwrap(), Authority::fresh().unwrap());
        assert_ne!(a.certificate, b.certificate);
        assert_ne!(a.client().unwrap().key, a.client().unwrap().key);
    }
}
