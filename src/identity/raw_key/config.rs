//! TLS 1.3 configurations for two ends that authenticate by raw public keys.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group, sign};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig,
    SignatureScheme, version,
};

use super::{SPKI_LEN, SPKI_PREFIX, TlsKey, spki_digest};

/// Which server keys the handshake accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerKey {
    /// Any key: at an open, where the host statements that follow are checked. Until then the peer
    /// is not authenticated.
    Any,
    /// Only the key with this SPKI DER: at a resume.
    Exactly(Vec<u8>),
    /// Only a key with this [`spki_digest`]: a pinned relay.
    Digest([u8; 32]),
}

/// rustls rejected the configuration.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up TLS")]
pub struct TlsConfigError(#[from] rustls::Error);

/// TLS for the client half: authenticates with `key`, accepts server keys according to `accept`,
/// and offers only `alpn`.
///
/// TLS 1.3 with raw Ed25519 keys in both directions, X25519MLKEM768 first; no tickets, no
/// resumption, no early data, no server name. For `quinn::crypto::rustls::QuicClientConfig` and for
/// TLS over TCP.
///
/// # Errors
/// rustls rejects the provider or the key, which does not happen in a working build.
pub fn client_config(key: &TlsKey, accept: ServerKey, alpn: &[u8]) -> Result<ClientConfig, TlsConfigError> {
    let provider = Arc::new(provider());
    let verifier = ServerVerifier {
        accept,
        schemes: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(key)?)));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

/// TLS for the server half: authenticates with `key`, and requires any raw client key, which is the
/// client's identity.
///
/// As [`client_config`]. Over QUIC the server may send in its first flight (0.5-RTT), to a client
/// that is not authenticated yet.
///
/// # Errors
/// rustls rejects the provider or the key, which does not happen in a working build.
pub fn server_config(key: &TlsKey, alpn: &[u8]) -> Result<ServerConfig, TlsConfigError> {
    let provider = Arc::new(provider());
    let verifier = ClientVerifier {
        schemes: provider.signature_verification_algorithms,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified(key)?)));
    config.alpn_protocols = vec![alpn.to_vec()];
    // A resumed handshake would take the client's identity from the ticket, but each carrier must
    // prove both keys.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// Whether these bytes are the SPKI DER of an Ed25519 key, the only type of bowline's TLS keys.
#[must_use]
pub fn is_tls_key(spki: &[u8]) -> bool {
    spki.len() == SPKI_LEN && spki.starts_with(&SPKI_PREFIX)
}

/// The provider for both ends. Both are bowline, so that two groups are enough: the hybrid one, and
/// X25519 for a future in which the hybrid one must be disabled.
fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        ..default_provider()
    }
}

fn certified(key: &TlsKey) -> Result<Arc<CertifiedKey>, Error> {
    let private = sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(key.to_pkcs8()))?;
    let public = CertificateDer::from(key.spki().to_vec());
    Ok(Arc::new(CertifiedKey::new(vec![public], private)))
}

#[derive(Debug)]
struct ServerVerifier {
    accept: ServerKey,
    schemes: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        check_shape(end_entity, intermediates)?;
        let is_accepted = match &self.accept {
            ServerKey::Any => true,
            ServerKey::Exactly(spki) => spki[..] == end_entity[..],
            ServerKey::Digest(digest) => *digest == spki_digest(end_entity),
        };
        match is_accepted {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(cert.as_ref()),
            dss,
            &self.schemes,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct ClientVerifier {
    schemes: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        check_shape(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(cert.as_ref()),
            dss,
            &self.schemes,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Exactly one Ed25519 key in canonical encoding, so that keys can be compared as bytes.
fn check_shape(end_entity: &[u8], intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
    if is_tls_key(end_entity) && intermediates.is_empty() {
        Ok(())
    } else {
        Err(CertificateError::BadEncoding.into())
    }
}
