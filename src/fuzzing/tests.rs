//! Seeds, and inputs near them, break no promise.

#[path = "../../fuzz/replay.rs"]
mod replay;

use super::*;
use replay::replay;

#[test]
fn authorized_keys_near_its_seeds() {
    replay("authorized_keys", authorized_keys);
}

#[test]
fn bowline_toml_near_its_seeds() {
    replay("bowline_toml", bowline_toml);
}

#[test]
fn control_requests_near_its_seeds() {
    replay("control_requests", control_requests);
}

#[test]
fn http_connect_near_its_seeds() {
    replay("http_connect", http_connect);
}

#[test]
fn keeper_messages_near_its_seeds() {
    replay("keeper_messages", keeper_messages);
}

#[test]
fn known_hosts_near_its_seeds() {
    replay("known_hosts", known_hosts);
}

#[test]
fn session_record_near_its_seeds() {
    replay("session_record", session_record);
}

#[test]
fn signatures_near_its_seeds() {
    replay("signatures", signatures);
}

#[test]
fn socks5_near_its_seeds() {
    replay("socks5", socks5);
}

#[test]
fn srv_answer_near_its_seeds() {
    replay("srv_answer", srv_answer);
}

#[test]
fn ssh_g_near_its_seeds() {
    replay("ssh_g", ssh_g);
}

#[test]
fn sshd_t_near_its_seeds() {
    replay("sshd_t", sshd_t);
}
