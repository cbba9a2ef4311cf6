//! JSON objects as Go's `encoding/json` reads them: names match in any case, `null` leaves a field at its default,
//! unknown names are skipped at any depth.
//!
//! One point is stricter: a name given twice is an error. (Go lets the later one win, or merges the two.)

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use std::fmt;

/// Declares a struct that reads itself from a Go-style JSON object. Every field has a default.
macro_rules! go_object {
    ($(#[$meta:meta])* struct $name:ident { $($key:literal => $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Default)]
        struct $name {
            $($field: $kind,)*
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct JsonFields;

                impl<'de> serde::de::Visitor<'de> for JsonFields {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_unit<E>(self) -> Result<$name, E> {
                        Ok($name::default())
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        $(let mut $field: Option<$kind> = None;)*
                        while let Some(name) = map.next_key_seed($crate::buildkit::json::OneOf(&[$($key),*]))? {
                            match name {
                                $(Some($key) => $crate::buildkit::json::read_once($key, &mut $field, &mut map)?,)*
                                _ => drop(map.next_value::<serde::de::IgnoredAny>()?),
                            }
                        }
                        Ok($name { $($field: $field.unwrap_or_default(),)* })
                    }
                }

                deserializer.deserialize_any(JsonFields)
            }
        }
    };
}
pub(super) use go_object;

/// Reads the value of `name` into an empty `field`.
pub(super) fn read_once<'de, T, A>(name: &'static str, field: &mut Option<T>, map: &mut A) -> Result<(), A::Error>
where
    T: serde::Deserialize<'de> + Default,
    A: MapAccess<'de>,
{
    if field.is_some() {
        return Err(A::Error::duplicate_field(name));
    }
    *field = Some(map.next_value::<Option<T>>()?.unwrap_or_default());
    Ok(())
}

/// Reads a key and finds which of these names it is, in any case.
pub(super) struct OneOf(pub &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for OneOf {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for OneOf {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|name| name.eq_ignore_ascii_case(key)).copied())
    }
}

/// The most bytes of `text` as a JSON string, quotes included: exact if nothing has to be escaped.
pub(super) fn encoded_len(text: &str) -> usize {
    const LONGEST_ESCAPE: usize = r"\u0000".len();
    let is_escaped = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    // Digests need no escapes, and without an early exit the compiler tests many bytes at once.
    let any = text.as_bytes().iter().fold(false, |any, byte| any | is_escaped(byte));
    let escaped = if any { text.as_bytes().iter().filter(|byte| is_escaped(byte)).count() } else { 0 };
    2 + text.len() + escaped * (LONGEST_ESCAPE - 1)
}
