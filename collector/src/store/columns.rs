//! Columns of integers as bytes and back, pure: what bodies of blocks are made of.
//!
//! Codec ids are part of the file format: new ones are added, old ones never reused.
//! 0 constant: empty when all values are 0, else the value as a zigzag varint.
//! 1 pco level 8, i32. 2 delta, zigzag, varint, zstd. 3 pco level 8, i64.
//! The number of values is never in the bytes: whoever keeps them keeps it, and it bounds what is decoded.

use std::cell::RefCell;

use pco::ChunkConfig;
use pco::data_types::Number;
use pco::standalone::{simple_compress, simple_decompress_into};
use thiserror::Error;
use zstd::bulk::Compressor;

/// Compression level of pco; beyond it columns of an hour get no smaller.
const PCO_LEVEL: usize = 8;
const ZSTD_LEVEL: i32 = 9;
/// Most values of a column that is believed: every second of an hour for a full list of sites is less.
pub(crate) const VALUES_MAX: usize = 1 << 24;

thread_local! {
    /// Making one takes longer than packing a column.
    static COMPRESSOR: RefCell<Compressor<'static>> = compressor();
}

const CONSTANT: u8 = 0;
const PCO_I32: u8 = 1;
const VARINT: u8 = 2;
const PCO_I64: u8 = 3;

/// A column as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Which of the codecs of the module.
    pub(crate) codec: u8,
    /// Its bytes.
    pub(crate) body: Vec<u8>,
}

/// Bytes that are no column of so many values.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum BadColumn {
    #[error("codec {0} is not known to this release")]
    Codec(u8),
    #[error("it has {found} values, not {wanted}")]
    Length { found: usize, wanted: usize },
    #[error("it cannot be decoded")]
    Body,
}

/// Packs a column in the way that takes least.
pub(crate) fn pack(values: &[i64]) -> Packed {
    let Some(first) = values.first() else { return Packed { codec: CONSTANT, body: Vec::new() } };
    if values.iter().all(|value| value == first) {
        let mut body = Vec::new();
        if *first != 0 {
            put_varint(&mut body, zigzag(*first));
        }
        return Packed { codec: CONSTANT, body };
    }
    let varint = Packed { codec: VARINT, body: pack_varint(values) };
    let small: Option<Vec<i32>> = values.iter().map(|value| i32::try_from(*value).ok()).collect();
    let config = ChunkConfig::default().with_compression_level(PCO_LEVEL);
    let pco = match small {
        Some(small) => (PCO_I32, simple_compress(&small, &config)),
        None => (PCO_I64, simple_compress(values, &config)),
    };
    match pco {
        (codec, Ok(body)) if body.len() <= varint.body.len() => Packed { codec, body },
        _ => varint,
    }
}

/// The `n` values of a column. Takes no more memory than they need.
pub(crate) fn unpack(codec: u8, body: &[u8], n: usize) -> Result<Vec<i64>, BadColumn> {
    if n > VALUES_MAX {
        return Err(BadColumn::Length { found: VALUES_MAX, wanted: n });
    }
    let values = match codec {
        CONSTANT => vec![constant(body)?; n],
        PCO_I32 => unpack_pco::<i32>(body, n)?.into_iter().map(i64::from).collect(),
        PCO_I64 => unpack_pco(body, n)?,
        VARINT => unpack_varint(body, n)?,
        other => return Err(BadColumn::Codec(other)),
    };
    if values.len() == n {
        Ok(values)
    } else {
        Err(BadColumn::Length { found: values.len(), wanted: n })
    }
}

/// Into memory that is there: what the bytes say of their number is not believed.
fn unpack_pco<T: Number + Default>(body: &[u8], n: usize) -> Result<Vec<T>, BadColumn> {
    let mut values = vec![T::default(); n + 1];
    let end = simple_decompress_into(body, &mut values).map_err(|_| BadColumn::Body)?;
    if !end.finished || end.n_processed != n {
        return Err(BadColumn::Length { found: end.n_processed, wanted: n });
    }
    values.truncate(n);
    Ok(values)
}

fn constant(body: &[u8]) -> Result<i64, BadColumn> {
    let mut rest = body;
    let value = if rest.is_empty() { 0 } else { take_varint(&mut rest).ok_or(BadColumn::Body)? };
    if rest.is_empty() { Ok(unzigzag(value)) } else { Err(BadColumn::Body) }
}

fn pack_varint(values: &[i64]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(values.len());
    let mut last = 0_i64;
    for value in values {
        put_varint(&mut plain, zigzag(value.wrapping_sub(last)));
        last = *value;
    }
    COMPRESSOR.with_borrow_mut(|kept| kept.compress(&plain).expect("memory can be compressed"))
}

fn compressor() -> RefCell<Compressor<'static>> {
    RefCell::new(Compressor::new(ZSTD_LEVEL).expect("the level is one of zstd's"))
}

fn unpack_varint(body: &[u8], n: usize) -> Result<Vec<i64>, BadColumn> {
    let plain = zstd::bulk::decompress(body, n.saturating_mul(10)).map_err(|_| BadColumn::Body)?;
    let (mut rest, mut last, mut values) = (plain.as_slice(), 0_i64, Vec::with_capacity(n));
    while !rest.is_empty() && values.len() <= n {
        last = last.wrapping_add(unzigzag(take_varint(&mut rest).ok_or(BadColumn::Body)?));
        values.push(last);
    }
    Ok(values)
}

pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// Appends a number, seven bits a byte, the lowest first.
pub(crate) fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push((value as u8) | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Takes a number off the front; `None` where there is none, or one beyond 64 bits.
#[inline]
pub(crate) fn take_varint(from: &mut &[u8]) -> Option<u64> {
    match from.split_first() {
        // Most are small.
        Some((byte, rest)) if *byte < 0x80 => {
            *from = rest;
            Some(u64::from(*byte))
        }
        _ => take_long_varint(from),
    }
}

fn take_long_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(values: &[i64], codec: u8) {
        let packed = pack(values);
        assert_eq!(packed.codec, codec, "{values:?}");
        assert_eq!(unpack(packed.codec, &packed.body, values.len()).unwrap(), values);
        assert!(unpack(packed.codec, &packed.body, values.len() + 1).is_err() || codec == CONSTANT);
    }

    #[test]
    fn each_column_takes_the_codec_that_fits() {
        check(&[], CONSTANT);
        check(&[0; 360], CONSTANT);
        check(&[-7; 360], CONSTANT);
        check(&[i64::MIN; 2], CONSTANT);
        let noise: Vec<i64> =
            (0..360).map(|ix: i64| (ix * ix * 7919 + ix * ix * ix * 31) % 1009).collect();
        check(&noise, PCO_I32);
        let large: Vec<i64> = noise.iter().map(|value| value << 40).collect();
        check(&large, PCO_I64);
        check(&[1, 2], VARINT);
        check(&[i64::MIN, i64::MAX], VARINT);
    }

    proptest! {
        #[test]
        fn every_column_comes_back(values in prop::collection::vec(any::<i64>(), 0..400)) {
            let packed = pack(&values);
            prop_assert_eq!(unpack(packed.codec, &packed.body, values.len()), Ok(values));
        }

        #[test]
        fn any_bytes_are_a_column_or_refused(
            codec in 0_u8..6, body in prop::collection::vec(any::<u8>(), 0..200), n in 0_usize..500,
        ) {
            if let Ok(values) = unpack(codec, &body, n) {
                prop_assert_eq!(values.len(), n);
            }
        }
    }
}
