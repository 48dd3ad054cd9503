//! What lies in `hot`, in memory: the batches of each server, and the hours that wait to be sealed.
//!
//! 8 bytes a batch, kept by the writer at each commit, made anew at start. A reader takes its server's list
//! first and opens its snapshot of the database afterwards: what was sealed and deleted in between it finds
//! sealed there, and an id without a row is no error.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use wire::UnixMillis;

use super::guard::{self, Numbers};
use super::hours::{self, HOUR_S};
use crate::clock;
use crate::model::ServerId;

/// Furthest an event may be ahead of its arrival to be believed, ms; as the detector has it.
pub(crate) const AHEAD_MAX_MS: i64 = 300_000;
/// Oldest event at its arrival that is believed, ms; as the detector has it.
pub(crate) const AGE_MAX_MS: i64 = 28 * 86_400_000;

/// Whether the time of an event is no nonsense, for one that arrived at `at`.
pub(crate) fn is_plausible(at: UnixMillis, event: UnixMillis) -> bool {
    let age = at.0.saturating_sub(event.0);
    event.0 >= 0 && (-AHEAD_MAX_MS..=AGE_MAX_MS).contains(&age)
}

/// Head of a row of `hot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) id: i64,
    pub(super) server: ServerId,
    pub(super) at: UnixMillis,
    pub(super) t_min: UnixMillis,
    pub(super) t_max: UnixMillis,
}

impl Head {
    /// First and last second of which entries of the batch are sealed: its events as far as their times
    /// are no nonsense, its arrival when none is.
    pub(super) fn span(&self) -> (i64, i64) {
        let (low, high) =
            (self.at.0.saturating_sub(AGE_MAX_MS).max(0), self.at.0.saturating_add(AHEAD_MAX_MS));
        if self.t_min > self.t_max || self.t_max.0 < low || self.t_min.0 > high {
            return (self.at.second(), self.at.second());
        }
        let second = |at: UnixMillis| UnixMillis(at.0.clamp(low, high)).second();
        (second(self.t_min), second(self.t_max))
    }

    /// Whether it is sealed with the hour that begins at `t0`.
    pub(super) fn overlaps(&self, t0: i64) -> bool {
        let (first, last) = self.span();
        (hours::hour_of(first)..=hours::hour_of(last)).contains(&t0)
    }

    /// Whether it spans more hours than what an honest agent sends at once.
    pub(super) fn is_wide(&self) -> bool {
        let (first, last) = self.span();
        (hours::hour_of(last) - hours::hour_of(first)) / HOUR_S >= NARROW_HOURS
    }

    /// The hours it is sealed with; never none.
    pub(super) fn hours(&self) -> impl Iterator<Item = i64> + use<> {
        let (first, last) = self.span();
        let first = hours::hour_of(first);
        (0..=(hours::hour_of(last) - first) / HOUR_S).map(move |ix| first + ix * HOUR_S)
    }
}

/// More hours than an honest batch has entries in: a body that spans more is opened once to see which.
const NARROW_HOURS: i64 = 3;
/// Most hours that a batch spans: 28 days, the one it came in and the end of the last.
const SPAN_HOURS: usize = 28 * 24 + 2;
/// Servers of which it is known that they have something of an hour that waits; with more, all are taken for
/// honest.
const FEW: usize = 8;

/// The hours of a span in which a batch has entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HourSet {
    first: i64,
    bits: [u64; SPAN_HOURS.div_ceil(64)],
}

impl HourSet {
    /// None of the hours of a batch.
    pub(super) fn of(head: &Head) -> Self {
        Self { first: hours::hour_of(head.span().0), bits: Default::default() }
    }

    /// With the hour of this second, where the batch spans it.
    pub(super) fn insert(&mut self, second: i64) {
        if let Some((word, bit)) = self.place(second) {
            self.bits[word] |= 1 << bit;
        }
    }

    /// Whether there is something of an hour.
    pub(super) fn has(&self, t0: i64) -> bool {
        self.place(t0).is_some_and(|(word, bit)| self.bits[word] >> bit & 1 == 1)
    }

    fn place(&self, second: i64) -> Option<(usize, u32)> {
        let ix = usize::try_from((second - self.first).div_euclid(HOUR_S)).ok()?;
        (ix < SPAN_HOURS).then_some((ix / 64, (ix % 64) as u32))
    }
}

