//! Tuples and templates: typed fields, and the bytes they are kept and sent as.
//!
//! ```text
//! tuple     fields u16 (1 to 64), then each field
//! template  fields u16 (1 to 64), then each a field, or 0 (any field), or 0x80 + type (any field of that type)
//! field     1 int    i64
//!           2 text   length u32, UTF-8
//!           3 bytes  length u32, bytes
//! ```
//! A value has one form only, so equal fields are equal bytes, and templates are matched without decoding.

use bytes::{BufMut, BytesMut};

use super::tuple_space_protocol::Refused;

/// A tuple has at most so many fields, and at least one.
pub const TUPLE_FIELDS_MAX: usize = 64;

/// In a template: any field.
const ANY: u8 = 0;
/// In a template, added to a type: any field of that type.
const FORMAL: u8 = 0x80;

/// What kind of value a field has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FieldType {
    /// A signed integer of 64 bits.
    Int = 1,
    /// Characters.
    Text = 2,
    /// Bytes.
    Bytes = 3,
}

/// One field of a tuple.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Field {
    /// An integer.
    Int(i64),
    /// Characters.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// One field of a template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// Any field.
    Any,
    /// Any field of this type.
    Typed(FieldType),
    /// This field.
    Is(Field),
}

impl From<i64> for Field {
    fn from(value: i64) -> Self {
        Field::Int(value)
    }
}

impl From<&str> for Field {
    fn from(value: &str) -> Self {
        Field::Text(value.into())
    }
}

impl From<&[u8]> for Field {
    fn from(value: &[u8]) -> Self {
        Field::Bytes(value.into())
    }
}

impl<F: Into<Field>> From<F> for Pattern {
    fn from(value: F) -> Self {
        Pattern::Is(value.into())
    }
}

impl From<FieldType> for Pattern {
    fn from(value: FieldType) -> Self {
        Pattern::Typed(value)
    }
}

pub(super) fn put_tuple(out: &mut BytesMut, tuple: &[Field]) {
    put_count(out, tuple.len());
    tuple.iter().for_each(|field| put_field(out, field));
}

pub(super) fn put_template(out: &mut BytesMut, template: &[Pattern]) {
    put_count(out, template.len());
    template.iter().for_each(|pattern| match pattern {
        Pattern::Any => out.put_u8(ANY),
        Pattern::Typed(of) => out.put_u8(FORMAL | *of as u8),
        Pattern::Is(field) => put_field(out, field),
    });
}

/// Far too many stay far too many.
fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u16_le(u16::try_from(count).unwrap_or(u16::MAX));
}

fn put_field(out: &mut BytesMut, field: &Field) {
    let (of, bytes) = match field {
        Field::Int(value) => {
            out.put_u8(FieldType::Int as u8);
            return out.put_i64_le(*value);
        }
        Field::Text(value) => (FieldType::Text, value.as_bytes()),
        Field::Bytes(value) => (FieldType::Bytes, &value[..]),
    };
    out.put_u8(of as u8);
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

/// The rest of the bytes being decoded.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Refused> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Refused::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        self.take(N).map(|bytes| bytes.try_into().expect("as many as asked for"))
    }

    pub fn u8(&mut self) -> Result<u8, Refused> {
        self.array().map(|[byte]| byte)
    }

    pub fn u32(&mut self) -> Result<u32, Refused> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Refused> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn end(self) -> Result<(), Refused> {
        if self.0.is_empty() { Ok(()) } else { Err(Refused::Malformed("bytes follow its end")) }
    }

    pub fn tuple(&mut self) -> Result<RawTuple<'a>, Refused> {
        let all = self.0;
        let fields = (0..self.count()?).map(|_| self.field()).collect::<Result<_, _>>()?;
        Ok(RawTuple { bytes: &all[..all.len() - self.0.len()], fields })
    }

    pub fn template(&mut self) -> Result<RawTemplate<'a>, Refused> {
        let all = self.0;
        let patterns = (0..self.count()?).map(|_| self.pattern()).collect::<Result<_, _>>()?;
        Ok(RawTemplate { bytes: &all[..all.len() - self.0.len()], patterns })
    }

    fn count(&mut self) -> Result<usize, Refused> {
        match usize::from(u16::from_le_bytes(self.array()?)) {
            0 => Err(Refused::Malformed("a tuple or template without fields")),
            count if count > TUPLE_FIELDS_MAX => Err(Refused::Malformed("more than 64 fields")),
            count => Ok(count),
        }
    }

    fn field(&mut self) -> Result<&'a [u8], Refused> {
        let all = self.0;
        let of = self.u8()?;
        if of == FieldType::Int as u8 {
            self.take(8)?;
        } else if of == FieldType::Text as u8 || of == FieldType::Bytes as u8 {
            let length = self.u32()?;
            let value = self.take(length as usize)?;
            if of == FieldType::Text as u8 && std::str::from_utf8(value).is_err() {
                return Err(Refused::Malformed("a text that is not UTF-8"));
            }
        } else {
            return Err(Refused::Malformed("a field of no known type"));
        }
        Ok(&all[..all.len() - self.0.len()])
    }

    fn pattern(&mut self) -> Result<RawPattern<'a>, Refused> {
        const TYPED: [u8; 3] =
            [FORMAL | FieldType::Int as u8, FORMAL | FieldType::Text as u8, FORMAL | FieldType::Bytes as u8];
        match self.0.first() {
            Some(&ANY) => self.u8().map(|_| RawPattern::Any),
            Some(of) if TYPED.contains(of) => self.u8().map(|of| RawPattern::Typed(of & !FORMAL)),
            _ => self.field().map(RawPattern::Is),
        }
    }
}

