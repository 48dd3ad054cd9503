//! The sequential test of one site: is it failing more than its past explains?
//!
//! A site's requests lie in buckets of one second of corrected event time. Counts and single
//! failures may come in any order and in parts; `step` applies what a bucket has gained since it
//! was last looked at, so the score is the same however a second was cut into batches.

mod bucket;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Settings;
use super::burn::Burn;
use super::past::{Past, Rates};
use super::scope::Pool;
use crate::model::{Baseline, Counts, Exemplar, ServerId, SiteId};

pub(crate) use bucket::Bucket;
pub use bucket::Totals;

/// Highest score of a site, nats.
pub const SCORE_MAX: f64 = 40.0;
/// A score that faded below this says nothing any more, nats.
const FADED_NATS: f64 = 0.1;
/// Highest normal failure rate at which a site still opens; above, it is chronic.
const P_CHRONIC: f64 = 0.25;
/// Seconds of buckets a site keeps behind its newest.
const BUCKETS_S: i64 = 60;
/// Seconds in which failures of one client count less and less.
const CLIENT_S: i64 = 120;
/// Failures that follow each other so closely, and no answer between, s: of a site so slow that they are
/// further apart, strays of one hour would add up.
const IN_A_ROW_S: i64 = 30;
/// What the first, second, ... failure of one client counts; later ones count nothing.
const CLIENT_WEIGHTS: [f64; 4] = [1.0, 0.4, 0.1, 0.1];
/// Clients remembered per site; more than so many need no memory to be many.
const CLIENTS_MAX: usize = 512;
/// Clients up to which none is forgotten.
const CLIENTS_KEPT: usize = 64;
/// Texts kept of each kind of error line.
const TEXT_BYTES_MAX: usize = 400;

/// One step of the sequential likelihood-ratio test with reset, nats (Wald 1945, Page 1954).
///
/// `n_failed` is de-duplicated by client and may be fractional; `elapsed` is event time since the
/// last step. The result lies within `0.0..=SCORE_MAX`.
#[must_use]
pub fn step(score: f64, rates: &Rates, n_failed: f64, n_ok: f64, elapsed: Duration) -> f64 {
    let faded = score * (-elapsed.as_secs_f64() / rates.memory_s).exp();
    (faded + n_failed * rates.gain() - n_ok * rates.loss()).clamp(0.0, SCORE_MAX)
}

/// Error lines of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lines {
    /// How many.
    pub n: u64,
    /// When the first came, corrected.
    pub at: i64,
    /// The first of them.
    pub text: String,
    /// Upstream address it names.
    pub upstream: Option<String>,
}

/// What error lines of an episode said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// By number of the signal.
    pub lines: BTreeMap<i32, Lines>,
    /// Failures for which a log was read that holds no line.
    pub n_silent: u64,
}

/// A run of failures: from the first one that raised the score until it is back at zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Episode {
    /// First failure, corrected.
    pub first_at: i64,
    /// Newest failure, corrected: start of its second.
    pub last_at: i64,
    /// Arrival of the first and of the newest failure.
    pub first_arrival: i64,
    /// Arrival of the newest failure.
    pub last_arrival: i64,
    /// De-duplicated failures.
    pub n_failed: f64,
    /// All requests since its first second.
    pub totals: Totals,
    /// When the site test held for the first time, on the collector's clock.
    pub verdict_at: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Client {
    n: u8,
    last: i64,
}

