//! Arguments of `bowline config`.

use clap::Args;

use super::parse;
use crate::cli::values::Destination;

/// What `bowline config --help` says first.
pub(super) const ABOUT: &str = "Show the settings that count, and where each came from: an environment variable, a line of \
bowline.toml, or the default. With HOST those of proxy, ssh and check for that host, with the tables of its patterns; without, \
those of serve, relay and sshd too. What is printed is in the form of bowline.toml(5). Passwords in a proxy's URL are left out.

Where only one command's settings are asked for, and they contradict each other, it says so and exits with 64, as that command \
would: a way to try a change before a reload.";

/// `bowline config`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Example:\n  bowline config build.example.org")]
pub(in crate::cli) struct ConfigArgs {
    /// The host, as ssh is given it
    #[arg(value_name = "[USER@]HOST", value_parser = parse::<Destination>)]
    pub(in crate::cli) destination: Option<Destination>,
    /// Only those of serve
    #[arg(long, group = "command", conflicts_with = "destination")]
    pub(in crate::cli) serve: bool,
    /// Only those of relay
    #[arg(long, group = "command", conflicts_with = "destination")]
    pub(in crate::cli) relay: bool,
    /// Only those of sshd
    #[arg(long, group = "command", conflicts_with = "destination")]
    pub(in crate::cli) sshd: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
