//! `bowline ssh --uninstall HOST`: removes the server half that was started there over ssh.

use std::ffi::OsString;

use tokio::runtime;

use super::{SshArguments, host_of};
use crate::cli::args::CommonArgs;
use crate::cli::bootstrap::{self, RecordFolder, login_arguments};
use crate::cli::places::Owner;
use crate::cli::report::{self, Exit, Failure, notice};
use crate::cli::settings::Context;
use crate::identity::ssh_config::{SshConfig, SshQuery};

/// Ends the process if all went well.
pub(super) fn run(arguments: Vec<OsString>, common: CommonArgs) -> Failure {
    let context = match Context::load(common, Owner::User) {
        Ok(context) => context,
        Err(error) => return error.into(),
    };
    let ssh = SshArguments::read(arguments);
    let Some(destination) = ssh.destination() else {
        return Failure::new(Exit::Usage, "--uninstall needs a host")
            .hint("bowline ssh --uninstall [USER@]HOST, with the options of ssh that lead there");
    };
    let host = host_of(destination);
    let running = async {
        let mut query = SshQuery::new(&host);
        query.arguments = ssh.raw().to_vec();
        let config = SshConfig::resolve(&query)
            .await
            .map_err(|error| report::no_ssh_config(&error))?;
        let folder = RecordFolder::of(&context.folders()?.state, &config, &host);
        let removed = bootstrap::uninstall(&login_arguments(ssh.raw(), &host), &config.user, &folder).await;
        removed.map_err(|error| report::cannot_uninstall(&host, &error))?;
        notice(&format!("there is no server half of yours at {host} any more"));
        Ok(())
    };
    match crate::cli::block_on(runtime::Builder::new_current_thread(), running) {
        Ok(()) => std::process::exit(0),
        Err(failure) => failure,
    }
}
