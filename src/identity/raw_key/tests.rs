use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use parking_lot::Mutex;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, NamedGroup, ServerConfig, ServerConnection};

use super::*;
use crate::wire::ALPN;

#[test]
fn the_spki_is_the_one_that_rustls_derives() {
    let key = TlsKey::generate();
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(key.to_pkcs8());
    let signer = rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&der).unwrap();
    assert_eq!(signer.public_key().unwrap().as_ref(), key.spki());
    assert!(is_tls_key(key.spki()));
    assert_eq!(TlsKey::from_pkcs8(key.to_pkcs8()).unwrap().spki(), key.spki());
}

#[test]
fn debug_output_has_no_private_bytes() {
    let key = TlsKey::generate();
    let seed = format!("{:?}", &key.to_pkcs8()[16..48]);
    assert!(!format!("{key:?}").contains(seed.trim_matches(['[', ']'])));
}

#[test]
fn key_file_is_created_once_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tls.key");
    let first = TlsKey::load_or_create(&path).unwrap();
    let second = TlsKey::load_or_create(&path).unwrap();
    assert_eq!(first.spki(), second.spki());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn processes_that_make_the_file_at_once_agree_on_one_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tls.key");
    let winner = TlsKey::load_or_create(&path).unwrap();
    let late = file_create_again(&path);
    assert_eq!(late.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(TlsKey::load_or_create(&path).unwrap().spki(), winner.spki());
}

fn file_create_again(path: &std::path::Path) -> std::io::Result<()> {
    crate::atomic_file::create_synced(path, TlsKey::generate().to_pkcs8())
}

#[test]
fn damaged_shared_or_odd_key_files_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tls.key");
    let write = |content: &[u8], mode| {
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let result = TlsKey::load_or_create(&path);
        assert_eq!(std::fs::read(&path).unwrap(), content);
        result.unwrap_err()
    };
    let good = TlsKey::generate();
    assert!(matches!(write(b"", 0o600), KeyFileError::Damaged { .. }));
    assert!(matches!(
        write(&good.to_pkcs8()[..40], 0o600),
        KeyFileError::Damaged { .. }
    ));
    assert!(matches!(write(&[7; 100_000], 0o600), KeyFileError::Damaged { .. }));
    assert!(matches!(
        write(good.to_pkcs8(), 0o640),
        KeyFileError::Mode { mode: 0o640, .. }
    ));

    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(TlsKey::load_or_create(&link), Err(KeyFileError::Read { .. })));
    assert!(matches!(
        TlsKey::load_or_create(folder.path()),
        Err(KeyFileError::NotAFile { .. })
    ));
    let nowhere = folder.path().join("absent/tls.key");
    assert!(matches!(
        TlsKey::load_or_create(&nowhere),
        Err(KeyFileError::Write { .. })
    ));
}

#[test]
fn the_handshake_agrees_on_the_hybrid_group_and_issues_no_ticket() {
    let (client_key, server_key) = (TlsKey::generate(), TlsKey::generate());
    let tickets = Arc::new(TicketCounter::default());
    let mut config = client_config(&client_key, ServerKey::Exactly(server_key.spki().to_vec()), ALPN).unwrap();
    config.resumption = Resumption::store(tickets.clone());
    let (client, server) = handshake(config, server_config(&server_key, ALPN).unwrap()).unwrap();

    let group = client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    assert_eq!(client.alpn_protocol(), Some(ALPN));
    assert_eq!(identity(client.peer_certificates().unwrap()), server_key.spki());
    assert_eq!(identity(server.peer_certificates().unwrap()), client_key.spki());
    assert_eq!(*tickets.0.lock(), 0);

    let ours = client
        .export_keying_material([0; 32], b"EXPORTER-test", Some(b""))
        .unwrap();
    let theirs = server
        .export_keying_material([0; 32], b"EXPORTER-test", Some(b""))
        .unwrap();
    assert_eq!(ours, theirs);
}

#[test]
fn key_other_than_the_pinned_one_fails_the_handshake() {
    let pinned = ServerKey::Exactly(TlsKey::generate().spki().to_vec());
    let config = client_config(&TlsKey::generate(), pinned, ALPN).unwrap();
    assert!(handshake(config, server_config(&TlsKey::generate(), ALPN).unwrap()).is_err());
}

#[test]
fn a_key_that_is_pinned_by_its_digest_is_the_only_one_accepted() {
    let key = TlsKey::generate();
    let attempt = |server: &TlsKey| {
        let pinned = ServerKey::Digest(spki_digest(key.spki()));
        let config = client_config(&TlsKey::generate(), pinned, ALPN).unwrap();
        handshake(config, server_config(server, ALPN).unwrap())
    };
    assert!(attempt(&key).is_ok());
    assert!(attempt(&TlsKey::generate()).is_err());
}

#[test]
fn a_peer_that_shows_a_key_it_does_not_hold_fails_the_handshake() {
    let shown = TlsKey::generate();
    let held = TlsKey::generate();
    let impostor = TlsKey {
        pkcs8: held.pkcs8.clone(),
        spki: shown.spki,
    };
    let honest = TlsKey::generate();
    let pinned = || ServerKey::Exactly(shown.spki().to_vec());

    let as_server = handshake(
        client_config(&honest, pinned(), ALPN).unwrap(),
        server_config(&impostor, ALPN).unwrap(),
    );
    assert!(as_server.is_err());
    let as_client = handshake(
        client_config(&impostor, ServerKey::Any, ALPN).unwrap(),
        server_config(&honest, ALPN).unwrap(),
    );
    assert!(as_client.is_err());
    assert!(
        handshake(
            client_config(&honest, pinned(), ALPN).unwrap(),
            server_config(&shown, ALPN).unwrap()
        )
        .is_ok()
    );
}

