//! Why sshd cannot see clients' own addresses, and what to change.

use super::{Exit, Failure};
use crate::server::client_address::SetUpError;
use crate::wire::ErrorChain;

/// They were asked for.
pub(crate) fn no_client_addresses(error: &SetUpError) -> Failure {
    let cause = ErrorChain(error);
    let failure = Failure::new(
        Exit::Unavailable,
        "cannot show sshd the clients' own addresses (--client-address real)",
    );
    failure.fact(cause).hint(client_address_hint(error))
}

/// What to change.
pub(crate) fn client_address_hint(error: &SetUpError) -> &'static str {
    match error {
        SetUpError::NotAllowed => {
            "start bowline serve as root with CAP_NET_ADMIN; in a unit: CapabilityBoundingSet=CAP_NET_ADMIN .. and \
             RestrictAddressFamilies=AF_NETLINK .."
        }
        SetUpError::Kernel { .. } => "the kernel needs CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES",
        SetUpError::Sysctl(_) => {
            "set net.ipv4.tcp_fwmark_accept=1 in /etc/sysctl.d, or let the unit write it: \
             ReadWritePaths=/proc/sys/net/ipv4/tcp_fwmark_accept and ProcSubset=all"
        }
        SetUpError::Taken { .. } => "give the other rule a priority number above 22, or another mark than 0xb0",
        SetUpError::OthersRules { .. } => {
            "if these rules may apply to accepted connections too, use --client-address real"
        }
        SetUpError::NoAnswer { .. } => {
            "if a firewall is active, let it accept packets on lo from every source address (nft: iif lo \
             accept); or sshd may hang"
        }
        SetUpError::Elsewhere { .. } => "run bowline serve on the machine where sshd is",
    }
}
