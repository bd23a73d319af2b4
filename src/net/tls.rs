//! TLS 1.3 with raw public keys (RFC 7250): both sides show an Ed25519 key, no certificate exists.
//!
//! The dialer pins the key of the replica it dials inside TLS. The acceptor lets TLS prove possession of whatever Ed25519 key is
//! shown, and decides at HELLO whether that key may be who it says: so a wrong key gets an answer that can be read.
//! No resumption, no early data, no TLS 1.2, no renegotiation (TLS 1.3 has none); rustls bounds key updates and empty records.

use crate::identity::{self, Identity, PublicKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::ring::{self, cipher_suite};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved,
    ServerConfig, SignatureScheme,
};
use std::sync::Arc;

/// Makes the TLS side of a link.
#[derive(Clone)]
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// Errors: rustls refuses the key or the suites, which only a wrong build does.
    pub(super) fn new(identity: &Identity) -> Result<Self, Error> {
        let provider = Arc::new(CryptoProvider {
            // Fastest first where the processor has AES; the dialer's order decides.
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![ring::kx_group::X25519],
            ..ring::default_provider()
        });
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(identity.pkcs8().to_vec()));
        let private = provider.key_provider.load_private_key(private)?;
        let public = CertificateDer::from(identity::spki(&identity.public_key()).to_vec());
        let key = Arc::new(CertifiedKey::new(vec![public], private));

        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(AnyKey { provider: provider.clone() }))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(key.clone())));
        server.send_tls13_tickets = 0;
        Ok(Self { provider, key, server: Arc::new(server) })
    }

    /// The dialing side towards the owner of `pinned`.
    pub(super) fn dial_config(&self, pinned: PublicKey) -> Result<Arc<ClientConfig>, Error> {
        let verifier = PinnedKey { provider: self.provider.clone(), spki: identity::spki(&pinned) };
        let mut client = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.key.clone())));
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        Ok(Arc::new(client))
    }

    pub(super) fn dial(config: Arc<ClientConfig>) -> Result<rustls::Connection, Error> {
        let name = ServerName::try_from("duramen").expect("a valid name, never sent");
        Ok(rustls::ClientConnection::new(config, name)?.into())
    }

    pub(super) fn accept(&self) -> Result<rustls::Connection, Error> {
        Ok(rustls::ServerConnection::new(self.server.clone())?.into())
    }
}

/// The Ed25519 key the other side proved to own; `None` before the handshake is over.
pub(super) fn peer_key(tls: &rustls::Connection) -> Option<PublicKey> {
    if tls.is_handshaking() {
        return None;
    }
    identity::key_of_spki(tls.peer_certificates()?.first()?)
}

#[derive(Debug)]
struct PinnedKey {
    provider: Arc<CryptoProvider>,
    spki: [u8; 44],
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // Public keys are public: nothing is learned from how long the comparison takes.
        if end_entity[..] == self.spki && intermediates.is_empty() {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13(&self.provider, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct AnyKey {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if identity::key_of_spki(end_entity).is_some() && intermediates.is_empty() {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(CertificateError::BadEncoding.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13(&self.provider, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn verify_tls13(
    provider: &CryptoProvider,
    message: &[u8],
    key: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    if dss.scheme != SignatureScheme::ED25519 {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    let spki = SubjectPublicKeyInfoDer::from(key.as_ref());
    verify_tls13_signature_with_raw_key(message, &spki, dss, &provider.signature_verification_algorithms)
}
