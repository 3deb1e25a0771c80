//! Indirect paths to the server half's TLS port: through a proxy or through programs.

use std::sync::Arc;

use tracing::warn;

use super::super::args::ClientTable;
use super::super::report::{Exit, Failure};
use super::super::settings::SettingsError;
use super::super::values::{ProxyText, Transport};
use super::{HTTPS_PORT, ProxySettings};
use crate::carrier::stream::{CommandLine, EnvironmentError, ProxyRules, masked};
use crate::carrier::{Path, Proxied};
use crate::wire::ErrorChain;

/// The proxy that was asked for: by flag or BOWLINE_PROXY, else by the configuration file.
///
/// # Errors
/// It is none; told without its password.
pub(in crate::cli) fn chosen_proxy(
    flag: Option<&ProxyText>,
    table: &ClientTable,
) -> Result<Option<ProxyRules>, SettingsError> {
    let flag = flag.map(|text| ("--proxy (or BOWLINE_PROXY)", text));
    let file = table.proxy.as_ref().map(|text| ("`proxy` in bowline.toml", text));
    let Some((origin, ProxyText(text))) = flag.or(file) else {
        return Ok(None);
    };
    let unusable = |source| SettingsError::Proxy {
        origin,
        shown: masked(text),
        source,
    };
    text.parse().map(Some).map_err(unusable)
}

/// The alternate routes to one host.
pub(in crate::cli) struct AlternateRoutes {
    pub(super) paths: Vec<Path>,
    /// The environment names a proxy that cannot be used.
    left_out: Option<EnvironmentError>,
}

impl AlternateRoutes {
    /// # Errors
    /// A host that cannot be given to a shell.
    pub(in crate::cli) fn to(host: &str, settings: &ProxySettings) -> Result<AlternateRoutes, Failure> {
        let look = |name: &str| std::env::var(name).ok();
        AlternateRoutes::with(host, settings, look)
    }

    fn with(
        host: &str,
        settings: &ProxySettings,
        look: impl Fn(&str) -> Option<String>,
    ) -> Result<AlternateRoutes, Failure> {
        let mut alternate_routes = AlternateRoutes {
            paths: Vec::new(),
            left_out: None,
        };
        if settings.transport == Transport::Quic {
            return Ok(alternate_routes);
        }
        let port = settings.tls_port.unwrap_or(HTTPS_PORT);
        let rules = settings
            .proxy
            .clone()
            .map_or_else(|| ProxyRules::from_environment(look), Ok);
        let rules = rules.unwrap_or_else(|error| {
            // Set for other programs: no reason not to try the paths that need no proxy.
            warn!(variable = error.variable, error = %error.source, "this proxy cannot be used; continuing \
                without it");
            alternate_routes.left_out = Some(error);
            ProxyRules::direct()
        });
        alternate_routes.paths.extend(rules.proxy_for(host, port).map(|proxy| {
            Path::Proxied(Arc::new(Proxied {
                proxy: proxy.clone(),
                host: host.to_owned(),
                port,
            }))
        }));
        let texts = settings.path_commands.iter().map(|command| command.0.as_str());
        let lines = CommandLine::expand_each(texts, host, port);
        let lines = lines.map_err(|error| Failure::from_error(Exit::Usage, &error))?;
        alternate_routes
            .paths
            .extend(lines.into_iter().map(Arc::new).map(Path::Command));
        Ok(alternate_routes)
    }

    /// Where no path led anywhere, the one that was left out is worth a line.
    pub(super) fn explain(&self, failure: Failure) -> Failure {
        match &self.left_out {
            Some(error) => failure.fact(ErrorChain(error)),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::args::CommonArgs;
    use super::super::super::places::Owner;
    use super::super::super::report::Exit;
    use super::super::super::settings::Context;
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        proxy: super::super::ProxyArgs,
    }

    /// What comes of these arguments and this configuration file.
    fn settings(arguments: &[&str], file: &str) -> Result<ProxySettings, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bowline.toml");
        std::fs::write(&path, file).unwrap();
        let common = CommonArgs {
            config: Some(path),
            ..CommonArgs::default()
        };
        let line = Line::parse_from(["proxy"].iter().chain(arguments).chain(&["build"]));
        ProxySettings::new(line.proxy, &Context::load(common, Owner::System)?)
    }

    fn alternate_routes(arguments: &[&str], file: &str, environment: &[(&str, &str)]) -> AlternateRoutes {
        let look = |wanted: &str| {
            let found = environment.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| (*value).to_owned())
        };
        AlternateRoutes::with("build", &settings(arguments, file).unwrap(), look).unwrap()
    }

    fn written(alternate_routes: &AlternateRoutes) -> Vec<String> {
        alternate_routes.paths.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_proxy_is_that_of_the_flag_then_of_the_file_then_of_the_environment() {
        let environment = [("HTTPS_PROXY", "http://c:3128")];
        let file = "[client]\nproxy = 'http://b:3128'\n";
        for (arguments, file, proxies) in [
            (
                &["--proxy", "http://a:3128"][..],
                file,
                &["tls build:443 by http://a:3128"][..],
            ),
            (&[], file, &["tls build:443 by http://b:3128"]),
            (&[], "", &["tls build:443 by http://c:3128"]),
            (&["--proxy", "direct"], file, &[]),
        ] {
            assert_eq!(written(&alternate_routes(arguments, file, &environment)), proxies);
        }
    }

    #[test]
    fn a_proxy_of_the_environment_that_cannot_be_used_stops_nothing() {
        let environment = [("HTTPS_PROXY", "https://ada:secret@proxy")];
        let left_out = alternate_routes(&["--path-command", "nc %h %p"], "", &environment);
        assert_eq!(written(&left_out), ["command nc"]);
        let failure = left_out.explain(Failure::new(Exit::Unavailable, "no path"));
        let told = failure.to_string();
        assert!(told.contains("HTTPS_PROXY cannot be used: a proxy over TLS"), "{told}");
        assert!(!told.contains("secret"), "{told}");
    }

    #[test]
    fn no_alternate_route_is_used_with_quic_only() {
        let environment = [("HTTPS_PROXY", "https://proxy")];
        let none = alternate_routes(&["--transport", "quic", "--path-command", "nc %h %p"], "", &environment);
        assert!(none.paths.is_empty() && none.left_out.is_none());
    }

    #[test]
    fn a_proxy_that_was_asked_for_and_is_none_is_told_without_its_password() {
        for (arguments, file, told) in [
            (
                &["--proxy", "socks4://ada:secret@proxy:1080"][..],
                "",
                "error: --proxy (or BOWLINE_PROXY) cannot be used: socks4://***@proxy:1080\n  this kind of proxy",
            ),
            (
                &[],
                "[client]\nproxy = 'https://ada:secret@proxy'\n",
                "error: `proxy` in bowline.toml cannot be used: https://***@proxy\n  a proxy over TLS",
            ),
        ] {
            let error = settings(arguments, file).unwrap_err();
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
            let failure = Failure::from(error).to_string();
            assert!(failure.starts_with(told) && !failure.contains("secret"), "{failure}");
        }
    }

    #[test]
    fn two_commands_of_one_program_do_not_share_their_fate() {
        let two = ["--path-command", "ssh -W %h:%p a", "--path-command", "ssh -W %h:%p b"];
        let two = alternate_routes(&two, "", &[]);
        assert_eq!(written(&two), ["command ssh", "command ssh #2"]);
        assert_ne!(two.paths[0].via(), two.paths[1].via());
    }
}
