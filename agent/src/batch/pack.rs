//! Bodies to bytes and back: small ones with the dictionary of the contract, large ones without.
//!
//! The spool holds batches as they are packed here. A collector of before the dictionary is sent the same
//! batch packed as it knows it: what is counted where does not change with it.

use std::sync::LazyLock;

use prost::Message as _;
use wire::v1::{Batch, BatchBody};
use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

use super::BatchError;

const ZSTD_LEVEL: i32 = 3;
/// With the dictionary. Higher ones take five times as long, and ten times as long to open, for 2 % less.
const ZSTD_LEVEL_DICTIONARY: i32 = 7;
/// Of small bodies without it, for collectors of before.
const ZSTD_LEVEL_SMALL: i32 = 15;
/// Largest body, unpacked, that is packed with the dictionary; a larger one says its names only once.
const SMALL_BYTES_MAX: usize = 16 << 10;

static PACKING: LazyLock<EncoderDictionary<'static>> =
    LazyLock::new(|| EncoderDictionary::copy(wire::dictionary(), ZSTD_LEVEL_DICTIONARY));
static OPENING: LazyLock<DecoderDictionary<'static>> =
    LazyLock::new(|| DecoderDictionary::copy(wire::dictionary()));

/// The body as it travels, with its codec.
pub(super) fn pack(body: &BatchBody) -> (u32, Vec<u8>) {
    let bytes = body.encode_to_vec();
    assert!(bytes.len() <= wire::BODY_UNPACKED_BYTES_MAX, "windows close long before");
    let packed = if bytes.len() <= SMALL_BYTES_MAX {
        let small = Compressor::with_prepared_dictionary(&PACKING).and_then(|mut packing| {
            // The codec says which dictionary.
            packing.include_dictid(false)?;
            compress(packing, &bytes)
        });
        small.map(|frame| (wire::CODEC_ZSTD_DICTIONARY, frame))
    } else {
        plain(&bytes, ZSTD_LEVEL).map(|frame| (wire::CODEC_ZSTD_BODY, frame))
    };
    packed.expect("compressing memory to memory cannot fail")
}

fn plain(bytes: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
    compress(Compressor::new(level)?, bytes)
}

fn compress(mut packing: Compressor<'_>, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    // Four bytes by which whoever opens it finds a flipped bit, here and years later.
    packing.include_checksum(true)?;
    packing.compress(bytes)
}

/// The body of a batch.
pub fn open(batch: &Batch) -> Result<BatchBody, BatchError> {
    Ok(BatchBody::decode(unpack(batch)?.as_slice())?)
}

fn unpack(batch: &Batch) -> Result<Vec<u8>, BatchError> {
    let mut opening = match batch.codec {
        wire::CODEC_ZSTD_BODY => Decompressor::new()?,
        wire::CODEC_ZSTD_DICTIONARY => Decompressor::with_prepared_dictionary(&OPENING)?,
        codec => return Err(BatchError::Codec(codec)),
    };
    Ok(opening.decompress(&batch.body, wire::BODY_UNPACKED_BYTES_MAX)?)
}

