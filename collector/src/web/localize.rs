//! `GET /api/v1/localize`: what the failing requests of a time have in common, from stored batches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::AppState;
use super::error::{ApiError, Params, time};
use crate::clock;
use crate::ingest::convert;
use crate::localize::stored::{By, Owner, Stored, Window, usual_dimensions};
use crate::localize::{Common, Found, localize};
use crate::store::{Conn, ReadResult, fleet, read};

/// Time in question when none is given.
const SPAN: Duration = Duration::from_secs(15 * 60);
/// Shortest past to compare with: a rate of rare failures needs some traffic.
const BEFORE_MIN: Duration = Duration::from_secs(3600);
/// Longest time in question.
const SPAN_MAX: Duration = Duration::from_secs(7 * 86_400);

/// `GET /api/v1/localize?...`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalizeQuery {
    /// First second in question, RFC 3339; default: 15 minutes before `to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// First second that no longer is, RFC 3339; default: now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Dimensions with commas between: `server`, `site`, `pool`, `signal`, `path`, or keys of
    /// labels; default: labels that tell servers apart, server, site and pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalizeView {
    /// Begin of the time compared with, which ends at `from`: as long as the time in question, an
    /// hour at least.
    #[serde(with = "wire::rfc3339")]
    pub before_from: UnixMillis,
    /// First second in question.
    #[serde(with = "wire::rfc3339")]
    pub from: UnixMillis,
    /// First second that no longer is.
    #[serde(with = "wire::rfc3339")]
    pub to: UnixMillis,
    /// Dimensions.
    pub by: Vec<String>,
    /// Requests in question.
    pub n: u64,
    /// Gateway errors among them.
    pub n_failed: u64,
    /// Batches that could not be read; their counts are missing here.
    pub n_batches_unreadable: u64,
    /// Everything was searched; else `found` is the best of what was when the search was cut off.
    #[serde(default = "yes")]
    pub complete: bool,
    /// What they have in common, best first.
    pub found: Vec<Common>,
}

/// What a collector that did not say so yet did.
fn yes() -> bool {
    true
}

/// Cost: reads the stored batches of all servers of both times, within the limit of any read, and
/// searches within a bound of its own; one question at a time.
pub(super) async fn show(
    State(state): State<AppState>,
    Params(query): Params<LocalizeQuery>,
) -> Result<Json<LocalizeView>, ApiError> {
    let to = time("to", query.to.as_deref())?.unwrap_or_else(clock::now);
    let from = time("from", query.from.as_deref())?.unwrap_or_else(|| to.minus(SPAN));
    let span = to.since(from);
    if from >= to || span > SPAN_MAX {
        let error =
            format!("{} to {} is no time of up to 7 days", from.to_rfc3339(), to.to_rfc3339());
        return Err(ApiError::bad(error, "let `from` be before `to`, and not by more than 7 days"));
    }
    let place = Arc::clone(&state.localizing).try_acquire_owned().map_err(|_| {
        let error = "the collector localizes for somebody else";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, error, "ask again in a minute")
    })?;
    let before_from = from.minus(span.max(BEFORE_MIN));
    // The seconds they lie in.
    let window = Window {
        before_s: before_from.second(),
        from_s: from.second(),
        to_s: to.second().saturating_add(i64::from(query.to.is_none())),
    };
    let by = query.by;
    // The place goes along: who asks may leave before the work ends.
    let read = state.store.read(move |conn| Ok((gather(conn, by, window)?, place))).await?;
    let refused = |error: String| {
        let fix = "name server, site, pool, signal, path or keys of labels, each once, at most 8";
        ApiError::bad(format!("by: {error}"), fix)
    };
    let (gathered, place) = read;
    let Gathered { by, stored, n_unreadable } = gathered.map_err(refused)?;
    let (n, n_failed) = stored.totals();
    let found = tokio::task::spawn_blocking(move || {
        let found = stored.table().map(|table| localize(&table));
        drop(place);
        found
    });
    let found = found.await.map_err(|_| {
        let fix = "look into the collector's log, and report it";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the search broke off", fix)
    })?;
    let Found { common, complete } = found.map_err(|refusal| refused(refusal.to_string()))?;
    let by = by.iter().map(|by| by.name().to_owned()).collect();
    let n_batches_unreadable = n_unreadable;
    let found = common;
    Ok(Json(LocalizeView {
        before_from,
        from,
        to,
        by,
        n,
        n_failed,
        n_batches_unreadable,
        complete,
        found,
    }))
}

/// Stored counts of both times.
struct Gathered {
    by: Vec<By>,
    stored: Stored,
    n_unreadable: u64,
}

/// Adds up what is stored; `Err` inside: why it cannot be told by these dimensions.
fn gather(conn: &Conn, by: Option<String>, window: Window) -> ReadResult<Result<Gathered, String>> {
    let owner = |view: fleet::ServerView| {
        let clock_offset_ms = view.clock_offset_ms.unwrap_or(0);
        let owner = Owner { name: view.server.clone(), labels: view.labels, clock_offset_ms };
        (view.server, owner)
    };
    let owners: BTreeMap<String, Owner> =
        fleet::list(conn, clock::now())?.into_iter().map(owner).collect();
    let by = match by {
        Some(names) => names.split(',').map(|name| By::named(name.trim())).collect(),
        None => usual_dimensions(owners.values()),
    };
    if let Some(unknown) = unknown_label(&by, &owners) {
        return Ok(Err(format!("no server has a label {unknown:?}")));
    }
    let mut stored = match Stored::new(by.clone(), window) {
        Ok(stored) => stored,
        Err(refusal) => return Ok(Err(refusal.to_string())),
    };
    let mut n_unreadable = 0;
    let span = (UnixMillis::from_second(window.before_s), UnixMillis::from_second(window.to_s));
    let clock_off_ms = owners.values().map(|owner| owner.clock_offset_ms.unsigned_abs()).max();
    read::hot_between(conn, span, clock_off_ms.unwrap_or(0), &mut |hot| {
        // Batches of a server that was forgotten belong to nobody.
        let Some(owner) = owners.get(hot.server) else { return };
        let second = |at: UnixMillis| at.second().saturating_sub(owner.ahead_s());
        // One clock that is far off lets many batches of the others through: not worth unpacking.
        if second(hot.events.1) < window.before_s - 1 || second(hot.events.0) > window.to_s {
            return;
        }
        match convert::unpack(hot.codec, hot.body) {
            Ok(body) => stored.add(owner, &body),
            Err(_) => n_unreadable += 1,
        }
    })?;
    Ok(Ok(Gathered { by, stored, n_unreadable }))
}

fn unknown_label(by: &[By], owners: &BTreeMap<String, Owner>) -> Option<String> {
    by.iter().find_map(|by| match by {
        By::Label(label) if !owners.values().any(|owner| owner.labels.contains_key(label)) => {
            Some(label.clone())
        }
        _ => None,
    })
}
