//! Puts a bundle together from the store, within fixed bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wire::UnixMillis;

use super::{Bundle, Curve, Fact, HealthEvent, Point, ServerEvidence, Silence};
use crate::ingest::convert;
use crate::model::{Incident, Record, ServerId};
use crate::store::evidence::{self, Onset};
use crate::store::{Conn, ReadResult, collector, fleet};

/// Time before the first sign and after the end that is looked at, and the most in all.
const BEFORE: Duration = Duration::from_secs(600);
const AFTER: Duration = Duration::from_secs(300);
const SPAN_MAX: Duration = Duration::from_secs(6 * 3600);
/// Batches may arrive so much later than what they tell.
const LATE: Duration = Duration::from_secs(900);
/// Bounds of a bundle: servers, batches passed, bytes of bodies, points and facts of a server.
const SERVERS_MAX: usize = 200;
const ROWS_MAX: usize = 300_000;
const BYTES_MAX: usize = 64 << 20;
const POINTS_MAX: usize = 240;
const FACTS_MAX: usize = 50;
const SILENCES_MAX: usize = 50;
/// Nothing from a server for so long is shown, ms: batches come every 10 s, under load every minute.
const SILENCE_MS: i64 = 90_000;

/// What is gathered of one server.
#[derive(Default)]
struct Gathered {
    offset_ms: i64,
    steal: Vec<Point>,
    retransmit: Vec<Point>,
    arrivals: Vec<i64>,
    facts: Vec<Fact>,
    n_left_out: usize,
}

pub(super) fn bundle(conn: &Conn, incident: Incident, now: UnixMillis) -> ReadResult<Bundle> {
    let mut ids = vec![incident.id.clone()];
    ids.extend(incident.children.iter().cloned());
    let onsets = evidence::onsets(conn, &ids)?;
    let first = onsets.first().map_or(incident.started_at, |o| o.since.min(incident.started_at));
    let from = first.minus(BEFORE);
    let end = incident.resolved_at.unwrap_or(now).plus(AFTER).min(now);
    let to = end.min(from.plus(SPAN_MAX));
    let n_servers = onsets.len();
    let shown: Vec<Onset> = onsets.into_iter().take(SERVERS_MAX).collect();
    let views: BTreeMap<String, fleet::ServerView> =
        fleet::list(conn, now)?.into_iter().map(|view| (view.server.clone(), view)).collect();
    let mut gathered: BTreeMap<ServerId, Gathered> = BTreeMap::new();
    for onset in &shown {
        let view = views.get(&onset.name);
        let offset_ms = view.and_then(|view| view.clock_offset_ms).unwrap_or(0);
        gathered.insert(onset.server, Gathered { offset_ms, ..Gathered::default() });
    }
    let servers: BTreeSet<ServerId> = gathered.keys().copied().collect();
    let mut n_bytes = 0;
    let until = to.plus(LATE).min(now);
    let whole = evidence::arrived(conn, &servers, (from, until), ROWS_MAX, &mut |row| {
        n_bytes += row.body.len();
        if let Some(server) = gathered.get_mut(&row.server) {
            server.arrivals.push(row.at.0);
            for record in convert::records(&row, &mut |_| None).records {
                server.take(&record, from, to);
            }
        }
        n_bytes < BYTES_MAX
    })?;
    let left_out = gathered.values().any(|server| server.n_left_out > 0);
    let events = collector::events(conn, from, to)?;
    let servers = (1..).zip(&shown).map(|(order, onset)| {
        let server = gathered.remove(&onset.server).unwrap_or_default();
        server.close(order, onset, views.get(&onset.name), to)
    });
    Ok(Bundle {
        made_at: now,
        from,
        to,
        clock: "UTC, the collector's clock; each server's own times are moved by clock_offset_ms"
            .to_owned(),
        n_servers,
        servers: servers.collect(),
        collector: events.into_iter().map(|(at, event)| HealthEvent { at, event }).collect(),
        truncated: !whole || left_out || n_servers > SERVERS_MAX || to < end,
        incident,
    })
}

impl Gathered {
    /// An instant of the server's clock on the collector's.
    fn corrected(&self, at: UnixMillis) -> UnixMillis {
        UnixMillis(at.0.saturating_sub(self.offset_ms))
    }

