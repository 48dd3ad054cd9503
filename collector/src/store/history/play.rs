//! Everything that some servers told in a time, in the order in which it came, in bounded memory.
//!
//! Sealed history comes first, as if each ten seconds had come a second after they were over; then, or
//! between, batches as they came, without what was told of sealed hours. A play goes on over several reads:
//! which hours are sealed is settled when it begins, and [`Hold`] keeps the batches it will need.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::params;
use wire::UnixMillis;
use wire::v1::BatchBody;

use super::super::guard::{self, Numbers};
use super::super::hot::Head;
use super::super::presence::clamp_clock_off;
use super::super::{SiteRow, read};
use super::pieces::{Decoded, Names, Piece, Samples, TICK_S, bytes_of};
use super::{History, Hours};
use crate::clock;
use crate::ingest::{convert, opener};
use crate::model::{Record, ServerId};

/// Sealed history is told this much after its ten seconds are over, ms: its arrival is not kept.
pub const LAG_MS: i64 = 1000;
/// Longest time decoded at once, and the memory it may take.
const WINDOW_S: i64 = 3600;
const DECODED_BYTES_MAX: usize = 48 << 20;
/// Bytes of one server and hour, decoded, before it is known better.
const HOUR_BYTES: usize = 512 << 10;
/// Batches read at once, and the memory those read ahead may take: one more batch at most.
const ROWS_MAX: i64 = 64;
const AHEAD_BYTES_MAX: usize = 4 << 20;
const TICK_MS: i64 = TICK_S * 1000;
/// Longest time for which batches are held back from being deleted.
const HOLD_MAX: Duration = Duration::from_secs(15 * 60);

/// Where a play stands.
#[derive(Debug)]
pub struct Play {
    /// Servers, and how far the clock of each is ahead, ms; of others nothing is told.
    servers: BTreeMap<ServerId, i64>,
    from: UnixMillis,
    to: UnixMillis,
    samples: Samples,
    started: Option<Started>,
}

#[derive(Debug)]
struct Started {
    hours: Hours,
    /// Arrival up to which sealed history was told, and the last it has.
    told: UnixMillis,
    sealed_end: UnixMillis,
    /// Position of the last batch that was read, and those read ahead.
    hot_after: i64,
    ahead: VecDeque<Piece>,
    hot_is_over: bool,
    /// Decoded up to this arrival; while that goes on, where it will end and of whom it was done last.
    decoded: Vec<(ServerId, Decoded)>,
    decoded_to: UnixMillis,
    decoding: Option<(UnixMillis, Option<ServerId>)>,
    bytes_an_hour: usize,
    names: Names,
}

impl Play {
    /// Of what came in `from..to`.
    #[must_use]
    pub fn new(
        servers: BTreeMap<ServerId, i64>,
        (from, to): (UnixMillis, UnixMillis),
        samples: Samples,
    ) -> Self {
        let servers = servers.into_iter().map(|(id, ms)| (id, clamp_clock_off(ms))).collect();
        Self { servers, from, to, samples, started: None }
    }

    /// Whether all was told.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.started.as_ref().is_some_and(|started| {
            let is_told = started.told >= started.sealed_end && started.ahead.is_empty();
            is_told && started.hot_is_over
        })
    }

    /// Bytes of the batches that were read ahead.
    #[cfg(test)]
    pub(super) fn n_bytes_ahead(&self) -> usize {
        let ahead = self.started.iter().flat_map(|started| &started.ahead);
        ahead.map(Piece::n_bytes).sum()
    }

    /// Whether batches are read, or will be.
    #[must_use]
    pub fn reads_batches(&self) -> bool {
        !self.started.as_ref().is_some_and(|started| started.hot_is_over)
    }

    /// Arrival of sealed history of the ten seconds that begin at `tick` of a server's clock.
    fn arrival(tick: i64, ahead_ms: i64) -> i64 {
        let end_ms = tick.saturating_add(TICK_S).saturating_mul(1000);
        end_ms.saturating_sub(ahead_ms).saturating_add(LAG_MS)
    }

    /// The first ten seconds of a server's clock that arrive at `at` or later.
    fn first_tick(at: UnixMillis, ahead_ms: i64) -> i64 {
        let begin = at.0.saturating_add(ahead_ms).saturating_sub(LAG_MS + TICK_MS);
        begin.saturating_add(TICK_MS - 1).div_euclid(TICK_MS) * TICK_S
    }

    fn ahead_ends(&self) -> (i64, i64) {
        let of = || self.servers.values().copied();
        (of().min().unwrap_or(0), of().max().unwrap_or(0))
    }

    fn start(&self, history: &History<'_>) -> rusqlite::Result<Started> {
        let (least, most) = self.ahead_ends();
        let add = |at: UnixMillis, ms: i64| UnixMillis(at.0.saturating_add(ms));
        let slack = LAG_MS + TICK_MS;
        let hours = history.hours(add(self.from, least - slack), add(self.to, most))?;
        let last = hours.0.last_key_value().map(|(t0, _)| {
            t0.saturating_add(3600).saturating_mul(1000).saturating_sub(least).saturating_add(slack)
        });
        let sealed_end = last.map_or(self.from, |last| UnixMillis(last).min(self.to));
        Ok(Started {
            hours,
            told: self.from,
            sealed_end,
            hot_after: read::position_near(history.conn, self.from)?,
            ahead: VecDeque::new(),
            hot_is_over: false,
            decoded: Vec::new(),
            decoded_to: self.from,
            decoding: None,
            bytes_an_hour: HOUR_BYTES,
            names: Names::default(),
        })
    }
}

