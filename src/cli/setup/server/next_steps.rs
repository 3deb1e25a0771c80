//! What remains to be done by hand, as lines to copy.

use super::ServerSettings;
use crate::cli::serve::ServeSettings;
use crate::cli::setup::say;
use crate::server::handover::Protocol;
use crate::wire::Escaped;
use std::process::{Command, Stdio};

/// One that clients have to reach.
type Port = (Protocol, u16);

/// Each once.
fn ports(serve: &ServeSettings, sshd: u16) -> Vec<Port> {
    let mut ports = Vec::new();
    for endpoint in serve.endpoints(sshd) {
        let port = (endpoint.protocol, endpoint.address.port());
        if !endpoint.address.ip().is_loopback() && !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

/// After an installation beside an sshd, or where it would be.
pub(super) fn print(settings: &ServerSettings, has_sshd: bool, port: u16) {
    let mut text = String::from("\n");
    if settings.has_systemd() && is_running("bowline.service") {
        text += "The service is already running. To apply the settings without ending sessions:\n";
        if has_sshd {
            text += &reload_sshd(settings);
        }
        text += "    systemctl reload bowline\n";
    } else if settings.has_systemd() {
        text += "To start the service now and at every boot:\n";
        if has_sshd {
            text += &reload_sshd(settings);
        }
        text += "    systemctl enable --now bowline\n";
    } else if settings.is_here() {
        text += "This machine does not run systemd: start `bowline serve` like its other daemons, and reload sshd.\n";
    } else {
        let root = settings.root.display();
        text += &format!("To start the service at every boot:\n    systemctl --root={root} enable bowline\n");
    }
    text += &firewall(&ports(&settings.serve, port), settings.is_here());
    text += "Then, on a client: bowline check HOST\n";
    say(&text);
}

/// After `--undo`.
pub(super) fn print_after_removal(settings: &ServerSettings, from_sshd: bool) {
    if from_sshd {
        say("sshd keeps these settings until it is reloaded:\n");
        say(&reload_sshd(settings));
    }
    say(
        "Files in /etc/bowline and /var/lib/bowline are kept, and so is the user bowline if it exists;\n\
         userdel bowline removes it.\n",
    );
}

/// With commands for this machine's own, where it is the one that is prepared.
fn firewall(ports: &[Port], is_here: bool) -> String {
    let mut text = String::new();
    for (protocol, port) in ports {
        let (name, lower) = match protocol {
            Protocol::Udp => ("UDP", "udp"),
            Protocol::Tcp => ("TCP", "tcp"),
        };
        text += &format!("Open {name} port {port} in every firewall that your network or provider may have");
        text += &match is_here {
            true => format!(
                "; on this machine with one of:\n    \
                 ufw allow {port}/{lower}\n    \
                 firewall-cmd --permanent --add-port={port}/{lower} && firewall-cmd --reload\n    \
                 nft insert rule inet filter input {lower} dport {port} accept\n"
            ),
            false => ".\n".to_owned(),
        };
    }
    text
}

/// Debian calls it `ssh`, others `sshd`. Where systemd listens for it, it may not run just now. Which unit is that of an sshd
/// with a configuration of its own is not to be known.
fn reload_sshd(settings: &ServerSettings) -> String {
    if let Some(config) = &settings.serve.sshd_config {
        return format!("    (reload the sshd that uses {})\n", config.display());
    }
    let name = match settings.packaged_unit("ssh.service") {
        Some(_) => "ssh",
        None => "sshd",
    };
    format!("    systemctl try-reload-or-restart {name}\n")
}

/// Of a unit that has no process and gets none by itself, in the words of `systemctl is-active`.
const INACTIVE_STATES: [&str; 3] = ["inactive", "failed", "unknown"];

/// Runs a tool of systemd's. That it fails is told, and is no reason to stop: the files are right.
pub(super) fn tool(program: &str, arguments: &[&str]) {
    if let Err(said) = run(program, arguments) {
        tell_failure(program, arguments, &said);
    }
}

/// Whether a unit runs now, is about to, or is about to end: whoever starts it by hand need not have it enabled. Where
/// systemd does not answer, that is told, and it is taken not to.
pub(super) fn is_running(unit: &str) -> bool {
    let arguments = ["is-active", unit];
    // It fails for each that is not active, and names the state all the same.
    let (state, said) = match output("systemctl", &arguments) {
        Ok((_, state, said)) => (state, said),
        Err(error) => (String::new(), error.to_string()),
    };
    if state.is_empty() {
        tell_failure("systemctl", &arguments, &said);
        return false;
    }
    !INACTIVE_STATES.contains(&state.as_str())
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    match output(program, arguments) {
        Ok((true, _, _)) => Ok(()),
        Ok((false, _, said)) => Err(said),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether it succeeds, and what it says on stdout and stderr.
fn output(program: &str, arguments: &[&str]) -> std::io::Result<(bool, String, String)> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
}

fn tell_failure(program: &str, arguments: &[&str], said: &str) {
    say(&format!(
        "note: {program} {} failed: {}\n",
        arguments.join(" "),
        Escaped(said)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_gets_a_line_for_each_firewall() {
        let text = firewall(&[(Protocol::Udp, 22), (Protocol::Tcp, 443)], true);
        assert!(
            text.contains("Open UDP port 22 ") && text.contains("Open TCP port 443 "),
            "{text}"
        );
        for line in [
            "ufw allow 22/udp",
            "--add-port=443/tcp && ",
            "input udp dport 22 accept",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