    fn take(&mut self, record: &Record, from: UnixMillis, to: UnixMillis) {
        let (at, kind, text) = match record {
            Record::Sample { at, values, .. } => {
                let at = self.corrected(*at);
                if at < from || at > to {
                    return;
                }
                for (metric, _, value) in values {
                    match *metric {
                        "system.cpu.steal" => self.steal.push(Point { at, value: *value }),
                        "system.network.tcp.retransmit" => {
                            self.retransmit.push(Point { at, value: *value });
                        }
                        _ => {}
                    }
                }
                return;
            }
            Record::Service { at, unit, state, reason, .. } => {
                let why = reason.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
                (*at, "service", format!("{unit} {state}{why}"))
            }
            Record::Log { at, source, message, .. } => (*at, "log", format!("{source}: {message}")),
            Record::Change { at, kind, what, .. } => (*at, "change", format!("{kind}: {what}")),
            _ => return,
        };
        let at = self.corrected(at);
        if at < from || at > to {
            return;
        }
        if self.facts.len() < FACTS_MAX {
            self.facts.push(Fact { at, kind: kind.to_owned(), text });
        } else {
            self.n_left_out += 1;
        }
    }

    fn close(
        mut self,
        order: usize,
        onset: &Onset,
        view: Option<&fleet::ServerView>,
        to: UnixMillis,
    ) -> ServerEvidence {
        self.facts.sort_by_key(|fact| fact.at);
        let mut silences = Vec::new();
        for pair in self.arrivals.windows(2) {
            if pair[1] - pair[0] >= SILENCE_MS && silences.len() < SILENCES_MAX {
                silences.push(Silence { from: UnixMillis(pair[0]), to: Some(UnixMillis(pair[1])) });
            }
        }
        if let Some(last) = self.arrivals.last().filter(|last| to.0 - **last >= SILENCE_MS) {
            silences.push(Silence { from: UnixMillis(*last), to: None });
        }
        ServerEvidence {
            server: onset.name.clone(),
            order,
            labels: view.map_or_else(BTreeMap::new, |view| view.labels.clone()),
            onset_at: onset.since,
            well_at: onset.until,
            clock_offset_ms: view.and_then(|view| view.clock_offset_ms),
            steal: curve(self.steal),
            retransmit: curve(self.retransmit),
            silences,
            facts: self.facts,
        }
    }
}

/// Sums values up; the highest of each step stands for it when there are too many.
fn curve(mut points: Vec<Point>) -> Option<Curve> {
    points.sort_by_key(|point| point.at);
    let n = points.len();
    let values = || points.iter().map(|point| point.value);
    let (min, max) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    let mean = values().sum::<f64>() / n as f64;
    let highest = |step: &[Point]| step.iter().copied().max_by(|a, b| a.value.total_cmp(&b.value));
    let points = points.chunks(n.div_ceil(POINTS_MAX)).filter_map(highest).collect();
    Some(Curve { min, mean, max, points })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_is_thinned_to_its_highest_values_and_keeps_its_ends_and_mean() {
        let point =
            |n: i64| Point { at: UnixMillis(n * 1000), value: if n == 777 { 0.9 } else { 0.1 } };
        let thinned = curve((0..2000).rev().map(point).collect()).unwrap();
        assert!(thinned.points.len() <= POINTS_MAX);
        assert_eq!((thinned.min, thinned.max), (0.1, 0.9));
        assert!((thinned.mean - 0.1004).abs() < 1e-9, "{}", thinned.mean);
        assert!(thinned.points.iter().any(|p| p.value > 0.89 && p.at == UnixMillis(777_000)));
        assert!(thinned.points.is_sorted_by_key(|p| p.at));
        assert_eq!(curve(Vec::new()), None);
    }

    #[test]
    fn facts_are_moved_by_the_clock_and_bounded() {
        let mut server = Gathered { offset_ms: 60_000, ..Gathered::default() };
        let (from, to) = (UnixMillis(0), UnixMillis(100_000));
        for n in 0..100 {
            let (at, source, message) = (UnixMillis(70_000 + n), "kernel".into(), "x".into());
            let log =
                Record::Log { server: ServerId(1), at, source, message, signal: None, pool: None };
            server.take(&log, from, to);
        }
        assert_eq!((server.facts.len(), server.n_left_out), (FACTS_MAX, 50));
        assert_eq!(server.facts[0].at, UnixMillis(10_000));
    }
}