/// One site and all that the test remembers of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Its id.
    pub id: SiteId,
    /// The server it is on.
    pub server: ServerId,
    /// Primary name.
    pub name: String,
    /// What serves it on this server.
    pub pool: Option<String>,
    /// Upstream on another machine.
    pub upstream: Option<String>,
    /// Last upstream that its error lines named; stands in for an unknown pool.
    pub upstream_named: Option<String>,
    /// The past, outages excluded.
    pub past: Past,
    /// Of the past, as of the start of the episode.
    pub rates: Rates,
    score: f64,
    score_second: i64,
    buckets: VecDeque<Bucket>,
    clients: BTreeMap<u64, Client>,
    /// More clients than this are thinned out.
    clients_kept: usize,
    /// The failures going on.
    pub episode: Option<Episode>,
    /// What the error lines of the episode said.
    pub said: Said,
    /// Number of the open incident it is a member of.
    pub case: Option<u64>,
    /// Second of its newest request.
    pub last_request: i64,
    /// It failed on when its incident resolved: opens nothing of its own before this.
    pub hold_until: Option<i64>,
    /// What serves it: as configured, else as its error lines name it.
    pub(crate) place: Option<Pool>,
    arrival: i64,
    /// First second that `step` has not seen all of; `None`: nothing to do.
    dirty: Option<i64>,
    /// First second that the recovery of its incident has not seen all of.
    unhealed: i64,
    /// Failures of the last hours, while there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) burn: Option<Box<Burn>>,
}

impl Site {
    pub(crate) fn new(id: SiteId, server: ServerId, name: String, settings: &Settings) -> Self {
        Self {
            id,
            server,
            name,
            pool: None,
            upstream: None,
            upstream_named: None,
            past: Past::default(),
            rates: Rates::of(0, 0, 0.0, settings.p_bad_min),
            score: 0.0,
            score_second: i64::MIN,
            buckets: VecDeque::new(),
            clients: BTreeMap::new(),
            clients_kept: CLIENTS_KEPT,
            episode: None,
            said: Said::default(),
            case: None,
            last_request: 0,
            hold_until: None,
            place: None,
            arrival: 0,
            dirty: None,
            unhealed: i64::MIN,
            burn: None,
        }
    }

    /// Takes a past known from elsewhere; it counts before what this detector saw.
    pub(crate) fn set_baseline(&mut self, baseline: Baseline, settings: &Settings) {
        self.past.set_known(baseline);
        self.rates = self.past.rates(settings);
    }

    /// Takes the past that `past` was saved as.
    pub(crate) fn set_past(&mut self, past: Past, settings: &Settings) {
        self.past = past;
        self.rates = self.past.rates(settings);
    }

    /// Failing so often that its failures say nothing: listed, never opened.
    #[must_use]
    pub fn is_chronic(&self) -> bool {
        self.rates.p_normal >= P_CHRONIC
    }

    /// Adds counts of one second, corrected. True when `step` has something to do.
    pub(crate) fn fold_counts(&mut self, arrived: i64, second: i64, counts: &Counts) -> bool {
        self.last_request = self.last_request.max(second);
        let totals = Totals::from(counts);
        self.fold_burn(second, totals);
        match &mut self.episode {
            Some(episode) if second >= episode.first_at.div_euclid(1000) => {
                episode.totals.add(totals);
            }
            _ => self.past.add(second, totals.n, totals.failed()),
        }
        let failed = totals.failed() > 0;
        if failed {
            self.arrival = self.arrival.max(arrived);
        }
        let idle = !failed && self.score == 0.0 && self.case.is_none() && self.dirty.is_none();
        self.unhealed = self.unhealed.min(second);
        self.bucket(second).fold(counts);
        if idle {
            let newest = self.buckets.back().map_or(second, |bucket| bucket.second);
            while self.buckets.front().is_some_and(|b| b.second < newest - BUCKETS_S) {
                self.buckets.pop_front();
            }
            return false;
        }
        self.soil(second);
        true
    }

    /// Outside an incident, failures add up in the slow lane.
    fn fold_burn(&mut self, second: i64, totals: Totals) {
        if self.case.is_some() {
            return;
        }
        if totals.failed() > 0 {
            self.burn.get_or_insert_with(|| Box::new(Burn::new(second))).fold(second, totals);
        } else if let Some(burn) = &mut self.burn {
            burn.fold(second, totals);
            if burn.is_over(second) {
                self.burn = None;
            }
        }
    }

    /// Has `step` look at everything from this second on.
    pub(crate) fn soil(&mut self, second: i64) {
        self.dirty = Some(self.dirty.map_or(second, |dirty| dirty.min(second)));
    }