/// The batch as a collector takes it that speaks this protocol version. One that cannot be opened goes as it
/// is: the collector stores the reason, and its watermark passes.
#[must_use]
pub fn for_protocol(mut batch: Batch, version: u32) -> Batch {
    if batch.codec == wire::CODEC_ZSTD_DICTIONARY && version < wire::PROTOCOL_DICTIONARY {
        let packed = unpack(&batch).and_then(|bytes| Ok(plain(&bytes, ZSTD_LEVEL_SMALL)?));
        match packed {
            Ok(frame) => (batch.codec, batch.body) = (wire::CODEC_ZSTD_BODY, frame.into()),
            Err(error) => tracing::error!(%error, "a spooled batch does not open, sent as it is"),
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::v1::{Series, Site, SiteSecond, Tick};

    use super::*;

    fn batch(body: &BatchBody) -> Batch {
        let (codec, packed) = pack(body);
        Batch { codec, body: packed.into(), seq: 7, n_lines: 3, n_bytes: 300, ..Batch::default() }
    }

    fn with_sites(n: i64) -> BatchBody {
        let seconds = (0..n).map(|second| SiteSecond {
            site: 0,
            second,
            status: vec![200],
            count: vec![second.unsigned_abs() as u32 + 1],
        });
        let site = Site { name: "a.example".to_owned(), ..Site::default() };
        BatchBody { sites: vec![site], seconds: seconds.collect(), ..BatchBody::default() }
    }

    #[test]
    fn a_flipped_bit_of_a_body_never_unpacks_to_something_else() {
        for (n, codec) in [(40, 2), (2000, 1)] {
            let (body, whole) = (with_sites(n), batch(&with_sites(n)));
            assert_eq!(whole.codec, codec, "large bodies need no dictionary");
            let mut n_found = 0;
            let bits = 0..whole.body.len() * 8;
            for bit in bits.clone().step_by(bits.len() / 1000 + 1) {
                let mut bytes = whole.body.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                match open(&Batch { body: bytes.into(), ..whole.clone() }) {
                    Ok(other) => assert_eq!(other, body, "bit {bit}"),
                    Err(_) => n_found += 1,
                }
            }
            assert!(n_found * 8 > bits.len().min(1000) * 3, "{n_found} of {} bits", bits.len());
        }
    }

    #[test]
    fn a_body_of_a_server_at_rest_takes_three_bytes_a_value() {
        let metrics = wire::catalog::METRICS.iter().take(80).enumerate();
        let body = BatchBody {
            series: metrics
                .clone()
                .map(|(_, row)| Series { metric: row.name.to_owned(), ..Series::default() })
                .collect(),
            ticks: vec![Tick {
                at_unix_ms: 1_800_000_000_000,
                series: (0..80).collect(),
                value: metrics.map(|(no, _)| 977_i64.pow(no as u32 % 4)).collect(),
            }],
            ..BatchBody::default()
        };
        let packed = batch(&body);
        let before = for_protocol(packed.clone(), 1);
        assert!(packed.body.len() <= 3 * 160, "{} bytes", packed.body.len());
        assert!(packed.body.len() * 3 < before.body.len() * 2, "{} bytes", before.body.len());
    }

    #[test]
    fn a_damaged_record_goes_to_an_older_collector_as_it_is() {
        let mut damaged = batch(&with_sites(40));
        damaged.body = damaged.body.slice(..20);
        assert_eq!(for_protocol(damaged.clone(), 1), damaged);
    }

    proptest! {
        #[test]
        fn whatever_is_packed_is_read_the_same_by_collectors_of_both_kinds(
            names in prop::collection::vec("[a-z.]{0,20}", 0..40),
            values in prop::collection::vec(any::<i64>(), 0..3000),
            second: i64,
        ) {
            let body = BatchBody {
                sites: names.into_iter().map(|name| Site { name, ..Site::default() }).collect(),
                ticks: vec![Tick { at_unix_ms: second, series: Vec::new(), value: values }],
                ..BatchBody::default()
            };
            let packed = batch(&body);
            let is_small = body.encoded_len() <= SMALL_BYTES_MAX;
            prop_assert_eq!(packed.codec, 1 + u32::from(is_small));
            prop_assert_eq!(&for_protocol(packed.clone(), 2), &packed);
            let before = for_protocol(packed.clone(), 1);
            prop_assert_eq!(before.codec, 1);
            prop_assert_eq!(open(&packed).unwrap(), open(&before).unwrap());
            prop_assert_eq!(open(&before).unwrap(), body);
            let rest = |batch: Batch| Batch { codec: 0, body: Vec::new().into(), ..batch };
            prop_assert_eq!(rest(packed), rest(before), "nothing else of it changes");
        }
    }
}
