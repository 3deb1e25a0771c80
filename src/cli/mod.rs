//! The command line: arguments, settings, reports, one file a subcommand.
//!
//! No protocol logic: it reads what the user wants, calls the library, and says how it ended.

mod args;
mod bootstrap;
mod check;
mod config;
mod config_file;
mod demo;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod generate;
mod kill;
mod logging;
mod machine_memory;
mod panics;
mod places;
mod proxy;
mod relay;
mod report;
mod serve;
mod settings;
mod setup;
mod signals;
mod ssh;
mod sshd;
mod status;
mod values;
mod wrap;

use std::future::Future;
use std::process::ExitCode;

use clap::FromArgMatches;
use clap::error::ErrorKind;
use tokio::runtime;

use self::args::{Cli, Command};
use self::logging::{LogSettings, Verbosity};
use self::places::Owner;
use self::report::{Exit, Failure};
use self::settings::Context;

/// Runs the program and says how it ended.
///
/// Starts no async runtime by itself: each command builds the one it needs, and the keeper of `serve` none.
pub fn main() -> ExitCode {
    let cli = match read_arguments() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let pause = serve::Pause::of(&cli.command);
    match panics::guard(|| dispatch(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            pause.wait();
            failure.exit_code()
        }
    }
}

/// clap's answers to bad arguments have our form already; its exit code has not.
fn read_arguments() -> Result<Cli, ExitCode> {
    let parsed = args::matches_from(std::env::args_os()).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        if error.kind() == ErrorKind::MissingSubcommand {
            let failure = Failure::new(Exit::Usage, "a command is missing");
            let failure = failure.hint("`bowline --help` lists the commands");
            failure.print();
            return failure.exit_code();
        }
        // A closed stdout is not an error: `bowline --help | head -1`.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
            _ => ExitCode::from(Exit::Usage as u8),
        }
    })
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Proxy(args) => {
            let context = Context::load(cli.common, Owner::User)?;
            let settings = proxy::ProxySettings::new(*args, &context)?;
            quietly(&context, proxy::run(settings))
        }
        Command::Check(args) => {
            let context = Context::load(cli.common, Owner::User)?;
            let settings = check::CheckSettings::new(*args, &context)?;
            quietly(&context, check::run(settings))
        }
        Command::Serve(args) if args.take_over => serve::take_over(*args, cli.common),
        Command::Serve(args) => {
            let context = Context::load(cli.common, Owner::of_daemon())?;
            let settings = serve::ServeSettings::new(*args, &context)?;
            start_log(&context, Verbosity::Info);
            serve::run(&settings, &context.log(Verbosity::Info))
        }
        Command::Relay(args) => relay(&args, &cli.common),
        Command::ServeWorker => serve::run_worker(&LogSettings::of_worker(&cli.common)),
        Command::ServeKeeper => serve::run_keeper(&LogSettings::of_worker(&cli.common)),
        Command::LookAtTarget { target } => block_on(runtime::Builder::new_current_thread(), serve::look::run(target)),
        Command::Ssh(args) => Err(ssh::run(*args, cli.common)),
        Command::Sshd(args) => {
            let context = Context::load(cli.common, Owner::of_daemon())?;
            let settings = sshd::SshdSettings::new(args, &context)?;
            start_log(&context, Verbosity::Info);
            block_on(runtime::Builder::new_multi_thread(), sshd::run(settings))
        }
        Command::Status(args) => {
            let context = Context::load(cli.common, Owner::User)?;
            let settings = status::StatusSettings::new(args, &context)?;
            quietly(&context, status::run(settings))
        }
        Command::Kill(args) => {
            let context = Context::load(cli.common, Owner::User)?;
            let settings = kill::KillSettings::new(args, &context)?;
            quietly(&context, kill::run(settings))
        }
        Command::Config(args) => config::run(&args, &cli.common),
        Command::Setup(args) => setup::run(&args, cli.common),
        Command::Demo(args) => {
            let context = Context::load(cli.common, Owner::User)?;
            let settings = demo::DemoSettings::new(&args, context.log(Verbosity::Silent));
            start_log(&context, Verbosity::Silent);
            block_on(runtime::Builder::new_multi_thread(), demo::run(settings))
        }
        Command::Completions { shell } => {
            generate::completions(shell);
            Ok(())
        }
        Command::Man { folder } => generate::man_pages(&folder),
    }
}

fn relay(args: &args::RelayOptions, common: &args::CommonArgs) -> Result<(), Failure> {
    // It is root's also after root was given up.
    let owner = Owner::of_daemon();
    let read = || Context::load(common.clone(), owner);
    let context = read()?;
    let settings = relay::RelaySettings::new(args.clone(), &context)?;
    start_log(&context, Verbosity::Info);
    relay::run(&settings, || relay::RelaySettings::new(args.clone(), &read()?))
}

/// For commands whose screen is the user's.
fn quietly(context: &Context, running: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    start_log(context, Verbosity::Silent);
    block_on(runtime::Builder::new_current_thread(), running)
}

fn start_log(context: &Context, normal: Verbosity) {
    logging::start(&context.log(normal));
    for name in args::unknown_variables() {
        tracing::debug!(name, "bowline does not know this environment variable");
    }
}

fn block_on(mut builder: runtime::Builder, command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| report::cannot_start(&error))?;
    let ended = runtime.block_on(command);
    // A read of stdin that never returns must not hold up the end.
    runtime.shutdown_background();
    ended
}
