//! Stage 3: closed windows -> one encoded `wire::v1::Batch`; pure.
//!
//! One close is exactly one batch, because the gather thread closes before the windows outgrow it.
//! The number of a batch and the evictions before it are set when it is sent, not here.

mod pack;

use std::collections::BTreeMap;

use prost::Message as _;
use wire::v1::{self, Signal};
use wire::{UnixMillis, catalog};

use crate::logs::checkpoint::{FileKey, Fingerprint, Position};
use crate::logs::join::{Exemplar, SiteInfo};
use crate::window::{Change, Closed, LogEvidence, Loss, Samples, ServiceState};
pub use pack::{for_protocol, open};

/// Close the windows when their estimated size reaches this: it leaves room in a body for the
/// chunk of lines that is being folded, for the offsets of many files, and for an inventory.
pub const WINDOW_BYTES_MAX: usize = wire::BODY_BYTES_MAX / 2;

const MESSAGE_BYTES_MAX: usize = 512;
const TEXT_BYTES_MAX: usize = 1024;
/// Longest name of an owner: useradd takes 32 bytes, a configuration may say anything.
const OWNER_BYTES_MAX: usize = 64;

/// What a batch says beside the closed windows.
#[derive(Clone, Debug, Default)]
pub struct Cover {
    /// Agent's clock: no older count is unsent after this batch.
    pub complete_until: UnixMillis,
    /// Files that moved since the last batch.
    pub offsets: Vec<Position>,
    /// Pools of the server; set with all sites in the first batch of a run and when they change.
    pub inventory: Option<Vec<String>>,
}

/// A batch ready for the spool.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// A `wire::v1::Batch` without epoch and seq.
    pub payload: Vec<u8>,
    /// Log lines that its eviction would lose.
    pub n_lines: u32,
    /// Log bytes it accounts for: of these lines, and of what vanished before it was read.
    pub n_bytes: u64,
    /// Texts that had to stay out because the body was full; 0 unless something is very odd.
    pub n_left_out: u64,
}

/// Why a spooled batch does not tell its offsets.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// No `wire::v1::Batch`, or no `BatchBody` inside.
    #[error("spooled batch is no message of this version")]
    Message(#[from] prost::DecodeError),
    /// The body does not unpack.
    #[error("spooled batch does not unpack")]
    Frame(#[from] std::io::Error),
    /// A codec of another version.
    #[error("spooled batch has codec {0}")]
    Codec(u32),
}

/// Encodes one batch; `sites` are the judge's, which the windows index.
#[must_use]
pub fn encode(closed: &Closed, sites: &[SiteInfo], cover: &Cover) -> Encoded {
    let (mut body, t_min, t_max) = to_body(closed, sites, cover);
    let mut n_left_out = 0;
    let (mut codec, mut frame) = pack::pack(&body);
    if frame.len() > wire::BODY_BYTES_MAX {
        // Only texts of hostile size get here. Counts and offsets always fit; texts are optional.
        n_left_out = (body.exemplars.len() + body.log_lines.len() + body.changes.len()) as u64;
        body.loss.get_or_insert_default().n_exemplars_dropped += body.exemplars.len() as u64;
        let n_events = (body.log_lines.len() + body.changes.len()) as u64;
        body.loss.get_or_insert_default().n_events_dropped += n_events;
        body.exemplars.clear();
        body.log_lines.clear();
        body.changes.clear();
        body.inventory = None;
        (codec, frame) = pack::pack(&body);
    }
    assert!(frame.len() <= wire::BODY_BYTES_MAX, "windows close at half of it");
    let n_bytes = closed.n_line_bytes + closed.loss.n_bytes_lost;
    let batch = v1::Batch {
        complete_until_unix_ms: cover.complete_until.0,
        n_lines: closed.n_lines,
        n_bytes,
        t_min_unix_ms: t_min.0,
        t_max_unix_ms: t_max.0,
        urgent: closed.is_urgent,
        codec,
        body: frame.into(),
        ..v1::Batch::default()
    };
    Encoded { payload: batch.encode_to_vec(), n_lines: closed.n_lines, n_bytes, n_left_out }
}

/// The offsets a spooled batch covers, for the recovery of a checkpoint.
pub fn offsets(payload: &[u8]) -> Result<Vec<Position>, BatchError> {
    let body = open(&v1::Batch::decode(payload)?)?;
    Ok(body.offsets.into_iter().map(from_offset).collect())
}

/// Also the oldest and newest event time; equal to `complete_until` when there is no event.
fn to_body(
    closed: &Closed,
    sites: &[SiteInfo],
    cover: &Cover,
) -> (v1::BatchBody, UnixMillis, UnixMillis) {
    let mut table = SiteTable { all: sites, positions: BTreeMap::new(), rows: Vec::new() };
    let mut times = Times(None);
    let mut body = v1::BatchBody::default();
    for ((second, site), counts) in &closed.counts {
        times.note(UnixMillis::from_second(*second));
        body.seconds.push(v1::SiteSecond {
            site: table.position(*site),
            second: *second,
            status: counts.iter().map(|(status, _)| *status).collect(),
            count: counts.iter().map(|(_, n)| *n).collect(),
        });
    }
    for (site, exemplar) in &closed.exemplars {
        times.note(exemplar.at);
        let position = table.position(*site);
        body.exemplars.push(to_exemplar(position, exemplar));
    }
    (body.series, body.ticks) = to_ticks(&closed.samples);
    closed.samples.iter().for_each(|(at, _)| times.note(*at));
    closed.log_lines.iter().for_each(|line| times.note(line.at));
    closed.changes.iter().for_each(|change| times.note(change.at));
    body.services = closed.services.iter().map(to_service).collect();
    body.log_lines = closed.log_lines.iter().map(to_log_line).collect();
    body.changes = closed.changes.iter().map(to_change).collect();
    body.loss = (closed.loss != Loss::default()).then(|| to_loss(&closed.loss));
    body.offsets = cover.offsets.iter().map(to_offset).collect();
    body.inventory = cover.inventory.as_ref().map(|pools| v1::Inventory {
        sites: sites.iter().filter(|s| !s.is_removed).map(|site| to_site(site, true)).collect(),
        pools: pools.clone(),
    });
    body.sites = table.rows;
    let (t_min, t_max) = times.0.unwrap_or((cover.complete_until, cover.complete_until));
    (body, t_min, t_max)
}

struct Times(Option<(UnixMillis, UnixMillis)>);

impl Times {
    fn note(&mut self, at: UnixMillis) {
        let (low, high) = self.0.unwrap_or((at, at));
        self.0 = Some((low.min(at), high.max(at)));
    }
}

/// The sites a body speaks of, numbered as they come.
struct SiteTable<'s> {
    all: &'s [SiteInfo],
    positions: BTreeMap<u32, u32>,
    rows: Vec<v1::Site>,
}

