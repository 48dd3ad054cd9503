//! `HEAD /` of chosen sites at their own server, as `curl -I -H 'Host: shop.example'
//! http://127.0.0.1` does it. Off unless `[probes] loopback_head` names sites.
//!
//! The access log shows these requests as one client's, 127.0.0.1 with the agent `gatewatch-probe`.
//! They count, and each of their failures as another client's: a site that nobody else visits is an
//! incident after a few of them. But a gateway error that only they saw hurries nobody.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use glob::Pattern;

use super::connect::Subject;
use super::dial::{Failure, Target, ask, exchange};
use super::names::is_host_name;
use super::tls::Handshaker;
use super::{Budget, Prober, Round, STEP_LATE, http};
use crate::clock;
use crate::config::ProbesConfig;
use crate::discover::{Discovery, Site};
use crate::timer::{patience, within};

/// Longest wait for an answer.
const TIMEOUT: Duration = patience(Duration::from_secs(5));
/// Sites asked in one round.
const ROUND_MAX: usize = 20;
/// Only the status is wanted; headers behind it may be long.
const BYTES_MAX: usize = 4096;

/// Which sites are asked, and when each was.
#[derive(Debug)]
pub(super) struct Heads {
    patterns: Vec<Pattern>,
    interval: Duration,
    asked_at: BTreeMap<String, Instant>,
}

impl Heads {
    pub(super) fn new(config: &ProbesConfig) -> Self {
        let patterns = config.loopback_head.iter().filter_map(|text| Pattern::new(text).ok());
        let interval = config.loopback_interval.0;
        Self { patterns: patterns.collect(), interval, asked_at: BTreeMap::new() }
    }

    fn is_due(&self, name: &str, now: Instant) -> bool {
        is_host_name(name)
            && self.patterns.iter().any(|pattern| pattern.matches(name))
            && self.asked_at.get(name).is_none_or(|at| {
                // A round that comes a little early is not put off to the next one.
                now.saturating_duration_since(*at) + Duration::from_millis(500) >= self.interval
            })
    }
}

impl Prober {
    /// Asks the sites that are due.
    pub(super) async fn ask_heads(&mut self, discovery: &Discovery, round: &mut Round) {
        if self.heads.patterns.is_empty() {
            return;
        }
        let budget = Budget::of(STEP_LATE);
        let due = discovery.sites.iter().filter(|site| self.heads.is_due(&site.name, round.now));
        for site in due.take(ROUND_MAX).collect::<Vec<_>>() {
            if budget.is_spent() {
                break;
            }
            self.heads.asked_at.insert(site.name.clone(), round.now);
            self.ask_head(site, round).await;
        }
        let is_known = |name: &str| discovery.sites.iter().any(|site| site.name == name);
        self.heads.asked_at.retain(|name, _| is_known(name));
    }

    async fn ask_head(&mut self, site: &Site, round: &mut Round) {
        let Some(listen) = site.listen.first() else { return };
        let Some(request) = http::request("HEAD", "/", &site.name) else { return };
        let target = Target::Tcp(vec![listen.address]);
        let started = clock::instant();
        let answer = if listen.is_tls {
            secure(&self.handshaker, &target, &site.name, &request).await
        } else {
            ask(&target, &request, TIMEOUT, BYTES_MAX, http::has_status).await
        };
        let took = started.elapsed();
        let status = answer.and_then(|answer| {
            let odd = || Failure::new(wire::v1::Signal::Other, "an answer that is no HTTP");
            http::status(&answer).ok_or_else(odd)
        });
        // A failure of our own says nothing of the site.
        if status.as_ref().err().is_none_or(|failure| failure.signal.is_some()) {
            let attribute = format!("site={}", site.name);
            round.push("http.server.probe.duration", attribute.clone(), took.as_secs_f64());
            // 0: no answer at all.
            let code = status.as_ref().map_or(0.0, |status| f64::from(*status));
            round.push("http.server.probe.status", attribute, code);
        }
        let subject = Subject {
            address: format!("site {}", site.name),
            title: format!("{} at {}", site.name, listen.address),
            used_by: String::new(),
            pool: site.pool.clone(),
        };
        let verdict = self.ledger.fold(&subject, &status.map(drop), round.now);
        if let Some(note) = verdict.note {
            tracing::info!(what = note, "not probed: its metrics are absent");
        }
        if let Some(line) = verdict.line {
            self.tell(line);
        }
    }
}

async fn secure(
    handshaker: &Handshaker,
    target: &Target,
    name: &str,
    request: &[u8],
) -> Result<Vec<u8>, Failure> {
    let (mut stream, _) = handshaker.connect(target, name).await?;
    within(TIMEOUT, exchange(&mut stream, request, BYTES_MAX, http::has_status))
        .await
        .unwrap_or_else(|| Err(Failure::no_answer(TIMEOUT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_sites_are_asked_and_not_more_often_than_said() {
        let mut config = ProbesConfig::default();
        let start = clock::instant();
        assert!(!Heads::new(&config).is_due("shop.example", start), "off unless asked for");
        config.loopback_head = vec!["shop.example".into(), "*.agency.example".into()];
        let mut heads = Heads::new(&config);
        for (name, want) in [
            ("shop.example", true),
            ("a.agency.example", true),
            ("agency.example", false),
            ("other.example", false),
            ("*.agency.example", false), // a wildcard of the configuration, no host
        ] {
            assert_eq!(heads.is_due(name, start), want, "{name}");
        }
        heads.asked_at.insert("shop.example".into(), start);
        assert!(!heads.is_due("shop.example", start + Duration::from_secs(50)));
        assert!(heads.is_due("shop.example", start + Duration::from_secs(60)));
    }
}
