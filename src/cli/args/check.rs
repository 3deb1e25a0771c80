//! Arguments of `bowline check`.

use clap::Args;

use super::ProxyArgs;

/// `bowline check`.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct CheckArgs {
    /// Whom to reach, as for `proxy`.
    #[command(flatten)]
    pub(in crate::cli) proxy: ProxyArgs,
    /// Print one JSON document instead of the table
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
