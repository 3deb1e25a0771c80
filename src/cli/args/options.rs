//! Options that are declared once: as arguments for clap, and as keys of `bowline.toml`.

use serde::de::{Deserialize, Deserializer};

use crate::cli::values::{Value, Written, WrittenList};

/// A struct of options that derives [`clap::Args`], and [`Deserialize`] for its table of the configuration file. A key
/// has the name of the long option, and its value is written as on the command line. Fields with `#[serde(skip)]` are
/// no keys.
///
/// If several commands share a table, `table NAME;` and the structs of all of them make a struct for the table, too.
macro_rules! options {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty,)*
    }) => {
        options! { @fill $name: $(#[$meta])* $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $type,)*
        } }
    };
    ($(#[$table_meta:meta])* $table_vis:vis table $table:ident; $($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty,)*
    })*) => {
        options! { $(#[$table_meta])* $table_vis struct $table {
            $($($(#[$field_meta])* $field_vis $field: $type,)*)*
        } }
        $(options! { @fill $table: $(#[$meta])* $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $type,)*
        } })*
    };
    (@fill $source:ident: $(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty,)*
    }) => {
        #[derive(Debug, Clone, Default, clap::Args, serde::Deserialize)]
        $(#[$meta])*
        #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
        $vis struct $name {
            $(
                $(#[$field_meta])*
                #[serde(deserialize_with = "crate::cli::args::options::OptionValue::read")]
                $field_vis $field: $type,
            )*
        }

        impl $name {
            /// What is not given here is taken from `other`.
            pub(in crate::cli) fn or(self, other: &$source) -> Self {
                $name {
                    $($field: crate::cli::args::options::OptionValue::or(self.$field, &other.$field),)*
                }
            }
        }
    };
}

pub(super) use options;

/// The value of an option, which may not have been given.
pub(super) trait OptionValue: Sized {
    /// Reads it from the configuration file.
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;

    /// `self` if it was given, otherwise `other`.
    fn or(self, other: &Self) -> Self;
}

impl<T: Value + Clone> OptionValue for Option<T> {
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Written::deserialize(deserializer).map(|written| Some(written.0))
    }

    fn or(self, other: &Self) -> Self {
        self.or_else(|| other.clone())
    }
}

impl<T: Value + Clone> OptionValue for Vec<T> {
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        WrittenList::deserialize(deserializer).map(|written| written.0)
    }

    fn or(self, other: &Self) -> Self {
        if self.is_empty() { other.clone() } else { self }
    }
}

/// An empty list in the configuration file counts: it hides that of a later table.
impl<T: Value + Clone> OptionValue for Option<Vec<T>> {
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        WrittenList::deserialize(deserializer).map(|written| Some(written.0))
    }

    fn or(self, other: &Self) -> Self {
        self.or_else(|| other.clone())
    }
}

impl OptionValue for bool {
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Written::deserialize(deserializer).map(|written| written.0)
    }

    fn or(self, other: &Self) -> Self {
        self || *other
    }
}
