//! Single values of a line as their writers may put them: numbers, texts and hashes. Pure.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// A whole number; null is none.
pub(super) struct Whole(pub(super) Option<i64>);

impl<'l> Deserialize<'l> for Whole {
    fn deserialize<D: Deserializer<'l>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(WholeVisitor)
    }
}

struct WholeVisitor;

impl Visitor<'_> for WholeVisitor {
    type Value = Whole;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<Whole, E> {
        Ok(Whole(Some(i64::try_from(n).unwrap_or(i64::MAX))))
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<Whole, E> {
        Ok(Whole(Some(n)))
    }

    fn visit_f64<E: Error>(self, n: f64) -> Result<Whole, E> {
        if n.fract() == 0.0 && n.abs() < 9e18 {
            Ok(Whole(Some(n as i64)))
        } else {
            Err(E::custom(format_args!("{n} is no whole number")))
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Whole, E> {
        Ok(Whole(None))
    }
}

/// A text, or what can be meant as one; null is none.
pub(super) struct Text<'l>(pub(super) Option<Cow<'l, str>>);

impl<'l> Deserialize<'l> for Text<'l> {
    fn deserialize<D: Deserializer<'l>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'l> Visitor<'l> for TextVisitor {
    type Value = Text<'l>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'l str) -> Result<Text<'l>, E> {
        Ok(Text(Some(Cow::Borrowed(text))))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text<'l>, E> {
        Ok(Text(Some(Cow::Owned(text.to_owned()))))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Text<'l>, E> {
        Ok(Text(Some(Cow::Owned(value.to_string()))))
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<Text<'l>, E> {
        Ok(Text(Some(Cow::Owned(n.to_string()))))
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<Text<'l>, E> {
        Ok(Text(Some(Cow::Owned(n.to_string()))))
    }

    fn visit_f64<E: Error>(self, n: f64) -> Result<Text<'l>, E> {
        Ok(Text(Some(Cow::Owned(n.to_string()))))
    }

    fn visit_unit<E: Error>(self) -> Result<Text<'l>, E> {
        Ok(Text(None))
    }
}

/// A hash: a number, or a text: 16 hexadecimal digits are that number, any other is hashed.
pub(super) struct Hash(pub(super) u64);

impl<'l> Deserialize<'l> for Hash {
    fn deserialize<D: Deserializer<'l>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(HashVisitor)
    }
}

struct HashVisitor;

impl Visitor<'_> for HashVisitor {
    type Value = Hash;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a hash, as a number or a text")
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<Hash, E> {
        Ok(Hash(n))
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<Hash, E> {
        Ok(Hash(n.cast_unsigned()))
    }

    fn visit_f64<E: Error>(self, n: f64) -> Result<Hash, E> {
        Ok(Hash(n.to_bits()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Hash, E> {
        let is_number = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = is_number.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        Ok(Hash(number.unwrap_or_else(|| match text {
            "" => 0,
            text => fnv_1a(text.as_bytes()).max(1),
        })))
    }

    fn visit_unit<E: Error>(self) -> Result<Hash, E> {
        Ok(Hash(0))
    }
}

/// FNV-1a, 64 bit (Fowler, Noll, Vo): the same text is the same client, in every run.
pub(super) fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
