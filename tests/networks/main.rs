//! Sessions through networks that treat packets differently: a router between client and server,
//! with nftables rules, MTUs and NAT.
//!
//! Needs root, `ip` and `nft`; without root each test prints on standard error that it was skipped.
//! Figures are printed.

#[path = "../scenarios/mod.rs"]
mod scenarios;
#[path = "../support/mod.rs"]
mod support;

mod growth;
mod gso;
mod mtu_changes;
mod obstacles;
mod paced_transfer;
#[allow(dead_code, reason = "the suite `endurance` uses the rest")]
mod routed;
