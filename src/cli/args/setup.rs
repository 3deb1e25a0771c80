//! Arguments of `bowline setup`.

use std::path::PathBuf;

use clap::Args;

use super::parse;
use crate::cli::values::HostPattern;

/// What `bowline setup --help` says first.
pub(super) const ABOUT: &str = "Have ssh, and all that uses it, go over bowline to these hosts: puts a marked block at the \
top of ~/.ssh/config, where it comes before all else, and asks ssh whether it counts.

With --server: prepare this machine as a server. Installs the systemd unit, the user of the worker, and settings that keep \
sshd from ending sessions in an outage. Enables, starts and opens nothing, and says how to and which port. What \
bowline.toml says of sshd (target, sshd-binary, sshd-config) counts here too; the settings go to /etc/ssh/sshd_config.d all \
the same.

Every change is shown as a diff first, and made only after a yes. --undo takes out what setup has put in; a file that somebody \
has changed since is kept, and a server half that is enabled or runs keeps all its files.

Exit code 0: done, or nothing to do; 64: nobody to ask, and no --yes, or the service is in use; 69: done, but ssh does \
not use it; 73: a file cannot be written; 77: not permitted; 130: the answer was no.";

/// `bowline setup`.
#[derive(Debug, Clone, Default, Args)]
#[command(
    after_help = "Examples:\n  bowline setup build.example.org\n  bowline setup '*.example.org' '!old.example.org'\n  \
                  sudo bowline setup --server",
    override_usage = "bowline setup [OPTIONS] <HOST>...\n       bowline setup [OPTIONS] --server"
)]
pub(in crate::cli) struct SetupArgs {
    /// Hosts as ssh is given them, or patterns as its `Host` takes them
    #[arg(value_name = "HOST", required_unless_present = "server", conflicts_with = "server", value_parser = parse::<HostPattern>)]
    pub(in crate::cli) hosts: Vec<HostPattern>,
    /// Prepare this machine as a server instead
    #[arg(long)]
    pub(in crate::cli) server: bool,
    /// Take out what setup has put in
    #[arg(long)]
    pub(in crate::cli) undo: bool,
    /// Ask nothing
    #[arg(short, long)]
    pub(in crate::cli) yes: bool,
    /// Show the changes and make none
    #[arg(long, conflicts_with = "yes")]
    pub(in crate::cli) dry_run: bool,
    /// Put the block into this ssh configuration [default: ~/.ssh/config]
    ///
    /// Where ssh reads it only by its own -F, the block names it for the proxy as well.
    #[arg(short = 'F', long, value_name = "FILE", env = "BOWLINE_SSH_CONFIG")]
    pub(in crate::cli) ssh_config: Option<PathBuf>,
    /// With --server: prepare the system in this folder, such as an image
    #[arg(long, value_name = "DIR", requires = "server")]
    pub(in crate::cli) root: Option<PathBuf>,
}