impl History<'_> {
    /// The next pieces of a play in order of arrival, of about so many bytes at least; fewer when the time
    /// is over, and then perhaps none. What was told is never told again.
    pub fn play(&self, play: &mut Play, n_bytes: usize) -> rusqlite::Result<Vec<Piece>> {
        let mut started = match play.started.take() {
            Some(started) => started,
            None => play.start(self)?,
        };
        let told = self.play_on(play, &mut started, n_bytes);
        play.started = Some(started);
        told
    }

    fn play_on(
        &self,
        play: &Play,
        started: &mut Started,
        n_bytes: usize,
    ) -> rusqlite::Result<Vec<Piece>> {
        let (mut found, mut n) = (Vec::new(), 0);
        while n < n_bytes && self.goes_on() {
            if started.told >= started.sealed_end {
                // Only batches are left.
                let Some(piece) = self.next_hot(play, started)? else { break };
                n += piece.n_bytes();
                found.push(piece);
                continue;
            }
            if started.told >= started.decoded_to {
                self.decode_window(play, started)?;
                continue;
            }
            let step_to = UnixMillis((started.told.0 + TICK_MS).min(started.decoded_to.0));
            let (mut step, mut n_step, mut step_to) = (Vec::new(), 0, step_to);
            while let Some(piece) = self.next_hot(play, started)? {
                if piece.at >= step_to {
                    started.ahead.push_front(piece);
                    break;
                }
                n_step += piece.n_bytes();
                let next = UnixMillis(piece.at.0.max(started.told.0).saturating_add(1));
                step.push(piece);
                if n_step > AHEAD_BYTES_MAX {
                    // The step ends here; what else came in it is told in the next one.
                    step_to = next.min(step_to);
                    break;
                }
            }
            step.extend(sealed_step(play, started, step_to));
            step.sort_by_key(|piece| piece.at);
            n += step.iter().map(Piece::n_bytes).sum::<usize>();
            found.extend(step);
            started.told = step_to;
        }
        Ok(found)
    }

    /// Decodes the next time of all servers, as long as memory allows. Where nothing is sealed of anybody
    /// the play goes on at the next sealed hour or batch.
    fn decode_window(&self, play: &Play, started: &mut Started) -> rusqlite::Result<()> {
        let bytes = started.bytes_an_hour.max(1) * play.servers.len().max(1);
        let window_s = (WINDOW_S as u128 * DECODED_BYTES_MAX as u128 / bytes as u128) as i64;
        let window_ms = window_s.clamp(TICK_S, WINDOW_S) / TICK_S * TICK_MS;
        let from = started.decoded_to;
        let (to, done) = started.decoding.take().unwrap_or_else(|| {
            started.decoded.clear();
            (UnixMillis((from.0 + window_ms).min(started.sealed_end.0)), None)
        });
        let (least, most) = play.ahead_ends();
        let begin = Play::first_tick(from, least);
        let next = started.hours.0.range(begin.saturating_sub(3599)..).next();
        let next = next.map_or(started.sealed_end.0, |(t0, _)| t0 * 1000 - most);
        if next > to.0 {
            let next = UnixMillis(next.min(started.sealed_end.0));
            let batch = self.next_hot(play, started)?;
            let at = batch.as_ref().map_or(next, |piece| piece.at.clamp(to, next));
            if let Some(piece) = batch {
                started.ahead.push_front(piece);
            }
            (started.decoded_to, started.told) = (at, at);
            return Ok(());
        }
        let mut last = done;
        let after = done.map_or(Bound::Unbounded, Bound::Excluded);
        for (server, ahead_ms) in play.servers.range((after, Bound::Unbounded)) {
            if !self.goes_on() {
                started.decoding = Some((to, last));
                return Ok(());
            }
            last = Some(*server);
            let span = (Play::first_tick(from, *ahead_ms), Play::first_tick(to, *ahead_ms));
            if started.hours.0.range(span.0.saturating_sub(3599)..span.1).next().is_none() {
                continue;
            }
            let names = &mut started.names;
            let decoded = self.decode(*server, &started.hours, span, play.samples, names)?;
            started.decoded.push((*server, decoded));
        }
        let n_bytes: usize = started.decoded.iter().map(|(_, decoded)| decoded.n_bytes()).sum();
        if !started.decoded.is_empty() {
            let seen = n_bytes as u128 * (WINDOW_S * 1000) as u128 / (to.0 - from.0).max(1) as u128;
            let seen = (seen / started.decoded.len() as u128) as usize;
            // What comes next may be more; it is never believed to be next to nothing.
            started.bytes_an_hour = seen.saturating_mul(2).max(HOUR_BYTES / 8);
        }
        started.decoded_to = to;
        Ok(())
    }

    /// The next batch, without what is sealed of it.
    fn next_hot(&self, play: &Play, started: &mut Started) -> rusqlite::Result<Option<Piece>> {
        while started.ahead.is_empty() && !started.hot_is_over && self.goes_on() {
            self.read_hot(play, started)?;
        }
        Ok(started.ahead.pop_front())
    }

    fn read_hot(&self, play: &Play, started: &mut Started) -> rusqlite::Result<()> {
        /// How much later than the end a batch must have come to say that none before it follows, ms.
        const ORDER_SLACK_MS: i64 = 60_000;
        let columns = guard::COLUMNS;
        let query = format!("SELECT {columns} FROM hot WHERE id > ?1 ORDER BY id LIMIT ?2");
        let mut query = self.conn.prepare_cached(&query)?;
        let mut whole = self.conn.prepare_cached("SELECT body FROM hot WHERE id = ?1")?;
        let mut rows = query.query(params![started.hot_after, ROWS_MAX])?;
        let (mut n, mut n_bytes) = (0, 0);
        while let Some(row) = rows.next()? {
            if n_bytes > AHEAD_BYTES_MAX {
                return Ok(()); // the rest is read when these are told
            }
            n += 1;
            started.hot_after = row.get(0)?;
            let Some(Numbers { head, complete_until, codec, .. }) = Numbers::read(row) else {
                self.note_damaged(row.get(0)?, None);
                continue;
            };
            let Head { id, server, at, .. } = head;
            if at.0 >= play.to.0.saturating_add(ORDER_SLACK_MS) {
                started.hot_is_over = true;
                return Ok(());
            }
            if at < play.from || at >= play.to || !play.servers.contains_key(&server) {
                continue;
            }
            let body = whole.query_row([id], |row| {
                let body = row.get_ref(0)?.as_blob().unwrap_or_default();
                Ok(opener::unpack(codec, body).map_err(|_| codec))
            })?;
            let body = match body {
                Ok(mut body) => {
                    if !keep_hot(&mut body, head, &started.hours) {
                        continue;
                    }
                    if play.samples.is_none() {
                        (body.ticks, body.series) = (Vec::new(), Vec::new());
                    }
                    Some(body)
                }
                Err(codec) => {
                    self.note_unreadable(id, server, codec);
                    None
                }
            };
            let piece = Piece { id, server, at, complete_until, body };
            n_bytes += piece.n_bytes();
            started.ahead.push_back(piece);
        }
        started.hot_is_over = n < ROWS_MAX;
        Ok(())
    }
}