/// What waits of one hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Its last batch.
    pub(super) last: i64,
    /// Arrival of the first that is not sealed.
    pub(super) since: UnixMillis,
    /// The hour was sealed before.
    pub(super) is_late: bool,
    /// Whose, in no order; `None`: of more than [`FEW`].
    pub(super) servers: Option<Vec<ServerId>>,
    /// Parts its day file has of it.
    pub(super) parts: u32,
}

/// Longest wait for what else comes late for an hour, ms.
const LATE_MAX_MS: i64 = 86_400_000;

/// What waits of one hour, and where it lies.
#[derive(Debug)]
struct WaitingHour {
    waiting: Waiting,
    /// Of each server the first and the last of its batches that are not sealed with the hour. Whatever the
    /// collector's clock did meanwhile, ids rise.
    servers: BTreeMap<ServerId, (i64, i64)>,
}

impl Waiting {
    /// When the hour should be sealed: when it is over and its batches had time to come; what comes after
    /// that, when more of its kind had time to follow: `late_after`, and twice as long for each further part,
    /// up to a day, so that who sends late for ever makes some ten parts and then one a day. What came after `now` did so before the clock was
    /// set back: nobody waits for that time.
    pub(super) fn due(
        &self,
        t0: i64,
        (seal_after, late_after): (Duration, Duration),
        now: UnixMillis,
    ) -> UnixMillis {
        let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let end = UnixMillis::from_second(t0.saturating_add(HOUR_S)).0;
        let over = end.saturating_add(ms(seal_after));
        if self.since <= now && (self.is_late || self.since.0 > over) {
            let late_ms = ms(late_after);
            let doubled = late_ms.saturating_mul(1 << self.parts.saturating_sub(1).min(20));
            let wait = doubled.min(LATE_MAX_MS.max(late_ms));
            return UnixMillis(over.max(self.since.0.saturating_add(wait)));
        }
        UnixMillis(over)
    }
}

/// The lists.
#[derive(Debug, Default)]
pub(super) struct HotIndex {
    servers: HashMap<ServerId, Vec<i64>>,
    hours: BTreeMap<i64, WaitingHour>,
    /// Highest position of each sealed hour that is in its day file, and its parts there.
    cuts: BTreeMap<i64, (i64, u32)>,
    /// Batches deleted since the start.
    n_deleted: u64,
    /// Rows of which is not known whose they are, nor of when: a bit of their numbers is another one.
    damaged: Vec<i64>,
    /// Of wide batches that were opened the hours in which they have something.
    wide: HashMap<i64, HourSet>,
    /// Of the last batch of each server the newest time in it, by the server's own clock, and when it came,
    /// by a clock that nobody sets.
    newest: HashMap<ServerId, (UnixMillis, Instant)>,
}

/// How long the last batch of a server says what time it is.
const HEARD_MAX: Duration = Duration::from_secs(86_400);

