//! Values as `bowline.toml` holds them.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};

use super::Value;

/// A [`Value`] in the configuration file: a string, or a bare number or truth value; where it has a
/// [name of its own](Value::TABLE_KEYS), also a table of that name and the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Written<T>(pub(in crate::cli) T);

impl<'de, T: Value> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WrittenVisitor(PhantomData)).map(Written)
    }
}

/// One [`Value`] or a list of them in the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct WrittenList<T>(pub(in crate::cli) Vec<T>);

impl<'de, T: Value> Deserialize<'de> for WrittenList<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(WrittenListVisitor(PhantomData))
            .map(WrittenList)
    }
}

struct WrittenVisitor<T>(PhantomData<T>);

impl<'de, T: Value> Visitor<'de> for WrittenVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        T::parse(text).map_err(|error| E::custom(format_args!("invalid value `{text}`: {error}")))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_bool<E: serde::de::Error>(self, truth: bool) -> Result<T, E> {
        self.visit_str(if truth { "true" } else { "false" })
    }

    /// `{ command = ".." }`
    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<T, A::Error> {
        let Some(known) = T::TABLE_KEYS.first() else {
            return Err(A::Error::invalid_type(Unexpected::Map, &self));
        };
        let mut found = None;
        while let Some(key) = table.next_key::<String>()? {
            if key != *known {
                return Err(A::Error::unknown_field(&key, T::TABLE_KEYS));
            }
            found = Some(self.visit_str(&table.next_value::<String>()?)?);
        }
        found.ok_or_else(|| A::Error::missing_field(known))
    }
}

impl<T> Clone for WrittenVisitor<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for WrittenVisitor<T> {}

struct WrittenListVisitor<T>(PhantomData<T>);

impl<'de, T: Value> Visitor<'de> for WrittenListVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a list of such", T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<T>, E> {
        WrittenVisitor::<T>(PhantomData).visit_str(text).map(|one| vec![one])
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Vec<T>, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Vec<T>, A::Error> {
        WrittenVisitor::<T>(PhantomData).visit_map(table).map(|one| vec![one])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(Written(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list)
    }
}