    /// Adds one failure with its client and error line, at a corrected instant.
    pub(crate) fn fold_exemplar(&mut self, arrived: i64, at: i64, exemplar: &Exemplar) {
        let second = at.div_euclid(1000);
        self.arrival = self.arrival.max(arrived);
        self.soil(second);
        let weight = (exemplar.client != 0).then(|| self.client_weight(exemplar.client, second));
        if self.case.is_none() {
            let burn = self.burn.get_or_insert_with(|| Box::new(Burn::new(second)));
            burn.fold_client(second, exemplar.client);
            burn.fold_line(at, exemplar.message.as_deref().unwrap_or_default());
        }
        let bucket = self.bucket(second).trouble_mut();
        bucket.first_at = Some(bucket.first_at.map_or(at, |first| first.min(at)));
        if let Some(weight) = weight {
            bucket.weight += weight;
            bucket.n_known += 1;
        }
        if exemplar.upstream.is_some() {
            self.upstream_named.clone_from(&exemplar.upstream);
        }
        match (exemplar.signal, exemplar.message.as_deref()) {
            (None, Some("")) => self.said.n_silent += 1,
            (None, None) => {}
            (signal, text) => {
                let signal = signal.unwrap_or(wire::v1::Signal::Other) as i32;
                let lines = self.said.lines.entry(signal).or_insert_with(|| Lines {
                    n: 0,
                    at,
                    text: clip(text.unwrap_or("")),
                    upstream: exemplar.upstream.clone(),
                });
                lines.n += 1;
                lines.at = lines.at.min(at);
            }
        }
    }

    fn client_weight(&mut self, client: u64, second: i64) -> f64 {
        if self.clients.len() >= CLIENTS_MAX && !self.clients.contains_key(&client) {
            return CLIENT_WEIGHTS[0];
        }
        let seen = self.clients.entry(client).or_insert(Client { n: 0, last: second });
        if second - seen.last > CLIENT_S {
            seen.n = 0;
        }
        let weight = CLIENT_WEIGHTS.get(usize::from(seen.n)).copied().unwrap_or(0.0);
        seen.n = seen.n.saturating_add(1);
        seen.last = seen.last.max(second);
        weight
    }

    /// Clients that the failures of the episode hit, as far as they are known.
    pub(crate) fn failed_clients(&self) -> impl Iterator<Item = u64> {
        let first = self.episode.as_ref().map_or(i64::MAX, |e| e.first_at.div_euclid(1000));
        let clients = self.clients.iter().filter(move |(_, client)| client.last >= first);
        clients.map(|(client, _)| *client)
    }

    /// Whether there are seconds of the episode of whose failures no client is known.
    pub(crate) fn has_unknown_clients(&self) -> bool {
        let first = self.episode.as_ref().map_or(i64::MAX, |e| e.first_at.div_euclid(1000));
        let newest_first = self.buckets.iter().rev().take_while(|b| b.second >= first);
        newest_first.into_iter().any(|bucket| bucket.trouble().n_known == 0 && bucket.failed() > 0)
    }

    fn bucket(&mut self, second: i64) -> &mut Bucket {
        let after = self.buckets.iter().rposition(|bucket| bucket.second <= second);
        let ix = match after {
            Some(ix) if self.buckets[ix].second == second => ix,
            Some(ix) => {
                self.buckets.insert(ix + 1, Bucket::new(second));
                ix + 1
            }
            None => {
                self.buckets.push_front(Bucket::new(second));
                0
            }
        };
        &mut self.buckets[ix]
    }

