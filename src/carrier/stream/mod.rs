//! Byte streams to a TLS port that cannot be connected to directly: through a proxy or a program.
//!
//! They provide no security; the carrier's TLS does.

mod command;
mod command_line;
mod proxy;

pub use command::{CommandError, CommandStream, StderrTail};
pub use command_line::{CommandLine, InvalidHost};
#[cfg(any(test, fuzzing))]
pub(crate) use proxy::fuzzing;
pub use proxy::{
    EnvironmentError, Proxy, ProxyError, ProxyFault, ProxyRules, ProxyUrlError, SocksReply, connect, masked,
};