#[test]
fn a_client_without_a_key_or_without_our_alpn_is_refused() {
    let server = || server_config(&TlsKey::generate(), ALPN).unwrap();
    let mut keyless = client_config(&TlsKey::generate(), ServerKey::Any, ALPN).unwrap();
    keyless.client_auth_cert_resolver = Arc::new(NoKey);
    assert!(handshake(keyless, server()).is_err());
    let mut other_protocol = client_config(&TlsKey::generate(), ServerKey::Any, ALPN).unwrap();
    other_protocol.alpn_protocols = vec![b"h3".to_vec()];
    assert!(handshake(other_protocol, server()).is_err());
}

#[tokio::test]
async fn over_quic_the_first_flight_carries_data_and_both_ends_know_each_other() {
    let (client_key, server_key) = (TlsKey::generate(), TlsKey::generate());
    let server = listen(&server_key);
    let address = server.local_addr().unwrap();
    let accept = async {
        let (connection, established) = server
            .accept()
            .await
            .unwrap()
            .accept()
            .unwrap()
            .into_0rtt()
            .ok()
            .unwrap();
        // This is the first flight: the client has not answered yet.
        assert!(connection.peer_identity().is_none());
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(b"statements").await.unwrap();
        stream.finish().unwrap();
        established.await;
        connection
    };
    let config = client_config(&client_key, ServerKey::Any, ALPN).unwrap();
    let dial = async {
        let connection = dial(config, address).await.unwrap();
        let mut stream = connection.accept_uni().await.unwrap();
        assert_eq!(stream.read_to_end(100).await.unwrap(), b"statements");
        connection
    };
    let (accepted, dialled) = tokio::join!(accept, dial);

    assert_eq!(quic_identity(&accepted), client_key.spki());
    assert_eq!(quic_identity(&dialled), server_key.spki());
    let (mut ours, mut theirs) = ([0; 32], [1; 32]);
    dialled
        .export_keying_material(&mut ours, b"EXPORTER-test", b"")
        .unwrap();
    accepted
        .export_keying_material(&mut theirs, b"EXPORTER-test", b"")
        .unwrap();
    assert_eq!(ours, theirs);
}

#[tokio::test]
async fn over_quic_wrong_or_missing_keys_end_the_connection() {
    let server = listen(&TlsKey::generate());
    let address = server.local_addr().unwrap();
    let pinned = ServerKey::Exactly(TlsKey::generate().spki().to_vec());
    let wrong_pin = dial(client_config(&TlsKey::generate(), pinned, ALPN).unwrap(), address);
    let (dialled, accepted) = tokio::join!(wrong_pin, async { server.accept().await.unwrap().await });
    assert!(dialled.is_err() && accepted.is_err());

    let mut keyless = client_config(&TlsKey::generate(), ServerKey::Any, ALPN).unwrap();
    keyless.client_auth_cert_resolver = Arc::new(NoKey);
    let refused = async {
        // The client may finish first. Then the server's refusal closes its connection.
        match dial(keyless, address).await {
            Ok(connection) => drop(connection.closed().await),
            Err(_refused) => {}
        }
    };
    let ((), accepted) = tokio::join!(refused, async { server.accept().await.unwrap().await });
    assert!(accepted.is_err());
}

fn listen(key: &TlsKey) -> quinn::Endpoint {
    let tls = QuicServerConfig::try_from(server_config(key, ALPN).unwrap()).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

async fn dial(tls: ClientConfig, to: SocketAddr) -> Result<quinn::Connection, quinn::ConnectionError> {
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    endpoint.connect_with(config, to, "bowline").unwrap().await
}

fn quic_identity(connection: &quinn::Connection) -> Vec<u8> {
    let identity = connection.peer_identity().unwrap();
    identity_bytes(identity.downcast_ref::<Vec<CertificateDer<'static>>>().unwrap())
}

fn identity_bytes(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    assert_eq!(certificates.len(), 1);
    certificates[0].to_vec()
}

fn identity<'a>(certificates: &'a [CertificateDer<'_>]) -> &'a [u8] {
    assert_eq!(certificates.len(), 1);
    &certificates[0]
}

/// A complete TLS handshake in memory.
fn handshake(
    client: ClientConfig,
    server: ServerConfig,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from("bowline").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    let mut wire = Vec::new();
    // Each iteration carries one flight each way. A handshake takes two; tickets would come in the
    // third.
    for _ in 0..4 {
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets()?;
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets()?;
        }
        wire.clear();
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

#[derive(Debug)]
struct NoKey;

impl rustls::client::ResolvesClientCert for NoKey {
    fn resolve(
        &self,
        _root_hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[derive(Debug, Default)]
struct TicketCounter(Mutex<usize>);

impl ClientSessionStore for TicketCounter {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        *self.0.lock() += 1;
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}
