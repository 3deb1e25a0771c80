//! `net.ipv4.tcp_fwmark_accept`: accepted connections inherit the mark of the packet that opened them, for IPv6 too.

use std::fs;
use std::io;

const FILE: &str = "/proc/sys/net/ipv4/tcp_fwmark_accept";

pub(super) fn is_on() -> io::Result<bool> {
    Ok(fs::read_to_string(FILE)?.trim() != "0")
}

pub(super) fn turn(on: bool) -> io::Result<()> {
    fs::write(FILE, if on { "1" } else { "0" })
}
