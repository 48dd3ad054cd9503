//! Who is there: the sign of life, the metadata and the labels that agents send.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, Result, Transaction, params};
use serde::{Deserialize as _, Deserializer};
use serde_json::json;
use wire::UnixMillis;

use super::fleet::{self, LabelSource};
use super::happened::{self, Word};
use crate::model::ServerId;

/// A sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When, on the collector's clock.
    pub at: UnixMillis,
    /// Its clock minus ours: the delay of the fastest message of 5 min is taken for none.
    pub clock_offset_ms: i64,
    /// Bytes of batches the agent has not got acked.
    pub spool_bytes: u64,
    /// Sites it knows.
    pub n_sites: u32,
}

/// What an agent says when it connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// When, on the collector's clock.
    pub at: UnixMillis,
    /// Release of the agent.
    pub version: String,
    /// Protocol version in use.
    pub protocol: u32,
    /// Logical processors; 0 unknown.
    pub n_cpu: u32,
    /// Sites it knows.
    pub n_sites: u32,
    /// Interval of its heartbeats.
    pub heartbeat_ms: u32,
    /// Its clock minus ours.
    pub clock_offset_ms: i64,
    /// Labels of its config.
    pub labels: BTreeMap<String, String>,
    /// Labels it found out by itself.
    pub detected: BTreeMap<String, String>,
}

/// Where a server stands, as filed last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its id.
    pub server: ServerId,
    /// `up`, `silent`, `goodbye` or `revoked`.
    pub state: String,
    /// When it was heard last; 0 never.
    pub last_seen: UnixMillis,
    /// Interval of its heartbeats.
    pub heartbeat_ms: Option<u64>,
}

/// Where every server stands, by id.
pub fn standings(conn: &Connection) -> Result<Vec<Standing>> {
    let mut query = conn.prepare_cached(
        "SELECT server_id, state, last_seen, meta ->> '$.heartbeat_ms' FROM server ORDER BY server_id",
    )?;
    let rows = query.query_map([], |row| {
        Ok(Standing {
            server: ServerId(row.get(0)?),
            state: row.get(1)?,
            last_seen: UnixMillis(row.get(2)?),
            heartbeat_ms: row.get::<_, Option<i64>>(3)?.and_then(|ms| u64::try_from(ms).ok()),
        })
    })?;
    rows.collect()
}

/// Serial numbers of the revoked certificates.
pub(super) fn revoked(conn: &Connection) -> Result<BTreeSet<Vec<u8>>> {
    let mut query =
        conn.prepare_cached("SELECT serial FROM certificate WHERE revoked_at IS NOT NULL")?;
    query.query_map([], |row| row.get(0))?.collect()
}

/// A server's clock minus ours as far as it is believed, ms: nothing is kept that is dated further away.
#[must_use]
pub fn clamp_clock_off(ms: i64) -> i64 {
    const OFF_MAX_MS: i64 = 28 * 86_400_000;
    ms.clamp(-OFF_MAX_MS, OFF_MAX_MS)
}

/// The same of what is filed: releases before this one filed whatever an agent said.
pub(super) fn clock_off<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<i64>, D::Error> {
    Ok(Option::<i64>::deserialize(from)?.map(clamp_clock_off))
}

/// Files an agent as up, with what it said of itself; its own labels replace its earlier ones.
pub fn arrived(tx: &Transaction<'_>, server: ServerId, arrival: &Arrival) -> Result<()> {
    let meta = json!({
        "version": arrival.version,
        "protocol": arrival.protocol,
        "n_cpu": arrival.n_cpu,
        "n_sites": arrival.n_sites,
        "heartbeat_ms": arrival.heartbeat_ms,
        "clock_offset_ms": clamp_clock_off(arrival.clock_offset_ms),
    });
    if patch(tx, server, "up", arrival.at, &meta)? {
        fleet::set_labels(tx, server, LabelSource::Detected, &arrival.detected)?;
        fleet::set_labels(tx, server, LabelSource::Config, &arrival.labels)?;
        happened::note(tx, server, arrival.at, Word::Hello)?;
    }
    Ok(())
}

/// The later one of what is filed and `?2`, unless the clock was set back since.
const LAST_SEEN: &str = "IIF(last_seen > ?2 + 60000, ?2, MAX(last_seen, ?2))";

/// Files a sign of life. It may come to the disk after the end of its stream: what is newer stays.
pub(super) fn seen(conn: &Connection, server: ServerId, seen: &Seen) -> Result<()> {
    let meta = json!({
        "clock_offset_ms": clamp_clock_off(seen.clock_offset_ms),
        "spool_bytes": seen.spool_bytes,
        "n_sites": seen.n_sites,
    });
    conn.prepare_cached(&format!(
        "UPDATE server SET last_seen = {LAST_SEEN}, meta = json_patch(COALESCE(meta, '{{}}'), ?3),
         state = IIF(state = 'revoked' OR last_seen BETWEEN ?2 AND ?2 + 60000, state, 'up')
         WHERE server_id = ?1"
    ))?
    .execute(params![server.0, seen.at.0, meta.to_string()])
    .map(drop)
}

/// Files that the agent stopped on purpose (`goodbye`) or that its stream broke (`silent`).
pub fn left(conn: &Connection, server: ServerId, at: UnixMillis, on_purpose: bool) -> Result<()> {
    let state = if on_purpose { "goodbye" } else { "silent" };
    if patch(conn, server, state, at, &json!({}))? && on_purpose {
        happened::note(conn, server, at, Word::Goodbye)?;
    }
    Ok(())
}

/// False when the server is not there any more. A revoked server stays revoked.
fn patch(
    conn: &Connection,
    server: ServerId,
    state: &str,
    at: UnixMillis,
    meta: &serde_json::Value,
) -> Result<bool> {
    let n = conn
        .prepare_cached(&format!(
        "UPDATE server SET last_seen = {LAST_SEEN}, meta = json_patch(COALESCE(meta, '{{}}'), ?3),
         state = IIF(state = 'revoked', state, ?4) WHERE server_id = ?1"
    ))?
        .execute(params![server.0, at.0, meta.to_string(), state])?;
    Ok(n == 1)
}
