//! What a fuzzer feeds to `bowline.toml`.

use std::path::Path;

use super::config_file::{ConfigError, ConfigFile};
use crate::fuzzing::check_text;
use crate::wire::Escaped;

/// The configuration file.
pub fn bowline_toml(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match ConfigFile::parse(text, Path::new("bowline.toml")) {
        Ok(file) => {
            file.client("host.example");
        }
        Err(error) => {
            error.nearest_key();
            let (ConfigError::UnknownKey { line, .. } | ConfigError::Invalid { line, .. }) = &error else {
                panic!("{error}");
            };
            assert!((1..=1 + text.matches('\n').count()).contains(line));
            // As a report shows it.
            check_text(&Escaped(&error).to_string());
        }
    }
}