    /// Applies what the buckets gained since the last step. `excused` says of a second whether an
    /// announced restart is the reason of its failures: they count once it was in vain.
    pub(crate) fn step(&mut self, settings: &Settings, excused: &dyn Fn(i64) -> bool) {
        let Some(mut dirty) = self.dirty.take() else { return };
        let in_vain = self.restarted_in_vain(excused);
        dirty = dirty.min(in_vain.unwrap_or(dirty));
        for ix in self.buckets.partition_point(|bucket| bucket.second < dirty)..self.buckets.len() {
            let bucket = &self.buckets[ix];
            let (second, failed) = (bucket.second, bucket.failed() > 0);
            let counts = in_vain.is_some_and(|from| second >= from) || !excused(second);
            let weight = if counts { bucket.weight() } else { 0.0 };
            let all_ok = bucket.weighed_ok(self.rates.p_bad);
            let seen = bucket.trouble();
            let (gained, ok) = (weight - seen.weight_seen, all_ok - seen.ok_seen);
            if gained == 0.0 && ok == 0.0 && seen.failed_seen == failed {
                continue;
            }
            if gained > 0.0 && self.episode.is_none() {
                self.start_episode(ix, settings);
            }
            let elapsed = second.saturating_sub(self.score_second).clamp(0, 1 << 40);
            // Where nobody was answered since, nothing has recovered: failures in a row do not fade.
            let in_a_row = ok <= 0.0 && elapsed <= IN_A_ROW_S;
            let fades = self.score > 0.0 && !in_a_row;
            let elapsed = Duration::from_secs(if fades { elapsed as u64 } else { 0 });
            self.score = step(self.score, &self.rates, gained, ok, elapsed);
            self.score_second = self.score_second.max(second);
            let bucket = self.buckets[ix].trouble_mut();
            bucket.weight_seen = weight;
            bucket.ok_seen = all_ok;
            bucket.failed_seen = failed;
            if let Some(episode) = &mut self.episode {
                episode.n_failed = (episode.n_failed + gained).max(0.0);
                if gained > 0.0 {
                    episode.last_at = episode.last_at.max(second * 1000);
                    episode.last_arrival = self.arrival;
                    self.extend_back(ix);
                }
            }
            if self.score == 0.0 && self.case.is_none() {
                self.end_episode();
            }
        }
        self.forget();
    }

    /// The first second of an announced restart after which the site failed on without one answer:
    /// it did not recover, so its failures count like any.
    fn restarted_in_vain(&self, excused: &dyn Fn(i64) -> bool) -> Option<i64> {
        let (mut from, mut fails_on) = (None, false);
        let unanswered = self.buckets.iter().rev().take_while(|bucket| bucket.ok == 0);
        for second in unanswered.filter(|bucket| bucket.failed() > 0).map(|bucket| bucket.second) {
            let announced = excused(second);
            if announced && !fails_on {
                return None;
            }
            fails_on |= !announced;
            from = if announced { Some(second) } else { from };
        }
        from
    }

    fn start_episode(&mut self, ix: usize, settings: &Settings) {
        let mut totals = Totals::default();
        // What an incident that is over has counted was never in the past, and counts only there.
        for bucket in self.buckets.iter().skip(ix) {
            totals.add(Totals::from(bucket).minus(bucket.trouble().booked));
        }
        self.past.take_back(totals.n, totals.failed());
        self.rates = self.past.rates(settings);
        let bucket = &self.buckets[ix];
        let at = bucket.trouble().first_at.unwrap_or(bucket.second * 1000);
        self.episode = Some(Episode {
            first_at: at,
            last_at: bucket.second * 1000,
            first_arrival: self.arrival,
            last_arrival: self.arrival,
            n_failed: 0.0,
            totals,
            verdict_at: None,
        });
    }

    /// A failure came late, from before the episode's first: the episode starts with it.
    fn extend_back(&mut self, ix: usize) {
        let Some(episode) = &mut self.episode else { return };
        let bucket = &self.buckets[ix];
        let at = bucket.trouble().first_at.unwrap_or(bucket.second * 1000);
        if at >= episode.first_at {
            return;
        }
        let start = episode.first_at.div_euclid(1000);
        episode.first_at = at;
        for earlier in self.buckets.iter().skip(ix).filter(|b| b.second < start) {
            let totals = Totals::from(earlier).minus(earlier.trouble().booked);
            episode.totals.add(totals);
            self.past.take_back(totals.n, totals.failed());
        }
    }

