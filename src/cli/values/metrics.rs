//! Where metrics are served.

use std::net::{Ipv4Addr, SocketAddr};

use super::{Value, ValueError};

/// An address of this machine that no other reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MetricsAddress(pub(crate) SocketAddr);

impl Value for MetricsAddress {
    const EXPECTED: &'static str = "a loopback address and a port, such as 127.0.0.1:9470";

    fn parse(text: &str) -> Result<Self, ValueError> {
        let port = text.strip_prefix(':').unwrap_or(text).parse();
        let address = match port {
            Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            Err(_) => text.parse().map_err(|_| Self::misspelt())?,
        };
        match address.ip().is_loopback() {
            true => Ok(MetricsAddress(address)),
            false => Err(ValueError::NotLoopback { address: address.ip() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_told() {
        let parse = |text: &str| MetricsAddress::parse(text).map(|address| address.0.to_string());
        for (text, address) in [
            ("127.0.0.1:9470", "127.0.0.1:9470"),
            ("[::1]:9470", "[::1]:9470"),
            (":9470", "127.0.0.1:9470"),
            ("9470", "127.0.0.1:9470"),
        ] {
            assert_eq!(parse(text).unwrap(), address);
        }
        let refused = parse("0.0.0.0:9470").unwrap_err().to_string();
        assert!(refused.contains("0.0.0.0 is not a loopback address"), "{refused}");
        assert!(parse("192.0.2.1:9470").is_err() && parse("localhost").is_err());
    }
}
