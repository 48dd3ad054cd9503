//! Bodies of the rows of a day file, pure: what a server's hour is as bytes, and back.

use prost::Message as _;
use wire::v1::BatchBody;

use super::super::columns::{self, Packed, put_varint, take_varint};
use super::{BlockError, HAS_COUNTS, HAS_EVENTS, Place, ServerHour, SiteCount, Summary, bad};
use crate::model::SiteId;

/// Low bits of a key of the site columns that hold the status.
const STATUS_BITS: u32 = 10;
const ZSTD_LEVEL: i32 = 9;
/// Most counts of one server and hour; no more are packed.
pub(crate) const COUNTS_MAX: usize = 1 << 22;

/// Batches a part of a server's hour is made of: life of the spool, first and last position; in order.
pub(crate) type Cover = Vec<(u64, u64, u64)>;

/// A server's hour as it is written: much smaller than what it is made of.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    pub(super) place: Place,
    pub(super) columns: Vec<EncodedColumn>,
    /// Checksum and list of the metrics, checksum and list of the batches.
    pub(super) presence: (i64, Vec<u8>, i64, Vec<u8>),
    /// Number, checksum and body.
    pub(super) counts: Option<(i64, i64, Vec<u8>)>,
    /// The same.
    pub(super) events: Option<(i64, i64, Vec<u8>)>,
}

/// A row of `block`.
#[derive(Clone, Debug)]
pub(super) struct EncodedColumn {
    pub(super) metric: i64,
    pub(super) codec: u8,
    pub(super) summary: Summary,
    pub(super) crc: i64,
    pub(super) body: Vec<u8>,
}

impl Encoded {
    /// Packs an hour, and says which batches it is made of.
    pub(crate) fn new(place: Place, hour: &ServerHour, cover: &Cover) -> Self {
        let (mut metrics, mut last) = (Vec::new(), 0_i64);
        for column in &hour.columns {
            debug_assert!(column.metric > last, "metrics rise");
            put_varint(&mut metrics, (column.metric - last).cast_unsigned());
            last = column.metric;
        }
        let mut batches = Vec::new();
        for (epoch, first, last) in cover {
            for number in [*epoch, *first, last - first] {
                put_varint(&mut batches, number);
            }
        }
        let has = has(!hour.counts.is_empty(), hour.events != BatchBody::default());
        let presence = (
            crc(Kind::Presence, place, 0, &[has], &metrics),
            metrics,
            crc(Kind::Cover, place, 0, &[], &batches),
            batches,
        );
        let counts = (!hour.counts.is_empty()).then(|| {
            let (n, body) = (hour.counts.len() as i64, pack_counts(&hour.counts));
            (n, crc(Kind::Counts, place, 0, &[n], &body), body)
        });
        let events = (hour.events != BatchBody::default()).then(|| {
            let plain = hour.events.encode_to_vec();
            let body = zstd::bulk::compress(&plain, ZSTD_LEVEL).expect("memory can be compressed");
            let n = plain.len() as i64;
            (n, crc(Kind::Events, place, 0, &[n], &body), body)
        });
        let columns = hour.columns.iter().map(|column| encode_column(place, column)).collect();
        Self { place, columns, presence, counts, events }
    }

    /// Which rows it has beside its columns.
    pub(super) fn has(&self) -> i64 {
        has(self.counts.is_some(), self.events.is_some())
    }

    /// Bytes of its bodies.
    pub(crate) fn n_bytes(&self) -> u64 {
        let columns: usize = self.columns.iter().map(|column| column.body.len()).sum();
        let rest =
            |body: &Option<(i64, i64, Vec<u8>)>| body.as_ref().map_or(0, |body| body.2.len());
        (columns + rest(&self.counts) + rest(&self.events)) as u64
    }
}

fn has(counts: bool, events: bool) -> i64 {
    i64::from(counts) * HAS_COUNTS + i64::from(events) * HAS_EVENTS
}

fn encode_column(place: Place, column: &super::Column) -> EncodedColumn {
    let summary = column.summary();
    let Packed { codec, body: values } = columns::pack(&column.values);
    let mut body = Vec::with_capacity(values.len() + 8);
    put_ticks(&mut body, &column.at);
    body.extend(values);
    let Summary { n, min, max, sum } = summary;
    let numbers = [n.cast_signed(), i64::from(codec), min, max, sum];
    let crc = crc(Kind::Column, place, column.metric, &numbers, &body);
    EncodedColumn { metric: column.metric, codec, summary, crc, body }
}

/// The batches of a list; `None` where it is none.
pub(super) fn take_cover(mut from: &[u8]) -> Option<Cover> {
    let mut cover = Vec::new();
    while !from.is_empty() {
        let [epoch, first, more] =
            [take_varint(&mut from)?, take_varint(&mut from)?, take_varint(&mut from)?];
        cover.push((epoch, first, first.checked_add(more)?));
    }
    Some(cover)
}