    /// The failures were noise: they belong to the past after all.
    fn end_episode(&mut self) {
        let Some(episode) = self.episode.take() else { return };
        let totals = episode.totals;
        self.past.add(self.score_second, totals.n, totals.failed());
        self.said = Said::default();
        self.hold_until = None;
    }

    /// Ends an episode of which nothing is left at this second, and of which nothing arrived for as
    /// long before `now`: where nobody asks, no answer ends it. Old data was just as sure then.
    pub(crate) fn fade(&mut self, second: i64, now: i64) {
        let Some(episode) = &self.episode else { return };
        let age_ms = second.saturating_mul(1000).saturating_sub(episode.last_at);
        let age_s = age_ms.min(now.saturating_sub(episode.last_arrival)) as f64 / 1000.0;
        let fades = self.case.is_none() && self.dirty.is_none() && age_s > self.rates.memory_s;
        if fades && self.score(second) < FADED_NATS {
            self.score = 0.0;
            self.end_episode();
        }
    }

    /// The incident is over: its time is no part of the past, and what failed is forgotten, unless
    /// the site fails on.
    pub(crate) fn leave_case(&mut self, still_failing: bool) {
        self.case = None;
        match &mut self.episode {
            Some(episode) if still_failing => {
                episode.totals = Totals::default();
                episode.first_at = (self.last_request + 1) * 1000;
                episode.verdict_at = None;
            }
            _ => {
                self.score = 0.0;
                if let Some(episode) = self.episode.take() {
                    self.past.spoil(episode.first_at.div_euclid(1000), self.last_request);
                }
                self.said = Said::default();
            }
        }
    }

    /// What is remembered since `from` (corrected seconds) stays with the incident that counted it.
    pub(crate) fn book(&mut self, from: i64) {
        for bucket in self.buckets.iter_mut().filter(|bucket| bucket.second >= from) {
            bucket.book();
        }
    }

    /// Drops old buckets and clients.
    fn forget(&mut self) {
        let Some(newest) = self.buckets.back().map(|bucket| bucket.second) else { return };
        while self.buckets.front().is_some_and(|bucket| bucket.second < newest - BUCKETS_S) {
            self.buckets.pop_front();
        }
        // Now and then, so that a crowd of clients costs no walk over all of them each time.
        if self.clients.len() > self.clients_kept {
            self.clients.retain(|_, client| newest - client.last <= CLIENT_S);
            self.clients_kept = (2 * self.clients.len()).max(CLIENTS_KEPT);
        }
    }

    /// The score at a later second, nats.
    #[must_use]
    pub fn score(&self, second: i64) -> f64 {
        if self.score == 0.0 {
            return 0.0;
        }
        let elapsed = second.saturating_sub(self.score_second).max(0) as f64;
        self.score * (-elapsed / self.rates.memory_s).exp()
    }

    /// Buckets of the last minute, oldest first.
    pub(crate) fn buckets(&self) -> impl DoubleEndedIterator<Item = &Bucket> {
        self.buckets.iter()
    }

    /// Gives what the closed seconds `start..closed` gained since the last call: second,
    /// successes, failures.
    pub(crate) fn heal(&mut self, start: i64, closed: i64, take: &mut dyn FnMut(i64, u32, u32)) {
        let from = self.unhealed.max(start);
        let first = self.buckets.partition_point(|bucket| bucket.second < from);
        for bucket in self.buckets.iter_mut().skip(first).take_while(|b| b.second < closed) {
            let (ok, failed) = bucket.heal();
            take(bucket.second, ok, failed);
        }
        self.unhealed = closed;
    }

    /// Lets a new incident see everything since its start again.
    pub(crate) fn unheal(&mut self) {
        self.unhealed = i64::MIN;
    }

    /// The score as of the last step, nats.
    #[must_use]
    pub fn score_then(&self) -> f64 {
        self.score
    }

