//! Wire to model, pure: what a batch holds, for the store and for the detector.
//!
//! Invariant: no input panics or takes more memory than a fixed multiple of
//! `BODY_UNPACKED_BYTES_MAX`. What makes no sense is left out and counted.

mod unpack;

use wire::signal::counter;
use wire::v1::{self, BatchBody, Signal};
use wire::{UnixMillis, catalog};

use crate::model::{Counts, Exemplar, Record, ServerId, SiteId};
use crate::store::{self, HotRow, Ledger, NewBatch, OTHER, SiteRow, SiteSeen};
use unpack::{ANY, SMALL};
pub use unpack::{Opened, Reason, Unpacker, unpack};

/// Most sites of one body that are stored; an agent names at most `sites_max`.
const SITES_MAX: usize = 20_000;
/// Work that a body is taken for which cannot be read: unpacking it was the most of it.
const N_ENTRIES_UNREADABLE: usize = 20_000;
/// Longest site, pool, unit or upstream name kept, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// Longest text kept for the detector, in bytes; the agent sends at most 512.
pub(crate) const TEXT_BYTES_MAX: usize = 2048;
/// Largest single step of the loss ledger that is believed.
const LOSS_STEP_MAX: u64 = 1 << 40;

/// What the store has to know of a body beside its bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Sites named in it, each once.
    pub sites: Vec<SiteSeen>,
    /// Steps of the loss ledger, by name; zeros left out.
    pub losses: Vec<(&'static str, u64)>,
    /// Entries: what it costs the detector to read it.
    pub n_entries: usize,
    /// Oldest and newest time in it that is no nonsense; `None` when there is none. States of services
    /// are not asked: theirs says since when.
    pub times: Option<(UnixMillis, UnixMillis)>,
}

/// A batch that came.
#[derive(Debug)]
pub struct Taken {
    /// As the store takes it.
    pub new: NewBatch,
    /// Number of its entries.
    pub n_entries: usize,
    /// Its body, or why there is none.
    pub opened: Result<Opened, Reason>,
}

/// A stored batch as the detector reads it.
#[derive(Debug, Default, PartialEq)]
pub struct Unpacked {
    /// In order of event time; within one second context first, then exemplars, then counts.
    pub records: Vec<Record>,
    /// Entries left out because they make no sense, e.g. name a site that is not there.
    pub n_refused: u64,
    /// It was stored whole and does not unpack any more.
    pub is_damaged: bool,
}

/// Reads a batch that arrived at `at` once, for its sites, its losses and its times.
pub fn decode(batch: &v1::Batch, at: UnixMillis) -> Result<Decoded, Reason> {
    Ok(describe(&unpack(batch.codec, &batch.body)?, at))
}

fn describe(body: &BatchBody, at: UnixMillis) -> Decoded {
    let inventory = body.inventory.iter().flat_map(|inventory| &inventory.sites);
    let mut sites: Vec<SiteSeen> = body.sites.iter().chain(inventory).filter_map(seen).collect();
    sites.sort();
    // Of one name the row that knows pool, upstream or owner wins: `None` sorts first.
    sites.reverse();
    sites.dedup_by(|a, b| a.name == b.name);
    let mut losses = losses(body.loss.as_ref());
    if sites.len() > SITES_MAX {
        losses.push(("n_sites_refused", (sites.len() - SITES_MAX) as u64));
        sites.truncate(SITES_MAX);
    }
    Decoded { sites, losses, n_entries: weight(body), times: times(body, at) }
}

/// Oldest and newest time that can be believed of a body that arrived at `at`.
fn times(body: &BatchBody, at: UnixMillis) -> Option<(UnixMillis, UnixMillis)> {
    let seconds = body.seconds.iter().map(|second| UnixMillis::from_second(second.second).0);
    let exemplars = body.exemplars.iter().map(|exemplar| exemplar.at_unix_ms);
    let ticks = body.ticks.iter().map(|tick| tick.at_unix_ms);
    let lines = body.log_lines.iter().map(|line| line.at_unix_ms);
    let changes = body.changes.iter().map(|change| change.at_unix_ms);
    let all = seconds.chain(exemplars).chain(ticks).chain(lines).chain(changes);
    all.map(UnixMillis).filter(|event| store::is_plausible(at, *event)).fold(None, |ends, event| {
        let (low, high) = ends.unwrap_or((event, event));
        Some((low.min(event), high.max(event)))
    })
}

