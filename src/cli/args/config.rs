//! Arguments of `bowline config`.

use clap::Args;

/// What `bowline config --help` says first.
pub(super) const ABOUT: &str = "Show the settings that count, and where each came from: an environment variable, a line of \
bowline.toml, or the default. With HOST those of proxy, ssh and check for that host, with the tables of its patterns; without, \
those of serve, relay and sshd too. What is printed is in the form of bowline.toml(5). Passwords in a proxy's URL are left out.";

/// `bowline config`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Example:\n  bowline config build.example.org")]
pub(in crate::cli) struct ConfigArgs {
    /// The host, as ssh is given it
    #[arg(value_name = "HOST")]
    pub(in crate::cli) host: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