    /// Successes in the seconds `from..until`.
    #[must_use]
    pub fn ok_between(&self, from: i64, until: i64) -> u64 {
        let newest_first = self.buckets.iter().rev().skip_while(|b| b.second >= until);
        newest_first.take_while(|b| b.second >= from).map(|b| u64::from(b.ok)).sum()
    }

    /// Instant of the newest failure, corrected; `None` outside an episode.
    #[must_use]
    pub fn last_failed(&self) -> Option<i64> {
        self.episode.as_ref().map(|episode| episode.last_at)
    }

    /// Everything counted since `from`, corrected seconds, as far back as is remembered and as no
    /// earlier incident has counted it.
    #[must_use]
    pub fn totals_since(&self, from: i64) -> Totals {
        let mut totals = self.episode.as_ref().map_or(Totals::default(), |e| e.totals);
        let start =
            self.episode.as_ref().map_or(i64::MAX, |episode| episode.first_at.div_euclid(1000));
        for bucket in self.buckets.iter().filter(|b| b.second >= from && b.second < start) {
            totals.add(Totals::from(bucket).minus(bucket.trouble().booked));
        }
        totals
    }
}

fn clip(text: &str) -> String {
    let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(|&end| text.is_char_boundary(end));
    text[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DetectConfig;

    fn settings() -> Settings {
        Settings::from(&DetectConfig::default())
    }

    fn site() -> Site {
        let mut site = Site::new(SiteId(1), ServerId(1), "a.example".into(), &settings());
        let baseline = Baseline { days: 28.0, n_requests: 2_000_000, n_gateway_errors: 0 };
        site.set_baseline(baseline, &settings());
        site
    }

    fn failure(client: u64) -> Exemplar {
        Exemplar {
            site: SiteId(1),
            at: wire::UnixMillis(0),
            status: 502,
            pool: None,
            client,
            path: 0,
            upstream: None,
            message: Some(String::new()),
            signal: None,
        }
    }

    /// Plays words "second client" (client 0: no exemplar, "ok": a success) and gives the score.
    fn score(script: &str) -> f64 {
        let mut site = site();
        for word in script.split(';') {
            let (second, who) = word.trim().split_once(' ').unwrap();
            let second: i64 = second.parse().unwrap();
            let failed = u32::from(who != "ok");
            if let Some(client) = who.parse().ok().filter(|client| *client > 0) {
                site.fold_exemplar(second * 1000, second * 1000, &failure(client));
            }
            let counts = Counts { n: 1, n_502: failed, ..Counts::default() };
            site.fold_counts(second * 1000, second, &counts);
            site.step(&settings(), &|_| false);
        }
        site.score
    }

    #[test]
    fn a_failure_in_the_second_in_which_its_incident_resolved_is_not_counted_twice() {
        let (mut site, settings) = (site(), settings());
        let failures = |n: u32| Counts { n, n_502: n, ..Counts::default() };
        site.fold_counts(10_000, 10, &failures(1));
        site.step(&settings, &|_| false);
        site.case = Some(1);
        site.book(10);
        site.leave_case(false);
        site.fold_counts(10_800, 10, &failures(1));
        site.step(&settings, &|_| false);
        assert_eq!(site.episode.as_ref().map(|episode| episode.totals.failed()), Some(1));
    }

    #[test]
    fn scores_follow_clients_and_successes() {
        for (script, want) in [
            ("1 7", 6.9),
            ("1 7; 1 8; 1 9", 20.7),
            ("1 7; 1 7; 1 7; 1 7; 1 7; 1 7", 1.6 * 6.9),
            ("1 0; 1 0; 1 0; 1 0", 2.0 * 6.9),
            ("1 7; 200 7", 6.9 * ((-199.0_f64 / 60.0).exp() + 1.0)),
            ("1 7; 1 ok", 6.9 - 0.36),
            ("1 ok; 1 ok; 1 ok", 0.0),
            ("1 7; 31 8", 2.0 * 6.9),
            ("1 7; 61 8", 6.9 * ((-1.0_f64).exp() + 1.0)),
            ("1 7; 61 ok", 6.9 * (-1.0_f64).exp() - 0.36),
            ("1 7; 31 ok; 61 8", 6.9 * ((-0.5_f64).exp() + 1.0) - 0.36),
        ] {
            let got = score(script);
            assert!((got - want).abs() < 0.03, "{script}: {got}, not {want}");
        }
    }

    #[test]
    fn a_client_that_fails_again_counts_less_until_two_minutes_without() {
        let n_failed = |seconds: &[i64]| {
            let mut site = site();
            for second in seconds {
                site.fold_exemplar(0, second * 1000, &failure(7));
                site.fold_counts(0, *second, &Counts { n: 1, n_502: 1, ..Counts::default() });
                site.step(&settings(), &|_| false);
            }
            site.episode.map_or(0.0, |episode| episode.n_failed)
        };
        for (seconds, want) in [
            (&[1][..], 1.0),
            (&[1, 2], 1.4),
            (&[1, 2, 3], 1.5),
            (&[1, 2, 3, 4], 1.6),
            (&[1, 2, 3, 4, 5, 6, 7], 1.6),
            (&[1, 121], 1.4),
            (&[1, 122], 2.0),
        ] {
            let got = n_failed(seconds);
            assert!((got - want).abs() < 1e-9, "{seconds:?}: {got}, not {want}");
        }
    }

    #[test]
    fn failures_of_dropped_clients_count_two_a_second() {
        let mut site = site();
        for second in 1..=2 {
            (0..50).for_each(|_| site.fold_exemplar(0, second * 1000, &failure(0)));
            site.fold_counts(0, second, &Counts { n: 50, n_502: 50, ..Counts::default() });
        }
        site.step(&settings(), &|_| false);
        let per_failure = score("1 7");
        assert!((site.score - 4.0 * per_failure).abs() < 0.5, "{} of {per_failure}", site.score);
        assert!(site.clients.is_empty(), "nobody is no client");
    }

    #[test]
    fn however_a_second_is_cut_into_batches_the_score_is_the_same() {
        let whole = Counts { n: 10, n_502: 4, ..Counts::default() };
        let part = |n, n_502| Counts { n, n_502, ..Counts::default() };
        let play = |counts: &[Counts], exemplars_first: bool| {
            let mut site = site();
            let exemplars = |site: &mut Site| {
                (1..=4).for_each(|client| site.fold_exemplar(0, 5000, &failure(client)));
            };
            if exemplars_first {
                exemplars(&mut site);
            }
            for counts in counts {
                site.fold_counts(0, 5, counts);
            }
            if !exemplars_first {
                exemplars(&mut site);
            }
            site.step(&settings(), &|_| false);
            (site.score, site.episode.map(|episode| (episode.totals, episode.first_at)))
        };
        let want = play(&[whole], true);
        assert_eq!(want.1.map(|(totals, _)| totals.n_502), Some(4));
        assert_eq!(play(&[whole], false), want);
        assert_eq!(play(&[part(5, 2), part(3, 0), part(2, 2)], true), want);
    }

    #[test]
    fn noise_goes_back_into_the_past_and_outages_do_not() {
        let mut site = site();
        site.fold_exemplar(0, 5000, &failure(1));
        site.fold_counts(0, 5, &Counts { n: 1, n_502: 1, ..Counts::default() });
        site.step(&settings(), &|_| false);
        assert!(site.episode.is_some());
        site.fold_counts(0, 6, &Counts { n: 100, ..Counts::default() });
        site.step(&settings(), &|_| false);
        assert!(site.episode.is_none() && site.score == 0.0);
        let noisy = site.past.clone();
        for second in 10..20 {
            site.fold_exemplar(0, second * 1000, &failure(second as u64));
            site.fold_counts(0, second, &Counts { n: 1, n_502: 1, ..Counts::default() });
            site.step(&settings(), &|_| false);
        }
        site.case = Some(1);
        site.leave_case(false);
        assert_eq!(site.past.rates(&settings()).p_normal, noisy.rates(&settings()).p_normal);
    }
}