impl SiteTable<'_> {
    fn position(&mut self, site: u32) -> u32 {
        *self.positions.entry(site).or_insert_with(|| {
            let site = self.all.get(site as usize).expect("the judge knows every site it names");
            self.rows.push(to_site(site, false));
            self.rows.len() as u32 - 1
        })
    }
}

fn to_site(site: &SiteInfo, with_aliases: bool) -> v1::Site {
    v1::Site {
        name: site.name.clone(),
        pool: site.pool.clone(),
        upstream: site.upstream.clone(),
        aliases: if with_aliases { site.aliases.clone() } else { Vec::new() },
        owner: cut(&site.owner, OWNER_BYTES_MAX),
    }
}

fn to_exemplar(site: u32, exemplar: &Exemplar) -> v1::Exemplar {
    v1::Exemplar {
        site,
        at_unix_ms: exemplar.at.0,
        status: u32::from(exemplar.status),
        signal: to_signal(exemplar.signal),
        client_hash: exemplar.client_hash,
        path_hash: exemplar.path_hash,
        client: cut(&exemplar.client, TEXT_BYTES_MAX),
        method: cut(&exemplar.method, TEXT_BYTES_MAX),
        path: cut(&exemplar.path, TEXT_BYTES_MAX),
        upstream: cut(&exemplar.upstream, TEXT_BYTES_MAX),
        message: exemplar.message.as_deref().map(|text| cut(text, MESSAGE_BYTES_MAX)),
        pool: cut(&exemplar.pool, TEXT_BYTES_MAX),
    }
}

/// A value outside its metric's range or of an unknown metric is absent.
fn to_ticks(samples: &[Samples]) -> (Vec<v1::Series>, Vec<v1::Tick>) {
    let mut positions: BTreeMap<(&str, &str), (u32, &catalog::Metric)> = BTreeMap::new();
    let mut series = Vec::new();
    let mut ticks: Vec<v1::Tick> = Vec::new();
    for (at, values) in samples {
        // What several probes say of one instant is one tick.
        let same = ticks.iter().rposition(|tick| tick.at_unix_ms == at.0);
        let place = same.unwrap_or_else(|| {
            ticks.push(v1::Tick { at_unix_ms: at.0, ..v1::Tick::default() });
            ticks.len() - 1
        });
        let tick = &mut ticks[place];
        for (metric, attribute, value) in values {
            // Looked up once a batch: the catalog is a list.
            let known = positions.get(&(*metric, attribute.as_str())).copied();
            let row = known.map(|(_, row)| row).or_else(|| catalog::find(metric));
            let Some((row, value)) = row.and_then(|row| Some((row, row.to_wire(*value)?))) else {
                continue;
            };
            let position = known.map_or(series.len() as u32, |(position, _)| position);
            if known.is_none() {
                positions.insert((metric, attribute), (position, row));
                series.push(v1::Series {
                    metric: (*metric).to_owned(),
                    attribute: attribute.clone(),
                });
            }
            tick.series.push(position);
            tick.value.push(value);
        }
    }
    (series, ticks)
}

