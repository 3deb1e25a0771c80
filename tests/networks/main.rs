//! Sessions through networks that treat packets unlike: a router between client and server, with rules of nftables, MTUs and NAT.
//!
//! Needs root, `ip` and `nft`; without root each test says on standard error that it was skipped. Figures are printed.

#[path = "../scenarios/mod.rs"]
mod scenarios;
#[path = "../support/mod.rs"]
mod support;

mod growth;
mod joined;
mod moved;
mod obstacles;
mod paced;
#[allow(dead_code, reason = "the suite `endurance` uses the rest")]
mod routed;