impl HotIndex {
    /// Reads the whole table, without the bodies, and says whether rows are missing that nobody deleted: what
    /// came after the last hour that was sealed is there.
    pub(super) fn load(conn: &Connection) -> rusqlite::Result<(Self, bool)> {
        let (mut index, now) = (Self::default(), clock::instant());
        let mut query = conn.prepare("SELECT t0, hot_cut, parts FROM sealed")?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
        index.cuts = rows.collect::<rusqlite::Result<_>>()?;
        let last = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'hot'), 0)";
        let last: i64 = conn.query_row(last, [], |row| row.get(0))?;
        let cut = index.cuts.values().map(|(cut, _)| *cut).max().unwrap_or(0);
        let mut n_after = 0;
        let mut query = conn.prepare(&format!("SELECT {} FROM hot ORDER BY id", guard::COLUMNS))?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            n_after += i64::from(row.get::<_, i64>(0)? > cut);
            match Numbers::read(row) {
                Some(numbers) => index.add_at(&numbers.head, now),
                None => index.damaged.push(row.get(0)?),
            }
        }
        for ids in index.servers.values_mut() {
            ids.shrink_to_fit();
        }
        Ok((index, n_after != last.saturating_sub(cut)))
    }

    /// A batch was committed.
    pub(super) fn add(&mut self, head: &Head) {
        self.add_at(head, clock::instant());
    }

    fn add_at(&mut self, head: &Head, heard: Instant) {
        self.newest.insert(head.server, (head.t_max, heard));
        self.servers.entry(head.server).or_default().push(head.id);
        for t0 in head.hours() {
            let cut = self.cuts.get(&t0);
            if cut.is_some_and(|(cut, _)| *cut >= head.id) {
                continue;
            }
            let parts = cut.map_or(0, |(_, parts)| *parts);
            let hour = self.hours.entry(t0).or_insert_with(|| WaitingHour {
                waiting: Waiting {
                    last: head.id,
                    since: head.at,
                    is_late: cut.is_some(),
                    parts,
                    servers: None,
                },
                servers: BTreeMap::new(),
            });
            hour.waiting.last = head.id;
            hour.servers.entry(head.server).or_insert((head.id, head.id)).1 = head.id;
        }
    }

    /// In which hours a wide batch has something was seen when it was opened.
    pub(super) fn narrow(&mut self, id: i64, hours: HourSet) {
        self.wide.insert(id, hours);
    }

    /// Whether it is known that a batch has nothing of an hour.
    pub(super) fn has_nothing(&self, id: i64, t0: i64) -> bool {
        self.wide.get(&id).is_some_and(|hours| !hours.has(t0))
    }

    /// Whether a wide batch was opened before.
    pub(super) fn is_narrowed(&self, id: i64) -> bool {
        self.wide.contains_key(&id)
    }

    /// The time that servers agree on which were heard lately: the lower median of what each said last.
    /// `None` when there is none. It lies behind as long as most have yet to send what they kept.
    pub(super) fn agreed(&mut self) -> Option<UnixMillis> {
        let now = clock::instant();
        self.newest.retain(|_, (_, at)| now.saturating_duration_since(*at) < HEARD_MAX);
        let mut times: Vec<UnixMillis> = self.newest.values().map(|(newest, _)| *newest).collect();
        times.sort_unstable();
        times.get(times.len().saturating_sub(1) / 2).copied()
    }

    /// Batches of one server, in order of commit.
    pub(super) fn ids(&self, server: ServerId) -> Vec<i64> {
        self.servers.get(&server).cloned().unwrap_or_default()
    }

    /// Rows that were found damaged at start.
    pub(super) fn damaged(&self) -> &[i64] {
        &self.damaged
    }

    /// How many batches were deleted since the start: while it stays, no list lost any.
    pub(super) fn n_deleted(&self) -> u64 {
        self.n_deleted
    }

    /// Servers with a batch, in order.
    pub(super) fn servers(&self) -> Vec<ServerId> {
        let mut servers: Vec<ServerId> = self.servers.keys().copied().collect();
        servers.sort_unstable();
        servers
    }

    /// Hours with batches that are in no day file, oldest first.
    pub(super) fn waiting(&self) -> Vec<(i64, Waiting)> {
        let waiting = |hour: &WaitingHour| {
            let few = (hour.servers.len() <= FEW).then(|| hour.servers.keys().copied().collect());
            Waiting { servers: few, ..hour.waiting.clone() }
        };
        self.hours.iter().map(|(t0, hour)| (*t0, waiting(hour))).collect()
    }

    /// The servers with batches that are not sealed with an hour, and between which positions these lie;
    /// others of theirs may lie there too.
    pub(super) fn of_hour(&self, t0: i64) -> Vec<(ServerId, (i64, i64))> {
        let servers = self.hours.get(&t0).map(|hour| &hour.servers);
        servers.into_iter().flatten().map(|(server, ends)| (*server, *ends)).collect()
    }

    /// Batches of one server at `first..=last`, in order of commit.
    pub(super) fn ids_between(&self, server: ServerId, (first, last): (i64, i64)) -> Vec<i64> {
        let Some(ids) = self.servers.get(&server) else { return Vec::new() };
        let start = ids.partition_point(|id| *id < first);
        ids[start..].iter().copied().take_while(|id| *id <= last).collect()
    }

    /// Whether something of an hour waits.
    pub(super) fn waits(&self, t0: i64) -> bool {
        self.hours.contains_key(&t0)
    }

    /// An hour was sealed up to `cut`, in so many parts by now.
    pub(super) fn sealed(&mut self, t0: i64, (cut, parts): (i64, u32), now: UnixMillis) {
        self.cuts.insert(t0, (cut, parts));
        let Some(hour) = self.hours.get_mut(&t0) else { return };
        hour.servers.retain(|_, (first, last)| {
            *first = (*first).max(cut + 1);
            *last > cut
        });
        if hour.servers.is_empty() {
            self.hours.remove(&t0);
        } else {
            let last = hour.waiting.last;
            hour.waiting = Waiting { last, since: now, is_late: true, parts, servers: None };
        }
    }

    /// Whether an hour that begins in `hours` is in its day file; not any more once its day leaves.
    pub(super) fn has_sealed(&self, hours: Range<i64>) -> bool {
        self.cuts.range(hours).next().is_some()
    }

    /// What became of hours before `t0` is known no more: their day has left.
    pub(super) fn forget_cuts(&mut self, t0: i64) {
        self.cuts = self.cuts.split_off(&t0);
    }

    /// Damaged rows left the table.
    pub(super) fn damaged_deleted(&mut self, gone: &[i64]) {
        self.damaged.retain(|id| !gone.contains(id));
    }

    /// Rows left the table, their ids rising.
    pub(super) fn deleted(&mut self, gone: &[Head]) {
        self.n_deleted += gone.len() as u64;
        let mut of_server: HashMap<ServerId, Vec<i64>> = HashMap::new();
        for head in gone {
            self.wide.remove(&head.id);
            of_server.entry(head.server).or_default().push(head.id);
        }
        for (server, gone) in of_server {
            let Some(ids) = self.servers.get_mut(&server) else { continue };
            ids.retain(|id| gone.binary_search(id).is_err());
            if ids.is_empty() {
                self.servers.remove(&server);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN_S: i64 = 60;
    const DAY_S: i64 = 86_400;
    /// A full hour.
    const NOW: i64 = 1_796_040_000;

    /// Of a batch that arrives at `NOW`: its hours, told from that one.
    fn hours(t_min: UnixMillis, t_max: UnixMillis) -> Vec<i64> {
        let at = UnixMillis::from_second(NOW);
        let head = Head { id: 1, server: ServerId(1), at, t_min, t_max };
        let found: Vec<i64> = head.hours().map(|t0| (t0 - NOW) / HOUR_S).collect();
        assert!(found.iter().all(|hour| head.overlaps(NOW + hour * HOUR_S)));
        assert!(!head.overlaps(NOW + (found[0] - 1) * HOUR_S));
        found
    }

    #[test]
    fn a_batch_is_sealed_with_the_hours_of_its_believable_times() {
        let s = |second: i64| UnixMillis::from_second(NOW + second);
        assert_eq!(hours(s(-10), s(-1)), [-1]);
        assert_eq!(hours(s(-10), s(0)), [-1, 0]);
        assert_eq!(hours(s(-2 * 3600), s(5 * MIN_S)), [-2, -1, 0]);
        assert_eq!(hours(UnixMillis(i64::MIN), UnixMillis(i64::MAX)).len(), 28 * 24 + 1);
        assert_eq!(hours(s(-28 * DAY_S), s(-28 * DAY_S)), [-28 * 24]);
        // Nothing to believe: the hour of its arrival.
        assert_eq!(hours(s(6 * MIN_S), s(9 * MIN_S)), [0]);
        assert_eq!(hours(s(-30 * DAY_S), s(-29 * DAY_S)), [0]);
        assert_eq!(hours(s(5), s(-5)), [0]);
        assert_eq!(hours(UnixMillis(i64::MAX), UnixMillis(i64::MAX)), [0]);
    }

    #[test]
    fn an_hour_is_due_when_it_is_over_and_late_batches_when_others_had_time_to_follow() {
        let due = |since: i64, is_late| {
            let since = UnixMillis::from_second(NOW + since);
            let waiting =
                Waiting { last: 1, since, is_late, parts: u32::from(is_late), servers: None };
            let after = (Duration::from_secs(300), Duration::from_secs(900));
            waiting.due(NOW, after, UnixMillis::from_second(NOW + 9000)).second() - NOW
        };
        assert_eq!(due(0, false), 3900);
        assert_eq!(due(3900, false), 3900);
        assert_eq!(due(3901, false), 3901 + 900);
        assert_eq!(due(10, true), 3900);
        assert_eq!(due(9000, true), 9900);
        assert_eq!(due(9001, true), 3900, "it came before the clock was set back");
    }

    #[test]
    fn a_set_of_hours_has_what_was_put_in() {
        let at = UnixMillis::from_second(NOW);
        let head = Head {
            id: 1,
            server: ServerId(1),
            at,
            t_min: UnixMillis(i64::MIN),
            t_max: UnixMillis(i64::MAX),
        };
        assert!(head.is_wide() && !Head { t_min: at, t_max: at, ..head }.is_wide());
        let all: Vec<i64> = head.hours().collect();
        let mut hours = HourSet::of(&head);
        for second in [all[0], all[64] + 3599, *all.last().unwrap(), all[0] - 1, i64::MAX] {
            hours.insert(second);
        }
        let found: Vec<i64> = all.iter().copied().filter(|t0| hours.has(*t0)).collect();
        assert_eq!(found, [all[0], all[64], all[all.len() - 1]]);
        assert!(!hours.has(all[0] - HOUR_S) && !hours.has(NOW + 99 * DAY_S));
    }

    #[test]
    fn batches_that_come_late_for_ever_make_few_parts() {
        let after = (Duration::from_secs(300), Duration::from_secs(900));
        let mut waiting = Waiting {
            last: 1,
            since: UnixMillis::from_second(NOW + 3900),
            is_late: true,
            parts: 1,
            servers: None,
        };
        let mut waits = Vec::new();
        // Until all of them are older than what can be believed.
        while waiting.since.second() < NOW + 28 * DAY_S {
            let due = waiting.due(NOW, after, UnixMillis(i64::MAX));
            waits.push((due.second() - waiting.since.second()) / MIN_S);
            (waiting.since, waiting.parts) = (due, waiting.parts + 1);
        }
        assert_eq!(waits[..8], [15, 30, 60, 120, 240, 480, 960, 1440]);
        assert!(waits[8..].iter().all(|wait| *wait == 1440));
        assert!(waits.len() < 36, "{} parts", waits.len());
        waiting.parts = u32::MAX;
        assert!(waiting.due(NOW, after, UnixMillis(i64::MAX)).0 > 0);
    }

    #[test]
    fn servers_agree_on_a_time_that_no_minority_moves() {
        let mut index = HotIndex::default();
        assert_eq!(index.agreed(), None);
        let mut say = |id, server, second: i64| {
            let t_max = UnixMillis(second.saturating_mul(1000));
            let at = UnixMillis::from_second(NOW);
            index.add(&Head { id, server: ServerId(server), at, t_min: t_max, t_max });
            index.agreed().map(UnixMillis::second)
        };
        assert_eq!(say(1, 1, NOW), Some(NOW));
        assert_eq!(say(2, 2, i64::MAX), Some(NOW), "of two the earlier");
        assert_eq!(say(3, 3, NOW - 60), Some(NOW));
        assert_eq!(say(4, 2, 0), Some(NOW - 60), "what was said last counts");
        assert_eq!(say(5, 2, NOW + 60), Some(NOW));
    }

    #[test]
    fn the_lists_follow_batches_seals_and_deletions() {
        let mut index = HotIndex::default();
        let head = |id, server, second| {
            let at = UnixMillis::from_second(NOW + second);
            Head { id, server: ServerId(server), at, t_min: at, t_max: at }
        };
        let all = [head(1, 1, 5), head(2, 2, 6), head(3, 1, 7)];
        for head in &all {
            index.add(head);
        }
        assert_eq!((index.ids(ServerId(1)), index.ids(ServerId(3))), (vec![1, 3], vec![]));
        assert_eq!(index.of_hour(NOW), [(ServerId(1), (1, 3)), (ServerId(2), (2, 2))]);
        assert_eq!(index.ids_between(ServerId(1), (2, 3)), [3]);
        index.sealed(NOW, (2, 1), UnixMillis::from_second(NOW + 4000));
        let since = UnixMillis::from_second(NOW + 4000);
        let servers = Some(vec![ServerId(1)]);
        let waiting = Waiting { last: 3, since, is_late: true, parts: 1, servers };
        assert_eq!(index.waiting(), [(NOW, waiting)]);
        assert_eq!(index.of_hour(NOW), [(ServerId(1), (3, 3))], "only what is not sealed");
        index.sealed(NOW, (3, 2), UnixMillis::from_second(NOW + 5000));
        assert!(!index.waits(NOW));
        index.deleted(&all[1..]);
        assert_eq!((index.servers(), index.ids(ServerId(1))), (vec![ServerId(1)], vec![1]));
    }
}
