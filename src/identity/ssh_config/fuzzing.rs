//! What a fuzzer feeds to the output of `ssh -G`.

use std::path::Path;

use super::super::known_hosts::split_words;
use super::dump::Dump;
use super::{SshConfig, SshQuery, expand};
use crate::fuzzing::check_error;

/// The output of `ssh -G`.
pub fn ssh_g(input: &[u8]) {
    let dump = Dump::parse(input);
    let home = expand::home_of(dump.path("controlpath"));
    let home = home.as_deref().unwrap_or(Path::new("/home/user"));
    match SshConfig::from_dump(&SshQuery::new("host"), &dump, home) {
        Ok(config) => {
            config.known_hosts_name();
            config.known_hosts_files();
        }
        Err(error) => check_error(&error),
    }
    split_words(input);
}