/// Sealed history that arrives from where the play stands to `to`.
fn sealed_step(play: &Play, started: &mut Started, to: UnixMillis) -> Vec<Piece> {
    let mut found = Vec::new();
    for (server, decoded) in &mut started.decoded {
        let ahead_ms = play.servers.get(server).copied().unwrap_or(0);
        let end = Play::first_tick(to, ahead_ms);
        let Some(body) = decoded.take(end) else { continue };
        let at = Play::arrival(end - TICK_S, ahead_ms).max(started.told.0);
        found.push(Piece {
            id: 0,
            server: *server,
            at: UnixMillis(at),
            complete_until: UnixMillis::from_second(end),
            body: Some(body),
        });
    }
    found
}

/// Takes out of a batch what is read from day files; false when nothing is left.
fn keep_hot(body: &mut BatchBody, head: Head, hours: &Hours) -> bool {
    let (id, at) = (head.id, head.at);
    let n = |body: &BatchBody| {
        body.seconds.len()
            + body.exemplars.len()
            + body.ticks.len()
            + body.services.len()
            + body.log_lines.len()
            + body.changes.len()
    };
    let before = n(body);
    let is_hot = |ms: i64| hours.is_hot(id, UnixMillis(ms).second());
    body.seconds.retain(|second| hours.is_hot(id, second.second));
    body.exemplars.retain(|exemplar| is_hot(exemplar.at_unix_ms));
    body.ticks.retain(|tick| is_hot(tick.at_unix_ms));
    // A state that says since when is sealed in an hour of its batch.
    body.services.retain(|service| {
        let second = UnixMillis(service.at_unix_ms).second();
        hours.is_hot(head.id, second.clamp(head.span().0, head.span().1))
    });
    body.log_lines.retain(|line| is_hot(line.at_unix_ms));
    body.changes.retain(|change| is_hot(change.at_unix_ms));
    n(body) > 0 || (before == 0 && is_hot(at.0))
}

