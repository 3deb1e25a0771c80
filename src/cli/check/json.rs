//! The report for programs: one document.
//!
//! ```text
//! version      1; grows only if a field changes its meaning or goes
//! host, user   as given, and as ssh -G says
//! works        whether a path works and ssh can use it, which is whether the exit code is 0
//! over_bowline whether ssh itself, by its configuration, goes over bowline to the host
//! started      null, or the checked server half if bowline has started it over ssh: {version, udp, tls, fingerprint}
//! not_given    options in ssh's ProxyCommand that this check was not given
//! obstacle     null, or why ssh cannot use the paths: {message, hint}
//! problem      null, or why there are no paths: {diagnosis, message}
//! paths        [{path, kind, address, relay, handshake_ms, banner_ms, mtu, diagnosis, message, detail, hint,
//!                banner, banner_age_ms, server, known_host, all_keys_sign}], as they would be dialed
//! unresolved_relays  relays whose names cannot be resolved, with the reason
//! keys         the user's keys that were tried or left out, in words, if none was accepted on some path
//! asked_sshd   where sshd itself was connected to, without a login, because no path works: addresses with ports
//! limits       [{side, what, survives_s, after_login, fix, file}], the soonest first
//! sshd_known   whether sshd's settings are among the limits
//! client_address  which address sshd sees: real, loopback, or null if it is not known
//! survives_s   the outage that a session survives as far as is known, or null
//! ```

use std::time::Duration;

use serde_json::{Value, json};

use crate::carrier::Path;
use crate::client::check::{CheckedPath, Diagnosis};

use super::limits::other_way;
use super::limits::{Limit, survival};
use super::{Report, answer, words};

/// The document, and a line end.
pub(super) fn write(report: &Report<'_>) -> String {
    let paths = report.paths.unwrap_or_default();
    let problem = report
        .paths
        .err()
        .map(|error| json!({ "diagnosis": "name-unresolved", "message": format!("{error}: {}", error.source) }));
    let is_there = words::answers_quic(paths);
    let document = json!({
        "version": 1,
        "host": report.host,
        "user": report.ssh.user,
        "works": paths.iter().any(|path| path.diagnosis == Diagnosis::Works) && report.obstacle.is_none(),
        "over_bowline": other_way(report.ssh).is_none(),
        "started": report.started.map(|it| json!({
            "version": it.version,
            "udp": it.udp,
            "tls": it.tls,
            "fingerprint": it.fingerprint().map(|key| key.to_string()),
        })),
        "not_given": report.not_given,
        "obstacle": report.obstacle.as_ref().map(|it| json!({ "message": it.what, "hint": it.hint })),
        "problem": problem,
        "paths": paths.iter().map(|checked| path(checked, is_there)).collect::<Vec<_>>(),
        "unresolved_relays": report.unresolved_relays,
        "keys": report.keys,
        "asked_sshd": report.asked_sshd.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "limits": report.limits.iter().map(limit).collect::<Vec<_>>(),
        "sshd_known": answer(paths).is_some_and(|answer| answer.limits.is_some()),
        "client_address": answer(paths).map(|answer| if answer.shows_client { "real" } else { "loopback" }),
        "survives_s": survival(&report.limits).map(|time| time.as_secs()),
    });
    format!("{document:#}\n")
}

fn path(checked: &CheckedPath, is_there: bool) -> Value {
    let (kind, address, relay) = match &checked.path {
        Path::Quic(address) => ("quic", address.to_string(), None),
        Path::Tls(address) => ("tls", address.to_string(), None),
        Path::Proxied(proxied) => ("tls", format!("{}:{}", proxied.host, proxied.port), None),
        Path::Command(command) => ("command", command.name().to_owned(), None),
        Path::Relayed(relay, transport) => match transport {
            crate::carrier::via::RelayTransport::Quic => ("quic", relay.address.to_string(), Some(&*relay.name)),
            crate::carrier::via::RelayTransport::Tls => ("tls", relay.address.to_string(), Some(&*relay.name)),
        },
    };
    let answer = checked.answer.as_ref();
    json!({
        "path": checked.path.to_string(),
        "kind": kind,
        "address": address,
        "relay": relay,
        "handshake_ms": checked.handshake.map(milliseconds),
        "banner_ms": checked.banner.map(milliseconds),
        "mtu": checked.mtu,
        "diagnosis": checked.diagnosis.name(),
        "message": words::meaning(checked.diagnosis),
        "detail": checked.detail.as_deref(),
        "hint": words::advice(checked, is_there),
        "banner": answer.map(|answer| answer.banner.as_str()),
        "banner_age_ms": answer.map(|answer| answer.banner_age),
        "server": answer.map(|answer| answer.software.as_str()),
        "known_host": !checked.is_unknown_host,
        "all_keys_sign": checked.all_keys_sign,
    })
}

fn limit(limit: &Limit) -> Value {
    json!({
        "side": limit.side.name(),
        "what": limit.what,
        "survives_s": limit.survives.map(|time| time.as_secs()),
        "after_login": limit.after_login,
        "fix": limit.fix,
        "file": limit.file,
    })
}

/// To a tenth.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}