/// Three columns: site and status, second, count; each with its codec and length before it.
pub(super) fn pack_counts(counts: &[SiteCount]) -> Vec<u8> {
    let key = |count: &SiteCount| (count.site.0 << STATUS_BITS) | i64::from(count.status);
    let columns: [Vec<i64>; 3] = [
        counts.iter().map(key).collect(),
        counts.iter().map(|count| i64::from(count.second)).collect(),
        counts.iter().map(|count| i64::try_from(count.n).unwrap_or(i64::MAX)).collect(),
    ];
    let mut body = Vec::new();
    for column in columns {
        let packed = columns::pack(&column);
        body.push(packed.codec);
        put_varint(&mut body, packed.body.len() as u64);
        body.extend(packed.body);
    }
    body
}

pub(super) fn unpack_counts(n: usize, body: &[u8]) -> Result<Vec<SiteCount>, BlockError> {
    if n > COUNTS_MAX {
        return Err(bad("it says it has too many counts"));
    }
    let mut rest = body;
    let mut column = || -> Result<Vec<i64>, BlockError> {
        let (codec, tail) = rest.split_first().ok_or_else(|| bad("the counts are cut"))?;
        rest = tail;
        let length = take_varint(&mut rest).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= rest.len());
        let (one, tail) = rest.split_at(length.ok_or_else(|| bad("the counts are cut"))?);
        rest = tail;
        columns::unpack(*codec, one, n).map_err(|error| BlockError::Bad(error.to_string()))
    };
    let (keys, seconds, numbers) = (column()?, column()?, column()?);
    let is_right = |(key, second): (&i64, &i64)| *key >= 0 && (0..3600).contains(second);
    if !rest.is_empty() || !keys.iter().zip(&seconds).all(is_right) {
        return Err(bad("the counts are wrong"));
    }
    let one = |((key, second), n): ((i64, i64), i64)| SiteCount {
        site: SiteId(key >> STATUS_BITS),
        status: (key & ((1 << STATUS_BITS) - 1)) as u16,
        second: second as u16,
        n: n.cast_unsigned(),
    };
    Ok(keys.into_iter().zip(seconds).zip(numbers).map(one).collect())
}

/// Runs of equal steps: their number, then of each the gap to the last tick, the step, how many follow.
pub(super) fn put_ticks(to: &mut Vec<u8>, ticks: &[u16]) {
    let mut runs: Vec<(u16, u16, u16)> = Vec::new(); // first, step, how many after the first
    for tick in ticks {
        match runs.last_mut() {
            Some((first, step, more)) if *more == 0 && tick > first => {
                (*step, *more) = (tick - *first, 1);
            }
            Some((first, step, more)) if *first + *step * (*more + 1) == *tick => *more += 1,
            _ => runs.push((*tick, 0, 0)),
        }
    }
    put_varint(to, runs.len() as u64);
    let mut last = 0;
    for (first, step, more) in runs {
        for number in [first - last, step, more] {
            put_varint(to, u64::from(number));
        }
        last = first + step * more;
    }
}

/// `n` ticks off the front; `None` where they are no rising seconds of an hour.
pub(super) fn take_ticks(from: &mut &[u8], n: usize) -> Option<Vec<u16>> {
    if n > 3600 {
        return None;
    }
    let mut ticks: Vec<u16> = Vec::with_capacity(n);
    let mut last = 0_u64;
    for _ in 0..take_varint(from)? {
        let [gap, step, more] = [take_varint(from)?, take_varint(from)?, take_varint(from)?];
        let first = last.checked_add(gap)?;
        last = first.checked_add(step.checked_mul(more)?)?;
        if last >= 3600 || more >= (n - ticks.len()) as u64 {
            return None;
        }
        ticks.extend((0..=more).map(|ix| (first + step * ix) as u16));
    }
    let rises = ticks.windows(2).all(|pair| pair[0] < pair[1]);
    (rises && ticks.len() == n).then_some(ticks)
}

/// What a body is: two of one place must not be taken for each other.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Column = 1,
    Counts = 2,
    Events = 3,
    Presence = 4,
    Cover = 5,
    Hour = 6,
}

pub(super) fn crc(kind: Kind, place: Place, metric: i64, numbers: &[i64], body: &[u8]) -> i64 {
    let key = [kind as i64, place.t0, metric, place.server.0, i64::from(place.part)];
    let head: Vec<u8> = key.iter().chain(numbers).flat_map(|number| number.to_le_bytes()).collect();
    // Signed: SQLite keeps it in four bytes then.
    i64::from(crc32c::crc32c_append(crc32c::crc32c(&head), body).cast_signed())
}
