//! Staged starts: servers that begin to fail one after the other, as in a rollout.
//!
//! The plain score of a group asks for most of its servers, and for a minute a rollout has hit only
//! some. Here only servers count whose own tests held a short time ago: stray failures never get
//! that far. Those that are well cost little at first and the full price after a minute. Servers that
//! had the same change are a group of their own, where no label names them.

use std::collections::BTreeMap;

use super::candidates::{Candidate, Candidates, SERVERS_MIN};
use super::change::Cohort;
use super::group::{Rules, SAYS_NOTHING};
use super::scope::{Group, child_factor};

/// P(server fails by itself within the time of a rollout).
const EPS: f64 = 3e-4;
/// What a staged start pays for being one, nats; the same change before it is worth as much.
const STAGED_NATS: f64 = -2.0;
const CHANGE_NATS: f64 = 2.0;
/// Time after which a well member of a rollout costs all it can, seconds.
const ROLLOUT_S: f64 = 60.0;
/// What a well member costs that had the change long enough ago, nats.
const SPARED_NATS: f64 = -1.88;
/// A change this much older than the longest way from change to verdict was long enough ago, ms.
const LAG_SLACK_MS: i64 = 5_000;
/// A change this close after a verdict counts as before it, ms.
const SLACK_MS: i64 = 2_000;

/// Servers that had the same change before some of them began to fail.
#[derive(Clone, Debug)]
pub(crate) struct Rollout {
    /// They as a group.
    pub(crate) candidate: Candidate,
    /// When each was changed, by position.
    changed: BTreeMap<u32, i64>,
    /// Longest time from a change to the verdict that followed, ms.
    lag_ms: i64,
}

/// Servers that begin to fail.
#[derive(Clone, Debug, Default)]
pub(crate) struct Staging {
    now: i64,
    phi: f64,
    /// First verdict of each forming server, by position.
    forming: BTreeMap<u32, i64>,
    rollouts: Vec<Rollout>,
}

impl Staging {
    /// `forming`: servers that began to fail in the last minute, by position, with their first
    /// verdict. Nothing with fewer than three.
    pub(crate) fn new(
        candidates: &Candidates,
        forming: BTreeMap<u32, i64>,
        cohorts: impl FnOnce() -> Vec<Cohort>,
        rules: &Rules,
        now: i64,
    ) -> Self {
        let phi = rules.phi;
        if forming.len() < SERVERS_MIN {
            return Self { now, phi, ..Self::default() };
        }
        let rollout = |cohort: Cohort| rollout(candidates, &forming, cohort);
        let rollouts = cohorts().into_iter().filter_map(rollout).collect();
        Self { now, phi, forming, rollouts }
    }

    pub(crate) fn rollouts(&self) -> &[Rollout] {
        &self.rollouts
    }

    /// These servers are explained.
    pub(crate) fn put_aside(&mut self, members: &[u32]) {
        for place in members {
            self.forming.remove(place);
        }
    }

    /// The best score of a set of at most half of all servers as a staged start, nats; `None` when
    /// fewer than three of them are forming.
    pub(crate) fn score(
        &self,
        candidate: &Candidate,
        evidence: &[f64],
        rules: &Rules,
    ) -> Option<f64> {
        if self.forming.is_empty() || candidate.members.len() * 2 > evidence.len() {
            return None;
        }
        let forming = |place: &&u32| self.forming.contains_key(place);
        let forming: Vec<u32> = candidate.members.iter().filter(forming).copied().collect();
        let staged = self.sum(&forming, candidate, evidence, rules, None);
        let rolled = self.rollouts.iter().filter_map(|rollout| {
            let followed = |place: &&u32| rollout.came_before(**place, self.forming[*place]);
            let followed: Vec<u32> = forming.iter().filter(followed).copied().collect();
            self.sum(&followed, candidate, evidence, rules, Some(rollout))
        });
        staged.into_iter().chain(rolled).max_by(f64::total_cmp)
    }

    /// The score over these forming members of a set.
    fn sum(
        &self,
        forming: &[u32],
        candidate: &Candidate,
        evidence: &[f64],
        rules: &Rules,
        rollout: Option<&Rollout>,
    ) -> Option<f64> {
        let first = forming.iter().filter_map(|place| self.forming.get(place)).min()?;
        if forming.len() < rules.n_failing_min {
            return None;
        }
        let since_s = (self.now - first).max(0) as f64 / 1000.0 + 1.0;
        let spared = (1.0 - self.phi * (since_s / ROLLOUT_S).min(1.0)).ln();
        let factor = |place: &u32| child_factor(evidence[*place as usize], self.phi, EPS);
        let mut score = candidate.prior + STAGED_NATS + forming.iter().map(factor).sum::<f64>();
        score += rollout.map_or(0.0, |_| CHANGE_NATS);
        for place in &candidate.members {
            if evidence[*place as usize] < -SAYS_NOTHING {
                let changed = rollout.and_then(|rollout| rollout.changed.get(place));
                score += match (changed, rollout) {
                    (Some(at), Some(rollout)) => {
                        let due = self.now - at > rollout.lag_ms + LAG_SLACK_MS;
                        if due { SPARED_NATS } else { 0.0 }
                    }
                    _ => spared,
                };
            }
        }
        Some(score)
    }
}

impl Rollout {
    fn came_before(&self, place: u32, verdict_at: i64) -> bool {
        self.changed.get(&place).is_some_and(|at| *at <= verdict_at + SLACK_MS)
    }
}

