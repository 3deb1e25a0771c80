//! What remains to be done by hand, as lines to copy.

use super::ServerSettings;
use super::systemd::is_running;
use crate::cli::serve::ServeSettings;
use crate::cli::setup::say;
use crate::server::handover::Protocol;

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
