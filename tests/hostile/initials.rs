//! Real first flights of QUIC clients, caught before anyone answers: what half-open handshakes are made of.

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::TLS13;
use std::collections::HashMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// One client's first flight: its datagrams.
pub(crate) type Flight = Vec<Vec<u8>>;

/// Starts that many handshakes against a port of our own, and keeps what arrives.
///
/// # Panics
/// When not all of them arrive: the machine drops datagrams on loopback.
pub(crate) fn capture(count: usize) -> Vec<Flight> {
    let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP port on loopback");
    sink.set_read_timeout(Some(Duration::from_millis(300)))
        .expect("a socket of our own");
    let to = sink.local_addr().expect("a bound socket has an address");
    let reader = std::thread::spawn(move || read_flights(&sink));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a UDP port on loopback");
        let config = client_config();
        let mut handshakes = vec![];
        for _ in 0..count {
            handshakes.push(
                endpoint
                    .connect_with(config.clone(), to, "stranger")
                    .expect("a fair configuration"),
            );
            // Lets the endpoint send before the next one starts.
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    });
    let flights = reader.join().expect("the reader does not panic");
    assert!(
        flights.len() >= count / 2,
        "only {} of {count} handshakes arrived",
        flights.len()
    );
    flights
}

/// Reads until nothing has come for a while; datagrams belong together by their destination connection id.
fn read_flights(sink: &UdpSocket) -> Vec<Flight> {
    let mut flights: HashMap<Vec<u8>, Flight> = HashMap::new();
    let mut buffer = [0; 2048];
    while let Ok(length) = sink.recv(&mut buffer) {
        // RFC 9000 section 17.2: first byte, version, length of the id, the id.
        let id_length = usize::from(buffer[5]);
        let flight = flights.entry(buffer[6..6 + id_length].to_vec()).or_default();
        // Two datagrams hold any client hello of ours; what comes later is repetition.
        if flight.len() < 2 {
            flight.push(buffer[..length].to_vec());
        }
    }
    flights.into_values().collect()
}

fn client_config() -> ClientConfig {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3 is in the provider");
    let mut tls = builder
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"bowline/1".to_vec()];
    ClientConfig::new(Arc::new(
        QuicClientConfig::try_from(tls).expect("a TLS 1.3 suite for QUIC"),
    ))
}