impl Piece {
    /// What it holds, record by record, as [`convert::records`].
    pub fn records(&self, site_of: &mut dyn FnMut(&str) -> Option<SiteRow>) -> Vec<Record> {
        let Some(body) = &self.body else { return Vec::new() };
        convert::records_of(self.server, body, self.complete_until, site_of).records
    }

    /// Bytes it takes, about.
    pub(in crate::store) fn n_bytes(&self) -> usize {
        self.body.as_ref().map_or(64, bytes_of)
    }
}

/// Who reads in several turns, and what was packed since each began.
#[derive(Debug, Default)]
pub(in crate::store) struct Holds(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// When each began, and a number of its own.
    live: BTreeSet<(Instant, u64)>,
    n: u64,
    /// Hours that were packed while somebody read: before which number, and up to which batch they were
    /// packed until then.
    packed: VecDeque<(u64, i64, i64)>,
}

impl Held {
    /// Forgets those whose time is over, and what was packed before the oldest that is left.
    fn prune(&mut self) {
        let now = clock::instant();
        self.live.retain(|(since, _)| now.saturating_duration_since(*since) < HOLD_MAX);
        let oldest = self.live.iter().map(|(_, n)| *n).min().unwrap_or(u64::MAX);
        while self.packed.pop_front_if(|(before, ..)| *before <= oldest).is_some() {}
    }
}

/// Keeps every batch from being deleted that is not packed wholly now, for 15 minutes at most. What is packed
/// already is read from its day file, so batches of that leave: readers that follow each other without
/// a pause hold up what was packed in the last 15 minutes, and no more.
#[derive(Debug)]
pub struct Hold {
    holds: Arc<Holds>,
    key: (Instant, u64),
}

impl Holds {
    fn held(&self) -> MutexGuard<'_, Held> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.prune();
        held
    }

    /// Hours that somebody still reads from batches, though they are packed: up to which batch they were
    /// packed when the oldest of those who read began.
    pub(in crate::store) fn cuts(&self) -> HashMap<i64, i64> {
        let held = self.held();
        let mut cuts = HashMap::new();
        for (_, t0, cut) in &held.packed {
            cuts.entry(*t0).or_insert(*cut);
        }
        cuts
    }

    /// Notes that an hour is packed further than up to batch `cut`. After that is committed: who begins
    /// in between holds more than it must.
    pub(in crate::store) fn packed(&self, t0: i64, cut: i64) {
        let mut held = self.held();
        if !held.live.is_empty() {
            let before = held.n;
            held.packed.push_back((before, t0, cut));
        }
    }

    pub(in crate::store) fn hold(self: &Arc<Self>) -> Hold {
        let mut held = self.held();
        let key = (clock::instant(), held.n);
        held.n += 1;
        held.live.insert(key);
        Hold { holds: Arc::clone(self), key }
    }
}

impl Hold {
    /// Whether it still holds: what is read after it ended may lack batches.
    #[must_use]
    pub fn holds(&self) -> bool {
        clock::instant().saturating_duration_since(self.key.0) < HOLD_MAX
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.holds.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.live.remove(&self.key);
        held.prune();
    }
}