fn to_service(state: &ServiceState) -> v1::ServiceState {
    v1::ServiceState {
        unit: state.unit.clone(),
        state: state.state.to_owned(),
        pool: state.pool.clone().unwrap_or_default(),
        at_unix_ms: state.at.0,
        sub_state: state.detail.sub_state.clone().unwrap_or_default(),
        n_restarts: state.detail.n_restarts,
        result: state.detail.result.clone().unwrap_or_default(),
        ended: state.detail.ended.map(|ended| ended.how.to_owned()).unwrap_or_default(),
        ended_status: state.detail.ended.map(|ended| ended.status),
    }
}

fn to_log_line(line: &LogEvidence) -> v1::LogLine {
    v1::LogLine {
        source: line.source.to_owned(),
        message: cut(&line.message, MESSAGE_BYTES_MAX),
        at_unix_ms: line.at.0,
        signal: to_signal(line.signal),
        pool: line.pool.clone().unwrap_or_default(),
    }
}

fn to_change(change: &Change) -> v1::Change {
    v1::Change {
        kind: change.kind.to_owned(),
        what: cut(&change.what, TEXT_BYTES_MAX),
        site: change.site.clone().unwrap_or_default(),
        pool: change.pool.clone().unwrap_or_default(),
        at_unix_ms: change.at.0,
        hash_before: change.hash_before.unwrap_or(0),
        hash_after: change.hash_after.unwrap_or(0),
        path: cut(&change.path, TEXT_BYTES_MAX),
    }
}

fn to_loss(loss: &Loss) -> v1::Loss {
    v1::Loss {
        n_lines_rejected: loss.n_lines_rejected,
        n_lines_lost: loss.n_lines_lost,
        n_bytes_lost: loss.n_bytes_lost,
        n_truncations: loss.n_truncations,
        n_exemplars_dropped: loss.n_exemplars_dropped,
        n_lines_other: loss.n_lines_other,
        n_times_clamped: loss.n_times_clamped,
        n_spool_records_corrupt: loss.n_spool_records_corrupt,
        n_events_dropped: loss.n_events_dropped,
        n_bytes_rejected: loss.n_bytes_rejected,
        n_bytes_recovered: loss.n_bytes_recovered,
        n_lines_too_long: loss.n_lines_too_long,
    }
}

fn to_offset(position: &Position) -> v1::FileOffset {
    v1::FileOffset {
        path: position.path.to_string_lossy().into_owned(),
        device: position.key.device,
        inode: position.key.inode,
        fingerprint: position.fingerprint.hash,
        fingerprint_bytes: position.fingerprint.bytes,
        offset: position.offset,
        done: position.is_done,
    }
}

fn from_offset(offset: v1::FileOffset) -> Position {
    Position {
        path: offset.path.into(),
        key: FileKey { device: offset.device, inode: offset.inode },
        fingerprint: Fingerprint { hash: offset.fingerprint, bytes: offset.fingerprint_bytes },
        offset: offset.offset,
        is_done: offset.done,
    }
}

fn to_signal(signal: Option<Signal>) -> i32 {
    i32::from(signal.unwrap_or(Signal::Unspecified))
}

