//! Bodies as agents pack them.

use std::sync::LazyLock;

use prost::Message as _;
use wire::v1::BatchBody;
use zstd::bulk::Compressor;
use zstd::dict::EncoderDictionary;

/// Levels of small bodies, with the dictionary, and of large ones.
const LEVEL_SMALL: i32 = 7;
const LEVEL: i32 = 3;
const SMALL_BYTES_MAX: usize = 16 << 10;

static DICTIONARY: LazyLock<EncoderDictionary<'static>> =
    LazyLock::new(|| EncoderDictionary::copy(wire::dictionary(), LEVEL_SMALL));

/// A body with its codec.
pub(crate) fn pack(body: &BatchBody) -> (u32, Vec<u8>) {
    let bytes = body.encode_to_vec();
    let (codec, packing) = if bytes.len() <= SMALL_BYTES_MAX {
        (wire::CODEC_ZSTD_DICTIONARY, Compressor::with_prepared_dictionary(&DICTIONARY))
    } else {
        (wire::CODEC_ZSTD_BODY, Compressor::new(LEVEL))
    };
    let packed = packing.and_then(|mut packing| {
        packing.include_dictid(false)?;
        packing.include_checksum(true)?;
        packing.compress(&bytes)
    });
    (codec, packed.expect("memory to memory"))
}
