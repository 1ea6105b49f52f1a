//! Writes what an Event serialises as the fields of a log line: each Event names its fields once, as its struct does.
//!
//! A field that is unknown (`None`) and a list that is empty leave no trace on the line. Below every Event: knows none.

use std::fmt;

use jiff::Timestamp;
use serde::ser::{Impossible, Serialize, SerializeSeq, SerializeStruct, Serializer};

use crate::log::{Level, LogLine};
use crate::pki::Fingerprint;

/// The description of an Event: what its log line needs beside its fields.
pub(super) trait EventDescription {
    /// The log target.
    fn target(&self) -> &'static str;

    /// The level of its line; [`super`] says what the levels mean.
    fn level(&self) -> Level;

    /// The constant message for people; empty where the outcome among the fields says it.
    fn message(&self) -> &'static str;
}

/// Writes every field of an Event in the order of its struct.
pub(super) fn write_fields(line: &mut LogLine, event: &impl Serialize) {
    // An Event is a struct of texts, numbers, flags and lists of texts: the tests write each of them.
    let written = event.serialize(LineFields(line));
    debug_assert!(written.is_ok(), "an Event is not a flat struct");
}

/// The first 12 hex digits of a fingerprint.
pub(super) fn serialize_short<S: Serializer>(key_pair: &Fingerprint, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&key_pair.short())
}

/// The first 12 hex digits of a fingerprint, if it is known.
pub(super) fn serialize_optional_short<S: Serializer>(
    key_pair: &Option<Fingerprint>,
    out: S,
) -> Result<S::Ok, S::Error> {
    key_pair.map(|key_pair| key_pair.short()).serialize(out)
}

/// A time to the second, if it is known.
pub(super) fn serialize_optional_second<S: Serializer>(time: &Option<Timestamp>, out: S) -> Result<S::Ok, S::Error> {
    time.map(format_second).serialize(out)
}

/// A time, to the second.
pub(super) fn format_second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

struct LineFields<'a>(&'a mut LogLine);

impl SerializeStruct for LineFields<'_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), fmt::Error> {
        value.serialize(LineValue { line: &mut *self.0, name })
    }

    fn end(self) -> Result<(), fmt::Error> {
        Ok(())
    }
}

/// What an Event is not.
macro_rules! refuse_values {
    ($($name:ident($($type:ty),*)),+ $(,)?) => {
        $(fn $name(self, $(_: $type),*) -> Result<(), fmt::Error> {
            Err(fmt::Error)
        })+
    };
}

/// What an Event is not, with parts of its own.
macro_rules! refuse_compounds {
    ($($name:ident($($type:ty),*) -> $part:ident),+ $(,)?) => {
        $(fn $name(self, $(_: $type),*) -> Result<Self::$part, fmt::Error> {
            Err(fmt::Error)
        })+
    };
}

impl Serializer for LineFields<'_> {
    type Ok = ();
    type Error = fmt::Error;
    type SerializeSeq = Impossible<(), fmt::Error>;
    type SerializeTuple = Impossible<(), fmt::Error>;
    type SerializeTupleStruct = Impossible<(), fmt::Error>;
    type SerializeTupleVariant = Impossible<(), fmt::Error>;
    type SerializeMap = Impossible<(), fmt::Error>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Impossible<(), fmt::Error>;

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<(), fmt::Error> {
        Err(fmt::Error)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, _: &T) -> Result<(), fmt::Error> {
        Err(fmt::Error)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), fmt::Error> {
        Err(fmt::Error)
    }

    refuse_values!(
        serialize_bool(bool),
        serialize_i8(i8),
        serialize_i16(i16),
        serialize_i32(i32),
        serialize_i64(i64),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32),
        serialize_u64(u64),
        serialize_f32(f32),
        serialize_f64(f64),
        serialize_char(char),
        serialize_str(&str),
        serialize_bytes(&[u8]),
        serialize_none(),
        serialize_unit(),
        serialize_unit_struct(&'static str),
        serialize_unit_variant(&'static str, u32, &'static str),
    );

    refuse_compounds!(
        serialize_seq(Option<usize>) -> SerializeSeq,
        serialize_tuple(usize) -> SerializeTuple,
        serialize_tuple_struct(&'static str, usize) -> SerializeTupleStruct,
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> SerializeTupleVariant,
        serialize_map(Option<usize>) -> SerializeMap,
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> SerializeStructVariant,
    );
}

/// One field of a line: a text, a number, a flag, or a list of texts. A value that is unknown leaves no trace.
struct LineValue<'a> {
    line: &'a mut LogLine,
    name: &'static str,
}

/// Gathers the texts of a list.
struct LineList<'a> {
    field: LineValue<'a>,
    texts: Vec<String>,
}

/// Numbers as they are.
macro_rules! write_numbers {
    ($($name:ident($type:ty)),+ $(,)?) => {
        $(fn $name(self, value: $type) -> Result<(), fmt::Error> {
            self.line.number(self.name, value);
            Ok(())
        })+
    };
}

impl<'a> Serializer for LineValue<'a> {
    type Ok = ();
    type Error = fmt::Error;
    type SerializeSeq = LineList<'a>;
    type SerializeTuple = Impossible<(), fmt::Error>;
    type SerializeTupleStruct = Impossible<(), fmt::Error>;
    type SerializeTupleVariant = Impossible<(), fmt::Error>;
    type SerializeMap = Impossible<(), fmt::Error>;
    type SerializeStruct = Impossible<(), fmt::Error>;
    type SerializeStructVariant = Impossible<(), fmt::Error>;

    fn serialize_bool(self, value: bool) -> Result<(), fmt::Error> {
        self.line.flag(self.name, value);
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), fmt::Error> {
        self.line.text(self.name, value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), fmt::Error> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), fmt::Error> {
        value.serialize(self)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), fmt::Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), fmt::Error> {
        value.serialize(self)
    }

    fn serialize_seq(self, size: Option<usize>) -> Result<LineList<'a>, fmt::Error> {
        Ok(LineList { field: self, texts: Vec::with_capacity(size.unwrap_or_default()) })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), fmt::Error> {
        Err(fmt::Error)
    }

    write_numbers!(
        serialize_i8(i8),
        serialize_i16(i16),
        serialize_i32(i32),
        serialize_i64(i64),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32),
        serialize_u64(u64),
        serialize_f32(f32),
        serialize_f64(f64),
    );

    refuse_values!(serialize_char(char), serialize_bytes(&[u8]), serialize_unit(), serialize_unit_struct(&'static str),);

    refuse_compounds!(
        serialize_tuple(usize) -> SerializeTuple,
        serialize_tuple_struct(&'static str, usize) -> SerializeTupleStruct,
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> SerializeTupleVariant,
        serialize_map(Option<usize>) -> SerializeMap,
        serialize_struct(&'static str, usize) -> SerializeStruct,
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> SerializeStructVariant,
    );
}

impl SerializeSeq for LineList<'_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        // Lists are of texts, and of what becomes one; other values have no place on a line.
        if let serde_json::Value::String(text) = serde_json::to_value(value).map_err(|_| fmt::Error)? {
            self.texts.push(text);
        }
        Ok(())
    }

    fn end(self) -> Result<(), fmt::Error> {
        self.field.line.list(self.field.name, &self.texts);
        Ok(())
    }
}
