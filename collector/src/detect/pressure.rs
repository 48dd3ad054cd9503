//! Pressure: servers whose processors the hypervisor takes away. Pure.

use std::collections::BTreeMap;

use super::Fleet;
use super::hosts::{LACKS, SHOWS};
use super::server::{Level, Server};
use crate::model::ServerId;

/// Steal must hold for so long, and be gone for so long, ms of the servers' own time.
const LASTS_MS: i64 = 60_000;
/// A sample older than this says nothing of now, ms.
const FRESH_MS: i64 = 60_000;
/// Without a sample for so long nothing is known any more, ms.
const GONE_MS: i64 = 300_000;

/// Since when steal has been high on a server for a minute; `None` when it is not.
#[must_use]
pub fn squeezed_since(server: &Server) -> Option<i64> {
    let span = server.levels.get(&Level::Steal)?;
    let (began, held) = (span.began?, span.held?);
    let ended = span.sampled - held >= LASTS_MS;
    (held - began >= LASTS_MS && !ended).then_some(began)
}

/// Whether steal was sampled not long ago, on the collector's clock, and has been low for a minute.
#[must_use]
pub fn is_calm(server: &Server, now: i64) -> bool {
    server.levels.get(&Level::Steal).is_some_and(|span| {
        let low = span.held.is_none_or(|held| span.sampled - held >= LASTS_MS);
        low && now - span.sampled <= FRESH_MS
    })
}

/// Whether its steal was sampled lately enough to be told of: a server that is gone is squeezed no
/// more.
#[must_use]
pub fn is_told(server: &Server, now: i64) -> bool {
    server.levels.get(&Level::Steal).is_some_and(|span| now - span.sampled <= GONE_MS)
}

/// When steal was last seen high, ms of the servers' own time: it is known to be gone a minute later.
#[must_use]
pub fn last_high(server: &Server) -> Option<i64> {
    server.levels.get(&Level::Steal).and_then(|span| span.held)
}

/// Highest steal of the last time it was high, 0..1.
#[must_use]
pub fn steal_max(server: &Server) -> f64 {
    server.levels.get(&Level::Steal).map_or(0.0, |span| span.value)
}

/// Evidence of every server whose steal is known: +8 squeezed, -6 not.
#[must_use]
pub fn evidence(
    fleet: &Fleet,
    squeezed: &BTreeMap<ServerId, i64>,
    now: i64,
) -> BTreeMap<ServerId, f64> {
    let mut evidence = BTreeMap::new();
    for (id, server) in fleet.servers.iter().filter(|(_, server)| !server.forgotten) {
        if squeezed.contains_key(id) {
            evidence.insert(*id, SHOWS);
        } else if is_calm(server, now) {
            evidence.insert(*id, LACKS);
        }
    }
    evidence
}