/// At most `n_bytes` of a text, cut between characters.
fn cut(text: &str, n_bytes: usize) -> String {
    text[..text.floor_char_boundary(n_bytes)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::join::Request;
    use crate::window::{Observation, Windows};

    fn site(name: &str) -> SiteInfo {
        SiteInfo {
            name: name.to_owned(),
            aliases: vec![format!("www.{name}")],
            owner: format!("{}owner", name.split('.').next().unwrap_or_default()),
            ..SiteInfo::default()
        }
    }

    fn request(site: u32, second: i64, status: u16) -> Request {
        let exemplar = (status == 502).then(|| Exemplar {
            at: UnixMillis::from_second(second),
            status,
            signal: Some(Signal::Reset),
            path: "\u{fc}".repeat(5000),
            message: Some(String::new()),
            ..Exemplar::default()
        });
        Request {
            site,
            second,
            status,
            gateway_503: false,
            retried: false,
            crawler: false,
            own: false,
            exemplar,
            other: false,
            clamped: false,
        }
    }

    fn decode(payload: &[u8]) -> (v1::Batch, v1::BatchBody) {
        let batch = v1::Batch::decode(payload).unwrap();
        let body = open(&batch).unwrap();
        (batch, body)
    }

    #[test]
    fn a_batch_holds_what_was_folded() {
        let sites = [site("other"), site("a.example"), site("b.example")];
        let mut windows = Windows::default();
        for (site, second, status) in [(2, 11, 200), (2, 11, 502), (2, 11, 200), (1, 10, 404)] {
            windows.fold(request(site, second, status));
            windows.read(1, 100);
        }
        let values = vec![
            ("system.cpu.steal", String::new(), 0.25),
            ("system.cpu.steal", String::new(), f64::NAN),
            ("no.such.metric", String::new(), 1.0),
        ];
        windows.observe(Observation::Samples { at: UnixMillis(12_000), values });
        windows.lose(&Loss { n_truncations: 1, n_bytes_lost: 9, ..Loss::default() });
        let position = Position {
            path: "/var/log/a".into(),
            key: FileKey { device: 1, inode: 2 },
            fingerprint: Fingerprint::of(b"head"),
            offset: 77,
            is_done: false,
        };
        let done = Position { offset: 78, is_done: true, ..position.clone() };
        let cover = Cover {
            complete_until: UnixMillis(13_000),
            offsets: vec![position.clone(), done.clone()],
            inventory: Some(vec!["www".to_owned()]),
        };
        let encoded = encode(&windows.close(), &sites, &cover);
        assert_eq!((encoded.n_lines, encoded.n_bytes, encoded.n_left_out), (4, 409, 0));
        assert_eq!(offsets(&encoded.payload).unwrap(), [position, done]);

        let (batch, body) = decode(&encoded.payload);
        assert!(batch.urgent);
        assert_eq!((batch.t_min_unix_ms, batch.t_max_unix_ms), (10_000, 12_000));
        assert_eq!((batch.complete_until_unix_ms, batch.n_lines), (13_000, 4));
        assert_eq!(batch.n_bytes, 409, "lines and what vanished");
        let names: Vec<_> = body.sites.iter().map(|site| site.name.as_str()).collect();
        assert_eq!(names, ["a.example", "b.example"], "only sites it speaks of");
        let b = &body.seconds[1];
        assert_eq!((b.site, b.second, &b.status, &b.count), (1, 11, &vec![200, 502], &vec![2, 1]));
        assert_eq!(body.exemplars[0].path.len(), TEXT_BYTES_MAX);
        assert_eq!(body.exemplars[0].message.as_deref(), Some(""));
        assert_eq!((body.series.len(), &body.ticks[0].value), (1, &vec![2500]));
        assert_eq!(body.loss.unwrap().n_truncations, 1);
        let inventory = body.inventory.unwrap();
        assert_eq!((inventory.sites.len(), inventory.sites[1].aliases.len()), (3, 1));
        let owners = [&body.sites[0], &inventory.sites[2]].map(|site| site.owner.as_str());
        assert_eq!(owners, ["aowner", "bowner"], "each batch says whose its sites are");
    }

    #[test]
    fn windows_closed_at_their_limit_fit_one_body() {
        let sites: Vec<_> = (0..2000).map(|n| site(&format!("site-{n}.example"))).collect();
        let mut windows = Windows::default();
        let mut n = 0_u32;
        while windows.n_bytes() < WINDOW_BYTES_MAX {
            windows.fold(request(n % 2000, i64::from(n / 50), 502));
            n += 1;
        }
        let encoded = encode(&windows.close(), &sites, &Cover::default());
        assert_eq!(encoded.n_left_out, 0);
        assert!(decode(&encoded.payload).0.body.len() <= wire::BODY_BYTES_MAX);
    }

    #[test]
    fn a_body_of_hostile_texts_keeps_its_counts_and_says_what_it_left_out() {
        let mut closed = Closed::default();
        closed.counts.insert((1, 0), vec![(502, 3)]);
        let mut state = 1_u64;
        for _ in 0..4000 {
            let noise = (0..MESSAGE_BYTES_MAX).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                char::from(33 + (state >> 33) as u8 % 90)
            });
            closed.changes.push(Change::new("config", noise.collect(), UnixMillis(1)));
        }
        let encoded = encode(&closed, &[site("a")], &Cover::default());
        assert_eq!(encoded.n_left_out, 4000);
        let (_, body) = decode(&encoded.payload);
        assert_eq!(body.loss.unwrap().n_events_dropped, 4000);
        assert_eq!(body.seconds[0].count, [3]);
    }

    #[test]
    fn garbage_in_the_spool_is_an_error_not_a_panic() {
        for garbage in [&b"\xff\xff\xff"[..], b"", b"\x58\x01\x5a\x03abc"] {
            assert!(offsets(garbage).is_err(), "{garbage:?}");
        }
    }
}