/// The cohort by positions, when enough of it began to fail after the change.
fn rollout(
    candidates: &Candidates,
    forming: &BTreeMap<u32, i64>,
    cohort: Cohort,
) -> Option<Rollout> {
    let place = |(id, at): (&crate::model::ServerId, &i64)| Some((candidates.place(*id)?, *at));
    let changed: BTreeMap<u32, i64> = cohort.servers.iter().filter_map(place).collect();
    let members: Vec<u32> = changed.keys().copied().collect();
    let ids = members.iter().map(|place| candidates.servers()[*place as usize]).collect();
    let group = Group::Cohort(cohort.key, ids);
    let candidate = Candidate { group, members, prior: candidates.prior() };
    let mut rollout = Rollout { candidate, changed, lag_ms: 0 };
    let followed = forming.iter().filter(|(place, at)| rollout.came_before(**place, **at));
    let lags: Vec<i64> = followed.map(|(place, at)| at - rollout.changed[place]).collect();
    rollout.lag_ms = lags.iter().copied().max()?.max(0);
    (lags.len() >= SERVERS_MIN).then_some(rollout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::Fleet;
    use crate::detect::server::Server;
    use crate::model::ServerId;

    const NOW: i64 = 1_000_000;

    /// 20 servers; the first ten share a label. Server n stands at position n.
    fn candidates() -> Candidates {
        let mut fleet = Fleet::default();
        for ix in 0..20 {
            let mut server = Server::new(ServerId(ix));
            let value = if ix < 10 { "eu" } else { "us" };
            server.labels.insert("region".to_owned(), value.to_owned());
            fleet.servers.insert(server.id, server);
        }
        Candidates::of(&fleet, &["region".to_owned()])
    }

    /// Score of region eu: `forming` servers since so many seconds, the other members are well, so
    /// many servers of it were changed so long ago.
    fn score(
        forming: std::ops::Range<u32>,
        since_s: i64,
        changed: Option<(u32, i64)>,
    ) -> Option<f64> {
        let candidates = candidates();
        let evidence =
            candidates.evidence(|id| if forming.contains(&(id.0 as u32)) { 12.0 } else { -4.0 });
        let first = NOW - since_s * 1000;
        let cohort = changed.map(|(n, age_s)| Cohort {
            key: "package php".to_owned(),
            kind: "package".to_owned(),
            what: "php".to_owned(),
            servers: (0..n).map(|n| (ServerId(n.into()), NOW - age_s * 1000)).collect(),
        });
        let rules = Rules::default();
        let forming = forming.map(|place| (place, first)).collect();
        let cohorts = || cohort.into_iter().collect();
        let staging = Staging::new(&candidates, forming, cohorts, &rules, NOW);
        let eu = &candidates.list()[0];
        staging.score(eu, &evidence, &rules)
    }

    #[test]
    fn a_staged_start_needs_three_servers_and_pays_more_for_well_ones_as_time_goes_by() {
        let g = child_factor(12.0, 0.85, EPS);
        let close = |got: Option<f64>, want: f64| {
            let got = got.expect("three are forming");
            assert!((got - want).abs() < 0.01, "{got}, not {want}");
        };
        assert_eq!(score(0..2, 10, None), None);
        let two_values = -(2_f64.ln());
        let x = |s: f64| (1.0 - 0.85 * ((s + 1.0) / 60.0).min(1.0)).ln();
        close(score(0..3, 5, None), two_values - 2.0 + 3.0 * g + 7.0 * x(5.0));
        close(score(0..3, 30, None), two_values - 2.0 + 3.0 * g + 7.0 * x(30.0));
        close(score(0..3, 300, None), two_values - 2.0 + 3.0 * g + 7.0 * x(59.0));
    }

    #[test]
    fn the_same_change_before_it_supports_a_start_until_changed_servers_stay_well() {
        let plain = score(0..3, 20, None).expect("three are forming");
        // Changed 25 s ago, verdict 20 s ago: a lag of 5 s; after 10 s the others should fail too.
        let spared = score(0..3, 20, Some((10, 25))).expect("three are forming");
        let g = child_factor(12.0, 0.85, EPS);
        let want = 3.0 * g - 2_f64.ln() + 7.0 * SPARED_NATS;
        assert!((spared - plain.max(want)).abs() < 0.01, "{spared}, {plain}, {want}");
        let young = score(0..3, 1, Some((10, 6))).expect("three are forming");
        assert!((young - (3.0 * g - 2_f64.ln())).abs() < 0.01, "{young}");
        let late = score(0..3, 20, Some((10, 10))).expect("three are forming");
        assert!((late - plain).abs() < 0.01, "a change after the verdict explains nothing: {late}");
    }

    #[test]
    fn a_set_of_more_than_half_of_all_servers_has_no_staged_start() {
        let candidates = candidates();
        let rules = Rules::default();
        let forming = (0..3).map(|place| (place, NOW)).collect();
        let staging = Staging::new(&candidates, forming, Vec::new, &rules, NOW);
        let all = candidates.list().last().expect("all servers are a candidate");
        let evidence = candidates.evidence(|id| if id.0 < 3 { 12.0 } else { 0.0 });
        assert_eq!(staging.score(all, &evidence, &rules), None);
        assert!(staging.score(&candidates.list()[0], &evidence, &rules).is_some());
    }
}
