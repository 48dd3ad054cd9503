//! Puts a bundle together from the store, within fixed bounds.

use std::collections::BTreeMap;
use std::time::Duration;

use wire::UnixMillis;

use super::{Bundle, Curve, Fact, HealthEvent, Point, ServerEvidence, Silence};
use crate::model::{Incident, Record, ServerId, silent_after_ms};
use crate::store::evidence::{self, Onset};
use crate::store::history::{History, Samples};
use crate::store::{ReadResult, collector, fleet, presence};

/// Time before the first sign and after the end that is looked at, and the most in all.
const BEFORE: Duration = Duration::from_secs(600);
const AFTER: Duration = Duration::from_secs(300);
const SPAN_MAX: Duration = Duration::from_secs(6 * 3600);
/// Batches may arrive so much later than what they tell.
const LATE: Duration = Duration::from_secs(900);
/// Metrics whose curves are shown.
const STEAL: &str = "system.cpu.steal";
const RETRANSMIT: &str = "system.network.tcp.retransmit";
/// Bounds of a bundle: servers, what they sent, points and facts of a server.
const SERVERS_MAX: usize = 200;
const PIECES_MAX: usize = 500_000;
const POINTS_MAX: usize = 240;
const FACTS_MAX: usize = 50;
const SILENCES_MAX: usize = 50;
/// Heartbeat of a server that did not say, ms.
const HEARTBEAT_DEFAULT_MS: i64 = 5_000;
/// Gaps between batches from before the first sign that tell how often they usually come.
const USUAL_GAPS_MIN: usize = 4;

/// What is gathered of one server.
#[derive(Default)]
struct Gathered {
    offset_ms: i64,
    heartbeat_ms: i64,
    steal: Vec<Point>,
    retransmit: Vec<Point>,
    arrivals: Vec<i64>,
    facts: Vec<Fact>,
    n_left_out: usize,
}

/// What the reading of batches reached.
#[derive(Clone, Copy, Debug)]
struct Reach {
    /// Last instant looked at.
    to: UnixMillis,
    /// Arrival up to which every batch was read.
    until: UnixMillis,
    /// Nothing has arrived since then.
    is_now: bool,
}