/// A tuple's bytes, checked.
pub(super) struct RawTuple<'a> {
    pub bytes: &'a [u8],
    /// Of each field.
    pub fields: Vec<&'a [u8]>,
}

impl<'a> RawTuple<'a> {
    /// A tuple that was checked when it came in.
    pub fn of_kept(bytes: &'a [u8]) -> Self {
        Self { bytes, fields: Fields::of_kept(bytes).collect() }
    }

    pub fn decode(&self) -> Vec<Field> {
        self.fields.iter().map(|field| decode_field(field)).collect()
    }
}

/// The fields of a tuple that was checked when it came in.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn of_kept(bytes: &'a [u8]) -> Self {
        Self(&bytes[2..])
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = match *self.0.first()? {
            of if of == FieldType::Int as u8 => 9,
            _ => 5 + u32::from_le_bytes(self.0[1..5].try_into().expect("4 bytes")) as usize,
        };
        let (field, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(field)
    }
}

fn decode_field(field: &[u8]) -> Field {
    match field[0] {
        of if of == FieldType::Int as u8 => {
            Field::Int(i64::from_le_bytes(field[1..].try_into().expect("checked")))
        }
        of if of == FieldType::Text as u8 => Field::Text(String::from_utf8_lossy(&field[5..]).into_owned()),
        _ => Field::Bytes(field[5..].into()),
    }
}

/// A field of a template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RawPattern<'a> {
    Any,
    Typed(u8),
    Is(&'a [u8]),
}

impl RawPattern<'_> {
    fn matches(self, field: &[u8]) -> bool {
        match self {
            RawPattern::Any => true,
            RawPattern::Typed(of) => field[0] == of,
            RawPattern::Is(value) => field == value,
        }
    }
}

/// A template's bytes, checked.
pub(super) struct RawTemplate<'a> {
    pub bytes: &'a [u8],
    pub patterns: Vec<RawPattern<'a>>,
}

impl<'a> RawTemplate<'a> {
    /// Whether the fields of this tuple, which was checked when it came in, are as many, and each fits.
    pub fn matches(&self, tuple: &[u8]) -> bool {
        let count = u16::from_le_bytes([tuple[0], tuple[1]]);
        self.patterns.len() == usize::from(count)
            && self.patterns.iter().zip(Fields::of_kept(tuple)).all(|(pattern, field)| pattern.matches(field))
    }

    /// Whether it names no field's value and tuples with fields of these types match.
    pub fn takes_shape(&self, types: &[u8]) -> bool {
        let takes = |(pattern, of): (&RawPattern<'_>, &u8)| match pattern {
            RawPattern::Any => true,
            RawPattern::Typed(typed) => typed == of,
            RawPattern::Is(_) => false,
        };
        self.patterns.len() == types.len() && self.patterns.iter().zip(types).all(takes)
    }

    /// The fields that it names, with their places.
    pub fn named(&self) -> impl Iterator<Item = (usize, &'a [u8])> {
        self.patterns.iter().enumerate().filter_map(|(place, pattern)| match pattern {
            RawPattern::Is(value) => Some((place, *value)),
            _ => None,
        })
    }
}
