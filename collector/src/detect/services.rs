//! Services that stop together: units between visitors and pages that fail on several servers within
//! a minute. Pure.

use std::collections::BTreeMap;

use super::Fleet;
use super::hosts::{LACKS, SHOWS};
use super::server::{Server, Unit};
use crate::model::ServerId;

/// What fails within this fails together, ms.
const TOGETHER_MS: i64 = 60_000;
/// Clocks are right to this, ms.
const AHEAD_MS: i64 = 2_000;

/// The unit of a server that failed first and is down still, with its name: stopped on purpose is
/// not failed.
#[must_use]
pub fn failed_unit(server: &Server) -> Option<(&str, &Unit)> {
    let failed = |name: &str, unit: &Unit| {
        unit.down_at.is_some()
            && (unit.state == "failed" || unit.state == "activating")
            && unit.is_gateway(name)
    };
    let down = server.units.iter().filter(|(name, unit)| failed(name, unit));
    down.min_by_key(|(_, unit)| unit.down_at).map(|(name, unit)| (name.as_str(), unit))
}

/// Those that failed within a minute of the newest failure, `down` being all that failed and since
/// when. A failure of the time to come says that a clock is wrong, and nothing of the others.
#[must_use]
pub fn together(down: &BTreeMap<ServerId, i64>, now: i64) -> BTreeMap<ServerId, i64> {
    let so_far = || down.iter().filter(|(_, at)| **at <= now.saturating_add(AHEAD_MS));
    let newest = so_far().map(|(_, at)| *at).max().unwrap_or(0);
    let near = so_far().filter(|(_, at)| newest - **at <= TOGETHER_MS);
    near.map(|(id, at)| (*id, *at)).collect()
}

/// Evidence of every server whose units are known: +8 one failed just now, -6 all well. One that
/// failed long before says nothing.
#[must_use]
pub fn evidence(
    fleet: &Fleet,
    down: &BTreeMap<ServerId, i64>,
    together: &BTreeMap<ServerId, i64>,
) -> BTreeMap<ServerId, f64> {
    let mut evidence = BTreeMap::new();
    for (id, server) in fleet.servers.iter().filter(|(_, server)| !server.forgotten) {
        if together.contains_key(id) {
            evidence.insert(*id, SHOWS);
        } else if !down.contains_key(id) && server.units.iter().any(|(n, unit)| unit.is_gateway(n))
        {
            evidence.insert(*id, LACKS);
        }
    }
    evidence
}
