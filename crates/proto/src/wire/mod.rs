//! The wire format: ids, frames, hello messages, messages to relays, and their limits.
//!
//! Pure: bytes in, values out. No I/O, no clock. `PROTOCOL.md` gives the same in prose.

mod answer;
mod codec;
mod frame;
mod hello;
mod ids;
mod probe;
mod refusal;
mod relay;
mod text;

pub use answer::{Accepted, Answer};
pub use codec::DecodeError;
pub use frame::{CloseCode, DATA_HEAD, Frame, FrameReader, MAX_DATA};
pub use hello::{
    Authorization, Hello, Host, KeyQuery, MAX_AUTHORIZATIONS, MAX_FIRST, MAX_HELLO, MAX_KEY, MAX_SIGNATURE,
    MAX_STATEMENTS, Open, Reap, Resume, Statement, next_message,
};
pub use ids::{Epoch, Offset, SessionId};
pub use probe::{MAX_LIMITS, Probe, Probed, SshdLimit};
pub use refusal::{Code, Refusal, RefusalCode, RelayRefusalCode};
pub use relay::{DialToken, KeyDigest, MAX_FINGERPRINTS, RELAY_ALPN, RelayMessage, missing_bytes};
pub use text::{ErrorChain, Escaped, InvalidUserName, MAX_USER, PeerText, Quoting, UserName, error_texts, is_active};

/// The protocol version that this crate speaks.
pub const VERSION: u32 = 1;

/// The ALPN protocol name of version 1.
pub const ALPN: &[u8] = b"bowline/1";