/// Entries of a body, those inside of seconds and ticks too.
fn weight(body: &BatchBody) -> usize {
    let seconds: usize = body.seconds.iter().map(|second| 1 + second.status.len()).sum();
    let ticks: usize = body.ticks.iter().map(|tick| 1 + tick.value.len()).sum();
    let inventory = body.inventory.as_ref().map_or(0, |inventory| inventory.sites.len());
    let events = body.services.len() + body.log_lines.len() + body.changes.len();
    let named = body.sites.len() + body.series.len();
    seconds + ticks + inventory + events + named + body.exemplars.len()
}

/// The batch as the store takes it, with its number of entries; an unreadable one becomes its
/// reason, so that the watermark passes it: sending it again would not help.
pub fn batch(unpacker: &mut Unpacker, server: ServerId, batch: v1::Batch, at: UnixMillis) -> Taken {
    let opened = unpacker.open(batch.codec, &batch.body, ANY);
    taken(server, batch, at, opened)
}

/// The same of a batch whose body is small, packed and unpacked; any other one is given back.
pub fn small_batch(
    unpacker: &mut Unpacker,
    server: ServerId,
    batch: v1::Batch,
    at: UnixMillis,
) -> Result<Taken, v1::Batch> {
    match unpacker.open(batch.codec, &batch.body, SMALL) {
        Err(Reason::TooLarge(_) | Reason::Bomb | Reason::TooManyEntries) => Err(batch),
        opened => Ok(taken(server, batch, at, opened)),
    }
}

fn taken(
    server: ServerId,
    batch: v1::Batch,
    at: UnixMillis,
    opened: Result<Opened, Reason>,
) -> Taken {
    let mut new = NewBatch {
        server,
        epoch: batch.epoch,
        seq: batch.seq,
        n_evicted: batch.n_evicted,
        n_lines_evicted: batch.n_lines_evicted.min(LOSS_STEP_MAX),
        n_bytes_evicted: batch.n_bytes_evicted.min(LOSS_STEP_MAX),
        at,
        t_min: UnixMillis(batch.t_min_unix_ms),
        t_max: UnixMillis(batch.t_max_unix_ms),
        complete_until: UnixMillis(batch.complete_until_unix_ms),
        urgent: batch.urgent,
        codec: batch.codec,
        body: Vec::new(),
        sites: Vec::new(),
        losses: Vec::new(),
        ledger: Ledger::default(),
    };
    let (n_lines, n_bytes) = (u64::from(batch.n_lines), batch.n_bytes.min(LOSS_STEP_MAX));
    let n_entries = match &opened {
        Ok(opened) => {
            let decoded = describe(&opened.body, at);
            new.body = batch.body.into();
            // What the agent says of them decides where the batch is looked for: only if it is right.
            (new.t_min, new.t_max) = decoded.times.unwrap_or((new.t_min, new.t_max));
            new.sites = decoded.sites;
            new.losses = decoded.losses;
            new.ledger = ledger(n_lines, n_bytes, &new.losses);
            decoded.n_entries
        }
        Err(reason) => {
            new.codec = 0;
            new.body = reason.to_string().into_bytes();
            new.losses = vec![
                ("n_batches_unreadable", 1),
                ("n_lines_unreadable", n_lines),
                ("n_bytes_unreadable", n_bytes),
                ("n_lines_lost", n_lines),
                ("n_bytes_lost", n_bytes),
            ];
            (new.ledger.n_lines_lost, new.ledger.n_bytes_lost) = (n_lines, n_bytes);
            N_ENTRIES_UNREADABLE
        }
    };
    Taken { new, n_entries, opened }
}

