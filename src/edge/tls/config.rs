//! Config: what rustls is told: TLS 1.3 alone, certificates on both sides, nothing that outlives a connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};

use super::session::{Session, refusal};
use super::{Shaken, shake};
use crate::edge::identity::Identity;
use crate::edge::net::Socket;

/// Makes the handshakes of one identity, in both roles. Cloning it is cheap.
#[derive(Clone)]
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// Prepares handshakes with what is in `identity`.
    ///
    /// # Errors
    /// If that is no certificate, or the key is not the certificate's.
    pub fn new(identity: &Identity) -> anyhow::Result<Tls> {
        let build = || -> Result<Tls, rustls::Error> {
            let provider = Arc::new(provider());
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(identity.authority.to_vec()))?;
            let roots = Arc::new(roots);
            let chain = vec![CertificateDer::from(identity.certificate.to_vec())];
            // Read where it is: what rustls takes for its own, it does not wipe. Keys of identities are ECDSA's.
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(identity.key.as_slice()));
            let proof = CertifiedKey::new(chain, ring::sign::any_ecdsa_type(&key)?);
            proof.keys_match()?;
            let proof = Arc::new(SingleCertAndKey::from(proof));
            let mut client = ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_root_certificates(roots.clone())
                .with_client_cert_resolver(proof.clone());
            client.resumption = Resumption::disabled();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            let mut server = ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_client_cert_verifier(verifier)
                .with_cert_resolver(proof);
            // A side that writes only would have its connection reset for tickets that it never reads, and the end of
            // its stream be lost.
            server.send_tls13_tickets = 0;
            server.session_storage = Arc::new(NoServerSessionStorage {});
            Ok(Tls { client: Arc::new(client), server: Arc::new(server) })
        };
        build().context("the identity is damaged")
    }

    /// Lets the keys of connections be had, for tests that play a peer who seals what rustls never would.
    #[cfg(test)]
    pub fn extracting(mut self) -> Tls {
        Arc::make_mut(&mut self.client).enable_secret_extraction = true;
        self
    }

    /// Shakes hands with who was connected to, who must be `name`.
    ///
    /// # Errors
    /// If it is not.
    pub fn connect(&self, socket: &Socket, name: &str, limit: Duration) -> io::Result<Shaken> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| io::Error::other(format!("{name:?} is no name of a worker")))?;
        let session = UnbufferedClientConnection::new(self.client.clone(), name).map_err(refusal)?;
        shake(Session::Client(session), socket, limit)
    }

    /// Shakes hands with who has connected.
    ///
    /// # Errors
    /// If it has no certificate of the cluster.
    pub fn accept(&self, socket: &Socket, limit: Duration) -> io::Result<Shaken> {
        let session = UnbufferedServerConnection::new(self.server.clone()).map_err(refusal)?;
        shake(Session::Server(session), socket, limit)
    }
}

/// The cipher that this processor is quickest with goes first.
fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    let wanted = if knows_aes() { AES_FIRST } else { CHACHA_FIRST };
    provider.cipher_suites.sort_by_key(|suite| wanted.iter().position(|wanted| *wanted == suite.suite()));
    provider
}

const AES_FIRST: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

const CHACHA_FIRST: [CipherSuite; 3] = [
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
];

/// Tells whether the processor has instructions for AES-GCM.
fn knows_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}
