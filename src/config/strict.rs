//! Strict reading of merged settings. The `config` crate alone turns 8080.9 into 8081 and `true`
//! into 1, and forgets the origin of a value. Here a value keeps the type it was written with, and
//! every complaint names its origin and its key.
//!
//! Values from the environment are text. They are read as strictly as the type of the key.

use std::fmt;

use config::{Value, ValueKind};
use serde::de::{
    self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use super::origin::ENVIRONMENT;

/// A value that does not have the type of its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// The origin of the value: a file, or the environment.
    pub(super) origin: Option<String>,
    /// The full key, such as `http.listen` or `route[2].price`.
    pub(super) key: Option<String>,
    /// The mistake and its correction.
    pub(super) what: String,
    /// Whether a variable is used for a table, which only a file can set.
    pub(super) is_table: bool,
    /// The unknown or missing name inside `key`, if the complaint is about one.
    name: Option<String>,
}

impl Mismatch {
    /// Sets the origin and the key, unless a more precise place is known.
    fn at(mut self, value: &Value, path: &str) -> Self {
        if self.key.is_some() {
            return self;
        }
        let mut origin = value.origin().or_else(|| origin_within(value));
        self.key = Some(path.to_owned());
        if let Some(name) = &self.name {
            self.key = Some(join(path, name));
            if let ValueKind::Table(table) = &value.kind {
                // If the built-in defaults define this table, it has their origin. The origin of
                // its entries is more precise.
                let named = table.get(name).and_then(origin_within);
                origin = named
                    .or_else(|| {
                        table
                            .values()
                            .filter_map(Value::origin)
                            .find(|from| *from != super::sources::BUILT_IN)
                    })
                    .or(origin);
            }
        }
        self.origin = origin.map(str::to_owned);
        self
    }
}

/// The origin of a value. A table that exists only because of a variable has no origin, but its
/// entries have.
fn origin_within(value: &Value) -> Option<&str> {
    let within = || {
        let ValueKind::Table(table) = &value.kind else {
            return None;
        };
        table.values().find_map(origin_within)
    };
    value.origin().or_else(within)
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Mismatch {}

impl de::Error for Mismatch {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self {
            what: what.to_string(),
            ..Self::default()
        }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self {
            what: format!("there is no such key; there are {}", expected.join(", ")),
            name: Some(field.to_owned()),
            ..Self::default()
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            what: "this key must be given".to_owned(),
            name: Some(field.to_owned()),
            ..Self::default()
        }
    }
}

/// The error for a variable that is used for a table or a list of tables.
fn no_table() -> Mismatch {
    Mismatch {
        is_table: true,
        ..Mismatch::custom(
            "a variable sets one value: tables and lists of tables must be written into the settings file",
        )
    }
}

/// One of several values in a variable.
#[derive(Clone, Copy, Debug)]
struct Text<'a>(&'a str);

impl<'de> Deserializer<'de> for Text<'de> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Mismatch> {
        Err(no_table())
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Mismatch> for Text<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// A value and its full key.
#[derive(Clone, Debug)]
pub(super) struct Strict<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Strict<'a> {
    /// All settings.
    pub(super) fn root(value: &'a Value) -> Self {
        Self {
            value,
            path: String::new(),
        }
    }

    /// The text, if this is a value from the environment.
    fn environment(&self) -> Option<&'a str> {
        if let ValueKind::String(text) = &self.value.kind
            && self.value.origin() == Some(ENVIRONMENT)
        {
            Some(text)
        } else {
            None
        }
    }

    fn parsed<T: std::str::FromStr>(&self, text: &str, wanted: &str) -> Result<T, Mismatch> {
        let wrong = || de::Error::custom(format!("`{text}` is no {wanted}"));
        text.parse()
            .map_err(|_| Mismatch::at(wrong(), self.value, &self.path))
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

macro_rules! numbers {
    ($($method:ident $type:ty, $visit:ident, $wanted:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
            match self.environment() {
                Some(text) => {
                    let number: $type = self.parsed(text, $wanted)?;
                    visitor.$visit(number).map_err(|error: Mismatch| error.at(self.value, &self.path))
                }
                None => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Strict<'de> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        let (value, path) = (self.value, self.path);
        let read = match &value.kind {
            ValueKind::Nil => visitor.visit_unit(),
            ValueKind::Boolean(boolean) => visitor.visit_bool(*boolean),
            ValueKind::I64(number) => visitor.visit_i64(*number),
            ValueKind::I128(number) => visitor.visit_i128(*number),
            ValueKind::U64(number) => visitor.visit_u64(*number),
            ValueKind::U128(number) => visitor.visit_u128(*number),
            ValueKind::Float(number) => visitor.visit_f64(*number),
            ValueKind::String(text) => visitor.visit_borrowed_str(text),
            ValueKind::Table(table) => {
                let mut entries: Vec<_> = table.iter().collect();
                entries.sort_by_key(|(name, _)| *name);
                visitor.visit_map(Entries {
                    entries: entries.into_iter(),
                    next: None,
                    path: &path,
                })
            }
            ValueKind::Array(values) => visitor.visit_seq(Elements {
                values: values.iter().enumerate(),
                path: &path,
            }),
        };
        read.map_err(|error: Mismatch| error.at(value, &path))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.environment() {
            Some(text) => visitor.visit_bool(self.parsed(text, "`true` or `false`")?),
            None => self.deserialize_any(visitor),
        }
    }

    numbers! {
        deserialize_u32 u32, visit_u32, "whole number";
        deserialize_u64 u64, visit_u64, "whole number";
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        if self.value.kind == ValueKind::Nil {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.environment() {
            Some("") => visitor.visit_seq(de::value::SeqDeserializer::new(std::iter::empty::<
                Text<'_>,
            >())),
            Some(text) => {
                let parts = text.split(',').map(|part| Text(part.trim()));
                let read = visitor.visit_seq(de::value::SeqDeserializer::new(parts));
                read.map_err(|error: Mismatch| error.at(self.value, &self.path))
            }
            None if matches!(self.value.kind, ValueKind::Table(_))
                && origin_within(self.value) == Some(ENVIRONMENT) =>
            {
                Err(no_table().at(self.value, &self.path))
            }
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        if self.environment().is_some() {
            return Err(no_table().at(self.value, &self.path));
        }
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        u16 i64 f64 i8 i16 i32 i128 u8 u128 f32 char str string bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct
        map enum identifier ignored_any
    }
}

/// The entries of a table, sorted by name.
struct Entries<'a, 'p> {
    entries: std::vec::IntoIter<(&'a String, &'a Value)>,
    next: Option<(&'a String, &'a Value)>,
    path: &'p str,
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Mismatch> {
        self.next = self.entries.next();
        let Some((name, _)) = self.next else {
            return Ok(None);
        };
        seed.deserialize(name.as_str().into_deserializer())
            .map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Mismatch> {
        let (name, value) = self
            .next
            .take()
            .ok_or_else(|| Mismatch::custom("a value without a key"))?;
        seed.deserialize(Strict {
            value,
            path: join(self.path, name),
        })
    }
}

use de::Error as _;

/// The elements of an array, numbered from 1, as people count tables.
struct Elements<'a, 'p> {
    values: std::iter::Enumerate<std::slice::Iter<'a, Value>>,
    path: &'p str,
}

impl<'de> SeqAccess<'de> for Elements<'de, '_> {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Mismatch> {
        let Some((index, value)) = self.values.next() else {
            return Ok(None);
        };
        seed.deserialize(Strict {
            value,
            path: format!("{}[{}]", self.path, index + 1),
        })
        .map(Some)
    }
}