/// What became of the lines and bytes a batch accounts for. What it says of losses is believed only
/// as far as there are lines and bytes for it.
fn ledger(n_lines: u64, n_bytes: u64, losses: &[(&'static str, u64)]) -> Ledger {
    let loss = |k| losses.iter().find(|(known, _)| *known == k).map_or(0, |(_, n)| *n);
    let n_lines_lost = loss("n_lines_lost"); // of lines that are in no batch
    let n_lines_rejected = loss("n_lines_rejected").min(n_lines);
    let n_bytes_lost = loss("n_bytes_lost").min(n_bytes);
    let n_bytes_rejected = loss("n_bytes_rejected").min(n_bytes - n_bytes_lost);
    Ledger {
        n_lines_counted: n_lines - n_lines_rejected,
        n_lines_rejected,
        n_lines_lost,
        n_bytes_counted: n_bytes - n_bytes_lost - n_bytes_rejected,
        n_bytes_rejected,
        n_bytes_lost,
    }
}

/// What the detector is told of a stored batch.
///
/// `site_of` gives the stored row of a site by its name on this server. `Record::Site` comes for
/// every site the batch names, without a baseline: the caller drops those it has told already and
/// fills in the baseline. An unreadable batch gives nothing, not even its watermark.
pub fn records(row: &HotRow, site_of: &mut dyn FnMut(&str) -> Option<SiteRow>) -> Unpacked {
    let Ok(body) = unpack(row.codec, &row.body) else {
        return Unpacked { is_damaged: is_damage(row.codec), ..Unpacked::default() };
    };
    records_of(row.server, &body, row.complete_until, site_of)
}

/// The same of a body that was opened before.
pub fn records_of(
    server: ServerId,
    body: &BatchBody,
    complete_until: UnixMillis,
    site_of: &mut dyn FnMut(&str) -> Option<SiteRow>,
) -> Unpacked {
    let mut out = Sink { server, records: Vec::new(), n_refused: 0 };
    let ids = out.sites(body, site_of);
    out.context(body);
    out.exemplars(body, &ids);
    out.requests(body, &ids);
    out.samples(body);
    // Stable: what shares its second and rank stays in the order the agent sent it.
    out.records.sort_by_key(|(second, rank, _)| (*second, *rank));
    let mut records: Vec<Record> = out.records.into_iter().map(|(_, _, record)| record).collect();
    records.push(Record::Complete { server, at: complete_until });
    Unpacked { records, n_refused: out.n_refused, is_damaged: false }
}

/// Whether a stored body that does not unpack did so when it came: the others are stored as their reason.
pub fn is_damage(codec: u32) -> bool {
    codec != 0
}

fn seen(site: &v1::Site) -> Option<SiteSeen> {
    let name = name(&site.name)?.to_lowercase();
    let (pool, upstream) = (self::name(&site.pool), self::name(&site.upstream));
    let owner = self::name(&site.owner).filter(|_| name != OTHER);
    Some(SiteSeen { name, pool, upstream, owner })
}

/// A name as it may be stored and printed; `None` when empty.
pub(crate) fn name(text: &str) -> Option<String> {
    let mut text = clip(text.trim(), NAME_BYTES_MAX);
    if text.contains('\t') {
        text = text.replace('\t', " ");
    }
    (!text.is_empty()).then_some(text)
}

/// At most `bytes_max` of a text, cut between characters, control characters made visible.
pub(crate) fn clip(text: &str, bytes_max: usize) -> String {
    // As nearly every one is: looked at by its bytes, copied at once.
    if text.len() <= bytes_max && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    let end = (0..=text.len().min(bytes_max)).rev().find(|&end| text.is_char_boundary(end));
    let safe = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    text[..end.unwrap_or(0)].chars().map(safe).collect()
}

/// Why a service is in its state, in the fewest words: `oom-kill`, `exit code 1, restarted 5 times`.
fn reason(service: &v1::ServiceState) -> Option<String> {
    let mut words = Vec::new();
    let status = service.ended_status.filter(|status| *status != 0);
    match (service.result.as_str(), service.ended.as_str(), status) {
        // systemd says of these only what the end of the process says better.
        ("" | "success" | "exit-code" | "signal" | "core-dump", ..) => {}
        (result, ..) => words.push(clip(result, 32)),
    }
    match (service.ended.as_str(), status) {
        ("exited", Some(code)) => words.push(format!("exit code {code}")),
        // The kernel kills with 9 for want of memory: that is said already.
        ("killed", Some(_)) if service.result == "oom-kill" => {}
        ("killed", Some(signal)) => words.push(format!("killed by signal {signal}")),
        ("dumped", Some(signal)) => words.push(format!("crashed with signal {signal}")),
        _ => {}
    }
    match service.n_restarts {
        Some(1) => words.push("restarted once".to_owned()),
        Some(n @ 2..) => words.push(format!("restarted {n} times")),
        _ => {}
    }
    (!words.is_empty()).then(|| words.join(", "))
}

fn losses(loss: Option<&v1::Loss>) -> Vec<(&'static str, u64)> {
    let Some(loss) = loss else { return Vec::new() };
    let all = [
        ("n_lines_rejected", loss.n_lines_rejected),
        ("n_lines_lost", loss.n_lines_lost),
        ("n_bytes_lost", loss.n_bytes_lost),
        ("n_truncations", loss.n_truncations),
        ("n_exemplars_dropped", loss.n_exemplars_dropped),
        ("n_lines_other", loss.n_lines_other),
        ("n_times_clamped", loss.n_times_clamped),
        ("n_spool_records_corrupt", loss.n_spool_records_corrupt),
        ("n_events_dropped", loss.n_events_dropped),
        ("n_bytes_rejected", loss.n_bytes_rejected),
        ("n_bytes_recovered", loss.n_bytes_recovered),
        ("n_lines_too_long", loss.n_lines_too_long),
    ];
    all.into_iter().filter(|(_, n)| *n > 0).map(|(k, n)| (k, n.min(LOSS_STEP_MAX))).collect()
}

fn signal(number: i32) -> Option<Signal> {
    match Signal::try_from(number) {
        Ok(Signal::Unspecified) => None,
        Ok(signal) => Some(signal),
        // A later release knows a signal that we do not: something was said all the same.
        Err(_) => Some(Signal::Other),
    }
}

/// Collects records with their place in time: second, rank within it.
struct Sink {
    server: ServerId,
    records: Vec<(i64, u8, Record)>,
    n_refused: u64,
}

impl Sink {
    fn push(&mut self, at: UnixMillis, rank: u8, record: Record) {
        self.records.push((at.second(), rank, record));
    }

    /// Ids by position in `body.sites`; `None` where the site is not stored.
    fn sites(
        &mut self,
        body: &BatchBody,
        site_of: &mut dyn FnMut(&str) -> Option<SiteRow>,
    ) -> Vec<Option<SiteId>> {
        let inventory = body.inventory.iter().flat_map(|inventory| &inventory.sites);
        let mut ids = Vec::with_capacity(body.sites.len());
        for (ix, site) in body.sites.iter().chain(inventory).enumerate() {
            // What the store refused, because its server names too many, counts as `other`.
            let mut row_of = |name: &str| site_of(name).or_else(|| site_of(OTHER));
            let stored = seen(site).and_then(|site| Some((row_of(&site.name)?, site)));
            self.n_refused += u64::from(stored.is_none());
            if ix < body.sites.len() {
                ids.push(stored.as_ref().map(|(row, _)| row.site));
            }
            let Some((row, site)) = stored else { continue };
            // Unknown now does not take back what was known before.
            let known = row.name != OTHER && (site.pool.is_some() || site.upstream.is_some());
            let (pool, upstream) =
                if known { (site.pool, site.upstream) } else { (row.pool, row.upstream) };
            let (site, server) = (row.site, self.server);
            let record =
                Record::Site { site, server, name: row.name, pool, upstream, baseline: None };
            self.records.push((i64::MIN, 0, record));
        }
        ids
    }

    fn context(&mut self, body: &BatchBody) {
        let server = self.server;
        for service in &body.services {
            let at = UnixMillis(service.at_unix_ms);
            let (unit, state) = (clip(&service.unit, NAME_BYTES_MAX), clip(&service.state, 32));
            let pool = name(&service.pool);
            let reason = reason(service);
            self.push(at, 0, Record::Service { server, at, unit, state, pool, reason });
        }
        for change in &body.changes {
            let at = UnixMillis(change.at_unix_ms);
            let (kind, what) = (clip(&change.kind, 32), clip(&change.what, TEXT_BYTES_MAX));
            let (site, pool) = (name(&change.site), name(&change.pool));
            self.push(at, 1, Record::Change { server, at, kind, what, site, pool });
        }
        for line in &body.log_lines {
            let at = UnixMillis(line.at_unix_ms);
            let (source, message) = (clip(&line.source, 32), clip(&line.message, TEXT_BYTES_MAX));
            let (signal, pool) = (signal(line.signal), name(&line.pool));
            self.push(at, 2, Record::Log { server, at, source, message, signal, pool });
        }
    }

    fn exemplars(&mut self, body: &BatchBody, ids: &[Option<SiteId>]) {
        for exemplar in &body.exemplars {
            let site = ids.get(exemplar.site as usize).copied().flatten();
            let (Some(site), 502..=504) = (site, exemplar.status) else {
                self.n_refused += 1;
                continue;
            };
            let at = UnixMillis(exemplar.at_unix_ms);
            let record = Record::Exemplar(Exemplar {
                site,
                at,
                status: exemplar.status as u16,
                pool: name(&exemplar.pool),
                client: exemplar.client_hash,
                path: exemplar.path_hash,
                upstream: name(&exemplar.upstream),
                message: exemplar.message.as_deref().map(|text| clip(text, TEXT_BYTES_MAX)),
                signal: signal(exemplar.signal),
            });
            self.push(at, 3, record);
        }
    }

    fn requests(&mut self, body: &BatchBody, ids: &[Option<SiteId>]) {
        for second in &body.seconds {
            let site = ids.get(second.site as usize).copied().flatten();
            let Some(site) = site else {
                self.n_refused += 1;
                continue;
            };
            self.n_refused += u64::from(second.status.len() != second.count.len());
            let (counts, n_refused) = counts(&second.status, &second.count);
            self.n_refused += n_refused;
            let at = UnixMillis::from_second(second.second);
            if counts != Counts::default() {
                self.push(at, 4, Record::Requests { site, at, counts });
            }
        }
    }

    fn samples(&mut self, body: &BatchBody) {
        let metric_of = |series: &v1::Series| {
            Some((catalog::find(&series.metric)?, clip(&series.attribute, NAME_BYTES_MAX)))
        };
        let series: Vec<_> = body.series.iter().map(metric_of).collect();
        for tick in &body.ticks {
            let at = UnixMillis(tick.at_unix_ms);
            let value_of = |(ix, scaled): (&u32, &i64)| {
                let (metric, attribute) = series.get(*ix as usize)?.as_ref()?;
                Some((metric.name, attribute.clone(), metric.from_wire(*scaled)?))
            };
            let pairs = tick.series.iter().zip(&tick.value);
            let values: Vec<_> = pairs.filter_map(value_of).collect();
            self.n_refused += (tick.series.len().max(tick.value.len()) - values.len()) as u64;
            if !values.is_empty() {
                self.push(at, 5, Record::Sample { server: self.server, at, values });
            }
        }
    }
}

/// Folds counts by status; also how many entries were refused.
///
/// A derived counter repeats requests already counted under their status, so it adds nothing to
/// `n`. A 503 is a gateway error only as far as `GATEWAY_503` says so.
fn counts(status: &[u32], count: &[u32]) -> (Counts, u64) {
    let mut counts = Counts::default();
    let (mut n_503, mut n_refused) = (0_u32, 0);
    for (status, count) in status.iter().zip(count) {
        let add = |to: &mut u32| *to = to.saturating_add(*count);
        match *status {
            502 => add(&mut counts.n_502),
            503 => add(&mut n_503),
            504 => add(&mut counts.n_504),
            500..=599 => add(&mut counts.n_5xx_app),
            499 => add(&mut counts.n_499),
            counter::GATEWAY_503 => add(&mut counts.n_503),
            counter::RETRIED => add(&mut counts.n_retried),
            counter::CRAWLER => add(&mut counts.n_crawler),
            100..=498 => {}
            // Known, and no part of the detector's counts; or of a later release.
            counter::BLOCKED.. => continue,
            _ => n_refused += 1,
        }
        if (100..=599).contains(status) {
            counts.n = counts.n.saturating_add(*count);
        }
    }
    counts.n_503 = counts.n_503.min(n_503);
    counts.n_5xx_app = counts.n_5xx_app.saturating_add(n_503 - counts.n_503);
    let n_failed = counts.n_502.saturating_add(counts.n_503).saturating_add(counts.n_504);
    counts.n_crawler = counts.n_crawler.min(n_failed);
    (counts, n_refused)
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
