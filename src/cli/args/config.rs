//! Arguments of `bowline config`.

use clap::Args;

use super::parse;
use crate::cli::values::Destination;

/// What `bowline config --help` says first.
pub(super) const ABOUT: &str = "Show the effective settings, and where each comes from: an option, an environment variable, a \
line of bowline.toml, or the default. With HOST: the settings of proxy, ssh and check for that host, including the tables whose \
patterns match it. Without HOST: also the settings of serve, relay and sshd. The output is a valid bowline.toml(5). Passwords \
in proxy URLs are left out.

If you ask for the settings of one command only and they contradict each other, config reports that and exits with 64, as that \
command would. You can use this to test a change before you reload the service.";

/// `bowline config`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Example:\n  bowline config build.example.org")]
pub(in crate::cli) struct ConfigArgs {
    /// Host as you pass it to ssh
    #[arg(value_name = "[USER@]HOST", value_parser = parse::<Destination>)]
    pub(in crate::cli) destination: Option<Destination>,
    /// Show only the settings of serve
    #[arg(long, group = "command", conflicts_with = "destination")]
    pub(in crate::cli) serve: bool,
    /// Show only the settings of relay
    #[arg(long, group = "command", conflicts_with = "destination")]
    pub(in crate::cli) relay: bool,
    /// Show only the settings of sshd
    #[arg(long, group = "command", conflicts_with = "destination")]
    pub(in crate::cli) sshd: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
