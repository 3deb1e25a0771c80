//! Arguments of `bowline setup`.

use std::path::PathBuf;

use clap::Args;

use super::parse;
use crate::cli::values::HostPattern;

/// What `bowline setup --help` says first.
pub(super) const ABOUT: &str = "Configure ssh, and every program that runs ssh, to connect to these hosts over bowline. Setup \
puts a marked block at the top of ~/.ssh/config, because the first value that ssh reads takes effect. Then it asks ssh whether \
the block takes effect.

With --server: prepare this machine as a server. Setup installs the systemd unit, the user that the worker runs as, and \
settings for sshd, which would otherwise end sessions during an outage. It does not enable or start the service or open a \
port; it prints the commands for that. If bowline.toml names another sshd (target, sshd-binary, sshd-config), setup uses that \
one. The settings for sshd always go to /etc/ssh/sshd_config.d.

Setup shows every change as a diff, and makes it only if you answer yes or give --yes. --undo removes what setup has added. It keeps a file that \
was changed since, and it keeps all files if the server half is enabled or running.

Exit code: 0: done, or nothing to do; 64: there is no terminal to ask on and no --yes, or the service is in use; 69: done, but \
ssh does not use it; 73: a file cannot be written; 77: permission denied; 130: you answered no.";

/// `bowline setup`.
#[derive(Debug, Clone, Default, Args)]
#[command(
    after_help = "Examples:\n  bowline setup build.example.org\n  bowline setup '*.example.org' '!old.example.org'\n  \
                  sudo bowline setup --server",
    override_usage = "bowline setup [OPTIONS] <HOST>...\n       bowline setup [OPTIONS] --server"
)]
pub(in crate::cli) struct SetupArgs {
    /// Host names as you pass them to ssh, or patterns as in ssh's `Host` lines
    #[arg(value_name = "HOST", required_unless_present = "server", conflicts_with = "server", value_parser = parse::<HostPattern>)]
    pub(in crate::cli) hosts: Vec<HostPattern>,
    /// Prepare this machine as a server instead
    #[arg(long)]
    pub(in crate::cli) server: bool,
    /// Remove what setup has added
    #[arg(long)]
    pub(in crate::cli) undo: bool,
    /// Make the changes without asking
    #[arg(short, long)]
    pub(in crate::cli) yes: bool,
    /// Show the changes without making them
    #[arg(long, conflicts_with = "yes")]
    pub(in crate::cli) dry_run: bool,
    /// Write the block to this ssh configuration file [default: ~/.ssh/config]
    ///
    /// If ssh reads this file only with -F, the ProxyCommand in the block passes the same -F to bowline.
    #[arg(short = 'F', long, value_name = "FILE", env = "BOWLINE_SSH_CONFIG")]
    pub(in crate::cli) ssh_config: Option<PathBuf>,
    /// With --server: prepare the system below this folder, such as a mounted image
    #[arg(long, value_name = "DIR", requires = "server")]
    pub(in crate::cli) root: Option<PathBuf>,
}
