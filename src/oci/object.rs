//! JSON objects of which only some names are read: in their own spelling and in another case, separately.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

/// The values of one name in an object. `null` is no value, but counts as an occurrence.
#[derive(Debug)]
pub(super) struct Said<T> {
    pub exact: Option<T>,
    /// The value under the name in another case.
    other: Option<T>,
    /// Number of occurrences, in its own spelling and in another case.
    times: (u32, u32),
}

impl<T> Default for Said<T> {
    fn default() -> Said<T> {
        Said { exact: None, other: None, times: (0, 0) }
    }
}

impl<'de, T: Deserialize<'de>> Said<T> {
    pub fn read<A: MapAccess<'de>>(&mut self, name: &'static str, exact: bool, map: &mut A) -> Result<(), A::Error> {
        let (times, field) = match exact {
            true => (&mut self.times.0, &mut self.exact),
            false => (&mut self.times.1, &mut self.other),
        };
        *times += 1;
        match (*times, exact) {
            (1, _) => *field = map.next_value()?,
            (_, true) => return Err(A::Error::duplicate_field(name)),
            (_, false) => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

impl<T> Said<T> {
    /// The value as Go reads it; an error if the name occurs more than once.
    pub fn in_any_case(&self, name: &str) -> Result<Option<&T>, String> {
        match self.times.0 + self.times.1 {
            0 | 1 => Ok(self.exact.as_ref().or(self.other.as_ref())),
            _ => Err(format!("duplicate field `{name}`")),
        }
    }

    pub fn is_missing(&self) -> bool {
        self.exact.is_none() && self.other.is_none()
    }
}

/// Finds which of these names a key is, in any case.
pub(super) struct NameIn(pub &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for NameIn {
    type Value = Option<(&'static str, bool)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameIn {
    type Value = Option<(&'static str, bool)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        let found = self.0.iter().find(|name| name.eq_ignore_ascii_case(key));
        Ok(found.map(|name| (*name, *name == key)))
    }
}

/// Declares a struct that reads itself from a JSON object and keeps values under names in another case apart. An object
/// without the required field is an error.
macro_rules! object {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident { $($key:literal => $field:ident: $kind:ty,)* }
        $(requires $required_key:literal => $required:ident)?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        $vis struct $name {
            $($field: Said<$kind>,)*
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<$name, D::Error> {
                struct ObjectVisitor;

                impl<'de> Visitor<'de> for ObjectVisitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<$name, A::Error> {
                        let mut read = $name::default();
                        while let Some(found) = map.next_key_seed(NameIn(&[$($key),*]))? {
                            match found {
                                $(Some(($key, exact)) => read.$field.read($key, exact, &mut map)?,)*
                                _ => drop(map.next_value::<IgnoredAny>()?),
                            }
                        }
                        $(if read.$required.is_missing() {
                            return Err(A::Error::missing_field($required_key));
                        })?
                        Ok(read)
                    }
                }

                deserializer.deserialize_map(ObjectVisitor)
            }
        }
    };
}
pub(super) use object;
