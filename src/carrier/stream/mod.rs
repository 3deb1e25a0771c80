//! Byte streams to a TLS listener where plain TCP does not lead there: through a proxy, or by any program.
//!
//! Bytes only: what is spoken over them, and that nobody in between can read it, is the carrier's.

mod command;
mod command_line;
mod proxy;

pub use command::{CommandError, CommandStream, LastWords};
pub use command_line::{CommandLine, NoHost};
pub use proxy::{
    EnvironmentError, Proxy, ProxyError, ProxyFault, ProxyRules, ProxyUrlError, SocksReply, connect, masked,
};