/// The bundle of `incident`; when the time is over, of what was read until then.
pub(super) fn bundle(
    history: &History<'_>,
    incident: Incident,
    now: UnixMillis,
) -> ReadResult<Bundle> {
    let conn = history.conn();
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
        let heartbeat_ms = HEARTBEAT_DEFAULT_MS;
        gathered.insert(onset.server, Gathered { offset_ms, heartbeat_ms, ..Gathered::default() });
    }
    for standing in presence::standings(conn)? {
        let told = standing.heartbeat_ms.and_then(|ms| i64::try_from(ms).ok());
        if let (Some(server), Some(ms)) = (gathered.get_mut(&standing.server), told) {
            server.heartbeat_ms = ms;
        }
    }
    let servers = gathered.iter().map(|(server, of)| (*server, of.offset_ms)).collect();
    let until = to.plus(LATE).min(now);
    let (span, samples) = ((from, until), Samples::Of(&[STEAL, RETRANSMIT]));
    let no = &|| false;
    let cut = evidence::arrived(history, &servers, span, samples, PIECES_MAX, no, &mut |piece| {
        if let Some(server) = gathered.get_mut(&piece.server) {
            server.arrivals.push(piece.at.0);
            for record in piece.records(&mut |_| None) {
                server.take(&record, from, to);
            }
        }
        true
    })?;
    let reach = Reach { to, until: cut.unwrap_or(until), is_now: cut.is_none() && until >= now };
    let left_out = gathered.values().any(|server| server.n_left_out > 0);
    let events = collector::events(conn, from, to)?;
    let servers = (1..).zip(&shown).map(|(order, onset)| {
        let server = gathered.remove(&onset.server).unwrap_or_default();
        server.close(order, onset, views.get(&onset.name), reach)
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
        truncated: cut.is_some()
            || history.has_holes()
            || left_out
            || n_servers > SERVERS_MAX
            || to < end,
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
                        STEAL => self.steal.push(Point { at, value: *value }),
                        RETRANSMIT => {
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
        reach: Reach,
    ) -> ServerEvidence {
        self.facts.sort_by_key(|fact| fact.at);
        self.arrivals.sort_unstable();
        let silences = silences(&self.arrivals, self.heartbeat_ms, onset.since, reach);
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

/// Times without a word, by the rule that opens incidents of silence. Batches are looked at, which may
/// come less often than heartbeats: a gap up to twice the usual one before `onset` is none.
fn silences(arrivals: &[i64], heartbeat_ms: i64, onset: UnixMillis, reach: Reach) -> Vec<Silence> {
    let gaps = arrivals.windows(2).filter(|pair| pair[1] < onset.0).map(|pair| pair[1] - pair[0]);
    let mut gaps: Vec<i64> = gaps.collect();
    gaps.sort_unstable();
    let usual = if gaps.len() < USUAL_GAPS_MIN { 0 } else { gaps[gaps.len() / 2] };
    let least = silent_after_ms(heartbeat_ms).max(2 * usual);
    let mut found: Vec<Silence> = arrivals
        .windows(2)
        .filter(|pair| pair[1] - pair[0] > least)
        .take(SILENCES_MAX)
        .map(|pair| Silence { from: UnixMillis(pair[0]), to: Some(UnixMillis(pair[1])) })
        .collect();
    let end = reach.until.min(reach.to);
    if let Some(last) = arrivals.last().filter(|last| end.0 - **last > least) {
        // What was not read may hold its next word.
        let to = (!reach.is_now).then_some(reach.until);
        found.push(Silence { from: UnixMillis(*last), to });
    }
    found
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

    const ONSET: UnixMillis = UnixMillis(600_000);

    fn told(arrivals: &[i64], heartbeat_ms: i64, reach: Reach) -> Vec<(i64, Option<i64>)> {
        let at: Vec<i64> = arrivals.iter().map(|s| s * 1000).collect();
        let found = silences(&at, heartbeat_ms, ONSET, reach);
        found.iter().map(|s| (s.from.0 / 1000, s.to.map(|to| to.0 / 1000))).collect()
    }

    fn read_to(until_s: i64, is_now: bool) -> Reach {
        Reach { to: UnixMillis(900_000), until: UnixMillis(until_s * 1000), is_now }
    }

    #[test]
    fn a_reading_that_was_cut_off_calls_no_healthy_server_silent() {
        let healthy: Vec<i64> = (0..31).map(|n| n * 10).collect();
        assert_eq!(told(&healthy, 5000, read_to(305, false)), [], "read up to 305 s of 900 s");
        let silent = &healthy[..=20];
        let bounded = [(200, Some(305))];
        assert_eq!(told(silent, 5000, read_to(305, false)), bounded, "to where it was read");
        assert_eq!(told(silent, 5000, read_to(900, true)), [(200, None)], "to this day");
        let later = Reach { to: UnixMillis(900_000), until: UnixMillis(1_800_000), is_now: false };
        assert_eq!(told(silent, 5000, later), [(200, Some(1800))], "nobody looked further");
    }

    #[test]
    fn a_silence_that_opens_an_incident_is_shown_and_the_usual_gap_of_batches_is_none() {
        let with_gap = |step: i64, gap: i64| -> Vec<i64> {
            let before = (0..).map(|n| n * step).take_while(|at| *at < 600);
            before.chain([590 + gap, 890]).collect()
        };
        let after = |arrivals: &[i64]| told(arrivals, 5000, read_to(900, true));
        assert_eq!(after(&with_gap(10, 25))[0], (590, Some(615)), "25 s are over 4 heartbeats");
        assert_eq!(after(&with_gap(10, 18))[0].0, 608, "18 s are not");
        let slow: Vec<i64> = (0..16).map(|n| n * 60).collect();
        assert_eq!(after(&slow), [], "a batch a minute is what it always sent");
        assert_eq!(told(&[880, 889], 1000, read_to(900, true)), [(880, Some(889)), (889, None)]);
        assert_eq!(told(&[870, 895], 5000, read_to(900, true)), [(870, Some(895))], "unknown pace");
    }
}
